"""anova.py: the posterior of the hyperparameters against dense algebra on listed terms."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from spex_core import masks as bits
from spex_core.anova import (
    FLOOR,
    Anova,
    Taste,
    fit_anova,
    kernel_of,
    negative_log_posterior,
    start_of,
)
from spex_core.prior import Terms


def sample(n, rows, seed=0):
    """Masks packed and dense, values of mean 0 and variance 1: a product, a feature and noise."""
    rng = np.random.default_rng(seed)
    dense = rng.random((rows, n)) < 0.5
    y = 2.0 * (dense[:, 0] & dense[:, 1]) + dense[:, 2] + 0.1 * rng.normal(size=rows)
    return bits.pack(dense), dense, torch.from_numpy((y - y.mean()) / y.std())


def all_terms(n, orders):
    sets = [k for d in range(orders + 1) for k in combinations(range(n), d)]
    table = np.full((len(sets), max(orders, 1)), n, np.int32)
    for row, k in zip(table, sets, strict=True):
        row[: len(k)] = k
    return Terms(n, table)


def characters(dense, terms):
    """(-1)**|k and m|: float64 (T, S)."""
    member = np.zeros((len(terms.sets), dense.shape[1] + 1), np.int64)
    np.put_along_axis(member, terms.sets.astype(np.int64), 1, 1)
    return 1.0 - 2.0 * (dense.astype(np.int64) @ member[:, :-1].T % 2)


def own_variance(kernel, terms):
    """Var G[k], set by set."""
    out = []
    for k in terms.sets:
        k = k[k < terms.n]
        d, relevances = len(k), kernel.relevances.tolist()
        if d >= len(kernel.variances):
            out.append(0.0)
            continue
        every = sum(math.prod(relevances[i] for i in s) for s in combinations(range(terms.n), d))
        share = math.prod(relevances[i] for i in k) / every if every else 0.0
        out.append(float(kernel.variances[d]) * share)
    return np.array(out)


def prior_matrix(kernel, terms):
    """The covariance of all coefficients, set by set: of k, the factor of z in the products of each
    set that contains k."""
    sets = [set(k[k < terms.n].tolist()) for k in terms.sets]
    factor = np.zeros((len(sets), len(sets)))
    for i, k in enumerate(sets):
        for j, s in enumerate(sets):
            if k <= s:
                factor[i, j] = kernel.bias ** (len(s) - len(k)) / (1 + kernel.bias**2) ** (
                    len(s) / 2
                )
    return (factor * own_variance(kernel, terms)) @ factor.T


@pytest.mark.parametrize("bias", [0.0, 1.0, 0.5])
@pytest.mark.parametrize(("n", "orders"), [(5, 1), (6, 2), (7, 4), (3, 3), (8, 8)])
def test_a_kernel_is_the_covariance_of_its_coefficients(n, orders, bias):
    rng = np.random.default_rng(1)
    packed, dense, _ = sample(n, 40)
    kernel = Anova(
        torch.from_numpy(rng.random(n)),
        torch.from_numpy(np.append(0.0, rng.random(orders))),
        bias,
    )
    terms = all_terms(n, orders)
    matrix, x = prior_matrix(kernel, terms), characters(dense, terms)
    variance = kernel.variance(terms.packed())
    np.testing.assert_allclose(variance, matrix.diagonal(), atol=1e-14)
    want = x @ matrix @ x.T
    np.testing.assert_allclose(kernel.covariance(packed, packed).numpy(), want, atol=1e-12)
    np.testing.assert_allclose(kernel.diagonal(packed).numpy(), want.diagonal(), atol=1e-12)
    cross = kernel.cross(packed, terms.packed()).numpy()
    np.testing.assert_allclose(cross, matrix @ x.T, atol=1e-12)
    assert variance.sum() == pytest.approx(float(kernel.variances.sum()))
    wider = Terms(n, np.pad(terms.sets, ((0, 0), (0, 2)), constant_values=n))
    np.testing.assert_array_equal(kernel.variance(wider.packed()), variance)
    too_large = Terms(n, np.arange(n, dtype=np.int32)[None])
    assert orders >= n or kernel.variance(too_large.packed()).tolist() == [0.0]


@pytest.mark.parametrize("bias", [0.0, 1.0, 0.5])
def test_the_covariance_of_a_value_with_pairs(bias):
    """Exact where no larger set contains the pair; else nearly, with many features."""
    rng, n = np.random.default_rng(1), 30
    packed, dense, _ = sample(n, 15)
    pairs = Terms(n, np.array([[0, 1], [3, 17]], np.int32))
    relevances = torch.from_numpy(rng.random(n))
    for variances, near in (([0.0, 0.4, 0.6], 1e-12), ([0.0, 0.4, 0.3, 0.2, 0.1], 0.2)):
        kernel = Anova(relevances, torch.tensor(variances, dtype=torch.float64), bias)
        w = (1.0 - 2.0 * dense + bias) / (1.0 + bias**2)
        each = np.stack([w[:, i] * w[:, j] * float(relevances[i] * relevances[j])
                         for i, j in pairs.sets])  # fmt: skip
        want = kernel.cross(packed, pairs.packed()).numpy()
        got = each * kernel.in_pairs(packed).numpy()
        np.testing.assert_allclose(got, want, atol=near * np.abs(want).max())


def test_an_order_without_relevant_features_has_no_variance():
    relevances = torch.tensor([1.0, 1.0, 0.0]).double()
    kernel = Anova(relevances, torch.tensor([0.0, 0.5, 0.25, 0.25]).double())
    terms = all_terms(3, 3)
    by_order = np.bincount(terms.orders, weights=kernel.variance(terms.packed()))
    assert by_order.tolist() == [0.0, 0.5, 0.25, 0.0]
    assert kernel.in_pairs(torch.zeros(1, 1, dtype=torch.int64)).tolist() == [0.25]


@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize("orders", [1, 2, 4])
def test_the_objective_is_a_log_density(orders, bias):
    """Of the values under a normal distribution made term by term, and of theta under its prior."""
    n, taste = 6, Taste(orders, 0.7, bias)
    packed, dense, y = sample(n, 30)
    theta = start_of(n, taste) + 0.3 * torch.from_numpy(
        np.random.default_rng(2).normal(size=n + orders + 1)
    )
    variances = torch.cat([torch.zeros(1, dtype=torch.float64), theta[n:-1].exp()])
    terms = all_terms(n, orders)
    x = characters(dense, terms)
    covariance = x @ prior_matrix(Anova(theta[:n].exp(), variances, bias), terms) @ x.T + 1.0
    covariance += (math.exp(theta[-1]) + FLOOR) * np.eye(30)
    likelihood = torch.distributions.MultivariateNormal(
        torch.zeros(30, dtype=torch.float64), torch.from_numpy(covariance)
    ).log_prob(y)
    centre = [0.0] * n + [math.log(v) for v in (0.5, 0.2, 0.1, 0.05)[:orders]] + [math.log(0.1)]
    spread = [0.7] * n + [1.5] * (orders + 1)
    away = (theta.numpy() - centre) / spread
    want = -float(likelihood) - 15 * math.log(2 * math.pi) + 0.5 * (away**2).sum()
    value, slope = negative_log_posterior(packed, y, n, taste, theta)
    assert value == pytest.approx(want, abs=1e-9)
    for i in range(len(theta)):
        step = torch.zeros_like(theta)
        step[i] = 1e-5
        ends = [negative_log_posterior(packed, y, n, taste, theta + s * step)[0] for s in (1, -1)]
        assert slope[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_the_fit_finds_what_matters():
    n, taste = 12, Taste(4, 1.0)
    packed, _, y = sample(n, 80, seed=3)
    theta = fit_anova(packed, y, n, taste, None, 20)
    start = negative_log_posterior(packed, y, n, taste, start_of(n, taste))[0]
    value, slope = negative_log_posterior(packed, y, n, taste, theta)
    assert value < start - 20
    assert slope.abs().max() < 0.5
    relevances = kernel_of(theta, n).relevances
    assert relevances[:3].min() > 2 * relevances[3:].max()
    assert relevances.max() == 1.0
    assert kernel_of(theta, n).variances.sum().item() == pytest.approx(1.0)
    assert math.exp(theta[-1]) < 0.05
    again = fit_anova(packed, y, n, taste, theta, 20)
    assert (again - theta).abs().max() < 0.2


def test_repeated_masks_and_noise_alone_are_survived():
    n, taste = 70, Taste(4, 2.0)
    packed, _, _ = sample(n, 20)
    packed = packed.repeat(3, 1)
    y = torch.from_numpy(np.random.default_rng(4).normal(size=60))
    theta = fit_anova(packed, y, n, taste, None, 12)
    assert theta.isfinite().all()
    assert math.exp(theta[-1]) > 0.3
