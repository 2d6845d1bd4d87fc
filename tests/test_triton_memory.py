"""A device that runs out of memory: the error comes through, and no result."""

from __future__ import annotations

import pytest
import torch
from test_traced import problem as call_of
from test_traced import public
from torch import Tensor
from torch.overrides import TorchFunctionMode
from triton_problems import (
    DEVICE,
    MARKS,
    PROBLEMS,
    anova_kernel_grad,
    bch_decode,
    boost,
    peel,
    tree_fourier,
)

from spex_core import ops_inference
from spex_core.backend import OPS, why_not

if (reason := why_not("triton")) is not None:
    pytest.skip(f"triton: {reason}", allow_module_level=True)

pytestmark = MARKS


class Full(TorchFunctionMode):
    """No memory for what a launcher allocates, after so many tensors."""

    MAKERS = (torch.empty, torch.empty_like, torch.zeros, Tensor.new_empty, Tensor.new_zeros)

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.MAKERS:
            if not self.room:
                raise torch.OutOfMemoryError("out of memory")
            self.room -= 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "problem",
    [*PROBLEMS, anova_kernel_grad, bch_decode, boost, peel, tree_fourier],
    ids=lambda problem: problem.__name__,
)
def test_whichever_tensor_finds_no_memory(problem) -> None:
    want = problem()
    for room in (0, 1, 2):
        with Full(room) as device:
            try:
                got = problem()
            except torch.OutOfMemoryError:
                assert device.room == 0
            else:
                assert room > 0, "every op allocates its result"
                assert torch.equal(got, want)


INFERENCE = [op for op, there in OPS.items() if "triton" in there and hasattr(ops_inference, op)]


@pytest.mark.parametrize("op", INFERENCE)
def test_masked_inference_finds_no_memory(op: str) -> None:
    args, options = call_of(op, DEVICE)
    want = public(op)(*args, **options, backend="triton")
    with Full(0), pytest.raises(torch.OutOfMemoryError):
        public(op)(*args, **options, backend="triton")
    torch.testing.assert_close(public(op)(*args, **options, backend="triton"), want)
