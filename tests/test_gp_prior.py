"""gp_prior.py: mixtures, and the terms looked for."""

import numpy as np
import pytest
import torch
from test_anova import all_terms, characters, prior_matrix

from spex_core import gp_prior
from spex_core import masks as bits
from spex_core.anova import Anova, linear
from spex_core.gp_prior import Listed, Mixture, kernels_of, likely_terms, mixture_of
from spex_core.prior import Terms

N = 9


def sample(rows, n=N, seed=0):
    dense = np.random.default_rng(seed).random((rows, n)) < 0.5
    return bits.pack(dense), dense


def kernel(orders, seed, n=N, spread=1.0, bias=0.0):
    rng = np.random.default_rng(seed)
    relevances = torch.from_numpy(np.exp(spread * rng.normal(size=n)))
    variances = torch.from_numpy(np.append(0.0, rng.dirichlet(np.ones(orders))))
    return Anova(relevances / relevances.max(), variances, bias)


def some_terms(seed, n=N, terms=20, width=4):
    sets = all_terms(n, width)
    rows = np.random.default_rng(seed).choice(np.arange(1, len(sets.sets)), terms, replace=False)
    return sets[rows]


def mixture(seed=0, n=N, trees=True, bias=0.0):
    rng = np.random.default_rng(seed)
    parts = [linear(n), kernel(2, seed, n), kernel(4, seed + 1, n, bias=bias)]
    if trees:
        parts.append(Listed(some_terms(seed, n), rng.dirichlet(np.ones(20))))
    return Mixture(tuple(parts), tuple(rng.dirichlet(np.ones(len(parts))).tolist()))


def matrix_of(mixed, terms):
    """The covariance of all coefficients under a mixture: of the constant, and of each part."""
    total = np.diag((terms.orders == 0).astype(float))
    for part, share in zip(mixed.parts, mixed.shares, strict=True):
        if isinstance(part, Anova):
            total += share * prior_matrix(part, terms)
        else:
            total += share * np.diag(part.variance(terms.packed()))
    return total


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_covariances_are_sums_over_terms(bias, monkeypatch):
    monkeypatch.setattr(gp_prior, "BLOCK", 100)  # of 256 terms
    mixed = mixture(bias=bias)
    (left, dense), (right, others) = sample(15), sample(11, seed=1)
    terms = all_terms(N, 4)
    matrix = matrix_of(mixed, terms)
    assert matrix.trace() == pytest.approx(2.0)
    np.testing.assert_allclose(mixed.variance(terms), matrix.diagonal(), atol=1e-14)
    assert [part.bias for part, _ in mixed.biased()] == [1.0] * (bias > 0)
    x, z = characters(dense, terms), characters(others, terms)
    want = x @ matrix @ z.T
    np.testing.assert_allclose(mixed.covariance(left, right).numpy(), want, atol=1e-12)
    square = x @ matrix @ x.T
    np.testing.assert_allclose(mixed.covariance(left, left).numpy(), square, atol=1e-12)
    np.testing.assert_allclose(mixed.diagonal(left).numpy(), square.diagonal(), atol=1e-12)
    np.testing.assert_allclose(mixed.cross(left, terms).numpy(), matrix @ x.T, atol=1e-12)
    dual = torch.from_numpy(np.random.default_rng(2).normal(size=15))
    coefs = mixed.coefs(left, terms, dual).numpy()
    np.testing.assert_allclose(coefs, matrix @ x.T @ dual.numpy(), atol=1e-12)


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
    variance = alone.variance(every.packed())
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


@pytest.mark.parametrize("n", [6, 30])
def test_pairs_under_a_bias_are_the_largest(n):
    """Of two priors, one with a bias: the pairs found have nearly all the energy that there is in
    the largest, though those are not looked for by their exact coefficients."""
    rng = np.random.default_rng(3)
    mixed = Mixture((kernel(4, 5, n, bias=1.0), kernel(3, 6, n)), (0.6, 0.4))
    packed, _ = sample(60, n)
    dual = torch.from_numpy(rng.normal(size=60))
    found = gp_prior._best_pairs(kernels_of(mixed), packed, dual, n, 10)
    pairs = all_terms(n, 2)
    pairs = pairs[pairs.orders == 2]
    energy = np.sort(mixed.coefs(packed, pairs, dual).square().numpy())[::-1]
    held = mixed.coefs(packed, Terms(n, found), dual).square().sum().item()
    assert held > (0.8 if n == 6 else 0.9) * energy[:10].sum()
