"""lbfgs.minimise: on functions whose minimum is known."""

import math

import pytest
import torch

from spex_core.lbfgs import minimise


def counted(function):
    """objective of a torch function, and the list of its values so far."""
    values = []

    def objective(point):
        x = point.clone().requires_grad_()
        y = function(x)
        (slope,) = torch.autograd.grad(y, x)
        values.append(y.item())
        return values[-1], slope

    return objective, values


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_a_quadratic(size):
    scale = torch.logspace(-1, 1, size, dtype=torch.float64)
    goal = torch.linspace(-1, 3, size, dtype=torch.float64)
    objective, values = counted(lambda x: (scale * (x - goal).square()).sum())
    found = minimise(objective, torch.zeros(size, dtype=torch.float64), steps=100, least=1e-14)
    torch.testing.assert_close(found, goal, rtol=0, atol=1e-4)
    assert len(values) < 150


def test_a_curved_valley():
    """Rosenbrock's function, by steps that never go up."""
    objective, values = counted(lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    found = minimise(objective, start, steps=100, least=1e-12)
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-3)
    short = minimise(counted(lambda x: (x**2).sum())[0], start, steps=1, least=0.0)
    assert (short**2).sum() < (start**2).sum()
    assert values[-1] < 1e-8


def test_values_that_cannot_be_had_are_stepped_around():
    """The minimum lies at the edge of what gives a number."""
    objective, _ = counted(
        lambda x: (x[0] - 0.9).square() if x[0] < 1 else x[0] * (math.inf if x[0] < 2 else math.nan)
    )
    found = minimise(objective, torch.tensor([-5.0], dtype=torch.float64), steps=50, least=1e-12)
    assert found.item() == pytest.approx(0.9, abs=1e-4)


def test_it_stops_where_there_is_nothing_to_gain():
    objective, values = counted(lambda x: 0.0 * x.sum())
    start = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert torch.equal(minimise(objective, start, steps=9, least=0.01), start)
    assert len(values) == 1
    objective, values = counted(lambda x: 1e-3 * x.square().sum())
    minimise(objective, start, steps=50, least=0.01)
    assert len(values) == 2  # the first step gains too little
