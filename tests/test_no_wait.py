"""Kernels on a device do not make the host wait for it. There is none here, so a mode of torch
refuses whatever would wait, and CPU tensors are taken for a device's: by Triton's interpreter, and
by the CUDA kernels compiled for the host, whose sources are searched for calls that wait too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_traced import CALLS, CODE, FURTHER, OWNER, numbers, public, words
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from spex_core import checks, fakes, ops, ops_decode, ops_gp, ops_inference
from spex_core.backend import OPS, emulated, interpreted, why_not
from spex_core.codes import bch_code

ROOT = Path(__file__).resolve().parent.parent


class Waited(Exception):
    pass


class NoWait(TorchDispatchMode):
    """Refuses operators whose result, or the size of it, the host has to see."""

    WAITS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "bincount")
    WAITS += ("unique_dim", "_unique2", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        by_mask = name == "index" and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1]
        )
        # torch.where copies a number to the device, and waits for that; masked_fill does not
        by_number = name == "where" and any(isinstance(x, Tensor) and x.ndim == 0 for x in args)
        if name in self.WAITS or by_mask or by_number:
            raise Waited(func.name())
        return func(*args, **(kwargs or {}))


class NoCopy(TorchFunctionMode):
    """Refuses to bring a tensor to the host, or to send one from there."""

    MOVES = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item, torch.tensor, torch.from_numpy)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.MOVES:
            raise Waited(func.__name__)
        return func(*args, **(kwargs or {}))


def require(backend: str) -> None:
    """Skips where a backend's kernels do not run on CPU tensors."""
    if (reason := why_not(backend)) is not None:
        pytest.skip(f"{backend}: {reason}")
    if backend == "triton" and not interpreted():
        pytest.skip("CPU tensors need Triton's interpreter")
    if backend == "cuda" and not emulated():
        pytest.skip("not built with SPEX_CUDA=EMULATED")


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checks, ops_decode, ops_gp, ops_inference):
        monkeypatch.setattr(module, "readable", lambda x: False)


# Those whose sizes, or what they do next, depend on values, and that say so.
WAITS = {
    "triton": {"peel", "peel_many", "boost", "tree_fourier", "pack_tokens", "pack_trie"},
    "cuda": {"peel", "peel_many", "boost"},
}


@pytest.mark.parametrize(
    ("backend", "name"),
    [(backend, name) for backend in WAITS for name, there in OPS.items() if backend in there],
)
def test_no_kernel_waits(backend: str, name: str, on_a_device: None) -> None:
    require(backend)
    args, options = FURTHER[name]() if name in FURTHER else (CALLS[name](), {})
    args = [x.detach() if isinstance(x, Tensor) else x for x in args]

    def call() -> object:
        return public(name)(*args, **options, backend=backend)

    expected = call()  # what is done once is done: tables are there
    if name in WAITS[backend]:
        with NoWait(), NoCopy(), pytest.raises(Waited):
            call()
        return
    with NoWait(), NoCopy():
        found = call()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("backend", "begins", "besides"),  # besides: special cases
    [
        ("triton", "Those that wait say so:", {"mask_embed"}),
        ("cuda", "Those that wait in CUDA:", set()),
    ],
)
def test_the_page_names_those_that_wait(backend: str, begins: str, besides: set[str]) -> None:
    page = (ROOT / "docs" / "kernels.md").read_text()
    sentence = page.split(begins)[1].split(". ")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == WAITS[backend] | besides


def test_the_sources_call_nothing_that_waits() -> None:
    """Of the CUDA runtime, only what starts kernels and asks for properties: nothing that waits,
    copies, allocates or frees."""
    called, blocking = set(), set()
    for path in (ROOT / "csrc").iterdir():
        source = re.sub(r"//.*", "", path.read_text())
        called |= set(re.findall(r"\bcu(?:da)?[A-Z]\w*(?=\()", source))
        blocking |= set(re.findall(r"<<<|\bthrust\b|\bcub\b", source))
    assert called == {
        *("cudaGetDevice", "cudaSetDevice", "cudaDeviceGetAttribute", "cudaGetErrorString"),
        *("cudaOccupancyMaxActiveBlocksPerMultiprocessor", "cudaFuncSetAttribute"),
        *("cudaLaunchKernel", "cudaLaunchCooperativeKernel"),
    }
    assert not blocking


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.item(),
        lambda x: bool(x > 0),
        lambda x: x[x > 0],
        lambda x: x[None].where(x[None] > 0, 1.0),
        lambda x: x.cpu(),
        float,
    ],
)
def test_what_waits_is_refused(waits: Callable) -> None:
    with NoWait(), NoCopy(), pytest.raises(Waited):
        waits(torch.ones(()))


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_bad_readings_on_a_device_decode_to_nothing(backend: str, on_a_device: None) -> None:
    require(backend)
    readings = 2 + numbers(3, CODE.delays).tanh()
    expected = ops.bch_decode(readings, CODE, backend=backend)
    assert (expected[1] >= 0).all()
    for place, bad in [(3, torch.nan), (3, torch.inf), (3, -torch.inf), (slice(None), torch.nan)]:
        worse = readings.clone()
        worse[1, place] = bad
        features, counts = ops.bch_decode(worse, CODE, backend=backend)
        assert counts.tolist() == [expected[1][0], -1, expected[1][2]]
        assert torch.equal(features[::2], expected[0][::2])
        assert features[1].tolist() == [-1, -1]


def test_a_compiled_call_puts_a_code_together_once() -> None:
    """Copies of its tables on a device are remembered by the code."""
    codes = []
    for code in (CODE, bch_code(CODE.n + 1, CODE.t), CODE):
        args, options = fakes.flat_code(numbers(3, code.delays), code, chase=1)
        codes.append(fakes.whole_code(*args, **options)[0][1])
    assert codes[0] is codes[2]
    assert codes[0] is not codes[1]
    assert (codes[0].n, codes[1].n, codes[0].m, codes[0].t) == (CODE.n, CODE.n + 1, CODE.m, CODE.t)


@pytest.mark.parametrize("bad", [-1, 4, 70, -(2**63), 2**62])
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_bad_owners_on_a_device_are_always_kept(bad: int, backend: str, on_a_device: None) -> None:
    require(backend)
    masks, ids, wrong = words(5, 1), torch.arange(6), OWNER.clone()
    wrong[0] = bad
    assert OWNER[0] == 3
    for op in (ops_inference.pack_tokens, ops_inference.pack_trie):
        found, expected = (op(masks, ids, x, 3, backend=backend) for x in (wrong, OWNER))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    given = masks, numbers(6, 4), numbers(4)
    embed = ops_inference.mask_embed
    assert torch.equal(*(embed(*given, x, 3, backend=backend) for x in (wrong, OWNER)))
