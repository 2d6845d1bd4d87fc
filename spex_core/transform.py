"""Stage 6, SparseTransform: a set function in the Fourier basis, f(m) = sum_k F[k] (-1)**<k, m>.

A mask m is a point of {0,1}^n with 1 = present, a term k is a set of features, and everything that
this package says about a model is read from the pairs (k, F[k]).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import ops
from .backend import Backend
from .errors import check, check_int
from .masks import members, orders, pack_batch, pack_sets, unpack_sets, words
from .subsets import BestSubset, largest_subset


@dataclass(frozen=True, eq=False, repr=False)
class SparseTransform:
    """A set function as S Fourier terms, in one canonical order: by |k|, then by features.

    Equal sets of terms give equal tensors whatever order they came in: the constructor copies its
    tensors to the CPU and sorts them, so `coefs[i]` belongs to `support[i]` of this object.

    Args:     n: features, at least 1.
              support: packed int64 (S, W), the distinct terms k; the row of zeros is the constant.
              coefs: float64 (S,), finite, the coefficients F[k]. S = 0 is the zero function.
              stderr: float64 (S,), finite and >= 0, the standard error of each coefficient, in the
              unit of f; None
              where none is known, or needed.
    Raises:   TypeError, ValueError if they are not as above.
    Cost:     one sort of the terms; predict costs T S W word operations, all else is linear in S.
    Example:  SparseTransform.from_dict(3, {(): 1.0, (0, 2): 0.5}).predict(np.eye(3, dtype=bool))
              # array([0.5, 1.5, 0.5])
    """

    n: int
    support: Tensor
    coefs: Tensor
    stderr: Tensor | None = None

    def __post_init__(self) -> None:
        n = check_int("SparseTransform: n", self.n, 1)
        _check_support(self.support, n)
        _check_numbers("coefs", self.coefs, len(self.support))
        if self.stderr is not None:
            _check_numbers("stderr", self.stderr, len(self.support))
            check(bool((self.stderr >= 0).all()), "SparseTransform: stderr must not be negative")
        support = self.support.cpu()
        order = torch.from_numpy(_canonical_order(support))
        support, coefs = support[order], self.coefs.detach().cpu()[order]
        stderr = None if self.stderr is None else self.stderr.detach().cpu()[order]
        twice = (support[1:] == support[:-1]).all(1)
        if twice.any():
            (term,) = unpack_sets(support[1:][twice][:1])
            raise ValueError(f"SparseTransform: support must have distinct rows, got {term} twice")
        fields = {"n": n, "support": support, "coefs": coefs, "stderr": stderr}
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    @classmethod
    def from_canonical(cls, n: int, support: Tensor, coefs: Tensor) -> SparseTransform:
        """The same as the constructor, for terms that are known to be as it would leave them:
        distinct, in canonical order, on the CPU. Nothing is checked, sorted or copied."""
        out = object.__new__(cls)
        fields = {"n": n, "support": support, "coefs": coefs, "stderr": None}
        for field, value in fields.items():
            object.__setattr__(out, field, value)
        return out

    @classmethod
    def from_dict(cls, n: int, terms: Mapping[tuple[int, ...], float]) -> SparseTransform:
        """{set of features: coefficient} -> SparseTransform; () is the constant.

        Raises: ValueError for a feature outside [0, n) or given twice, or a set given twice.
        """
        n = check_int("from_dict: n", n, 1)
        sets = [
            tuple(check_int("from_dict: a feature", j, 0, n - 1) for j in term) for term in terms
        ]
        for term in sets:
            check(len(set(term)) == len(term), "from_dict: a term must be a set, got {}", term)
        coefs = torch.tensor([float(value) for value in terms.values()], dtype=torch.float64)
        return cls(n, pack_sets(sets, n), coefs)

    @classmethod
    def from_table(cls, values: Sequence[float] | np.ndarray | Tensor) -> SparseTransform:
        """The exact transform of a whole value table, F = H f / 2**n, without coefficients of 0.

        Args:   values: (2**n,) finite, n from 1 to 24; entry i is the mask with bits (i >> j) & 1.
        Raises: ValueError if values are not as above.
        Cost:   n 2**n additions in float64, and a sort of up to 2**n terms.
        """
        table = finite("from_table", values)
        n = table.size.bit_length() - 1
        check(
            table.shape == (1 << max(n, 0),) and 1 <= n <= ops.MAX_LOG_WIDTH,
            "from_table: values must be 2**n numbers, n from 1 to 24, got shape {}",
            table.shape,
        )
        coefs = ops.fwht(torch.from_numpy(table)) / len(table)
        terms = coefs.nonzero()  # (S, 1): the index of a coefficient is its packed support
        return cls(n, terms, coefs[terms[:, 0]])

    def __len__(self) -> int:
        """S, the terms; the constant is one of them where it is there."""
        return len(self.coefs)

    def __repr__(self) -> str:
        return f"SparseTransform(n={self.n}, terms={len(self)}, degree={self.degree})"

    @functools.cached_property
    def orders(self) -> np.ndarray:
        """|k| of each term: int64 (S,), ascending."""
        return orders(self.support)

    @property
    def degree(self) -> int:
        """The largest |k|; 0 for a constant and for the zero function."""
        return int(self.orders[-1]) if len(self) else 0

    @property
    def mean(self) -> float:
        """F[()], the mean of f over all masks."""
        constant = bool(len(self)) and self.orders[0] == 0
        return float(self.coefs[0]) if constant else 0.0

    @property
    def baseline(self) -> float:
        """f of the empty mask, no feature present: the sum of the coefficients."""
        return float(self.coefs.sum())

    def predict(self, masks: np.ndarray | Tensor) -> np.ndarray:
        """f at each mask, whatever the kind of input: a NumPy float64 array (T,).

        Args:   masks: bool (T, n), NumPy or torch; or a packed int64 tensor (T, W), any device.
        Raises: TypeError for another dtype; ValueError for another shape.
        """
        rows = pack_batch("predict", masks, self.n)
        out = ops.parity_predict(rows, self.support.to(rows.device), self.coefs.to(rows.device))
        return out.cpu().numpy()

    def score(
        self, masks: np.ndarray | Tensor, values: Sequence[float] | np.ndarray | Tensor
    ) -> float:
        """R2 of predict(masks) on values: 1 - ||f - fhat||**2 / ||f - mean f||**2.

        Where all values are equal, R2 is 0 / 0 or infinite; then it is 1.0 if every prediction is
        within a relative 1e-9 of them, else 0.0.

        Args:   masks: as in predict, T >= 1. values: (T,) finite.
        Raises: ValueError if values are not as above; what predict raises.
        """
        fit = self.predict(masks)
        values = finite("score", values)
        check(
            values.shape == fit.shape and len(fit) > 0,
            "score: values must have one number per mask, ({},), got shape {}",
            *(len(fit), values.shape),
        )
        return r2(values, fit)

    def maximize(
        self,
        *,
        size: int | None = None,
        at_least: int | None = None,
        at_most: int | None = None,
        fixed: Mapping[int, bool] | None = None,
        method: str = "auto",
        time_limit: float = 60.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        backend: Backend = "auto",
    ) -> BestSubset:
        """The mask at which f is largest, its value, and a bound that no allowed mask exceeds.

        Args:   size, at_least, at_most: how many features are present: exactly, at least, at most.
                fixed: {feature: present or not}, features that have no choice.
                method: "table" looks at every mask of the features that are free and in a term, 24
                of them at most; "search" is tabu search from 32 starts, with a loose bound; "milp"
                is the same and HiGHS after it, which proves its result best if it has the time.
                "auto" is "table" up to 20 such features and "milp" above.
                time_limit: seconds for HiGHS. device, backend: where the search runs.
        Raises: ValueError, TypeError for sizes or fixed features that contradict one another;
                MissingExtra where HiGHS is needed and SciPy is not installed.
        Cost:   see subset_search.py and subset_milp.py.
        Source: the removal metric of Kang et al. 2025 and Butler et al. 2025, there by Gurobi; tabu
                search of Glover 1989; tables that agree on pairs, Wainwright and Jordan 2008.
        Example: SparseTransform.from_dict(3, {(0,): 1.0, (1, 2): -1.0}).maximize(size=1).features
                # (1,)
        """
        return largest_subset(
            *("maximize", self.n, self.support, self.coefs),
            size=size,
            at_least=at_least,
            at_most=at_most,
            fixed=fixed,
            method=method,
            time_limit=time_limit,
            seed=seed,
            device=device,
            backend=backend,
        )

    def minimize(self, **options: Any) -> BestSubset:
        """The mask at which f is smallest; options as for maximize, whose bound is from below."""
        best = largest_subset("minimize", self.n, self.support, -self.coefs, **options)
        return BestSubset(best.mask, -best.value, -best.bound, best.method)

    def top(self, k: int) -> dict[tuple[int, ...], float]:
        """The k terms of largest |F[k]|, largest first; the constant is not one of them."""
        best = self.largest(check_int("top: k", k, 0))
        names = unpack_sets(self.support[best])
        return dict(zip(names, self.coefs[best].tolist(), strict=True))

    def truncate(self, k: int) -> SparseTransform:
        """The transform with only top(k) and the constant, which is not counted in k."""
        best = self.largest(check_int("truncate: k", k, 0))
        keep = np.concatenate([np.flatnonzero(self.orders == 0), best])
        stderr = None if self.stderr is None else self.stderr[keep]
        return SparseTransform(self.n, self.support[keep], self.coefs[keep], stderr)

    def energy_by_order(self) -> dict[int, float]:
        """The share of the variance of f over all masks that each order holds: {order: share}.

        By Parseval the variance is the sum of F[k]**2 over k != (). Shares add up to 1 and orders
        ascend; an order without terms is left out, and a constant function gives {}.
        """
        varying = self.orders > 0
        coefs = self.coefs.numpy()[varying]
        if not coefs.any():
            return {}
        energy = np.bincount(self.orders[varying], weights=(coefs / np.abs(coefs).max()) ** 2)
        share = energy / energy.sum()
        return {int(d): float(share[d]) for d in np.unique(self.orders[varying])}

    def to_dict(self) -> dict[tuple[int, ...], float]:
        """{sorted tuple of features: coefficient} in the canonical order; () is the constant."""
        return dict(zip(unpack_sets(self.support), self.coefs.tolist(), strict=True))

    def by_order(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """The terms of each order d, ascending: (d, features int64 (S_d, d), coefs (S_d,))."""
        _, features = members(self.support)
        coefs = self.coefs.numpy()
        out, term, bit = [], 0, 0
        for d, rows in zip(*np.unique(self.orders, return_counts=True), strict=True):
            table = features[bit : bit + rows * d].reshape(rows, d)
            out.append((int(d), table, coefs[term : term + rows]))
            term, bit = term + rows, bit + rows * d
        return out

    def largest(self, k: int) -> np.ndarray:
        """Rows of the k terms of largest |F[k]| but the constant; equal ones in canonical order."""
        rows = np.flatnonzero(self.orders)
        return rows[np.argsort(-np.abs(self.coefs.numpy()[rows]), kind="stable")][:k]


def r2(values: np.ndarray, fit: np.ndarray) -> float:
    """1 - ||f - fhat||**2 / ||f - mean f||**2, with the rule of SparseTransform.score for equal
    values."""
    if values.min() == values.max():
        return float(np.allclose(fit, values, rtol=1e-9, atol=0.0))
    spread = values - values.mean()
    unit = np.abs(spread).max()  # keeps squares of very small and very large values in range
    return float(1 - np.sum(((values - fit) / unit) ** 2) / np.sum((spread / unit) ** 2))


def _canonical_order(support: Tensor) -> np.ndarray:
    """The permutation that sorts packed supports (S, W) by order, then by ascending features."""
    _, features = members(support)
    size = orders(support)
    start = np.cumsum(size) - size
    parts = [np.flatnonzero(size == 0)]
    for d in np.unique(size[size > 0]):
        rows = np.flatnonzero(size == d)
        table = features[start[rows][:, None] + np.arange(d)]  # (S_d, d)
        parts.append(rows[np.lexsort(table.T[::-1])])
    return np.concatenate(parts)


def finite(
    where: str, values: Sequence[float] | np.ndarray | Tensor, name: str = "values"
) -> np.ndarray:
    """A float64 copy of values, all of them finite; `where` and `name` are for the error."""
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    numbers = np.array(values, dtype=np.float64)
    check(
        bool(np.isfinite(numbers).all()), "{}: {} must be finite, got NaN or infinity", where, name
    )
    return numbers


def _check_support(support: Tensor, n: int) -> None:
    if not (isinstance(support, Tensor) and support.dtype == torch.int64):
        got = support.dtype if isinstance(support, Tensor) else type(support).__name__
        raise TypeError(f"SparseTransform: support must be a packed int64 tensor, got {got}")
    check(
        support.ndim == 2 and support.shape[1] == words(n),
        "SparseTransform: support must have shape (S, {}) for n={}, got {}",
        *(words(n), n, tuple(support.shape)),
    )
    spare = support[:, -1] >> n % 64 if n % 64 else support.new_zeros(0)
    check(not spare.any(), "SparseTransform: support must have no bits past n={}", n)


def _check_numbers(name: str, numbers: Tensor, terms: int) -> None:
    if not (isinstance(numbers, Tensor) and numbers.dtype == torch.float64):
        got = numbers.dtype if isinstance(numbers, Tensor) else type(numbers).__name__
        raise TypeError(f"SparseTransform: {name} must be a float64 tensor, got {got}")
    check(
        tuple(numbers.shape) == (terms,),
        "SparseTransform: {} must have shape ({},), got {}",
        *(name, terms, tuple(numbers.shape)),
    )
    check(
        bool(numbers.isfinite().all()),
        "SparseTransform: {} must be finite, got NaN or infinity",
        name,
    )
