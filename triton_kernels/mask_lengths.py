"""mask_lengths: how many tokens each mask keeps."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import on_device_of

ROWS = 32


@triton.jit
def _mask_lengths_kernel(
    masks_ptr, lengths_ptr, out_ptr, samples, n, words, fixed, BLOCK_T: tl.constexpr
):
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)  # (BLOCK_T,)
    bit = tl.arange(0, 64)
    total = tl.zeros((BLOCK_T,), tl.int64) + fixed
    for w in range(words):
        word = tl.load(masks_ptr + t * words + w, mask=t < samples, other=0)  # (BLOCK_T,)
        feature = w * 64 + bit  # (64,)
        length = tl.load(lengths_ptr + feature, mask=feature < n, other=0)  # (64,)
        present = (word[:, None] >> bit[None, :]) & 1  # (BLOCK_T, 64)
        total += tl.sum(present * length[None, :], axis=1)
    tl.store(out_ptr + t, total, mask=t < samples)


def mask_lengths(masks: Tensor, lengths: Tensor, fixed: int) -> Tensor:
    masks, lengths = masks.contiguous(), lengths.contiguous()
    (samples, words), n = masks.shape, len(lengths)
    out = torch.empty(samples, dtype=torch.int64, device=masks.device)
    if samples:
        with on_device_of(masks):
            _mask_lengths_kernel[(triton.cdiv(samples, ROWS),)](
                masks, lengths, out, samples, n, words, fixed, BLOCK_T=ROWS
            )
    return out
