"""spex() from end to end: planted functions, seeds, the report, bad input, real value functions."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Planted, plant, worst

import spex_core
from spex_core import BackendUnavailable, EvaluationError, Explanation, spex
from spex_core import masks as bits
from spex_core.budget import plan_spex

pytestmark = pytest.mark.op("peel")


class Counting:
    """A value function that keeps the masks it is asked for."""

    def __init__(self, f: Callable):
        self.f = f
        self.masks: list[np.ndarray] = []

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        self.masks.append(masks.copy())
        return self.f(masks)

    @property
    def asked(self) -> list[bytes]:
        return [row.tobytes() for batch in self.masks for row in batch]


class Progress:
    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


def hashed(masks: np.ndarray) -> np.ndarray:
    """A function without structure: a pseudo-random number for each mask, always the same."""
    rng = np.random.default_rng(0)
    mixed = (masks @ rng.integers(0, 2**40, masks.shape[1])) % 1_000_003
    return np.sin(mixed.astype(float) ** 2)


def same_terms(a: Explanation, b: Explanation) -> bool:
    return torch.equal(a.transform.support, b.transform.support) and torch.equal(
        a.transform.coefs, b.transform.coefs
    )


# Planted functions.


@pytest.mark.parametrize("decoder", ["soft", "hard"])
def test_recovers_a_small_function_on_every_backend(
    backend: str, device: torch.device, decoder: str
) -> None:
    if device.type != "cpu":
        pytest.skip("tests/test_gpu.py runs on a device")
    f = plant(12, 5, 2, seed=0)
    ex = spex(f, 12, budget=600, degree=2, decoder=decoder, backend=backend)
    assert worst(f.terms, ex.transform.to_dict()) < 1e-6
    assert ex.report.backend == backend
    assert ex.report.decoder == decoder


@pytest.mark.parametrize(
    ("n", "terms", "degree", "budget"),
    [
        (10, 8, 3, 700),
        (20, 15, 5, 3000),
        (63, 30, 5, 9000),
        (64, 30, 5, 7500),
        (65, 4, 1, 400),
        (100, 40, 3, 6000),
        (1000, 20, 5, 8000),
    ],
)
def test_recovers_planted_functions(n: int, terms: int, degree: int, budget: int) -> None:
    for seed in range(3):
        f = plant(n, terms, degree, seed=seed)
        ex = spex(f, n, budget=budget, degree=degree, seed=seed)
        assert worst(f.terms, ex.transform.to_dict()) < 1e-6
        assert ex.report.r2 == pytest.approx(1.0, abs=1e-12)
        assert not ex.report.warnings


def test_recovers_conjunctions() -> None:
    """Products of features: spectra full of coefficients of equal size."""

    def f(masks: np.ndarray) -> np.ndarray:
        return 3.0 * masks[:, [1, 4, 9]].all(1) - 2.0 * masks[:, [4, 30]].all(1) + masks[:, 12]

    ex = spex(f, 40, budget=3000)
    found = {k: v for k, v in ex.interactions("Moebius", order=5).items() if abs(v) > 1e-9}
    assert worst({(1, 4, 9): 3.0, (4, 30): -2.0, (12,): 1.0}, found) < 1e-9


def test_noise_is_fitted_no_better_than_it_can_be() -> None:
    """At 10 dB the true function has R2 = 1 - 1 / 11 on noisy masks; the support is exact."""
    f = plant(64, 30, 5, seed=0, snr=10)
    ex = spex(f, 64, budget=9000)
    assert set(ex.transform.to_dict()) == set(f.terms)
    assert ex.report.r2 == pytest.approx(10 / 11, abs=0.02)
    clean = Planted(64, f.terms)
    masks = np.random.default_rng(1).integers(0, 2, (5000, 64)).astype(bool)
    assert ex.transform.score(masks, clean(masks)) > 0.999


def test_every_row_is_used_by_the_refit() -> None:
    """With the true support, coefficients err as least squares over all fitted rows does."""
    errors = []
    for seed in range(8):
        f = plant(64, 20, 3, seed=seed, snr=0)
        found = spex(f, 64, budget=9000, degree=3, seed=seed).transform.to_dict()
        assert set(found) == set(f.terms)
        errors += [(found[k] - coef) ** 2 for k, coef in f.terms.items()]
    assert np.mean(errors) == pytest.approx(f.sigma**2 / (9000 - 450), rel=0.3)  # 450 held out


def test_a_model_in_float32() -> None:
    f = plant(30, 10, 3, seed=0)
    ex = spex(lambda x: torch.from_numpy(f(x)).float(), 30, budget=2000, degree=3)
    assert worst(f.terms, ex.transform.to_dict()) < 1e-6


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_whole_tables_are_exact(n: int) -> None:
    table = np.random.default_rng(n).normal(size=2**n)
    ex = spex(lambda x: table[x @ (1 << np.arange(n))], n, budget=2**n, degree=1)
    masks = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    np.testing.assert_allclose(ex.transform.predict(masks), table, rtol=0, atol=1e-13)
    assert (ex.report.degree, ex.report.left_out, ex.report.used) == (n, 0, 2**n)
    assert ex.report.r2 == pytest.approx(1.0)
    linear = np.column_stack([np.ones(2**n), masks])
    rest = table - linear @ np.linalg.lstsq(linear, table)[0]
    assert ex.report.r2_linear == pytest.approx(1 - rest.var() / table.var())
    assert not ex.report.warnings
    assert len(ex.interactions("Moebius", order=n)) == 2**n


def test_a_whole_table_in_float32_is_exact_to_its_precision() -> None:
    """A dense one keeps its many small coefficients, a sparse one gets none from rounding."""
    table = np.exp(np.random.default_rng(0).normal(size=2**14)).astype(np.float32)
    masks = (np.arange(2**14)[:, None] >> np.arange(14) & 1).astype(bool)
    ex = spex(lambda x: table[x @ (1 << np.arange(14))], 14, budget=2**14)
    error = ex.transform.predict(masks) - table
    assert np.sqrt(np.mean(error**2)) < 2.0**-22 * np.sqrt(np.mean(table**2))
    f = plant(14, 30, 5, seed=0)
    ex = spex(lambda x: f(x).astype(np.float32), 14, budget=2**14)
    assert worst(f.terms, ex.transform.to_dict()) < 1e-6


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1e-30, 12345.6789])
@pytest.mark.parametrize(("n", "budget"), [(1, 2), (8, 256), (30, 800), (200, 3000)])
def test_a_constant_has_one_term_and_no_warnings(value: float, n: int, budget: int) -> None:
    ex = spex(lambda x: np.full(len(x), value), n, budget=budget)
    assert list(ex.transform.to_dict()) == [()]
    assert ex.transform.mean == pytest.approx(value, rel=1e-12)
    assert (ex.report.r2, ex.report.r2_linear, ex.report.terms) == (1.0, 1.0, 1)
    assert ex.report.energy_by_order == {}
    assert ex.report.warnings == []
    assert set(ex.interactions("SII", order=1).values()) <= {value, ex.transform.mean}
    assert "1 terms" in repr(ex)


def test_a_function_without_structure_is_not_explained() -> None:
    ex = spex(hashed, 40, budget=2000, degree=3)
    assert len(ex.transform) < 20
    assert ex.report.r2 < 0.1


# Seeds, batches, known values.


def test_seeds() -> None:
    runs = []
    for seed in (3, 3, 4):
        f = Counting(plant(30, 12, 3, seed=1, snr=5))
        runs.append((spex(f, 30, budget=2000, degree=3, seed=seed), f.asked))
    (one, asked), (same, asked_again), (other, asked_other) = runs
    assert same_terms(one, same)
    assert asked == asked_again
    assert not same_terms(one, other)
    assert len(set(asked) & set(asked_other)) < 100
    reports = [dataclasses.asdict(ex.report) | {"seconds": None} for ex in (one, same)]
    assert reports[0] == reports[1]


def test_global_generators_are_left_alone() -> None:
    legacy, state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    f = plant(30, 12, 3, seed=1, snr=5)
    first = spex(f, 30, budget=2000, degree=3)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    again = spex(plant(30, 12, 3, seed=1, snr=5), 30, budget=2000, degree=3)
    assert same_terms(first, again)
    torch.set_rng_state(state)


def test_batch_size_and_threads_change_no_bit(set_threads: Callable[[int], None]) -> None:
    results = []
    for batch_size, threads in [(1024, 1), (7, 2), (10**6, 5)]:
        set_threads(threads)
        f, progress = Counting(hashed_plus_linear), Progress()
        results.append(spex(f, 50, budget=2500, degree=2, batch_size=batch_size, progress=progress))
        assert max(map(len, f.masks)) <= batch_size
        assert progress.calls[-1] == (2500, 2500)
        assert len(progress.calls) == len(f.masks)
    assert same_terms(results[0], results[1])
    assert same_terms(results[0], results[2])
    assert len(results[0].transform) > 5


def hashed_plus_linear(masks: np.ndarray) -> np.ndarray:
    return hashed(masks) + masks[:, :20].sum(1) - 3 * masks[:, 3] * masks[:, 7]


def test_a_failed_run_goes_on_from_what_was_paid_for() -> None:
    truth = plant(30, 12, 3, seed=1)
    calls = 0

    def flaky(masks: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ConnectionError("served model went away")
        return truth(masks)

    with pytest.raises(EvaluationError, match="after 1000 of 2000 evaluations") as caught:
        spex(flaky, 30, budget=2000, degree=3, batch_size=500)
    assert isinstance(caught.value.__cause__, ConnectionError)
    f = Counting(truth)
    ex = spex(f, 30, budget=2000, degree=3, known=caught.value.known)
    assert same_terms(ex, spex(truth, 30, budget=2000, degree=3))
    assert (ex.report.used, ex.report.unique, ex.report.budget) == (1000, 2000, 2000)
    paid = {row.tobytes() for row in caught.value.masks}
    assert len(f.asked) == 1000
    assert not paid & set(f.asked)


# The report.


def test_the_report_is_true() -> None:
    n, budget, seed = 40, 3000, 9
    f = plant(n, 50, 4, seed=2, snr=3)
    values: dict[bytes, float] = {}

    def remembered(masks: np.ndarray) -> np.ndarray:
        answer = f(masks)
        values.update(zip((row.tobytes() for row in masks), answer, strict=True))
        return answer

    ex = spex(remembered, n, budget=budget, degree=4, seed=seed)
    report = ex.report
    assert (report.algorithm, report.decoder, report.device) == ("spex", "soft", "cpu")
    assert report.backend in ("cpu", "reference")
    assert (report.seed, report.n, report.degree) == (seed, n, 4)
    assert report.budget == report.used == report.unique == len(values) == budget
    assert report.left_out == 150
    assert report.terms == len(ex.transform)
    assert report.warnings == []
    assert set(report.seconds) == {"plan", "evaluate", "alias", "peel", "refine", "score"}
    assert all(took >= 0 for took in report.seconds.values())

    plan = plan_spex(n, budget, degree=4, seed=seed)
    masks = bits.unpack(plan.masks(0, plan.total), n)
    truth = np.array([values[row.tobytes()] for row in masks])
    held, fitted = slice(plan.total - 150, None), slice(plan.total - 150)
    linear = np.column_stack([np.ones(plan.total), masks])
    fit = linear @ np.linalg.lstsq(linear[fitted], truth[fitted])[0]
    for r2, guess in [(report.r2, ex.transform.predict(masks)), (report.r2_linear, fit)]:
        error = np.sum((truth[held] - guess[held]) ** 2)
        spread = np.sum((truth[held] - truth[held].mean()) ** 2)
        assert r2 == pytest.approx(1 - error / spread, abs=1e-9)
    assert report.r2 > 0.4 > report.r2_linear

    energy: dict[int, float] = {}
    for k, coef in ex.transform.to_dict().items():
        energy[len(k)] = energy.get(len(k), 0.0) + (coef**2 if k else 0.0)
    energy.pop(0)
    assert sum(report.energy_by_order.values()) == pytest.approx(1.0)
    assert report.energy_by_order == pytest.approx(
        {order: share / sum(energy.values()) for order, share in energy.items()}
    )


def test_the_report_as_text() -> None:
    f = plant(40, 20, 3, seed=2)
    text = str(spex(f, 40, budget=3000, degree=3, seed=9).report)
    for part in (
        "spex, soft decoding, degree 3, seed 9",
        "3,000 asked, 3,000 used, 3,000 unique masks",
        "3 groups x ",
        "R2          1.0000 on 150 masks left out; linear fit on the same samples 0.",
        "terms       21, effectively 21.0; variance by order 1: ",
        "seconds     plan 0.",
    ):
        assert part in text
    assert "warning" not in text
    assert "on every mask there is" in str(spex(f_of_three, 3, budget=8).report)


def f_of_three(masks: np.ndarray) -> np.ndarray:
    return masks @ np.array([1.0, -2.0, 4.0])


def test_a_linear_fit_that_wins_is_a_warning_with_a_way_out() -> None:
    """Many small single effects among many larger pairs: no term stands out in 8 bins."""
    rng = np.random.default_rng(0)
    single, pair = rng.normal(size=60), rng.normal(size=(60, 60)) * 0.12

    def f(masks: np.ndarray) -> np.ndarray:
        z = 1.0 - 2.0 * masks
        return z @ single * 0.4 + np.einsum("ti,ij,tj->t", z, pair, z)

    warned = 0
    for seed in range(6):
        report = spex(f, 60, budget=909, seed=seed).report
        assert bool(report.warnings) == (report.r2_linear > report.r2)
        for text in report.warnings:
            warned += 1
            assert f"R2 {report.r2_linear:.3f} against {report.r2:.3f}" in text
            asked, bins = re.search(r"ask for ([\d,]+) evaluations, (\d+) bins", text).groups()
            larger = plan_spex(60, int(asked.replace(",", "")))
            assert larger.shape[2] == int(bins) > plan_spex(60, 909).shape[2]
            assert f"warning     {text}" in str(report)
    assert warned >= 2


# Explanations by name.


def test_repr_shows_the_ten_largest_by_name() -> None:
    words = [f"word{i}" for i in range(30)]
    terms = {(i,): 2.0 + 0.25 * i for i in range(13)} | {(3, 20): 50.0, (): 1.0}
    ex = spex(Planted(30, terms), features=words, budget=2000, degree=2)
    lines = repr(ex).splitlines()
    assert lines[0] == "Explanation of 30 features from 2,000 masks: 15 terms, R2 1.0000"
    assert len(lines) == 11
    assert lines[1] == "  +200  word3 × word20"
    assert lines[2].startswith("  -")
    assert [line.split()[1] for line in lines[2:]] != sorted(line.split()[1] for line in lines[2:])
    sizes = [abs(float(line.split()[0])) for line in lines[1:]]
    assert sizes == sorted(sizes, reverse=True)
    largest = [k for k in ex.interactions("FBII") if k][:10]
    assert [line.split(maxsplit=1)[1] for line in lines[1:]] == [ex.named(k) for k in largest]
    assert ex.named(()) == "(baseline)"


def test_names() -> None:
    ex = spex(f_of_three, 3, budget=8)
    assert ex.features == ("x0", "x1", "x2")
    ex = spex(f_of_three, features=["a", "b", "c"], budget=8)
    assert ex.features == ("a", "b", "c")
    assert "+4  c" in repr(ex)
    assert spex(f_of_three, 3, features=range(3), budget=8).features == ("0", "1", "2")


def test_interactions_are_those_of_the_transform() -> None:
    ex = spex(plant(20, 10, 3, seed=4), 20, budget=1500, degree=3)
    for index in ("Fourier", "Moebius", "BII", "SII", "k-SII", "STII", "FBII", "FSII"):
        expected = spex_core.interactions(ex.transform, index, order=3)
        assert ex.interactions(index, order=3) == expected
        assert ex.interactions(index) == spex_core.interactions(ex.transform, index, order=2)
    assert ex.interactions("SV") == spex_core.interactions(ex.transform, "SV", order=1)
    sums = ex.interactions("SV")
    ends = ex.transform.predict(np.stack([np.ones(20, bool), np.zeros(20, bool)]))
    baseline = sums.pop(())
    assert baseline == pytest.approx(ends[1])
    assert sum(sums.values()) == pytest.approx(ends[0] - ends[1])


def test_a_run_of_degree_one_has_interactions_of_order_one() -> None:
    ex = spex(plant(30, 10, 1, seed=0), 30, budget=500, degree=1)
    assert max(map(len, ex.interactions("FBII"))) == 1
    with pytest.raises(ValueError, match="order must be at most the degree of the run, 1, got 2"):
        ex.interactions("FBII", order=2)


# Bad input.

GOOD = {"f": f_of_three, "n": 30, "budget": 2000}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"f": 3}, TypeError, "spex: f must be callable, got int"),
        ({"f": None}, TypeError, "spex: f must be callable, got NoneType"),
        ({"n": 0}, ValueError, "spex: n must be an integer >= 1, got 0"),
        ({"n": -3}, ValueError, "spex: n must be an integer >= 1, got -3"),
        ({"n": 30.0}, TypeError, r"spex: n must be an integer >= 1, got 30\.0"),
        ({"n": "30"}, TypeError, "spex: n must be an integer >= 1, got '30'"),
        ({"n": None}, ValueError, "spex: n or features must be given, got neither"),
        ({"features": []}, ValueError, "features must name at least one feature, got none"),
        ({"features": "word"}, TypeError, "features must be a list of names, got 'word'"),
        ({"features": ["a", "b"]}, ValueError, "features must have n = 30 names, got 2"),
        ({"budget": 0}, ValueError, "budget must be an integer >= 1, got 0"),
        ({"budget": 2e3}, TypeError, r"budget must be an integer >= 1, got 2000\.0"),
        ({"budget": 100}, ValueError, r"budget must be at least 707 for n = 30 and degree = 5"),
        ({"degree": 0}, ValueError, "degree must be an integer >= 1 and <= 10, got 0"),
        ({"degree": 11}, ValueError, "degree must be an integer >= 1 and <= 10, got 11"),
        ({"decoder": "fast"}, ValueError, "decoder must be 'soft' or 'hard', got 'fast'"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0 .*, got -1"),
        ({"batch_size": 0}, ValueError, "spex: batch_size must be an integer >= 1, got 0"),
        ({"backend": "gpu"}, ValueError, "backend must be one of auto, .*, got 'gpu'"),
        ({"known": (np.zeros((1, 30)), [0.0])}, TypeError, "known: masks must be bool, got float"),
        ({"known": (np.zeros((1, 9), bool), [0.0])}, ValueError, "masks must have n = 30 columns"),
        ({"known": (np.zeros((1, 30), bool), [np.nan])}, ValueError, "values must be finite"),
    ],
)  # fmt: skip
def test_bad_arguments_before_the_model_runs(
    change: dict, error: type[Exception], message: str
) -> None:
    given = GOOD | change
    f = Counting(given["f"]) if callable(given["f"]) else given["f"]
    with pytest.raises(error, match=message):
        spex(f, **{name: value for name, value in given.items() if name != "f"})
    assert not isinstance(f, Counting) or not f.masks


def test_a_backend_that_is_not_there(without_cuda: None) -> None:
    f = Counting(GOOD["f"])
    with pytest.raises(BackendUnavailable, match="peel: backend 'cuda' is not available"):
        spex(f, n=30, budget=2000, backend="cuda")
    assert not f.masks


def test_features_of_zero_count() -> None:
    with pytest.raises(ValueError, match="features must name at least one feature"):
        spex(f_of_three, features=[], budget=100)


@pytest.mark.parametrize(("n", "degree"), [(4, 5), (10, 5), (30, 2), (65, 10)])
def test_the_least_budget_in_the_error_works(n: int, degree: int) -> None:
    f = plant(n, 2, min(2, degree), seed=1)
    with pytest.raises(ValueError, match=r"budget must be at least \d+ .*, got 3") as caught:
        spex(f, n, budget=3, degree=degree)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert "(the whole table)" in str(caught.value) or "enough for about 8 terms" in str(
        caught.value
    )
    ex = spex(f, n, budget=least, degree=degree)
    assert worst(f.terms, ex.transform.to_dict()) < 1e-6
    assert ex.report.used == least


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: np.full(len(x), np.nan), "finite numbers, got nan"),
        (lambda x: np.full(len(x), np.inf), "finite numbers, got inf"),
        (lambda x: np.zeros(len(x) + 1), r"shape \(1024,\) or .*, got shape \(1025,\)"),
        (lambda x: np.zeros((len(x), 2, 1)), r"got shape \(1024, 2, 1\)"),
        (lambda x: "good", r"got shape \(\)"),
        (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
    ids=["nan", "inf", "long", "wide", "text", "raises"],
)
def test_bad_values(answer: Callable, message: str) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        spex(answer, 30, budget=2000)
    assert "after 0 of 2000 evaluations" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_bad_questions_to_a_result() -> None:
    ex = spex(plant(20, 10, 3, seed=4), 20, budget=1500, degree=3)
    with pytest.raises(TypeError, match="masks must be bool, got float64"):
        ex.transform.predict(np.zeros((2, 20)))
    with pytest.raises(TypeError, match="masks must be bool, got int64"):
        ex.transform.predict(np.zeros((2, 20), int))
    with pytest.raises(ValueError, match="predict: masks must be bool"):
        ex.transform.predict(np.zeros((2, 19), bool))
    with pytest.raises(ValueError, match=r"index must be one of Fourier, .*, got 'shaply'"):
        ex.interactions("shaply")
    with pytest.raises(ValueError, match="order must be at most the degree of the run, 3, got 4"):
        ex.interactions("SII", order=4)
    with pytest.raises(ValueError, match="order must be an integer >= 1, got 0"):
        ex.interactions("SII", order=0)
    with pytest.raises(TypeError, match=r"order must be an integer >= 1, got 2\.0"):
        ex.interactions("SII", order=2.0)


# Real value functions.


@pytest.mark.parametrize("name", ["bike_ensemble_n10_01", "bike_gb_marginal_n12_01"])
def test_real_tables(games: Path, name: str) -> None:
    path = games / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{name} is not in {games}")
    with np.load(path) as game:
        n, table = int(game["n"]), game["values"].astype(float)
        assert json.loads(str(game["meta"]))["kind"] == "full"
    masks = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)

    def f(asked: np.ndarray) -> np.ndarray:
        return table[asked @ (1 << np.arange(n))]

    whole = spex(f, n, budget=2**n)
    single = (table == table.astype(np.float32)).all()  # exact to the precision of the values
    atol = (1e-6 if single else 1e-13) * np.abs(table).max()
    np.testing.assert_allclose(whole.transform.predict(masks), table, rtol=0, atol=atol)
    part = spex(f, n, budget=2**n * 3 // 4)
    assert part.report.used == 2**n * 3 // 4
    score = part.transform.score(masks, table)
    assert score > 0.8
    assert part.report.r2 == pytest.approx(score, abs=0.1)  # what the report promises is so


def test_fifty_thousand_features_fit_in_memory() -> None:
    """The linear fit beside the result needs n coefficients, never n**2 bits."""
    ex = spex(
        lambda x: 1.0 * x[:, 7] - 2.0 * (x[:, 70] & x[:, 49_999]), 50_000, budget=3000, degree=2
    )
    assert ex.report.r2 == pytest.approx(1.0)
    assert set(ex.interactions("FBII")) >= {(7,), (70, 49_999)}
