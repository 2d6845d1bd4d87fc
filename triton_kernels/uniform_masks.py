"""uniform_masks: counter-based uniform masks, two words from each call of Philox4x32-10."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tactics import launch

TACTICS = [
    {"BLOCK_R": 256, "BLOCK_P": 1, "num_warps": 4},
    {"BLOCK_R": 128, "BLOCK_P": 4, "num_warps": 4},
    {"BLOCK_R": 64, "BLOCK_P": 8, "num_warps": 8},
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
    store_word(out_ptr, c0, c1, r, 2 * pair, rows, n, words)
    store_word(out_ptr, c2, c3, r, 2 * pair + 1, rows, n, words)


@triton.jit
def store_word(out_ptr, low, high, r, w, rows, n, words):
    """Word w of row r from its halves, without the bits beyond the n features."""
    spare = tl.minimum(tl.maximum(64 * (w + 1) - n, 0), 63).to(tl.uint64)[None, :]
    word = (low.to(tl.uint64) | (high.to(tl.uint64) << 32)) << spare >> spare
    inside = (r < rows)[:, None] & (w < words)[None, :]
    tl.store(
        out_ptr + r[:, None] * words + w[None, :], word.to(tl.int64, bitcast=True), mask=inside
    )


def uniform_masks(
    rows: int, n: int, seed: int, stream: int, start: int, device: torch.device
) -> Tensor:
    words = -(-n // 64)
    out = torch.empty(rows, words, dtype=torch.int64, device=device)

    def run(tactic: dict) -> None:
        blocks = (
            triton.cdiv(rows, tactic["BLOCK_R"]),
            triton.cdiv(-(-words // 2), tactic["BLOCK_P"]),
        )
        _uniform_masks_kernel[blocks](out, rows, n, words, seed, stream, start, **tactic)

    if rows:
        launch("uniform_masks", TACTICS, (rows, words), run, out)
    return out
