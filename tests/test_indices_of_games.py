"""Every index of the real value tables, against its definition over all 2**n Moebius coefficients.

The oracle shares no code: the coefficients a(T) by differences along the axes of the table, their
sums over the T that contain S, for each |T| apart, and the published weights of each index.
"""

from __future__ import annotations

import itertools
import json
from math import comb
from pathlib import Path

import numpy as np
import pytest

from spex_core import SparseTransform, interactions

INDICES = ("Moebius", "Co-Moebius", "BII", "SII", "k-SII", "STII", "FBII", "FSII")
BERNOULLI = (1.0, -1 / 2, 1 / 6, 0.0, -1 / 30)


def superset_sums(table: np.ndarray, order: int) -> dict[tuple[int, ...], np.ndarray]:
    """{S: sums of a(T) over T >= S, one for each |T|}, for 1 <= |S| <= order."""
    n = table.size.bit_length() - 1
    a = table.astype(np.longdouble).reshape((2,) * n)[..., None]  # bit j is axis n - 1 - j
    for axis in range(n):
        a = np.concatenate([a.take([0], axis), np.diff(a, axis=axis)], axis=axis)
    size = np.indices((2,) * n).sum(axis=0)[..., None]
    sums = np.where(size == np.arange(n + 1), a, 0)
    for axis in range(n):
        low, high = sums.take([0], axis), sums.take([1], axis)
        sums = np.concatenate([low + high, high], axis=axis)
    flat = sums.reshape(-1, n + 1)
    return {
        s: flat[sum(1 << j for j in s)]
        for k in range(1, order + 1)
        for s in itertools.combinations(range(n), k)
    }


def weight(index: str, s: int, t: int, order: int) -> float:
    """The share of a(T), |T| = t, in the value of a set of s features inside T."""
    if index == "Moebius":
        return float(s == t)
    if index == "Co-Moebius":
        return 1.0
    if index == "BII":
        return 0.5 ** (t - s)
    if index == "SII":
        return 1 / (t - s + 1)
    if index == "k-SII":
        return sum(
            BERNOULLI[i] * comb(t - s, i) / (t - s - i + 1)
            for i in range(min(order - s, t - s) + 1)
        )
    if index == "STII":
        return float(s == t) if s < order else 1 / comb(t, order)
    if t <= order:
        return float(s == t)
    if index == "FBII":
        return (-1) ** (order - s) * 0.5 ** (t - s) * comb(t - s - 1, order - s)
    scale = (-1) ** (order - s) * s / (order + s) * comb(order, s)
    return scale * comb(t - 1, order) / comb(t + order - 1, order + s)


def worst_error(table: np.ndarray, order: int, indices: tuple[str, ...]) -> float:
    """The largest error over all sets, relative to the largest value of each index."""
    transform, worst = SparseTransform.from_table(table), 0.0
    sums = superset_sums(table, order)
    sizes = range(table.size.bit_length())
    for index in indices:
        found = interactions(transform, index, order)
        truth = {
            s: float(sum(weight(index, len(s), t, order) * a[t] for t in sizes if t >= len(s)))
            for s, a in sums.items()
        }
        scale = max(map(abs, truth.values()))
        assert scale > 0
        error = max(abs(found.get(s, 0.0) - value) for s, value in truth.items())
        assert set(found) - {()} <= set(truth)
        worst = max(worst, error / scale)
    return worst


def tables(games: Path, most: int) -> dict[str, np.ndarray]:
    """The value tables of at most `most` features."""
    found = {}
    for path in sorted(games.glob("*.npz")):
        with np.load(path) as file:
            if json.loads(str(file["meta"]))["kind"] == "full" and int(file["n"]) <= most:
                found[path.stem] = file["values"].astype(np.float64)
    return found


def test_the_oracle_itself() -> None:
    """f = 2 [1 and 2 present] + [0 present], of three features."""
    table = np.array([2.0 * (i & 6 == 6) + (i & 1) for i in range(8)])
    sums = superset_sums(table, 2)
    assert sums[1, 2].tolist() == [0, 0, 2, 0]
    assert sums[1,].tolist() == [0, 0, 2, 0]
    assert sums[0,].tolist() == [0, 1, 0, 0]
    assert weight("SII", 1, 2, 1) * 2 == 1.0


def test_every_index_of_real_tables(games: Path) -> None:
    """Each table of more than 10 features with one of the indices at one of the orders in turn, so
    that all 32 pairs come up."""
    small = tables(games, 10)
    large = {name: table for name, table in tables(games, 16).items() if name not in small}
    assert len(large) >= 32
    for i, (name, table) in enumerate(large.items()):
        index, order = INDICES[i % 8], 1 + i // 8 % 4
        assert worst_error(table, order, (index,)) < 1e-9, (name, index, order)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_index_of_small_tables_at_every_order(games: Path, order: int) -> None:
    found = tables(games, 10)
    assert len(found) > 10
    for name, table in found.items():
        assert worst_error(table, order, INDICES) < 1e-9, name
