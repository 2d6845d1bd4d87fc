"""The sampling plan: the masks it names, by brute force, and the budget it keeps to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core import masks as bits
from spex_core.budget import MAX_B, MAX_DELAYS, aliased_plan, least_budget, plan_spex, plan_uniform
from spex_core.codes import MAX_N, bch_code
from spex_core.plan import SamplingPlan

PLANS = [  # n, budget, degree
    (1, 2, 1),
    (3, 8, 5),
    (9, 600, 5),
    (10, 536, 5),
    (10, 1023, 5),
    (12, 2000, 2),
    (20, 3000, 5),
    (63, 1500, 3),
    (64, 909, 5),
    (65, 5000, 5),
    (100, 3000, 2),
    (1000, 2804, 10),
]
ids = {"ids": lambda case: "-".join(map(str, case))}


def all_masks(plan: SamplingPlan) -> np.ndarray:
    """Every row by definition, without affine_masks: bool (T, n)."""
    delays = bits.unpack(plan.delays, plan.n)
    rows = []
    for group in plan.columns:
        columns = bits.unpack(group, plan.n).astype(np.int64)  # (b, n)
        points = np.arange(1 << plan.b)[:, None] >> np.arange(plan.b) & 1  # (B, b)
        rows += [(points @ columns % 2).astype(np.bool_) ^ delay for delay in delays]
    return np.concatenate([*rows, bits.unpack(plan.extra, plan.n)])


def distinct(masks: np.ndarray) -> int:
    return len(np.unique(np.packbits(masks, axis=1), axis=0))


@pytest.fixture(params=PLANS, **ids)
def plan(request: pytest.FixtureRequest) -> SamplingPlan:
    n, budget, degree = request.param
    return plan_spex(n, budget, degree=degree, seed=3)


def test_rows_are_the_affine_subspaces(plan: SamplingPlan) -> None:
    truth = all_masks(plan)
    assert plan.total == len(truth) == plan.aliased + len(plan.extra)
    assert plan.aliased == np.prod(plan.shape)
    np.testing.assert_array_equal(bits.unpack(plan.masks(0, plan.total), plan.n), truth)


def test_any_range_is_a_piece_of_the_whole(plan: SamplingPlan) -> None:
    whole = plan.masks(0, plan.total)
    width, end = 1 << plan.b, plan.aliased
    cuts = {0, 1, width - 1, width, width + 1, width * plan.shifts - 1, width * plan.shifts}
    cuts |= {end - 1, end, end + 1, plan.total - 1, plan.total}
    cuts |= set(np.random.default_rng(0).integers(0, plan.total + 1, 8).tolist())
    cuts = sorted(cut for cut in cuts if 0 <= cut <= plan.total)
    for start, stop in itertools.combinations_with_replacement(cuts, 2):
        part = plan.masks(start, stop)
        assert part.shape == (stop - start, bits.words(plan.n))
        assert torch.equal(part, whole[start:stop]), (start, stop)


def test_keys_name_the_masks(plan: SamplingPlan) -> None:
    keys = plan.row_keys()
    masks = plan.masks(0, plan.total)
    assert keys.dtype == np.int64
    np.testing.assert_array_equal(keys, plan.keys(masks))
    assert len(np.unique(keys)) == distinct(all_masks(plan))
    assert len(np.unique(keys)) < plan.total or plan.code is None  # d_p is in every group


def test_the_budget_is_kept_and_used(plan: SamplingPlan) -> None:
    used = distinct(all_masks(plan))
    assert used == min(plan.budget, 2**plan.n)


@given(
    n=st.integers(1, 40), degree=st.integers(1, 6), over=st.integers(0, 3000), seed=st.integers(0)
)
def test_the_budget_is_kept_and_used_everywhere(n: int, degree: int, over: int, seed: int) -> None:
    budget = least_budget(n, degree) + over
    plan = plan_spex(n, budget, degree=degree, seed=seed % 2**64)
    assert len(np.unique(plan.row_keys())) == min(budget, 2**n)
    assert plan.budget == budget


def test_extra_rows_are_new_and_distinct(plan: SamplingPlan) -> None:
    masks = all_masks(plan)
    aliased, extra = masks[: plan.aliased], masks[plan.aliased :]
    assert distinct(extra) == len(extra) if len(extra) else plan.code is None
    assert distinct(masks) == distinct(aliased) + len(extra)


def test_held_out_rows_are_not_among_the_fitted(plan: SamplingPlan) -> None:
    if plan.code is None:
        assert plan.holdout == 0
        return
    assert plan.holdout == min(max(plan.budget // 20, 32), 1000)
    masks = all_masks(plan)
    fitted = {row.tobytes() for row in masks[: -plan.holdout]}
    assert not fitted & {row.tobytes() for row in masks[-plan.holdout :]}


@pytest.mark.parametrize("corrects", [None, 4, 7])
def test_delays_are_the_parity_rows_of_the_code(corrects: int | None) -> None:
    plan = aliased_plan(100, 3, degree=4, corrects=corrects, further=7)
    code = bch_code(100, corrects or 4)
    assert plan.degree == 4
    assert plan.code is code
    assert plan.shifts == code.delays + 7
    delays = bits.unpack(plan.delays, 100)
    assert not delays[0].any()
    for i, column in enumerate(code.columns.numpy()):
        whole = int.from_bytes(column.tobytes(), "little")
        assert [bool(whole >> p & 1) for p in range(code.delays)] == delays[
            : code.delays, i
        ].tolist()
    further = delays[code.delays :]
    assert 0.4 < further.mean() < 0.6
    assert distinct(delays) == len(delays)
    np.testing.assert_array_equal(bits.unpack(plan.delay_columns, plan.shifts), delays.T)


@pytest.mark.parametrize(("n", "b", "groups"), [(10, 10, 3), (63, 6, 3), (65, 0, 1), (100, 8, 5)])
def test_bins_by_hash_are_the_matrix_product(n: int, b: int, groups: int) -> None:
    plan = aliased_plan(n, b, degree=2, groups=groups, seed=1)
    rng = np.random.default_rng(0)
    assert plan.hashes.dtype == torch.int32
    assert plan.hashes.shape == (groups, n)
    for size in (0, 1, 2, 5, n):
        k = rng.choice(n, size, replace=False)
        for group, hashes in zip(plan.columns, plan.hashes.numpy(), strict=True):
            products = [int(column[k].sum() % 2) for column in bits.unpack(group, n)]
            bin_index = sum(bit << i for i, bit in enumerate(products))
            assert np.bitwise_xor.reduce(hashes[k], initial=0) == bin_index


def test_columns_are_independent_and_differ_between_groups() -> None:
    for n in (8, 9, 64, 65):
        plan = aliased_plan(n, 8, degree=2, groups=5)
        for group in plan.columns:  # of full rank: 2**b distinct points
            points = bits.unpack(aliased_points(group), n)
            assert distinct(points) == 256
        assert len({group.numpy().tobytes() for group in plan.columns}) == 5


def aliased_points(columns: torch.Tensor) -> torch.Tensor:
    points = torch.zeros(1, columns.shape[1], dtype=torch.int64)
    for column in columns:
        points = torch.cat([points, points ^ column])
    return points


def test_the_whole_table() -> None:
    for n, budget in [(1, 2), (4, 16), (4, 17), (10, 5000)]:
        plan = plan_spex(n, budget)
        index = bits.unpack(plan.masks(0, plan.total), n) @ (1 << np.arange(n))
        np.testing.assert_array_equal(index, np.arange(2**n))
        assert plan.code is None
        assert (plan.holdout, plan.budget) == (0, budget)


def test_seeds() -> None:
    one, same, other = (plan_spex(50, 3000, seed=seed) for seed in (7, 7, 8))
    rows = [plan.masks(0, plan.total) for plan in (one, same, other)]
    assert torch.equal(rows[0], rows[1])
    assert one.shape == other.shape
    shared = np.intersect1d(one.row_keys(), other.row_keys())
    coded = one.code.delays  # the same for every seed
    assert len(shared) <= coded + 2
    for seed in (2**32, 2**63, 2**64 - 1):
        assert not torch.equal(plan_spex(50, 3000, seed=seed).extra, one.extra)


def test_a_larger_budget_buys_no_less() -> None:
    """The largest b; then the strongest code, then uniform delays, with no whole row left over."""
    bins = {}
    for budget in range(least_budget(30, 5), 20_000, 397):
        plan = plan_spex(30, budget)
        groups, shifts, width = plan.shape
        usable = budget - plan.holdout
        assert groups == 3
        assert bch_code(30, 5).delays <= shifts <= MAX_DELAYS
        assert plan.aliased <= usable < 2 * 3 * bch_code(30, 5).delays * width
        assert shifts == usable // (3 * width)
        assert plan.code.t == 10 or bch_code(30, plan.code.t + 1).delays > shifts
        assert plan.code.t >= plan.degree == 5
        bins[budget] = width
    assert list(bins.values()) == sorted(bins.values())
    assert len(set(bins.values())) == 5


@pytest.mark.parametrize("degree", [1, 5, 10])
@pytest.mark.parametrize("n", [1, 2, 5, 9, 10, 11, 20, 24, 25, 64, 65, 1000])
def test_the_least_budget_is_named_and_works(n: int, degree: int) -> None:
    least = least_budget(n, degree)
    buys = "the whole table" if least == 2**n else "3 groups of 8 bins at .* held-out masks"
    message = rf"budget must be at least {least} for n = {n} and degree = {degree} \({buys}\)"
    with pytest.raises(ValueError, match=message + f", got {least - 1}"):
        plan_spex(n, least - 1, degree=degree)
    plan = plan_spex(n, least, degree=degree)
    assert len(np.unique(plan.row_keys())) == least
    assert plan.code is None or plan.b >= 3


@pytest.mark.parametrize("b", [3, 5, 8])
def test_the_least_budget_of_a_size_reaches_it(b: int) -> None:
    for n in (30, 65):
        least = least_budget(n, 4, b)
        assert plan_spex(n, least, degree=4).b == b
        assert b == 3 or plan_spex(n, least - 1, degree=4).b == b - 1


def test_large_plans_are_not_stored() -> None:
    plan = aliased_plan(2**14, 12)
    assert plan.total == 3 * 76 * 4096
    held = sum(x.numel() for x in (plan.columns, plan.delays, plan.extra))
    assert held < 150_000  # words, against 239 million in all rows
    last = plan.masks(plan.total - 2, plan.total)
    assert torch.equal(last[0] ^ last[1], plan.columns[2, 0])


# Uniform masks alone.


@pytest.mark.parametrize(
    ("n", "budget"),
    [(1, 1), (3, 7), (4, 9), (10, 8), (10, 511), (10, 513), (10, 1023), (16, 40_000), (24, 5000),
     (25, 3000), (63, 1000), (64, 1000), (65, 1000), (1000, 300)],
)  # fmt: skip
def test_uniform_masks_are_distinct(n: int, budget: int) -> None:
    plan = plan_uniform(n, budget, seed=5)
    masks = bits.unpack(plan.masks(0, plan.total), n)
    assert len(masks) == distinct(masks) == plan.total == budget
    assert (plan.aliased, plan.holdout, plan.code) == (0, 0, None)
    assert (plan.n, plan.seed, plan.budget) == (n, 5, budget)
    np.testing.assert_array_equal(plan.row_keys(), plan.keys(plan.masks(0, budget)))
    assert torch.equal(plan.masks(2, 9), plan.masks(0, budget)[2:9])
    if budget >= 300:
        count = masks.sum(0)
        assert np.abs(count - budget / 2).max() < 5 * np.sqrt(budget / 4)
        assert masks.sum(1).var() == pytest.approx(n / 4, rel=0.3)


@pytest.mark.parametrize(("n", "budget"), [(1, 2), (4, 16), (4, 99), (10, 1024)])
def test_a_budget_of_all_masks_is_the_whole_table(n: int, budget: int) -> None:
    plan = plan_uniform(n, budget)
    index = bits.unpack(plan.masks(0, plan.total), n) @ (1 << np.arange(n))
    np.testing.assert_array_equal(index, np.arange(2**n))
    assert (plan.total, plan.budget, plan.degree) == (2**n, budget, n)


def test_seeds_of_uniform_masks() -> None:
    for n, budget in [(12, 3000), (12, 300), (65, 300)]:  # most of a table, and a small part
        one, same, other, last = (
            plan_uniform(n, budget, seed=seed).masks(0, budget) for seed in (7, 7, 8, 2**64 - 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert not torch.equal(one, last)
    shared = set(bits.unpack_sets(one)) & set(bits.unpack_sets(other))
    assert not shared


def test_the_first_of_more_masks_are_those_of_fewer() -> None:
    """What was paid for a small budget serves a larger one."""
    small, large = plan_uniform(65, 100, seed=1), plan_uniform(65, 1000, seed=1)
    assert torch.equal(small.masks(0, 100), large.masks(0, 100))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0, 10), ValueError, "n must be an integer >= 1 and <= 524288, got 0"),
        ((MAX_N + 1, 10), ValueError, "n must be an integer .*, got 524289"),
        ((12.0, 10), TypeError, r"n must be an integer .*, got 12\.0"),
        ((12, 0), ValueError, "budget must be an integer >= 1, got 0"),
        ((12, 1e3), TypeError, r"budget must be an integer >= 1, got 1000\.0"),
    ],
)
def test_bad_uniform_plans(given: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan_uniform(*given)
    with pytest.raises(ValueError, match=r"seed must be an integer >= 0 .*, got -1"):
        plan_uniform(12, 10, seed=-1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be an integer >= 1 and <= 524288, got 0"),
        ({"n": MAX_N + 1}, ValueError, "n must be an integer .*, got 524289"),
        ({"n": 30.0}, TypeError, r"n must be an integer .*, got 30\.0"),
        ({"n": True}, TypeError, "n must be an integer .*, got True"),
        ({"budget": 0}, ValueError, "budget must be an integer >= 1, got 0"),
        ({"budget": -5}, ValueError, "budget must be an integer >= 1, got -5"),
        ({"budget": 1e4}, TypeError, r"budget must be an integer >= 1, got 10000\.0"),
        ({"budget": 100}, ValueError, "budget must be at least 707 for n = 30 and degree = 5"),
        ({"degree": 0}, ValueError, "degree must be an integer >= 1 and <= 10, got 0"),
        ({"degree": 11}, ValueError, "degree must be an integer >= 1 and <= 10, got 11"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0 .*, got -1"),
        ({"seed": 2**64}, ValueError, "seed must be an integer .*, got 18446744073709551616"),
        ({"seed": None}, TypeError, "seed must be an integer .*, got None"),
    ],
)
def test_bad_arguments(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan_spex(**({"n": 30, "budget": 2000} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": MAX_B + 1}, "b must be an integer >= 0 and <= 20, got 21"),
        ({"n": 5, "b": 6}, "b must be an integer >= 0 and <= 5, got 6"),
        ({"corrects": 4}, "corrects must be an integer >= 5, got 4"),
        ({"corrects": 11}, "t must be an integer >= 1 and <= 10, got 11"),
        ({"degree": 11}, "degree must be an integer >= 1 and <= 10, got 11"),
        ({"groups": 0}, "groups must be an integer >= 1 and <= 16, got 0"),
        ({"groups": 17}, "groups must be an integer >= 1 and <= 16, got 17"),
        ({"further": 373}, "further must be an integer >= 0 and <= 372, got 373"),
        ({"further": -1}, "further must be an integer >= 0 .*, got -1"),
    ],
)
def test_bad_sizes(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aliased_plan(**({"n": 30, "b": 3} | change))


def test_numpy_integers_are_integers() -> None:
    plan = plan_spex(np.int64(30), np.int32(2000), degree=np.int8(5), seed=np.uint64(2**63))
    assert plan.total == plan_spex(30, 2000, seed=2**63).total
