"""Kernels on a device do not make the host wait for it. There is none here, so a mode of torch
refuses whatever would wait, and CPU tensors are taken for a device's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_traced import CALLS, CODE, FURTHER, OWNER, numbers, public, words
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from spex_core import checks, ops, ops_inference
from spex_core.backend import OPS, interpreted, why_not

if (reason := why_not("triton")) is not None:
    pytest.skip(f"triton: {reason}", allow_module_level=True)


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
        if name in self.WAITS or by_mask:
            raise Waited(func.name())
        return func(*args, **(kwargs or {}))


class NoCopy(TorchFunctionMode):
    """Refuses to bring a tensor to the host, or to send one from there."""

    MOVES = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item, torch.tensor, torch.from_numpy)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.MOVES:
            raise Waited(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    if not interpreted():
        pytest.skip("CPU tensors need Triton's interpreter")
    for module in (checks, ops, ops_inference):
        monkeypatch.setattr(module, "readable", lambda x: False)


# Those whose sizes, or what they do next, depend on values, and that say so.
WAITS = {
    "peel",
    "peel_many",
    "boost",
    "tree_fourier",
    "pack_tokens",
    "pack_trie",
    "anova_kernel",
    "anova_kernel_grad",
}


@pytest.mark.parametrize("name", [name for name, there in OPS.items() if "triton" in there])
def test_no_kernel_waits(name: str, on_a_device: None) -> None:
    args, options = FURTHER[name]() if name in FURTHER else (CALLS[name](), {})
    args = [x.detach() if isinstance(x, Tensor) else x for x in args]

    def call() -> object:
        return public(name)(*args, **options, backend="triton")

    expected = call()  # what is done once is done: tables are there
    if name in WAITS:
        with NoWait(), NoCopy(), pytest.raises(Waited):
            call()
        return
    with NoWait(), NoCopy():
        found = call()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "waits",
    [lambda x: x.item(), lambda x: bool(x > 0), lambda x: x[x > 0], lambda x: x.cpu(), float],
)
def test_what_waits_is_refused(waits: Callable) -> None:
    with NoWait(), NoCopy(), pytest.raises(Waited):
        waits(torch.ones(()))


def test_bad_readings_on_a_device_decode_to_nothing(on_a_device: None) -> None:
    readings = 2 + numbers(3, CODE.delays).tanh()
    expected = ops.bch_decode(readings, CODE, backend="triton")
    assert (expected[1] >= 0).all()
    for bad in (torch.nan, torch.inf, -torch.inf):
        worse = readings.clone()
        worse[1, 3] = bad
        features, counts = ops.bch_decode(worse, CODE, backend="triton")
        assert counts.tolist() == [expected[1][0], -1, expected[1][2]]
        assert torch.equal(features[::2], expected[0][::2])
        assert features[1].tolist() == [-1, -1]


@pytest.mark.parametrize("bad", [-1, 4, 70, -(2**63), 2**62])
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_bad_owners_on_a_device_are_always_kept(bad: int, backend: str, on_a_device: None) -> None:
    masks, ids, wrong = words(5, 1), torch.arange(6), OWNER.clone()
    wrong[0] = bad
    assert OWNER[0] == 3
    for op in (ops_inference.pack_tokens, ops_inference.pack_trie):
        found, expected = (op(masks, ids, x, 3, backend=backend) for x in (wrong, OWNER))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    given = masks, numbers(6, 4), numbers(4)
    embed = ops_inference.mask_embed
    assert torch.equal(*(embed(*given, x, 3, backend=backend) for x in (wrong, OWNER)))
