"""Samples: duplicates, features that never vary, the range of the values, masks not uniform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spex_core import masks as bits
from spex_core.budget import plan_uniform
from spex_core.samples import Samples, distinct, varying


def random_masks(rows: int, n: int, share: float = 0.5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([rows, n, seed]).random((rows, n)) < share


def make(masks: np.ndarray, values: np.ndarray) -> Samples:
    return distinct(bits.pack(masks), torch.from_numpy(values), masks.shape[1])


def restored(samples: Samples) -> np.ndarray:
    """The values of an output in its own unit: (q, T)."""
    return np.ldexp(samples.values.numpy(), samples.powers[:, None])


@pytest.mark.parametrize("n", [3, 63, 64, 65, 200])
def test_distinct_masks_are_kept_as_they_are(n: int) -> None:
    masks = np.unique(random_masks(50, n), axis=0)[::-1].copy()
    values = np.random.default_rng(0).normal(size=(len(masks), 3))
    samples = make(masks, values)
    assert torch.equal(samples.masks, bits.pack(masks))
    np.testing.assert_array_equal(restored(samples), values.T)
    assert samples.warnings == []
    np.testing.assert_array_equal(samples.features, np.arange(n))
    one = make(masks, values[:, 1])
    assert torch.equal(one.values[0], samples.values[1])


def test_duplicates_with_equal_values_count_once() -> None:
    masks = np.unique(random_masks(40, 70), axis=0)
    values = np.random.default_rng(0).normal(size=len(masks))  # thirds of them are not exact
    order = np.concatenate([np.arange(40), [7] * 6, np.arange(0, 40, 3), [39, 39]])
    samples = make(masks[order], values[order])
    assert torch.equal(samples.masks, bits.pack(masks))
    np.testing.assert_array_equal(restored(samples)[0], values)
    assert samples.warnings == []


def test_duplicates_with_other_values_are_means_in_the_order_of_first_appearance() -> None:
    masks = np.unique(random_masks(5, 9), axis=0)
    order = np.array([3, 1, 3, 0, 1, 1, 4])
    values = np.array([[1.0, 5.0], [2.0, 6.0], [4.0, 5.0], [0.5, 1], [2.0, 7.0], [8.0, 8], [0, 0]])
    samples = make(masks[order], values)
    assert torch.equal(samples.masks, bits.pack(masks[[3, 1, 0, 4]]))
    expected = [[2.5, 4.0, 0.5, 0.0], [5.0, 7.0, 1.0, 0.0]]
    np.testing.assert_allclose(restored(samples), expected, rtol=1e-15)
    (text,) = samples.warnings
    assert text.startswith("2 masks come more than once with different values")


def test_a_constant_stays_one_whatever_comes_twice() -> None:
    masks = random_masks(60, 5)  # of 32 there are
    samples = make(masks, np.full(60, 0.1))
    assert (samples.values == samples.values[0, 0]).all()
    assert len(samples.masks) < 33


@pytest.mark.parametrize("unit", [5e-324, 1e-310, 1e-300, 0.1, 1.0, 3.0, 1e300, 1.7e308])
def test_values_are_scaled_without_rounding(unit: float) -> None:
    values = unit * np.array([1.0, -0.75, 0.25, 0.0, 1.0, 0.0, 0.5, -1.0])
    masks = np.unique(random_masks(30, 12), axis=0)[:8]
    samples = make(masks, values)
    assert 0.5 <= samples.values.abs().max() < 1
    np.testing.assert_array_equal(restored(samples)[0], values)
    repeated = make(np.concatenate([masks, masks]), np.concatenate([values, -values]))
    assert not repeated.values.any()  # and no number out of range on the way


def test_outputs_are_scaled_one_by_one() -> None:
    masks = np.unique(random_masks(30, 12), axis=0)[:8]
    y = np.arange(8.0)
    samples = make(masks, np.stack([y, 2.0**200 * y, 0 * y, -y], axis=1))
    assert torch.equal(samples.values[0], samples.values[1])
    assert torch.equal(samples.values[0], -samples.values[3])
    assert not samples.values[2].any()
    assert samples.powers.tolist() == [3, 203, 0, 3]


# Features that never vary.


@pytest.mark.parametrize("n", [10, 64, 65, 130])
def test_features_that_never_vary_are_left_out(n: int) -> None:
    masks = random_masks(90, n)
    masks[:, 3], masks[:, n - 1] = True, False
    masks = np.unique(masks, axis=0)
    values = np.arange(float(len(masks)))
    samples = varying(make(masks, values))
    keep = [i for i in range(n) if i not in (3, n - 1)]
    np.testing.assert_array_equal(samples.features, keep)
    np.testing.assert_array_equal(bits.unpack(samples.masks, n - 2), masks[:, keep])
    np.testing.assert_array_equal(restored(samples)[0], values)
    assert samples.warnings == [f"2 features never vary (3, {n - 1}): what they do cannot be seen"]
    support = bits.pack_sets([(), (0,), (2, 3), (n - 3,), (3, n - 3)], n - 2)
    wide = bits.unpack_sets(samples.widened(support))
    assert wide == [(), (0,), (2, 4), (n - 2,), (4, n - 2)]


def test_only_some_of_many_are_named() -> None:
    masks = np.zeros((8, 100), np.bool_)
    masks[:, 40:43] = np.arange(8)[:, None] >> np.arange(3) & 1
    samples = varying(make(masks, np.arange(8.0)))
    text = "97 features never vary (0, 1, 2, 3, 4, ...): what they do cannot be seen"
    assert samples.warnings == [text]
    assert samples.whole  # all 2**3 masks of the others
    assert samples.widened(torch.tensor([[0b101]])).tolist() == [[1 << 40 | 1 << 42, 0]]


def test_blocks_of_many_features() -> None:
    n = 1 << 19  # 32 masks to a block
    masks = bits.pack(random_masks(70, 64)).repeat(1, n // 64)
    masks[:, -1] &= 2**62 - 1
    samples = varying(distinct(masks, torch.arange(70.0, dtype=torch.float64), n))
    np.testing.assert_array_equal(samples.features, np.arange(n - 2))
    assert torch.equal(samples.masks, masks)


# Masks that are not uniform.


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("n", "rows"), [(4, 8), (4, 15), (10, 8), (10, 500), (10, 1000), (65, 100), (300, 3000)]
)
def test_uniform_masks_are_no_matter(n: int, rows: int, seed: int) -> None:
    plan = plan_uniform(n, rows, seed=seed)
    values = torch.arange(float(rows), dtype=torch.float64)
    assert varying(distinct(plan.masks(0, rows), values, n)).warnings == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "rows"), [(10, 12), (10, 300), (65, 60), (300, 2000)])
def test_pairs_of_complements_are_no_matter(n: int, rows: int, seed: int) -> None:
    half = random_masks(rows // 2, n, seed=seed)
    half = np.unique(half ^ half[:, :1], axis=0)  # no mask is the complement of another
    masks = np.concatenate([half, ~half])
    assert varying(make(masks, np.arange(float(len(masks))))).warnings == []


def shapley_masks(n: int, rows: int) -> np.ndarray:
    """Sizes likelier the farther from n / 2, as KernelSHAP draws them; each feature in half."""
    rng = np.random.default_rng(0)
    sizes = np.arange(1, n)
    weight = 1.0 / (sizes * (n - sizes))
    drawn = rng.choice(sizes, rows, p=weight / weight.sum())
    return rng.permuted(np.arange(n) < drawn[:, None], axis=1)


@pytest.mark.parametrize(
    ("masks", "text"),
    [
        (random_masks(200, 30, 0.8), "24.1 ± 2.1 of 30 features, each feature is in 74% "),
        (random_masks(2000, 30, 0.45), "they keep 13.5 ± 2.7 of 30 features"),
        (shapley_masks(40, 400), "21.3 ± 14.2 of 40 features, each feature is in 51% "),
        (np.random.default_rng(0).permuted(np.arange(400 * 20).reshape(400, 20) % 2 == 0, axis=1),
         "they keep 10.0 ± 0.0 of 20 features"),
    ],
    ids=["many", "few", "shapley", "halves"],
)  # fmt: skip
def test_masks_that_are_not_uniform(masks: np.ndarray, text: str) -> None:
    (warning,) = varying(make(masks, np.zeros(len(masks)))).warnings
    assert warning.startswith("the masks are not uniform (")
    assert text in warning
    assert warning.endswith("of them): R2 is for masks of their kind")


def test_masks_that_a_fit_has_chosen_are_not_uniform() -> None:
    made = make(random_masks(200, 30, 0.5), np.zeros(200))
    for uniform in (False, True):
        (warning,) = varying(made, uniform=uniform, chosen=7).warnings
        assert warning == (
            "7 of 200 masks were chosen by an earlier fit and are not uniform: R2 is for masks of "
            "their kind"
        )


def test_the_whole_table_needs_no_warning() -> None:
    masks = (np.arange(16)[:, None] >> np.arange(4) & 1).astype(bool)
    samples = varying(make(masks[::-1], np.arange(16.0)))
    assert samples.whole
    assert samples.warnings == []
    assert varying(make(masks, np.arange(16.0)), chosen=7).warnings == []
    assert not varying(make(masks[1:], np.arange(15.0))).whole
