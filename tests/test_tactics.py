"""Tactics of the Triton kernels: they decide about speed, never about a bit of a result."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from triton_problems import DEVICE, MARKS, PROBLEMS

from spex_core.backend import why_not

if (reason := why_not("triton")) is not None:
    pytest.skip(f"triton: {reason}", allow_module_level=True)

from spex_core.triton_kernels import tactics

pytestmark = MARKS


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
