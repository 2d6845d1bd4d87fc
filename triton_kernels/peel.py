"""peel: the loop of rounds, by the rules of csrc/peel.h. Bins, candidates and terms stay on the
device; the host reads how many there are, to know what comes next.

Several outputs go through their rounds side by side. Each is a generator that asks for what is best
done for all of them in the same launches (to decode, to take candidates, to fit) and goes on with
the answer, which is that of the output alone.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from itertools import accumulate
from typing import Any, NamedTuple, cast

import torch
import triton
from torch import Tensor

from ..codes import BchCode
from ..transfers import down, up
from . import on_device_of
from .peel_bins import _take_kernel, take_shape
from .peel_search import Candidates, Decode, Problem, Search, Stage, decode
from .peel_squares import Terms, fit

SIGNIFICANT = 4.5  # standard errors a fitted coefficient must be from zero
SETTLED = 0.02  # a bin whose energy a refit moved by less is not decoded again
MOST_DROPS = 2  # times a set may be found and dropped before it is left alone
MOST_ROUNDS = 200


class Take(NamedTuple):
    """Asked for: to go through candidates, likeliest first. Fields as _take_kernel has them, slots
    and bins counted from those of the output; terms: how many there are."""

    bins: Tensor
    bits: Tensor
    groups: Tensor
    bound: Tensor
    slot: Tensor
    known: Tensor
    coefs: Tensor
    terms: int


class Taken(NamedTuple):
    """The answer: which candidates became terms, coefficients by slot, how many were taken."""

    fresh: Tensor
    coefs: Tensor
    count: int


Rounds = Generator[Any, Any, Any]  # asks Decode, Take or Terms


def peel_many(
    bins: Tensor,
    code: BchCode,
    delay_columns: Tensor,
    hashes: Tensor,
    degree: int,
    floors: list[float],
    chase: int,
) -> list[tuple[Tensor, Tensor]]:
    """Features and coefs of each of q outputs, bins (q, C, P, B)."""
    with on_device_of(bins):
        all_bins = Bins(bins)
        tables = code, delay_columns, hashes, degree
        peelers = [
            Peeler(all_bins, i, Problem.of(own, *tables, floor))
            for i, (own, floor) in enumerate(zip(bins, floors, strict=True))
        ]
        side_by_side(peelers, [own.run(chase) for own in peelers])
    return [own.ordered() for own in peelers]


class Bins:
    """The bins of all outputs, (q C B, P), and what is left of them."""

    def __init__(self, bins: Tensor) -> None:
        shifts = bins.shape[2]
        self.target = bins.transpose(2, 3).reshape(-1, shifts)
        self.target = self.target.clone(memory_format=torch.contiguous_format)
        self.residual = self.target.clone()
        self.energy = self.target.square().sum(1)  # (q C B,)
        self.stale = torch.ones(len(self.target), dtype=torch.bool, device=bins.device)
        self.size = len(self.target) // len(bins)  # of an output


def side_by_side(peelers: list[Peeler], running: list[Rounds]) -> list[Any]:
    """Runs a generator of each, as far as it comes alone, then what they ask for together; what
    each returns."""
    bins, answers = peelers[0].bins, cast(list[Any], [None] * len(peelers))
    going = list(range(len(peelers)))
    while going:
        asked: dict[Any, list[tuple[int, Any]]] = {}
        for i in going:
            try:
                request = running[i].send(answers[i])
            except StopIteration as end:
                answers[i] = end.value
                continue
            kind = type(request), getattr(request, "flips", 0)
            asked.setdefault(kind, []).append((i, request))
        for (kind, _), requests in asked.items():
            who, what = zip(*requests, strict=True)
            if kind is Decode:
                found = decode(list(what), peelers[0].q)
            elif kind is Take:
                found = take([peelers[i] for i in who], list(what))
            else:
                found = fit(bins.target, bins.residual, bins.energy, bins.size, list(what))
            for i, answer in zip(who, found, strict=True):
                answers[i] = answer
        going = sorted(i for requests in asked.values() for i, _ in requests)
    return answers


def take(peelers: list[Peeler], asked: list[Take]) -> list[Taken]:
    """One program an output."""
    q, bins = peelers[0].q, peelers[0].bins
    device = bins.target.device
    counts, slots = [len(own.slot) for own in asked], [len(own.known) for own in asked]
    offsets = [0, *accumulate(slots)]
    pairs = list(zip(asked, peelers, strict=True))
    coefs = torch.cat([own.coefs for own in asked])
    fresh = torch.zeros(sum(counts), dtype=torch.int32, device=device)
    state = torch.tensor([(own.terms, 0) for own in asked], dtype=torch.int32)
    state = up(state, device)
    bounds = up(torch.tensor([0, *accumulate(counts)]), device)
    floors = up(torch.tensor([own.q.floor for own in peelers], dtype=torch.float64), device)
    block_p = triton.next_power_of_2(q.shifts)
    words = asked[0].bits.shape[1]
    _take_kernel[(len(asked),)](
        *(bins.residual, bins.energy, bins.stale.view(torch.int8)),
        *(torch.cat([own.bins + peeler.offset for own, peeler in pairs]),),
        *(torch.cat([own.bits for own in asked]), torch.cat([own.groups for own in asked])),
        torch.cat([own.bound for own in asked]),
        torch.cat([own.slot + offset for own, offset in zip(asked, offsets, strict=False)]),
        *(torch.cat([own.known for own in asked]), coefs, fresh, state, bounds, floors),
        *(q.shifts, q.groups, peelers[0].capacity),
        **{"WORDS": words, **take_shape(q.groups, block_p)},
    )
    taken = down(state[:, 1]).tolist()
    parts = fresh.bool().split(counts), coefs.split(slots), taken
    return [Taken(*part) for part in zip(*parts, strict=True)]


class Peeler:
    """What is left of the bins of one output, and the terms taken out of them."""

    def __init__(self, bins: Bins, index: int, problem: Problem) -> None:
        self.q, self.bins, self.offset = problem, bins, index * bins.size
        own = slice(self.offset, self.offset + bins.size)
        self.target, self.residual = bins.target[own], bins.residual[own]  # (C B, P)
        self.energy, self.stale = bins.energy[own], bins.stale[own]  # (C B,)
        device = self.target.device
        self.features = torch.empty(0, problem.code.t, dtype=torch.int32, device=device)  # (S, t)
        self.coefs = self.target.new_empty(0)
        self.dropped = self.features  # sets that a refit dropped, and how often
        self.drops = torch.empty(0, dtype=torch.int64, device=device)
        self.capacity = len(self.target) * max(1, problem.shifts // 4)
        self.fitted = True
        self.search = Search(problem, self.residual, self.energy, self.stale)

    def ordered(self) -> tuple[Tensor, Tensor]:
        """Features and coefs, by size, then by features."""
        sizes = (self.features >= 0).sum(1, dtype=torch.int32)
        keys = torch.cat([sizes[:, None], self.features], 1)
        order = keys.unique(dim=0, return_inverse=True)[1].argsort()
        return self.features[order], self.coefs[order]

    def run(self, chase: int) -> Rounds:
        stages = [Stage("single", 0, 1.0)]
        stages += [Stage("single", flips, 2.0) for flips in range(3, chase, 3)]
        nearby = len(stages)
        if chase:
            stages += [Stage("nearby", 0, 0.0), Stage("single", chase, 1.0)]
            stages += [Stage("pairs", chase, 0.0)]
        later = False  # found something after the last look nearby
        grown = not chase  # low orders were tried
        stage = 0
        for _ in range(MOST_ROUNDS):
            found = yield from self.search.candidates(stages[stage], self.features)
            if (yield from self.take(found)):
                later = later or stage > nearby
                continue
            if (yield from self.refit()):
                continue
            stage += 1
            if stage == len(stages):
                if not grown:
                    grown = True
                    added = yield from self.add_low_orders()
                    later = added or later
                if not later:
                    break
                stage, later = nearby, False
            self.stale.fill_(True)
        yield from self.refit()

    def take(self, found: Candidates) -> Rounds:
        """Subtracts the candidates that hold up, likeliest first; whether there were any."""
        if not len(found.ratio):
            return False
        before, drops = len(self.features), len(self.dropped)
        _, slots = torch.cat([self.features, self.dropped, found.features]).unique(
            dim=0, return_inverse=True
        )
        own, dropped, slot = slots.split([before, drops, len(found.ratio)])
        known = torch.zeros(len(slots), dtype=torch.int32, device=slots.device)
        known[own] = 1
        coefs = self.coefs.new_zeros(len(slots))
        coefs[own] = self.coefs
        often = torch.zeros_like(slots)
        often[dropped] = self.drops
        left_alone = often[slot] >= MOST_DROPS
        bound = torch.where(left_alone, math.inf, found.bound)

        order = found.groups.argsort(stable=True)  # what decides on a tie of the others, first
        order = order[slot[order].argsort(stable=True)]
        order = order[found.ratio[order].argsort(stable=True, descending=True)]
        slot, features = slot[order], found.features[order]
        bins, bits = self.q.placed(features)
        given = bins, bits, found.groups[order], bound[order], slot, known, coefs
        fresh, coefs, taken = yield Take(*given, before)
        self.features = torch.cat([self.features, features[fresh]])
        self.coefs = torch.cat([coefs[own], coefs[slot[fresh]]])
        self.fitted = self.fitted and not taken
        return taken > 0

    def refit(self) -> Rounds:
        """Least squares over all bins, without the terms that are not significant; False where
        nothing changed since the last time."""
        if self.fitted:
            return False
        self.fitted = True
        before = self.energy.clone()
        yield from self.fit()
        weak = self.coefs.abs() < SIGNIFICANT * self.error()
        if bool(weak.any()):
            self.drop(weak)
            yield from self.fit()
        self.stale |= (self.energy - before).abs() > SETTLED * before
        return True

    def fit(self) -> Rounds:
        bins, bits = self.q.placed(self.features)
        self.coefs = yield Terms(bins + self.offset, bits, self.coefs, self.offset)

    def error(self) -> Tensor:
        """The standard error of a coefficient, rounding included in full: unlike noise it does not
        average out over the readings of a term."""
        spare = max(1, self.target.numel() - len(self.coefs))
        meets = self.q.groups * self.q.shifts
        return (self.energy.sum() / spare / meets).sqrt() + self.q.floor

    def drop(self, weak: Tensor) -> None:
        gone = self.features[weak]
        often = torch.cat([self.drops, self.drops.new_ones(len(gone))])
        self.dropped, place = torch.cat([self.dropped, gone]).unique(dim=0, return_inverse=True)
        self.drops = often.new_zeros(len(self.dropped)).index_add_(0, place, often)
        self.features, self.coefs = self.features[~weak], self.coefs[~weak]

    def add_low_orders(self) -> Rounds:
        """Adds all sets up to some order where that is worth its parameters by generalised
        cross-validation, without those that are not significant; whether it did."""
        least, best = self.score(), (self.features, self.coefs)
        before, n = len(self.features), self.q.code.n
        level = self.features.new_full((1, self.q.code.t), -1)
        for order in range(self.q.degree + 1):
            both = torch.cat([self.features, level])
            _, place = both.unique(dim=0, return_inverse=True)
            known = torch.zeros(len(both), dtype=torch.bool, device=both.device)
            known[place[: len(self.features)]] = True
            fresh = level[~known[place[len(self.features) :]]]
            self.features = torch.cat([self.features, fresh])
            self.coefs = torch.cat([self.coefs, self.coefs.new_zeros(len(fresh))])
            if order > 0:
                yield from self.fit()
                if (score := self.score()) < least:
                    least, best = score, (self.features, self.coefs)
            larger = math.comb(n, order + 1)
            if order == self.q.degree or len(self.features) + larger > self.capacity:
                break
            level = extended(level, order, n, larger)
        self.features, self.coefs = best
        self.fitted = False
        yield from self.refit()
        return len(best[1]) > before

    def score(self) -> float:
        """Energy / (1 - parameters / readings)**2."""
        return float(self.energy.sum()) / (1 - len(self.coefs) / self.target.numel()) ** 2


def extended(level: Tensor, order: int, n: int, size: int) -> Tensor:
    """Every set of `order` features, (L, t), with one more behind its last: (size, t)."""
    first = level[:, order - 1] + 1 if order else torch.zeros_like(level[:, 0])  # (L,)
    counts = (n - first).long()
    out = level.repeat_interleave(counts, 0, output_size=size)
    start = (first - (counts.cumsum(0) - counts)).repeat_interleave(counts, output_size=size)
    out[:, order] = start + torch.arange(size, device=level.device)
    return out
