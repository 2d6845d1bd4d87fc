"""The priors of prior.py on a device, by the same steps in torch.

Sums by order or by feature have one order, so a device gives the same bits every time; from those
of the host they differ by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import masks as bits
from . import prior
from .prior import AMONG, FLOOR, GAMMAS, MOST_SINGLE
from .transfers import down

TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Terms:
    """prior.Terms: sets int64 (S, D), features ascending, n beyond the last."""

    n: int
    sets: Tensor

    @property
    def orders(self) -> Tensor:
        return (self.sets < self.n).sum(1)

    def __getitem__(self, rows: Tensor) -> Terms:
        return Terms(self.n, self.sets[rows])

    def packed(self) -> Tensor:
        """int64 (S, W)."""
        return bits.pack_rows(torch.where(self.sets < self.n, self.sets, -1), self.n)

    def product(self, weights: Tensor) -> Tensor:
        """The product of weights (n,) over each set: float64 (S,)."""
        return torch.cat([weights, weights.new_ones(1)])[self.sets].prod(1)


def terms_of(packed: Tensor, n: int, width: int) -> Terms:
    """Packed supports int64 (S, W) of at most `width` features each."""
    left, row = packed.clone(), torch.arange(len(packed), device=packed.device)
    columns = []
    for _ in range(width):
        word = (left != 0).to(torch.int8).argmax(1)  # the first that has a feature
        value = left[row, word]
        lowest = value & -value
        bit = torch.frexp(lowest.double().abs())[1] - 1
        columns.append(torch.where(value != 0, 64 * word + bit, n))
        left[row, word] = value ^ lowest
    return Terms(n, torch.stack(columns, 1))


@dataclass(frozen=True)
class Spectra:
    """prior.Spectra: coefs float64 (S, bags x each)."""

    terms: Terms
    coefs: Tensor
    each: int
    exponent: float

    def on_host(self) -> prior.Spectra:
        terms = prior.Terms(self.terms.n, down(self.terms.sets).int().numpy())
        return prior.Spectra(terms, down(self.coefs).numpy(), self.each, self.exponent)

    def variance(self, bag: int | None) -> Tensor:
        first, last = (0, None) if bag is None else (self.each * bag, self.each * (bag + 1))
        power = (self.coefs[:, first:last].abs() ** self.exponent).mean(1)
        return power / power.sum().clamp(min=TINY)

    def relevance(self, variance: Tensor) -> Tensor:
        n, sets = self.terms.n, self.terms.sets
        sums = variance.new_zeros(n + 1)
        shares = variance[:, None].expand(sets.shape).flatten()
        sums.index_put_((sets.flatten(),), shares, accumulate=True)  # sorted first, on a device
        return sums[:n] / sums[:n].max().clamp(min=TINY) + FLOOR

    def energy(self, variance: Tensor) -> Tensor:
        """From order 0 to the largest that a term can have."""
        return by_order(self.terms.orders, variance, self.terms.sets.shape[1] + 1)


def by_order(orders: Tensor, weights: Tensor, size: int) -> Tensor:
    """The sum of the weights of each order: float64 (size,)."""
    return torch.stack([torch.where(orders == d, weights, 0.0).sum() for d in range(size)])


def choose_support(spectra: Spectra, most: int) -> tuple[Terms, Tensor]:
    """prior.choose_support. The host reads which orders the trees have."""
    variance = spectra.variance(None)
    relevance, energy = spectra.relevance(variance), spectra.energy(variance)
    n, width = spectra.terms.n, spectra.terms.sets.shape[1]
    order = (-relevance).argsort(stable=True)
    own = (-variance).argsort(stable=True)[:most]
    parts = [spectra.terms.sets[own], _rows(order[:MOST_SINGLE, None], n, width)]
    there = down(energy > 0).tolist()
    joined = [
        _rows(order[_subsets(min(among, n), d, order.device)].sort(1)[0], n, width)
        for d, among in AMONG.items()
        if d <= min(width, n) and there[d]
    ]
    if joined:
        low = Terms(n, torch.cat(joined))
        for gamma in GAMMAS.values():
            likely = _product_variance(low, relevance**gamma, energy)
            parts.append(low.sets[(-likely).argsort(stable=True)[:most]])
    sets = torch.cat(parts)
    at = torch.arange(len(sets), device=sets.device)
    for column in sets.T.flip(0):
        at = at[column[at].argsort(stable=True)]
    fresh = torch.ones_like(at, dtype=torch.bool)
    fresh[1:] = (sets[at[1:]] != sets[at[:-1]]).any(1)
    first = at[fresh]  # of equal sets
    trees = torch.cat([own, own.new_full((len(sets) - len(own),), -1)])
    return Terms(n, sets[first]), trees[first]


def prior_variances(
    spectra: Spectra, bag: int | None, terms: Terms, row: Tensor
) -> dict[str, Tensor]:
    """prior.prior_variances."""
    variance = spectra.variance(bag)
    relevance, energy = spectra.relevance(variance), spectra.energy(variance)
    padded = torch.cat([variance, variance.new_zeros(1)])  # row -1
    out = {"trees": padded[row]}
    for name, gamma in GAMMAS.items():
        out[name] = _product_variance(terms, relevance**gamma, energy)
    out["linear"] = (terms.orders == 1).double()
    return {name: w / w.sum().clamp(min=TINY) for name, w in out.items()}


def _product_variance(terms: Terms, weights: Tensor, energy: Tensor) -> Tensor:
    """The product of the weights over each set, made to sum to the energy of its order."""
    product = terms.product(weights)
    sums = by_order(terms.orders, product, len(energy))
    share = torch.where(sums > 0, energy / sums, 0.0)
    return product * share[terms.orders]


def _rows(sets: Tensor, n: int, width: int) -> Tensor:
    """(S, d) -> (S, width), n beyond the last."""
    return torch.nn.functional.pad(sets, (0, width - sets.shape[1]), value=n)


def _subsets(of: int, size: int, device: torch.device) -> Tensor:
    """All subsets of range(of) of a size: int64 (subsets, size)."""
    return torch.combinations(torch.arange(of, device=device), size)
