"""Planted set functions: sparse in the Walsh-Fourier basis, with white noise.

NumPy alone, because the peers' interpreter imports this file too: ours and theirs see the same
function. The generator of a function depends on (seed, n, terms, degree) only, so the noise levels
of one seed share it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

Terms = dict[tuple[int, ...], float]


@dataclass
class Planted:
    """f(m) = sum_k F[k] (-1)**<k, m> + noise.

    The noise has standard deviation sigma and is drawn anew for every row asked for.
    """

    n: int
    terms: Terms
    sigma: float = 0.0
    noise: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """Values at 0/1 masks (T, n), any dtype: float64 (T,)."""
        return self.clean(masks) + self.sigma * self.noise.standard_normal(len(masks))

    def clean(self, masks: np.ndarray) -> np.ndarray:
        """The values without noise."""
        present = np.ascontiguousarray(np.asarray(masks).T != 0)  # (n, T)
        out = np.zeros(present.shape[1])
        for term, coef in self.terms.items():
            odd = np.zeros(len(out), np.bool_)
            for feature in term:
                odd ^= present[feature]
            out += np.where(odd, -coef, coef)
        return out


def hierarchical(
    n: int, count: int, degree: int, *, snr: float | None = None, seed: int = 0
) -> Planted:
    """A function of variance 1 whose terms come with most of their subsets: `count` terms and a
    constant of 1, coefficients halved with each order, features of very different popularity."""
    rng = np.random.default_rng([seed, n, count, degree])
    weight = rng.permutation(np.arange(1, n + 1) ** -0.5)
    sets: dict[tuple[int, ...], None] = {}
    while len(sets) < count:
        order = 1 + int(rng.binomial(degree - 1, 0.4))
        top = sorted(rng.choice(n, order, replace=False, p=weight / weight.sum()).tolist())
        for size in range(1, order + 1):
            for subset in itertools.combinations(top, size):
                if len(sets) < count and (size == order or rng.random() < 0.8):
                    sets[subset] = None
    decay = np.array([0.5 ** (len(term) - 1) for term in sets])
    coefs = rng.choice([-1.0, 1.0], count) * rng.uniform(0.5, 1.5, count) * decay
    coefs /= np.linalg.norm(coefs)
    terms = {(): 1.0} | dict(zip(sets, coefs.tolist(), strict=True))
    sigma = 0.0 if snr is None else 10 ** (-snr / 20)
    return Planted(n, terms, sigma, np.random.default_rng([seed, 99]))


def planted(n: int, count: int, degree: int, *, snr: float | None = None, seed: int = 0) -> Planted:
    """A function of variance 1: `count` distinct terms and a constant of 1.

    Orders are uniform in 1 .. degree, members uniform, coefficients +-U(0.5, 1.5) before scaling.
    `snr` is in dB for one evaluation, 10 log10(1 / sigma**2); None is noiseless.
    """
    rng = np.random.default_rng([seed, n, count, degree])
    sets: dict[tuple[int, ...], None] = {}
    while len(sets) < count:
        order = int(rng.integers(1, degree + 1))
        sets[tuple(sorted(rng.choice(n, order, replace=False).tolist()))] = None
    coefs = rng.choice([-1.0, 1.0], count) * rng.uniform(0.5, 1.5, count)
    coefs /= np.linalg.norm(coefs)
    terms = {(): 1.0} | dict(zip(sets, coefs.tolist(), strict=True))
    sigma = 0.0 if snr is None else 10 ** (-snr / 20)
    return Planted(n, terms, sigma, np.random.default_rng([seed, 99]))


def accuracy(truth: Terms, found: Terms) -> dict[str, float]:
    """R2 over all 2**n masks, by Parseval, and precision and recall of the non-empty terms."""
    error = sum((truth.get(k, 0.0) - found.get(k, 0.0)) ** 2 for k in truth.keys() | found.keys())
    variance = sum(coef**2 for k, coef in truth.items() if k)
    real = {k for k in truth if k}
    claimed = {k for k, coef in found.items() if k and abs(coef) > 1e-9}
    hits = len(real & claimed)
    return {
        "r2": 1 - error / variance,
        "precision": hits / max(len(claimed), 1),
        "recall": hits / len(real),
    }
