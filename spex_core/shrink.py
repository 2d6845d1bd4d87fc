"""Stage 5, continued: the sets of low order beside the terms that were found, shrunk by order.

Peeling names the terms that stand out of their bins. A model's output also has many small ones,
nearly all of low order, and together they can hold more than the large ones. Where all sets up to
an order are few enough, a ridge estimate takes them in, with one prior variance for the found terms
and one for the new ones of each order, set by maximum evidence.
Source: MacKay 1992, Bayesian interpolation, eq. (4.9) and on.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .plan import SamplingPlan, first_rows

MOST_TERMS = 1200  # found and new: the cost is their number cubed
FOLDS = 5
GAIN = 0.01  # share of the cross-validated error that new sets must save
EXPLAINED = 1e-6  # share of the variance that is not worth looking for
ITERATIONS = 6


def with_low_orders(
    plan: SamplingPlan, values: Tensor, support: Tensor, coefs: Tensor
) -> tuple[Tensor, Tensor]:
    """The terms with all sets up to the order that predicts best, refitted with shrinkage.

    The order is chosen by cross-validation, which leaves out whole delays at a time, since masks of
    one delay share their aliases. An order has to save a hundredth of the error. Where none does,
    or the terms explain all but a millionth of the variance, they come back as they are: a sparse
    function stays sparse.

    Args:    values: float64 (T,) of all rows; the held-out ones are not looked at, and each
             distinct mask counts once. support: (S, W), the constant among them. coefs: (S,).
    Returns: packed support and float64 coefficients.
    Cost:    S**2 T / 128 word operations and 8 S**3 products an order, S up to 1,200 terms.
    """
    orders = [d for d in range(1, plan.degree + 1) if affordable(plan, d, len(support))]
    if not orders:
        return support, coefs
    samples = FoldedSamples(plan, values)
    enough = EXPLAINED * samples.spread
    if samples.error(support, coefs) <= enough:
        return support, coefs
    found = best = Ridge(samples, support, len(support))
    for order in orders:
        grown = Ridge(samples, with_sets(support, plan.n, order), len(support))
        if grown.error < (1 - GAIN) * best.error:
            best = grown
        if best.error <= enough:
            break
    return (support, coefs) if best is found else (best.support, best.coefs * samples.unit)


def affordable(plan: SamplingPlan, order: int, found: int) -> bool:
    """Whether the found terms and all sets up to the order are few enough."""
    terms = found + sum(comb(plan.n, d) for d in range(order + 1))
    return terms <= min(MOST_TERMS, plan.total - plan.holdout)


def with_sets(support: Tensor, n: int, order: int) -> Tensor:
    """The support, then all sets of up to `order` features that it lacks."""
    feature = torch.arange(n, device=support.device)
    sizes = range(1, min(order, n) + 1)
    every = [bits.pack_rows(torch.combinations(feature, d), n) for d in sizes]
    both = torch.cat([support, torch.zeros_like(support[:1]), *every])
    _, slot = both.unique(dim=0, return_inverse=True)
    known = torch.zeros(len(both), dtype=torch.bool, device=both.device)
    known[slot[: len(support)]] = True
    fresh = ~known[slot]
    fresh[: len(support)] = True
    return both[fresh]


class FoldedSamples:
    """The distinct fitted masks of a plan in folds of whole delays, and their values / `unit`."""

    def __init__(self, plan: SamplingPlan, values: Tensor):
        fitted = plan.total - plan.holdout
        first, _ = first_rows(plan.row_names()[:fitted])
        masks, values = plan.masks(0, fitted), values[:fitted].double()
        self.unit = float(values.abs().max()) or 1.0  # keeps squares in range
        shift = (first >> plan.b) % plan.shifts
        part = torch.where(first < plan.aliased, shift, first) % FOLDS
        self.folds = []  # (masks, values)
        for k in range(FOLDS):
            at = first[part == k]
            self.folds.append((masks[at], values[at] / self.unit))
        self.count = len(first)
        every = torch.cat([values for _, values in self.folds])
        self.spread = float(((every - every.mean()) ** 2).sum())

    def error(self, support: Tensor, coefs: Tensor) -> float:
        """|y - X c|**2, for coefficients in the unit of f."""
        fits = (ops.parity_predict(masks, support, coefs / self.unit) for masks, _ in self.folds)
        return sum(
            float(((values - fit) ** 2).sum())
            for (_, values), fit in zip(self.folds, fits, strict=True)
        )


class Ridge:
    """A ridge fit of largest evidence: its coefficients, and its cross-validated squared error."""

    def __init__(self, samples: FoldedSamples, support: Tensor, found: int):
        self.support = support
        parts = [normal_equations(masks, values, support) for masks, values in samples.folds]
        gram, right, square = (sum(part) for part in zip(*parts, strict=True))
        penalty = evidence(gram, right, square, samples.count, groups(support, found))
        self.coefs = solve(factored(gram, penalty), right)
        self.error = 0.0
        for g, r, s in parts:
            without = solve(factored(gram - g, penalty), right - r)
            self.error += squared_error(without, g, r, s)


def normal_equations(
    masks: Tensor, values: Tensor, support: Tensor
) -> tuple[Tensor, Tensor, float]:
    """X'X (S, S), X'y (S,) and y'y, X the signs of the terms."""
    gram = ops.parity_gram(ops.parity_bits(masks, support), len(masks))
    return gram, ops.parity_adjoint(masks, support, values), float(values @ values)


def squared_error(coefs: Tensor, gram: Tensor, right: Tensor, square: float) -> float:
    """|y - X c|**2."""
    return square - 2 * float(coefs @ right) + float(coefs @ (gram @ coefs))


def groups(support: Tensor, found: int) -> list[Tensor]:
    """The terms that share a variance, as bool (S,): the found ones, the new ones of each order."""
    size = bits.sizes(support)
    new = torch.arange(len(size), device=size.device) >= found
    parts = [~new & (size > 0), *(new & (size == d) for d in range(1, int(size.max()) + 1))]
    return [part for part in parts if part.any()]


def evidence(gram: Tensor, right: Tensor, square: float, count: int, parts: list[Tensor]) -> Tensor:
    """The ridge penalty of each term, noise variance over prior variance: float64 (S,).

    A term in no part is the constant and is not shrunk.
    """
    least = 1e-14 * square / count
    noise = square / count / 2
    priors = [noise / 5 / int(part.sum()) for part in parts]
    penalty = torch.zeros_like(right)
    for _ in range(ITERATIONS):
        for part, prior in zip(parts, priors, strict=True):
            penalty[part] = noise / prior
        factor = factored(gram, penalty)
        c = solve(factor, right)
        # How far the samples, and not the prior, set each coefficient: 0 to 1.
        known = 1 - penalty * torch.cholesky_inverse(factor).diagonal()
        priors = [
            max(float((c[part] ** 2).sum()) / max(float(known[part].sum()), 1e-3), least)
            for part in parts
        ]
        freedom = max(count - float(known.sum()), 1.0)
        noise = max(squared_error(c, gram, right, square) / freedom, least)
    return penalty


def factored(gram: Tensor, penalty: Tensor) -> Tensor:
    """The Cholesky factor of gram + diag(penalty), with a little more against rounding."""
    return torch.linalg.cholesky(gram + torch.diag(penalty + 1e-10 * gram.diagonal().max()))


def solve(factor: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right[:, None], factor)[:, 0]
