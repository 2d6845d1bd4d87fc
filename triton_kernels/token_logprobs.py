"""token_logprobs: log-softmax at given tokens, streaming over tiles of the vocabulary."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference_inference import Norm, normed_rows
from . import on_device_of

RANGE = 4096  # tokens of the vocabulary that a program goes through
TILES = {torch.float64: (16, 32, 16)}  # rows, tokens, columns of a product
TILE = (32, 64, 32)


@triton.jit
def _token_logprobs_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    most_ptr,
    total_ptr,
    rows,
    vocabulary,
    width,
    BIAS: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a block of rows and a range of the vocabulary: the largest logit of the range,
    and the sum of exp(logit - largest). Sums in the dtype of most."""
    dtype = most_ptr.dtype.element_ty
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)  # (BLOCK_R,)
    begin = tl.program_id(1).to(tl.int64) * SPAN
    most = tl.full((BLOCK_R,), float("-inf"), dtype)
    total = tl.zeros((BLOCK_R,), dtype)
    for tile in range(0, tl.minimum(SPAN, vocabulary - begin), BLOCK_V):
        v = begin + tile + tl.arange(0, BLOCK_V)  # (BLOCK_V,)
        z = tl.zeros((BLOCK_R, BLOCK_V), dtype)
        for start in range(0, width, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
            here = (r < rows)[:, None] & (d < width)[None, :]
            x = tl.load(x_ptr + r[:, None] * width + d[None, :], mask=here, other=0.0)
            there = (d < width)[:, None] & (v < vocabulary)[None, :]
            w = tl.load(weight_ptr + v[None, :] * width + d[:, None], mask=there, other=0.0)
            z = tl.dot(x, w, z, input_precision="ieee", out_dtype=dtype)  # (BLOCK_R, BLOCK_V)
        if BIAS:
            z += tl.load(bias_ptr + v, mask=v < vocabulary, other=0.0).to(dtype)[None, :]
        z = tl.where((v < vocabulary)[None, :], z, float("-inf"))
        now = tl.maximum(most, tl.max(z, axis=1))  # (BLOCK_R,)
        total = total * tl.exp(most - now) + tl.sum(tl.exp(z - now[:, None]), axis=1)
        most = now
    at = tl.program_id(1) * tl.cast(rows, tl.int64) + r
    tl.store(most_ptr + at, most, mask=r < rows)
    tl.store(total_ptr + at, total, mask=r < rows)


def token_logprobs(
    hidden: Tensor,
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    norm: Norm | None,
) -> Tensor:
    (vocabulary, width), weight = weight.shape, weight.contiguous()
    known = (rows >= 0) & (rows < len(hidden)) & (targets >= 0) & (targets < vocabulary)
    rows, targets = rows.masked_fill(~known, 0), targets.masked_fill(~known, 0)
    x = normed_rows(hidden, rows, norm)  # (R, d)
    dtype = x.dtype
    if dtype == torch.float64 or not x.is_cuda:  # the interpreter multiplies bits of bfloat16
        weight = weight.to(dtype)
    x = x.to(weight.dtype)
    block_r, block_v, block_d = TILES.get(dtype, TILE)
    most, total = x.new_empty((2, triton.cdiv(vocabulary, RANGE), len(x)), dtype=dtype)
    if len(x):
        with on_device_of(x):
            _token_logprobs_kernel[(triton.cdiv(len(x), block_r), len(most))](
                *(x, weight, weight if bias is None else bias.contiguous(), most, total),
                *(len(x), vocabulary, width),
                BIAS=bias is not None,
                SPAN=RANGE,
                BLOCK_R=block_r,
                BLOCK_V=block_v,
                BLOCK_D=block_d,
            )
    target = (x.to(dtype) * weight[targets].to(dtype)).sum(1)
    if bias is not None:
        target = target + bias[targets].to(dtype)
    return (target - torch.logsumexp(most + total.log(), 0)).masked_fill(~known, torch.nan)
