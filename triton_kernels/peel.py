"""peel: the loop of rounds, by the rules of csrc/peel.h. Bins, candidates and terms stay on the
device; the host reads how many there are, to know what comes next."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from ..codes import BchCode
from . import on_device_of
from .peel_bins import _take_kernel, take_warps
from .peel_search import Candidates, Problem, Search, Stage
from .peel_squares import fit

SIGNIFICANT = 4.5  # standard errors a fitted coefficient must be from zero
SETTLED = 0.02  # a bin whose energy a refit moved by less is not decoded again
MOST_DROPS = 2  # times a set may be found and dropped before it is left alone
MOST_ROUNDS = 200


def peel(
    bins: Tensor,
    code: BchCode,
    delay_columns: Tensor,
    hashes: Tensor,
    degree: int,
    floor: float,
    chase: int,
) -> tuple[Tensor, Tensor]:
    with on_device_of(bins):
        peeler = Peeler(bins, Problem.of(bins, code, delay_columns, hashes, degree, floor))
        peeler.run(chase)
    sizes = (peeler.features >= 0).sum(1, dtype=torch.int32)
    _, place = torch.cat([sizes[:, None], peeler.features], 1).unique(dim=0, return_inverse=True)
    order = place.argsort()
    return peeler.features[order], peeler.coefs[order]


class Peeler:
    """What is left of the bins, and the terms taken out of them."""

    def __init__(self, bins: Tensor, problem: Problem) -> None:
        self.q, device = problem, bins.device
        self.target = bins.transpose(1, 2).reshape(-1, problem.shifts)  # (C B, P)
        self.target = self.target.clone(memory_format=torch.contiguous_format)
        self.residual = self.target.clone()
        self.energy = self.target.square().sum(1)  # (C B,)
        self.stale = torch.ones(len(self.target), dtype=torch.bool, device=device)
        self.features = torch.empty(0, problem.code.t, dtype=torch.int32, device=device)  # (S, t)
        self.coefs = self.target.new_empty(0)
        self.dropped = self.features  # sets that a refit dropped, and how often
        self.drops = torch.empty(0, dtype=torch.int64, device=device)
        self.capacity = len(self.target) * max(1, problem.shifts // 4)
        self.fitted = True
        self.search = Search(problem, self.residual, self.energy, self.stale)

    def run(self, chase: int) -> None:
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
            if self.take(self.search.candidates(stages[stage], self.features)):
                later = later or stage > nearby
                continue
            if self.refit():
                continue
            stage += 1
            if stage == len(stages):
                if not grown:
                    grown = True
                    later = self.add_low_orders() or later
                if not later:
                    break
                stage, later = nearby, False
            self.stale.fill_(True)
        self.refit()

    def take(self, found: Candidates) -> bool:
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
        fresh = torch.zeros_like(known[: len(order)])
        state = known.new_zeros(2)
        state[:1].fill_(before)
        block_c = triton.next_power_of_2(self.q.groups)
        block_p = triton.next_power_of_2(self.q.shifts)
        _take_kernel[(1,)](
            *(self.residual, self.energy, self.stale.view(torch.int8), bins, bits),
            *(found.groups[order], bound[order], slot, known, coefs, fresh, state),
            *(len(order), self.q.shifts, self.q.groups, self.capacity, self.q.floor),
            WORDS=bits.shape[1],
            BLOCK_C=block_c,
            BLOCK_P=block_p,
            num_warps=take_warps(block_c, block_p),
        )
        new = fresh.bool()
        self.features = torch.cat([self.features, features[new]])
        self.coefs = torch.cat([coefs[own], coefs[slot[new]]])
        taken = int(state[1])
        self.fitted = self.fitted and not taken
        return taken > 0

    def refit(self) -> bool:
        """Least squares over all bins, without the terms that are not significant; False where
        nothing changed since the last time."""
        if self.fitted:
            return False
        self.fitted = True
        before = self.energy.clone()
        weak = self.coefs_fitted().abs() < SIGNIFICANT * self.error()
        if bool(weak.any()):
            self.drop(weak)
            self.coefs_fitted()
        self.stale |= (self.energy - before).abs() > SETTLED * before
        return True

    def coefs_fitted(self) -> Tensor:
        at = self.q.placed(self.features)
        self.coefs = fit(self.target, self.residual, self.energy, *at, self.coefs)
        return self.coefs

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

    def add_low_orders(self) -> bool:
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
                self.coefs_fitted()
                if (score := self.score()) < least:
                    least, best = score, (self.features, self.coefs)
            larger = math.comb(n, order + 1)
            if order == self.q.degree or len(self.features) + larger > self.capacity:
                break
            level = extended(level, order, n, larger)
        self.features, self.coefs = best
        self.fitted = False
        self.refit()
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
