"""Planted set functions: a spectrum chosen at random, and its values by definition.

NumPy alone, one term at a time: an oracle that shares no code with the package.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

Terms = dict[tuple[int, ...], float]


@dataclass
class Planted:
    """f(m) = sum_k F[k] (-1)**<k, m> + noise, drawn anew for every mask; a value function."""

    n: int
    terms: Terms
    sigma: float = 0.0
    noise: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __call__(self, masks: np.ndarray) -> np.ndarray:  # bool (T, n) -> (T,)
        assert masks.dtype == np.bool_
        assert masks.shape[1] == self.n
        present = np.ascontiguousarray(masks.T)  # (n, T)
        out = np.zeros(len(masks))
        for k, coef in self.terms.items():
            odd = np.logical_xor.reduce(present[list(k)], axis=0)
            out += np.where(odd, -coef, coef)
        return out + self.sigma * self.noise.standard_normal(len(masks))


def plant(
    n: int, terms: int, degree: int, *, seed: int, snr: float | None = None, constant: bool = True
) -> Planted:
    """Distinct terms with orders uniform in 1 .. degree, variance 1, and a constant of 1.

    snr: decibels of one evaluation, 10 log10(1 / sigma**2); None is noiseless.
    """
    rng = np.random.default_rng([seed, n, terms, degree])
    found: dict[tuple[int, ...], None] = {}
    while len(found) < terms:
        order = int(rng.integers(1, min(degree, n) + 1))
        found[tuple(sorted(rng.choice(n, order, replace=False).tolist()))] = None
    coefs = rng.choice([-1.0, 1.0], terms) * rng.uniform(0.5, 1.5, terms)
    coefs /= np.linalg.norm(coefs)
    planted = ({(): 1.0} if constant else {}) | dict(zip(found, coefs.tolist(), strict=True))
    sigma = 0.0 if snr is None else 10 ** (-snr / 20)
    return Planted(n, planted, sigma, np.random.default_rng([seed, 99]))


def accuracy(truth: Terms, found: Terms) -> tuple[float, float, float]:
    """R2 over all 2**n masks, by Parseval; precision and recall of the terms but the constant."""
    error = sum((truth.get(k, 0.0) - found.get(k, 0.0)) ** 2 for k in truth | found)
    variance = sum(coef**2 for k, coef in truth.items() if k)
    real, claimed = truth.keys() - {()}, found.keys() - {()}
    hits = len(real & claimed)
    return 1 - error / variance, hits / max(len(claimed), 1), hits / len(real)


def worst(truth: Terms, found: Terms) -> float:
    """The largest relative error of a coefficient; infinite unless the supports are the same."""
    if truth.keys() != found.keys():
        return np.inf
    return max(abs(found[k] - coef) / abs(coef) for k, coef in truth.items())


def plant_products(
    n: int, products: int, degree: int, *, seed: int, snr: float | None = None
) -> Planted:
    """A sum of products of 1 to `degree` features, variance 1: a spectrum with every subset of each
    of its sets, as trees need it. snr: as in plant."""
    rng = np.random.default_rng([seed, n, products, degree])
    terms: Terms = {}
    for i in range(products):
        order = 1 + i % min(degree, n)
        features = sorted(rng.choice(n, order, replace=False).tolist())
        weight = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 2.0)
        for size in range(order + 1):  # the product of all (1 - (-1)**m_i) / 2
            for k in itertools.combinations(features, size):
                terms[k] = terms.get(k, 0.0) + weight * (-1) ** size / 2**order
    unit = np.sqrt(sum(coef**2 for k, coef in terms.items() if k))
    scaled = {k: coef / unit for k, coef in terms.items() if coef}
    sigma = 0.0 if snr is None else 10 ** (-snr / 20)
    return Planted(n, scaled, sigma, np.random.default_rng([seed, 99]))
