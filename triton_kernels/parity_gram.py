"""parity_gram: inner products of packed columns of signs, as products of 8-bit matrices that are
unpacked a tile at a time."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tactics import launch

TACTICS = [
    {"BLOCK_S": 64, "BLOCK_H": 4, "num_warps": 8},
    {"BLOCK_S": 64, "BLOCK_H": 2, "num_warps": 8},
    {"BLOCK_S": 32, "BLOCK_H": 8, "num_warps": 4},
]


@triton.jit
def _parity_gram_kernel(
    columns_ptr, out_ptr, terms, halves, samples, BLOCK_S: tl.constexpr, BLOCK_H: tl.constexpr
):
    """One program a square of products and its mirror image; columns int32 (terms, halves), 32
    signs in each. Bits beyond the samples are zeros: pluses, that are taken off at the end."""
    if tl.program_id(0) <= tl.program_id(1):
        s = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)  # (BLOCK_S,)
        u = tl.program_id(1).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)  # (BLOCK_S,)
        total = tl.zeros((BLOCK_S, BLOCK_S), tl.int32)
        for first in range(0, halves, BLOCK_H):
            left = unpacked(columns_ptr, s, first, terms, halves, BLOCK_S, BLOCK_H)
            right = unpacked(columns_ptr, u, first, terms, halves, BLOCK_S, BLOCK_H)
            total = tl.dot(left, tl.trans(right), total, out_dtype=tl.int32)
        spare = tl.cdiv(halves, BLOCK_H) * BLOCK_H * 32 - samples
        product = (total - spare).to(tl.float64)
        square = (s < terms)[:, None] & (u < terms)[None, :]
        tl.store(out_ptr + (s * terms)[:, None] + u[None, :], product, mask=square)
        tl.store(out_ptr + (u * terms)[None, :] + s[:, None], product, mask=square)


@triton.jit
def unpacked(columns_ptr, s, first, terms, halves, BLOCK_S: tl.constexpr, BLOCK_H: tl.constexpr):
    """Signs of terms s (BLOCK_S,) at 32 BLOCK_H samples: int8 (BLOCK_S, 32 BLOCK_H)."""
    half = first + tl.arange(0, BLOCK_H)  # (BLOCK_H,)
    inside = (s < terms)[:, None] & (half < halves)[None, :]
    words = tl.load(columns_ptr + (s * halves)[:, None] + half[None, :], mask=inside, other=0)
    bits = (words[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
    return tl.reshape((1 - 2 * bits).to(tl.int8), (BLOCK_S, 32 * BLOCK_H))


def parity_gram(columns: Tensor, samples: int) -> Tensor:
    columns = columns.contiguous().view(torch.int32)
    terms, halves = columns.shape
    out = torch.empty(terms, terms, dtype=torch.float64, device=columns.device)

    def run(tactic: dict) -> None:
        blocks = triton.cdiv(terms, tactic["BLOCK_S"])
        _parity_gram_kernel[(blocks, blocks)](columns, out, terms, halves, samples, **tactic)

    if terms:
        launch("parity_gram", TACTICS, (terms, halves), run, columns)
    return out
