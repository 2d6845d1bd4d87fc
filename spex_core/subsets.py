"""Best subsets: the mask at which a sparse transform is largest, with a bound that certifies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from . import ops, subset_milp
from .backend import Backend
from .errors import check, check_int
from .masks import pack, pack_sets
from .subset_problem import SubsetProblem, reduce_problem
from .subset_search import search

METHODS = ("auto", "table", "milp", "search")
ENUMERATED = 20  # features in terms up to which "auto" looks at every mask
STARTS = 32


@dataclass(frozen=True, eq=False)
class BestSubset:
    """A mask that makes a transform as large, or as small, as was found.

    Attributes:
        mask: bool (n,).
        value: the transform there, as predict gives it.
        bound: no allowed mask has a larger (for minimize: smaller) value.
        method: "table", "milp" or "search".
    """

    mask: np.ndarray
    value: float
    bound: float
    method: str

    @property
    def features(self) -> tuple[int, ...]:
        """The features present in the mask, ascending."""
        return tuple(np.flatnonzero(self.mask).tolist())

    @property
    def gap(self) -> float:
        """|bound - value| / |value|: 0 where the mask is proven best, up to rounding."""
        if self.bound == self.value:
            return 0.0
        return abs(self.bound - self.value) / abs(self.value) if self.value else inf


def largest_subset(
    where: str,
    n: int,
    support: Tensor,
    coefs: Tensor,
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
    """SparseTransform.maximize for terms (support, coefs); `where` names the caller in errors."""
    check(method in METHODS, "{}: method must be one of {}, got {!r}", where, METHODS, method)
    check(
        not isinstance(time_limit, bool) and isinstance(time_limit, int | float) and time_limit > 0,
        "{}: time_limit must be a positive number of seconds, got {!r}",
        *(where, time_limit),
    )
    seed = check_int(f"{where}: seed", seed, 0, 2**64 - 1)
    problem = reduce_problem(where, n, support, coefs, (size, at_least, at_most), fixed)
    live = len(problem.live)
    if method == "auto":
        method = "table" if live <= ENUMERATED else "milp"
    check(
        method != "table" or live <= ops.MAX_LOG_WIDTH,
        "{}: method 'table' takes at most {} features that are free and in a term, got {}",
        *(where, ops.MAX_LOG_WIDTH, live),
    )
    masks, bound = [], inf
    if method == "table" or live == 0:
        masks.append(_in_table(problem, backend))
    if method in ("milp", "search") and live:
        mask, bound = search(problem, STARTS, seed, device, backend)
        masks.append(mask)
    if method == "milp" and live:
        solved, proven = subset_milp.solve(problem, time_limit)
        bound = min(bound, proven)
        masks += [] if solved is None else [solved]
    whole = np.stack([problem.whole(mask) for mask in masks])
    values = ops.parity_predict(pack(whole), support, coefs)
    best = int(values.argmax())
    value = float(values[best])
    exact = method == "table" or live == 0
    bound = value if exact else max(bound, value)  # rounding can put it below
    return BestSubset(whole[best], value, bound, method)


def _in_table(problem: SubsetProblem, backend: Backend) -> np.ndarray:
    """The best live mask, by the values of all: one Walsh-Hadamard transform of 2**L numbers."""
    live = len(problem.live)
    spectrum = torch.zeros(1 << live, dtype=torch.float64)
    if problem.terms:
        at = pack_sets(list(problem.terms), live)[:, 0]
        spectrum[at] = torch.tensor(list(problem.terms.values()), dtype=torch.float64)
    values = ops.fwht(spectrum, backend=backend)
    size = torch.zeros(1, dtype=torch.int64)
    for _ in range(live):
        size = torch.cat([size, size + 1])
    allowed = (size >= problem.least) & (size <= problem.most)
    best = int(values.masked_fill(~allowed, -torch.inf).argmax())
    return (best >> np.arange(live) & 1).astype(bool)
