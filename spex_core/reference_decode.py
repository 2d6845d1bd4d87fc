"""The decoder in plain Python: the specification of ops.bch_decode and ops.peel, for small sizes.

Textbook algorithms on one row or set at a time; csrc/bch.h and csrc/peel.h do the same fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations, zip_longest
from math import comb

import numpy as np
import torch
from torch import Tensor

from .codes import BchCode

Bin = tuple[int, int]  # group, index
# A set that may be a term, likeliest first when sorted: -(log likelihood ratio by all groups), |k|,
# k, the groups of the bins it was decoded from, what the ratio by the other groups must reach.
Candidate = tuple[float, int, tuple[int, ...], tuple[int, ...], float]


def bch_decode(readings: Tensor, code: BchCode, chase: int) -> tuple[Tensor, Tensor]:
    features = torch.full((len(readings), code.t), -1, dtype=torch.int32)
    counts = torch.full((len(readings),), -1, dtype=torch.int32)
    for row, reading in enumerate(readings.numpy()):
        best = -1.0
        for found in chase_decode(reading, code, chase):
            terms = delay_signs(code.columns[list(found)], code.delays).prod(0) * reading
            score = abs(np.cumsum(terms)[-1])  # added from the left: ties are exact
            if score > best:
                best = score
                counts[row] = len(found)
                features[row] = torch.tensor(found + (-1,) * (code.t - len(found)))
    return features, counts


def chase_decode(readings: np.ndarray, code: BchCode, flips: int) -> Iterator[tuple[int, ...]]:
    """Every set that a flip pattern of the `flips` least reliable parities decodes to, in Gray
    order, each pattern with the sign of reading 0 as measured, then reversed."""
    negative = readings[: code.delays] < 0
    parities = negative[1:] != negative[0]
    weakest = np.argsort(np.abs(readings[1 : code.delays]), kind="stable")[:flips]
    for pattern in range(2 ** len(weakest)):
        if pattern:
            parities[weakest[(pattern & -pattern).bit_length() - 1]] ^= True
        for word in (parities, ~parities):
            if (found := bch_locate(word, code)) is not None:
                yield found


def bch_locate(parities: np.ndarray, code: BchCode) -> tuple[int, ...] | None:
    """The set whose codeword is within distance t of (parities, 0, ..., 0), if there is one.

    Berlekamp-Massey (Massey 1969) finds the polynomial with a root alpha**-i for each position i
    where the two differ; then every position is tried (Chien 1964).
    """
    exp, log, order = code.exp.numpy(), code.log.numpy(), 2**code.m - 1

    def times(a: int, b: int) -> int:
        return int(exp[log[a] + log[b]]) if a and b else 0

    ones = np.flatnonzero(parities)
    syndromes = [xor(exp[j * ones % order]) for j in range(1, 2 * code.t + 1)]
    poly, length, earlier, gap, last = [1], 0, [1], 1, 1
    for step in range(2 * code.t):
        wrong = xor([times(c, syndromes[step - i]) for i, c in enumerate(poly[: step + 1])])
        if wrong:
            factor = times(wrong, int(exp[order - log[last]]))
            change = [0] * gap + [times(factor, c) for c in earlier]
            grown = [a ^ b for a, b in zip_longest(poly, change, fillvalue=0)]
            if 2 * length <= step:
                length, earlier, gap, last = step + 1 - length, poly, 0, wrong
            poly = grown
        gap += 1

    position = np.arange(code.parities + code.n)
    value = np.zeros_like(position)
    for i, c in enumerate(poly):
        if c:
            value ^= exp[(log[c] - i * position) % order]
    roots = np.flatnonzero(value == 0)
    if length > code.t or len(roots) != length:
        return None
    return tuple((roots[roots >= code.parities] - code.parities).tolist())


def delay_signs(columns: Tensor, shifts: int) -> np.ndarray:  # (n, words) -> (n, P)
    bits = columns[:, :, None] >> torch.arange(64) & 1
    return 1.0 - 2.0 * bits.flatten(1)[:, :shifts].double().numpy()


def xor(numbers: np.ndarray | list[int]) -> int:
    return int(np.bitwise_xor.reduce(np.asarray(numbers, np.int64), initial=0))


def peel(
    bins: Tensor,
    code: BchCode,
    delay_columns: Tensor,
    hashes: Tensor,
    degree: int,
    floor: float,
    chase: int,
) -> tuple[Tensor, Tensor]:
    peeler = Peeler(bins, code, delay_columns, hashes, degree, floor)
    stages = [("single", 0, 1.0)] + [("single", flips, 2.0) for flips in range(3, chase, 3)]
    nearby = len(stages)
    if chase:
        stages += [("nearby", 0, 0.0), ("single", chase, 1.0), ("pairs", chase, 0.0)]
    stage, grown = 0, not chase  # grown: low orders were tried
    later = False  # something was found after the last look nearby
    for _ in range(200):
        if peeler.take(peeler.candidates(*stages[stage])):
            later = later or stage > nearby
            continue
        if peeler.refit():
            continue
        stage += 1
        if stage == len(stages):
            if not grown:
                grown = True
                later = peeler.add_low_orders() or later
            if not later:
                break
            stage, later = nearby, False
        peeler.stale[:] = True
    peeler.refit()
    found = sorted(peeler.terms.items(), key=lambda term: (len(term[0]), term[0]))
    rows = [k + (-1,) * (code.t - len(k)) for k, _ in found]
    features = torch.tensor(rows, dtype=torch.int32).reshape(-1, code.t)
    return features, torch.tensor([coef for _, coef in found], dtype=torch.float64)


class Peeler:
    """What is left of the bins, and the terms taken out of them; csrc/peel.h says the rules."""

    def __init__(
        self,
        bins: Tensor,
        code: BchCode,
        delay_columns: Tensor,
        hashes: Tensor,
        degree: int,
        floor: float,
    ):
        self.code, self.degree, self.floor, self.hashes = code, degree, floor, hashes.numpy()
        self.target = bins.permute(0, 2, 1).contiguous().numpy()  # (C, B, P)
        self.groups, self.width, self.shifts = self.target.shape
        self.signs = delay_signs(delay_columns, self.shifts)  # (n, P)
        self.residual = self.target.copy()
        self.stale = np.ones((self.groups, self.width), np.bool_)  # changed since last decoded
        self.terms: dict[tuple[int, ...], float] = {}
        self.drops: Counter[tuple[int, ...]] = Counter()  # how often a refit dropped a set
        self.capacity = self.groups * self.width * max(1, self.shifts // 4)
        self.fitted = True

    def add_low_orders(self) -> bool:
        """Adds all sets up to some order where that is worth its parameters by generalised
        cross-validation, without those that are not significant. Whether it did."""

        def score() -> float:
            return self.energy().sum() / (1 - len(self.terms) / self.target.size) ** 2

        best, least, before = self.terms, score(), len(self.terms)
        everything = best | {(): best.get((), 0.0)}
        for order in range(1, self.degree + 1):
            if len(everything) + comb(self.code.n, order) > self.capacity:
                break
            level = combinations(range(self.code.n), order)
            self.terms = everything | {k: everything.get(k, 0.0) for k in level}
            self.least_squares()
            everything = self.terms
            if score() < least:
                best, least = everything, score()
        self.terms, self.fitted = best, False
        self.refit()
        return len(best) > before

    def candidates(self, kind: str, flips: int, screen: float) -> list[Candidate]:
        if kind == "nearby":
            return self.nearby()
        energy, shifts = self.energy(), self.shifts
        least = self.noise() * (shifts + screen * np.sqrt(2 * shifts))
        live = [(int(g), int(j)) for g, j in np.argwhere(energy > least)]
        if kind == "pairs":
            jobs = self.correlated(live)
        else:
            jobs = [(at,) for at in live if self.stale[at]]
        self.stale[:] = False
        return [found for job in jobs if (found := self.decode(job, flips)) is not None]

    def energy(self) -> np.ndarray:  # (C, B)
        return (self.residual**2).sum(-1)

    def noise(self) -> float:
        """Variance of one reading, by the lower quartile of energies that are chi-squared."""
        energy = np.sort(self.energy(), axis=None)
        below_mean = 0.674 * np.sqrt(2 / self.shifts)
        variance = energy[len(energy) // 4] / self.shifts / max(0.1, 1 - below_mean)
        return max(float(variance), self.floor**2)

    def correlated(self, live: list[Bin]) -> list[tuple[Bin, ...]]:
        """For each live bin and other group, the bin there that correlates best with it, if better
        than noise does: as sorted pairs of which one is stale."""
        energy, best = self.energy(), set()
        for at in live:
            for g in set(range(self.groups)) - {at[0]}:
                most, match = np.sqrt(2 * np.log(self.width)), None
                for other in (bin for bin in live if bin[0] == g):
                    inner = self.residual[at] @ self.residual[other]
                    z = inner / np.sqrt(energy[at] * energy[other] / self.shifts)
                    if z > most:
                        most, match = z, other
                if match and (self.stale[at] or self.stale[match]):
                    best.add(tuple(sorted((at, match))))
        return sorted(best)

    def decode(self, job: tuple[Bin, ...], flips: int) -> Candidate | None:
        """The likeliest set that the sum of the job's bins decodes to and that falls in all."""
        readings = sum(self.residual[at] for at in job)
        groups = tuple(g for g, _ in job)
        best = None
        for k in chase_decode(readings, self.code, flips):
            if len(k) > self.degree or any(xor(self.hashes[g, list(k)]) != j for g, j in job):
                continue
            ratio = self.ratio(k, self.estimate(k, groups), range(self.groups))
            if best is None or ratio > -best[0]:
                best = (-ratio, len(k), k, groups, 5.0 if len(job) == 1 else 2.0)
        return best

    def nearby(self) -> list[Candidate]:
        """Single features, pairs, and the terms with one feature more or less, where all groups
        together are surer of them than of the luckiest of so many sets."""
        pool = np.arange(self.code.n)
        if self.code.n > 1024:
            pool = np.unique([i for k in self.terms for i in k]).astype(np.int64)[:1024]
        bases = [(), *((i,) for i in pool.tolist()), *(k for k in self.terms if len(k) > 1)]
        bound = np.log(len(bases) * len(pool) + 1) + 2.0
        energy = self.energy() + self.shifts * self.floor**2
        found: list[Candidate] = []
        group = np.arange(self.groups)[:, None]
        for base in bases:
            bins, signs = self.place(base)
            at = group, bins[:, None] ^ self.hashes[:, pool]  # each (C, pool)
            inner = np.einsum("gip,ip->gi", self.residual[at], signs * self.signs[pool])
            ratio = (inner / energy[at]).sum(0) ** 2 / (1 / energy[at]).sum(0) / 2
            for i in np.flatnonzero(ratio >= bound):
                k = tuple(sorted({*base} ^ {int(pool[i])}))
                if len(k) <= self.degree and not (len(base) == 1 and pool[i] <= base[0]):
                    found.append((-ratio[i], len(k), k, (), bound))
        return found

    def take(self, found: list[Candidate]) -> bool:
        """Subtracts what holds up by the groups that did not find it, likeliest first."""
        any_taken = False
        for _, _, k, groups, bound in sorted(found):
            everywhere = range(self.groups)
            if self.drops[k] >= 2:  # found and dropped twice: left alone
                continue
            coef = self.estimate(k, groups or everywhere)
            if self.ratio(k, coef, [g for g in everywhere if g not in groups]) < bound:
                continue
            if k not in self.terms and len(self.terms) == self.capacity:
                continue
            coef = self.estimate(k, everywhere)
            bins, signs = self.place(k)
            self.residual[everywhere, bins] -= coef * signs
            self.stale[everywhere, bins] = True
            self.terms[k] = self.terms.get(k, 0.0) + coef
            any_taken = True
        self.fitted = self.fitted and not any_taken
        return any_taken

    def refit(self) -> bool:
        """Least squares, without terms within 4.5 standard errors of 0. False if nothing is new."""
        if self.fitted:
            return False
        self.fitted = True
        before = self.energy()
        error = self.least_squares()
        strong = {k: coef for k, coef in self.terms.items() if abs(coef) >= 4.5 * error}
        if len(strong) < len(self.terms):
            self.drops.update(self.terms.keys() - strong.keys())
            self.terms = strong
            self.least_squares()
        self.stale |= np.abs(self.energy() - before) > 0.02 * before
        return True

    def least_squares(self) -> float:
        """Fits all terms to all bins by the normal equations; a coefficient's standard error."""
        group, meets = np.arange(self.groups)[:, None], self.groups * self.shifts
        bins = np.zeros((self.groups, len(self.terms)), np.int64)  # (C, S)
        signs = np.zeros((len(self.terms), self.shifts))  # (S, P)
        for s, k in enumerate(self.terms):
            bins[:, s], signs[s] = self.place(k)
        coefs = np.array(list(self.terms.values()))
        gram = (bins[:, :, None] == bins[:, None, :]).sum(0) * (signs @ signs.T)
        right = np.einsum("gsp,sp->s", self.target[group, bins], signs)
        coefs += np.linalg.lstsq(gram, right - gram @ coefs)[0]
        self.residual = self.target.copy()
        np.subtract.at(self.residual, (group, bins), coefs[:, None] * signs)
        self.terms = dict(zip(self.terms, coefs.tolist(), strict=True))
        spare = max(1, self.target.size - len(coefs))
        return np.sqrt(self.energy().sum() / spare / meets) + self.floor

    def place(self, k: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The bin of k in each group, (C,), and its sign at each delay, (P,)."""
        features = list(k)
        bins = np.bitwise_xor.reduce(self.hashes[:, features], axis=1, initial=0)
        return bins, self.signs[features].prod(0)

    def fits(self, k: tuple[int, ...], groups: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """What the bin of k in each group says of its coefficient: mean, variance of a reading."""
        bins, signs = self.place(k)
        rows = self.residual[list(groups), bins[list(groups)]]
        mean = rows @ signs / self.shifts
        rest = np.maximum(0, (rows**2).sum(1) - mean**2 * self.shifts)
        return mean, rest / (self.shifts - 1) + self.floor**2

    def estimate(self, k: tuple[int, ...], groups: Iterable[int]) -> float:
        """The coefficient of k by these groups."""
        mean, variance = self.fits(k, groups)
        return float((mean / variance).sum() / (1 / variance).sum())

    def ratio(self, k: tuple[int, ...], coef: float, groups: Iterable[int]) -> float:
        """Log likelihood ratio of coefficient coef over none, by these groups."""
        mean, variance = self.fits(k, groups)
        return float((self.shifts * (2 * mean * coef - coef**2) / (2 * variance)).sum())
