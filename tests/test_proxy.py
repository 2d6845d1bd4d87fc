"""The default fit of ProxySPEX: folds, spectra of bags, the priors compared, the linear fit."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from planted import Planted, plant_products
from torch import Tensor

from spex_core import masks as bits
from spex_core import ops, proxy
from spex_core.auto import linear_fit
from spex_core.hedge import Hedge
from spex_core.left_out import (
    LEVELS,
    folds,
    largest,
    linear_covariance,
    path_errors,
    prior_covariance,
)
from spex_core.prior import Spectra, Terms, choose_support
from spex_core.proxy import (
    DEFAULT,
    Problem,
    ProxyFit,
    Recipe,
    bag_spectra,
    compare_priors,
    fit_default,
)
from spex_core.sparse import without_dust
from spex_core.transform import r2

pytestmark = pytest.mark.usefixtures("one_core")
EITHER = dataclasses.replace(DEFAULT, hedge=None)


@pytest.fixture
def one_core(set_threads: Callable[[int], None]) -> Iterator[None]:
    """Fits this small are the faster on one thread."""
    set_threads(1)
    return


def samples(f: Callable, n: int, rows: int, seed: int = 0) -> tuple[Tensor, Tensor, np.ndarray]:
    """Packed masks (T, W), values (1, T), and the masks as bool."""
    dense = np.random.default_rng([seed, n, rows]).random((rows, n)) < 0.5
    return bits.pack(dense), torch.from_numpy(f(dense))[None].double(), dense


def problem_of(f: Callable, n: int, rows: int, recipe: Recipe = DEFAULT, seed: int = 0) -> Problem:
    """As fit_default makes it."""
    masks, values, _ = samples(f, n, rows)
    y = values - values.mean()
    y /= y.abs().max()
    fold = folds(rows, recipe.folds_of(rows), seed)
    (spectra,) = bag_spectra(masks, y, n, fold, 5, recipe)
    support, row = choose_support(spectra, recipe.candidates)
    return Problem(masks, y[0], fold, spectra, support, row, recipe)


def score(found: ProxyFit, n: int, f: Callable, rows: int = 2000) -> float:
    """R2 on masks that no fit has seen."""
    masks, values, _ = samples(f, n, rows, seed=1)
    fit = ops.parity_predict(masks, found.support, found.coefs)
    rest = values[0] - fit
    return 1 - float(rest.square().mean() / values[0].var())


def same(a: ProxyFit, b: ProxyFit) -> bool:
    arrays = [a.support, a.coefs, *vars(a.predicted).values()]
    others = [b.support, b.coefs, *vars(b.predicted).values()]
    rest = {"support": b.support, "coefs": b.coefs, "predicted": b.predicted}
    return all(map(np.array_equal, arrays, others)) and dataclasses.replace(a, **rest) == b


def linear(weights: np.ndarray) -> Callable:
    return lambda x: x @ weights + 3.0


# Folds.


@pytest.mark.parametrize(("rows", "count"), [(8, 4), (9, 4), (65, 4), (1000, 3)])
def test_folds(rows: int, count: int) -> None:
    fold = folds(rows, count, 5)
    sizes = np.bincount(fold, minlength=count)
    assert len(fold) == rows
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold, folds(rows, count, 5))
    assert (fold != folds(rows, count, 6)).any()
    assert (fold != np.arange(rows) % count).any()


def test_parts_of_many_samples_are_spread_over_all_of_them() -> None:
    """They may have come in some order."""
    problem = problem_of(linear(np.ones(10)), 10, 1000, dataclasses.replace(DEFAULT, trees=1))
    for k in range(4):
        inside, outside = problem.split(k)
        assert sorted([*inside.tolist(), *outside.tolist()]) == list(range(1000))
        assert (problem.fold[outside] == k).all()
        for whole, some in zip((inside, outside), problem.split(k, 50), strict=True):
            assert len(set(some.tolist()) & set(whole.tolist())) == 50
            assert np.diff(some).max() < 80
            assert some[0] < 80
            assert some[-1] > 920
        assert [len(part) for part in problem.split(k, 400)] == [400, 250]


@pytest.mark.parametrize(("rows", "count"), [(8, 8), (500, 8), (600, 6), (1000, 4), (50_000, 4)])
def test_more_folds_of_fewer_samples(rows: int, count: int) -> None:
    assert DEFAULT.folds_of(rows) == count


# The spectra of the bags.


def test_neighbours_are_in_one_fold() -> None:
    fold = folds(1003, 4, 5, together=8)
    assert len(fold) == 1003
    assert (fold[:1000].reshape(-1, 8) == fold[:1000:8, None]).all()
    assert np.bincount(fold).min() >= 1003 // 4 - 8
    assert set(folds(20, 4, 5, together=8)) == {0, 1, 2, 3}  # too few: by themselves


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_a_bag_has_not_seen_its_fold(degree: int) -> None:
    n, rows = 20, 150
    masks, values, _ = samples(plant_products(n, 6, 3, seed=0), n, rows)
    fold = folds(rows, 4, 0)
    (before,) = bag_spectra(masks, values, n, fold, degree, DEFAULT)
    changed = values + torch.from_numpy(fold == 2) * torch.randn(
        rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    (after,) = bag_spectra(masks, changed, n, fold, degree, DEFAULT)
    for bag in range(4):
        kept = by_set(before, bag) == by_set(after, bag)
        assert kept == (bag == 2), bag
    assert before.terms.orders.max() <= degree
    assert before.coefs.shape[1] == 8


def by_set(spectra: Spectra, bag: int) -> dict[bytes, bytes]:
    """The terms of a bag that are not zero."""
    coefs = spectra.coefs[:, 2 * bag : 2 * bag + 2]
    there = coefs.any(1)
    rows = zip(spectra.terms.sets[there], coefs[there], strict=True)
    return {k.tobytes(): c.tobytes() for k, c in rows}


def test_the_spectra_are_those_of_the_trees() -> None:
    """The columns of a bag, summed up at a mask, are what its trees predict, the mean apart."""
    n, rows = 12, 200
    masks, values, _ = samples(plant_products(n, 6, 3, seed=0), n, rows)
    fold = folds(rows, 4, 0)
    (spectra,) = bag_spectra(masks, values, n, fold, 5, DEFAULT)
    everything = bits.pack((np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool))
    for column, (bag, depth) in enumerate((bag, depth) for bag in range(4) for depth in (3, 5)):
        forest = ops.boost(
            masks, values, n, bags=bits.pack(fold[None] != bag), watch=everything, depth=depth,
            trees=300, rate=0.1, leaves=12, min_leaf=4,
        )  # fmt: skip
        trees = forest.staged[0, 0, rows:]
        coefs = torch.from_numpy(spectra.coefs[:, column])
        series = ops.parity_predict(everything, spectra.terms.packed(), coefs)
        torch.testing.assert_close(series, trees - trees.mean(), rtol=0, atol=1e-9)


def test_a_limit_of_the_spectrum() -> None:
    masks, values, _ = samples(plant_products(20, 6, 3, seed=0), 20, 150)
    fold = folds(150, 4, 0)
    recipe = dataclasses.replace(DEFAULT, spectrum=30)
    (spectra,) = bag_spectra(masks, values, 20, fold, 5, recipe)
    assert 29 <= len(spectra.coefs) <= 30  # the constant may be one


# The priors compared.


def test_errors_of_a_path_are_those_of_each_level() -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.choice([-1.0, 1.0], (30, 60))).float()
    variance = rng.random(30)
    variance[5:] *= variance[5:] > 0.5
    covariance = prior_covariance(z, variance, 40, 12)
    top = np.argsort(-variance)[:12]
    share = variance[top] / variance[top].sum()
    signs = z.double().numpy()[top]
    expected = 1 + (signs.T * share) @ signs[:, :40]
    np.testing.assert_allclose(covariance, expected, atol=1e-6)
    y = torch.from_numpy(rng.normal(size=60))
    errors = path_errors(covariance, y[:40], y[40:]).sum(0)
    for level, error in zip(LEVELS.tolist(), errors.tolist(), strict=True):
        mean = float(y[:40].mean())
        dual = np.linalg.solve(expected[:40] + level * np.eye(40), y[:40].numpy() - mean)
        rest = y[40:].numpy() - expected[40:] @ dual - mean
        assert error == pytest.approx(rest @ rest, rel=1e-3 if level > 1e-3 else 0.5)


@pytest.mark.parametrize("n", [5, 70])
def test_covariance_of_all_features(n: int) -> None:
    masks, _, dense = samples(linear(np.ones(n)), n, 30)
    signs = 1.0 - 2.0 * dense
    expected = 1 + signs @ signs[:20].T / n
    np.testing.assert_allclose(linear_covariance(masks, 20, n), expected, atol=1e-6)


@pytest.mark.parametrize(("rows", "most"), [(200, 600), (1500, 300)])
def test_the_prior_that_predicts_best_weighs_most(rows: int, most: int) -> None:
    recipe = dataclasses.replace(DEFAULT, compared=most)
    interacting = problem_of(plant_products(12, 6, 3, seed=0), 12, rows, recipe)
    mixture, level, _ = compare_priors(interacting)
    assert list(mixture) == ["trees", "sqrt-product", "product", "linear"]
    assert sum(mixture.values()) == pytest.approx(1.0)
    assert mixture["trees"] > 0.5
    assert level in LEVELS
    weights = np.random.default_rng(1).normal(size=12)
    additive = problem_of(linear(weights), 12, rows, recipe)
    mixture, level, linear_level = compare_priors(additive)
    assert mixture["linear"] == max(mixture.values())
    assert linear_level == LEVELS[0]  # without noise


def test_no_temperature_takes_the_best_prior_alone() -> None:
    recipe = dataclasses.replace(DEFAULT, temperature=0.0)
    problem = problem_of(plant_products(12, 6, 3, seed=0, snr=3), 12, 150, recipe)
    alone, _, _ = compare_priors(problem)
    assert sorted(alone.values()) == [0.0, 0.0, 0.0, 1.0]
    mixed, _, _ = compare_priors(dataclasses.replace(problem, recipe=DEFAULT))
    assert max(mixed, key=mixed.get) == max(alone, key=alone.get)
    assert sorted(mixed.values())[-2] > 0


def test_largest() -> None:
    top, share = largest(np.array([0.0, 3.0, 1.0, 3.0, 0.0, 2.0]), 3)
    assert top.tolist() == [1, 3, 5]
    np.testing.assert_allclose(share, [3 / 8, 3 / 8, 2 / 8])
    assert largest(np.array([0.0, 3.0, 1.0]), 9)[0].tolist() == [1, 2]
    assert [len(x) for x in largest(np.zeros(4), 2)] == [0, 0]


# The fit.


@pytest.mark.parametrize("n", [6, 12, 40])
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_a_linear_function_is_fitted_by_a_linear_fit(n: int, seed: int) -> None:
    """With few noisy samples interactions only add noise: ridge on single features it is, where one
    fit is taken; else it has its share."""
    rng = np.random.default_rng([n, seed])
    f, noise = linear(rng.normal(size=n)), torch.from_numpy(rng.normal(size=60))
    masks, values, dense = samples(f, n, 60, seed)
    (found,) = fit_default(masks, values + noise, n, degree=5, seed=seed)
    assert found.note.endswith("of a linear fit") or found.note.startswith("a linear fit")
    assert found.r2 >= found.r2_linear
    (found,) = fit_default(masks, values + noise, n, degree=5, seed=seed, recipe=EITHER)
    assert found.note == "a linear fit: the samples left out speak for no more"
    assert (found.r2, found.left_out) == (found.r2_linear, 60)
    assert score(found, n, f) > max(0.6, found.r2 - 0.2)  # of the function without its noise
    assert bits.unpack_sets(found.support) == [(), *((i,) for i in range(n))]
    y = (values[0] + noise).numpy()
    x = np.column_stack([np.ones(60), (1.0 - 2.0 * dense) / np.sqrt(n)])
    errors = []
    for level in LEVELS.tolist():
        coefs = np.linalg.solve(x.T @ x + level * np.eye(n + 1), x.T @ (y - y.mean()))
        coefs = coefs / np.append(1.0, np.full(n, np.sqrt(n))) + y.mean() * (np.arange(n + 1) == 0)
        errors.append(np.abs(coefs - found.coefs.numpy()).max())
    assert min(errors) < 1e-9


def test_a_fit_with_a_share_of_a_linear_one() -> None:
    """Coefficients and predictions are added up, and scored so."""
    rng = np.random.default_rng(5)
    dense = rng.random((50, 12)) < 0.5
    y = dense @ rng.normal(size=12) + 2.0 * (dense[:, 0] ^ dense[:, 1]) + rng.normal(size=50)
    alone, mixed, line = (
        fit_default(
            *(bits.pack(dense), torch.from_numpy(y)[None], 12),
            degree=3,
            recipe=dataclasses.replace(DEFAULT, hedge=hedge),
        )[0]
        for hedge in (None, Hedge(0.0, slope=0.0, weight=0.0, beaten=-99.0), Hedge(99.0))
    )
    assert mixed.note == alone.note + "; with 50% of a linear fit"
    assert line.note == "a linear fit: the samples left out speak for no more"
    fits = [dict(zip(bits.unpack_sets(x.support), x.coefs.tolist(), strict=True))
            for x in (alone, mixed, line)]  # fmt: skip
    assert set(fits[1]) == set(fits[0]) | set(fits[2])
    assert set(fits[2]) < set(fits[0])
    for term, coef in fits[1].items():
        want = 0.5 * fits[0].get(term, 0.0) + 0.5 * fits[2].get(term, 0.0)
        assert coef == pytest.approx(want, abs=1e-12)
    assert mixed.effective == pytest.approx(0.5 * alone.effective + 0.5 * line.effective)
    want = 0.5 * alone.predicted.fitted + 0.5 * alone.predicted.linear
    np.testing.assert_allclose(mixed.predicted.fitted, want, atol=1e-12)
    assert mixed.r2 == pytest.approx(r2(y[mixed.predicted.rows], want))
    (few,) = fit_default(bits.pack(dense), torch.from_numpy(y)[None], 12, degree=3, terms=40)
    assert "of a linear fit" not in few.note  # no place for the terms of both


@pytest.mark.parametrize(("n", "mixed"), [(1024, True), (1025, False)])
def test_no_share_of_more_features_than_terms(n: int, mixed: bool) -> None:
    """A poor fit does not grow by all features."""
    rng = np.random.default_rng(0)
    masks, values, _ = samples(lambda x: 1.2 * x[:, 5] + x @ rng.normal(size=n) / 20, n, 60)
    (found,) = fit_default(masks, values, n, degree=2)
    assert ("% of a linear fit" in found.note) == mixed
    assert (len(found.coefs) > n) == mixed


def test_as_much_of_a_linear_fit_as_is_no_worse() -> None:
    """A rule that wants none gets so much."""
    rng = np.random.default_rng([12, 4])
    f, noise = linear(rng.normal(size=12)), torch.from_numpy(rng.normal(size=60))
    masks, values, _ = samples(f, 12, 60, 4)
    recipe = dataclasses.replace(DEFAULT, hedge=Hedge(-99.0, beaten=-99.0))
    (found,) = fit_default(masks, values + noise, 12, degree=5, seed=4, recipe=recipe)
    assert "of a linear fit" in found.note
    assert found.r2_linear <= found.r2 < found.r2_linear + 1e-3


def test_a_linear_function_of_more_features_than_terms_are_compared() -> None:
    """The level is that of a fit with all of them: what half of them leave out is not noise."""
    n = 2 * DEFAULT.compared_terms
    f = linear(np.random.default_rng(0).normal(size=n))
    masks, values, _ = samples(f, n, 500)
    (found,) = fit_default(masks, values, n, degree=5)
    best = linear_fit(masks, values[0], n)
    assert score(found, n, f) > score(best, n, f) - 0.01 > 0.35


@pytest.mark.parametrize("seed", range(4))
def test_never_less_faithful_than_linear_out_of_fold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, rows = int(rng.integers(4, 30)), int(rng.integers(8, 120))
    weights = rng.normal(size=n)
    pair = rng.normal() * 10.0 ** rng.uniform(-2, 1)
    noise = rng.normal(size=rows)

    def f(x: np.ndarray) -> np.ndarray:
        return x @ weights + pair * (x[:, 0] & x[:, 1])

    masks, values, _ = samples(f, n, rows, seed)
    (found,) = fit_default(masks, values + 0.3 * torch.from_numpy(noise), n, degree=5, seed=seed)
    assert found.r2 >= found.r2_linear
    assert found.left_out == rows


def test_nearly_additive_functions_keep_their_small_interactions() -> None:
    weights = np.random.default_rng(0).normal(size=15)

    def f(x: np.ndarray) -> np.ndarray:
        return x @ weights + 0.3 * (x[:, 0] & x[:, 1])

    masks, values, _ = samples(f, 15, 200)
    (found,) = fit_default(masks, values, 15, degree=5)
    assert found.r2 > found.r2_linear > 0.99
    assert 1 - score(found, 15, f) < 0.2 * (1 - found.r2_linear)
    coefs = dict(zip(bits.unpack_sets(found.support), found.coefs.tolist(), strict=True))
    assert 0.8 * 0.3 / 4 < coefs[0, 1] < 1.05 * 0.3 / 4  # shrunk a little, as small terms are


def test_the_linear_fit_of_many_samples() -> None:
    """One fold has as many as are to be scored, and R2 is of that fold."""
    recipe = dataclasses.replace(DEFAULT, folds=(4, 4), compared=100, scored=90, trees=20)
    weights = np.random.default_rng(0).normal(size=10)
    masks, values, _ = samples(linear(weights), 10, 402)
    noise = np.random.default_rng(1).normal(size=402)
    (found,) = fit_default(masks, values + torch.from_numpy(noise), 10, degree=5, recipe=recipe)
    assert found.left_out == 101
    assert found.r2 >= found.r2_linear


@pytest.mark.parametrize("terms", [1, 5, 40])
def test_terms_at_most(terms: int) -> None:
    masks, values, _ = samples(plant_products(12, 6, 3, seed=0), 12, 200)
    (found,) = fit_default(masks, values, 12, degree=5, terms=terms)
    assert len(found.support) <= terms + 1
    assert not found.support[0].any()
    assert terms < 12 or found.r2 >= found.r2_linear


@pytest.mark.parametrize("terms", [3, 5, 29])
def test_fewer_terms_than_features(terms: int) -> None:
    """A linear fit that is cut is scored so; the whole of it stays the measure beside it."""
    weights = 0.9 ** np.arange(30)
    masks, values, _ = samples(linear(weights), 30, 200)
    (found,) = fit_default(masks, values, 30, degree=5, terms=terms)
    assert found.note == "a linear fit: the samples left out speak for no more"
    assert bits.unpack_sets(found.support)[0] == ()
    assert {k[0] for k in bits.unpack_sets(found.support)[1:]} <= set(range(terms + 3))
    assert len(found.support) == terms + 1
    kept = 1 - 0.81**terms  # of the variance
    assert score(found, 30, linear(weights)) == pytest.approx(kept, abs=0.05)
    assert found.r2 == pytest.approx(kept, abs=0.15)
    assert found.r2_linear > 0.999
    assert found.predicted.linear == pytest.approx(values[0].numpy()[found.predicted.rows], abs=0.1)


def test_each_output_is_fitted_by_itself() -> None:
    masks, one, dense = samples(plant_products(65, 6, 3, seed=0), 65, 80)
    values = torch.stack([one[0], -one[0], one[0] ** 2 + 1e3, torch.from_numpy(dense[:, 64] * 1.0)])
    together = fit_default(masks, values, 65, degree=4, seed=3)
    for y, found in zip(values, together, strict=True):
        (alone,) = fit_default(masks, y[None], 65, degree=4, seed=3)
        assert same(found, alone)
    assert torch.equal(together[0].support, together[1].support)
    assert torch.equal(together[0].coefs, -together[1].coefs)


def test_any_number_of_threads_gives_the_same_bits(set_threads: Callable[[int], None]) -> None:
    """Also above 32,768 samples, where torch would sum in parts."""
    small = samples(plant_products(65, 8, 3, seed=0, snr=5), 65, 300)[:2]
    large = samples(plant_products(30, 8, 3, seed=0, snr=5), 30, 100_000)[:2]
    quick = dataclasses.replace(DEFAULT, trees=4, compared=200)
    fits = []
    for threads in (1, 2, 3):
        set_threads(threads)
        fits.append(
            [
                *fit_default(*small, 65, degree=5),
                *fit_default(*large, 30, degree=4, terms=60, recipe=quick),
            ]
        )
    for other in fits[1:]:
        assert all(map(same, fits[0], other))
    assert min(len(found.support) for found in fits[0]) > 20


def test_samples_in_order_are_fitted_as_well() -> None:
    f = plant_products(11, 6, 3, seed=0, snr=10)
    recipe = dataclasses.replace(DEFAULT, compared=100)
    masks, values, dense = samples(f, 11, 900)
    order = np.lexsort(dense.T)
    (found,) = fit_default(masks[order], values[:, order], 11, degree=5, recipe=recipe)
    (shuffled,) = fit_default(masks, values, 11, degree=5, recipe=recipe)
    clean = Planted(11, f.terms)
    assert score(found, 11, clean) > 0.97
    assert score(found, 11, clean) > score(shuffled, 11, clean) - 0.02


def test_a_fit_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and spectra are freed with the last reference to them."""
    seen: list[weakref.ref] = []

    def spied(problem: Problem, *rest: object) -> ProxyFit:
        seen.append(weakref.ref(problem))
        return fitted(problem, *rest)

    fitted = proxy.fit_problem
    monkeypatch.setattr(proxy, "fit_problem", spied)
    masks, values, _ = samples(plant_products(6, 3, 2, seed=0), 6, 30)
    fit_default(masks, values, 6, degree=2)
    gc.collect()
    assert len(seen) == 1
    assert seen[0]() is None


def test_a_linear_function_of_very_many_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is one of those in the support."""
    problem = problem_of(linear(np.ones(10)), 10, 60)
    every, _ = proxy.single_features(problem.support)
    assert [tuple(row) for row in every.sets] == [(i,) for i in range(10)]
    monkeypatch.setattr(proxy, "ALL_LINEAR", 9)
    some = problem.support[np.flatnonzero(problem.support.sets[:, 0] != 3)]
    few, share = proxy.single_features(some)
    assert bits.unpack_sets(few.packed()) == [(i,) for i in range(10) if i != 3]
    np.testing.assert_allclose(share, 1 / 9)


# Dust.


def test_terms_without_weight_are_dropped() -> None:
    support = torch.arange(6)[:, None]
    coefs = torch.tensor([0.0, 1.0, 9e-5, 1e-3, -4e-5, 0.0], dtype=torch.float64)
    kept, left = without_dust(support, coefs)
    assert kept[:, 0].tolist() == [0, 1, 3]
    assert left.tolist() == [0.0, 1.0, 1e-3]
    for unit in (1e-120, 1e120):
        assert torch.equal(without_dust(support, unit * coefs)[0], kept)
    only = torch.zeros(1, dtype=torch.float64)
    assert without_dust(support[:1], only)[0].tolist() == [[0]]
    none = torch.zeros(3, dtype=torch.float64)
    assert without_dust(support[:3], none)[0].tolist() == [[0]]


def test_terms_and_a_constant() -> None:
    terms = Terms(70, np.array([[3, 69], [5, 70]], np.int32))
    support, variance = proxy.with_constant(terms, np.array([0.25, 0.75]))
    assert bits.unpack_sets(support) == [(), (3, 69), (5,)]
    assert variance.tolist() == [1.0, 0.25, 0.75]
