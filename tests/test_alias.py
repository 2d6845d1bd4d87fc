"""Aliased bins against both of their definitions, by brute force over all sets and all masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from planted import plant

from spex_core import masks as bits
from spex_core.alias import alias
from spex_core.budget import aliased_plan, plan_spex
from spex_core.plan import SamplingPlan

pytestmark = pytest.mark.op("fwht")


def values_of(table: np.ndarray, plan: SamplingPlan) -> torch.Tensor:
    """The values at all rows of the plan, of a function given as its whole table."""
    masks = bits.unpack(plan.masks(0, plan.total), plan.n)
    return torch.from_numpy(table[masks @ (1 << np.arange(plan.n))])


@pytest.mark.parametrize(("n", "b"), [(1, 0), (1, 1), (2, 1), (5, 3), (8, 3), (10, 5)])
def test_bins_are_sums_of_aliased_coefficients(
    n: int, b: int, backend: str, device: torch.device
) -> None:
    """U[g, p, j] is the sum over all k with M_g^T k = j of F[k] (-1)**<d_p, k>, F by definition."""
    plan = aliased_plan(n, b, degree=1, groups=3, further=4, seed=2)
    masks = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.int64)  # (2**n, n)
    table = np.random.default_rng([n, b]).normal(size=2**n)
    fourier = (1 - 2 * (masks @ masks.T % 2)) @ table / 2**n  # F[k], k numbered as masks are

    bins = alias(values_of(table, plan).to(device), plan, backend=backend)
    assert bins.dtype == torch.float64
    assert bins.shape == plan.shape
    delays = bits.unpack(plan.delays, n).astype(np.int64)
    expected = np.zeros(plan.shape)
    for g, group in enumerate(plan.columns):
        index = masks @ bits.unpack(group, n).T.astype(np.int64) % 2 @ (1 << np.arange(b))
        for p, k in itertools.product(range(plan.shifts), range(2**n)):
            expected[g, p, index[k]] += fourier[k] * (1 - 2 * (delays[p] @ masks[k] % 2))
    np.testing.assert_allclose(bins.cpu(), expected, rtol=0, atol=1e-14)
    assert np.abs(expected).max() > 0.1


def test_bins_are_transforms_of_the_samples(backend: str, device: torch.device) -> None:
    plan = plan_spex(64, 2000, degree=2, seed=1)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=plan.total))
    bins = alias(values.to(device), plan, backend=backend).cpu().numpy()
    index = np.arange(1 << plan.b)
    signs = 1.0 - 2.0 * np.array(
        [[(int(i) & int(j)).bit_count() % 2 for i in index] for j in index]
    )
    samples = values[: plan.aliased].numpy().reshape(plan.shape)
    np.testing.assert_allclose(bins, samples @ signs / len(index), rtol=0, atol=1e-13)
    assert plan.total > plan.aliased  # what follows the aliased rows is not looked at


def test_float32_values_are_summed_in_float64() -> None:
    plan = aliased_plan(30, 10, degree=2)
    values = torch.ones(plan.total, dtype=torch.float32)
    values[::1024] += 2.0**-20
    bins = alias(values, plan)
    assert bins.dtype == torch.float64
    assert (bins[:, :, 0] == 1 + 2.0**-30).all()


def test_the_whole_table_is_the_spectrum() -> None:
    f = plant(9, 30, 4, seed=0)
    plan = plan_spex(9, 512)
    masks = bits.unpack(plan.masks(0, plan.total), 9)
    bins = alias(torch.from_numpy(f(masks)), plan).flatten()
    expected = np.zeros(512)
    for k, coef in f.terms.items():
        expected[sum(1 << i for i in k)] = coef
    np.testing.assert_allclose(bins, expected, rtol=0, atol=1e-15)


def test_values_are_unchanged() -> None:
    plan = aliased_plan(30, 4, degree=2)
    values = torch.randn(plan.total, dtype=torch.float64, generator=torch.manual_seed(0))
    before = values.clone()
    alias(values, plan)
    assert torch.equal(values, before)
