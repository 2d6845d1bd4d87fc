"""Least squares on packed parities and on the rows of a plan, against NumPy on the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import plant
from torch.utils._python_dispatch import TorchDispatchMode

from spex_core import masks as bits
from spex_core import ops
from spex_core.budget import aliased_plan, plan_spex
from spex_core.plan import SamplingPlan
from spex_core.refine import least_squares, refit, term_bins, term_signs

Sets = list[tuple[int, ...]]


def design(masks: np.ndarray, sets: Sets) -> np.ndarray:
    """(-1)**<m, k>: float64 (T, S)."""
    return np.stack([1.0 - 2.0 * (masks[:, list(k)].sum(1) % 2) for k in sets], axis=1)


def uniform(rows: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([rows, n, seed]).integers(0, 2, (rows, n)).astype(np.bool_)


# least_squares: any masks.


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 100])
@pytest.mark.parametrize("rows", [65, 100, 1000])
def test_least_squares_is_lstsq(n: int, rows: int) -> None:
    f = plant(n, min(n, 20), 3, seed=1, snr=3)
    sets = list(f.terms)
    masks = uniform(rows, n)
    values = f(masks)
    found = least_squares(
        bits.pack(masks), torch.from_numpy(values), bits.pack_sets(sets, n)
    ).numpy()
    expected = np.linalg.lstsq(design(masks, sets), values)[0]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    assert np.abs(expected - list(f.terms.values())).max() > 1e-3  # noise was fitted


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
def test_ridge_is_in_units_of_samples(ridge: float) -> None:
    masks = uniform(100, 30)
    sets = list(plant(30, 40, 3, seed=2).terms)
    values = np.random.default_rng(0).normal(size=100)
    found = least_squares(
        bits.pack(masks), torch.from_numpy(values), bits.pack_sets(sets, 30), ridge=ridge
    )
    x = design(masks, sets)
    expected = np.linalg.solve(x.T @ x + ridge * 100 * np.eye(len(sets)), x.T @ values)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rows", [1, 20, 40])
def test_more_terms_than_samples_still_fit_the_samples(rows: int) -> None:
    masks = uniform(rows, 30)
    sets = list(plant(30, 60, 3, seed=3).terms)
    values = np.random.default_rng(1).normal(size=rows)
    found = least_squares(bits.pack(masks), torch.from_numpy(values), bits.pack_sets(sets, 30))
    x = design(masks, sets)
    np.testing.assert_allclose(x @ found.numpy(), values, rtol=0, atol=1e-6)
    least = np.linalg.lstsq(x, values)[0]  # of least norm, as a small ridge gives
    np.testing.assert_allclose(found, least, rtol=0, atol=1e-6)


def test_terms_that_agree_on_every_mask_share_their_coefficient() -> None:
    masks = uniform(50, 10)
    masks[:, 7] = masks[:, 3]
    values = 2.0 * design(masks, [(3,)])[:, 0]
    found = least_squares(
        bits.pack(masks), torch.from_numpy(values), bits.pack_sets([(3,), (7,)], 10)
    )
    np.testing.assert_allclose(found, [1.0, 1.0], rtol=1e-4)


def test_no_terms_and_float32_values() -> None:
    masks = bits.pack(uniform(20, 10))
    assert least_squares(masks, torch.ones(20), bits.pack_sets([], 10)).shape == (0,)
    found = least_squares(masks, torch.full((20,), 3.0), bits.pack_sets([()], 10))
    assert found.tolist() == pytest.approx([3.0])


def test_negative_ridge_is_refused() -> None:
    with pytest.raises(ValueError, match=r"least_squares: ridge must be >= 0, got -0\.1"):
        least_squares(bits.pack(uniform(5, 3)), torch.ones(5), bits.pack_sets([()], 3), ridge=-0.1)


# refit: the rows of a plan.


def plans() -> list[SamplingPlan]:
    return [
        aliased_plan(10, 3, degree=2),
        aliased_plan(65, 4, degree=2, groups=2, further=5, seed=1),
        plan_spex(10, 700, degree=3),
        plan_spex(40, 1200, degree=2, seed=4),
        plan_spex(100, 3000, degree=3, seed=5),
    ]


@pytest.mark.parametrize("plan", plans(), ids=lambda plan: f"{plan.n}-{plan.total}")
@pytest.mark.parametrize("start", [False, True])
def test_refit_is_lstsq_on_the_fitted_rows(plan: SamplingPlan, start: bool) -> None:
    f = plant(plan.n, 25, plan.degree, seed=6, snr=3)
    sets = list(f.terms)
    masks = bits.unpack(plan.masks(0, plan.total), plan.n)
    values = f(masks)
    fitted = plan.total - plan.holdout
    values[fitted:] = 1e6  # not to be looked at
    expected = np.linalg.lstsq(design(masks[:fitted], sets), values[:fitted])[0]
    begin = torch.linspace(-1, 1, len(sets), dtype=torch.float64) if start else None
    kept = None if begin is None else begin.clone()
    found = refit(plan, torch.from_numpy(values), bits.pack_sets(sets, plan.n), begin)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - list(f.terms.values())).max() > 1e-3  # noise was fitted
    assert begin is None or torch.equal(begin, kept)


def test_refit_uses_the_uniform_rows() -> None:
    plan = plan_spex(40, 1200, degree=2, seed=4)
    assert len(plan.extra) > plan.holdout > 0
    sets = [(), (3,), (5, 9)]
    values = torch.zeros(plan.total, dtype=torch.float64)
    values[plan.aliased : plan.total - plan.holdout] = 1.0
    found = refit(plan, values, bits.pack_sets(sets, 40))
    share = (len(plan.extra) - plan.holdout) / (plan.total - plan.holdout)
    assert found[0] == pytest.approx(share, rel=0.1)


def test_refit_shares_what_it_cannot_tell_apart() -> None:
    """Two large sets with the same bins and signs at all delays: the least norm is half each."""
    plan = aliased_plan(30, 3, degree=2, seed=1)
    rng = np.random.default_rng(0)
    sets = [tuple(np.flatnonzero(rng.integers(0, 2, 30)).tolist()) for _ in range(3000)]
    support = bits.pack_sets(sets, 30)
    names = np.column_stack([term_bins(plan, support).T, term_signs(plan, support)])
    first: dict[bytes, tuple[int, ...]] = {}
    pairs = [
        (a, k)
        for name, k in zip(names, sets, strict=True)
        if (a := first.setdefault(name.tobytes(), k)) != k
    ]
    a, b = pairs[0]
    masks = bits.unpack(plan.masks(0, plan.total), 30)
    values = torch.from_numpy(3.0 * design(masks, [a])[:, 0] + 1.0)
    found = refit(plan, values, bits.pack_sets([(), a, b, (4,)], 30))
    np.testing.assert_allclose(found, [1.0, 1.5, 1.5, 0.0], rtol=0, atol=1e-9)


def test_refit_of_no_terms_and_of_zero() -> None:
    plan = plan_spex(40, 1200, degree=2)
    values = torch.zeros(plan.total, dtype=torch.float64)
    assert refit(plan, values, bits.pack_sets([], 40)).shape == (0,)
    found = refit(plan, values, bits.pack_sets([(), (1,)], 40))
    assert torch.equal(found, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, 1e100])
def test_refit_does_not_depend_on_scale(scale: float) -> None:
    plan = plan_spex(40, 1200, degree=2, seed=4)
    f = plant(40, 25, 2, seed=6, snr=3)
    values = torch.from_numpy(f(bits.unpack(plan.masks(0, plan.total), 40)))
    support = bits.pack_sets(list(f.terms), 40)
    found = refit(plan, values * scale, support) / scale
    assert torch.allclose(found, refit(plan, values, support), rtol=1e-9, atol=1e-12)


# Where terms fall, by definition.


def test_term_bins_and_signs() -> None:
    plan = aliased_plan(65, 4, degree=2, groups=4, further=70, seed=1)
    sets = list(plant(65, 20, 5, seed=0).terms)
    support = bits.pack_sets(sets, 65)
    at, signs = term_bins(plan, support), term_signs(plan, support)
    assert at.shape == (4, 21)
    assert signs.shape == (21, plan.shifts)
    delays = bits.unpack(plan.delays, 65)
    for s, k in enumerate(sets):
        expected = [np.bitwise_xor.reduce(row[list(k)], initial=0) for row in plan.hashes.numpy()]
        assert at[:, s].tolist() == expected
        np.testing.assert_array_equal(signs[s], 1 - 2 * (delays[:, list(k)].sum(1) % 2))


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any torch call returned."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else (out,):
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.numel() * x.element_size())
        return out


def test_no_dense_matrix_is_built() -> None:
    """20,000 samples x 300 terms are 6 MB even at a byte each; the Gram matrix is 0.7 MB."""
    masks = ops.uniform_masks(20_000, 64, seed=0)
    support = ops.uniform_masks(300, 64, seed=1)
    with LargestTensor() as largest:
        least_squares(masks, torch.ones(20_000, dtype=torch.float64), support)
    assert 300 * 300 * 8 <= largest.bytes < 1_000_000
