"""uniform_masks: counter-based uniform masks, two words from each call of Philox4x32-10."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tactics import launch

TACTICS = [  # TILE calls of Philox a program
    {"TILE": 256, "num_warps": 4},
    {"TILE": 512, "num_warps": 4},
    {"TILE": 1024, "num_warps": 8},
]


@triton.jit
def _uniform_masks_kernel(
    out_ptr,
    rows,
    n,
    words,
    seed: tl.uint64,
    stream: tl.uint32,
    start: tl.int64,
    BLOCK_R: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One program a block of rows and a block of word pairs."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)  # (BLOCK_R,)
    pair = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)  # (BLOCK_P,)
    row = (tl.cast(start, tl.int64) + r)[:, None]
    none = tl.zeros((BLOCK_R, BLOCK_P), tl.uint32)
    low, high = (row & 0xFFFFFFFF).to(tl.uint32), (row >> 32).to(tl.uint32)
    c0, c1, c2, c3 = tl.philox(
        tl.cast(seed, tl.uint64),
        none + pair[None, :].to(tl.uint32),
        *(none + low, none + high, none + tl.cast(stream, tl.uint32)),
    )  # four of (BLOCK_R, BLOCK_P)
    pairs = tl.join(joined(c0, c1), joined(c2, c3))  # (BLOCK_R, BLOCK_P, 2)
    w = tl.program_id(1) * (2 * BLOCK_P) + tl.arange(0, 2 * BLOCK_P)  # (2 BLOCK_P,)
    spare = tl.minimum(tl.maximum(64 * (w + 1) - n, 0), 63).to(tl.uint64)[None, :]
    word = tl.reshape(pairs, (BLOCK_R, 2 * BLOCK_P)) << spare >> spare  # spare bits are zero
    inside = (r < rows)[:, None] & (w < words)[None, :]
    at = out_ptr + r[:, None] * words + w[None, :]
    tl.store(at, word.to(tl.int64, bitcast=True), mask=inside)


@triton.jit
def joined(low, high):
    return low.to(tl.uint64) | (high.to(tl.uint64) << 32)


def uniform_masks(
    rows: int, n: int, seed: int, stream: int, start: int, device: torch.device
) -> Tensor:
    words = -(-n // 64)
    out = torch.empty(rows, words, dtype=torch.int64, device=device)

    def run(tactic: dict) -> None:
        how = shape(words, **tactic)
        grid = triton.cdiv(rows, how["BLOCK_R"]), triton.cdiv(words, 2 * how["BLOCK_P"])
        _uniform_masks_kernel[grid](out, rows, n, words, seed, stream, start, **how)

    if rows:
        launch("uniform_masks", TACTICS, (rows, words), run, out)
    return out


def shape(words: int, TILE: int, num_warps: int) -> dict[str, int]:
    pairs = min(triton.next_power_of_2(triton.cdiv(words, 2)), TILE)
    return {"BLOCK_R": TILE // pairs, "BLOCK_P": pairs, "num_warps": num_warps}
