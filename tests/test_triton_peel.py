"""The parts of peel on the device, each against the reference's; test_peel.py has the whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from planted import plant
from test_peel import arguments, problem, true_bins
from torch import Tensor
from triton_problems import DEVICE, MARKS

from spex_core import ops, reference_decode
from spex_core.backend import why_not
from spex_core.budget import aliased_plan
from spex_core.plan import SamplingPlan

if (reason := why_not("triton")) is not None:
    pytest.skip(f"triton: {reason}", allow_module_level=True)

from spex_core.triton_kernels.peel import Bins, Peeler, extended, side_by_side
from spex_core.triton_kernels.peel_search import Candidates, Problem, toggled

pytestmark = MARKS
FLOOR = 1e-3


def both(plan: SamplingPlan, bins: Tensor) -> tuple[Peeler, reference_decode.Peeler]:
    """The device's and the reference's peeler of a problem."""
    given = *arguments(plan), plan.degree, FLOOR
    there = Peeler(Bins(bins[None].to(DEVICE)), 0, Problem.of(bins.to(DEVICE), *given))
    return there, reference_decode.Peeler(bins, *given)


def crowded(further: int = 0, groups: int = 3) -> tuple[SamplingPlan, Tensor]:
    sizes = {"groups": groups, "degree": 3, "corrects": 4, "further": further}
    plan = aliased_plan(21, 3, **sizes, seed=1)
    return plan, true_bins(plant(21, 20, 3, seed=1, snr=6), plan)


def sets(features: Tensor) -> list[tuple[int, ...]]:
    return [tuple(i for i in row if i >= 0) for row in features.tolist()]


@pytest.mark.parametrize(
    ("case", "chase"),
    [
        ((12, 3, 6, 2, 0, 2, 0, 3), 4),
        ((9, 2, 6, 2, 6, 2, 60, 3), 0),
    ],
    ids=["every stage", "71 delays"],
)
def test_equals_the_reference(case: tuple, chase: int) -> None:
    _, plan, bins = problem(case, 0)
    how = {"floor": 1e-15, "chase": chase, "degree": plan.degree}
    features, coefs = ops.peel(bins.to(DEVICE), *arguments(plan), **how, backend="triton")
    expected = ops.peel(bins, *arguments(plan), **how, backend="reference")
    assert len(coefs) > 2
    assert torch.equal(features.cpu(), expected[0])
    assert torch.allclose(coefs.cpu(), expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("further", [0, 50])
def test_ratios(further: int) -> None:
    """Sets decoded from one bin, from two, and found otherwise; and where they fall."""
    plan, bins = crowded(further)
    there, reference = both(plan, bins)
    assert there.q.rows["WORDS"] == (1 if further == 0 else 2)
    every = [k for size in range(4) for k in itertools.combinations((0, 4, 13, 20), size)]
    found = [(), (0,), (1, 2)] * 5
    rows = [k + (-1,) * (4 - len(k)) for k in every]
    features = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
    at, signs = there.search.q.placed(features)
    groups = torch.tensor([sum(1 << g for g in some) for some in found], dtype=torch.int32)
    ratios = there.search.ratios(at, signs, groups.to(DEVICE)).tolist()
    for k, some, ratio, row in zip(every, found, ratios, at.tolist(), strict=True):
        expected = reference.ratio(k, reference.estimate(k, some or range(3)), range(3))
        assert ratio == pytest.approx(expected, rel=1e-9)
        assert [j - 8 * g for g, j in enumerate(row)] == reference.place(k)[0].tolist()


def test_correlated_bins() -> None:
    plan, bins = crowded()
    there, reference = both(plan, bins)
    reference.stale[:, ::3] = False
    there.stale.copy_(torch.from_numpy(reference.stale).flatten())
    live = torch.arange(23, device=DEVICE)
    pairs = reference.correlated([(int(i) // 8, int(i) % 8) for i in live])
    assert len(pairs) > 5
    expected = [[8 * g + j for g, j in pair] for pair in pairs]
    assert there.search.correlated(live).tolist() == expected


def test_noise_and_nearby_sets() -> None:
    plan, bins = crowded()
    there, reference = both(plan, bins)
    assert float(there.search.noise()) == pytest.approx(reference.noise())
    known = torch.tensor([[2, 5, -1, -1], [1, 3, 20, -1]], dtype=torch.int32, device=DEVICE)
    reference.terms = {(2, 5): 0.0, (1, 3, 20): 0.0}
    found, expected = there.search.nearby(known), reference.nearby()
    assert len(expected) > 3
    got = zip((-found.ratio).tolist(), sets(found.features), strict=True)
    for a, b in zip(sorted(got), sorted((r, k) for r, _, k, _, _ in expected), strict=True):
        assert a[0] == pytest.approx(b[0], rel=1e-9)
        assert a[1] == b[1]
    assert found.bound[0].item() == pytest.approx(expected[0][4])


def test_nothing_is_near_where_nothing_is_known() -> None:
    _, plan, bins = problem((1100, 3, 3, 1, None, 1, 0, 2), 0)
    there, _ = both(plan, bins)
    assert len(there.search.nearby(there.features).ratio) == 0


@pytest.mark.parametrize(("all_groups", "further"), [(3, 0), (5, 0), (5, 260)])
def test_candidates_are_taken_as_by_the_reference(all_groups: int, further: int) -> None:
    """The likeliest first, each in the light of those before; a term again; one left alone. Where
    delays are many, some groups at a time."""
    plan, bins = crowded(further, all_groups)
    there, reference = both(plan, bins)
    names = [(3,), (1, 3), (3,), (), (2, 9, 17), (5,), (4, 6)]
    ratio = torch.tensor([9.0, 7, 8, 3, 4, 5, 6], dtype=torch.float64)
    groups = [(0,), (1,), (2,), (), (0, 1), (2,), (1,)]
    candidates = [
        (-r, len(k), k, some, -1e9 if i % 2 else 0.0)
        for i, (r, k, some) in enumerate(zip(ratio.tolist(), names, groups, strict=True))
    ]
    for k in ((5,), (1, 3)):
        reference.drops[k] = 2
    rows = [k + (-1,) * (4 - len(k)) for k in names]
    features = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
    there.dropped, there.drops = features[[5, 1]], torch.tensor([2, 2], device=DEVICE)
    bits = torch.tensor([sum(1 << g for g in some) for some in groups], dtype=torch.int32)
    bound = torch.tensor([bound for *_, bound in candidates], dtype=torch.float64)
    there.stale.fill_(False)
    reference.stale[:] = False
    given = Candidates(features, *(x.to(DEVICE) for x in (bits, ratio, bound)))
    assert side_by_side([there], [there.take(given)]) == [True]
    assert reference.take(candidates)
    got = dict(zip(sets(there.features), there.coefs.tolist(), strict=True))
    assert got == pytest.approx(reference.terms)
    assert 1 < len(got) < 6
    assert np.allclose(there.residual.cpu(), reference.residual.reshape(8 * all_groups, -1))
    assert torch.equal(there.stale.cpu(), torch.from_numpy(reference.stale).flatten())
    assert torch.allclose(there.energy, there.residual.square().sum(1))


def test_a_set_is_dropped_twice_and_then_left_alone() -> None:
    plan, bins = crowded()
    there, _ = both(plan, bins)
    one = torch.tensor([[3, -1, -1, -1], [5, 6, -1, -1]], dtype=torch.int32, device=DEVICE)
    for times in (1, 2):
        there.features, there.coefs = one, torch.ones(2, dtype=torch.float64, device=DEVICE)
        there.drop(torch.tensor([False, True], device=DEVICE))
        assert sets(there.features) == [(3,)]
        assert sets(there.dropped) == [(5, 6)]
        assert there.drops.tolist() == [times]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_sets_of_an_order(n: int) -> None:
    level = torch.full((1, 3), -1, dtype=torch.int32, device=DEVICE)
    for order in range(min(n, 3)):
        expected = list(itertools.combinations(range(n), order + 1))
        level = extended(level, order, n, len(expected))
        assert sets(level) == expected


def test_one_feature_more_or_less() -> None:
    features = torch.tensor([[1, 4, -1], [1, 4, -1], [1, 4, 6], [2, -1, -1], [2, -1, -1]])
    feature = torch.tensor([4, 2, 9, 5, 1])
    out, fits = toggled(features.int(), feature.int(), 3)
    assert fits.tolist() == [True, True, False, True, False]
    assert out[fits].tolist() == [[1, -1, -1], [1, 2, 4], [2, 5, -1]]
