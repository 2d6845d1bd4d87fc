"""The kernels of a round of peeling: where sets fall, how likely each is a term, and taking terms
out of the bins.

Bins lie as (C B, P), group by group, a bin's readings together. A set has the bins that it falls
in, int32 (C,), and its signs as bits, int64 (WORDS,): bit p is set where delay p makes it -1. Sums
over P and C have one order for each number of delays and groups, on one device.
"""

from __future__ import annotations

import triton
import triton.language as tl

VALUES = 1024  # readings that a program has at a time
SETS = 64  # that a program finds the bins of


@triton.jit
def _place_kernel(
    features_ptr,
    hashes_ptr,
    columns_ptr,
    bins_ptr,
    bits_ptr,
    sets,
    n,
    groups,
    b,
    T: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """features int32 (sets, T), -1 for none -> bins (sets, C), bits (sets, WORDS)."""
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    inside = k < sets
    g, word = tl.arange(0, BLOCK_C), tl.arange(0, WORDS)
    bins = tl.zeros((BLOCK, BLOCK_C), tl.int32) + (g << b)[None, :]
    bits = tl.zeros((BLOCK, WORDS), tl.int64)
    for i in range(T):
        feature = tl.load(features_ptr + k * T + i, mask=inside, other=-1).to(tl.int64)
        there = (feature >= 0)[:, None]
        at = hashes_ptr + (g.to(tl.int64) * n)[None, :] + feature[:, None]
        bins ^= tl.load(at, mask=there & (g < groups)[None, :], other=0)
        at = columns_ptr + feature[:, None] * WORDS + word[None, :]
        bits ^= tl.load(at, mask=there, other=0)
    at = bins_ptr + (k * groups)[:, None] + g[None, :]
    tl.store(at, bins, mask=inside[:, None] & (g < groups)[None, :])
    tl.store(bits_ptr + (k * WORDS)[:, None] + word[None, :], bits, mask=inside[:, None])


@triton.jit
def signs_of(bits_ptr, rows, p, WORDS: tl.constexpr, live):
    """+-1 of the sets `rows` at the delays p: float64 (rows, p); 0 where not live."""
    word = tl.load(bits_ptr + (rows * WORDS)[:, None] + (p // 64)[None, :], mask=live, other=0)
    minus = ((word >> (p % 64)[None, :]) & 1) == 1
    return tl.where(live, tl.where(minus, -1.0, 1.0), 0.0).to(tl.float64)


@triton.jit
def fitted(readings, signs, shifts, floor):
    """What a bin says of the coefficient, by rows of readings (rows, P): its mean, and one over the
    variance of a reading about that."""
    count = shifts.to(tl.float64)
    mean = tl.sum(readings * signs, axis=1) / count
    rest = tl.sum(readings * readings, axis=1) - mean * mean * count
    return mean, 1.0 / (tl.maximum(rest, 0.0) / (count - 1.0) + floor * floor)


@triton.jit
def _ratios_kernel(
    residual_ptr,
    bins_ptr,
    bits_ptr,
    found_ptr,
    ratio_ptr,
    sets,
    shifts,
    groups,
    floor: tl.float64,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """The single-ton test: the log likelihood ratio, by all groups, of each set with the
    coefficient that the groups of its bits in `found` (all, if none) estimate, over no term."""
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    p = tl.arange(0, BLOCK_P)
    inside, floor = k < sets, tl.cast(floor, tl.float64)
    live = inside[:, None] & (p < shifts)[None, :]
    signs = signs_of(bits_ptr, k, p, WORDS, live)  # (BLOCK, BLOCK_P)
    found = tl.load(found_ptr + k, mask=inside, other=0)
    total = tl.zeros((BLOCK,), tl.float64)  # over the groups: of 1 / variance, and times the mean
    weighted = tl.zeros((BLOCK,), tl.float64)
    own_total = tl.zeros((BLOCK,), tl.float64)  # over those of `found`
    own_weighted = tl.zeros((BLOCK,), tl.float64)
    for g in range(groups):
        bin = tl.load(bins_ptr + k * groups + g, mask=inside, other=0).to(tl.int64)
        at = residual_ptr + (bin * shifts)[:, None] + p[None, :]
        mean, weight = fitted(tl.load(at, mask=live, other=0.0), signs, shifts, floor)
        own = tl.where((found == 0) | (((found >> g) & 1) == 1), weight, 0.0)
        total += weight
        weighted += weight * mean
        own_total += own
        own_weighted += own * mean
    c = own_weighted / own_total
    ratio = shifts.to(tl.float64) * (c * weighted - 0.5 * c * c * total)
    tl.store(ratio_ptr + k, ratio, mask=inside)


@triton.jit
def _nearby_kernel(
    residual_ptr,
    energy_ptr,
    bins_ptr,
    bits_ptr,
    pool_ptr,
    hashes_ptr,
    columns_ptr,
    ratio_ptr,
    pairs,
    pool,
    n,
    shifts,
    groups,
    floor: tl.float64,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Half the square of what would be a standard normal were base k with feature pool[i] toggled
    no term: its sum over each bin, weighted by how quiet the bin is. ratio (bases, pool)."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    p = tl.arange(0, BLOCK_P)
    inside, floor = pair < pairs, tl.cast(floor, tl.float64)
    live = inside[:, None] & (p < shifts)[None, :]
    k = pair // pool
    feature = tl.load(pool_ptr + pair % pool, mask=inside, other=0)  # int64
    signs = signs_of(bits_ptr, k, p, WORDS, live) * signs_of(columns_ptr, feature, p, WORDS, live)
    total = tl.zeros((BLOCK,), tl.float64)
    weight = tl.zeros((BLOCK,), tl.float64)
    for g in range(groups):
        turn = tl.load(hashes_ptr + g * n + feature, mask=inside, other=0)
        bin = tl.load(bins_ptr + k * groups + g, mask=inside, other=0) ^ turn
        energy = tl.load(energy_ptr + bin, mask=inside, other=1.0)
        quiet = 1.0 / (energy + shifts.to(tl.float64) * floor * floor)
        at = residual_ptr + (bin.to(tl.int64) * shifts)[:, None] + p[None, :]
        total += tl.sum(tl.load(at, mask=live, other=0.0) * signs, axis=1) * quiet
        weight += quiet
    tl.store(ratio_ptr + pair, total * total / weight / 2.0, mask=inside)


def take_shape(groups: int, block_p: int) -> dict[str, int]:
    """The tile of the program that takes candidates, so many groups at a time, and its warps: one
    as long as it can, for it waits for its own sums."""
    tile = min(triton.next_power_of_2(groups), max(1, 2 * VALUES // block_p))
    warps = max(1, tile * block_p // 256)
    return {"TILE": tile, "BLOCK_P": block_p, "num_warps": warps}


@triton.jit
def _take_kernel(
    residual_ptr,
    energy_ptr,
    stale_ptr,
    bins_ptr,
    bits_ptr,
    found_ptr,
    bound_ptr,
    slot_ptr,
    known_ptr,
    coefs_ptr,
    fresh_ptr,
    state_ptr,
    first_ptr,
    floor_ptr,
    shifts,
    groups,
    room,
    WORDS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """The candidates first[o] .. first[o + 1] - 1 of output o in their order, one program: each is
    taken out of its bins if, with what was taken before it gone, the groups that did not find it
    favour it by its bound.

    slot: which set it is; known and coefs (slots,): whether that is a term, and its coefficient.
    fresh: 1 for a candidate that became one. state (outputs, 2): terms there are, candidates taken.
    """
    o = tl.program_id(0)
    p, one = tl.arange(0, BLOCK_P), tl.arange(0, 1).to(tl.int64)
    floor, terms = tl.load(floor_ptr + o), tl.load(state_ptr + 2 * o)
    taken = terms * 0
    for i in range(tl.load(first_ptr + o), tl.load(first_ptr + o + 1)):
        signs = signs_of(bits_ptr, one + i, p, WORDS, (p < shifts)[None, :])
        found = tl.load(found_ptr + i)
        own = tl.zeros((TILE,), tl.float64)  # of weight, over the groups that found it
        own_mean = tl.zeros((TILE,), tl.float64)  # and of weight times mean
        other = tl.zeros((TILE,), tl.float64)
        other_mean = tl.zeros((TILE,), tl.float64)
        for first in range(0, groups, TILE):
            g = first + tl.arange(0, TILE)  # (TILE,)
            bin = tl.load(bins_ptr + i * groups + g, mask=g < groups, other=0).to(tl.int64)
            at = residual_ptr + (bin * shifts)[:, None] + p[None, :]
            live = (g < groups)[:, None] & (p < shifts)[None, :]
            readings = tl.load(at, mask=live, other=0.0)  # (TILE, BLOCK_P)
            mean, weight = fitted(readings, signs, shifts, floor)
            weight = tl.where(g < groups, weight, 0.0)
            in_it = ((found >> g) & 1) == 1
            own += tl.where(in_it, weight, 0.0)
            own_mean += tl.where(in_it, weight * mean, 0.0)
            other += tl.where(in_it, 0.0, weight)
            other_mean += tl.where(in_it, 0.0, weight * mean)
        w, wm = tl.sum(own, axis=0), tl.sum(own_mean, axis=0)
        v, vm = tl.sum(other, axis=0), tl.sum(other_mean, axis=0)
        c = tl.where(found == 0, vm, wm) / tl.where(found == 0, v, w)
        ratio = shifts.to(tl.float64) * (c * vm - 0.5 * c * c * v)
        slot = tl.load(slot_ptr + i)
        known = tl.load(known_ptr + slot)
        tl.debug_barrier()  # all threads have read it before one of them stores
        if (ratio >= tl.load(bound_ptr + i)) & ((known != 0) | (terms < room)):
            c = (wm + vm) / (w + v)
            for first in range(0, groups, TILE):
                g = first + tl.arange(0, TILE)
                bin = tl.load(bins_ptr + i * groups + g, mask=g < groups, other=0).to(tl.int64)
                at = residual_ptr + (bin * shifts)[:, None] + p[None, :]
                live = (g < groups)[:, None] & (p < shifts)[None, :]
                readings = tl.load(at, mask=live, other=0.0)
                readings -= tl.where(live, c * signs, 0.0)
                tl.store(at, readings, mask=live)
                tl.store(energy_ptr + bin, tl.sum(readings * readings, axis=1), mask=g < groups)
                tl.store(stale_ptr + bin, (bin * 0 + 1).to(tl.int8), mask=g < groups)
            tl.store(coefs_ptr + slot, tl.load(coefs_ptr + slot) + c)
            tl.store(known_ptr + slot, known * 0 + 1)
            tl.store(fresh_ptr + i, 1 - known)
            terms += 1 - known
            taken += 1
        tl.debug_barrier()  # the next candidate may read what other threads stored
    tl.store(state_ptr + 2 * o, terms)
    tl.store(state_ptr + 2 * o + 1, taken)
