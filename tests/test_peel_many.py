"""peel_many: several outputs on the same masks, each what peel finds of it alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from aliased import true_bins
from planted import plant
from torch import Tensor

from spex_core import ops
from spex_core.budget import aliased_plan
from spex_core.plan import SamplingPlan

pytestmark = pytest.mark.op("peel_many")
FLOORS = [1e-12, 1e-15, 1e-9, 1e-15]


def outputs(n: int, b: int, degree: int) -> tuple[SamplingPlan, Tensor]:
    """Easy, hard, nothing but rounding, one term: each needs rounds and stages of its own."""
    plan = aliased_plan(n, b, degree=degree, seed=1)
    terms = (4, None), ((1 << b) - 3, 10), (1, None)
    bins = [true_bins(plant(n, s, degree, seed=s, snr=snr), plan) for s, snr in terms]
    return plan, torch.stack([*bins[:2], torch.zeros_like(bins[0]), bins[2]])


def tables(plan: SamplingPlan) -> tuple:
    return plan.code, plan.delay_columns, plan.hashes


@pytest.mark.parametrize("chase", [0, 1])
def test_the_bits_of_each_alone(chase: int, backend: str, device: torch.device) -> None:
    plan, bins = outputs(12, 2, 2)
    how = {"chase": chase, "backend": backend}
    found = ops.peel_many(bins.to(device), *tables(plan), floors=FLOORS, **how)
    sizes = found.counts.tolist()
    parts = list(zip(found.features.split(sizes), found.coefs.split(sizes), strict=True))
    for own, floor, part in zip(bins.to(device), FLOORS, parts, strict=True):
        alone = ops.peel(own, *tables(plan), floor=floor, **how)
        assert all(map(torch.equal, part, alone))
    assert sizes[0] >= 4
    assert sizes[2] == 0
    assert sizes[3] >= 1


def test_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    plan, bins = outputs(100, 5, 4)
    found = []
    for threads in (1, 3, 9):
        set_threads(threads)
        found.append(ops.peel_many(bins, *tables(plan), floors=FLOORS, chase=6))
    assert all(map(torch.equal, found[0], found[1]))
    assert all(map(torch.equal, found[0], found[2]))
    assert found[0].counts[1] > 20


def test_no_outputs(backend: str, device: torch.device) -> None:
    plan, bins = outputs(10, 2, 2)
    found = ops.peel_many(bins[:0].to(device), *tables(plan), floors=[], chase=0, backend=backend)
    assert [tuple(x.shape) for x in found] == [(0, 2), (0,), (0,)]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bins": torch.zeros(3, 11, 4)}, ValueError, "readings must have 4 axes"),
        ({"bins": torch.zeros(2, 3, 11, 3)}, ValueError, r"bins must have 2\*\*b columns, got 3"),
        ({"floors": [1e-9]}, ValueError, "floors must be 4, got 1"),
        ({"floors": [1e-9, 1e-9, 0.0, 1e-9]}, ValueError, "floor must be positive, got 0.0"),
        ({"chase": -1}, ValueError, "chase must be an integer >= 0"),
    ],
)
def test_bad_arguments(change: dict, error: type, message: str) -> None:
    plan, bins = outputs(10, 2, 2)
    given = {"bins": bins, "floors": FLOORS, "chase": 0} | change
    with pytest.raises(error, match=f"peel_many: {message}"):
        ops.peel_many(given.pop("bins"), *tables(plan), **given)
