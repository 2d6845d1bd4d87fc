"""The kernels of boost: which node each sample reaches, the histograms of a level of a tree, and
the best split of each of its nodes.

A histogram is a product of 8-bit matrices: bits of features, unpacked a tile at a time, by the
weights of the samples of each node. Its entries are whole numbers, exact in any order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import on_device_of
from .tactics import launch

SLOTS = 16  # nodes of a level that one product is for
PROGRAMS = 1024  # at least so many, where there are samples for them
WALK_TACTICS = [{"BLOCK_T": 256, "num_warps": 4}]
TACTICS = [
    {"BLOCK_F": 64, "BLOCK_H": 4, "num_warps": 4},
    {"BLOCK_F": 128, "BLOCK_H": 4, "num_warps": 8},
    {"BLOCK_F": 64, "BLOCK_H": 8, "num_warps": 4},
]


@triton.jit
def _walk_kernel(masks_ptr, links_ptr, out_ptr, samples, words, depth, BLOCK_T: tl.constexpr):
    """The node that each mask reaches after `depth` steps; links int32 (nodes, 3): feature, absent,
    present, the feature -1 where it stays."""
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)  # (BLOCK_T,)
    inside = t < samples
    node = tl.zeros((BLOCK_T,), tl.int32)
    for _ in range(depth):
        feature = tl.load(links_ptr + 3 * node)
        goes = inside & (feature >= 0)
        word = tl.load(masks_ptr + t * words + feature // 64, mask=goes, other=0)
        bit = ((word >> (feature % 64)) & 1).to(tl.int32)
        node = tl.where(goes, tl.load(links_ptr + 3 * node + 1 + bit), node)
    tl.store(out_ptr + t, node, mask=inside)


@triton.jit
def _ordered_sums_kernel(x_ptr, out_ptr, rows, width, BLOCK: tl.constexpr):
    """out[r]: row r of x (rows, width) added up from the left, a lane a row."""
    r = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    inside = r < rows
    total = tl.zeros((BLOCK,), tl.float64)
    for i in range(width):
        total += tl.load(x_ptr + r * width + i, mask=inside, other=0.0)
    tl.store(out_ptr + r, total, mask=inside)


@triton.jit
def _histogram_kernel(
    columns_ptr,
    weights_ptr,
    slot_ptr,
    out_ptr,
    samples,
    halves,
    features,
    slots,
    span,
    SLOTS: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """One program a block of features, a span of samples and SLOTS nodes. columns int32 (features,
    halves), 32 samples in each; weights int8 (3, samples): 1 and the residual, as low + 128 high.
    out int32 (slots, 2, features): samples that have the feature, and the sum of their residuals.
    """
    feature = tl.program_id(0).to(tl.int64) * BLOCK_F + tl.arange(0, BLOCK_F)  # (BLOCK_F,)
    begin = tl.program_id(1) * span
    wanted = tl.program_id(2) * SLOTS + tl.arange(0, SLOTS)  # (SLOTS,)
    count = tl.zeros((BLOCK_F, SLOTS), tl.int32)
    low = tl.zeros((BLOCK_F, SLOTS), tl.int32)
    high = tl.zeros((BLOCK_F, SLOTS), tl.int32)
    for start in range(begin, tl.minimum(begin + span, samples), 32 * BLOCK_H):
        half = start // 32 + tl.arange(0, BLOCK_H)  # (BLOCK_H,)
        inside = (feature < features)[:, None] & (half < halves)[None, :]
        at = columns_ptr + (feature * halves)[:, None] + half[None, :]
        word = tl.load(at, mask=inside, other=0)  # (BLOCK_F, BLOCK_H)
        bits = ((word[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1).to(tl.int8)
        bits = tl.reshape(bits, (BLOCK_F, 32 * BLOCK_H))
        i = start + tl.arange(0, 32 * BLOCK_H)  # (32 BLOCK_H,)
        slot = tl.load(slot_ptr + i, mask=i < samples, other=-1)
        here = slot[:, None] == wanted[None, :]  # (32 BLOCK_H, SLOTS)
        count = tl.dot(bits, weight_of(weights_ptr, i, samples, here), count, out_dtype=tl.int32)
        lows = weight_of(weights_ptr + samples, i, samples, here)
        low = tl.dot(bits, lows, low, out_dtype=tl.int32)
        highs = weight_of(weights_ptr + 2 * samples, i, samples, here)
        high = tl.dot(bits, highs, high, out_dtype=tl.int32)
    at = out_ptr + (2 * wanted.to(tl.int64) * features)[None, :] + feature[:, None]
    inside = (feature < features)[:, None] & (wanted < slots)[None, :]
    tl.atomic_add(at, count, mask=inside, sem="relaxed")
    tl.atomic_add(at + features, low + 128 * high, mask=inside, sem="relaxed")


@triton.jit
def weight_of(weights_ptr, i, samples, here):
    """Weights of samples i, int8 (samples, SLOTS), in the column of their node."""
    weight = tl.load(weights_ptr + i, mask=i < samples, other=0)
    return tl.where(here, weight[:, None], 0).to(tl.int8)


@triton.jit
def _best_split_kernel(
    histogram_ptr,
    totals_ptr,
    allowed_ptr,
    out_ptr,
    features,
    min_leaf,
    l2: tl.float64,
    BLOCK_F: tl.constexpr,
):
    """One program a node: the feature of the largest score, the first on a tie, that score, and
    what the histogram has of it. totals int64 (slots, 2): samples and sum of residuals of the
    node; out float64 (slots, 4). The steps of reference_boost.best_split, each rounded."""
    slot = tl.program_id(0).to(tl.int64)
    count = tl.load(totals_ptr + 2 * slot)
    total = tl.load(totals_ptr + 2 * slot + 1)
    l2 = tl.cast(l2, tl.float64)
    most = tl.zeros((BLOCK_F,), tl.float64)
    best = tl.zeros((BLOCK_F,), tl.int32)
    for first in range(0, features, BLOCK_F):
        feature = first + tl.arange(0, BLOCK_F)  # (BLOCK_F,)
        inside = feature < features
        at = histogram_ptr + 2 * slot * features + feature
        c1 = tl.load(at, mask=inside, other=0).to(tl.int64)
        s1 = tl.load(at + features, mask=inside, other=0).to(tl.int64)
        may = (tl.load(allowed_ptr + feature, mask=inside, other=0) != 0) & inside
        may = may & (c1 >= min_leaf) & (count - c1 >= min_leaf)
        w1, w0 = c1.to(tl.float64) + l2, (count - c1).to(tl.float64) + l2
        apart = s1.to(tl.float64) * w0 - (total - s1).to(tl.float64) * w1
        score = tl.where(may, apart * apart / tl.where(may, w0 * w1, 1.0), 0.0)
        better = score > most
        most = tl.where(better, score, most)
        best = tl.where(better, feature, best)
    top = tl.max(most, axis=0)
    chosen = tl.min(tl.where(most == top, best, features), axis=0)
    chosen = tl.where(top > 0, chosen, 0)
    at = histogram_ptr + 2 * slot * features + chosen
    tl.store(out_ptr + 4 * slot, chosen.to(tl.float64))
    tl.store(out_ptr + 4 * slot + 1, top)
    tl.store(out_ptr + 4 * slot + 2, tl.load(at).to(tl.float64))
    tl.store(out_ptr + 4 * slot + 3, tl.load(at + features).to(tl.float64))


def walk(masks: Tensor, links: Tensor, depth: int) -> Tensor:
    """(R, W), int32 (nodes, 3) -> the node of each mask, int32 (R,)."""
    rows, words = masks.shape
    out = torch.empty(rows, dtype=torch.int32, device=masks.device)

    def run(tactic: dict) -> None:
        grid = (triton.cdiv(rows, tactic["BLOCK_T"]),)
        _walk_kernel[grid](masks, links, out, rows, words, depth, **tactic)

    launch("walk", WALK_TACTICS, (rows, words), run, masks)
    return out


def histograms(columns: Tensor, weights: Tensor, slot: Tensor, n: int, slots: int) -> Tensor:
    """columns of parity_bits.bit_columns, int8 (3, T), int32 (T,), -1 for no node -> int32 (slots,
    2, n)."""
    columns, samples = columns.view(torch.int32), len(slot)
    out = torch.empty(slots, 2, n, dtype=torch.int32, device=columns.device)

    def run(tactic: dict) -> None:
        block = 32 * tactic["BLOCK_H"]
        across = triton.cdiv(n, tactic["BLOCK_F"]) * triton.cdiv(slots, SLOTS)
        spans = max(1, min(triton.cdiv(PROGRAMS, across), triton.cdiv(samples, 16 * block)))
        span = triton.cdiv(triton.cdiv(samples, spans), block) * block
        grid = triton.cdiv(n, tactic["BLOCK_F"]), spans, triton.cdiv(slots, SLOTS)
        _histogram_kernel[grid](
            *(columns, weights, slot, out.zero_(), samples, columns.shape[1], n, slots, span),
            **{"SLOTS": SLOTS, **tactic},
        )

    launch("histogram", TACTICS, (n, samples, slots), run, columns)
    return out


def ordered_sums(x: Tensor) -> Tensor:
    """float64 (J, T) -> the sum of each row, from the left: float64 (J,)."""
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    with on_device_of(x):
        _ordered_sums_kernel[(triton.cdiv(len(x), 32),)](
            *(x.contiguous(), out, *x.shape), BLOCK=32, num_warps=1
        )
    return out


def best_splits(
    histogram: Tensor, totals: Tensor, allowed: Tensor, min_leaf: int, l2: float
) -> Tensor:
    """int32 (slots, 2, n), int64 (slots, 2), int8 (n,) -> feature, score, samples and sum of
    residuals with it: float64 (slots, 4)."""
    slots, _, n = histogram.shape
    out = torch.empty(slots, 4, dtype=torch.float64, device=histogram.device)
    with on_device_of(histogram):
        _best_split_kernel[(slots,)](
            *(histogram, totals, allowed, out, n, min_leaf, l2),
            BLOCK_F=256,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return out
