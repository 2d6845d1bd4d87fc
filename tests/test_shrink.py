"""Low orders beside the found terms: against dense NumPy, and on functions of many small terms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from planted import Planted, accuracy, plant

from spex_core import masks as bits
from spex_core.budget import plan_spex
from spex_core.evaluate import evaluate
from spex_core.plan import SamplingPlan
from spex_core.refine import linear_fit
from spex_core.shrink import (
    FOLDS,
    MOST_TERMS,
    FoldedSamples,
    Ridge,
    affordable,
    evidence,
    factored,
    groups,
    solve,
    with_low_orders,
    with_sets,
)
from spex_core.spex import fit_plan
from spex_core.transform import SparseTransform


def dense(masks: torch.Tensor, sets: list[tuple[int, ...]], n: int) -> np.ndarray:
    """(-1)**<m, k>: float64 (T, S)."""
    present = bits.unpack(masks, n)
    return np.stack([1.0 - 2.0 * (present[:, list(k)].sum(1) % 2) for k in sets], axis=1)


def many_small(n: int, order: int, seed: int = 0) -> Planted:
    """Every set up to an order, with Gaussian coefficients: nothing stands out."""
    rng = np.random.default_rng([n, order, seed])
    sets = [k for d in range(order + 1) for k in itertools.combinations(range(n), d)]
    return Planted(n, dict(zip(sets, rng.normal(size=len(sets)).tolist(), strict=True)))


def sampled(f: Planted, budget: int, degree: int = 3) -> tuple[SamplingPlan, torch.Tensor]:
    plan = plan_spex(f.n, budget, degree=degree)
    return plan, evaluate(f, plan)[0]


def constant(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1, bits.words(n), dtype=torch.int64), torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(("n", "order", "budget"), [(200, 1, 1500), (12, 2, 800), (20, 2, 1000)])
def test_many_small_terms_are_found(n: int, order: int, budget: int) -> None:
    f = many_small(n, order)
    plan, values = sampled(f, budget)
    support, coefs = with_low_orders(plan, values, *constant(n))
    found = SparseTransform(n, support, coefs).to_dict()
    assert set(found) >= set(f.terms)
    assert accuracy(f.terms, found)[0] > 0.999


def test_the_whole_pipeline_does_not_lose_to_a_linear_fit() -> None:
    f = many_small(300, 1)
    f.sigma = 20.0
    plan, values = sampled(f, 2000)
    singles = bits.pack(np.eye(301, 300, k=-1, dtype=np.bool_))
    linear = SparseTransform(300, singles, torch.from_numpy(linear_fit(plan, values)))
    r2 = accuracy(f.terms, fit_plan(plan, values).to_dict())[0]
    assert r2 > accuracy(f.terms, linear.to_dict())[0] > 0.5  # shrinkage is the difference


@pytest.mark.parametrize("snr", [None, 10.0])
def test_a_sparse_function_stays_sparse(snr: float | None) -> None:
    f = plant(20, 15, 3, seed=0, snr=snr)
    plan, values = sampled(f, 3000)
    support = bits.pack_sets(list(f.terms), 20)
    coefs = torch.tensor(list(f.terms.values()), dtype=torch.float64)
    assert affordable(plan, 1, len(support))
    kept = with_low_orders(plan, values, support, coefs)
    assert kept[0] is support
    assert kept[1] is coefs


@pytest.mark.parametrize("value", [0.0, -7.5])
def test_a_constant_function_is_left_alone(value: float) -> None:
    plan = plan_spex(30, 1000)
    support, coefs = constant(30)
    coefs += value
    values = torch.full((plan.total,), value, dtype=torch.float64)
    assert with_low_orders(plan, values, support, coefs)[0] is support


def test_held_out_values_are_not_looked_at() -> None:
    f = many_small(12, 2)
    plan, values = sampled(f, 800)
    assert plan.holdout
    other = values.clone()
    other[-plan.holdout :] = 1e9
    first, second = (with_low_orders(plan, v, *constant(12)) for v in (values, other))
    assert len(first[0]) > 1
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("scale", [1e-120, 1e120])
def test_the_scale_of_f_does_not_matter(scale: float) -> None:
    f = many_small(12, 2)
    plan, values = sampled(f, 800)
    support, coefs = with_low_orders(plan, values, *constant(12))
    again, scaled = with_low_orders(plan, values * scale, *constant(12))
    assert torch.equal(support, again)
    torch.testing.assert_close(scaled / scale, coefs, rtol=1e-9, atol=1e-9)


def test_each_distinct_mask_counts_once_and_delays_stay_whole() -> None:
    plan = plan_spex(10, 900)
    keys = plan.row_keys()[: plan.total - plan.holdout]
    assert len(np.unique(keys)) < len(keys)
    samples = FoldedSamples(plan, torch.arange(plan.total, dtype=torch.float64))
    folds = [plan.keys(masks) for masks, _ in samples.folds]
    assert sorted(np.concatenate(folds).tolist()) == np.unique(keys).tolist()
    assert len(folds) == FOLDS
    _, first = np.unique(keys, return_index=True)
    rows = {key: row for key, row in zip(keys[first], first, strict=True) if row < plan.aliased}
    shifts = [{(rows[k] >> plan.b) % plan.shifts for k in fold if k in rows} for fold in folds]
    assert not any(a & b for a, b in itertools.combinations(shifts, 2))


def test_ridge_and_its_error_are_those_of_dense_algebra() -> None:
    f = many_small(9, 2)
    f.sigma = 1.0
    plan, values = sampled(f, 450)
    samples = FoldedSamples(plan, values)
    support = with_sets(constant(9)[0], 9, 2)
    sets = bits.unpack_sets(support)
    ridge = Ridge(samples, support, 1)
    xs = [dense(masks, sets, 9) for masks, _ in samples.folds]
    ys = [v.numpy() for _, v in samples.folds]
    x, y = np.concatenate(xs), np.concatenate(ys)
    gram, right = torch.from_numpy(x.T @ x), torch.from_numpy(x.T @ y)
    penalty = evidence(gram, right, float(y @ y), len(y), groups(support, 1)).numpy()
    assert penalty[0] == 0
    assert len(np.unique(penalty)) == 3  # the constant, singles, pairs

    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ y)

    np.testing.assert_allclose(ridge.coefs.numpy(), fit(x, y), rtol=1e-6, atol=1e-8)
    error = 0.0
    for k in range(FOLDS):
        rest = [i for i in range(FOLDS) if i != k]
        left = fit(np.concatenate([xs[i] for i in rest]), np.concatenate([ys[i] for i in rest]))
        error += ((ys[k] - xs[k] @ left) ** 2).sum()
    assert ridge.error == pytest.approx(error, rel=1e-6)


def test_evidence_finds_the_variances_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (4000, 401))
    x[:, 0] = 1
    truth = np.concatenate([[5.0], rng.normal(size=200), 0.1 * rng.normal(size=200)])
    y = x @ truth + 2.0 * rng.normal(size=4000)
    at = torch.arange(401)
    parts = [(at >= 1) & (at <= 200), at > 200]
    gram, right = torch.from_numpy(x.T @ x), torch.from_numpy(x.T @ y)
    penalty = evidence(gram, right, float(y @ y), 4000, parts)
    assert float(penalty[1]) == pytest.approx(4.0 / 1.0, rel=0.2)
    assert float(penalty[-1]) == pytest.approx(4.0 / 0.01, rel=0.35)


def test_a_singular_matrix_is_no_failure() -> None:
    ones = torch.ones(2, 2, dtype=torch.float64)
    found = solve(factored(ones, torch.zeros(2)), ones[0])
    torch.testing.assert_close(found, torch.full((2,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 2, 64, 65])
def test_with_sets_adds_what_is_missing(n: int) -> None:
    given = bits.pack_sets([(), (n - 1,)], n)
    every = with_sets(given, n, 2)
    expected = {k for d in range(3) for k in itertools.combinations(range(n), d)}
    assert torch.equal(every[:2], given)
    assert len(every) == len(expected)
    assert set(bits.unpack_sets(every)) == expected


def test_too_many_sets_are_not_tried() -> None:
    plan = plan_spex(2000, 3000)
    assert not affordable(plan, 1, 1)
    assert affordable(plan_spex(1000, 3000), 1, MOST_TERMS - 1001)
    assert not affordable(plan_spex(1000, 3000), 1, MOST_TERMS - 1000)
    support, coefs = constant(2000)
    values = torch.randn(plan.total, generator=torch.Generator().manual_seed(0)).double()
    assert with_low_orders(plan, values, support, coefs)[0] is support
