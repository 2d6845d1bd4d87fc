"""Fitted ensembles of LightGBM, XGBoost and scikit-learn become trees and spectra.

The oracle is the library's own prediction. Leaves of XGBoost are float32, and so are its sums.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from spex_core import Trees, tree_fourier


def a_game(n: int, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool (samples, n) and values of a function with interactions, some noise on top."""
    rng = np.random.default_rng([n, samples, seed])
    masks = rng.integers(0, 2, (samples, n)).astype(bool)
    pairs = (masks[:, : n // 2] & masks[:, -(n // 2) :]) @ rng.normal(size=n // 2)
    return masks, 5 + masks @ rng.normal(size=n) + pairs + 0.1 * rng.normal(size=samples)


def check_model(model: Any, theirs: Any, n: int, rtol: float = 1e-12) -> Trees:
    """`theirs` maps masks as float64 to the library's raw prediction."""
    masks = np.random.default_rng(7).integers(0, 2, (300, n)).astype(bool)
    expected = theirs(masks.astype(np.float64))
    assert np.ptp(expected) > 1
    trees = Trees.of(model)
    spectrum = tree_fourier(model)
    assert trees.n == spectrum.n == n
    for found in (trees.predict(masks), spectrum.predict(masks)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())
    return trees


LIGHTGBM = {
    "plain": {},
    "deep": {"num_leaves": 200, "min_child_samples": 2, "n_estimators": 5},
    "stumps": {"num_leaves": 2, "n_estimators": 100},
    "dart": {"boosting_type": "dart"},
    "forest": {"boosting_type": "rf", "subsample": 0.6, "subsample_freq": 1, "num_leaves": 60},
    "zero is missing": {"zero_as_missing": True},
    "no missing": {"use_missing": False},
}


@pytest.mark.parametrize("options", LIGHTGBM.values(), ids=LIGHTGBM)
def test_lightgbm(options: dict) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    masks, f = a_game(20, 600)
    how = {"n_estimators": 40, "random_state": 0, "n_jobs": 1, "verbose": -1} | options
    model = lightgbm.LGBMRegressor(**how).fit(masks.astype(float), f)
    booster = model.booster_
    for form in (model, booster, booster.dump_model()):
        check_model(form, booster.predict, 20)


def test_lightgbm_that_stopped_early() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    masks, f = a_game(20, 600)
    data = [lightgbm.Dataset(x, y) for x, y in ((masks[:400], f[:400]), (masks[400:], f[400:]))]
    how = {"learning_rate": 0.5, "num_threads": 1, "verbose": -1}
    stop, keep = lightgbm.early_stopping(3, verbose=False), {"keep_training_booster": True}
    model = lightgbm.train(how, data[0], 2000, data[1:], callbacks=[stop], **keep)
    trees = check_model(model, model.predict, 20)
    assert len(trees) == model.best_iteration < model.current_iteration()


def test_lightgbm_classifier_is_its_raw_score() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    masks, f = a_game(12, 400)
    model = lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1)
    model.fit(masks.astype(float), f > np.median(f))
    check_model(model, lambda x: model.booster_.predict(x, raw_score=True), 12)
    model.fit(masks.astype(float), np.arange(400) % 3)
    with pytest.raises(ValueError, match="one output, got 3"):
        Trees.of(model)


def test_lightgbm_that_it_cannot_read() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    masks, f = a_game(12, 400)
    how = {"n_estimators": 5, "n_jobs": 1, "verbose": -1}
    linear = lightgbm.LGBMRegressor(linear_tree=True, **how).fit(masks.astype(float), f)
    with pytest.raises(ValueError, match="no linear leaves"):
        Trees.of(linear)
    named = lightgbm.train(
        {"verbose": -1, "num_threads": 1, "min_data_per_group": 1, "cat_smooth": 0},
        lightgbm.Dataset(masks.astype(float), f, categorical_feature=list(range(12))),
        5,
    )
    with pytest.raises(ValueError, match="no categorical splits"):
        Trees.of(named)


def a_dump(threshold: float, **split: Any) -> dict[str, Any]:
    """A LightGBM dump of one split on feature 1: 1.0 to the left, 2.0 to the right."""
    sides = {"left_child": {"leaf_value": 1.0}, "right_child": {"leaf_value": 2.0}}
    rule = {"decision_type": "<=", "missing_type": "None", "default_left": True}
    node = {"split_feature": 1, "threshold": threshold} | rule | split | sides
    about = {"num_tree_per_iteration": 1, "max_feature_idx": 2, "average_output": False}
    return about | {"tree_info": [{"tree_structure": node}]}


@pytest.mark.parametrize(
    ("dump", "at_zero", "at_one"),
    [
        (a_dump(-0.5), 2.0, 2.0),
        (a_dump(0.0), 1.0, 2.0),
        (a_dump(0.999), 1.0, 2.0),
        (a_dump(1.0), 1.0, 1.0),
        (a_dump(7.0), 1.0, 1.0),
        (a_dump(0.5, missing_type="NaN", default_left=False), 1.0, 2.0),
        (a_dump(0.5, missing_type="Zero", default_left=False), 2.0, 2.0),
        (a_dump(1.5, missing_type="Zero", default_left=False), 2.0, 1.0),
        (a_dump(-1.0, missing_type="Zero", default_left=True), 1.0, 2.0),
    ],
)
def test_thresholds(dump: dict, at_zero: float, at_one: float) -> None:
    """At most the threshold goes left; a split that sends 0 and 1 the same way is no split."""
    masks = np.array([[False, False, True], [False, True, True]])
    assert Trees.of(dump).predict(masks).tolist() == [at_zero, at_one]
    expected = {(): (at_zero + at_one) / 2, (1,): (at_zero - at_one) / 2}
    found = tree_fourier(dump).to_dict()
    assert found == {k: coef for k, coef in expected.items() if coef}


def test_more_features_than_the_model_has() -> None:
    assert tree_fourier(a_dump(0.5), 100).n == 100
    assert Trees.of(a_dump(0.5), 3).n == 3
    with pytest.raises(ValueError, match=r"Trees.of: n must be an integer >= 3, got 2"):
        Trees.of(a_dump(0.5), 2)


XGBOOST = {
    "plain": {},
    "exact": {"tree_method": "exact", "max_depth": 4},
    "deep": {"max_depth": 12, "min_child_weight": 0, "n_estimators": 5},
    "by loss": {"grow_policy": "lossguide", "max_leaves": 12},
    "forest": {"num_parallel_tree": 5, "subsample": 0.6, "n_estimators": 5},
    "dart": {"booster": "dart", "rate_drop": 0.5},
    "base score": {"base_score": 2.5},
    "pruned": {"gamma": 5.0},
    "absolute error": {"objective": "reg:absoluteerror"},
}


@pytest.mark.parametrize("options", XGBOOST.values(), ids=XGBOOST)
def test_xgboost(options: dict) -> None:
    xgboost = pytest.importorskip("xgboost")
    masks, f = a_game(20, 600)
    how = {"n_estimators": 30, "random_state": 0, "n_jobs": 1} | options
    model = xgboost.XGBRegressor(**how).fit(masks.astype(float), f)
    check_model(model, model.predict, 20, rtol=1e-5)
    booster = model.get_booster()
    check_model(booster, lambda x: booster.predict(xgboost.DMatrix(x)), 20, rtol=1e-5)


@pytest.mark.parametrize("missing", [0.0, 1.0])
def test_xgboost_where_a_bit_is_missing(missing: float) -> None:
    xgboost = pytest.importorskip("xgboost")
    masks, f = a_game(20, 600)
    x = masks + 0.5 * (np.arange(600)[:, None] % 2)  # half of the rows have no such value
    model = xgboost.XGBRegressor(n_estimators=30, n_jobs=1, missing=missing).fit(x, f)
    check_model(model, model.predict, 20, rtol=1e-5)


def test_xgboost_that_stopped_early() -> None:
    xgboost = pytest.importorskip("xgboost")
    masks, f = a_game(20, 600)
    x = masks.astype(float)
    how = {"n_estimators": 500, "learning_rate": 0.9, "n_jobs": 1, "early_stopping_rounds": 3}
    model = xgboost.XGBRegressor(**how)
    model.fit(x[:400], f[:400], eval_set=[(x[400:], f[400:])], verbose=False)
    trees = check_model(model, model.predict, 20, rtol=1e-5)
    assert len(trees) == model.best_iteration + 1
    assert len(Trees.of(model.get_booster())) > len(trees)  # whose own predict takes all, too


def test_xgboost_classifier_is_its_raw_score() -> None:
    xgboost = pytest.importorskip("xgboost")
    masks, f = a_game(12, 400)
    x = masks.astype(float)
    model = xgboost.XGBClassifier(n_estimators=20, n_jobs=1).fit(x, f > np.quantile(f, 0.7))
    check_model(model, lambda x: model.predict(x, output_margin=True), 12, rtol=1e-5)
    with pytest.raises(ValueError, match=r"one output, got 3|objective must be"):
        Trees.of(xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(x, np.arange(400) % 3))


def test_xgboost_that_it_cannot_read() -> None:
    xgboost = pytest.importorskip("xgboost")
    masks, f = a_game(12, 400)
    x = masks.astype(float)
    how = {"n_estimators": 3, "n_jobs": 1}
    with pytest.raises(ValueError, match="one output, got 2"):
        Trees.of(xgboost.XGBRegressor(**how).fit(x, np.stack([f, f], 1)))
    with pytest.raises(ValueError, match="objective must be in"):
        Trees.of(xgboost.XGBRegressor(objective="count:poisson", **how).fit(x, np.abs(f)))
    linear = xgboost.XGBRegressor(booster="gblinear", updater="coord_descent", **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        linear.fit(x, f)
    with pytest.raises(ValueError, match="made of trees, got gblinear"):
        Trees.of(linear)
    data = xgboost.DMatrix(x, f, feature_types=["c"] * 12, enable_categorical=True)
    named = xgboost.train({"nthread": 1}, data, 3)
    with pytest.raises(ValueError, match="no categorical splits"):
        Trees.of(named)


def sklearn_models() -> dict[str, tuple[str, str, dict]]:
    boost, many = {"n_estimators": 30, "random_state": 0}, {"n_estimators": 7, "random_state": 0}
    return {
        "tree": ("tree", "DecisionTreeRegressor", {"random_state": 0}),
        "extra tree": ("tree", "ExtraTreeRegressor", {"random_state": 0}),
        "forest": ("ensemble", "RandomForestRegressor", many),
        "extra trees": ("ensemble", "ExtraTreesRegressor", many),
        "boosting": ("ensemble", "GradientBoostingRegressor", boost),
        "boosting from zero": ("ensemble", "GradientBoostingRegressor", boost | {"init": "zero"}),
        "huber": ("ensemble", "GradientBoostingRegressor", boost | {"loss": "huber"}),
        "stops early": ("ensemble", "GradientBoostingRegressor", boost | {"n_iter_no_change": 2}),
        "histograms": ("ensemble", "HistGradientBoostingRegressor", {"max_iter": 30}),
    }


@pytest.mark.parametrize("name", sklearn_models())
def test_sklearn(name: str) -> None:
    pytest.importorskip("sklearn")
    module, kind, options = sklearn_models()[name]
    masks, f = a_game(20, 500)
    library = __import__(f"sklearn.{module}", fromlist=[kind])
    model = getattr(library, kind)(**options).fit(masks.astype(float), f)
    check_model(model, model.predict, 20)


def test_sklearn_that_it_cannot_read() -> None:
    pytest.importorskip("sklearn")
    from sklearn import ensemble, linear_model, tree

    masks, f = a_game(12, 300)
    x = masks.astype(float)
    with pytest.raises(ValueError, match="must be fitted"):
        Trees.of(tree.DecisionTreeRegressor())
    with pytest.raises(ValueError, match="one output, got 2"):
        Trees.of(tree.DecisionTreeRegressor(max_depth=2).fit(x, np.stack([f, f], 1)))
    for other in (linear_model.LinearRegression(), ensemble.BaggingRegressor(n_estimators=2)):
        with pytest.raises(TypeError, match=f"must be of LightGBM .* got {type(other).__name__}"):
            Trees.of(other.fit(x, f))
    start = linear_model.LinearRegression()
    boosted = ensemble.GradientBoostingRegressor(n_estimators=2, init=start).fit(x, f)
    with pytest.raises(ValueError, match="must start from a constant, got init=LinearRegression"):
        Trees.of(boosted)
    named = ensemble.HistGradientBoostingRegressor(max_iter=2, categorical_features=[0]).fit(x, f)
    with pytest.raises(ValueError, match="no categorical features"):
        Trees.of(named)


@pytest.mark.parametrize("model", [None, 3, {"trees": []}, "model.txt", np.zeros(3)])
def test_what_is_no_ensemble(model: object) -> None:
    with pytest.raises(TypeError, match=r"Trees.of: model must be of LightGBM"):
        tree_fourier(model)
