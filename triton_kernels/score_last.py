"""score_last: gather, final norm and a few dot products in one pass over a few rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference_inference import Norm
from . import on_device_of

COLUMNS, OUTPUTS, WARPS = 512, 8, 8


@triton.jit
def _score_last_kernel(
    hidden_ptr,
    rows_ptr,
    weight_ptr,
    bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    out_ptr,
    hidden_rows,
    width,
    outputs,
    EPS: tl.constexpr,
    CENTRE: tl.constexpr,
    NORM: tl.constexpr,
    NORM_BIAS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """One program a row and a block of outputs; sums in the dtype of out."""
    r = tl.program_id(0).to(tl.int64)
    dtype = out_ptr.dtype.element_ty
    row = tl.load(rows_ptr + r)
    known = (row >= 0) & (row < hidden_rows)
    x_ptr = hidden_ptr + tl.where(known, row, 0) * width
    mean = tl.zeros((), dtype)
    factor = tl.zeros((), dtype) + 1
    if CENTRE:
        total = tl.zeros((BLOCK_D,), dtype)
        for start in range(0, width, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
            total += tl.load(x_ptr + d, mask=known & (d < width), other=0.0).to(dtype)
        mean = tl.sum(total, axis=0) / width
    if NORM:
        squares = tl.zeros((BLOCK_D,), dtype)
        for start in range(0, width, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
            x = tl.load(x_ptr + d, mask=known & (d < width), other=0.0).to(dtype) - mean
            squares += tl.where(d < width, x * x, 0.0)
        factor = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / width + EPS)

    q = tl.program_id(1).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)  # (BLOCK_Q,)
    score = tl.zeros((BLOCK_Q,), dtype)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
        x = tl.load(x_ptr + d, mask=known & (d < width), other=0.0).to(dtype)
        if NORM:
            x = (x - mean) * factor
            x *= tl.load(norm_weight_ptr + d, mask=d < width, other=0.0).to(dtype)
        if NORM_BIAS:
            x += tl.load(norm_bias_ptr + d, mask=d < width, other=0.0).to(dtype)
        tile = (q < outputs)[:, None] & (d < width)[None, :]  # (BLOCK_Q, BLOCK_D)
        w = tl.load(weight_ptr + q[:, None] * width + d[None, :], mask=tile, other=0.0)
        score += tl.sum(w.to(dtype) * x[None, :], axis=1)
    if BIAS:
        score += tl.load(bias_ptr + q, mask=q < outputs, other=0.0).to(dtype)
    score = tl.where(known, score, float("nan"))
    tl.store(out_ptr + r * outputs + q, score, mask=q < outputs)


def score_last(
    hidden: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm | None
) -> Tensor:
    hidden, rows, weight = hidden.contiguous(), rows.contiguous(), weight.contiguous()
    (hidden_rows, width), outputs = hidden.shape, len(weight)
    kind, norm_weight, norm_bias, eps = norm or (None, None, None, 0.0)
    absent = [weight if x is None else x.contiguous() for x in (bias, norm_weight, norm_bias)]
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    out = hidden.new_empty((len(rows), outputs), dtype=dtype)
    if out.numel():
        with on_device_of(hidden):
            _score_last_kernel[(len(rows), triton.cdiv(outputs, OUTPUTS))](
                *(hidden, rows, weight, *absent, out, hidden_rows, width, outputs),
                EPS=eps,
                CENTRE=kind == "layer",
                NORM=kind is not None,
                NORM_BIAS=norm_bias is not None,
                BIAS=bias is not None,
                BLOCK_D=COLUMNS,
                BLOCK_Q=OUTPUTS,
                num_warps=WARPS,
            )
    return out
