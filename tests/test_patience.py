"""Failures of a value function: asked again where that makes sense, stopped, kept, resumed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from misbehaving import Misbehaving, N, truth

from spex_core import EvaluationError, EvaluationInterrupted, Patience, plan, spex
from spex_core import masks as bits
from spex_core.patience import timed
from spex_core.store import Store
from spex_core.value_function import ValueFunction
from spex_core.values import Isolated
from spex_core.values.workers import JobFailed

QUICK = Patience(retries=2, wait=0)
OPTIONS = {"budget": 900, "degree": 2, "batch_size": 100}


@pytest.fixture(scope="module")
def whole():
    return spex(truth, N, **OPTIONS)


def check_same(ex, whole) -> None:
    assert torch.equal(ex.transform.support, whole.transform.support)
    assert torch.equal(ex.transform.coefs, whole.transform.coefs)
    assert ex.report.r2 == whole.report.r2


# ---- Asked again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "more"), [("raise", 2), ("nan", 2)])
def test_what_fails_is_asked_again(tmp_path, whole, how, more) -> None:
    f = Misbehaving(tmp_path, how, at=(1, 5))
    ex = spex(f, N, **OPTIONS, patience=QUICK)
    check_same(ex, whole)
    assert f.calls == 9 + (more if how == "raise" else 1)  # 15 and 13 masks again fit in one more
    assert (ex.report.failed, ex.report.evaluated) == (2, 900)
    assert "2 calls failed" in str(ex.report)


def test_it_stops_after_so_many_in_a_row(tmp_path) -> None:
    f = Misbehaving(tmp_path, "raise", at=(2, 4, 5, 6))
    with pytest.raises(EvaluationError, match=r"after 300 of 900 .*ConnectionError: server gone"):
        spex(f, N, **OPTIONS, patience=QUICK)
    assert f.calls == 7  # 2 is made again as 3, 4 as 5 and 6


@pytest.mark.parametrize(
    ("how", "message"), [("bug", "TypeError: no such"), ("short", r"WrongAnswer: .*\(99,\)")]
)
def test_errors_of_a_program_are_not_waited_for(tmp_path, how, message) -> None:
    f = Misbehaving(tmp_path, how, at=(3,))
    with pytest.raises(EvaluationError, match=message):
        spex(f, N, **OPTIONS, patience=QUICK)
    assert f.calls == 4


def test_an_error_may_say_that_it_is_permanent() -> None:
    error = RuntimeError("the key is refused")
    assert Patience(retries=3).again(error, 3)
    assert not Patience(retries=3).again(error, 4)
    error.permanent = True
    assert not Patience(retries=3).again(error, 1)


def test_masks_that_never_get_a_value_do_not_hold_up_the_others() -> None:
    def f(masks):
        return np.where(masks[:, :3].all(1) & ~masks[:, 3:6].any(1), np.nan, truth(masks))

    with pytest.raises(EvaluationError, match="are not finite") as failure:
        spex(f, N, **OPTIONS, patience=Patience(retries=20, wait=0))
    asked = next(plan("spex", N, budget=900, degree=2).batches(1000))
    without = np.isnan(f(asked)).sum()
    assert without > 5
    assert len(failure.value.masks) == 900 - without


def test_packs_of_a_value_function_too(whole) -> None:
    class Flaky(ValueFunction):
        features = tuple(f"x{j}" for j in range(N))
        fingerprint = "flaky"
        tokens = 100
        calls = 0

        def cost(self, masks):
            return np.ones(len(masks), np.int64)

        def run(self, masks):
            self.calls += 1
            if self.calls % 4 == 0:
                raise ConnectionError("reset")
            return truth(bits.unpack(masks, N))

    f = Flaky()
    ex = spex(f, **OPTIONS, patience=QUICK)
    check_same(ex, whole)
    assert ex.report.failed == (f.calls - 1) // 4 + (f.calls % 4 == 0) == f.calls - 9


@pytest.mark.parametrize("failures", range(1, 9))
def test_the_pause_doubles(failures) -> None:
    pauses = [Patience(wait=0.5, longest=10).pause(failures) for _ in range(50)]
    longest = min(0.5 * 2 ** (failures - 1), 10)
    assert longest / 2 <= min(pauses) < max(pauses) <= longest


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"retries": -1}, ValueError, "retries must be an integer >= 0"),
        ({"retries": 1.5}, TypeError, "retries must be an integer"),
        ({"wait": -1}, ValueError, "wait must be >= 0 seconds, got -1"),
        ({"timeout": 0}, ValueError, "timeout must be > 0 seconds or None, got 0"),
    ],
)
def test_bad_patience(options, kind, message) -> None:
    with pytest.raises(kind, match=message):
        Patience(**options)


# ---- Hanging -------------------------------------------------------------------------------------


def test_a_call_that_hangs_once(tmp_path, whole) -> None:
    f = Misbehaving(tmp_path, "slow", at=(2,))
    ex = spex(f, N, **OPTIONS, patience=Patience(retries=1, wait=0, timeout=0.3))
    check_same(ex, whole)
    assert (ex.report.failed, f.calls) == (1, 10)


def test_a_call_that_hangs_for_good(tmp_path) -> None:
    f = Misbehaving(tmp_path, "slow", at=tuple(range(3, 99)))
    start = time.monotonic()
    with pytest.raises(EvaluationError, match=r"TimeoutError: no answer after 0\.1 s") as failure:
        spex(f, N, **OPTIONS, patience=Patience(timeout=0.1))
    assert time.monotonic() - start < 30
    assert len(failure.value.known[0]) == 300


def test_timed_items() -> None:
    assert list(timed(iter(range(5)), 5)) == list(range(5))
    assert list(timed(iter(()), 5)) == []

    def failing():
        yield 1
        raise KeyError("two")

    items = timed(failing(), 5)
    assert next(items) == 1
    with pytest.raises(KeyError, match="two"):
        next(items)


def test_the_thread_of_timed_ends() -> None:
    closed = threading.Event()

    def source():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = timed(source(), 5)
    next(items)
    items.close()
    assert closed.wait(10)


# ---- A process of its own ------------------------------------------------------------------------


def test_a_process_that_dies_or_hangs_is_replaced(tmp_path, whole) -> None:
    f = Misbehaving(tmp_path, "die", at=(2,))
    with Isolated(f, start="fork") as g:
        ex = spex(g, N, **OPTIONS, patience=QUICK)
    check_same(ex, whole)
    assert (ex.report.failed, f.calls) == (1, 10)
    (tmp_path / "calls").unlink()
    f.how = "hang"
    with Isolated(f, timeout=0.5, start="fork") as g:
        ex = spex(g, N, **OPTIONS, patience=QUICK)
    check_same(ex, whole)
    assert (ex.report.failed, f.calls) == (1, 10)


def test_a_process_that_always_dies(tmp_path) -> None:
    f = Misbehaving(tmp_path, "die", at=tuple(range(4, 99)))
    with (
        Isolated(f, start="fork") as g,
        pytest.raises(EvaluationError, match="after 400 of 900") as failure,
    ):
        spex(g, N, **OPTIONS, patience=QUICK)
    assert "its process ended with exit code 3" in str(failure.value)
    assert f.calls == 7


def test_isolated_is_spawned_and_its_start_is_not_timed(tmp_path) -> None:
    f = Misbehaving(tmp_path, "raise", at=(1,))
    masks = np.random.default_rng(0).random((5, N)) < 0.5
    with Isolated(f, timeout=0.5) as g:  # a new interpreter takes longer to start
        np.testing.assert_array_equal(g(masks), truth(masks))
        with pytest.raises(JobFailed, match="ConnectionError: server gone"):
            g(masks)
        assert g.fingerprint == "misbehaving"
    assert Isolated(truth).fingerprint is None


def test_what_cannot_be_isolated() -> None:
    with pytest.raises(TypeError, match="f must be callable, got int"):
        Isolated(3)
    with pytest.raises(ValueError, match="timeout must be > 0, got 0"):
        Isolated(truth, timeout=0)
    with pytest.raises(TypeError, match="the function must be picklable"):
        Isolated(lambda masks: masks[:, 0])(np.ones((1, N), np.bool_))


# ---- Kept, and resumed from a store --------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "bug", "nan", "short"])
def test_a_failure_says_how_to_go_on_and_the_same_call_does(tmp_path, whole, how) -> None:
    f = Misbehaving(tmp_path, how, at=(4,))
    folder = tmp_path / "run"
    with pytest.raises(EvaluationError) as failure:
        spex(f, N, **OPTIONS, store=folder)
    assert f"all that is done is in {folder}: the same call goes on" in str(failure.value)
    paid = len(Store.open(folder))
    assert paid == failure.value.done == len(failure.value.masks) == (485 if how == "nan" else 400)
    assert not list(folder.glob("*.part"))
    ex = spex(f, N, **OPTIONS, store=folder)
    check_same(ex, whole)
    assert (ex.report.cached, ex.report.evaluated) == (paid, 900 - paid)


def test_ctrl_c_keeps_everything(tmp_path, whole) -> None:
    class Interrupted(Misbehaving):
        def __call__(self, masks):
            if self.calls == 4:
                self.count.write_text("." * 5)
                raise KeyboardInterrupt
            return super().__call__(masks)

    f, folder = Interrupted(tmp_path, "", ()), tmp_path / "run"
    with pytest.raises(EvaluationInterrupted, match="after 400 of 900") as failure:
        spex(f, N, **OPTIONS, store=folder, patience=QUICK)
    assert isinstance(failure.value, KeyboardInterrupt)
    assert len(Store.open(folder)) == 400
    ex = spex(f, N, **OPTIONS, store=folder)
    check_same(ex, whole)
    assert ex.report.evaluated == 500
