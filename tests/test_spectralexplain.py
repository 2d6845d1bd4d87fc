"""The interface of spectralexplain: used as its README uses it, and its contract."""

from __future__ import annotations

import builtins
import re

import numpy as np
import pytest

from spex_core.interop import spectralexplain as spex

WORDS = ["her", "acting", "never", "fails", "to", "impress"]


def review(masks: np.ndarray) -> list[float]:
    """Two words that only together make it good, one alone; rows of 0 and 1, as there."""
    assert set(np.unique(masks)) <= {0, 1}
    assert masks.dtype.kind == "i"
    return [2.0 * (x[2] == 1 and x[3] == 1) - x[3] + 0.5 * x[5] + 0.25 for x in masks]


def test_words_as_in_its_readme() -> None:
    explainer = spex.Explainer(value_function=review, features=WORDS, sample_budget=1000)
    found = explainer.interactions(index="stii")
    assert list(found.get_interactions())[:2] == [("never", "fails"), ("fails",)]
    assert found.interactions["never", "fails"] == pytest.approx(2.0)
    assert found.baseline_value == pytest.approx(0.25)
    assert found.is_baseline_value
    assert found.num_interactions == len(found.interactions)
    printed = str(found).splitlines()
    assert printed[:3] == [
        "Interactions(",
        "    index=STII, max_order=5, baseline_value=0.25",
        "    sample_budget=1000, num_features=6,",
    ]
    assert printed[4] == "\t\t('never', 'fails'): 2.0"
    assert printed[-1] == ")"


def test_a_model_of_columns_as_in_its_readme() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(80, 12))
    target = data[:, 0] + 2 * (data[:, 1] > 0) * (data[:, 2] > 0)
    point, rest = data[0], data[1:]
    model = ensemble.RandomForestRegressor(n_estimators=20, random_state=0).fit(rest, target[1:])
    explainer = spex.Explainer(
        value_function=lambda x: model.predict(np.where(x, point, rest.mean(axis=0))),
        features=range(len(point)),
        sample_budget=400,
        algorithm="proxyspex",
    )
    assert explainer.explanation.report.r2 > 0.9
    found = explainer.interactions(index="fbii")
    assert set(found.interactions) >= {(0,), ()}
    best = spex.utils.ExactSolver(
        fourier_dictionary=explainer.fourier_transform, maximize=True, exact_solution_order=5
    ).solve()
    assert len(best) == 12
    assert sum(best) == 5
    masks = (np.arange(2**12)[:, None] >> np.arange(12) & 1).astype(bool)
    masks = masks[masks.sum(1) == 5]
    values = explainer.explanation.transform.predict(masks)
    at_best = explainer.explanation.transform.predict(np.array([best], bool))[0]
    assert at_best == pytest.approx(values.max(), rel=1e-9)


@pytest.mark.parametrize("algorithm", ["spex", "SPEX", "proxyspex"])
def test_without_a_budget(algorithm: str) -> None:
    asked = []

    def f(masks: np.ndarray) -> np.ndarray:
        asked.append(len(masks))
        return masks[:, 0] - 2.0 * masks[:, 1] * masks[:, 9]

    explainer = spex.Explainer(f, 10, algorithm=algorithm, max_order=3)
    assert sum(asked) == explainer.explanation.report.used == 1024  # the whole table is less
    found = explainer.interactions("mobius").interactions
    assert {k: round(v, 9) for k, v in found.items() if abs(v) > 1e-9} == {(1, 9): -2.0, (0,): 1.0}
    assert spex.Explainer(f, 10, algorithm=algorithm).sample_budget is None


def test_the_fourier_transform_is_the_function() -> None:
    explainer = spex.Explainer(review, WORDS, 64)
    masks = (np.arange(64)[:, None] >> np.arange(6)) & 1
    assert all(len(key) == 6 and set(key) <= {0, 1} for key in explainer.fourier_transform)
    value = sum(
        coef * (-1.0) ** (masks @ np.array(key))
        for key, coef in explainer.fourier_transform.items()
    )
    np.testing.assert_allclose(value, review(masks), atol=1e-12)


FOURIER = {(0, 0, 0): 0.5, (1, 0, 0): 1.0, (0, 1, 1): -0.25}


@pytest.mark.parametrize("index", ["fourier", "mobius", "bii", "sii", "fbii", "fsii", "stii"])
def test_every_index(index: str) -> None:
    for name in (index, index.upper()):
        found = spex.Interactions(FOURIER, "abc", name, None)
        sizes = [abs(value) for value in found.interactions.values()]
        assert sizes == sorted(sizes, reverse=True)
        assert found.max_order == 2
    if index == "fourier":
        assert found.interactions == {("a",): 1.0, (): 0.5, ("b", "c"): -0.25}
    if index == "mobius":
        assert found.interactions["b", "c"] == -1.0


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({}, [0, 0, 1]),
        ({"maximize": False}, [1, 0, 0]),
        ({"exact_solution_order": 2}, [0, 1, 1]),
        ({"max_solution_order": 0}, [0, 0, 0]),
        ({"maximize": False, "exact_solution_order": 3}, [1, 1, 1]),
    ],
)
def test_solver(options: dict[str, object], best: list[int]) -> None:
    found = spex.ExactSolver(FOURIER, **options).solve()

    def value(mask: list[int]) -> float:
        return sum(
            c * (-1.0) ** sum(a * b for a, b in zip(k, mask, strict=True))
            for k, c in FOURIER.items()
        )

    assert value(found) == value(best)
    assert sum(found) == options.get("exact_solution_order", sum(found))
    assert sum(found) <= options.get("max_solution_order", 3)


def test_large_solver_needs_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    fourier = {tuple(int(i == j) for i in range(30)): 1.0 for j in range(30)}
    assert spex.ExactSolver(fourier).solve() == [0] * 30
    real = builtins.__import__

    def absent(name: str, *args: object, **options: object) -> object:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match="optimize"):
        spex.ExactSolver(fourier).solve()
    assert spex.ExactSolver(fourier).solve(method="search") == [0] * 30


def test_refusals() -> None:
    for call, message in (
        (lambda: spex.Explainer(review, WORDS, algorithm="shap"), "algorithm must be 'spex' or"),
        (lambda: spex.Explainer(review, 30, 100), "budget must be at least"),
        (lambda: spex.Explainer(review, WORDS, max_order=0), "max_order must be an integer >= 1"),
        (lambda: spex.Interactions(FOURIER, "abc", "sv", None), "index must be one of fourier,"),
        (lambda: spex.Interactions({}, "abc", "sii", None), "must have a term, got none"),
        (lambda: spex.ExactSolver({}), "must have a term, got none"),
        (lambda: spex.ExactSolver(FOURIER, exact_solution_order=4).solve(), "size must be an"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
