"""The measures of both papers: how well a recovered spectrum says what the model does.

R2 itself is SparseTransform.score on masks that the fit has not seen; r2 is the same for any two
vectors. hierarchy_rates (hierarchy.py) has the rates of direct subsets and staircases.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from . import ops
from .errors import check, check_int
from .evaluate import SetFunction
from .hierarchy import hierarchy_rates
from .masks import members, pack_batch
from .transform import SparseTransform, finite
from .transform import r2 as unchecked_r2

__all__ = [
    "Removal",
    "energy_split",
    "hierarchy_rates",
    "r2",
    "r2_by_sparsity",
    "recall_at_k",
    "top_removal",
]


@dataclass(frozen=True)
class Removal:
    """What removing the features that the spectrum says matter most did to the model.

    Attributes:
        features: the removed ones, ascending.
        change: |f(all) - f(all but these)| / |f(all)|, of the model.
        predicted: the same numerator by the spectrum, over the same |f(all)|.
        gap: of the search for these features, relative to the spectrum's value; 0 is proven best.
    """

    features: tuple[int, ...]
    change: float
    predicted: float
    gap: float


def r2(
    values: Sequence[float] | np.ndarray | Tensor, fit: Sequence[float] | np.ndarray | Tensor
) -> float:
    """1 - ||values - fit||**2 / ||values - their mean||**2; the rule of SparseTransform.score for
    values that are all equal.

    Args:   values: (T,) finite, T >= 1, of the model. fit: (T,) finite, of what stands for it.
    Raises: ValueError if they are not as above.
    """
    truth, other = finite("r2", values), finite("r2", fit, "fit")
    check(
        truth.size > 0 and truth.ndim == 1,
        "r2: values must be at least one number, got shape {}",
        truth.shape,
    )
    check(
        other.shape == truth.shape,
        "r2: fit must have the shape of values, {}, got {}",
        *(truth.shape, other.shape),
    )
    return unchecked_r2(truth, other)


def top_removal(
    f: SetFunction, transform: SparseTransform, removed: Iterable[int], **options: Any
) -> dict[int, Removal]:
    """The change in f when the r features whose removal changes the spectrum most are removed.

    Args:   f: the model, bool (batch, n) -> (batch,). removed: the numbers r, each from 1 to n.
            options: of SparseTransform.maximize: method, time_limit, seed, device, backend.
    Raises: ValueError for an r out of range, and if f of the full mask is 0.
    Cost:   one call of f, with a mask for each r and the full one; a maximize and a minimize each.
    Source: Kang et al. 2025 (SPEX), feature removal; there solved by Gurobi.
    """
    sizes = [check_int("top_removal: removed", r, 1, transform.n) for r in removed]
    full = np.ones((1, transform.n), bool)
    whole = float(transform.predict(full)[0])
    chosen = [
        max(
            (getattr(transform, goal)(size=transform.n - r, **options) for goal in GOALS),
            key=lambda best: abs(best.value - whole),
        )
        for r in sizes
    ]
    values = finite("top_removal", f(np.concatenate([full, *(best.mask[None] for best in chosen)])))
    check(
        values.shape == (len(sizes) + 1,),
        "top_removal: f must return one number per mask, ({},), got shape {}",
        *(len(sizes) + 1, values.shape),
    )
    unit = abs(values[0])
    check(unit > 0, "top_removal: f of the full mask must not be 0, got {}", values[0])
    return {
        r: Removal(
            tuple(np.flatnonzero(~best.mask).tolist()),
            *(float(abs(value - values[0]) / unit), float(abs(best.value - whole) / unit)),
            best.gap,
        )
        for r, best, value in zip(sizes, chosen, values[1:], strict=True)
    }


GOALS = ("maximize", "minimize")


def recall_at_k(
    truth: Mapping[tuple[int, ...], float], found: Mapping[tuple[int, ...], float], k: int
) -> float:
    """The share of the k largest true interactions that are among the k largest found.

    Args:   truth, found: {set: value}, as interactions() and top() return them; () and values of 0
            do not count. Where truth has fewer than k, all of its sets count.
    Raises: ValueError for k < 1 and where truth has no set.
    Source: both papers: Shapley values at k = 10, and recovered interactions.
    """
    k = check_int("recall_at_k: k", k, 1)
    wanted, got = _largest(truth, k), _largest(found, k)
    check(bool(wanted), "recall_at_k: truth must have a set of nonzero value, got none")
    return len(wanted & got) / len(wanted)


def energy_split(transform: SparseTransform, groups: Sequence[Hashable]) -> dict[str, float]:
    """The shares of the variance in single features, in sets within one group, and in sets across.

    Args:    groups: one label a feature, as the layer of each attention head.
    Returns: {"linear": ..., "within": ..., "across": ...}, which add up to 1; zeros for a constant.
    Raises:  ValueError unless there is one label for each feature.
    Source:  Butler et al. 2025 (ProxySPEX), figure 10.
    """
    check(
        len(groups) == transform.n,
        "energy_split: groups must have a label for each of {} features, got {}",
        *(transform.n, len(groups)),
    )
    numbers = {label: i for i, label in enumerate(dict.fromkeys(groups))}
    group = np.array([numbers[label] for label in groups])
    rows, features = members(transform.support)
    first = np.zeros(len(transform), np.int64)
    first[rows[::-1]] = group[features[::-1]]  # the group of each term's first feature
    elsewhere = np.bincount(rows, group[features] != first[rows], minlength=len(transform)) > 0
    kind = np.where(transform.orders == 1, 0, np.where(elsewhere, 2, 1))[transform.orders > 0]
    coefs = transform.coefs.numpy()[transform.orders > 0]
    unit = np.abs(coefs).max(initial=0.0) or 1.0  # keeps squares in range
    energy = np.bincount(kind, (coefs / unit) ** 2, minlength=3)
    shares = energy / (energy.sum() or 1.0)
    return dict(zip(("linear", "within", "across"), shares.tolist(), strict=True))


def r2_by_sparsity(
    transform: SparseTransform,
    masks: np.ndarray | Tensor,
    values: Sequence[float] | np.ndarray | Tensor,
    sparsities: Iterable[int],
) -> dict[int, float]:
    """R2 of the transform cut to its k largest terms, and the constant, for each k asked.

    Args:   masks: as in SparseTransform.predict, T >= 1. values: (T,) finite. sparsities: numbers
            k >= 0.
    Raises: ValueError if values are not as above.
    Cost:   one predict for the largest k: the terms between one k and the next are added up.
    Source: Butler et al. 2025 (ProxySPEX), figure 5.
    """
    counts = [check_int("r2_by_sparsity: a sparsity", k, 0) for k in sparsities]
    rows = pack_batch("r2_by_sparsity", masks, transform.n)
    truth = finite("r2_by_sparsity", values)
    check(
        truth.shape == (len(rows),) and len(rows) > 0,
        "r2_by_sparsity: values must have one number per mask, ({},), got shape {}",
        *(len(rows), truth.shape),
    )
    at = transform.largest(len(transform))
    support, coefs = transform.support[at].to(rows.device), transform.coefs[at].to(rows.device)
    fit, done, scores = np.full(len(rows), transform.mean), 0, {}
    for k in sorted(set(counts)):
        part = slice(done, k)
        fit = fit + ops.parity_predict(rows, support[part], coefs[part]).cpu().numpy()
        scores[k], done = unchecked_r2(truth, fit), k
    return {k: scores[k] for k in counts}


def _largest(values: Mapping[tuple[int, ...], float], k: int) -> set[tuple[int, ...]]:
    """The k sets of largest |value|; equal ones by size, then by features."""
    sets = [(tuple(sorted(set_)), value) for set_, value in values.items() if len(set_) and value]
    sets.sort(key=lambda item: (-abs(item[1]), len(item[0]), item[0]))
    return {set_ for set_, _ in sets[:k]}
