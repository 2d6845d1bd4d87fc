"""gpspex() and fit(algorithm="gpspex") from end to end: planted functions, error bars, bits,
outputs, the report, files, bad input, real value functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Planted, plant_products
from test_proxyspex import drawn, game, never, same, score, simple, table_of

import spex_core
from spex_core import EvaluationError, SparseTransform, fit, gp_memory, gpspex, plan

presets = pytest.mark.parametrize("preset", ["default", "pure"])


@pytest.fixture(autouse=True)
def one_core(set_threads: Callable[[int], None]) -> None:
    """Fits this small are the faster on one thread."""
    set_threads(1)


@pytest.mark.parametrize(("n", "budget", "snr"), [(10, 100, None), (10, 100, 10), (65, 200, 10)])
@presets
def test_recovers_planted_functions(n: int, budget: int, snr: float | None, preset: str) -> None:
    f = plant_products(n, 5, 3, seed=1, snr=snr)
    ex = gpspex(f, n, budget=budget, preset=preset, seed=1)
    large = {k for k, coef in f.terms.items() if k and abs(coef) > 0.1}
    assert len(large) > 4
    assert large <= set(ex.transform.top(3 * len(large)))
    assert score(ex, f) > 0.85
    assert ex.report.r2 > ex.report.r2_linear
    assert ex.report.r2 > 0.7
    assert ex.report.warnings == []


def test_error_bars_hold_what_they_promise() -> None:
    """Two standard errors hold most coefficients, of terms found and of small ones, and most
    values; and they are not wide for nothing."""
    inside, values, relative = [], [], []
    for seed in range(3):
        f = plant_products(12, 6, 3, seed=seed, snr=10)
        ex = gpspex(f, 12, budget=120, seed=seed)
        truth = Planted(12, f.terms)
        found = ex.transform.to_dict()
        error = np.array([coef - f.terms.get(k, 0.0) for k, coef in found.items()])
        stderr = ex.transform.stderr.numpy()
        assert stderr.min() > 0
        inside += (np.abs(error) < 1.96 * stderr).tolist()
        relative.append(np.abs(error).mean() / stderr.mean())
        new = np.random.default_rng(9).random((400, 12)) < 0.5
        mean, spread = ex.process.predict(new)
        values += (np.abs(mean - truth(new)) < 1.96 * spread).tolist()
        np.testing.assert_allclose(mean, ex.transform.predict(new), atol=0.1 * truth(new).std())
    assert np.mean(inside) > 0.88
    assert np.mean(values) > 0.88
    assert np.mean(relative) > 0.15


@pytest.mark.parametrize("n", [1, 2, 3, 10])
@presets
def test_whole_tables_are_exact(n: int, preset: str) -> None:
    values = np.random.default_rng(n).normal(size=2**n)
    ex = gpspex(lambda x: values[x @ (1 << np.arange(n))], n, budget=2**n, preset=preset)
    np.testing.assert_allclose(ex.transform.predict(table_of(n)), values, rtol=0, atol=1e-13)
    report = ex.report
    assert (report.r2, report.left_out, report.degree) == (1.0, 0, n)
    assert (report.r2_process, report.missed, ex.process) == (None, None, None)
    assert ex.transform.stderr is None


@pytest.mark.parametrize("value", [0.0, -0.1, 1e300])
def test_a_constant(value: float) -> None:
    ex = gpspex(lambda x: np.full(len(x), value), 70, budget=30)
    assert ex.transform.to_dict() == {(): value}
    assert (ex.report.r2, ex.report.r2_linear, ex.process) == (1.0, 1.0, None)
    assert ex.transform.stderr is None
    assert "R2          1.0000" in str(ex.report)


def test_batch_size_and_threads_change_no_bit(set_threads: Callable[[int], None]) -> None:
    f = plant_products(20, 5, 2, seed=0)
    results, calls = [], []
    for batch_size, threads in [(1024, 1), (7, 2), (10**6, 3)]:
        set_threads(threads)
        calls.clear()
        results.append(
            gpspex(f, 20, budget=40, batch_size=batch_size, progress=lambda *at: calls.append(at))
        )
        assert calls[-1] == (40, 40)
    for other in results[1:]:
        assert same(results[0], other)
        assert torch.equal(results[0].transform.stderr, other.transform.stderr)


def test_seeds_and_fit_of_what_was_asked_for() -> None:
    f = plant_products(20, 4, 2, seed=1)
    one, other = (gpspex(f, 20, budget=50, seed=seed) for seed in (3, 4))
    assert not torch.equal(one.transform.coefs, other.transform.coefs)
    masks = drawn(20, 50, seed=3)
    later = fit(masks, f(masks), algorithm="gpspex", seed=3)
    assert torch.equal(later.transform.coefs, one.transform.coefs)
    assert torch.equal(later.transform.support, one.transform.support)
    assert (later.report.used, later.report.algorithm) == (0, "gpspex")
    tree = fit(masks, f(masks), seed=3)
    assert (tree.report.algorithm, tree.report.r2_process) == ("proxyspex", None)


def test_outputs_are_fitted_one_by_one() -> None:
    masks = drawn(12, 40)
    y = plant_products(12, 4, 2, seed=0, snr=15)(masks)
    outputs = [y, y * 2.0**-1000, np.full(40, 0.3)]
    together = fit(masks, np.stack(outputs, 1), algorithm="gpspex", seed=2)
    for column, ex in zip(outputs, together, strict=True):
        assert same(ex, fit(masks, column, algorithm="gpspex", seed=2))
    scaled = together[0].transform.stderr * 2.0**-1000
    assert torch.equal(scaled, together[1].transform.stderr)
    mean, stderr = (part * 2.0**-1000 for part in together[0].process.predict(masks))
    for part, own in zip((mean, stderr), together[1].process.predict(masks), strict=True):
        np.testing.assert_array_equal(part, own)


def test_a_failed_run_goes_on_from_what_was_paid_for() -> None:
    calls = 0

    def flaky(x: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ConnectionError("served model went away")
        return simple(x)

    with pytest.raises(EvaluationError, match="after 20 of 40 evaluations") as caught:
        gpspex(flaky, 12, budget=40, batch_size=20)
    resumed = gpspex(simple, 12, budget=40, known=caught.value.known)
    assert (resumed.report.used, resumed.report.unique) == (20, 40)


# Strange and bad input.


@pytest.mark.parametrize("rows", [8, 9, 15])
@presets
def test_few_samples(rows: int, preset: str) -> None:
    ex = gpspex(simple, 30, budget=rows, preset=preset, seed=1)
    assert ex.report.left_out == rows
    assert ex.report.r2 > ex.report.r2_linear - 0.3
    assert ex.transform.stderr.isfinite().all()


@pytest.mark.parametrize(("n", "degree"), [(4, 8), (5, 4), (6, 8)])
def test_fewer_features_than_orders(n: int, degree: int) -> None:
    f = plant_products(n, 3, 2, seed=0)
    ex = gpspex(f, n, budget=2**n - 2, degree=degree)
    assert ex.transform.degree <= n
    assert ex.transform.coefs.isfinite().all()


def test_masks_that_come_twice_and_values_that_repeat() -> None:
    masks = drawn(20, 60)
    y = np.round(simple(masks) / 3)  # few different values
    order = np.concatenate([np.arange(60), [5] * 7, np.arange(0, 60, 3)])
    once = fit(masks, y, algorithm="gpspex")
    twice = fit(masks[order], y[order], algorithm="gpspex")
    assert torch.equal(once.transform.coefs, twice.transform.coefs)
    assert (twice.report.unique, twice.report.budget) == (60, 87)
    one = np.zeros(60)
    one[7] = 1.0
    assert fit(masks, one, algorithm="gpspex").transform.coefs.isfinite().all()


@pytest.mark.parametrize("unit", [5e-324 * 2.0**60, 1e-300, 1e300, -1e300])
def test_values_of_any_size(unit: float) -> None:
    masks = drawn(12, 60)
    y = simple(masks)
    ex = fit(masks, y * unit, algorithm="gpspex")
    assert ex.transform.coefs.isfinite().all()
    assert ex.transform.stderr.isfinite().all()
    expected = fit(masks, y, algorithm="gpspex").transform.predict(masks)
    np.testing.assert_allclose(ex.transform.predict(masks) / unit, expected, atol=1e-3)


@pytest.mark.parametrize("algorithm", ["gpspex", "auto"])
@pytest.mark.parametrize("value", [1e8, 1e300])
def test_one_value_beyond_all_others(value: float, algorithm: str) -> None:
    """Folds without it leave errors of next to nothing beside it."""
    masks = drawn(12, 60)
    y = simple(masks)
    y[7] = value
    ex = fit(masks, y, algorithm=algorithm)
    assert ex.transform.coefs.isfinite().all()
    assert ex.transform.stderr.isfinite().all()


@pytest.mark.parametrize("kind", ["torch", "list", "float32"])
def test_masks_and_values_of_any_kind(kind: str) -> None:
    masks = drawn(12, 40)
    y = simple(masks)
    given = {
        "torch": (torch.from_numpy(masks), torch.from_numpy(y)),
        "list": (masks.tolist(), y.tolist()),
        "float32": (masks, y.astype(np.float32)),
    }[kind]
    assert same(fit(*given, algorithm="gpspex"), fit(masks, y, algorithm="gpspex"))


def test_global_generators_are_left_alone() -> None:
    legacy, state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = gpspex(simple, 12, budget=40)
    np.testing.assert_array_equal(legacy, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(8)
    assert same(first, gpspex(simple, 12, budget=40))
    torch.set_rng_state(state)


def test_masks_that_are_not_uniform_are_fitted_and_mentioned() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((120, 20)) < 0.8
    ex = fit(masks, simple(masks), algorithm="gpspex")
    assert len(ex.report.warnings) == 1
    assert "the masks are not uniform" in ex.report.warnings[0]
    others = rng.random((500, 20)) < 0.8
    assert ex.transform.score(others, simple(others)) > 0.9


def test_no_term_has_a_feature_that_never_varies() -> None:
    masks = drawn(70, 80)
    masks[:, 7], masks[:, 69] = True, False
    ex = fit(masks, simple(masks), algorithm="gpspex")
    assert not any({7, 69} & set(k) for k in ex.transform.to_dict())
    assert ex.report.warnings[0] == "2 features never vary (7, 69): what they do cannot be seen"
    assert ex.transform.n == 70
    mean, _ = ex.process.predict(masks)
    np.testing.assert_allclose(mean, simple(masks), atol=0.5)


def test_degree_and_terms_are_bounds() -> None:
    f = plant_products(16, 8, 3, seed=0)
    for degree in (1, 2):
        ex = gpspex(f, 16, budget=60, degree=degree)
        assert ex.transform.degree <= degree
        assert ex.report.degree == degree
    few = gpspex(f, 16, budget=60, terms=9)
    assert len(few.transform) <= 10
    assert few.report.missed > ex.report.missed


@pytest.mark.parametrize("algorithm", ["proxyspex", "gpspex", "auto"])
@pytest.mark.parametrize("name", ["line", "products", "both"])
def test_r2_is_that_of_the_terms_asked_for(name: str, algorithm: str) -> None:
    """Of fewer terms than features, whether they are of a linear fit, of a process or of a sum.
    The fits that are scored have seen fewer samples than the result, and may do worse."""
    weights = 0.9 ** np.arange(30)
    products = plant_products(30, 8, 3, seed=0)
    f = {
        "line": lambda x: x @ weights,
        "products": products,
        "both": lambda x: products(x) + 0.3 * (x @ weights),
    }[name]
    masks = drawn(30, 100)
    unseen = np.random.default_rng(9).random((2000, 30)) < 0.5
    for terms in (5, 12):
        ex = fit(masks, f(masks), algorithm=algorithm, terms=terms, degree=3)
        assert len(ex.transform) <= terms + 1
        assert -0.2 < ex.report.r2 - ex.transform.score(unseen, f(unseen)) < 0.08


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"preset": "paper"}, ValueError, "preset must be 'default' or 'pure', got 'paper'"),
        ({"degree": 0}, ValueError, "degree must be an integer >= 1 and <= 8, got 0"),
        ({"degree": 9}, ValueError, "degree must be an integer >= 1 and <= 8, got 9"),
        ({"terms": 0}, ValueError, "terms must be an integer >= 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0 .*, got -1"),
        ({"features": ["a"]}, ValueError, "features must have n = 12 names, got 1"),
    ],
)
def test_bad_options(change: dict, error: type[Exception], message: str) -> None:
    masks = drawn(12, 40)
    with pytest.raises(error, match=f"fit: {message}"):
        fit(masks, simple(masks), algorithm="gpspex", **change)
    with pytest.raises(error, match=f"gpspex: {message}"):
        gpspex(never, 12, budget=40, **change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"f": 3}, TypeError, "gpspex: f must be callable, got int"),
        ({"n": 0}, ValueError, "gpspex: n must be an integer >= 1, got 0"),
        ({"budget": 7}, ValueError, "gpspex: budget must be an integer >= 8, got 7"),
        ({"batch_size": 0}, ValueError, "gpspex: batch_size must be an integer >= 1, got 0"),
        ({"n": 40, "budget": 5001}, ValueError, r"budget must be at most 5,000 .* proxyspex\(\)"),
    ],
)
def test_bad_arguments_before_the_model_runs(
    change: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gpspex(**{"f": never, "n": 12, "budget": 40} | change)


def test_samples_beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: 10**6)
    message = (
        r"must be fewer for this machine: 400 samples of 40 features need \d+ MB, 0 MB are free; "
        r"proxyspex\(\)"
    )
    with pytest.raises(ValueError, match="gpspex: budget " + message):
        gpspex(never, 40, budget=400)
    masks = drawn(40, 400)
    with pytest.raises(ValueError, match="fit: masks " + message):
        fit(masks, simple(masks), algorithm="gpspex")
    assert gpspex(simple, 9, budget=512).report.r2 == 1.0  # a whole table needs no matrix


def test_more_samples_than_allowed_are_refused_before_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gp_memory, "MAX_SAMPLES", 30)
    run = plan("gpspex", n=12, budget=24)
    run.evaluate(simple)
    message = "more: count must be at most 6 for a Gaussian process that has 24, .*, got 20"
    with pytest.raises(ValueError, match=message):
        run.more(20)
    assert run.missing == 0
    assert run.more(6, run.fit()) == 6
    run.evaluate(simple)
    assert run.fit().report.unique == 30
    whole = plan("gpspex", n=5, budget=24)  # 8 more are all there are
    assert whole.more(20) == 8
    monkeypatch.setattr(gp_memory, "MAX_SAMPLES", 5000)
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: 10**6)
    message = "more: count must be fewer for this machine: 31 samples of 12 features need"
    with pytest.raises(ValueError, match=message):
        run.more(1)


@pytest.mark.parametrize("stored", [False, True])
def test_memory_that_goes_while_the_model_runs_loses_no_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stored: bool
) -> None:
    free = [2**40]
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: free[0])

    def greedy(masks: np.ndarray) -> np.ndarray:
        free[0] = 10**6
        return simple(masks)

    greedy.fingerprint = "simple"
    options = {"budget": 40, "store": tmp_path / "run" if stored else None}
    message = (
        r"fit failed after 40 of 40 evaluations \(ValueError: gpspex: masks must be fewer .*; "
    )
    message += "all that is done is in" if stored else r"error\.known holds what is done"
    with pytest.raises(EvaluationError, match=message) as caught:
        gpspex(greedy, 12, **options)
    masks, values = caught.value.known
    np.testing.assert_array_equal(values, simple(masks))
    assert (masks.shape, caught.value.done) == ((40, 12), 40)
    assert isinstance(caught.value.__cause__, ValueError)
    free[0] = 2**40
    if not stored:
        options["known"] = caught.value.known

    def unasked(masks: np.ndarray) -> np.ndarray:
        return never(masks)

    unasked.fingerprint = "simple"
    assert gpspex(unasked, 12, **options).report.cached == 40


# The report, the result, and files.


def test_the_report_is_true() -> None:
    f = plant_products(20, 6, 3, seed=0, snr=10)
    ex = gpspex(f, 20, budget=100, degree=3, seed=7)
    report = ex.report
    assert (report.algorithm, report.preset, report.degree) == ("gpspex", "default", 3)
    assert report.budget == report.used == report.unique == report.left_out == 100
    assert report.terms == len(ex.transform)
    assert 1 < report.effective_terms < 100
    assert report.r2 == pytest.approx(0.7, abs=0.25)
    assert abs(report.r2_process - report.r2) < 0.02
    assert 0 <= report.missed < 0.05
    text = str(report)
    assert "gpspex, preset default, degree 3, seed 7; " in text
    assert (
        f"all terms {report.r2_process:.4f}, those left out hold up to {report.missed:.2%} of"
        in text
    )


def test_files_hold_the_errors_and_old_ones_are_read(tmp_path: Path) -> None:
    ex = gpspex(simple, 12, budget=50)
    ex.save(tmp_path / "new.npz")
    back = spex_core.load(tmp_path / "new.npz")
    assert torch.equal(back.transform.stderr, ex.transform.stderr)
    assert torch.equal(back.transform.coefs, ex.transform.coefs)
    assert back.report == ex.report
    assert back.process is None
    proxy = spex_core.proxyspex(simple, 12, budget=50)
    proxy.save(tmp_path / "old.npz")
    with np.load(tmp_path / "old.npz") as file:  # as versions without GPSPEX wrote and read it
        assert "stderr" not in file
        assert b"r2_process" not in file["about"].tobytes()
    back = spex_core.load(tmp_path / "old.npz")
    assert back.transform.stderr is None
    assert back.report == proxy.report


def test_errors_stay_with_their_terms() -> None:
    support = torch.tensor([[6], [0], [1], [2]])
    coefs = torch.tensor([0.5, 1.0, -2.0, 0.1], dtype=torch.float64)
    stderr = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    transform = SparseTransform(3, support, coefs, stderr)
    assert transform.stderr.tolist() == [3.0, 2.0, 1.0, 4.0]
    assert transform.truncate(2).stderr.tolist() == [3.0, 2.0, 4.0]
    assert SparseTransform(3, support, coefs).truncate(2).stderr is None
    for wrong, error, message in (
        (stderr.float(), TypeError, "stderr must be a float64 tensor, got torch.float32"),
        (stderr[:3], ValueError, r"stderr must have shape \(4,\), got \(3,\)"),
        (-stderr, ValueError, "stderr must not be negative"),
        (stderr * np.nan, ValueError, "stderr must be finite"),
    ):
        with pytest.raises(error, match=message):
            SparseTransform(3, support, coefs, wrong)


@pytest.mark.parametrize("name", ["resnet18_superpixels_n14_01", "realestate_tabpfn_n15_03"])
def test_real_functions(games: Path, name: str) -> None:
    masks, values, unseen, truth = game(games, name)
    ex = fit(masks[:100], values[:100], algorithm="gpspex")
    proxy = fit(masks[:100], values[:100])
    score = ex.transform.score(unseen, truth)
    assert score > proxy.transform.score(unseen, truth) - 0.02
    assert ex.report.r2 == pytest.approx(score, abs=0.15)
