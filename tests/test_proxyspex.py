"""proxyspex() and fit() from end to end: planted functions, bits, outputs, the report, bad input,
real value functions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Planted, plant, plant_products, worst

import spex_core
from spex_core import EvaluationError, Explanation, SparseTransform, fit, proxyspex
from spex_core import masks as bits
from spex_core.budget import plan_uniform

pytestmark = pytest.mark.usefixtures("one_core")
presets = pytest.mark.parametrize("preset", ["default", "paper"])


@pytest.fixture
def one_core(set_threads: Callable[[int], None]) -> Iterator[None]:
    """Fits this small are the faster on one thread."""
    set_threads(1)
    return


def table_of(n: int) -> np.ndarray:
    """All masks: bool (2**n, n)."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def drawn(n: int, rows: int, seed: int = 0) -> np.ndarray:
    """Distinct uniform masks: bool (rows, n)."""
    return bits.unpack(plan_uniform(n, rows, seed=seed).masks(0, rows), n)


def score(ex: Explanation, f: Planted) -> float:
    """R2 on masks that are new, without noise."""
    masks = np.random.default_rng(1).random((2000, f.n)) < 0.5
    return ex.transform.score(masks, Planted(f.n, f.terms)(masks))


def same(a: Explanation, b: Explanation) -> bool:
    """The same bits in all that a run decides."""
    reports = [dataclasses.asdict(ex.report) | {"seconds": None} for ex in (a, b)]
    return (
        torch.equal(a.transform.support, b.transform.support)
        and torch.equal(a.transform.coefs, b.transform.coefs)
        and reports[0] == reports[1]
    )


def simple(x: np.ndarray) -> np.ndarray:
    return 3.0 * x[:, 0] - 2.0 * (x[:, 1] & x[:, 2]) + x[:, 3]


# Planted functions.


@pytest.mark.parametrize(
    ("n", "products", "degree", "budget", "snr"),
    [
        (10, 6, 3, 200, None),
        (10, 6, 3, 200, 10),
        (64, 9, 3, 600, None),
        (65, 9, 3, 600, 10),
        (300, 8, 3, 800, None),
        (300, 8, 3, 800, 10),
        (1000, 6, 2, 700, None),
        (1000, 6, 2, 800, 10),
    ],
)
def test_recovers_planted_functions(
    n: int, products: int, degree: int, budget: int, snr: float | None
) -> None:
    f = plant_products(n, products, degree, seed=1, snr=snr)
    ex = proxyspex(f, n, budget=budget, seed=1)
    large = {k for k, coef in f.terms.items() if k and abs(coef) > 0.1}
    assert len(large) > 8
    most = len(large) if snr is None else 2 * len(large)
    assert large <= set(ex.transform.top(most))
    assert score(ex, f) > (0.999 if snr is None else 0.94)
    assert ex.report.r2_linear < 0.85
    if snr is None:
        assert ex.report.r2 > 0.995
        found = ex.transform.to_dict()
        assert max(abs(found[k] - f.terms[k]) for k in large) < 0.02
    else:  # the truth has R2 = 1 - 1 / 11 on noisy masks
        assert ex.report.r2 == pytest.approx(10 / 11, abs=0.07)
    assert ex.report.warnings == []


def test_the_published_recipe_recovers_what_is_large() -> None:
    f = plant_products(64, 9, 3, seed=0)
    ex = proxyspex(f, 64, budget=600, preset="paper")
    large = {k for k, coef in f.terms.items() if k and abs(coef) > 0.15}
    assert large <= set(ex.transform.to_dict())
    assert len(ex.transform) < 40
    assert ex.report.r2 == pytest.approx(score(ex, f), abs=0.03)
    assert ex.report.r2 > 0.9 > ex.report.r2_linear


def test_what_the_report_promises_holds_on_new_masks() -> None:
    for seed in range(3):
        f = plant_products(20, 8, 3, seed=seed)
        ex = proxyspex(f, 20, budget=80, seed=seed)
        assert ex.report.r2 == pytest.approx(score(ex, f), abs=0.12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10])
@presets
def test_whole_tables_are_exact(n: int, preset: str) -> None:
    values = np.random.default_rng(n).normal(size=2**n)
    masks = table_of(n)
    ex = proxyspex(lambda x: values[x @ (1 << np.arange(n))], n, budget=2**n + 5, preset=preset)
    np.testing.assert_allclose(ex.transform.predict(masks), values, rtol=0, atol=1e-13)
    report = ex.report
    assert (report.r2, report.left_out, report.degree) == (1.0, 0, n)
    assert (report.budget, report.used, report.unique) == (2**n + 5, 2**n, 2**n)
    assert report.effective_terms == report.terms == 2**n
    linear = np.column_stack([np.ones(2**n), masks])
    rest = values - linear @ np.linalg.lstsq(linear, values)[0]
    assert report.r2_linear == pytest.approx(1 - rest.var() / values.var())
    assert report.warnings == []
    assert len(ex.interactions("Moebius", order=n)) == 2**n
    order = np.random.default_rng(0).permutation(2**n)
    again = fit(masks[order], values[order], preset=preset)
    assert torch.equal(again.transform.coefs, ex.transform.coefs)
    assert (again.report.r2, again.report.used) == (1.0, 0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_sparse_whole_table_gets_no_terms_from_rounding(dtype: type) -> None:
    f = plant(10, 9, 5, seed=0)
    ex = proxyspex(lambda x: f(x).astype(dtype), 10, budget=1024)
    assert worst(f.terms, ex.transform.to_dict()) < 1e-6
    assert ex.report.effective_terms == 10


def test_a_budget_just_below_the_table() -> None:
    f = plant_products(10, 6, 3, seed=0)
    ex = proxyspex(f, 10, budget=1023)
    assert ex.report.unique == 1023
    assert ex.report.left_out > 0
    assert score(ex, f) > 0.9999


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1e-310, 1e300])
@presets
def test_a_constant(value: float, preset: str) -> None:
    for ex in (
        proxyspex(lambda x: np.full(len(x), value), 70, budget=30, preset=preset),
        proxyspex(lambda x: np.full(len(x), value), 3, budget=8, preset=preset),
        fit(np.tile(drawn(9, 20), (3, 1)), np.full(60, value), preset=preset),
    ):
        assert ex.transform.to_dict() == {(): value}
        report = ex.report
        assert (report.r2, report.r2_linear, report.effective_terms) == (1.0, 1.0, 1.0)
        assert report.energy_by_order == {}
        assert report.hierarchy == {"direct subset": 1.0, "staircase": 1.0}
        assert report.warnings == []
        assert report.left_out == (report.unique if report.unique != 8 else 0)


# The same bits.


@presets
def test_batch_size_and_threads_change_no_bit(
    preset: str, set_threads: Callable[[int], None]
) -> None:
    f = plant_products(40, 6, 3, seed=0)
    results, calls = [], []
    for batch_size, threads in [(1024, 1), (7, 2), (10**6, 3)]:
        set_threads(threads)
        calls.clear()
        results.append(
            proxyspex(
                f, 40, budget=250, preset=preset, batch_size=batch_size,
                progress=lambda *at: calls.append(at),
            )
        )  # fmt: skip
        assert calls[-1] == (250, 250)
        assert len(calls) == -(-250 // batch_size)
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    assert len(results[0].transform) > 5


def test_seeds() -> None:
    asked: list[set[bytes]] = []
    runs = []
    for seed in (3, 3, 4, 2**64 - 1):
        f, rows = plant_products(30, 6, 2, seed=1), []
        recorded = lambda x, f=f, rows=rows: rows.extend(map(bytes, x)) or f(x)  # noqa: E731
        runs.append(proxyspex(recorded, 30, budget=100, seed=seed))
        asked.append(set(rows))
    assert asked[0] == asked[1]
    assert same(runs[0], runs[1])
    assert all(len(rows) == 100 for rows in asked)
    assert not asked[0] & asked[2]
    assert not asked[0] & asked[3]
    masks = drawn(30, 100)
    y = f(masks)
    one, again, other = (fit(masks, y, seed=seed) for seed in (5, 5, 6))  # of the folds
    assert same(one, again)
    assert one.transform.to_dict() != other.transform.to_dict()


@presets
def test_global_generators_are_left_alone(preset: str) -> None:
    legacy, state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    proxyspex(simple, 20, budget=60, preset=preset)
    np.testing.assert_array_equal(legacy, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(state, torch.get_rng_state())
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    first = proxyspex(simple, 20, budget=60, preset=preset)
    np.random.seed(8)  # noqa: NPY002
    torch.manual_seed(8)
    assert same(first, proxyspex(simple, 20, budget=60, preset=preset))
    torch.set_rng_state(state)


@pytest.mark.parametrize("kind", ["numpy", "torch", "list", "float32", "strided"])
def test_masks_and_values_of_any_kind(kind: str) -> None:
    masks = drawn(12, 60)
    y = np.rint(4 * simple(masks))
    given = {
        "numpy": lambda: (masks, y),
        "torch": lambda: (torch.from_numpy(masks), torch.from_numpy(y).requires_grad_()),
        "list": lambda: (masks.tolist(), y.astype(int).tolist()),
        "float32": lambda: (masks, torch.from_numpy(y).float()),
        "strided": lambda: (np.asfortranarray(masks), np.repeat(y, 2)[::2]),
    }
    before = masks.copy(), y.copy()
    assert same(fit(masks, y), fit(*given[kind]()))
    np.testing.assert_array_equal(masks, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_fit_of_what_proxyspex_asked_for_is_the_same() -> None:
    f = plant_products(30, 6, 2, seed=1)
    ex = proxyspex(f, 30, budget=100, seed=9)
    again = fit(drawn(30, 100, seed=9), f(drawn(30, 100, seed=9)), seed=9)
    assert torch.equal(ex.transform.support, again.transform.support)
    assert torch.equal(ex.transform.coefs, again.transform.coefs)
    assert (ex.report.used, again.report.used) == (100, 0)
    assert ex.report.unique == again.report.unique == again.report.budget == 100


# Many outputs.


@presets
def test_outputs_are_fitted_one_by_one(preset: str) -> None:
    """Of very different sizes, one of them constant: each as if it were alone, bit for bit."""
    masks = drawn(65, 120)
    y = plant_products(65, 6, 3, seed=0, snr=15)(masks)
    outputs = [y, y * 2.0**-1000, np.full(120, 0.3), -(y**2) * 1e300, 1e12 + 1e-3 * y]
    together = fit(masks, np.stack(outputs, 1), preset=preset, seed=2)
    assert isinstance(together, list)
    assert len(together) == 5
    for column, ex in zip(outputs, together, strict=True):
        assert same(ex, fit(masks, column, preset=preset, seed=2))
    assert together[2].transform.to_dict() == {(): 0.3}
    assert torch.equal(together[0].transform.support, together[1].transform.support)
    scaled = together[0].transform.coefs * 2.0**-1000
    assert torch.equal(scaled, together[1].transform.coefs)
    (only,) = fit(masks, y[:, None], preset=preset, seed=2)
    assert same(only, together[0])


def test_a_function_of_many_outputs() -> None:
    def f(x: np.ndarray) -> np.ndarray:
        return np.stack([simple(x), x[:, 5] * 1.0, np.ones(len(x))], axis=1)

    many = proxyspex(f, 8, budget=100)
    for j, ex in enumerate(many):
        assert same(ex, proxyspex(lambda x, j=j: f(x)[:, j], 8, budget=100))
    whole = proxyspex(f, 8, budget=256)
    assert [len(ex.transform) for ex in whole] == [6, 2, 1]


def test_a_failed_run_goes_on_from_what_was_paid_for() -> None:
    calls = 0

    def f(x: np.ndarray) -> np.ndarray:
        return np.stack([simple(x), x[:, 5] * 1.0], axis=1)

    def flaky(x: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ConnectionError("served model went away")
        return f(x)

    with pytest.raises(EvaluationError, match="after 40 of 100 evaluations") as caught:
        proxyspex(flaky, 12, budget=100, batch_size=20)
    assert caught.value.values.shape == (40, 2)
    resumed = proxyspex(f, 12, budget=100, known=caught.value.known)
    for a, b in zip(resumed, proxyspex(f, 12, budget=100), strict=True):
        assert torch.equal(a.transform.coefs, b.transform.coefs)
        assert (a.report.used, a.report.unique) == (60, 100)


# Bad and strange input.


@pytest.mark.parametrize("unit", [5e-324 * 2.0**60, 1e-300, 1e-6, 1e8, 1e300, -1e300])
@presets
def test_values_of_any_size(unit: float, preset: str) -> None:
    masks = drawn(12, 100)
    y = simple(masks) - 1.0
    one, other = fit(masks, y, preset=preset), fit(masks, y * unit, preset=preset)
    assert torch.equal(one.transform.support, other.transform.support)
    np.testing.assert_allclose(other.transform.coefs / unit, one.transform.coefs, atol=1e-6)
    assert other.report.r2 == pytest.approx(one.report.r2, abs=1e-6)
    assert other.report.energy_by_order == pytest.approx(one.report.energy_by_order, abs=1e-6)
    assert other.report.hierarchy == one.report.hierarchy
    assert len(repr(other).splitlines()) == len(repr(one).splitlines())


@pytest.mark.parametrize(("offset", "spread"), [(1e12, 1e-3), (-1e6, 1e-6), (1e300, 1e290)])
def test_a_small_spread_about_a_large_offset(offset: float, spread: float) -> None:
    masks = drawn(12, 150)
    y = offset + spread * simple(masks)
    ex = fit(masks, y)
    assert ex.report.r2 > 0.999
    assert ex.transform.mean == pytest.approx(offset, rel=1e-6)
    found = ex.transform.to_dict()
    assert found[0,] == pytest.approx(-1.5 * spread, rel=0.1)
    assert found[1, 2] == pytest.approx(-0.5 * spread, rel=0.1)


@presets
def test_masks_that_come_twice_count_once(preset: str) -> None:
    masks = drawn(20, 90)
    y = plant_products(20, 5, 2, seed=0)(masks)
    order = np.concatenate([np.arange(90), [5] * 7, np.arange(0, 90, 3)])
    once, twice = fit(masks, y, preset=preset), fit(masks[order], y[order], preset=preset)
    assert torch.equal(once.transform.coefs, twice.transform.coefs)
    assert torch.equal(once.transform.support, twice.transform.support)
    assert (twice.report.unique, twice.report.budget) == (90, 127)
    assert twice.report.warnings == once.report.warnings == []


@pytest.mark.parametrize("algorithm", ["proxyspex", "gpspex"])
def test_masks_that_come_twice_with_other_values_are_averaged(algorithm: str) -> None:
    masks = drawn(20, 90)
    y = plant_products(20, 5, 2, seed=0)(masks)
    up = np.concatenate([masks, masks[10:14]])
    ex = fit(up, np.concatenate([y, y[10:14] + 0.5]), algorithm=algorithm)
    mean = y.copy()
    mean[10:14] += 0.25
    expected = fit(masks, mean, algorithm=algorithm)
    np.testing.assert_allclose(ex.transform.coefs, expected.transform.coefs, atol=1e-9)
    (text,) = ex.report.warnings
    assert text == "4 masks come more than once with different values: their means are fitted"
    assert f"warning     {text}" in str(ex.report)


@pytest.mark.parametrize("n", [12, 65])
@presets
def test_no_term_has_a_feature_that_never_varies(n: int, preset: str) -> None:
    masks = drawn(n, 120)
    masks[:, 7], masks[:, n - 1] = True, False
    masks = np.unique(masks, axis=0)

    def f(x: np.ndarray) -> np.ndarray:
        return simple(x) + 5.0 * x[:, 7] + 2.0 * (x[:, 3] & x[:, 7])

    for y in (f(masks), f(masks) + np.random.default_rng(0).normal(size=len(masks))):
        ex = fit(masks, y, preset=preset)
        terms = ex.transform.to_dict()
        assert not any({7, n - 1} & set(k) for k in terms)
        assert any(0 in k for k in terms)
        assert ex.transform.n == ex.report.n == n
        assert ex.report.warnings[0] == (
            f"2 features never vary (7, {n - 1}): what they do cannot be seen"
        )
    assert fit(masks, f(masks)).transform.score(masks, f(masks)) > 0.999


def test_a_whole_table_of_some_features_is_exact() -> None:
    masks = np.zeros((16, 70), np.bool_)
    masks[:, [3, 40, 63, 64]] = table_of(4)
    values = np.random.default_rng(0).normal(size=16)
    ex = fit(masks, values)
    np.testing.assert_allclose(ex.transform.predict(masks), values, atol=1e-13)
    assert {i for k in ex.transform.to_dict() for i in k} == {3, 40, 63, 64}
    assert "66 features never vary" in ex.report.warnings[0]


def test_masks_that_are_not_uniform_are_fitted_and_mentioned() -> None:
    rng = np.random.default_rng(0)
    f = plant_products(20, 6, 2, seed=0)
    masks = rng.random((300, 20)) < 0.8
    ex = fit(masks, f(masks))
    assert len(ex.report.warnings) == 1
    assert "the masks are not uniform" in ex.report.warnings[0]
    others = rng.random((1000, 20)) < 0.8
    assert ex.transform.score(others, f(others)) == pytest.approx(ex.report.r2, abs=0.02)
    assert ex.report.r2 > 0.99
    pairs = np.concatenate([drawn(20, 150), ~drawn(20, 150)])
    assert fit(pairs, f(pairs)).report.warnings == []


@pytest.mark.parametrize("rows", [8, 9, 15])
@presets
def test_few_samples(rows: int, preset: str) -> None:
    for seed in range(3):
        ex = proxyspex(simple, 30, budget=rows, preset=preset, seed=seed)
        assert ex.report.left_out == rows
        assert np.isfinite(ex.report.r2)
        assert preset == "paper" or ex.report.r2 >= ex.report.r2_linear
        behind = ex.report.r2_linear > ex.report.r2
        assert [text.startswith("a linear fit on the same") for text in ex.report.warnings] == (
            [True] if behind else []
        )


@pytest.mark.parametrize(("n", "least"), [(1, 2), (2, 4), (3, 8), (12, 8), (65, 8)])
def test_the_fewest_samples(n: int, least: int) -> None:
    f = Planted(n, {(): 1.0, (0,): 2.0})
    message = f"proxyspex: budget must be an integer >= {least}, got {least - 1}"
    with pytest.raises(ValueError, match=message):
        proxyspex(f, n, budget=least - 1)
    assert proxyspex(f, n, budget=least).report.used == least
    masks = np.unique(np.random.default_rng(0).random((200, n)) < 0.5, axis=0)[: least - 1]
    message = f"fit: masks must be at least {least} different ones, got {least - 1}"
    for times in (1, 5):
        with pytest.raises(ValueError, match=message):
            fit(np.tile(masks, (times, 1)), np.zeros(times * (least - 1)))


MASKS = drawn(12, 40)
Y = simple(MASKS)


@pytest.mark.parametrize(
    ("masks", "values", "error", "message"),
    [
        (MASKS.astype(int), Y, TypeError, "fit: masks must be bool, got int64"),
        (MASKS * 1.0, Y, TypeError, "fit: masks must be bool, got float64"),
        (torch.from_numpy(MASKS).float(), Y, TypeError, "masks must be bool, got float32"),
        (None, Y, TypeError, "fit: masks must be bool, got object"),
        (MASKS[0], Y[:1], ValueError, r"masks must have shape \(T, n\), got \(12,\)"),
        (MASKS[None], Y, ValueError, r"masks must have shape \(T, n\), got \(1, 40, 12\)"),
        (MASKS[:, :0], Y, ValueError, r"fit: masks must have a feature, got shape \(40, 0\)"),
        (np.zeros((0, 12), bool), [], ValueError, "masks must be at least 8 different ones, got 0"),
        (MASKS, Y[:-1], ValueError, r"values must have shape \(40,\), one per mask, or \(40, "),
        (MASKS, np.ones((40, 0)), ValueError, r"values must have .*, got \(40, 0\)"),
        (MASKS, np.ones((40, 2, 2)), ValueError, r"values must have .*, got \(40, 2, 2\)"),
        (MASKS, np.ones((2, 40)), ValueError, r"values must have .*, got \(2, 40\)"),
        (MASKS, 3.0, ValueError, r"values must have .*, got \(\)"),
        (MASKS, None, ValueError, r"values must have .*, got \(\)"),
        (MASKS, np.where(Y > 1, np.nan, Y), ValueError, "fit: values must be finite"),
        (MASKS, np.where(Y > 1, -np.inf, Y), ValueError, "fit: values must be finite"),
        (MASKS, np.stack([Y, Y + np.inf], 1), ValueError, "fit: values must be finite"),
        (MASKS, [None] * 40, ValueError, "fit: values must be finite"),
        (MASKS, Y * 1j, TypeError, "fit: values must be real numbers, got complex128"),
        (MASKS, torch.ones(40) * 1j, TypeError, "values must be real numbers, got complex64"),
        (MASKS, ["1.0"] * 40, TypeError, "fit: values must be real numbers, got <U3"),
        (MASKS, [{}] * 40, TypeError, "fit: values must be real numbers, "),
        (MASKS, [[1.0], [1.0, 2.0]], TypeError, "fit: values must be real numbers, "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("algorithm", ["proxyspex", "gpspex"])
def test_bad_samples(
    algorithm: str, masks: object, values: object, error: type[Exception], message: str
) -> None:
    with np.errstate(all="ignore"), pytest.raises(error, match=message):
        fit(masks, values, algorithm=algorithm)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"preset": "fast"}, ValueError, "preset must be 'default' or 'paper', got 'fast'"),
        ({"preset": None}, ValueError, "preset must be 'default' or 'paper', got None"),
        ({"degree": 0}, ValueError, "degree must be an integer >= 1 and <= 16, got 0"),
        ({"degree": 17}, ValueError, "degree must be an integer >= 1 and <= 16, got 17"),
        ({"degree": 2.0}, TypeError, r"degree must be an integer .*, got 2\.0"),
        ({"terms": 0}, ValueError, "terms must be an integer >= 1, got 0"),
        ({"terms": 1.5}, TypeError, r"terms must be an integer >= 1, got 1\.5"),
        ({"terms": 9, "preset": "paper"}, ValueError, "terms must be None with preset='paper'"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0 .*, got -1"),
        ({"seed": 2**64}, ValueError, "seed must be an integer .*, got 18446744073709551616"),
        ({"seed": True}, TypeError, "seed must be an integer .*, got True"),
        ({"features": ["a"]}, ValueError, "features must have n = 12 names, got 1"),
        ({"features": "word"}, TypeError, "features must be a list of names, got 'word'"),
    ],
)
def test_bad_options(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"fit: {message}"):
        fit(MASKS, Y, **change)
    with pytest.raises(error, match=f"proxyspex: {message}"):
        proxyspex(never, 12, budget=40, **change)


def never(masks: np.ndarray) -> np.ndarray:
    raise AssertionError("the model ran")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"f": 3}, TypeError, "proxyspex: f must be callable, got int"),
        ({"n": None}, ValueError, "proxyspex: n or features must be given, got neither"),
        ({"n": 0}, ValueError, "proxyspex: n must be an integer >= 1, got 0"),
        ({"n": 12.0}, TypeError, r"proxyspex: n must be an integer >= 1, got 12\.0"),
        ({"n": 2**19 + 1}, ValueError, "n must be an integer >= 1 and <= 524288, got 524289"),
        ({"budget": 0}, ValueError, "proxyspex: budget must be an integer >= 8, got 0"),
        ({"budget": 1e3}, TypeError, r"budget must be an integer >= 8, got 1000\.0"),
        ({"budget": None}, TypeError, "budget must be an integer >= 8, got None"),
        ({"batch_size": 0}, ValueError, "proxyspex: batch_size must be an integer >= 1, got 0"),
        ({"known": (np.zeros((1, 9), bool), [0.0])}, ValueError, "masks must have n = 12 columns"),
        ({"known": (np.zeros((1, 12)), [0.0])}, TypeError, "known: masks must be bool"),
    ],
)
def test_bad_arguments_before_the_model_runs(
    change: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        proxyspex(**{"f": never, "n": 12, "budget": 40} | change)


@pytest.mark.parametrize("algorithm", ["spex", "", None, 3])
def test_bad_algorithms(algorithm: object) -> None:
    with pytest.raises(ValueError, match=r"fit: algorithm must be 'proxyspex', .*, got"):
        fit(MASKS, Y, algorithm=algorithm)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: np.full(len(x), np.nan), "finite numbers, got nan"),
        (lambda x: np.full((len(x), 2), [0, np.inf]), r"finite numbers, got \[ 0\. inf\]"),
        (lambda x: np.zeros(len(x) + 1), r"shape \(40,\) or \(40, outputs\), got shape \(41,\)"),
        (lambda x: np.zeros((len(x), 0)), r"got shape \(40, 0\)"),
        (lambda x: "good", r"got shape \(\)"),
    ],
    ids=["nan", "inf", "long", "none", "text"],
)
@pytest.mark.parametrize("algorithm", ["proxyspex", "gpspex"])
def test_bad_values(algorithm: str, answer: Callable, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        getattr(spex_core, algorithm)(answer, 12, budget=40)


# The report and the result.


@presets
def test_the_report_is_true(preset: str) -> None:
    f = plant_products(30, 8, 3, seed=0, snr=10)
    ex = proxyspex(f, 30, budget=200, preset=preset, degree=4, seed=7)
    report = ex.report
    assert (report.algorithm, report.preset, report.decoder) == ("proxyspex", preset, "")
    assert (report.device, report.seed, report.n, report.degree) == ("cpu", 7, 30, 4)
    assert report.backend in ("cpu", "reference")
    assert report.budget == report.used == report.unique == report.left_out == 200
    assert report.terms == len(ex.transform)
    assert 1 < report.effective_terms < 200
    assert ex.transform.degree <= 4
    assert report.energy_by_order == ex.transform.energy_by_order()
    assert report.hierarchy == spex_core.hierarchy_rates(ex.transform)
    assert set(report.seconds) == {"plan", "evaluate", "fit"}
    assert report.r2 == pytest.approx(0.8, abs=0.15)
    text = str(report)
    for part in (
        f"proxyspex, preset {preset}, degree 4, seed 7",
        "200 asked, 200 used, 200 unique masks",
        "plan        200 masks; ",
        f"R2          {report.r2:.4f} on 200 masks left out; linear fit on the same samples 0.",
        "hierarchy   direct subset ",
        "seconds     plan 0.",
    ):
        assert part in text


def test_terms_and_degree_are_bounds() -> None:
    f = plant_products(20, 8, 3, seed=0)
    for degree in (1, 2, 3):
        ex = proxyspex(f, 20, budget=150, degree=degree)
        assert ex.transform.degree <= degree
    few = proxyspex(f, 20, budget=150, terms=30)
    assert 20 < len(few.transform) <= 31


def test_names_and_interactions() -> None:
    words = [f"word{i}" for i in range(12)]
    ex = fit(drawn(12, 200), simple(drawn(12, 200)), features=words)
    assert ex.features == tuple(words)
    found = ex.interactions("Moebius", order=2)
    assert found[0,] == pytest.approx(3.0, abs=0.05)
    assert found[1, 2] == pytest.approx(-2.0, abs=0.1)
    assert "+3" in repr(ex)
    assert "word1 × word2" in repr(ex)
    assert fit(MASKS, Y).features == tuple(f"x{i}" for i in range(12))
    assert isinstance(ex.transform, SparseTransform)


# Real value functions.


def game(folder: Path, name: str) -> tuple[np.ndarray, ...]:
    """Masks and values to fit and to score: (masks, values, masks, values)."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{name} is not in {folder}")
    with np.load(path) as z:
        n = int(z["n"])
        if json.loads(str(z["meta"]))["kind"] == "full":
            masks, y = table_of(n), z["values"].astype(float)
            order = np.random.default_rng(0).permutation(2**n)
            return masks[order], y[order], masks, y
        parts = []
        for part in ("train", "test"):
            packed = z[f"{part}_masks"]
            parts.append(np.unpackbits(packed, axis=1, count=n, bitorder="little").astype(bool))
            parts.append(z[f"{part}_values"].astype(float))
        return tuple(parts)


@pytest.mark.parametrize("rows", [100, 300])
@pytest.mark.parametrize(
    "name", ["digits_lgbm_n64_img3", "resnet18_superpixels_n14_01", "adult_featsel_rf_n14_01"]
)
def test_real_functions(games: Path, name: str, rows: int) -> None:
    masks, values, unseen, truth = game(games, name)
    n = masks.shape[1]
    ex = fit(masks[:rows], values[:rows])
    score = ex.transform.score(unseen, truth)
    paper = fit(masks[:rows], values[:rows], preset="paper").transform.score(unseen, truth)
    x = np.column_stack([np.ones(rows), masks[:rows]])
    penalty = 0.1 * np.eye(n + 1)
    coefs = np.linalg.solve(x.T @ x + penalty, x.T @ values[:rows])
    rest = truth - np.column_stack([np.ones(len(unseen)), unseen]) @ coefs
    linear = 1 - rest @ rest / ((truth - truth.mean()) ** 2).sum()
    assert score >= linear - 0.02
    assert score >= paper - 0.005
    assert ex.report.r2 == pytest.approx(score, abs=0.15)
    assert ex.report.warnings == []
