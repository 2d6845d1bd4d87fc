"""bch_decode: hard and Chase decoding of rows of readings.

A lane is one of the words that a row is tried as: a flip pattern of its weakest parities, with
either sign of reading 0. Syndromes for each row; a locator for each lane; its roots by trying every
position (Chien 1964), if it has any; a score; and for each row the best lane.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codes import BchCode
from . import on_device_of
from .gf import connection, splits

LANES = 256  # of a program that finds locators or scores
WARPS = 8  # that find locators; with half of both an H100's assembler spills
POSITIONS = 512  # tried at a time
MOST_LANES = 1 << 20  # at a time


@triton.jit
def _syndromes_kernel(
    readings_ptr,
    table_ptr,
    syndromes_ptr,
    flips_ptr,
    parities,
    flips,
    T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """One program a row. syndromes (rows, 2, T): of the parities as measured, and all reversed;
    flips (rows, flips, T): what each of the weakest parities adds."""
    row = tl.program_id(0).to(tl.int64)
    p, j = tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_T)
    reading_ptr = readings_ptr + row * (1 + parities)
    reading = tl.load(reading_ptr + 1 + p, mask=p < parities, other=0.0)
    one = (reading < 0) != (tl.load(reading_ptr) < 0)  # (BLOCK_R,)
    inside = (p < parities)[:, None] & (j < T)[None, :]
    adds = tl.load(table_ptr + p[:, None] * T + j[None, :], mask=inside, other=0)
    measured = tl.xor_sum(tl.where(one[:, None], adds, 0), axis=0)  # (BLOCK_T,)
    reverse = tl.xor_sum(tl.where(one[:, None], 0, adds), axis=0)
    at = syndromes_ptr + row * 2 * T + j
    tl.store(at, measured, mask=j < T)
    tl.store(at + T, reverse, mask=j < T)
    strength = tl.where(p < parities, tl.abs(reading), float("inf"))
    for i in range(flips):
        weakest = tl.min(strength, axis=0)
        chosen = tl.min(tl.where(strength == weakest, p, BLOCK_R), axis=0)  # the first on a tie
        chosen = tl.minimum(chosen, parities - 1)  # where all are NaN
        add = tl.load(table_ptr + chosen * T + j, mask=j < T, other=0)
        tl.store(flips_ptr + (row * flips + i) * T + j, add, mask=j < T)
        strength = tl.where(p == chosen, float("inf"), strength)


@triton.jit
def _locators_kernel(
    exp_ptr,
    log_ptr,
    syndromes_ptr,
    flips_ptr,
    locators_ptr,
    degree_ptr,
    lanes,
    m,
    FLIPS: tl.constexpr,
    T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of lanes; lane (row << FLIPS + 1) + 2 pattern + sign. degree -1 where no
    set is within reach."""
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    inside = lane < lanes
    row, sign = lane >> (FLIPS + 1), lane & 1
    pattern = (lane >> 1) & ((1 << FLIPS) - 1)
    gray = pattern ^ (pattern >> 1)  # patterns differ from the ones before them in one flip
    odd = ()
    for j in tl.static_range(T):
        syndrome = tl.load(syndromes_ptr + (2 * row + sign) * T + j, mask=inside, other=0)
        for i in tl.static_range(FLIPS):
            flip = tl.load(flips_ptr + (row * FLIPS + i) * T + j, mask=inside, other=0)
            syndrome ^= tl.where((gray >> i) & 1 == 1, flip, 0)
        odd = odd + (syndrome,)
    c, degree = connection(exp_ptr, log_ptr, odd, (1 << m) - 1, T)
    degree = tl.where(splits(exp_ptr, log_ptr, c, m, T), degree, -1)
    tl.store(degree_ptr + lane, degree, mask=inside)
    for i in tl.static_range(T):
        tl.store(locators_ptr + lane * T + i, c[i + 1], mask=inside)


@triton.jit
def _roots_kernel(
    exp_ptr,
    log_ptr,
    columns_ptr,
    locators_ptr,
    degree_ptr,
    features_ptr,
    sizes_ptr,
    bits_ptr,
    m,
    parities,
    n,
    T: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a lane. Position p is a root where 1 + sum_i c_i alpha**(-i p) = 0: a wrong
    parity, or feature p - parities. bits (lanes, WORDS): the delays at which the set's sign is -1.
    """
    lane = tl.program_id(0).to(tl.int64)
    degree = tl.load(degree_ptr + lane)
    size = tl.full((), -1, tl.int32)
    if degree >= 0:
        order = (1 << m) - 1
        roots = tl.zeros((), tl.int32)
        size = tl.zeros((), tl.int32)
        word = tl.arange(0, WORDS)
        bits = tl.zeros((WORDS,), tl.int64)
        for start in range(0, parities + n, BLOCK):
            position = start + tl.arange(0, BLOCK)  # (BLOCK,)
            value = tl.full((BLOCK,), 1, tl.int32)
            for i in tl.static_range(1, T + 1):
                c = tl.load(locators_ptr + lane * T + i - 1)
                exponent = (tl.load(log_ptr + c) + i * (order - position % order)) % order
                value ^= tl.where(c != 0, tl.load(exp_ptr + exponent), 0)
            root = (value == 0) & (position < parities + n)
            feature = position - parities
            found = root & (feature >= 0)
            place = size + tl.cumsum(found.to(tl.int32), axis=0) - 1
            tl.store(features_ptr + lane * T + place, feature, mask=found)
            at = columns_ptr + (feature.to(tl.int64) * WORDS)[:, None] + word[None, :]
            bits ^= tl.xor_sum(tl.load(at, mask=found[:, None], other=0), axis=0)
            roots += tl.sum(root.to(tl.int32), axis=0)
            size += tl.sum(found.to(tl.int32), axis=0)
        size = tl.where(roots == degree, size, -1)
        tl.store(bits_ptr + lane * WORDS + word, bits)
    tl.store(sizes_ptr + lane, size)


@triton.jit
def _scores_kernel(
    readings_ptr,
    sizes_ptr,
    bits_ptr,
    scores_ptr,
    lanes,
    delays,
    FLIPS: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """|sum_p (-1)**<d_p, k> reading_p| of each lane's set, added from the left; -1 without one."""
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    found = lane < lanes
    found = found & (tl.load(sizes_ptr + lane, mask=found, other=-1) >= 0)
    reading_ptr = readings_ptr + (lane >> (FLIPS + 1)) * delays
    total = tl.zeros((BLOCK,), tl.float64)
    for p in range(delays):
        word = tl.load(bits_ptr + lane * WORDS + p // 64, mask=found, other=0)
        reading = tl.load(reading_ptr + p, mask=found, other=0.0)
        total += tl.where((word >> (p % 64)) & 1 == 1, -reading, reading)
    score = tl.where(found, tl.abs(total), -1.0)
    tl.store(scores_ptr + lane, score, mask=lane < lanes)


@triton.jit
def _choose_kernel(
    scores_ptr,
    sizes_ptr,
    features_ptr,
    out_ptr,
    counts_ptr,
    FLIPS: tl.constexpr,
    T: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row: the lane of the largest score, the first on a tie."""
    row = tl.program_id(0).to(tl.int64)
    first = row << (FLIPS + 1)
    most = tl.full((BLOCK,), -1.0, tl.float64)
    best = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, 2 << FLIPS, BLOCK):
        lane = start + tl.arange(0, BLOCK)  # (BLOCK,)
        score = tl.load(scores_ptr + first + lane)
        best = tl.where(score > most, lane, best)
        most = tl.maximum(score, most)
    top = tl.max(most, axis=0)
    chosen = first + tl.min(tl.where(most == top, best, 2 << FLIPS), axis=0)
    size = tl.where(top >= 0, tl.load(sizes_ptr + chosen), -1)
    j = tl.arange(0, BLOCK_T)
    feature = tl.load(features_ptr + chosen * T + j, mask=j < size, other=-1)
    tl.store(out_ptr + row * T + j, feature, mask=j < T)
    tl.store(counts_ptr + row, size)


def bch_decode(readings: Tensor, code: BchCode, chase: int) -> tuple[Tensor, Tensor]:
    readings, flips = readings.contiguous(), min(chase, code.parities)
    features = torch.empty(len(readings), code.t, dtype=torch.int32, device=readings.device)
    counts = torch.empty(len(readings), dtype=torch.int32, device=readings.device)
    code = code.on(readings.device)
    words = triton.next_power_of_2(code.columns.shape[1])
    columns = torch.nn.functional.pad(code.columns, (0, words - code.columns.shape[1]))
    step = max(1, MOST_LANES >> flips + 1)
    with on_device_of(readings):
        for start in range(0, len(readings), step):
            rows = slice(start, start + step)
            tables = code.exp, code.log, code.syndromes, columns
            decode(readings[rows], code, flips, tables, features[rows], counts[rows])
    return features, counts


def decode(
    readings: Tensor,
    code: BchCode,
    flips: int,
    tables: tuple[Tensor, ...],
    features: Tensor,
    counts: Tensor,
) -> None:
    """Into features (rows, t) and counts (rows,)."""
    columns, t, rows = tables[3], code.t, len(readings)
    locators, degrees = find_locators(readings, code, flips, tables)
    found, sizes, bits = find_roots(locators, degrees, code, tables)
    words, lanes, scores = columns.shape[1], len(sizes), readings.new_empty(len(sizes))
    _scores_kernel[(triton.cdiv(lanes, LANES),)](
        *(readings, sizes, bits, scores, lanes, code.delays),
        FLIPS=flips,
        WORDS=words,
        BLOCK=LANES,
    )
    _choose_kernel[(rows,)](
        *(scores, sizes, found, features, counts),
        FLIPS=flips,
        T=t,
        BLOCK_T=triton.next_power_of_2(t),
        BLOCK=min(2 << flips, 1024),
    )


def find_locators(
    readings: Tensor, code: BchCode, flips: int, tables: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Of every lane of contiguous readings (rows, 1 + r): the locator but for its 1, int32
    (lanes, t), and its degree (lanes,), -1 where it has not as many roots."""
    exp, log, table, _ = tables
    rows, t = len(readings), code.t
    lanes = rows << flips + 1
    syndromes, flip = exp.new_empty(rows, 2, t), exp.new_empty(rows, flips, t)
    locators, degrees = exp.new_empty(lanes, t), exp.new_empty(lanes)
    _syndromes_kernel[(rows,)](
        *(readings, table, syndromes, flip, code.parities, flips),
        T=t,
        BLOCK_R=triton.next_power_of_2(code.parities),
        BLOCK_T=triton.next_power_of_2(t),
    )
    _locators_kernel[(triton.cdiv(lanes, LANES),)](
        *(exp, log, syndromes, flip, locators, degrees, lanes, code.m),
        FLIPS=flips,
        T=t,
        BLOCK=LANES,
        num_warps=WARPS,
    )
    return locators, degrees


def find_roots(
    locators: Tensor, degrees: Tensor, code: BchCode, tables: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """The set of every lane, int32 (lanes, t), -1 beyond the last; its size (lanes,), -1 where
    there is none; and the words of its signs in the columns of `tables` (lanes, words)."""
    exp, log, _, columns = tables
    lanes, words = len(degrees), columns.shape[1]
    found, sizes = exp.new_full((lanes, code.t), -1), exp.new_empty(lanes)
    bits = columns.new_empty(lanes, words)
    _roots_kernel[(lanes,)](
        *(exp, log, columns, locators, degrees, found, sizes, bits),
        *(code.m, code.parities, code.n),
        T=code.t,
        WORDS=words,
        BLOCK=min(POSITIONS, triton.next_power_of_2(code.parities + code.n)),
    )
    return found, sizes, bits
