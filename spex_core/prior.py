"""Stage 4 of ProxySPEX: the spectra of a few tree ensembles -> which Fourier terms to fit, and how
large each is expected to be.

The trees say two things. Their own coefficients: a term they use is likely to be there. And which
features matter: the energy of all terms with feature i, its relevance, makes sets of relevant
features likely even where no tree has joined them. Four priors come of that, each with a total
variance of one over the terms of a support:

    trees     w_k = mean over ensembles of c_k**2
    product   w_k ~ e_|k| prod over i in k of relevance_i**gamma, gamma = 1/2 and 1, e_d being the
              energy of the trees at order d
    linear    w_k = 1 / n for single features

How far each is to be trusted is measured on samples that the trees have not seen (proxy.py).
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import masks as bits

GAMMAS = {"sqrt-product": 0.5, "product": 1.0}

# order -> all sets of so many of the most relevant features are looked at: 2,000 of each order.
AMONG = {2: 64, 3: 24, 4: 16, 5: 13}
MOST_SINGLE = 4096  # single features in a support
FLOOR = 1e-4  # relevance of a feature that no tree asks for, of the largest


@dataclass(frozen=True)
class Terms:
    """A support as rows of features.

    Attributes:
        n: features. sets: int32 (S, D), features ascending, n beyond the last.
    """

    n: int
    sets: np.ndarray

    @functools.cached_property
    def orders(self) -> np.ndarray:
        return (self.sets < self.n).sum(1)

    def __getitem__(self, rows: np.ndarray) -> Terms:
        return Terms(self.n, self.sets[rows])

    def packed(self) -> Tensor:
        """int64 (S, W)."""
        table = np.where(self.sets < self.n, self.sets, -1)
        return bits.pack_rows(torch.from_numpy(table), self.n)

    def product(self, weights: np.ndarray) -> np.ndarray:
        """The product of weights (n,) over each set: float64 (S,)."""
        return np.append(weights, 1.0)[self.sets].prod(1)


def terms_of(packed: Tensor, n: int, width: int) -> Terms:
    """Packed supports int64 (S, W) of at most `width` features each."""
    rows, features = bits.members(packed)
    first = np.searchsorted(rows, np.arange(len(packed)))
    sets = np.full((len(packed), width), n, np.int32)
    sets[rows, np.arange(len(rows)) - first[rows]] = features
    return Terms(n, sets)


@dataclass(frozen=True)
class Spectra:
    """The Fourier spectra of tree ensembles on one merged support, constants left out.

    Attributes:
        terms: S of them. coefs: float64 (S, bags x each), a column an ensemble.
        each: ensembles to a bag, their columns side by side.
        exponent: a term's variance goes with |coef|**exponent.
    """

    terms: Terms
    coefs: np.ndarray
    each: int
    exponent: float

    def variance(self, bag: int | None) -> np.ndarray:
        """Mean of |coef|**exponent over the ensembles of a bag, or all, its sum one: float64
        (S,)."""
        first, last = (0, None) if bag is None else (self.each * bag, self.each * (bag + 1))
        power = (np.abs(self.coefs[:, first:last]) ** self.exponent).mean(1)
        return power / max(power.sum(), np.finfo(float).tiny)

    def relevance(self, variance: np.ndarray) -> np.ndarray:
        """The variance of all terms with each feature, that of the largest one: float64 (n,)."""
        n, sets = self.terms.n, self.terms.sets
        shares = np.broadcast_to(variance[:, None], sets.shape)
        sums = np.bincount(sets.ravel(), weights=shares.ravel(), minlength=n + 1)[:n]
        return sums / max(sums.max(), np.finfo(float).tiny) + FLOOR

    def energy(self, variance: np.ndarray) -> np.ndarray:
        """The variance of each order, from 0: float64 (orders,)."""
        return np.bincount(self.terms.orders, weights=variance, minlength=2)


def choose_support(spectra: Spectra, most: int) -> tuple[Terms, np.ndarray]:
    """The terms worth fitting: `most` of the trees', `most` by each product prior, single features.

    Returns: the terms, and int64 (S,), the row of each in `spectra`, or -1.
    """
    variance = spectra.variance(None)
    relevance, energy = spectra.relevance(variance), spectra.energy(variance)
    n, width = spectra.terms.n, spectra.terms.sets.shape[1]
    order = np.argsort(-relevance, kind="stable").astype(np.int32)
    own = np.argsort(-variance, kind="stable")[:most]
    parts = [spectra.terms.sets[own], _rows(order[:MOST_SINGLE, None], n, width)]
    joined = [
        _rows(np.sort(order[_subsets(min(among, n), d)], axis=1), n, width)
        for d, among in AMONG.items()
        if d <= min(width, n) and d < len(energy) and energy[d] > 0
    ]
    if joined:
        low = Terms(n, np.concatenate(joined))
        for gamma in GAMMAS.values():
            likely = _product_variance(low, relevance**gamma, energy)
            parts.append(low.sets[np.argsort(-likely, kind="stable")[:most]])
    sets, first = np.unique(np.concatenate(parts), axis=0, return_index=True)
    row = np.full(len(sets), -1)
    row[first < len(own)] = own[first[first < len(own)]]
    return Terms(n, sets), row


def prior_variances(
    spectra: Spectra, bag: int | None, terms: Terms, row: np.ndarray
) -> dict[str, np.ndarray]:
    """Each prior on the terms of a support, as one bag sees it, or all: name -> float64 (S,). One
    that has nothing to say is zero."""
    variance = spectra.variance(bag)
    relevance, energy = spectra.relevance(variance), spectra.energy(variance)
    out = {"trees": np.where(row >= 0, variance[row], 0.0) if len(variance) else np.zeros(len(row))}
    for name, gamma in GAMMAS.items():
        out[name] = _product_variance(terms, relevance**gamma, energy)
    out["linear"] = (terms.orders == 1).astype(float)
    return {name: w / w.sum() if w.any() else w for name, w in out.items()}


def _product_variance(terms: Terms, weights: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """The product of the weights over each set, made to sum to the energy of its order."""
    product = terms.product(weights)
    sums = np.bincount(terms.orders, weights=product, minlength=len(energy))
    share = np.append(energy, np.zeros(max(0, len(sums) - len(energy))))
    return product * np.divide(share, sums, out=np.zeros_like(sums), where=sums > 0)[terms.orders]


def _rows(sets: np.ndarray, n: int, width: int) -> np.ndarray:
    """int32 (S, d) -> (S, width), n beyond the last."""
    return np.pad(sets, ((0, 0), (0, width - sets.shape[1])), constant_values=n)


@functools.cache
def _subsets(of: int, size: int) -> np.ndarray:
    """All subsets of range(of) of a size: int64 (subsets, size)."""
    flat = itertools.chain.from_iterable(itertools.combinations(range(of), size))
    return np.fromiter(flat, np.int64).reshape(-1, size)
