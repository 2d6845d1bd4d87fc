"""explain(): which algorithm runs, on which masks, and what is paid for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_proxyspex import never, same, simple

import spex_core
from spex_core import explain
from spex_core.explain import pilot_of


@pytest.fixture(autouse=True)
def one_core(set_threads: Callable[[int], None]) -> None:
    """Fits this small are the faster on one thread."""
    set_threads(1)


class Asked:
    """A function that counts, and refuses a mask that it was asked before."""

    def __init__(self, f: Callable[[np.ndarray], np.ndarray]) -> None:
        self.f, self.seen = f, set()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        names = {row.tobytes() for row in x}
        assert len(names) == len(x)
        assert not names & self.seen
        self.seen |= names
        return self.f(x)


def lonely(x: np.ndarray) -> np.ndarray:
    """Products of three features with nothing inside."""
    z = 1.0 - 2.0 * x
    sets = [(0, 1, 2), (3, 9, 20), (5, 11, 27), (7, 13, 22), (2, 15, 29)]
    return sum((i + 2) * z[:, k].prod(1) for i, k in enumerate(map(list, sets)))


@pytest.mark.parametrize("algorithm", ["proxyspex", "gpspex", "spex"])
def test_a_named_algorithm_is_that_one(algorithm: str) -> None:
    budget, degree = (700, 3) if algorithm == "spex" else (40, 3)
    got = explain(simple, 12, budget=budget, algorithm=algorithm, degree=degree, seed=2)
    want = getattr(spex_core, algorithm)(simple, 12, budget=budget, degree=degree, seed=2)
    assert same(got, want)
    assert got.report.algorithm == algorithm


def test_small_budgets_go_to_uniform_masks() -> None:
    f = Asked(simple)
    ex = explain(f, 12, budget=50, seed=4)
    assert (ex.report.algorithm, ex.report.used, len(f.seen)) == ("auto", 50, 50)
    assert "gpspex" in ex.report.plan
    gp = spex_core.gpspex(simple, 12, budget=50, seed=4)
    assert torch.equal(ex.process.masks, gp.process.masks)


def test_whole_tables_are_exact() -> None:
    values = np.random.default_rng(0).normal(size=256)
    ex = explain(lambda x: values[x @ (1 << np.arange(8))], 8, budget=256)
    masks = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(bool)
    np.testing.assert_allclose(ex.transform.predict(masks), values, atol=1e-13)


def test_what_is_left_for_spex() -> None:
    assert pilot_of(30, 1000, 5) is None
    assert pilot_of(30, 4000, 5) == 800
    assert pilot_of(30, 10**6, 5) == 2000
    assert pilot_of(12, 4096, 5) is None


def test_spex_where_terms_stand_alone() -> None:
    f = Asked(lonely)
    assert pilot_of(30, 2400, 3) == 480
    ex = explain(f, 30, budget=2400, degree=3, seed=1)
    assert ex.report.algorithm == "spex"
    assert ex.report.budget == 2400
    assert len(f.seen) == ex.report.used <= 2400
    assert "SPEX tried, R2 1.000 on 480 uniform masks" in ex.report.plan
    unseen = np.random.default_rng(0).random((500, 30)) < 0.5
    assert ex.transform.score(unseen, lonely(unseen)) > 0.9999


def test_uniform_masks_where_the_first_are_explained() -> None:
    f = Asked(straight)
    assert pilot_of(30, 900, 1) == 180
    ex = explain(f, 30, budget=900, degree=1, seed=1)
    assert (ex.report.algorithm, ex.report.used, len(f.seen)) == ("auto", 900, 900)
    assert ex.report.unique == 900
    masks = masks_of(900, 30, 1)
    direct = spex_core.fit(masks, straight(masks), algorithm="auto", degree=1, seed=1)
    assert torch.equal(ex.transform.coefs, direct.transform.coefs)


def straight(x: np.ndarray) -> np.ndarray:
    return x @ np.linspace(-1.0, 2.0, x.shape[1])


def masks_of(budget: int, n: int, seed: int) -> np.ndarray:
    """The uniform masks of a seed."""
    asked = []

    def record(x: np.ndarray) -> np.ndarray:
        asked.append(x.copy())
        return simple(x)

    spex_core.proxyspex(record, n, budget=budget, degree=1, seed=seed)
    return np.concatenate(asked)


@pytest.mark.parametrize(("noise", "least", "most"), [(9.0, 0.0, 0.8), (4.0, 0.8, 0.99)])
def test_spex_has_to_beat_the_stack_by_half_a_percent(
    noise: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEX explains a part; the stack is made to have an R2 near that of SPEX."""
    monkeypatch.setattr("spex_core.auto.affordable", lambda *_, **__: False)
    turn = np.random.default_rng(0).normal(size=30)
    stacked = spex_core.fit(masks_of(20, 30, 1), np.arange(20.0), algorithm="auto", degree=1)

    def took(r2: float) -> tuple[str, str]:
        report = dataclasses.replace(stacked.report, r2=r2)
        found = dataclasses.replace(stacked, report=report)
        monkeypatch.setitem(explain.__globals__, "explain_values", lambda *_, **__: found)
        ex = explain(
            lambda x: noise * np.sin(1e4 * (x @ turn)) + lonely(x), 30, budget=2400, degree=3
        )
        return ex.report.algorithm, ex.report.plan

    algorithm, plan = took(-1.0)
    score = float(plan.split("SPEX tried, R2 ")[1].split()[0])
    assert algorithm == "spex"
    assert least < score < most
    assert took(score - 0.01)[0] == "spex"
    assert took(score - 0.003)[0] == "auto"


def test_all_masks_are_used_where_spex_fails() -> None:
    """Noise that depends on the mask: nothing explains it, and every mask counts."""
    turn = np.random.default_rng(0).normal(size=30)
    f = Asked(lambda x: np.sin(1e4 * (x @ turn)) + x[:, 0])
    ex = explain(f, 30, budget=900, degree=1, seed=0)
    assert ex.report.algorithm == "auto"
    assert ex.report.unique == ex.report.used == len(f.seen) <= 900
    assert ex.report.unique > 860
    assert "SPEX tried, R2" in ex.report.plan
    assert 0.05 < ex.report.r2 < 0.5


def test_what_is_known_is_not_asked_again() -> None:
    known = masks_of(100, 30, 1)
    f = Asked(straight)
    f.seen = {row.tobytes() for row in known}
    ex = explain(f, 30, budget=900, degree=1, seed=1, known=(known, straight(known)))
    assert (ex.report.used, ex.report.unique) == (800, 900)


@pytest.mark.parametrize("truth", [lambda x: lonely(np.tile(x, 3)), straight])
def test_a_store_changes_nothing(tmp_path, monkeypatch, truth) -> None:
    """Whether SPEX is tried or not; a call that failed goes on, and one that is done asks for
    nothing. Without GPSPEX, which takes the longest."""
    monkeypatch.setattr("spex_core.auto.affordable", lambda *_, **__: False)
    options = {"budget": 660, "degree": 1, "seed": 1, "batch_size": 80}
    assert pilot_of(11, 660, 1) == 132
    want = explain(truth, 11, **options)
    f = Asked(truth)
    f.fingerprint = "f"

    def stops(x: np.ndarray) -> np.ndarray:
        assert len(f.seen) < 300
        return f(x)

    stops.fingerprint = "f"
    with pytest.raises(spex_core.EvaluationError, match="the same call goes on from there"):
        explain(stops, 11, **options, store=tmp_path)
    paid = len(f.seen)
    assert 300 <= paid < 660
    for expected in (want.report.used - paid, 0):
        ex = explain(f, 11, **options, store=tmp_path)
        assert torch.equal(ex.transform.support, want.transform.support)
        assert torch.equal(ex.transform.coefs, want.transform.coefs)
        assert (ex.report.algorithm, ex.report.r2) == (want.report.algorithm, want.report.r2)
        assert (ex.report.used, ex.report.plan) == (expected, want.report.plan)
    with pytest.raises(ValueError, match="budget"):
        explain(f, 11, **options | {"budget": 661}, store=tmp_path)


def test_several_outputs() -> None:
    ex = explain(lambda x: np.stack([lonely(x), straight(x)], 1), 30, budget=900, degree=1)
    assert [one.report.algorithm for one in ex] == ["auto", "auto"]
    assert [one.report.used for one in ex] == [900, 900]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"algorithm": "best"}, ValueError, "algorithm must be 'auto', .* or 'spex', got 'best'"),
        ({"f": 3}, TypeError, "explain: f must be callable, got int"),
        ({"budget": 7}, ValueError, "explain: budget must be an integer >= 8, got 7"),
        ({"degree": 9}, ValueError, "explain: degree must be an integer >= 1 and <= 8, got 9"),
        ({"n": None}, ValueError, "explain: n or features must be given, got neither"),
        ({"batch_size": 0}, ValueError, "explain: batch_size must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_before_the_model_runs(
    change: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        explain(**{"f": never, "n": 12, "budget": 40} | change)
