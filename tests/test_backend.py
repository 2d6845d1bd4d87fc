"""Which backends exist, why others do not, and what "auto" picks."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import spex_core
from spex_core import backend, ops, ops_decode, ops_gp, ops_inference, ops_trees
from spex_core.backend import BACKENDS, OPS, pick, table, why_not
from spex_core.errors import BackendUnavailable, SpexError

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    """Availability is remembered: forget it around tests that change it."""
    why_not.cache_clear()
    yield
    why_not.cache_clear()


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """only("cpu"): that backend and `reference` are available, the others are not."""

    def install(*names: str) -> None:
        there = ("reference", *names)
        monkeypatch.setattr(
            backend, "why_not", lambda name: None if name in there else f"no {name} here"
        )
        monkeypatch.setattr(backend, "emulated", lambda: False)
        monkeypatch.setitem(OPS, "fwht", BACKENDS)

    return install


def test_every_public_op_is_listed() -> None:
    made_here = {
        name
        for module in (ops, ops_decode, ops_gp, ops_trees, ops_inference)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }
    assert "fwht" in made_here
    assert made_here == OPS.keys()


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_reference(op: str) -> None:
    assert set(OPS[op]) <= set(BACKENDS)
    assert pick(op, "reference", CPU) == "reference"


@pytest.mark.parametrize(
    ("there", "device", "picked"),
    [
        ((), CPU, "reference"),
        (("cpu",), CPU, "cpu"),
        (("cpu", "triton", "cuda"), CPU, "cpu"),
        ((), CUDA, "reference"),
        (("cpu",), CUDA, "reference"),
        (("cpu", "triton"), CUDA, "triton"),
        (("cpu", "triton", "cuda"), CUDA, "cuda"),
    ],
)
def test_auto_follows_the_device(only, there, device, picked) -> None:
    only(*there)
    assert pick("fwht", "auto", device) == picked


def test_the_cpu_kernel_takes_no_tensors_of_a_device(only) -> None:
    only("cpu", "triton", "cuda")
    assert pick("tree_fourier", "auto", CUDA) == "triton"
    with pytest.raises(BackendUnavailable, match="tensors are on cuda"):
        pick("tree_fourier", "cpu", CUDA)


def test_auto_needs_the_op_too(only, monkeypatch: pytest.MonkeyPatch) -> None:
    only("cpu")
    monkeypatch.setitem(OPS, "fwht", ("reference",))
    assert pick("fwht", "auto", CPU) == "reference"


def test_a_named_backend_is_refused_with_op_reason_and_choice(only) -> None:
    only("cpu")
    with pytest.raises(BackendUnavailable) as refused:
        pick("fwht", "cuda", CPU)
    message = str(refused.value)
    assert all(part in message for part in ("fwht", "'cuda'", "no cuda here", "reference, cpu"))
    assert isinstance(refused.value, SpexError)


def test_a_named_backend_must_implement_the_op(only, monkeypatch: pytest.MonkeyPatch) -> None:
    only("cpu")
    monkeypatch.setitem(OPS, "fwht", ("reference",))
    with pytest.raises(BackendUnavailable, match="not implemented for this op"):
        pick("fwht", "cpu", CPU)


@pytest.mark.parametrize(
    ("name", "device"), [("cpu", CUDA), ("triton", CPU), ("cuda", CPU)], ids=str
)
def test_a_named_backend_must_fit_the_device(
    only, monkeypatch: pytest.MonkeyPatch, name: str, device: torch.device
) -> None:
    only("cpu", "triton", "cuda")
    monkeypatch.setattr(backend, "interpreted", lambda: False)
    with pytest.raises(BackendUnavailable, match=f"tensors are on {device}"):
        pick("fwht", name, device)


def test_triton_takes_cpu_tensors_in_its_interpreter_only(
    only, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("cpu", "triton")
    monkeypatch.setattr(backend, "interpreted", lambda: True)
    assert pick("fwht", "triton", CPU) == "triton"
    assert pick("fwht", "auto", CPU) == "cpu"
    monkeypatch.setattr(backend, "interpreted", lambda: False)
    with pytest.raises(BackendUnavailable, match="tensors are on cpu, and Triton's interpreter is"):
        pick("fwht", "triton", CPU)


def test_emulated_cuda_takes_cpu_tensors_and_only_when_named(
    only, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("cpu", "cuda")
    monkeypatch.setattr(backend, "emulated", lambda: True)
    assert pick("fwht", "cuda", CPU) == "cuda"
    assert pick("fwht", "auto", CPU) == "cpu"
    assert pick("fwht", "auto", CUDA) == "reference"
    with pytest.raises(BackendUnavailable, match="tensors are on cuda, the kernels emulated"):
        pick("fwht", "cuda", CUDA)


@pytest.mark.parametrize(
    ("module", "there", "reason"),
    [
        (None, True, "not built"),
        (types.SimpleNamespace(emulated=False), False, "no CUDA device"),
        (types.SimpleNamespace(emulated=False), True, None),
        (types.SimpleNamespace(emulated=True), False, None),
    ],
    ids=str,
)
def test_cuda_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, module, there, reason) -> None:
    monkeypatch.delattr(spex_core, "_cuda", raising=False)
    monkeypatch.setitem(sys.modules, "spex_core._cuda", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert why_not("cuda") == reason


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_triton_says_why_it_needs_a_device_or_the_interpreter(wanted: str) -> None:
    pytest.importorskip("triton")
    program = (
        "import torch; torch.cuda.is_available = lambda: False\n"
        "from spex_core.backend import interpreted, why_not\n"
        "print(interpreted(), why_not('triton'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TRITON_INTERPRET": wanted},
        capture_output=True,
        text=True,
        check=True,
    )
    reason = "no CUDA device, and TRITON_INTERPRET was not 1 when triton was imported"
    assert run.stdout.strip() == ("True None" if wanted == "1" else f"False {reason}")


@pytest.mark.parametrize(
    ("triton", "numpy", "fails"),
    [("3.6.0", "2.4.6", True), ("3.6.0", "2.3.5", False), ("3.7.1", "2.4.6", False)],
)
def test_an_interpreter_that_fails_is_named(
    triton: str, numpy: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton before 3.7 with NumPy from 2.4 on, which refuses int() of an array of one element."""
    monkeypatch.setattr(np, "__version__", numpy)
    reason = "the interpreter of Triton 3.6.0 needs NumPy below 2.4, got 2.4.6"
    assert backend._interpreter_fails(triton) == (reason if fails else None)


def test_an_unknown_backend_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="must be one of auto, reference, cpu, triton, cuda"):
        pick("fwht", "tpu", CPU)


@pytest.mark.parametrize(("name", "module"), [("cpu", "spex_core._cpu"), ("triton", "triton")])
def test_a_failed_import_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.delattr(spex_core, "_cpu", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    assert why_not(name).startswith("import failed: ")
    assert why_not("reference") is None


@pytest.mark.usefixtures("without_cuda")
def test_ops_obey_the_named_backend() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(ops.fwht(x, backend="reference"), torch.tensor([10.0, -2.0, -4.0, 0.0]))
    with pytest.raises(BackendUnavailable, match="fwht"):
        ops.fwht(x, backend="cuda")


def test_the_table_names_every_op_backend_and_reason(only, monkeypatch: pytest.MonkeyPatch) -> None:
    only("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = table().splitlines()
    assert lines[0].split()[:5] == ["op", *BACKENDS]
    assert [line.split()[0] for line in lines[1 : 1 + len(OPS)]] == list(OPS)
    assert lines[1].split() == ["fwht", "yes", "yes", "no", "no", "cpu"]
    assert lines[1 + len(OPS) :] == ["triton: no triton here", "cuda: no cuda here"]


def test_the_table_says_what_auto_picks_on_each_device(
    only, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("cpu", "triton", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    lines = table().splitlines()
    assert lines[0].endswith("auto on cpu  auto on cuda")
    assert lines[1].split() == ["fwht", "yes", "yes", "yes", "yes", "cpu", "cuda"]
    (masks,) = (line for line in lines if line.startswith("uniform_masks"))
    assert masks.split()[-2:] == ["cpu", "triton"]
