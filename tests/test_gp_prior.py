"""gp_prior.py: mixtures, the terms looked for, and the energy of a spectrum that is not listed."""

import numpy as np
import pytest
import torch
from test_anova import all_terms, characters

from spex_core import gp_prior
from spex_core import masks as bits
from spex_core.anova import Anova, linear
from spex_core.gp_prior import (
    Listed,
    Mixture,
    energy_by_order,
    kernels_of,
    likely_terms,
    mixture_of,
)
from spex_core.prior import Terms

N = 9


def sample(rows, n=N, seed=0):
    dense = np.random.default_rng(seed).random((rows, n)) < 0.5
    return bits.pack(dense), dense


def kernel(orders, seed, n=N, spread=1.0):
    rng = np.random.default_rng(seed)
    relevances = torch.from_numpy(np.exp(spread * rng.normal(size=n)))
    variances = torch.from_numpy(np.append(0.0, rng.dirichlet(np.ones(orders))))
    return Anova(relevances / relevances.max(), variances)


def some_terms(seed, n=N, terms=20, width=4):
    sets = all_terms(n, width)
    rows = np.random.default_rng(seed).choice(np.arange(1, len(sets.sets)), terms, replace=False)
    return sets[rows]


def mixture(seed=0, n=N, trees=True):
    rng = np.random.default_rng(seed)
    parts = [linear(n), kernel(2, seed, n), kernel(4, seed + 1, n)]
    if trees:
        parts.append(Listed(some_terms(seed, n), rng.dirichlet(np.ones(20))))
    return Mixture(tuple(parts), tuple(rng.dirichlet(np.ones(len(parts))).tolist()))


def test_the_covariance_is_a_sum_over_terms():
    mixed = mixture()
    (left, dense), (right, others) = sample(15), sample(11, seed=1)
    terms = all_terms(N, 4)
    variance = mixed.variance(terms)
    assert variance[0] == 1.0
    assert variance[1:].sum() == pytest.approx(1.0)
    x, z = characters(dense, terms), characters(others, terms)
    want = (x * variance) @ z.T
    np.testing.assert_allclose(mixed.covariance(left, right).numpy(), want, atol=1e-12)
    square = (x * variance) @ x.T
    np.testing.assert_allclose(mixed.covariance(left, left).numpy(), square, atol=1e-12)


def test_only_priors_with_a_share_are_mixed():
    priors = {"a": linear(N), "b": kernel(2, 0), "c": kernel(3, 1)}
    mixed = mixture_of(priors, {"a": 0.25, "b": 0.0, "c": 0.75})
    assert mixed.parts == (priors["a"], priors["c"])
    assert mixed.shares == (0.25, 0.75)
    assert [share for _, share in kernels_of(mixture())] == list(mixture().shares[:3])


@pytest.mark.parametrize("trees", [False, True])
def test_all_terms_of_a_small_problem_are_looked_at(trees):
    masks, _ = sample(30)
    dual = torch.from_numpy(np.random.default_rng(2).normal(size=30))
    found = likely_terms(mixture(trees=trees), masks, dual, N, 1000)
    want = all_terms(N, 4)
    assert {tuple(row) for row in found.sets} == {tuple(row) for row in want.sets}
    assert len(found.sets) == len(want.sets)


def test_few_terms_are_the_likely_ones():
    """Pairs by their coefficients, larger sets by the prior, single features, those of trees."""
    n, most = 40, 25
    masks, dense = sample(60, n)
    dual = torch.from_numpy(np.random.default_rng(3).normal(size=60))
    mixed = Mixture((kernel(3, 5, n), Listed(some_terms(1, 12, 5, 3), np.full(5, 0.2))), (0.7, 0.3))
    listed = Terms(n, np.where(mixed.parts[1].terms.sets == 12, n, mixed.parts[1].terms.sets))
    mixed = Mixture((mixed.parts[0], Listed(listed, np.full(5, 0.2))), (0.7, 0.3))
    found = {tuple(row[row < n]) for row in likely_terms(mixed, masks, dual, n, most).sets}
    every = all_terms(n, 3)
    own = {tuple(row[row < n]) for row in listed.sets}
    assert own < found
    assert {(), *((j,) for j in range(n))} < found
    alone = mixed.parts[0]
    variance = alone.variance(every)
    for d, size in (
        (2, np.abs(variance * (characters(dense, every).T @ dual.numpy()))),
        (3, variance),
    ):
        rows = np.flatnonzero(every.orders == d)
        best = every[rows[np.argsort(-size[rows])[:most]]].sets
        assert {tuple(row[row < n]) for row in best} <= found
        assert len({k for k in found - own if len(k) == d}) <= most


def test_a_single_feature_and_more_orders_than_features():
    masks, _ = sample(8, 1)
    dual = torch.ones(8, dtype=torch.float64)
    one = Anova(torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 0.5, 0.5]).double())
    found = likely_terms(Mixture((one,), (1.0,)), masks, dual, 1, 10)
    assert sorted(tuple(row) for row in found.sets) == [(0, 1), (1, 1)]
    three = kernel(8, 0, 3)
    masks, _ = sample(8, 3)
    found = likely_terms(Mixture((three,), (1.0,)), masks, dual, 3, 10)
    assert len(found.sets) == 8


def test_the_energy_of_all_terms_in_closed_form():
    masks, dense = sample(25)
    dual = torch.from_numpy(np.random.default_rng(4).normal(size=25))
    mixed = mixture(trees=False)
    terms = all_terms(N, 4)
    variance = mixed.variance(terms)
    variance[0] = 0.0
    coefs = variance * (characters(dense, terms).T @ dual.numpy())
    want = np.bincount(terms.orders, weights=coefs**2)
    got = energy_by_order(mixed, masks, dual)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10, atol=1e-12)
    with_trees = Mixture((*mixed.parts, mixture().parts[3]), (*mixed.shares, 0.0))
    assert torch.equal(energy_by_order(with_trees, masks, dual), got)


def test_the_energy_where_orders_or_relevances_are_missing():
    masks, _ = sample(10, 3)
    dual = torch.ones(10, dtype=torch.float64)
    sparse = Anova(torch.tensor([1.0, 0.0, 0.0]).double(), torch.tensor([0.0, 0.5, 0.5]).double())
    got = energy_by_order(Mixture((sparse, kernel(8, 1, 3)), (0.5, 0.5)), masks, dual)
    assert got.isfinite().all()
    assert len(got) == 9
    assert (got[4:] == 0).all()


def test_pairs_of_many_features_are_those_of_the_whole_table(monkeypatch):
    """More features than are looked at together, with relevances that are equal: ties stay in the
    order of the pairs."""
    n, rng = 150, np.random.default_rng(3)
    relevances = torch.from_numpy(2.0 ** rng.integers(-2, 1, n))  # products without rounding
    kernel = Anova(relevances, torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64))
    packed = bits.pack(rng.random((40, n)) < 0.5)
    dual = torch.from_numpy(rng.integers(-2, 3, 40) / 1.0)
    z = 1.0 - 2.0 * bits.unpack(packed, n)
    size = np.abs((z.T * dual.numpy()) @ z * np.outer(relevances, relevances))
    rows, columns = np.triu_indices(n, 1)
    top = np.argsort(-size[rows, columns], kind="stable")[:500]
    for together in (64, 7):
        monkeypatch.setattr(gp_prior, "ROWS", together)
        found = gp_prior._best_pairs([(kernel, 0.5)], packed, dual, n, 500)
        np.testing.assert_array_equal(found, np.stack([rows[top], columns[top]], 1))
