"""Where peel looks for new terms, in what is left of the bins: csrc/peel_search.h on the device."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..codes import BchCode
from ..transfers import down, up
from .bch_decode import MOST_LANES, find_locators, find_roots
from .peel_bins import SETS, VALUES, _nearby_kernel, _place_kernel, _ratios_kernel

# Log likelihood ratios that a set must reach by the groups that had no part in finding it.
ACCEPT_SINGLE = 5.0
ACCEPT_PAIR = 2.0  # it matched two bin indices already
ACCEPT_NEARBY = 2.0  # beyond the logarithm of the number of sets tried

MOST_POOL = 1024  # features whose pairs are tried
MOST_PAIRS = 1 << 22  # of a base and a feature, at a time


class Stage(NamedTuple):
    """One way of looking for terms, tried when all before it find nothing."""

    kind: str  # single, pairs or nearby
    flips: int  # of the Chase decoder
    screen: float  # standard deviations above the noise a bin's energy must be to be decoded


class Candidates(NamedTuple):
    """Sets that may be terms."""

    features: Tensor  # int32 (N, t), ascending, -1 beyond the last
    groups: Tensor  # int32 (N,), bit g: found in a bin of group g
    ratio: Tensor  # float64 (N,), log likelihood ratio by all groups
    bound: Tensor  # float64 (N,), what the other groups' must reach


class Decode(NamedTuple):
    """What a search asks for: the sets that rows of readings (rows, 1 + r) decode to."""

    readings: Tensor
    flips: int


class Decoded(NamedTuple):
    """The lanes that may have a set, ascending, with what find_roots says of them."""

    lane: Tensor
    features: Tensor
    sizes: Tensor
    bits: Tensor


Asked = Generator[Decode, Decoded, Candidates]


def decode(asked: list[Decode], q: Problem) -> list[Decoded]:
    """Several rows of readings in the same launches; all with as many flips."""
    flips, ends = asked[0].flips, [0, *accumulate(len(own.readings) for own in asked)]
    readings = torch.cat([own.readings for own in asked])
    parts, step = [], max(1, MOST_LANES >> flips + 1)
    for start in range(0, len(readings), step):
        rows = readings[start : start + step].contiguous()
        locators, degrees = find_locators(rows, q.code, flips, q.tables)
        lane = (degrees >= 0).nonzero()[:, 0]
        roots = find_roots(locators[lane], degrees[lane], q.code, q.tables)
        parts.append(Decoded(lane + (start << flips + 1), *roots))
    found = Decoded(*(torch.cat(x) for x in zip(*parts, strict=True)))
    if len(asked) == 1:
        return [found]
    edges = up(torch.tensor(ends) << flips + 1, readings.device)
    at = down(torch.searchsorted(found.lane, edges)).tolist()
    spans = zip(pairwise(at), ends, strict=False)
    return [
        Decoded(found.lane[a:b] - (end << flips + 1), *(x[a:b] for x in found[1:]))
        for (a, b), end in spans
    ]


@dataclass(frozen=True)
class Problem:
    """What does not change, on the device."""

    code: BchCode
    groups: int
    shifts: int
    width: int  # B
    degree: int
    floor: float
    hashes: Tensor  # int32 (C, n)
    tables: tuple[Tensor, ...]  # exp, log, syndromes; and the signs of features, int64 (n, WORDS)

    @classmethod
    def of(
        cls,
        bins: Tensor,
        code: BchCode,
        delay_columns: Tensor,
        hashes: Tensor,
        degree: int,
        floor: float,
    ) -> Problem:
        code, columns = code.on(bins.device), delay_columns.to(bins.device)
        words = columns.shape[1]
        columns = torch.nn.functional.pad(columns, (0, triton.next_power_of_2(words) - words))
        tables = code.exp, code.log, code.syndromes, columns
        hashes = hashes.to(bins.device).contiguous()
        return cls(code, *bins.shape, degree, floor, hashes, tables)

    @property
    def rows(self) -> dict[str, int]:
        """The constants of a kernel that has sets or bins as rows of readings."""
        block = triton.next_power_of_2(self.shifts)
        size = max(1, VALUES // block)
        return {"WORDS": self.tables[3].shape[1], "BLOCK": size, "BLOCK_P": block}

    def placed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The bins of sets, int32 (S, C), and their signs as bits, int64 (S, WORDS)."""
        sets, columns = len(features), self.tables[3]
        bins = features.new_empty(sets, self.groups)
        bits = columns.new_empty(sets, columns.shape[1])
        if sets:
            _place_kernel[(triton.cdiv(sets, SETS),)](
                *(features.contiguous(), self.hashes, columns, bins, bits),
                *(sets, self.code.n, self.groups, self.width.bit_length() - 1),
                T=self.code.t,
                WORDS=columns.shape[1],
                BLOCK_C=triton.next_power_of_2(self.groups),
                BLOCK=SETS,
            )
        return bins, bits


def nothing(q: Problem) -> Candidates:
    none = torch.empty(0, dtype=torch.float64, device=q.hashes.device)
    return Candidates(q.hashes.new_empty(0, q.code.t), q.hashes.new_empty(0), none, none)


class Search:
    """Looks at the residual (C B, P), its energy (C B,), and which bins changed since they were
    last decoded, `stale` (C B,), which decoding clears."""

    def __init__(self, problem: Problem, residual: Tensor, energy: Tensor, stale: Tensor) -> None:
        self.q, self.residual, self.energy, self.stale = problem, residual, energy, stale

    def candidates(self, stage: Stage, terms: Tensor) -> Asked:
        if stage.kind == "nearby":
            return self.nearby(terms)
        shifts = self.q.shifts
        least = self.noise() * (shifts + stage.screen * math.sqrt(2 * shifts))
        live = self.energy > least  # else a zero-ton
        if stage.kind == "pairs":
            jobs = self.correlated(live.nonzero()[:, 0])
        else:
            jobs = (live & self.stale).nonzero().expand(-1, 2)
        self.stale.fill_(False)
        step = max(1, MOST_LANES >> stage.flips + 1)
        parts = []
        for some in jobs.split(step):
            part = yield from self.decoded(some, stage.flips)
            parts.append(part)
        return Candidates(*(torch.cat(x) for x in zip(*parts, strict=True)))

    def noise(self) -> Tensor:
        """Variance of one reading, from the quarter of the bins with the least energy: few of those
        hold a term."""
        below_mean = 0.674 * math.sqrt(2 / self.q.shifts)  # of a chi-squared lower quartile
        quarter = self.energy.sort()[0][len(self.energy) // 4]
        variance = quarter / self.q.shifts / max(0.1, 1 - below_mean)
        return variance.clamp(min=self.q.floor**2)

    def decoded(self, jobs: Tensor, flips: int) -> Asked:
        """The likeliest of the sets that each job, a bin twice or two bins (N, 2), decodes to and
        that fall in the job's bins."""
        q, pair = self.q, jobs[:, 0] != jobs[:, 1]
        if not len(jobs):
            return nothing(q)
        readings = self.residual[jobs[:, 0]]
        readings = torch.where(pair[:, None], readings + self.residual[jobs[:, 1]], readings)
        flips = min(flips, q.code.parities)
        lane, features, sizes, bits = yield Decode(readings[:, : q.code.delays], flips)
        if not len(lane):
            return nothing(q)
        job, bins = lane >> flips + 1, q.placed(features)[0]
        at = jobs[job]  # (lanes, 2)
        inside = (bins.gather(1, at // q.width) == at).all(1) & (sizes >= 0) & (sizes <= q.degree)
        keep = inside.nonzero()[:, 0]
        job, features, bins, bits = job[keep], features[keep], bins[keep], bits[keep]
        both = 1 << jobs // q.width
        groups = (both[:, 0] | both[:, 1])[job].int()
        ratio = self.ratios(bins, bits, groups)
        order = ratio.argsort(stable=True, descending=True)
        order = order[job[order].argsort(stable=True)]
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = job[order][1:] != job[order][:-1]
        best = order[first]
        bound = torch.where(pair[job[best]], ACCEPT_PAIR, ACCEPT_SINGLE).double()
        return Candidates(features[best], groups[best], ratio[best], bound)

    def ratios(self, bins: Tensor, bits: Tensor, groups: Tensor) -> Tensor:
        ratio = self.energy.new_empty(len(bins))
        if len(bins):
            how = self.q.rows
            _ratios_kernel[(triton.cdiv(len(bins), how["BLOCK"]),)](
                *(self.residual, bins, bits, groups, ratio),
                *(len(bins), self.q.shifts, self.q.groups, self.q.floor),
                **how,
            )
        return ratio

    def correlated(self, live: Tensor) -> Tensor:
        """For each live bin and each other group, the bin there whose readings correlate best with
        its own, if they do and one of the two is stale: they are likely to share a term, and their
        sum shows it 3 dB clearer. (N, 2), distinct."""
        q, found = self.q, [live.new_empty(0, 2)]
        least = math.sqrt(2 * math.log(q.width))  # the most that B noises reach
        unit = self.residual[live] / (self.energy[live, None] / math.sqrt(q.shifts)).sqrt()
        counts = torch.bincount(live // q.width, minlength=q.groups).tolist()
        parts = list(zip(unit.split(counts), live.split(counts), strict=True))
        step = max(1, MOST_PAIRS // q.width)
        for g, (rows, at) in enumerate(parts):
            for h, (others, there) in enumerate(parts):
                if g == h or not len(there):
                    continue
                for start in range(0, len(rows), step):
                    most, match = (rows[start : start + step] @ others.T).max(1)
                    pairs = torch.stack([at[start : start + step], there[match]], 1)
                    found.append(pairs[most > least])
        jobs = torch.cat(found).sort(1)[0]
        return jobs[self.stale[jobs].any(1)].unique(dim=0)

    def nearby(self, terms: Tensor) -> Candidates:
        """Sets that need no decoding because they are few: single features, pairs, and the terms
        found so far with one feature more or less, each tested on all its bins at once."""
        q, device = self.q, self.energy.device
        pool = torch.arange(q.code.n, device=device)
        if q.code.n > MOST_POOL:
            pool = terms[terms >= 0].unique()[:MOST_POOL].long()
        singles = terms.new_full((1 + len(pool), q.code.t), -1)
        singles[1:, 0] = pool
        larger = terms[(terms >= 0).sum(1) > 1]
        bases = torch.cat([singles, larger])
        bound = math.log(len(bases) * len(pool) + 1) + ACCEPT_NEARBY
        found = [nothing(q)]
        for some in bases.split(max(1, MOST_PAIRS // max(1, len(pool)))) if len(pool) else ():
            ratio = self.nearby_ratios(some, pool)  # (bases, pool)
            row, column = (ratio >= bound).nonzero().T
            features, fits = toggled(some[row], pool[column].int(), q.degree)
            ratio = ratio[row, column][fits]
            groups = torch.zeros_like(ratio, dtype=torch.int32)
            found.append(Candidates(features[fits], groups, ratio, torch.full_like(ratio, bound)))
        return Candidates(*(torch.cat(x) for x in zip(*found, strict=True)))

    def nearby_ratios(self, bases: Tensor, pool: Tensor) -> Tensor:
        q, how = self.q, self.q.rows
        bins, bits = q.placed(bases)
        ratio = self.energy.new_empty(len(bases), len(pool))
        _nearby_kernel[(triton.cdiv(ratio.numel(), how["BLOCK"]),)](
            *(self.residual, self.energy, bins, bits, pool, q.hashes, q.tables[3], ratio),
            *(ratio.numel(), len(pool), q.code.n, q.shifts, q.groups, q.floor),
            **how,
        )
        return ratio


def toggled(features: Tensor, feature: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Sets (N, t) with a feature (N,) each put in or taken out, and where that makes a set of at
    most `degree` features, a pair made of its smaller feature only."""
    sizes = (features >= 0).sum(1)
    same = features == feature[:, None]
    there = same.any(1)
    fits = (there | (sizes < degree)) & ~((sizes == 1) & (feature <= features[:, 0]))
    none = torch.iinfo(torch.int32).max  # sorts behind every feature
    rest = features.masked_fill(same | (features < 0), none)
    more = feature.masked_fill(there, none)
    out = torch.cat([rest, more[:, None]], 1).sort(1)[0][:, : features.shape[1]]
    return out.masked_fill(out == none, -1), fits
