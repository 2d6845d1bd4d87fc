"""head_scale: gates on the outputs of attention heads, each row by its own mask."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import on_device_of

COLUMNS = 1024


@triton.jit
def _head_scale_kernel(
    x_ptr,
    masks_ptr,
    sequence_ptr,
    mean_ptr,
    scale_ptr,
    out_ptr,
    samples,
    words,
    width,
    head_width,
    first,
    MEAN: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row and a block of its width = H D columns; scale has the dtype of products."""
    i = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    inside = column < width
    t = tl.load(sequence_ptr + i).to(tl.int64)
    known = (t >= 0) & (t < samples)
    feature = first + column // head_width  # (BLOCK,)
    word = tl.load(masks_ptr + t * words + feature // 64, mask=inside & known, other=0)
    present = (word >> (feature % 64)) & 1  # (BLOCK,)
    x = tl.load(x_ptr + i * width + column, mask=inside, other=0.0)
    y = x
    if SCALE:
        scale = tl.load(scale_ptr + t, mask=known, other=0.0)
        y = (x.to(scale.dtype) * scale).to(x.dtype)
    mean = tl.zeros_like(x)
    if MEAN:
        mean = tl.load(mean_ptr + column, mask=inside, other=0.0)
    y = tl.where(present == 1, y, mean)
    y = tl.where(known, y, tl.full((BLOCK,), float("nan"), tl.float32).to(x.dtype))
    tl.store(out_ptr + i * width + column, y, mask=inside)


def head_scale(
    x: Tensor,
    masks: Tensor,
    sequence: Tensor,
    first: int,
    mean: Tensor | None,
    scale: Tensor | None,
) -> Tensor:
    x, masks, sequence = x.contiguous(), masks.contiguous(), sequence.contiguous()
    (rows, heads, head_width), (samples, words) = x.shape, masks.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    out = torch.empty_like(x)
    if out.numel():
        with on_device_of(x):
            _head_scale_kernel[(rows, triton.cdiv(heads * head_width, COLUMNS))](
                *(x, masks, sequence, x if mean is None else mean.contiguous()),
                *(x if scale is None else scale.to(wide).contiguous(), out),
                *(samples, words, heads * head_width, head_width, first),
                MEAN=mean is not None,
                SCALE=scale is not None,
                BLOCK=COLUMNS,
            )
    return out
