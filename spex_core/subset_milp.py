"""Best subsets, exactly: mixed-integer programming by HiGHS, with a certified bound."""

from __future__ import annotations

import collections
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import MissingExtra
from .subset_problem import SubsetProblem
from .subset_tables import Tables, Term, parity_states, small_tables

if TYPE_CHECKING:
    from scipy.sparse import csr_array

UNIT = 1000.0  # the largest coefficient after scaling: HiGHS stops at an absolute gap of 1e-6


def solve(problem: SubsetProblem, time_limit: float) -> tuple[np.ndarray | None, float]:
    """The best live mask found within the time, None if none was, and an upper bound of the best.

    Every table is a point of the simplex of its states, tables that share a feature or a pair agree
    on how often it is present, and features are 0 or 1. Where terms come with terms inside them
    this bounds tighter than products or parities linearised one by one; bench_subsets.py has both.
    """
    try:
        import scipy.optimize as optimize
    except ImportError as error:
        raise MissingExtra(
            "maximize, minimize: exact search of more than 20 features needs SciPy: "
            "pip install 'spex-core[optimize]', or ask for method='search'"
        ) from error
    scale = UNIT / max(map(abs, problem.terms.values()))
    tables = small_tables({k: scale * coef for k, coef in problem.terms.items()}, len(problem.live))
    objective, matrix, lower, upper, constant = programme(tables, problem)
    found = optimize.milp(
        -objective,
        integrality=np.arange(len(objective)) < len(problem.live),
        bounds=optimize.Bounds(0, 1),
        constraints=optimize.LinearConstraint(matrix, lower, upper),
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    mask = None if found.x is None else found.x[: len(problem.live)] > 0.5
    bound = tables.most()
    if found.mip_dual_bound is not None and np.isfinite(found.mip_dual_bound):
        bound = min(bound, constant - found.mip_dual_bound)
    return mask, problem.constant + bound / scale


def programme(
    tables: Tables, problem: SubsetProblem
) -> tuple[np.ndarray, csr_array, list[float], list[float], float]:
    """The objective, the constraint matrix with its lower and upper bounds, and the constant."""
    from scipy.sparse import csr_array

    columns = _columns(tables)
    objective, constant = np.zeros(columns.count), 0.0
    for d, (rows, values) in tables.values.items():
        constant += float(values[:, 0].sum())
        start = columns.first[int(rows[0])]
        change = (values[:, 1:] - values[:, :1]).ravel()
        objective[start : start + len(rows) * (2**d - 1)] = change
    entries = _Entries()
    for place, set_ in enumerate(tables.sets):
        weights, states = columns.weights(place, len(set_)), np.arange(1, 2 ** len(set_))
        entries.add(weights, -1, 0.0, 1.0)
        for j, feature in enumerate(set_):
            entries.add(weights[states >> j & 1 == 1], feature)
        for (i, a), (j, b) in itertools.combinations(enumerate(set_), 2):
            if (a, b) in columns.pairs:
                entries.add(weights[(states >> i & states >> j & 1) == 1], columns.pairs[a, b])
    for variable, (place, bits) in tables.parts.items():
        d = len(tables.sets[place])
        entries.add(columns.weights(place, d)[parity_states(d, bits)[1:]], variable)
    entries.add(np.arange(len(problem.live)), -1, problem.least, problem.most)
    matrix = csr_array(
        (np.concatenate(entries.value), (np.concatenate(entries.row), np.concatenate(entries.at))),
        shape=(len(entries.lower), columns.count),
    )
    return objective, matrix, entries.lower, entries.upper, constant


@dataclass(frozen=True)
class _Columns:
    """Where the variables stand: the features and the parts of cut terms; then for each table the
    weights of its states but the first; then one for each pair that several tables share."""

    first: dict[int, int]
    pairs: dict[Term, int]
    count: int

    def weights(self, place: int, d: int) -> np.ndarray:
        return np.arange(self.first[place], self.first[place] + 2**d - 1)


def _columns(tables: Tables) -> _Columns:
    first: dict[int, int] = {}
    count = tables.variables
    for d, (rows, _) in tables.values.items():
        first |= {row: count + i * (2**d - 1) for i, row in enumerate(rows.tolist())}
        count += len(rows) * (2**d - 1)
    uses = collections.Counter(
        pair for set_ in tables.sets for pair in itertools.combinations(set_, 2)
    )
    shared = [pair for pair, times in uses.items() if times > 1]
    pairs: dict[Term, int] = {pair: count + i for i, pair in enumerate(shared)}
    return _Columns(first, pairs, count + len(pairs))


class _Entries:
    """Constraints collected one by one: the sum over `at`, less variable `equal`, within bounds."""

    def __init__(self) -> None:
        self.row: list[np.ndarray] = []
        self.at: list[np.ndarray] = []
        self.value: list[np.ndarray] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def add(self, at: np.ndarray, equal: int, lower: float = 0.0, upper: float = 0.0) -> None:
        value = np.ones(len(at))
        if equal >= 0:
            at, value = np.append(at, equal), np.append(value, -1.0)
        self.row.append(np.full(len(at), len(self.lower)))
        self.at.append(at)
        self.value.append(value)
        self.lower.append(lower)
        self.upper.append(upper)
