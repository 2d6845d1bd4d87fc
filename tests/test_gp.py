"""gp.py and gp_process.py: the posterior against dense algebra, the choices against their rules."""

import dataclasses

import numpy as np
import pytest
import torch
from test_anova import all_terms, characters
from test_gp_prior import matrix_of

from spex_core import masks as bits
from spex_core import ops
from spex_core.anova import Anova, Taste, linear
from spex_core.gp import fit_gp
from spex_core.gp_folds import GP_DEFAULT, GpRecipe, Problem, cautious, spread_out, trial
from spex_core.gp_prior import Listed, Mixture
from spex_core.gp_process import missed_share, posterior, spectrum
from spex_core.gp_scores import surprise
from spex_core.hedge import Hedge
from spex_core.left_out import LEVELS, folds
from spex_core.transform import r2

N = 8
# Whatever the samples left out say: none of a linear fit, half, and nothing else.
ALONE, HALVED, LINEAR = (
    GpRecipe(hedge=Hedge(level, slope, weight=0.0, beaten=-99.0))
    for level, slope in ((-99.0, 1.0), (0.0, 0.0), (99.0, 1.0))
)


@pytest.fixture(autouse=True)
def one_core(set_threads):
    """Fits this small are the faster on one thread."""
    set_threads(1)


def process(rows=30, level=0.05, trees=True, bias=0.0, mean=3.0, unit=2.0, seed=0):
    """A process of 8 features, what its values were, and its masks as bool."""
    rng = np.random.default_rng(seed)
    dense = rng.random((rows, N)) < 0.5
    y = torch.from_numpy(rng.normal(size=rows))
    terms = all_terms(N, 3)
    relevances = torch.from_numpy(rng.random(N))
    variances = torch.tensor([0.0, 0.5, 0.3, 0.2], dtype=torch.float64)
    parts = [Anova(relevances, variances, bias)]
    if trees:
        picked = terms[rng.choice(np.arange(1, len(terms.sets)), 12, replace=False)]
        parts.append(Listed(picked, rng.dirichlet(np.ones(12))))
    shares = (0.6, 0.4) if trees else (1.0,)
    mixture = Mixture(tuple(parts), shares)
    return posterior(N, bits.pack(dense), y, mixture, level, mean, unit), y.numpy(), dense


def dense_posterior(found, y, dense):
    """Mean and covariance of all coefficients given values of mean zero, as a linear model with a
    normal prior on all coefficients has them."""
    terms = all_terms(N, 3)
    prior = matrix_of(found.mixture, terms)
    x = characters(dense, terms)
    gain = np.linalg.solve(x @ prior @ x.T + found.level * np.eye(len(y)), x @ prior).T
    coefs = found.unit * gain @ y
    coefs[0] += found.mean
    return terms, coefs, found.unit**2 * found.scale * (prior - gain @ x @ prior)


@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize("trees", [False, True])
def test_coefficients_and_their_errors(trees, bias):
    found, y, dense = process(trees=trees, bias=bias)
    terms, coefs, covariance = dense_posterior(found, y - y.mean(), dense)
    got, prior = found.coefs(terms)
    got = got * found.unit
    got[0] += found.mean
    np.testing.assert_allclose(got, coefs, atol=1e-10)
    fitted = (characters(dense, terms) @ coefs - found.mean) / found.unit
    _, twice, _ = dense_posterior(found, fitted, dense)
    shrunk = twice - coefs
    assert np.abs(shrunk).max() > 0.01
    np.testing.assert_allclose(
        found.stderr(terms, prior),
        np.sqrt(covariance.diagonal().clip(0) + shrunk**2),
        atol=1e-9,
    )
    shifted = y - y.mean()
    gram = found.mixture.covariance(found.masks, found.masks).numpy() + 0.05 * np.eye(30)
    assert found.scale == pytest.approx(shifted @ np.linalg.solve(gram, shifted) / 30)


def test_what_the_noise_hides_widens_the_errors():
    found, *_ = process()
    terms = all_terms(N, 3)
    _, prior = found.coefs(terms)
    wider = dataclasses.replace(found, hidden=0.01).stderr(terms, prior)
    added = wider.square() - found.stderr(terms, prior).square()
    want = torch.full_like(added, 0.01 * found.scale * found.unit**2)
    torch.testing.assert_close(added, want)
    masks, y = sample(noise=0.5)
    (fit,) = fit_gp(masks, y[None], 12, degree=3, terms=None, trees=False, seed=0)
    share = fit.process.level / (1 + 12 + 66 + 220)
    assert fit.process.hidden == pytest.approx(share)
    least = fit.process.unit * (fit.process.scale * share) ** 0.5
    assert fit.stderr.min() >= least > 0


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_predictions_and_their_errors(bias):
    found, y, dense = process(bias=bias)
    terms, coefs, covariance = dense_posterior(found, y - y.mean(), dense)
    new = np.random.default_rng(1).random((20, N)) < 0.5
    x = characters(new, terms)
    mean, stderr = found.predict(new)
    np.testing.assert_allclose(mean, x @ coefs, atol=1e-9)
    noise = found.scale * found.unit**2 * found.level
    want = np.einsum("ts,su,tu->t", x, covariance, x) + noise
    np.testing.assert_allclose(stderr, np.sqrt(want), atol=1e-9)
    again, none = found.predict(bits.pack(new), stderr=False)
    np.testing.assert_array_equal(again, mean)
    assert none is None


def test_predictions_for_masks_of_more_features():
    found, *_ = process()
    wide = found.of_all(70, np.array([0, 3, 5, 40, 63, 64, 65, 69]), power=3)
    new = np.random.default_rng(1).random((20, 70)) < 0.5
    mean, stderr = wide.predict(new)
    own, own_stderr = found.predict(new[:, [0, 3, 5, 40, 63, 64, 65, 69]])
    np.testing.assert_allclose(mean, 8 * own, rtol=1e-12)
    np.testing.assert_allclose(stderr, 8 * own_stderr, rtol=1e-12)
    with pytest.raises(ValueError, match=r"predict: masks must be bool \(T, 70\)"):
        wide.predict(new[:, :8])


def test_effective_terms_are_a_trace():
    found, *_ = process(level=0.3)
    k = found.mixture.covariance(found.masks, found.masks).numpy()
    want = np.trace(k @ np.linalg.inv(k + 0.3 * np.eye(30)))
    assert found.effective() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("trees", "bias"), [(False, 0.0), (True, 0.0), (True, 1.0)])
def test_the_terms_kept_are_the_largest_and_the_rest_is_known(trees, bias):
    found, y, dense = process(trees=trees, bias=bias)
    terms, coefs, _ = dense_posterior(found, y - y.mean(), dense)
    order = np.argsort(-np.abs(coefs[1:]))
    energy = coefs[1:] ** 2
    for count in (1, 10, 40):
        kept, got, prior = spectrum(found, count, 1000)
        assert kept.orders[0] == 0
        assert (kept.orders[1:] > 0).all()
        assert len(got) == len(prior) == count + 1
        np.testing.assert_allclose(
            np.abs(got[1:].numpy()) * found.unit, np.abs(coefs[1:])[order[:count]], atol=1e-10
        )
        want = 1 - energy[order[:count]].sum() / energy.sum()
        assert want < missed_share(found, kept, got) < 1.3 * want
    every, got, _ = spectrum(found, 10_000, 1000)
    assert missed_share(found, every, got) < 2e-8
    assert len(every.sets) <= len(terms.sets)


def test_terms_next_to_nothing_are_left_out():
    dense = np.random.default_rng(0).random((40, N)) < 0.5
    y = torch.from_numpy(dense[:, 0] - 0.5 * dense[:, 1])
    relevances = torch.tensor([1.0, 1.0] + [1e-9] * 6, dtype=torch.float64)
    kernel = Anova(relevances, torch.tensor([0.0, 1.0], dtype=torch.float64))
    found = posterior(N, bits.pack(dense), y, Mixture((kernel,), (1.0,)), 1e-4)
    kept, *_ = spectrum(found, 100, 100)
    assert sorted(tuple(row) for row in kept.sets) == [(0,), (1,), (N,)]


def test_a_larger_level_wins_within_the_doubt():
    errors = torch.ones(100, len(LEVELS), dtype=torch.float64)
    errors[:, 5] = 0.9
    errors[::2, 9] = 1.3  # 0.9 +- 0.04 a sample of the best
    errors[1::2, 9] = 0.52
    assert cautious(errors, 0.0) == float(LEVELS[5])
    assert cautious(errors, 0.25) == float(LEVELS[5])
    assert cautious(errors, 0.5) == float(LEVELS[9])
    assert cautious(torch.ones(9, len(LEVELS)), 0.25) == float(LEVELS[-1])


def test_the_recipe():
    tastes = [Taste(2, 0.7), Taste(4, 0.5, 1.0), Taste(4, 0.5), Taste(4, 2.0)]
    assert GpRecipe().tastes(4) == tastes
    assert GpRecipe().tastes(2) == [dataclasses.replace(taste, orders=2) for taste in tastes]
    assert len({taste.name for taste in tastes}) == 4
    assert {taste.orders for taste in GpRecipe().tastes(1)} == {1}
    assert [GpRecipe().folds_of(rows) for rows in (8, 100, 200, 300, 5000)] == [8, 8, 6, 4, 4]
    rows = torch.arange(10, 30)
    assert torch.equal(spread_out(rows, 50), rows)
    assert spread_out(rows, 4).tolist() == [10, 15, 20, 25]
    assert len(spread_out(rows[:0], 4)) == 0


def sample(n=12, rows=90, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.random((rows, n)) < 0.5
    y = 2.0 * (dense[:, 0] & dense[:, 1]) + dense[:, 2] + noise * rng.normal(size=rows)
    return bits.pack(dense), torch.from_numpy(y)


def test_a_fold_is_not_seen():
    """What the samples of a fold say changes nothing that is fitted outside it."""
    masks, y = sample()
    y = (y - y.mean()) / y.std()
    fold = folds(90, 5, 0)
    problem = Problem(12, masks, y, fold, 4, None, GP_DEFAULT)
    one = trial(problem, 2)
    y = y.clone()
    y[torch.from_numpy(fold == 2)] = 100.0
    other = trial(dataclasses.replace(problem, values=y), 2)
    assert sorted(torch.cat([one.inside, one.outside]).tolist()) == list(range(90))
    for name in one.covariances:
        assert torch.equal(one.covariances[name], other.covariances[name])
    assert len(one.covariances) == 5


@pytest.mark.parametrize("trees", [False, True])
def test_a_fit_of_a_sum_with_a_product(trees):
    masks, y = sample()
    (found,) = fit_gp(masks, y[None], 12, degree=4, terms=None, trees=trees, seed=0)
    assert found.r2 > 0.93
    assert found.r2_process == pytest.approx(found.r2, abs=0.01)
    assert found.r2_linear < 0.85
    assert found.left_out == 90
    assert found.support.shape[0] == len(found.coefs) == len(found.stderr)
    assert found.coefs[0].item() == pytest.approx(1.0, abs=0.1)
    assert found.missed < 0.01
    assert 4 < found.effective < 90
    assert 0 < found.stderr.max() < 0.2


def test_where_a_linear_fit_does_better_it_is_the_result():
    rng = np.random.default_rng(3)
    dense = rng.random((60, 30)) < 0.5
    y = torch.from_numpy(dense @ rng.normal(size=30) + 0.3 * rng.normal(size=60))
    (found,) = fit_gp(bits.pack(dense), y[None], 30, degree=4, terms=None, trees=True, seed=0)
    assert found.r2 > found.r2_linear - 0.02
    (found,) = fit_gp(
        *(bits.pack(dense), torch.from_numpy(dense @ rng.normal(size=30))[None], 30),
        degree=2, terms=None, trees=False, seed=0,
    )  # fmt: skip
    assert found.r2 == found.r2_linear == found.r2_process > 0.99
    assert "linear: the samples" in found.note
    assert len(found.coefs) <= 31


def test_an_outlier_in_a_fold_that_nobody_scores():
    """The samples that score the fit are all alike."""
    dense = np.random.default_rng(0).random((1000, 12)) < 0.5
    y = np.zeros(1000)
    y[np.flatnonzero(folds(1000, 4, seed=0) == 3)[0]] = 1.0
    (found,) = fit_gp(
        *(bits.pack(dense), torch.from_numpy(y)[None], 12),
        degree=2, terms=None, trees=False, seed=0,
    )  # fmt: skip
    assert found.left_out == 750
    assert torch.isfinite(found.coefs).all()
    assert torch.isfinite(found.stderr).all()


def test_surprise_is_the_larger_of_two_means():
    ones = np.ones(4)
    assert surprise(4.0 * ones, 2.0 * ones) == 2.0
    assert surprise(np.array([0.0, 0, 0, 8]), np.array([1.0, 1, 1, 5])) == 1.0
    assert surprise(np.array([2.0, 0, 0, 0]), np.array([1.0, 1, 1, 5])) == 0.5


def test_a_fit_with_a_share_of_a_linear_one():
    rng = np.random.default_rng(5)
    dense = rng.random((50, 12)) < 0.5
    y = dense @ rng.normal(size=12) + 2.0 * (dense[:, 0] ^ dense[:, 1]) + rng.normal(size=50)
    arguments = {"degree": 3, "terms": None, "trees": False, "seed": 0}
    alone, mixed, line = (
        fit_gp(bits.pack(dense), torch.from_numpy(y)[None], 12, **arguments, recipe=recipe)[0]
        for recipe in (ALONE, HALVED, LINEAR)
    )
    assert "with 50% of a linear fit" in mixed.note
    assert "of a linear fit" not in alone.note
    fits = [dict(zip(map(tuple, x.support.tolist()), x.coefs.tolist(), strict=True))
            for x in (alone, mixed, line)]  # fmt: skip
    assert set(fits[1]) == set(fits[0]) | set(fits[2])
    for term, coef in fits[1].items():
        want = 0.5 * fits[0].get(term, 0.0) + 0.5 * fits[2].get(term, 0.0)
        assert coef == pytest.approx(want, abs=1e-9)
    predicted = mixed.predicted
    want = 0.5 * alone.predicted.fitted + 0.5 * predicted.linear
    np.testing.assert_allclose(predicted.fitted, want, atol=1e-12)
    left = y[predicted.rows]
    variance = ((left - left.mean()) ** 2).sum()
    assert mixed.r2 == pytest.approx(1 - ((left - want) ** 2).sum() / variance)
    first = {tuple(row): i for i, row in enumerate(alone.support.tolist())}
    for row, coef, stderr in zip(mixed.support.tolist(), mixed.coefs, mixed.stderr, strict=True):
        i = first[tuple(row)]
        wider = (alone.stderr[i] ** 2 + (alone.coefs[i] - coef) ** 2) ** 0.5
        assert float(stderr) == pytest.approx(float(wider), rel=1e-9)
    assert mixed.r2_process == pytest.approx(1 - ((left - mixed.whole) ** 2).sum() / variance)
    np.testing.assert_allclose(mixed.whole, 0.5 * alone.whole + 0.5 * predicted.linear, atol=1e-9)
    for terms in (5, 13):  # fewer than features, and fewer than the sum has
        (few,) = fit_gp(
            *(bits.pack(dense), torch.from_numpy(y)[None], 12),
            **(arguments | {"terms": terms}),
            recipe=HALVED,
        )
        assert ("of a linear fit" in few.note) == (terms == 13)
        assert len(few.coefs) == terms + 1
        assert few.r2 == pytest.approx(r2(left, few.predicted.fitted))
        assert few.r2_process == pytest.approx(
            mixed.r2_process if terms == 13 else alone.r2_process
        )
        assert few.missed > mixed.missed
    np.testing.assert_array_equal(few.whole, mixed.whole)
    assert np.abs(few.predicted.fitted - mixed.predicted.fitted).max() > 0.01


def test_the_process_of_a_fit_with_a_share_of_a_linear_one():
    """It predicts the sum, and how far that is from the mean of the posterior counts as off."""
    rng = np.random.default_rng(5)
    dense = rng.random((50, 12)) < 0.5
    y = dense @ rng.normal(size=12) + 2.0 * (dense[:, 0] ^ dense[:, 1]) + rng.normal(size=50)
    arguments = {"degree": 3, "terms": None, "trees": False, "seed": 0}
    alone, mixed = (
        fit_gp(bits.pack(dense), torch.from_numpy(y)[None], 12, **arguments, recipe=recipe)[0]
        for recipe in (ALONE, HALVED)
    )
    assert (mixed.process.share, alone.process.share) == (0.5, 1.0)
    new = rng.random((100, 12)) < 0.5
    want = ops.parity_predict(bits.pack(new), mixed.support, mixed.coefs).numpy()
    mean, stderr = mixed.process.predict(new)
    np.testing.assert_allclose(mean, want, atol=1e-3)  # dust
    own, own_stderr = alone.process.predict(new)
    assert np.abs(mean - own).max() > 0.1
    np.testing.assert_allclose(stderr, np.hypot(own_stderr, mean - own), rtol=1e-9)
    wide = mixed.process.of_all(70, np.arange(5, 65, 5), power=3)
    apart = np.zeros((100, 70), bool)
    apart[:, 5:65:5] = new
    for got, narrow in zip(wide.predict(apart), (mean, stderr), strict=True):
        np.testing.assert_allclose(got, 8 * narrow, rtol=1e-12)


def test_a_linear_fit_of_more_features_than_terms_is_scored_cut():
    rng = np.random.default_rng(3)
    dense = rng.random((60, 30)) < 0.5
    y = torch.from_numpy(dense @ rng.normal(size=30))
    arguments = {"degree": 2, "trees": False, "seed": 0}
    (few,) = fit_gp(bits.pack(dense), y[None], 30, terms=5, **arguments)
    assert len(few.coefs) == 6
    assert 0.3 < few.r2 < 0.8 < 0.99 < few.r2_linear == few.r2_process
    assert few.r2 == pytest.approx(r2(y.numpy()[few.predicted.rows], few.predicted.fitted))


def test_terms_for_all_features():
    """By default a linear fit and a share of one keep all features, of more than 1,024 too."""
    recipe = dataclasses.replace(HALVED, least_terms=8)
    assert [recipe.terms_of(100, n) for n in (12, 70, 10**6)] == [50, 70, 65_536]
    assert [GP_DEFAULT.terms_of(100, n) for n in (12, 1024, 1500)] == [1024, 1024, 1500]
    assert GP_DEFAULT.terms_of(5000, 1500) == 2500
    rng = np.random.default_rng(5)
    dense = rng.random((20, 25)) < 0.5
    y = dense @ rng.normal(size=25) + 2.0 * (dense[:, 0] ^ dense[:, 1]) + rng.normal(size=20)
    (found,) = fit_gp(
        *(bits.pack(dense), torch.from_numpy(y)[None], 25),
        degree=3, terms=None, trees=False, seed=0, recipe=recipe,
    )  # fmt: skip
    assert "with 50% of a linear fit" in found.note
    assert len(found.coefs) == 26


def test_hyperparameters_from_some_samples_and_folds():
    """A large problem, made small: few folds, samples at even distances, all in the posterior."""
    masks, y = sample(rows=200)
    recipe = GpRecipe(compared=60, compared_folds=2, fitted=80, kernels=((0, 1.0, 0.0),))
    (found,) = fit_gp(masks, y[None], 12, degree=3, terms=50, trees=False, seed=0, recipe=recipe)
    assert found.left_out == 2 * 34  # two of six folds
    assert len(found.process.dual) == 200
    assert len(found.coefs) <= 51
    assert found.r2 > 0.9


def test_all_relevances_going_to_zero():
    """Values without any structure, at many features and few samples: nothing is explained."""
    rng = np.random.default_rng(5)
    masks = bits.pack(rng.random((40, 130)) < 0.5)
    y = torch.from_numpy(rng.normal(size=40))
    (found,) = fit_gp(masks, y[None], 130, degree=4, terms=None, trees=True, seed=0)
    assert found.coefs.isfinite().all()
    assert found.r2 < 0.3
    kernel = Anova(torch.zeros(130, dtype=torch.float64), linear(130).variances)
    empty = posterior(130, masks, y, Mixture((kernel,), (1.0,)), 0.5)
    kept, coefs, _ = spectrum(empty, 10, 10)
    assert len(kept.sets) == len(coefs) == 1
    assert missed_share(empty, kept, coefs) == 0.0
    assert np.isfinite(empty.predict(masks)[1]).all()
