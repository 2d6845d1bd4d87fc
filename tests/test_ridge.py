"""Ridge regression on Fourier terms: the dense solution in NumPy, by every way there is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from spex_core import masks as bits
from spex_core import ridge as module
from spex_core.ridge import Fit, leave_one_out, one_thread, ridge, ridge_path, signs

N = 70
LEVELS = torch.logspace(-6, 6, 100, dtype=torch.float64)


class Case:
    """T masks, S terms of up to 3 features (the constant first), variances over three decades."""

    def __init__(self, samples: int, terms: int, seed: int = 0):
        rng = np.random.default_rng([samples, terms, seed])
        dense = rng.random((samples, N)) < 0.5
        sets: dict[tuple[int, ...], None] = {(): None}
        while len(sets) < terms:
            sets[tuple(sorted(rng.choice(N, rng.integers(1, 4), replace=False).tolist()))] = None
        self.masks = bits.pack(dense)
        self.support = bits.pack_sets(list(sets), N)
        self.x = np.column_stack([1.0 - 2.0 * (dense[:, list(k)].sum(1) % 2) for k in sets])
        self.values = torch.from_numpy(self.x[:, 0] + rng.normal(size=samples))
        self.variance = torch.from_numpy(10.0 ** rng.uniform(-3, 0, terms))

    def fit(self, level: float) -> Fit:
        return ridge(self.masks, self.values, self.support, self.variance, level)

    def dense(self, level: float) -> tuple[np.ndarray, float]:
        """(D X'X D + level)**-1 by definition: coefficients, trace of the hat matrix."""
        scaled = self.x * np.sqrt(self.variance.numpy())
        inverse = np.linalg.inv(scaled.T @ scaled + level * np.eye(scaled.shape[1]))
        coefs = np.sqrt(self.variance.numpy()) * (inverse @ (scaled.T @ self.values.numpy()))
        return coefs, float(np.trace(scaled @ inverse @ scaled.T))


def covariance_of(case: Case) -> Tensor:
    return torch.from_numpy(case.x * case.variance.numpy() @ case.x.T)


SIZES = [(1, 1), (5, 1), (1, 7), (40, 10), (63, 64), (64, 64), (65, 64), (30, 90), (64, 200)]
sizes = pytest.mark.parametrize(("samples", "terms"), SIZES, ids=lambda x: str(x))


@sizes
@pytest.mark.parametrize("level", [1e-3, 0.3, 100.0])
def test_the_dense_solution(samples: int, terms: int, level: float) -> None:
    case = Case(samples, terms)
    coefs, trace = case.dense(level)
    fit = case.fit(level)
    assert fit.coefs.dtype == torch.float64
    assert coefs.all()
    rtol = 1e-9
    if terms > samples:  # the covariance of the samples is summed in float32
        rtol += 3e-7 * np.linalg.norm(covariance_of(case), 2) / level
    np.testing.assert_allclose(fit.coefs, coefs, rtol=0, atol=rtol * np.linalg.norm(coefs))
    assert fit.effective == pytest.approx(trace, rel=2e-3, abs=2e-3)


@sizes
def test_both_ways_agree(samples: int, terms: int) -> None:
    case = Case(samples, terms)
    given = case.masks, case.values, case.support, case.variance, 0.3, True
    primal, dual = module._primal(*given), module._dual(*given)
    size = primal.coefs.norm()
    assert (primal.coefs - dual.coefs).norm() < 1e-4 * size
    assert primal.effective == pytest.approx(dual.effective, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("level", [0.01, 1.0])
@sizes
def test_conjugate_gradients_where_neither_matrix_fits(
    samples: int, terms: int, level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(samples, terms)
    coefs, _ = case.dense(level)
    monkeypatch.setattr(module, "DENSE", 0)
    fit = case.fit(level)
    assert np.isnan(fit.effective)
    scaled = case.x * np.sqrt(case.variance.numpy())
    fitted = case.x @ (fit.coefs.numpy() - coefs)
    assert np.linalg.norm(fitted) < 1e-3 * np.linalg.norm(case.x @ coefs)
    right = scaled.T @ case.values.numpy()
    left = scaled.T @ (case.x @ fit.coefs.numpy())
    rest = right - left - level * fit.coefs.numpy() / np.sqrt(case.variance.numpy())
    assert np.linalg.norm(rest) <= 1.01e-4 * np.linalg.norm(right)


def test_zero_values_give_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    for dense, (samples, terms) in [(8192, (40, 10)), (8192, (10, 40)), (0, (40, 10))]:
        monkeypatch.setattr(module, "DENSE", dense)
        case = Case(samples, terms)
        case.values = torch.zeros_like(case.values)
        assert not case.fit(0.1).coefs.any()


@pytest.mark.parametrize("terms", [30, 900])
def test_the_trace_is_estimated_from_some_of_many_samples(terms: int) -> None:
    case = Case(700, terms)  # more than 512
    assert case.fit(3.0).effective == pytest.approx(case.dense(3.0)[1], rel=0.02)


def test_a_level_that_rounding_hides_is_raised() -> None:
    """Terms that agree on every mask make the Gram matrix singular."""
    case = Case(40, 10)
    case.masks = case.masks[:4].repeat(10, 1)
    case.x = np.tile(case.x[:4], (10, 1))
    case.values = torch.from_numpy(case.x @ np.arange(10.0))
    case.variance = torch.ones(10, dtype=torch.float64)
    fit = case.fit(1e-300)
    np.testing.assert_allclose(case.x @ fit.coefs.numpy(), case.values, atol=1e-6)


def test_a_large_variance_is_no_shrinkage_and_a_small_one_no_term() -> None:
    case = Case(100, 10)
    case.variance = torch.tensor([1e12] * 5 + [1e-12] * 5, dtype=torch.float64)
    coefs = case.fit(1.0).coefs.numpy()
    least_squares = np.linalg.lstsq(case.x[:, :5], case.values.numpy())[0]
    np.testing.assert_allclose(coefs[:5], least_squares, rtol=1e-6)
    assert np.abs(coefs[5:]).max() < 1e-9


@pytest.mark.parametrize(("samples", "terms"), [(3000, 300), (300, 3000)])
def test_threads_change_no_bit(
    samples: int, terms: int, set_threads: Callable[[int], None]
) -> None:
    case = Case(samples, terms)
    fits, losses = [], []
    for threads in (1, 2, 5):
        set_threads(threads)
        fits.append(case.fit(0.1))
        few = case.masks[:200], case.values[:200], case.support[:300], LEVELS
        losses.append(leave_one_out(*few))
        assert torch.get_num_threads() == threads
    for a, b in [(fits[0], fits[1]), (fits[0], fits[2]), (losses[0], losses[1])]:
        assert torch.equal(a.coefs, b.coefs)
        assert a.effective == b.effective


def test_inputs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for dense in (8192, 0):
        monkeypatch.setattr(module, "DENSE", dense)
        for samples, terms in [(40, 10), (10, 40)]:
            case = Case(samples, terms)
            given = case.masks, case.values, case.support, case.variance
            before = [x.clone() for x in given]
            case.fit(0.1)
            leave_one_out(*given[:3], LEVELS)
            assert all(map(torch.equal, before, given))


# All levels at once.


@pytest.mark.parametrize(("samples", "terms"), [(1, 1), (2, 5), (40, 10), (48, 200), (45, 45)])
def test_the_path_of_few_samples_is_exact(samples: int, terms: int) -> None:
    case = Case(samples, terms)
    matrix, levels = covariance_of(case), torch.logspace(-4, 3, 9, dtype=torch.float64)
    found = ridge_path(matrix, case.values, levels)
    assert found.shape == (samples, 9)
    for level, dual in zip(levels, found.T, strict=True):
        direct = torch.linalg.solve(matrix + level * torch.eye(samples), case.values)
        assert (dual - direct).norm() < 1e-5 * direct.norm()


def test_the_path_of_many_samples_is_close() -> None:
    case = Case(400, 120)
    matrix, levels = covariance_of(case), torch.logspace(1, 3, 9, dtype=torch.float64)
    found = ridge_path(matrix, case.values, levels)
    for level, dual in zip(levels, found.T, strict=True):
        direct = torch.linalg.solve(matrix + level * torch.eye(400), case.values)
        fitted, expected = matrix @ dual, matrix @ direct
        assert (fitted - expected).norm() < 1e-6 * expected.norm()
    assert not ridge_path(matrix, torch.zeros(400, dtype=torch.float64), levels).any()


def test_the_path_of_few_terms_is_exact() -> None:
    """As many steps as the covariance has eigenvectors, and one for what they leave."""
    case = Case(400, 20)
    matrix = covariance_of(case)
    levels = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    for level, dual in zip(levels, ridge_path(matrix, case.values, levels).T, strict=True):
        direct = torch.linalg.solve(matrix + level * torch.eye(400), case.values)
        assert (dual - direct).norm() < 1e-6 * direct.norm()


# Leave-one-out.


def brute_errors(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """Each sample left out of a fit of its own."""
    total = 0.0
    for t in range(len(y)):
        rows = np.arange(len(y)) != t
        gram = x[rows].T @ x[rows] + level * np.eye(x.shape[1])
        total += (y[t] - x[t] @ np.linalg.solve(gram, x[rows].T @ y[rows])) ** 2
    return total


@pytest.mark.parametrize(("samples", "terms"), [(25, 6), (20, 20), (18, 40)])
def test_the_level_of_least_leave_one_out_error(samples: int, terms: int) -> None:
    case = Case(samples, terms)
    y, levels = case.values.numpy(), np.logspace(-2, 3, 11)
    errors = [brute_errors(case.x, y, level) for level in levels]
    level = levels[int(np.argmin(errors))]
    fit = leave_one_out(case.masks, case.values, case.support, torch.from_numpy(levels))
    assert 0 < np.argmin(errors) < 10  # not at an end
    inverse = np.linalg.inv(case.x.T @ case.x + level * np.eye(terms))
    np.testing.assert_allclose(fit.coefs, inverse @ case.x.T @ y, rtol=1e-8, atol=1e-9)
    assert fit.effective == pytest.approx(np.trace(case.x @ inverse @ case.x.T), rel=1e-9)


@pytest.mark.parametrize(("samples", "terms"), [(100, 20), (100, 100), (60, 200), (30, 1)])
def test_scikit_learn_agrees(samples: int, terms: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    case = Case(samples, terms)
    rival = linear.RidgeCV(alphas=LEVELS.numpy(), fit_intercept=False)
    rival.fit(case.x, case.values.numpy())
    fit = leave_one_out(case.masks, case.values, case.support, LEVELS)
    np.testing.assert_allclose(fit.coefs, rival.coef_, rtol=1e-6, atol=1e-8)


def test_samples_that_the_terms_fit_exactly() -> None:
    case = Case(50, 10)
    truth = np.arange(10.0) - 4
    case.values = torch.from_numpy(case.x @ truth)
    fit = leave_one_out(case.masks, case.values, case.support, LEVELS)
    np.testing.assert_allclose(fit.coefs, truth, atol=1e-6)
    assert fit.effective == pytest.approx(10, abs=1e-4)


# Pieces.


@pytest.mark.parametrize("samples", [1, 7, 8, 63, 64, 65, 130])
def test_signs_unpack_parities(samples: int) -> None:
    odd = np.random.default_rng(samples).random((5, samples)) < 0.5
    out = signs(bits.pack(odd), samples)
    assert out.dtype == torch.float32
    np.testing.assert_array_equal(out, np.where(odd, -1.0, 1.0))


def test_one_thread_is_undone(set_threads: Callable[[int], None]) -> None:
    set_threads(3)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (256, 256), (257, 257), (700, 513), (9, 4)])
def test_products_by_strips_are_all_of_the_products(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    x = torch.from_numpy(rng.normal(size=(7, rows)).astype(np.float32))
    out = torch.full((rows, columns), 0.5)
    module.add_products(out, x)
    full = 0.5 + x.T @ x[:, :columns]
    lower = torch.tril(torch.ones(rows, columns, dtype=torch.bool))
    torch.testing.assert_close(out[lower], full[lower])
    torch.testing.assert_close(module.mirror(out), full)


def test_conjugate_gradients_that_stop_early_say_how_far_they_came(monkeypatch) -> None:
    case = Case(64, 64)
    monkeypatch.setattr(module, "DENSE", 0)
    assert case.fit(0.1).residual == 0
    monkeypatch.setattr(module, "STEPS", 3)
    residual = case.fit(0.01).residual
    right = case.x * np.sqrt(case.variance.numpy())
    left = case.fit(0.01).coefs.numpy() / np.sqrt(case.variance.numpy())
    slope = right.T @ case.values.numpy()
    gap = slope - right.T @ (right @ left) - 0.01 * left
    assert residual == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(slope), rel=1e-3)
    assert residual > 1e-4
