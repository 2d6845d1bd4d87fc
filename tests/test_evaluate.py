"""Evaluation: each distinct mask once, in order, in batches, and nothing lost on failure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from spex_core import EvaluationError, EvaluationInterrupted, SpexError
from spex_core import masks as bits
from spex_core.budget import plan_spex, plan_uniform
from spex_core.evaluate import evaluate
from spex_core.plan import SamplingPlan


class Recorder:
    """A value function that keeps what it was asked, and fails at a call of choice."""

    def __init__(self, n: int, fail_at: int | None = None, how: object = None):
        self.weights = np.random.default_rng(n).integers(-99, 99, n)  # sums are exact
        self.batches: list[np.ndarray] = []
        self.fail_at, self.how = fail_at, how

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        self.batches.append(masks.copy())
        if len(self.batches) - 1 == self.fail_at:
            if isinstance(self.how, BaseException):
                raise self.how
            return self.how(masks) if callable(self.how) else self.how
        return self.truth(masks)

    def truth(self, masks: np.ndarray) -> np.ndarray:
        return masks @ self.weights + 0.5

    @property
    def asked(self) -> np.ndarray:
        return np.concatenate(self.batches)


def names(masks: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in masks]


def plan_masks(plan: SamplingPlan) -> np.ndarray:
    return bits.unpack(plan.masks(0, plan.total), plan.n)


def as_asked(plan: SamplingPlan) -> np.ndarray:
    """Those held out first."""
    return np.roll(plan_masks(plan), plan.holdout, axis=0)


PLANS = [plan_spex(4, 16), plan_spex(10, 600, degree=3), plan_spex(64, 1300), plan_spex(65, 1300)]


@pytest.fixture(params=PLANS, ids=lambda plan: f"n{plan.n}")
def plan(request: pytest.FixtureRequest) -> SamplingPlan:
    return request.param


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10**9])
def test_each_distinct_mask_once_in_order(plan: SamplingPlan, batch_size: int) -> None:
    f, calls = Recorder(plan.n), []
    values, used = evaluate(f, plan, batch_size=batch_size, progress=lambda *at: calls.append(at))
    rows = plan_masks(plan)
    assert names(f.asked) == list(dict.fromkeys(names(as_asked(plan))))  # first come, first asked
    assert used == len(f.asked) == plan.budget
    assert all(batch.dtype == np.bool_ for batch in f.batches)
    assert all(1 <= len(batch) <= batch_size for batch in f.batches)
    assert len(f.batches) <= -(-used // batch_size) + 1  # few batches are cut short
    assert values.dtype == torch.float64
    np.testing.assert_array_equal(values, f.truth(rows))
    done = np.cumsum([len(batch) for batch in f.batches])
    assert calls == [(count, used) for count in done.tolist()]


def test_many_rows_are_made_a_block_at_a_time() -> None:
    plan = plan_spex(100, 40_000, degree=2)
    f = Recorder(100)
    values, used = evaluate(f, plan, batch_size=5000)
    assert used == 40_000 == len(set(names(f.asked)))
    assert max(len(batch) for batch in f.batches) == 5000
    np.testing.assert_array_equal(values, f.truth(plan_masks(plan)))


@pytest.mark.parametrize(
    "kind",
    [
        torch.from_numpy,
        lambda y: torch.from_numpy(y).requires_grad_(),
        lambda y: torch.from_numpy(y).float(),
        lambda y: torch.from_numpy(y).bfloat16(),
        lambda y: y.tolist(),
        lambda y: tuple(y.tolist()),
        lambda y: y.astype(np.float16),
        lambda y: np.rint(y).astype(np.int8),
        lambda y: y > 0.5,
    ],
    ids=["tensor", "grad", "float32", "bfloat16", "list", "tuple", "float16", "int8", "bool"],
)
def test_kinds_of_answers(kind: Callable) -> None:
    plan = PLANS[1]
    f = Recorder(10)
    values, _ = evaluate(lambda masks: kind(f(masks)), plan)
    answer = kind(f.truth(plan_masks(plan)))
    expected = answer.detach().double().numpy() if torch.is_tensor(answer) else answer
    np.testing.assert_array_equal(values, np.asarray(expected, float))


def test_a_function_may_write_into_its_masks() -> None:
    plan = PLANS[2]
    f = Recorder(64)

    def rude(masks: np.ndarray) -> np.ndarray:
        answer = f(masks)
        masks[:] = True
        return answer

    values, _ = evaluate(rude, plan)
    np.testing.assert_array_equal(values, f.truth(plan_masks(plan)))


# Failure. The value function fails at its third call of 50 masks.

BAD = {
    "raises": (ZeroDivisionError("no model"), r"ZeroDivisionError: no model"),
    "nan": (lambda m: np.where(np.arange(len(m)) == 3, np.nan, 0), "got nan for mask 3"),
    "inf": (lambda m: np.full(len(m), -np.inf), r"got -inf for mask 0 of the batch \(50 of 50 are"),
    "short": (lambda m: np.zeros(len(m) - 1), r"shape \(50,\), got shape \(49,\)"),
    "shape": (lambda m: np.zeros((len(m), 1)), r"shape \(50,\), got shape \(50, 1\)"),
    "scalar": (1.0, r"shape \(50,\), got shape \(\)"),
    "none": (lambda m: None, r"shape \(50,\), got shape \(\)"),
    "text": (lambda m: ["yes"] * len(m), "ValueError: could not convert string to float"),
    "objects": (lambda m: [{}] * len(m), "TypeError: "),
    "complex": (lambda m: np.ones(len(m)) * 1j, "TypeError: it must return real numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_failure_says_what_and_keeps_what_was_paid_for(case: str) -> None:
    how, message = BAD[case]
    plan = PLANS[1]
    f, calls = Recorder(10, fail_at=2, how=how), []
    with pytest.raises(EvaluationError, match=message) as caught:
        evaluate(f, plan, batch_size=50, progress=lambda *at: calls.append(at))
    error = caught.value
    assert isinstance(error, SpexError)
    assert not isinstance(error, KeyboardInterrupt)
    assert error.__cause__ is (how if isinstance(how, Exception) else error.__cause__)
    assert isinstance(error.__cause__, (ZeroDivisionError, ValueError, TypeError))
    kept = 149 if case == "nan" else 100  # all but one of the third call
    assert f"after {kept} of {plan.budget} evaluations" in str(error)
    assert "known=" in str(error)
    assert (error.done, error.total) == (kept, plan.budget)
    assert calls == [(done, plan.budget) for done in dict.fromkeys((50, 100, kept))]
    assert error.masks.dtype == np.bool_
    assert error.values.dtype == np.float64
    paid = np.concatenate(f.batches[:3])
    paid = np.delete(paid, 103, axis=0) if case == "nan" else paid[:100]
    np.testing.assert_array_equal(error.masks, paid)
    assert error.values.tolist() == [*f.truth(paid[:100]), *[0.0] * (kept - 100)]
    assert error.known == (error.masks, error.values)


def test_failure_at_the_first_call() -> None:
    f = Recorder(10, fail_at=0, how=RuntimeError("out of memory"))
    with pytest.raises(EvaluationError, match="after 0 of 600 evaluations") as caught:
        evaluate(f, PLANS[1])
    assert caught.value.masks.shape == (0, 10)
    assert caught.value.values.shape == (0,)


@pytest.mark.parametrize("plan", PLANS[1:], ids=lambda plan: f"n{plan.n}")
def test_a_resumed_run_equals_an_unbroken_one(plan: SamplingPlan) -> None:
    """Failing again and again: no mask is paid for twice, and the values are the same bits."""
    known, paid = None, []
    left = plan.budget
    while left > 300:
        f = Recorder(plan.n, fail_at=2, how=RuntimeError("killed"))
        with pytest.raises(EvaluationError) as caught:
            evaluate(f, plan, batch_size=150, known=known)
        assert (caught.value.done, caught.value.total) == (300, left)
        known, left = caught.value.known, left - 300
        assert len(known[0]) == plan.budget - left
        paid += f.batches[:2]
    f = Recorder(plan.n)
    values, used = evaluate(f, plan, batch_size=150, known=known)
    paid += f.batches
    assert used == left == sum(map(len, f.batches))
    assert sorted(names(np.concatenate(paid))) == sorted(set(names(plan_masks(plan))))
    assert torch.equal(values, evaluate(Recorder(plan.n), plan)[0])


def test_interrupt() -> None:
    f = Recorder(10, fail_at=2, how=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        evaluate(f, PLANS[1], batch_size=50)
    assert isinstance(caught.value, EvaluationInterrupted)
    assert isinstance(caught.value, EvaluationError)
    assert isinstance(caught.value.__cause__, KeyboardInterrupt)
    assert len(caught.value.known[0]) == 100
    values, used = evaluate(Recorder(10), PLANS[1], known=caught.value.known)
    assert used == 500
    assert torch.equal(values, evaluate(Recorder(10), PLANS[1])[0])


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), OSError("broken pipe")])
def test_a_progress_callback_that_fails_loses_nothing(cause: BaseException) -> None:
    def progress(done: int, total: int) -> None:
        if done >= 100:
            raise cause

    kind = EvaluationInterrupted if isinstance(cause, KeyboardInterrupt) else EvaluationError
    with pytest.raises(kind, match="failed after 100 of 600") as caught:
        evaluate(Recorder(10), PLANS[1], batch_size=50, progress=progress)
    assert caught.value.__cause__ is cause
    assert len(caught.value.masks) == 100


def test_other_exits_pass_through() -> None:
    with pytest.raises(SystemExit):
        evaluate(Recorder(10, fail_at=0, how=SystemExit()), PLANS[1])


# Known values.


def test_known_values_are_not_asked_for() -> None:
    plan = PLANS[3]
    truth = Recorder(65)
    rows = plan_masks(plan)
    masks = np.concatenate([rows[5:400], rows[5:10], ~rows[:50]])  # twice, and not of the plan
    f = Recorder(65)
    values, used = evaluate(f, plan, known=(masks, truth.truth(masks)))
    assert not set(names(f.asked)) & set(names(rows[5:400]))
    assert used == len(f.asked) == plan.budget - len(set(names(rows[5:400])))
    np.testing.assert_array_equal(values, truth.truth(rows))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda x: x.tolist()])
def test_all_known(kind: Callable) -> None:
    plan = PLANS[1]
    rows = plan_masks(plan)
    f = Recorder(10)
    values, used = evaluate(f, plan, known=(kind(rows), kind(f.truth(rows))))
    assert used == 0
    assert not f.batches
    np.testing.assert_array_equal(values, f.truth(rows))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda x: x.tolist()])
def test_known_of_any_kind_survives_a_failure(kind: Callable) -> None:
    rows = plan_masks(PLANS[1])[:10]
    f = Recorder(10, fail_at=1, how=RuntimeError())
    with pytest.raises(EvaluationError) as caught:
        evaluate(f, PLANS[1], batch_size=20, known=(kind(rows), kind(f.truth(rows))))
    masks, values = caught.value.known
    assert isinstance(masks, np.ndarray)
    np.testing.assert_array_equal(masks, np.concatenate([rows, f.batches[0]]))
    np.testing.assert_array_equal(values, f.truth(masks))


@pytest.mark.parametrize(
    ("masks", "values", "error", "message"),
    [
        (np.zeros((3, 10)), np.zeros(3), TypeError, "known: masks must be bool, got float64"),
        (np.zeros((3, 10), int), np.zeros(3), TypeError, "known: masks must be bool, got int64"),
        (torch.zeros(3, 10), np.zeros(3), TypeError, "known: masks must be bool, got float32"),
        (np.zeros(10, bool), np.zeros(1), ValueError, r"masks must have shape \(T, n\), got"),
        (np.zeros((3, 9), bool), np.zeros(3), ValueError, "masks must have n = 10 columns, got 9"),
        (np.zeros((3, 10), bool), np.zeros(4), ValueError, r"values must have shape \(3,\)"),
        (np.zeros((1, 10), bool), [np.nan], ValueError, "known: values must be finite"),
        (np.zeros((1, 10), bool), [np.inf], ValueError, "known: values must be finite"),
    ],
)  # fmt: skip
def test_bad_known(masks: object, values: object, error: type[Exception], message: str) -> None:
    f = Recorder(10)
    with pytest.raises(error, match=message):
        evaluate(f, PLANS[1], known=(masks, values))
    assert not f.batches


# Many outputs.


class Outputs(Recorder):
    """Three outputs a mask."""

    def truth(self, masks: np.ndarray) -> np.ndarray:
        return np.stack([super().truth(masks), masks[:, 0] * 1.0, -super().truth(masks)], axis=1)


def test_many_outputs(plan: SamplingPlan) -> None:
    f, calls = Outputs(plan.n), []
    values, used = evaluate(f, plan, batch_size=7, progress=lambda *at: calls.append(at), many=True)
    assert values.shape == (plan.total, 3)
    assert values.dtype == torch.float64
    np.testing.assert_array_equal(values, f.truth(plan_masks(plan)))
    assert used == len(f.asked) == plan.budget
    assert calls[-1] == (used, used)


@pytest.mark.parametrize(
    "kind", [torch.from_numpy, lambda y: torch.from_numpy(y).float(), lambda y: y.tolist()]
)
def test_kinds_of_many_outputs(kind: Callable) -> None:
    plan = plan_uniform(12, 40)
    f = Outputs(12)
    values, _ = evaluate(lambda masks: kind(f(masks)), plan, batch_size=16, many=True)
    np.testing.assert_array_equal(values, f.truth(plan_masks(plan)))


def test_one_output_may_have_a_column_of_its_own() -> None:
    plan = plan_uniform(12, 40)
    f = Recorder(12)
    flat, _ = evaluate(f, plan, many=True)
    column, _ = evaluate(lambda masks: f(masks)[:, None], plan, many=True)
    assert flat.shape == (40,)
    assert torch.equal(flat[:, None], column)


def test_many_outputs_must_be_asked_for() -> None:
    with pytest.raises(EvaluationError, match=r"shape \(40,\), got shape \(40, 3\)"):
        evaluate(Outputs(12), plan_uniform(12, 40))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda m: np.zeros(len(m)), r"before, shape \(50, 3\), got shape \(50,\)"),
        (lambda m: np.zeros((len(m), 2)), r"before, shape \(50, 3\), got shape \(50, 2\)"),
        (lambda m: np.zeros((len(m), 0)), r"or \(50, outputs\), got shape \(50, 0\)"),
        (lambda m: np.zeros((3, len(m))), r"or \(50, outputs\), got shape \(3, 50\)"),
        (lambda m: np.full((len(m), 3), np.nan), r"got \[nan nan nan\] for mask 0 .*\(50 of 50"),
        (RuntimeError("no model"), "RuntimeError: no model"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=["one", "fewer", "none", "turned", "nan", "raises", "interrupt"],
)
def test_a_failure_keeps_all_outputs(how: object, message: str) -> None:
    f = Outputs(10, fail_at=2, how=how)
    with pytest.raises(EvaluationError, match=message) as caught:
        evaluate(f, PLANS[1], batch_size=50, many=True)
    paid = np.concatenate(f.batches[:2])
    assert caught.value.values.shape == (100, 3)
    np.testing.assert_array_equal(caught.value.masks, paid)
    np.testing.assert_array_equal(caught.value.values, f.truth(paid))
    rest = Outputs(10)
    values, used = evaluate(rest, PLANS[1], known=caught.value.known, many=True)
    assert used == 500
    assert not set(names(rest.asked)) & set(names(paid))
    assert torch.equal(values, evaluate(Outputs(10), PLANS[1], many=True)[0])


def test_failing_twice_keeps_what_both_runs_paid_for() -> None:
    """The first fails before it has a value, and so before it is known that there are three."""
    known = None
    for fail_at, done in [(0, 0), (1, 50), (2, 150)]:
        f = Outputs(10, fail_at=fail_at, how=RuntimeError())
        with pytest.raises(EvaluationError) as caught:
            evaluate(f, PLANS[1], batch_size=50, known=known, many=True)
        known = caught.value.known
        assert known[0].shape == (done, 10)
        np.testing.assert_array_equal(known[1].reshape(-1, 3), f.truth(known[0]))


def test_known_values_of_many_outputs() -> None:
    rows = plan_masks(PLANS[1])
    f = Outputs(10)
    for masks in (rows[:300], rows, ~rows[:1]):
        asked = Outputs(10)
        values, used = evaluate(asked, PLANS[1], known=(masks, f.truth(masks)), many=True)
        np.testing.assert_array_equal(values, f.truth(rows))
        assert used == 600 - len(set(names(masks)) & set(names(rows)))
        assert values.shape == (PLANS[1].total, 3)


def test_known_values_say_how_many_outputs_there_are() -> None:
    """Also where none of them is of the plan: they are of the same function."""
    rows = plan_masks(PLANS[2])
    for masks in (rows[:20], ~rows[:20]):
        f = Recorder(64)
        with pytest.raises(EvaluationError, match=r"shape \(50, 2\), got shape \(50,\)") as caught:
            evaluate(f, PLANS[2], batch_size=50, known=(masks, np.ones((20, 2))), many=True)
        assert caught.value.values.shape == (20, 2)
        np.testing.assert_array_equal(caught.value.masks, masks)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.zeros((3, 0)), ValueError, r"or \(3, outputs\), got \(3, 0\)"),
        (np.zeros((4, 2)), ValueError, r"values must have shape \(3,\), .*, got \(4, 2\)"),
        (np.full((3, 2), np.inf), ValueError, "known: values must be finite"),
        (np.zeros((3, 2)) * 1j, TypeError, "values must be real numbers, got complex128"),
        (["a", "b", "c"], TypeError, "known: values must be real numbers, got <U1"),
    ],
)
def test_bad_known_values(values: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(Outputs(10), PLANS[1], known=(np.zeros((3, 10), bool), values), many=True)
