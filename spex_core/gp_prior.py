"""Stage 4'' of GPSPEX: a mixture of priors on the spectrum, and the terms that it holds likeliest.

A prior says how large the coefficient of each term is expected to be, and so how alike the values
of two masks are: where coefficients are independent, K(m, m') = sum_k Var F[k] (-1)**<k, m xor m'>.
There are two kinds, ANOVA kernels (anova.py), under which coefficients of sets that share features
may go together, and the spectrum of boosted trees (prior.py). Each has a total variance of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import ops
from .anova import Anova
from .prior import Terms
from .records import distinct_rows
from .ridge import one_thread, signs
from .transfers import down, up

MOST_PAIRED = 4096  # features, the most relevant ones, of which all pairs are looked at
ROWS = 64  # of them, whose pairs are looked at together
BLOCK = 1024  # terms, or masks, whose covariances are found at a time
WIDEST = 64  # features by which a set of likely features is widened


@dataclass(frozen=True, eq=False)
class Listed:
    """A prior on some terms: those of trees.

    Attributes:
        terms: S of them. variances: float64 (S,), with a sum of 1.
    """

    terms: Terms
    variances: np.ndarray

    def covariance(self, masks: Tensor, others: Tensor) -> Tensor:
        given = self.terms.packed(), torch.from_numpy(self.variances)
        packed, scale = (up(x, masks.device) for x in given)
        left = signs(ops.parity_bits(masks, packed), len(masks)).double()  # (S, T1)
        same = others is masks
        right = left if same else signs(ops.parity_bits(others, packed), len(others)).double()
        with one_thread():
            return (left * scale[:, None]).T @ right

    def variance(self, support: Tensor) -> np.ndarray:
        """The prior variance of each of packed terms (S, W): float64 (S,)."""
        both = torch.cat([self.terms.packed(), support]).numpy()
        first, slot = distinct_rows(both.view(np.uint64))
        known = np.zeros(len(first))
        known[slot[: len(self.variances)]] = self.variances
        return known[slot[len(self.variances) :]]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Priors and their shares, which add up to 1, beside a constant of variance one."""

    parts: tuple[Anova | Listed, ...]
    shares: tuple[float, ...]

    def covariance(self, masks: Tensor, others: Tensor) -> Tensor:
        """Of values: float64 (T1, T2), on the device of the masks."""
        out = torch.ones(len(masks), len(others), dtype=torch.float64, device=masks.device)
        for part, share in self.weighted():
            out.add_(part.covariance(masks, others), alpha=share)
        return out

    def diagonal(self, masks: Tensor) -> Tensor:
        """The variance of the value at each mask: float64 (T,), there."""
        even = 1.0 + sum(share for part, share in self.weighted() if not bias_of(part))
        out = torch.full((len(masks),), even, dtype=torch.float64, device=masks.device)
        for part, share in self.biased():
            out.add_(part.diagonal(masks), alpha=share)
        return out

    def variance(self, terms: Terms) -> np.ndarray:
        """The prior variance of each coefficient: float64 (S,)."""
        support = terms.packed()
        shared = (share * part.variance(support) for part, share in self.biased())
        return sum(shared, start=self._variance_alone(support))

    def cross(self, masks: Tensor, terms: Terms) -> Tensor:
        """The covariance of coefficients with values: float64 (S, T), where the masks are."""
        support = terms.packed()
        alone = up(torch.from_numpy(self._variance_alone(support)), masks.device)
        support = up(support, masks.device)
        out = signs(ops.parity_bits(masks, support), len(masks)).double() * alone[:, None]
        for part, share in self.biased():
            out.add_(part.cross(masks, support), alpha=share)
        return out

    def coefs(self, masks: Tensor, terms: Terms, dual: Tensor) -> Tensor:
        """cross(masks, terms) @ dual, on the host, some terms at a time: float64 (S,)."""
        support = terms.packed()
        alone = torch.from_numpy(self._variance_alone(support))
        support = up(support, masks.device)
        out = down(ops.parity_adjoint(masks, support, dual)).mul_(alone)
        for part, share in self.biased():
            with one_thread():
                sums = [part.cross(masks, rows) @ dual for rows in support.split(BLOCK)]
            out.add_(down(torch.cat(sums)), alpha=share)
        return out

    def biased(self) -> list[tuple[Anova, float]]:
        """The priors under which coefficients are not independent, with their shares."""
        return [(part, share) for part, share in kernels_of(self) if part.bias]

    def _variance_alone(self, support: Tensor) -> np.ndarray:
        """Of each coefficient by itself, 1 for the constant, under the priors that have no bias."""
        out = (~support.any(1)).double().numpy()
        for part, share in self.weighted():
            if not bias_of(part):
                out += share * part.variance(support)
        return out

    def weighted(self) -> Iterator[tuple[Anova | Listed, float]]:
        """The priors with their shares."""
        return zip(self.parts, self.shares, strict=True)


def bias_of(part: Anova | Listed) -> float:
    return part.bias if isinstance(part, Anova) else 0.0


def mixture_of(priors: dict[str, Anova | Listed], shares: dict[str, float]) -> Mixture:
    """The priors that have a share."""
    named = [name for name, share in shares.items() if share]
    return Mixture(tuple(priors[x] for x in named), tuple(shares[x] for x in named))


def kernels_of(mixture: Mixture) -> list[tuple[Anova, float]]:
    """The ANOVA kernels of a mixture, with their shares."""
    return [(part, share) for part, share in mixture.weighted() if isinstance(part, Anova)]


def likely_terms(mixture: Mixture, masks: Tensor, dual: Tensor, n: int, most: int) -> Terms:
    """The terms in which the largest coefficients of a process are looked for: all single features,
    of the pairs the `most` of largest coefficient, of each higher order the `most` likeliest of
    each prior, and those of the trees.

    Pairs come from one matrix product. A set of d features is a likely set of d - 1 with one more
    that is less relevant than all of them; only the likeliest sets of each order are widened.
    """
    width = max(_width(part) for part in mixture.parts)
    parts = [np.zeros((1, 0), np.int32), np.arange(n, dtype=np.int32)[:, None]]
    kernels = kernels_of(mixture)
    paired = [(part, share) for part, share in kernels if _width(part) >= 2]
    if paired and n >= 2:
        parts.append(_best_pairs(paired, masks, dual, n, most))
    for part, _ in kernels:
        parts += _widened(part, most)
    tables = [_as_wide(np.sort(x, 1), width, n) for x in parts]
    tables.append(_as_wide(listed_terms(mixture).sets, width, n))
    return Terms(n, np.unique(np.concatenate(tables), axis=0))


def listed_terms(mixture: Mixture) -> Terms:
    """The terms that any prior of trees lists."""
    listed = [part.terms for part in mixture.parts if isinstance(part, Listed)]
    if not listed:
        return Terms(1, np.zeros((0, 0), np.int32))
    return Terms(listed[0].n, np.unique(np.concatenate([terms.sets for terms in listed]), axis=0))


def _as_wide(sets: np.ndarray, width: int, n: int) -> np.ndarray:
    """int32 (S, d) -> (S, width), n beyond the last."""
    return np.pad(sets, ((0, 0), (0, width - sets.shape[1])), constant_values=n)


def _width(part: Anova | Listed) -> int:
    return part.terms.sets.shape[1] if isinstance(part, Listed) else len(part.variances) - 1


def _best_pairs(
    kernels: list[tuple[Anova, float]], masks: Tensor, dual: Tensor, n: int, most: int
) -> np.ndarray:
    """The pairs of largest coefficient, with a bias by `Anova.in_pairs`: int32 (S, 2). Some rows of
    the table of all pairs at once, of which those stay that may be among the largest."""
    relevance = sum(share * part.relevances for part, share in kernels).numpy()
    few = np.sort(np.argsort(-relevance, kind="stable")[:MOST_PAIRED])
    single = Terms(n, few[:, None].astype(np.int32)).packed()
    z = signs(ops.parity_bits(masks, up(single, masks.device)), len(masks)).double()  # (few, T)
    even = [
        (share * float(part.in_pairs(masks[:1])), part.relevances.numpy()[few])
        for part, share in kernels
        if not part.bias  # the same at all masks
    ]
    # Factors of the features, weights of the samples, scales and relevances of the priors
    tables = [(z, dual, even)] if even else []
    for part, share in kernels:
        if part.bias:
            factors = z.add(part.bias).div_(1.0 + part.bias**2)
            scaled = [(share, part.relevances.numpy()[few])]
            tables.append((factors, dual * part.in_pairs(masks), scaled))
    pairs, size = np.zeros((0, 2), np.int32), np.zeros(0)
    for start in range(0, len(few), ROWS):
        rows = slice(start, start + ROWS)
        block = np.zeros((len(few[rows]), len(few) - start))
        for factors, weights, priors in tables:
            with one_thread():
                sums = down((factors[rows] * weights) @ factors[start:].T).numpy()
            block += sums * sum(scale * np.outer(rho[rows], rho[start:]) for scale, rho in priors)
        block = np.abs(block)
        block[:, : len(block)][np.tril_indices(len(block))] = -1.0  # each pair once
        at = np.flatnonzero(block >= (size[-1] if len(size) == most else 0.0))
        row, column = np.divmod(at, block.shape[1])
        found = np.stack([few[start + row], few[start + column]], 1).astype(np.int32)
        pairs, size = np.concatenate([pairs, found]), np.concatenate([size, block.ravel()[at]])
        top = np.argsort(-size, kind="stable")[:most]
        pairs, size = pairs[top], size[top]
    return pairs


def _widened(part: Anova, most: int) -> list[np.ndarray]:
    """The likeliest sets of 3 features and more, an array for each order."""
    relevance = part.relevances.numpy()
    order = np.argsort(-relevance, kind="stable")[: max(WIDEST, _width(part))]
    sorted_relevance = relevance[order]
    ranks = np.arange(len(order))
    sets, weight, out = ranks[:, None], sorted_relevance, []
    for d in range(2, min(_width(part), len(order)) + 1):
        rows, added = np.nonzero(ranks > sets[:, -1:])
        joined = weight[rows] * sorted_relevance[added]
        top = np.argsort(-joined, kind="stable")[:most]
        sets, weight = np.column_stack([sets[rows[top]], added[top]]), joined[top]
        if d >= 3 and part.variances[d] > 0:
            out.append(order[sets].astype(np.int32))
    return out
