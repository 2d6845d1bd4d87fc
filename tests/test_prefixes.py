"""Masks that share their first features: the staircase hash, branching samples, what they save."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spex_core import masks as bits
from spex_core.budget import aliased_plan, plan_spex, plan_uniform
from spex_core.plan import SamplingPlan
from spex_core.planner import distinct
from spex_core.prefixes import PROFILE, branching_masks, hash_columns, profile_of
from spex_core.proxyspex import proxyspex
from spex_core.spex import describe, spex
from spex_core.value_function import ValueFunction


def rank(rows: np.ndarray) -> int:
    """Of a bool matrix over GF(2), by elimination."""
    rows, found = rows.copy(), 0
    for column in range(rows.shape[1]):
        pivots = np.flatnonzero(rows[found:, column]) + found
        if len(pivots):
            rows[[found, pivots[0]]] = rows[[pivots[0], found]]
            others = rows[:, column].copy()
            others[found] = False
            rows[others] ^= rows[found]
            found += 1
    return found


def saved(plan: SamplingPlan) -> float:
    """The share of one-token features that a trie does not compute again, by sets of prefixes."""
    dense = np.unique(bits.unpack(plan.masks(0, plan.total), plan.n), axis=0)
    nodes = 0
    for j in range(plan.n):
        nodes += len(np.unique(np.packbits(dense[dense[:, j], :j], axis=1), axis=0)) or 1
    return 1 - nodes / dense.sum()


# ---- The staircase -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 8, 9, 63, 64, 65, 100, 128, 1000])
@pytest.mark.parametrize("profile", [(), (0.5,), (0.5, 0.25), (0.75, 0.5, 0.25)])
def test_columns_are_zero_at_first_and_independent(n: int, profile: tuple[float, ...]) -> None:
    b = min(8, n)
    profile = profile if n > 3 else profile[-2:]  # three columns need features of their own
    for stream in range(5):
        dense = bits.unpack(hash_columns(b, n, seed=3, stream=stream, profile=profile), n)
        assert dense.shape == (b, n)
        assert rank(dense) == b
        for share, column in zip(profile, dense, strict=False):
            assert not column[: int(share * n)].any()
        if n >= 100:  # uniform on the rest
            for share, column in zip((*profile, *[0.0] * (b - len(profile))), dense, strict=True):
                rest = column[int(share * n) :]
                assert abs(rest.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(rest))


def test_without_a_profile_nothing_changes() -> None:
    plain = aliased_plan(65, 6, seed=2)
    for option in (False, (), [], (0.0, 0.0)):
        assert torch.equal(
            aliased_plan(65, 6, seed=2, prefix_sharing=option).columns, plain.columns
        )
    assert not torch.equal(aliased_plan(65, 6, seed=2, prefix_sharing=True).columns, plain.columns)


def test_a_staircase_plan_saves_three_tenths_of_the_tokens() -> None:
    plain, stairs = (aliased_plan(128, 8, prefix_sharing=option) for option in (False, True))
    assert plain.total == stairs.total == 31_488
    assert saved(plain) < 0.12
    assert saved(stairs) > 0.3
    assert saved(plan_spex(128, 33_000, prefix_sharing=True)) > 0.3


def test_a_plan_says_what_it_is() -> None:
    plan = plan_spex(50, 3000, prefix_sharing=True)
    assert plan.profile == PROFILE
    assert "hash zero on the first 50%, 25% of the features" in describe(plan)
    assert plan_spex(50, 3000).profile == ()
    assert "zero" not in describe(plan_spex(50, 3000))
    assert len(np.unique(plan.row_keys())) == 3000
    assert aliased_plan(9, 1, prefix_sharing=True).profile == (0.5,)  # as many as there are columns


def test_spex_finds_what_it_found() -> None:
    terms = {(): 1.0, (0,): 2.0, (1, 2): -1.0, (3, 30, 31): 0.5, (5, 6, 7, 8): 1.5}

    def f(x: np.ndarray) -> np.ndarray:
        return sum(c * (-1.0) ** x[:, list(k)].sum(1) for k, c in terms.items())

    for profile in (True, (0.75, 0.5)):
        found = spex(f, 32, budget=1500, prefix_sharing=profile)
        got = {k: c for k, c in found.transform.to_dict().items() if abs(c) > 1e-9}
        assert got == pytest.approx(terms)
        assert "hash zero" in found.report.plan


class Shares(ValueFunction):
    """One feature, if it is there; declares that it shares prefixes."""

    fingerprint = "shares"
    features = tuple(map(str, range(20)))
    order = "prefix"

    def cost(self, masks: torch.Tensor) -> np.ndarray:
        return np.ones(len(masks), np.int64)

    def run(self, masks: torch.Tensor) -> np.ndarray:
        return (masks[:, 0] & 1).numpy()


def test_a_value_function_that_shares_prefixes_gets_such_masks() -> None:
    f = Shares()
    assert "hash zero" in spex(f, 20, budget=800).report.plan
    assert "hash zero" not in spex(f, 20, budget=800, prefix_sharing=False).report.plan
    f.order = "length"
    assert "hash zero" not in spex(f, 20, budget=800).report.plan


# ---- Branching samples ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 63, 64, 65, 100, 1000])
def test_branching_masks_agree_by_eight_by_four_by_two(n: int) -> None:
    dense = bits.unpack(branching_masks(800, n, seed=1), n)
    for share, count in ((0.25, 8), (0.5, 4), (0.75, 2)):
        groups = dense[:, : int(share * n)].reshape(800 // count, count, int(share * n))
        assert (groups == groups[:, :1]).all()
    if n >= 63:
        assert len(np.unique(dense, axis=0)) == 800
        share = dense.mean(0)  # from 100 to 800 independent draws
        assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(100)
        assert dense.sum(1).std() == pytest.approx(np.sqrt(n / 4), rel=0.2)
        firsts = dense[::8]
        assert len(np.unique(firsts[:, : n // 4], axis=0)) > 90  # groups by themselves


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 5), (3, 4), (7, 9), (8, 24), (13, 99)])
def test_any_range_of_branching_masks(start: int, stop: int) -> None:
    whole = branching_masks(100, 70, seed=4, stream=3)
    part = branching_masks(stop - start, 70, seed=4, stream=3, start=start)
    assert torch.equal(part, whole[start:stop])


@pytest.mark.parametrize(
    ("n", "budget"), [(1, 1), (2, 3), (4, 9), (10, 511), (10, 700), (24, 3000), (65, 1001)]
)
def test_plans_of_branching_samples_are_distinct(n: int, budget: int) -> None:
    plan = plan_uniform(n, budget, seed=5, prefix_sharing=True)
    first, _ = distinct(plan.masks(0, plan.total))
    assert plan.total == len(first) == budget
    again = plan_uniform(n, budget, seed=5, prefix_sharing=True)
    assert torch.equal(again.extra, plan.extra)
    other = plan_uniform(n, budget, seed=6, prefix_sharing=True)
    assert n <= 2 or not torch.equal(other.extra, plan.extra)


def test_branching_samples_save_half_of_the_tokens() -> None:
    assert saved(plan_uniform(64, 3000)) < 0.2
    assert saved(plan_uniform(64, 3000, prefix_sharing=True)) > 0.5


def test_the_first_of_more_branching_samples_are_those_of_fewer() -> None:
    small, large = (plan_uniform(65, size, prefix_sharing=True) for size in (100, 1000))
    assert torch.equal(small.extra, large.extra[:100])


def test_proxyspex_on_branching_samples() -> None:
    found = proxyspex(
        lambda x: x[:, 0] * 1.0 - 2 * (x[:, 1] & x[:, 40]), n=65, budget=500, prefix_sharing=True
    )
    assert found.report.r2 > 0.99
    assert found.report.warnings == []  # the masks are uniform, though they do not look it
    assert set(found.interactions("Möbius", order=2)) >= {(0,), (1, 40)}


# ---- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (1.5, TypeError),
        ("half", TypeError),
        (("a", "b"), TypeError),
        ((0.5, 1.0), ValueError),
        ((-0.1,), ValueError),
        ((float("nan"),), ValueError),
    ],
)
def test_bad_profiles(given: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"prefix_sharing must be a bool or numbers in \[0, 1\), got"):
        profile_of(given)
    with pytest.raises(error, match="prefix_sharing must be"):
        spex(lambda x: x[:, 0], 30, budget=2000, prefix_sharing=given)


def test_a_profile_that_leaves_too_few_features() -> None:
    with pytest.raises(ValueError, match="must leave 2 columns independent, of 10 features in all"):
        aliased_plan(10, 3, prefix_sharing=(0.9, 0.9))
    assert aliased_plan(10, 3, prefix_sharing=(0.9, 0.8)).b == 3


def test_the_score_of_branching_samples_is_of_masks_unlike_those_fitted() -> None:
    """Pure noise that siblings share: a fold with siblings of what was fitted would predict it."""

    def f(x: np.ndarray) -> np.ndarray:
        keys = np.packbits(x[:, :48], axis=1).astype(np.int64) @ np.arange(3, 9)
        return np.sin(keys * 12.9898)

    found = proxyspex(f, 64, budget=800, prefix_sharing=True)
    assert found.report.r2 < 0.1


def test_branching_is_not_the_published_recipe() -> None:
    with pytest.raises(ValueError, match="prefix_sharing must be False with preset='paper'"):
        proxyspex(lambda x: x[:, 0], 30, budget=100, preset="paper", prefix_sharing=True)


def test_branching_is_yes_or_no() -> None:
    with pytest.raises(TypeError, match=r"prefix_sharing must be a bool, got \(0\.5,\)"):
        proxyspex(lambda x: x[:, 0], 30, budget=100, prefix_sharing=(0.5,))
