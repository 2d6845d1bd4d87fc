"""parity_bits: parities of many terms at many masks, packed along the masks.

First the masks are transposed: a feature's bits at 64 masks are one word. The parities of a term
at 64 masks are then the XOR of as many words as it has features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tactics import launch

SPAN = 1 << 16  # parity_blocks cuts masks at multiples of it
BLOCK_BYTES = 1 << 28  # of the parities of a block, at most, unless a span has more
COLUMNS_TACTICS = [  # TILE squares a program
    {"TILE": 64, "num_warps": 8},
    {"TILE": 32, "num_warps": 4},
    {"TILE": 16, "num_warps": 4},
]
TACTICS = [
    {"BLOCK_S": 32, "BLOCK_G": 32, "num_warps": 4},
    {"BLOCK_S": 8, "BLOCK_G": 128, "num_warps": 4},
    {"BLOCK_S": 2, "BLOCK_G": 256, "num_warps": 4},
]


@triton.jit
def _bit_columns_kernel(
    masks_ptr, out_ptr, samples, words, groups, BLOCK_W: tl.constexpr, BLOCK_G: tl.constexpr
):
    """One program transposes BLOCK_G BLOCK_W squares of 64 masks by 64 bits, in six stages like
    those of fwht: after them the words are in the order of the features."""
    SIZE: tl.constexpr = BLOCK_W * BLOCK_G * 64
    group = tl.program_id(0).to(tl.int64) * BLOCK_G
    t = group * 64 + tl.arange(0, BLOCK_G * 64)  # (64 BLOCK_G,)
    w = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)  # (BLOCK_W,)
    inside = (t < samples)[:, None] & (w < words)[None, :]
    x = tl.load(masks_ptr + t[:, None] * words + w[None, :], mask=inside, other=0)
    x = tl.reshape(tl.trans(x), (SIZE,)).to(tl.uint64, bitcast=True)
    x = swapped(x, SIZE, 1, 0x5555555555555555)
    x = swapped(x, SIZE, 2, 0x3333333333333333)
    x = swapped(x, SIZE, 4, 0x0F0F0F0F0F0F0F0F)
    x = swapped(x, SIZE, 8, 0x00FF00FF00FF00FF)
    x = swapped(x, SIZE, 16, 0x0000FFFF0000FFFF)
    x = swapped(x, SIZE, 32, 0x00000000FFFFFFFF)
    x = tl.reshape(x, (64, BLOCK_W, BLOCK_G)).to(tl.int64, bitcast=True)
    feature = w[None, :, None] * 64 + tl.arange(0, 64)[:, None, None]
    g = (group + tl.arange(0, BLOCK_G))[None, None, :]
    at = feature.to(tl.int64) * groups + g
    tl.store(out_ptr + at, x, mask=(g < groups) & (w < words)[None, :, None])


@triton.jit
def swapped(x, SIZE: tl.constexpr, DISTANCE: tl.constexpr, KEEP: tl.constexpr):
    """The upper bits of the first word of each pair, those DISTANCE above KEEP, for the lower bits
    of the second. The bit of its place that tells a pair apart moves from the bottom to the top."""
    first, second = tl.split(tl.reshape(x, (SIZE // 2, 2)))
    swap = ((first >> DISTANCE) ^ second) & KEEP
    pair = tl.join(first ^ (swap << DISTANCE), second ^ swap)
    return tl.reshape(tl.trans(pair), (SIZE,))


@triton.jit
def _parity_bits_kernel(
    columns_ptr,
    support_ptr,
    out_ptr,
    terms,
    words,
    groups,
    BLOCK_S: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """One program a block of terms and of words of 64 masks, all along one axis: a second one has
    no room for millions of terms. Every term takes its features one after another, as long as one
    of them has any."""
    across = tl.cdiv(groups, BLOCK_G)
    g = (tl.program_id(0) % across).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)  # (BLOCK_G,)
    s = (tl.program_id(0) // across).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)  # (BLOCK_S,)
    bits = tl.zeros((BLOCK_S, BLOCK_G), tl.int64)
    for w in range(words):
        left = tl.load(support_ptr + s * words + w, mask=s < terms, other=0)  # (BLOCK_S,)
        while tl.max((left != 0).to(tl.int32), axis=0) > 0:
            lowest = left & -left
            feature = w * 64 + place_of(lowest)
            at = columns_ptr + (feature * groups)[:, None] + g[None, :]
            there = (left != 0)[:, None] & (g < groups)[None, :]
            bits ^= tl.load(at, mask=there, other=0)
            left ^= lowest
    inside = (s < terms)[:, None] & (g < groups)[None, :]
    tl.store(out_ptr + (s * groups)[:, None] + g[None, :], bits, mask=inside)


@triton.jit
def place_of(bit):
    """i of bit = 2**i, as int64: the exponent of a float."""
    number = bit.to(tl.uint64, bitcast=True).to(tl.float32)
    return (number.to(tl.int32, bitcast=True) >> 23).to(tl.int64) - 127


def parity_bits(masks: Tensor, support: Tensor) -> Tensor:
    return parities(bit_columns(masks), support)


def bit_columns(masks: Tensor) -> Tensor:
    """(T, W) -> (64 W, ceil(T / 64)): bit i of word g of row j is bit j of mask 64 g + i."""
    masks = masks.contiguous()
    (samples, words), groups = masks.shape, -(-len(masks) // 64)
    out = torch.empty(64 * words, groups, dtype=torch.int64, device=masks.device)

    def run(tactic: dict) -> None:
        how = columns_shape(words, **tactic)
        grid = triton.cdiv(groups, how["BLOCK_G"]), triton.cdiv(words, how["BLOCK_W"])
        _bit_columns_kernel[grid](masks, out, samples, words, groups, **how)

    if out.numel():
        launch("bit_columns", COLUMNS_TACTICS, (samples, words), run, masks)
    return out


def columns_shape(words: int, TILE: int, num_warps: int) -> dict[str, int]:
    block = min(triton.next_power_of_2(words), 4)
    return {"BLOCK_W": block, "BLOCK_G": TILE // block, "num_warps": num_warps}


def parities(columns: Tensor, support: Tensor) -> Tensor:
    """(64 W, groups), (S, W) -> (S, groups)."""
    support = support.contiguous()
    (terms, words), groups = support.shape, columns.shape[1]
    out = torch.empty(terms, groups, dtype=torch.int64, device=support.device)

    def run(tactic: dict) -> None:
        blocks = triton.cdiv(groups, tactic["BLOCK_G"]) * triton.cdiv(terms, tactic["BLOCK_S"])
        _parity_bits_kernel[(blocks,)](columns, support, out, terms, words, groups, **tactic)

    if out.numel():
        launch("parity_bits", TACTICS, (groups, terms), run, columns)
    return out


def parity_blocks(masks: Tensor, support: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(first mask, masks, parities int32 (S, 2 ceil(masks / 64))) of some spans of masks."""
    step = SPAN * max(1, BLOCK_BYTES // (SPAN // 8 * max(1, len(support))))
    for start in range(0, len(masks) if len(support) else 0, step):
        block = masks[start : start + step]
        yield start, len(block), parity_bits(block, support).view(torch.int32)
