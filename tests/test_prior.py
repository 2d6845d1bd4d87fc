"""Priors on Fourier terms: the formulas by hand, one set at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from spex_core import masks as bits
from spex_core.prior import (
    AMONG,
    FLOOR,
    MOST_SINGLE,
    Spectra,
    Terms,
    choose_support,
    prior_variances,
    terms_of,
)

Sets = list[tuple[int, ...]]


def spectra_of(sets: Sets, coefs: np.ndarray, n: int, width: int, each: int = 2) -> Spectra:
    support = terms_of(bits.pack_sets(sets, n), n, width)
    return Spectra(support, coefs, each, 2.0)


def random_spectra(n: int, terms: int, width: int, bags: int = 3) -> tuple[Sets, Spectra]:
    """`terms` random sets of 1 to `width` features; one that only bag 0 sees."""
    rng = np.random.default_rng([n, terms, width])
    every = [k for d in range(1, min(width, n) + 1) for k in itertools.combinations(range(n), d)]
    sets = [every[i] for i in np.sort(rng.choice(len(every), terms, replace=False))]
    coefs = rng.normal(size=(terms, 2 * bags))
    coefs[1:][-1:, 2:] = 0.0
    return sets, spectra_of(sets, coefs, n, width)


def sets_of(terms: Terms) -> Sets:
    return [tuple(int(i) for i in row if i < terms.n) for row in terms.sets]


def by_hand(
    sets: Sets, spectra: Spectra, bag: int | None, support: Sets
) -> dict[str, dict[tuple[int, ...], float]]:
    """Every prior on a support, from the definitions at the top of prior.py."""
    n = spectra.terms.n
    columns = range(spectra.coefs.shape[1]) if bag is None else (2 * bag, 2 * bag + 1)
    power = {
        k: sum(spectra.coefs[i, j] ** 2 for j in columns) / len(columns) for i, k in enumerate(sets)
    }
    total = sum(power.values())
    power = {k: p / total for k, p in power.items()}
    relevance = [sum(p for k, p in power.items() if i in k) for i in range(n)]
    relevance = [r / max(relevance) + FLOOR for r in relevance]
    out = {"trees": {k: power.get(k, 0.0) for k in support}}
    for name, gamma in (("sqrt-product", 0.5), ("product", 1.0)):
        product = {k: math.prod(relevance[i] ** gamma for i in k) for k in support}
        out[name] = {}
        for k in support:
            energy = sum(p for other, p in power.items() if len(other) == len(k))
            same = sum(p for other, p in product.items() if len(other) == len(k))
            out[name][k] = energy * product[k] / same
    out["linear"] = {k: float(len(k) == 1) for k in support}
    return {name: {k: w / sum(ws.values()) for k, w in ws.items()} for name, ws in out.items()}


CASES = [(1, 1, 1), (2, 3, 2), (5, 12, 3), (6, 30, 5), (6, 4, 5), (9, 40, 4)]
cases = pytest.mark.parametrize(("n", "terms", "width"), CASES, ids=lambda x: str(x))


@cases
@pytest.mark.parametrize("bag", [None, 0, 2])
def test_the_formulas(n: int, terms: int, width: int, bag: int | None) -> None:
    sets, spectra = random_spectra(n, terms, width)
    support, row = choose_support(spectra, 50)
    expected = by_hand(sets, spectra, bag, sets_of(support))
    found = prior_variances(spectra, bag, support, row)
    assert found.keys() == expected.keys()
    for name, variance in found.items():
        np.testing.assert_allclose(variance, list(expected[name].values()), rtol=1e-12, atol=1e-15)
        assert (variance >= 0).all()
        assert variance.sum() == pytest.approx(1.0, rel=1e-12)


@cases
def test_the_support(n: int, terms: int, width: int) -> None:
    sets, spectra = random_spectra(n, terms, width)
    support, row = choose_support(spectra, 50)
    chosen = sets_of(support)
    assert len(set(chosen)) == len(chosen)
    assert () not in chosen
    assert {(i,) for i in range(n)} <= set(chosen)
    assert all(1 <= len(k) <= width for k in chosen)
    np.testing.assert_array_equal(support.orders, [len(k) for k in chosen])
    assert bits.unpack_sets(support.packed()) == chosen
    assert set(sets) <= set(chosen)  # fewer than 50
    assert [sets[i] if i >= 0 else None for i in row] == [k if k in sets else None for k in chosen]
    energy = {len(k) for k in sets}
    expected = sum(math.comb(n, d) for d in energy if 2 <= d <= 5)
    assert len(set(chosen) | set(sets)) >= min(expected, 50)


def test_a_limit_takes_the_largest() -> None:
    _, spectra = random_spectra(9, 100, 4)
    support, row = choose_support(spectra, 10)
    variance = spectra.variance(None)
    assert 9 + 10 <= len(support.sets) <= 9 + 3 * 10
    assert variance[row[row >= 0]].min() == np.sort(variance)[-10]  # no more from the trees


def test_pairs_of_the_most_relevant_features() -> None:
    """The product of relevances brings in pairs that no tree has joined."""
    n = 80
    sets = [(0,), (1,), (2,), (70, 71)]
    coefs = np.array([[3.0], [2.0], [1.0], [0.5]])
    spectra = Spectra(terms_of(bits.pack_sets(sets, n), n, 2), coefs, 1, 2.0)
    support, _ = choose_support(spectra, 5)
    chosen = sets_of(support)
    assert {(0, 1), (0, 2), (1, 2)} <= set(chosen)
    assert max(map(len, chosen)) == 2
    assert sum(len(k) == 2 for k in chosen) <= 1 + 2 * 5


def test_no_term_above_the_orders_of_the_trees() -> None:
    sets = [(0,), (1,), (2,)]
    spectra = spectra_of(sets, np.ones((3, 4)), 6, 5)
    support, row = choose_support(spectra, 100)
    assert sets_of(support) == [(i,) for i in range(6)]
    for variance in prior_variances(spectra, 1, support, row).values():
        assert variance.sum() == pytest.approx(1.0)


def test_many_features() -> None:
    n = MOST_SINGLE + 904
    sets = [(n - 1,), (7, n - 2), (63, 64, 65)]
    spectra = spectra_of(sets, np.ones((3, 2)), n, 3, each=1)
    support, row = choose_support(spectra, 2000)
    chosen = sets_of(support)
    assert sum(len(k) == 1 for k in chosen) == MOST_SINGLE
    assert {(n - 1,), (n - 2,), (7,), (63,), (64,), (65,)} <= set(chosen)  # the most relevant ones
    assert set(sets) <= set(chosen)
    priors = prior_variances(spectra, None, support, row)
    assert np.count_nonzero(priors["linear"]) == MOST_SINGLE


def test_the_product_prior_looks_at_two_thousand_sets_of_an_order() -> None:
    for order, among in AMONG.items():
        assert 1200 < math.comb(among, order) < 2100


def test_trees_that_never_split() -> None:
    """No terms at all: single features alone, and only the linear prior has something to say."""
    spectra = Spectra(Terms(7, np.zeros((0, 3), np.int32)), np.zeros((0, 4)), 2, 2.0)
    support, row = choose_support(spectra, 10)
    assert sets_of(support) == [(i,) for i in range(7)]
    priors = prior_variances(spectra, 1, support, row)
    np.testing.assert_allclose(priors.pop("linear"), 1 / 7)
    assert not any(variance.any() for variance in priors.values())


def test_a_bag_that_never_split() -> None:
    _, spectra = random_spectra(5, 8, 3)
    spectra.coefs[:, :2] = 0.0
    support, row = choose_support(spectra, 10)
    priors = prior_variances(spectra, 0, support, row)
    assert not priors["trees"].any()
    assert priors["linear"].sum() == pytest.approx(1.0)
    assert all(np.isfinite(variance).all() for variance in priors.values())
    assert prior_variances(spectra, 1, support, row)["trees"].any()


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("scale", [1e-150, 1.0])
def test_the_exponent(exponent: float, scale: float) -> None:
    coefs = scale * np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 6.0]])
    spectra = Spectra(terms_of(bits.pack_sets([(0,), (1, 2)], 3), 3, 2), coefs, 2, exponent)
    raw = np.array([[1**exponent + 2**exponent, 0], [3**exponent + 4**exponent, 5**exponent]])
    raw[1, 1] += 6**exponent
    np.testing.assert_allclose(spectra.variance(0), raw[0] / raw[0].sum())
    np.testing.assert_allclose(spectra.variance(1), raw[1] / raw[1].sum())
    np.testing.assert_allclose(spectra.variance(None), raw.sum(0) / raw.sum())


@pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 1000])
def test_terms_are_packed_and_unpacked(n: int) -> None:
    rng = np.random.default_rng(n)
    width = min(n, 5)
    sets = {tuple(sorted(rng.choice(n, rng.integers(0, width + 1), False))) for _ in range(50)}
    packed = bits.pack_sets(sorted(sets), n)
    terms = terms_of(packed, n, width)
    assert terms.sets.shape == (len(sets), width)
    assert terms.sets.dtype == np.int32
    assert sets_of(terms) == sorted(sets)
    assert torch.equal(terms.packed(), packed)
    some = np.arange(len(sets))[::-2]
    assert torch.equal(terms[some].packed(), packed[torch.from_numpy(some.copy())])
    weights = rng.random(n)
    expected = [math.prod(weights[i] for i in k) for k in sorted(sets)]
    np.testing.assert_allclose(terms.product(weights), expected)
