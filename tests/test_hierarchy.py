"""Hierarchy rates of small spectra, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spex_core import SparseTransform, hierarchy_rates

Terms = dict[tuple[int, ...], float]


def rates(terms: Terms, k: int | None = None, n: int = 6) -> tuple[float, float]:
    found = hierarchy_rates(SparseTransform.from_dict(n, terms), k)
    assert list(found) == ["direct subset", "staircase"]
    return found["direct subset"], found["staircase"]


@pytest.mark.parametrize(
    ("terms", "direct", "staircase"),
    [
        ({}, 1.0, 1.0),
        ({(): 3.0}, 1.0, 1.0),
        ({(): 0.0, (1,): 0.0}, 1.0, 1.0),
        ({(4,): 1.0}, 1.0, 1.0),  # the empty set is there
        ({(): 9.0, (0,): 1.0, (1,): 1.0, (0, 1): 1.0}, 1.0, 1.0),
        ({(0, 1): 1.0}, 0.0, 0.0),
        ({(0,): 1.0, (0, 1): 1.0}, 3 / 4, 1.0),  # (1 + 1/2) / 2
        # (0,): 1; (0, 1): 1/2; (0, 1, 2): 1/3, reached by (0,), (0, 1); (3, 4): 0, not reached
        ({(0,): 1.0, (0, 1): 1.0, (0, 1, 2): 1.0, (3, 4): 1.0}, (1 + 1 / 2 + 1 / 3) / 4, 3 / 4),
        # (3, 4, 5) has (3, 4) below it, which is itself not reached
        ({(3, 4): 1.0, (3, 4, 5): 1.0}, (0 + 1 / 3) / 2, 0.0),
        ({(0, 1): 1.0, (0, 1, 2): 1.0, (2,): 1.0, (1, 2): 1.0}, (0 + 2 / 3 + 1 + 1 / 2) / 4, 3 / 4),
    ],
)
def test_all_terms(terms: Terms, direct: float, staircase: float) -> None:
    assert rates(terms, len(terms)) == pytest.approx((direct, staircase))
    assert rates(terms) == pytest.approx((direct, staircase))  # all are of one size


SPECTRUM = {(): 50.0, (0,): 4.0, (0, 1): 3.0, (2, 3): 2.0, (1,): 1.0, (0, 1, 2): 0.5}


@pytest.mark.parametrize(
    ("k", "direct", "staircase"),
    [
        (0, 1.0, 1.0),
        (1, 1.0, 1.0),
        (2, 3 / 4, 1.0),
        (3, (1 + 1 / 2 + 0) / 3, 2 / 3),
        (4, (1 + 1 + 0 + 1) / 4, 3 / 4),
        (5, (1 + 1 + 0 + 1 + 1 / 3) / 5, 4 / 5),
        (99, (1 + 1 + 0 + 1 + 1 / 3) / 5, 4 / 5),
    ],
)
def test_the_largest_terms(k: int, direct: float, staircase: float) -> None:
    assert rates(SPECTRUM, k) == pytest.approx((direct, staircase))


def test_by_default_the_terms_that_hold_most_of_the_variance() -> None:
    """16 + 9 + 4 of 30.25 are 95.9 %, 16 + 9 only 82.6 %; the constant does not count."""
    assert rates(SPECTRUM) == rates(SPECTRUM, 3)
    assert rates(SPECTRUM | {(): 1e9}) == rates(SPECTRUM, 3)
    assert rates(SPECTRUM | {(2, 3): -1.0, (1,): 0.0}) == rates(SPECTRUM, 2)  # 25 of 26.25


@pytest.mark.parametrize("unit", [5e-324 * 2**60, 1e-300, 1e-160, 1e160, 1e300])
def test_values_of_any_size(unit: float) -> None:
    assert rates({k: coef * unit for k, coef in SPECTRUM.items()}) == rates(SPECTRUM)


def test_at_most_a_thousand_terms() -> None:
    rng = np.random.default_rng(0)
    single = {(i,): 2.0 for i in range(1000)}
    pairs = {(i, i + 1): float(rng.uniform(0.9, 1.0)) for i in range(1500)}
    assert rates(single | pairs, n=2000) == (1.0, 1.0)
    assert rates(single | pairs, 2500, n=2000) != (1.0, 1.0)


def test_a_whole_spectrum_is_a_staircase() -> None:
    values = np.random.default_rng(0).normal(size=2**7)
    transform = SparseTransform.from_table(values)
    assert hierarchy_rates(transform, 127) == {"direct subset": 1.0, "staircase": 1.0}
    assert hierarchy_rates(transform)["direct subset"] < 1.0
