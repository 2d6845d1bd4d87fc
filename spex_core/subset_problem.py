"""Best subsets, the problem: maximise f over masks of given sizes, reduced to what is open.

A fixed feature is a constant, and one in no term only counts towards the size. What is left is a
sum of terms over the live features and a window for how many of them are present.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .errors import check, check_int
from .masks import from_members, members, unpack_sets


@dataclass(frozen=True)
class SubsetProblem:
    """Maximise constant + sum of coef (-1)**|k and m| over live masks m, least <= |m| <= most.

    Attributes:
        live: int64 (L,), the free features that are in a term; a live feature is its place in here.
        terms: {sorted tuple of live features: coefficient}, without () and without zeros.
        constant: float.
        least, most: how many live features may be present, 0 <= least <= most <= L.
        kept: bool (n,), the features that are fixed as present.
        idle: int64, the free features that are in no term.
        at_least: how many features must be present in all.
    """

    live: np.ndarray
    terms: dict[tuple[int, ...], float]
    constant: float
    least: int
    most: int
    kept: np.ndarray
    idle: np.ndarray
    at_least: int

    def whole(self, live_mask: np.ndarray) -> np.ndarray:
        """bool (L,) -> bool (n,): fixed features, and idle ones where the size needs them."""
        mask = self.kept.copy()
        mask[self.live[live_mask]] = True
        mask[self.idle[: max(0, self.at_least - int(mask.sum()))]] = True
        return mask


def reduce_problem(
    where: str,
    n: int,
    support: Tensor,
    coefs: Tensor,
    sizes: tuple[int | None, int | None, int | None],
    fixed: Mapping[int, bool] | None,
) -> SubsetProblem:
    """The problem of maximising the terms (support, coefs); `where` names the caller in errors.

    Args:   sizes: (size, at_least, at_most), each None or an integer.
    Raises: ValueError, TypeError for bounds or fixed features that are malformed or leave no mask.
    """
    at_least, at_most = _bounds(where, n, *sizes)
    kept, dropped = _fixed(where, n, fixed or {})
    present, free = int(kept.sum()), n - int(kept.sum()) - int(dropped.sum())
    check(
        present <= at_most,
        "{}: fixed must keep at most at_most = {} features, got {}",
        *(where, at_most, present),
    )
    check(
        present + free >= at_least,
        "{}: fixed must leave at_least = {} features that can be present, got {}",
        *(where, at_least, present + free),
    )
    terms, constant = _open_terms(support, coefs, kept, dropped)
    in_a_term = np.zeros(n, bool)
    in_a_term[[j for term in terms for j in term]] = True
    live, idle = np.flatnonzero(in_a_term), np.flatnonzero(~in_a_term & ~kept & ~dropped)
    at = {feature: i for i, feature in enumerate(live.tolist())}
    return SubsetProblem(
        live=live,
        terms={tuple(at[j] for j in term): coef for term, coef in terms.items()},
        constant=constant,
        least=max(0, at_least - present - len(idle)),
        most=min(len(live), at_most - present),
        kept=kept,
        idle=idle,
        at_least=at_least,
    )


def _bounds(
    where: str, n: int, size: int | None, at_least: int | None, at_most: int | None
) -> tuple[int, int]:
    least = 0 if at_least is None else check_int(f"{where}: at_least", at_least, 0, n)
    most = n if at_most is None else check_int(f"{where}: at_most", at_most, 0, n)
    check(least <= most, "{}: at_least must be at most at_most, got {} > {}", where, least, most)
    if size is None:
        return least, most
    size = check_int(f"{where}: size", size, 0, n)
    check(
        least <= size <= most,
        "{}: size must lie within at_least = {} and at_most = {}, got {}",
        *(where, least, most, size),
    )
    return size, size


def _fixed(where: str, n: int, fixed: Mapping[int, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Which features are fixed as present, and which as absent: bool (n,) both."""
    if not isinstance(fixed, Mapping):
        got = type(fixed).__name__
        raise TypeError(f"{where}: fixed must be a mapping of feature to present or not, got {got}")
    kept, dropped = np.zeros(n, bool), np.zeros(n, bool)
    for feature, present in fixed.items():
        j = check_int(f"{where}: a fixed feature", feature, 0, n - 1)
        if not (isinstance(present, bool | np.bool_) or present in (0, 1)):
            raise ValueError(f"{where}: fixed must map to True or False, got {present!r} for {j}")
        (kept if present else dropped)[j] = True
    return kept, dropped


def _open_terms(
    support: Tensor, coefs: Tensor, kept: np.ndarray, dropped: np.ndarray
) -> tuple[dict[tuple[int, ...], float], float]:
    """The terms with the fixed features put in: {free features: coefficient}, and the constant."""
    rows, features = members(support)
    signs = 1 - 2 * (np.bincount(rows[kept[features]], minlength=len(support)) % 2)
    free = ~(kept | dropped)[features]
    n = len(kept)
    left, which = torch.unique(
        from_members(rows[free], features[free], len(support), n), dim=0, return_inverse=True
    )
    sums = np.bincount(which.numpy(), signs * coefs.numpy(), minlength=len(left))
    terms = {k: coef for k, coef in zip(unpack_sets(left), sums.tolist(), strict=True) if coef}
    return terms, terms.pop((), 0.0)
