"""mask_embed: embeddings under every mask, absent ones replaced or dropped."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import on_device_of
from .pack_tokens import kept_tokens

TOKENS, COLUMNS = 32, 64


@triton.jit
def _mask_embed_kernel(
    masks_ptr,
    embeddings_ptr,
    baseline_ptr,
    owner_ptr,
    starts_ptr,
    out_ptr,
    length,
    n,
    words,
    width,
    baseline_stride,
    DROP: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a mask and a block of columns."""
    t = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    slot = tl.load(starts_ptr + t) if DROP else t * length  # the first row that the mask writes
    for start in range(0, length, BLOCK_L):
        token = start + tl.arange(0, BLOCK_L).to(tl.int64)  # (BLOCK_L,)
        keep = kept_tokens(masks_ptr + t * words, owner_ptr, token, length, n)
        inside = (token < length)[:, None] & (column < width)[None, :]  # (BLOCK_L, BLOCK_D)
        copied = inside & (keep == 1)[:, None]
        source = embeddings_ptr + token[:, None] * width + column[None, :]
        x = tl.load(source, mask=copied, other=0.0)  # (BLOCK_L, BLOCK_D)
        if DROP:
            row = slot + tl.cumsum(keep, axis=0) - keep  # (BLOCK_L,)
            tl.store(out_ptr + row[:, None] * width + column[None, :], x, mask=copied)
            slot += tl.sum(keep, axis=0)
        else:
            other = baseline_ptr + token[:, None] * baseline_stride + column[None, :]
            absent = inside & (keep == 0)[:, None]
            x = tl.where(copied, x, tl.load(other, mask=absent, other=0.0))
            row = slot + token
            tl.store(out_ptr + row[:, None] * width + column[None, :], x, mask=inside)


def mask_embed(
    masks: Tensor,
    embeddings: Tensor,
    baseline: Tensor | None,
    owner: Tensor,
    n: int,
    starts: Tensor | None,
) -> Tensor:
    masks, embeddings, owner = masks.contiguous(), embeddings.contiguous(), owner.contiguous()
    (samples, words), (length, width) = masks.shape, embeddings.shape
    drop = starts is not None
    baseline = embeddings if drop else baseline.contiguous()
    starts = starts.contiguous() if drop else masks
    shape = (int(starts[-1]), width) if drop else (samples, length, width)
    out = embeddings.new_empty(shape)
    if out.numel():
        with on_device_of(masks):
            _mask_embed_kernel[(samples, triton.cdiv(width, COLUMNS))](
                *(masks, embeddings, baseline, owner, starts, out, length, n, words, width),
                width if baseline.ndim == 2 else 0,
                DROP=drop,
                BLOCK_L=TOKENS,
                BLOCK_D=COLUMNS,
            )
    return out
