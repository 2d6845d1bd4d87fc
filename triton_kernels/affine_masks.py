"""affine_masks: all points of affine subspaces, each the XOR of two shorter tables' entries."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tactics import launch

TACTICS = [  # 2**LOG_TILE words a program
    {"LOG_TILE": 10, "num_warps": 4},
    {"LOG_TILE": 11, "num_warps": 4},
    {"LOG_TILE": 12, "num_warps": 8},
]


@triton.jit
def _affine_masks_kernel(
    columns_ptr,
    offsets_ptr,
    out_ptr,
    blocks,
    b,
    words,
    LOG_LOW: tl.constexpr,
    LOG_HIGH: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program 2**(LOG_LOW + LOG_HIGH) neighbouring points of a subspace and a block of words.
    Points from 2**b on do not exist and are not stored."""
    low, high = tl.arange(0, 1 << LOG_LOW), tl.arange(0, 1 << LOG_HIGH)
    p = tl.program_id(0).to(tl.int64) // blocks
    block = tl.program_id(0) % blocks
    w = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)  # (BLOCK_W,)
    start = tl.load(offsets_ptr + p * words + w, mask=w < words, other=0)
    for i in range(LOG_LOW + LOG_HIGH, b):
        chosen = -((block >> (i - LOG_LOW - LOG_HIGH)) & 1).to(tl.int64)  # all bits or none
        start ^= chosen & tl.load(columns_ptr + i * words + w, mask=w < words, other=0)
    below = span(columns_ptr, low, 0, b, words, w, LOG_LOW, BLOCK_W)  # (2**LOG_LOW, BLOCK_W)
    above = span(columns_ptr, high, LOG_LOW, b, words, w, LOG_HIGH, BLOCK_W) ^ start[None, :]
    points = above[:, None, :] ^ below[None, :, :]  # (2**LOG_HIGH, 2**LOG_LOW, BLOCK_W)
    point = (block << (LOG_LOW + LOG_HIGH)) + (high << LOG_LOW)[:, None] + low[None, :]
    at = ((p << b) + point)[:, :, None] * words + w[None, None, :]
    inside = (point < (1 << b))[:, :, None] & (w < words)[None, None, :]
    tl.store(out_ptr + at, points, mask=inside)


@triton.jit
def span(columns_ptr, point, first, b, words, w, COUNT: tl.constexpr, BLOCK_W: tl.constexpr):
    """The XOR of columns first + i over bits i of each point (2**COUNT,): (2**COUNT, BLOCK_W)."""
    points = tl.zeros((1 << COUNT, BLOCK_W), tl.int64)
    for i in tl.static_range(COUNT):
        inside = (w < words) & (first + i < b)
        column = tl.load(columns_ptr + (first + i) * words + w, mask=inside, other=0)
        points ^= -((point >> i) & 1).to(tl.int64)[:, None] & column[None, :]
    return points


def affine_masks(columns: Tensor, offsets: Tensor) -> Tensor:
    columns, offsets = columns.contiguous(), offsets.contiguous()
    (b, words), shifts = columns.shape, len(offsets)
    out = torch.empty(shifts, 1 << b, words, dtype=torch.int64, device=columns.device)

    def run(tactic: dict) -> None:
        how = shape(words, **tactic)
        blocks = triton.cdiv(1 << b, 1 << how["LOG_LOW"] + how["LOG_HIGH"])
        grid = shifts * blocks, triton.cdiv(words, how["BLOCK_W"])
        _affine_masks_kernel[grid](columns, offsets, out, blocks, b, words, **how)

    if out.numel():
        launch("affine_masks", TACTICS, (b, words), run, out)
    return out


def shape(words: int, LOG_TILE: int, num_warps: int) -> dict[str, int]:
    block = min(triton.next_power_of_2(words), 16)
    points = LOG_TILE - block.bit_length() + 1
    logs = {"LOG_LOW": points - points // 2, "LOG_HIGH": points // 2}
    return {**logs, "BLOCK_W": block, "num_warps": num_warps}
