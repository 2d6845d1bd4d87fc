"""Tactics of the Triton kernels: they decide about speed, never about a bit of a result."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import Tensor

from spex_core import ops
from spex_core.backend import why_not

if (reason := why_not("triton")) is not None:
    pytest.skip(f"triton: {reason}", allow_module_level=True)

from spex_core.triton_kernels import tactics

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def words(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator).to(DEVICE)


def uniform_masks() -> Tensor:
    return ops.uniform_masks(300, 700, seed=1, device=DEVICE, backend="triton")


def affine_masks() -> Tensor:
    return ops.affine_masks(words(11, 5), words(2, 5, seed=1), backend="triton")


def fwht() -> Tensor:
    x = torch.randn(70, 1 << 7, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    return ops.fwht(x, backend="triton")


def parity_bits() -> Tensor:
    return ops.parity_bits(words(1200, 3), words(40, 3, seed=1) & 0x1110, backend="triton")


def parity_predict() -> Tensor:
    coefs = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    given = words(600, 1), words(40, 1, seed=1) & 0x11, coefs.to(DEVICE)
    return ops.parity_predict(*given, backend="triton")


def parity_adjoint() -> Tensor:
    values = torch.randn(3000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    given = words(3000, 1), words(5, 1, seed=1) & 0x11, values.to(DEVICE)
    return ops.parity_adjoint(*given, backend="triton")


def parity_gram() -> Tensor:
    return ops.parity_gram(words(70, 9), 9 * 64, backend="triton")


def histogram() -> Tensor:
    values = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    call = {"trees": 1, "backend": "triton"}
    return ops.boost(words(300, 1), values.to(DEVICE), 64, **call).staged


PROBLEMS = [uniform_masks, affine_masks, fwht, histogram]
PROBLEMS += [parity_bits, parity_predict, parity_adjoint, parity_gram]


def module_of(problem) -> object:
    problem()
    return sys.modules[f"spex_core.triton_kernels.{problem.__name__}"]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.__name__)
def test_no_bit_depends_on_the_tactic(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(problem)
    names = [name for name in vars(module) if name.endswith("TACTICS")]
    want = problem()
    for name in names:
        for tactic in getattr(module, name)[1:]:
            with monkeypatch.context() as patch:
                patch.setattr(module, name, [tactic])
                assert torch.equal(problem(), want), tactic
    assert any(len(getattr(module, name)) > 1 for name in names), "there is a choice"


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Tuning is on, with an empty cache and made-up times; returns the tactics that were tried."""
    monkeypatch.setenv("SPEX_TUNE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tactics, "_known", {})
    tried = []

    def milliseconds(call) -> float:
        tried.append(call())
        return 1.0 / len(tried)  # the last is the fastest

    monkeypatch.setattr(tactics, "milliseconds", milliseconds)
    return tried


CHOICES = [{"BLOCK": 1}, {"BLOCK": 2}, {"BLOCK": 4}]


def launched(size: tuple[int, ...]) -> list[int]:
    """The BLOCK of each call of the kernel."""
    calls = []

    def run(tactic: dict) -> int:
        calls.append(tactic["BLOCK"])
        return tactic["BLOCK"]

    tactics.launch("kernel", CHOICES, size, run, torch.zeros(1, device=DEVICE))
    return calls


def test_the_first_tactic_is_taken_unless_tuning_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEX_TUNE", raising=False)
    assert launched((100,)) == [1]


def test_tuning_tries_all_once_for_each_size_and_keeps_the_fastest(tuned) -> None:
    assert launched((100,)) == [1, 2, 4, 4]
    assert launched((128,)) == [4], "100 rounds up to 128"
    assert launched((129,)) == [1, 2, 4, 4]
    assert tuned == [1, 2, 4, 1, 2, 4]


def test_what_was_measured_is_read_by_the_next_process(tuned, monkeypatch) -> None:
    launched((100,))
    assert list(json.loads(tactics.cache_file().read_text()).values()) == [2]
    monkeypatch.setattr(tactics, "_known", {})
    assert launched((100,)) == [4]


def test_another_list_of_tactics_is_measured_again(tuned, monkeypatch) -> None:
    launched((100,))
    monkeypatch.setattr(sys.modules[__name__], "CHOICES", CHOICES[:2])
    assert launched((100,)) == [1, 2, 2]
