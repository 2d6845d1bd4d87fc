"""Best subsets, the relaxation: a sum of terms as a sum of small tables.

Each term goes to a largest set of features that contains it; that set's table has the sum of its
terms at all 2**d states of its d features. The sum of the tables' largest entries bounds f, and the
linear programme of subset_milp.py, which makes tables agree on what they share, bounds it tighter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

WIDEST = 6  # features of a table, 64 states; a longer term is cut with variables for its parts

Term = tuple[int, ...]


@dataclass(frozen=True)
class Tables:
    """f(m) = constant + the sum of the tables at m.

    Attributes:
        variables: the live features, and after them the parts of cut terms.
        sets: the features of each table, sorted.
        values: {d: (rows, float64 (rows, 2**d))}: the tables of d features, where they stand in
        `sets`, and their entries; entry s has feature j present if bit j of s is set.
        parts: variable -> (the place of a set, the bits of those of its features whose parity the
        variable is).
    """

    variables: int
    sets: list[Term]
    values: dict[int, tuple[np.ndarray, np.ndarray]]
    parts: dict[int, tuple[int, int]] = field(default_factory=dict)

    def most(self) -> float:
        """An upper bound of the sum: of each table its largest entry."""
        return float(sum(values.max(1).sum() for _, values in self.values.values()))


def small_tables(terms: Mapping[Term, float], variables: int) -> Tables:
    """The tables of terms over `variables` features, at most WIDEST in each.

    Cost: 2**d entries for each set of d features that is in no larger one.
    """
    short, parts = _cut(terms, variables)
    sets: list[Term] = []
    host: dict[Term, int] = {}
    for term in sorted({*short, *parts.values()}, key=lambda term: (-len(term), term)):
        if term not in host:
            host |= dict.fromkeys(_subsets(term), len(sets))
            sets.append(term)
    sizes = np.array([len(set_) for set_ in sets], np.int64)
    values = {}
    for d in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == d)
        values[d] = rows, np.zeros((len(rows), 1 << d))
    place = np.empty(len(sets), np.int64)
    for rows, _ in values.values():
        place[rows] = np.arange(len(rows))
    for term, coef in short.items():
        own = sets[host[term]]
        _, table = values[len(own)]
        table[place[host[term]]] += coef * _signs(len(own), _bits(term, own))
    where = {
        variable: (host[part], _bits(part, sets[host[part]])) for variable, part in parts.items()
    }
    return Tables(variables + len(parts), sets, values, where)


def parity_states(d: int, bits: int) -> np.ndarray:
    """The states s of d features in which an odd number of those in `bits` is present: bool."""
    return _signs(d, bits) < 0


def _cut(terms: Mapping[Term, float], variables: int) -> tuple[dict[Term, float], dict[int, Term]]:
    """Terms of at most WIDEST variables, some of them parities of parts: {variable: its part}."""
    part_of: dict[Term, int] = {}
    short: dict[Term, float] = {}
    for term, coef in terms.items():
        while len(term) > WIDEST:
            head, rest = term[: WIDEST - 1], term[WIDEST - 1 :]
            term = (*rest, part_of.setdefault(head, variables + len(part_of)))
        short[tuple(sorted(term))] = short.get(tuple(sorted(term)), 0.0) + coef
    return short, {variable: tuple(sorted(part)) for part, variable in part_of.items()}


def _bits(term: Term, own: Term) -> int:
    """The features of a term as bits of the state of its table."""
    return sum(1 << own.index(j) for j in term)


def _subsets(term: Term) -> Iterator[Term]:
    return itertools.chain.from_iterable(
        itertools.combinations(term, size) for size in range(1, len(term) + 1)
    )


def _signs(d: int, bits: int) -> np.ndarray:
    """(-1)**|s and bits| for each state s of d features."""
    common = np.arange(1 << d) & bits
    odd = np.zeros(1 << d, np.int64)
    for j in range(d):
        odd ^= common >> j & 1
    return 1 - 2 * odd
