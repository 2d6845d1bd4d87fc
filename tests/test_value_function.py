"""The base of value functions: each distinct mask once, in packs, whatever memory there is."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch

from spex_core import EvaluationError, EvaluationInterrupted
from spex_core import masks as bits
from spex_core.budget import plan_uniform
from spex_core.evaluate import evaluate
from spex_core.value_function import ValueFunction, run_threaded


class Toy(ValueFunction):
    """The weights of the features that are there; a mask costs the features it keeps, and one."""

    fingerprint = "toy"

    def __init__(self, n: int = 70, *, memory: float = np.inf, how=None, at: int = 0, **facts):
        self.features = [f"x{j}" for j in range(n)]
        self.weights = np.random.default_rng(n).integers(-99, 99, n)  # sums are exact
        self.memory, self.how, self.at = memory, how, at
        self.packs: list[np.ndarray] = []
        self.lock = threading.Lock()
        for name, value in facts.items():
            setattr(self, name, value)

    def cost(self, masks):
        return bits.orders(masks) + 1

    def run(self, masks):
        dense = bits.unpack(masks, self.n)
        with self.lock:
            self.packs.append(dense)
            number = len(self.packs)
        if dense.sum() + len(dense) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if self.how is not None and number > self.at:
            return self.how(dense)
        return self.truth(dense)

    def truth(self, dense):
        return dense @ self.weights + 0.5


class Pairs(Toy):
    """Two outputs, and masks that share what they share with the one before."""

    order = "prefix"

    def added(self, masks):
        dense = bits.unpack(masks, self.n)
        same = np.cumprod(dense[1:] == dense[:-1], axis=1).astype(bool)
        own = self.cost(masks)
        own[1:] -= (dense[1:] & same).sum(1)
        return own

    def truth(self, dense):
        return torch.from_numpy(np.stack([super().truth(dense), dense.sum(1)], axis=1))


def some_masks(n, rows, seed=0):
    masks = np.random.default_rng(seed).random((rows, n)) < 0.5
    masks[0], masks[1] = False, True
    masks[rows // 2 :] = masks[: rows - rows // 2]  # each twice
    return masks


@pytest.mark.parametrize("kind", [Toy, Pairs])
@pytest.mark.parametrize("n", [1, 5, 64, 70])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_values_in_the_order_asked_each_mask_once(kind, n, threads) -> None:
    f, masks = kind(n, tokens=100, threads=threads), some_masks(n, 300)
    values = f(masks)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, f.truth(masks))
    asked = np.concatenate(f.packs)
    assert sorted(map(tuple, asked.tolist())) == sorted(set(map(tuple, masks.tolist())))
    np.testing.assert_array_equal(f.evaluate(bits.pack(masks)), values)
    np.testing.assert_array_equal(f(torch.from_numpy(masks)), values)


def test_packs_hold_a_budget_longest_first() -> None:
    f = Toy(tokens=100)
    f(some_masks(70, 300))
    sizes = [pack.sum(1) + 1 for pack in f.packs]
    assert all(size.sum() <= 100 for size in sizes)
    flat = np.concatenate(sizes)
    assert (np.diff(flat) <= 0).all()
    assert len(sizes) < len(flat) / 2


def test_prefix_order_is_lexicographic_and_cut_by_what_is_added() -> None:
    f = Pairs(12, tokens=200)
    f(some_masks(12, 2000))
    flat = np.concatenate(f.packs).tolist()
    assert flat == sorted(flat)
    assert max(pack.sum() + len(pack) for pack in f.packs) > 200  # which sharing makes room for
    assert all(f.added(bits.pack(pack)).sum() <= 200 for pack in f.packs)


def test_no_masks() -> None:
    f = Toy()
    assert f(np.empty((0, 70), np.bool_)).shape == (0,)
    assert not f.packs


@pytest.mark.parametrize("threads", [None, 2])
@pytest.mark.parametrize("kind", [Toy, Pairs])
def test_out_of_memory_halves_the_budget_for_good(kind, threads) -> None:
    masks = some_masks(70, 300)
    f = kind(memory=400, tokens=1 << 14, threads=threads)
    np.testing.assert_array_equal(f(masks), f.truth(masks))
    assert 50 <= f.tokens <= 400
    tokens, f.packs = f.tokens, []
    np.testing.assert_array_equal(f(~masks), f.truth(~masks))
    assert f.tokens == tokens or kind is Pairs  # whose packs cost more than they add
    if kind is Toy:
        assert sum(map(len, f.packs)) == 150  # none was asked again


def test_out_of_memory_of_one_mask_alone_is_an_error() -> None:
    f = Toy(memory=60)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        f(some_masks(70, 30))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_the_host_can_run_out_of_memory_too(error) -> None:
    def how(dense):
        if len(dense) > 7:
            raise error
        return dense @ f.weights + 0.5

    f, masks = Toy(how=how), some_masks(70, 50)
    np.testing.assert_array_equal(f(masks), f.truth(masks))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def how(dense):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    f = Toy(how=how)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        f(some_masks(70, 50))
    assert len(f.packs) == 1


BAD = {
    "few": (lambda m: np.zeros(len(m) - 1), r"Toy: it must return one value .* \(5,\), got \(4,\)"),
    "scalar": (lambda m: 1.0, r"got \(\)"),
    "cube": (lambda m: np.zeros((len(m), 1, 1)), r"got \(5, 1, 1\)"),
    "none": (lambda m: np.zeros((len(m), 0)), r"got \(5, 0\)"),
    "nan": (lambda m: np.where(np.arange(len(m)) == 3, np.nan, 0), "must be finite, got nan for m"),
    "inf": (lambda m: np.full((len(m), 2), -np.inf), r"mask 0 of a pack \(5 of 5 are"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_shapes_and_nan_are_refused(case) -> None:
    how, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        Toy(how=how)(some_masks(70, 10))


def test_the_number_of_outputs_must_stay() -> None:
    f = Toy(tokens=100, how=lambda m: np.zeros((len(m), 2)), at=2)
    with pytest.raises(ValueError, match=r"as many outputs for each pack, got shape .* 2\) after"):
        f(some_masks(70, 100))


@pytest.mark.parametrize("kind", [torch.from_numpy, lambda y: torch.from_numpy(y).bfloat16()])
def test_kinds_of_values(kind) -> None:
    f = Toy(how=lambda m: kind(np.round(m.sum(1) * 1.0)))
    masks = some_masks(70, 20)
    np.testing.assert_array_equal(f(masks), masks.sum(1))


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (np.zeros((2, 70)), TypeError, "Toy: masks must be bool, got float64"),
        (np.zeros((2, 70), np.int64), TypeError, "Toy: masks must be bool, got int64"),
        (torch.zeros(2, 2, dtype=torch.int64), TypeError, "Toy: masks must be bool, got int64"),
        (np.zeros(70, np.bool_), ValueError, r"masks must have shape \(batch, 70\), got \(70,\)"),
        (np.zeros((2, 71), np.bool_), ValueError, r"shape \(batch, 70\), got \(2, 71\)"),
    ],
)
def test_bad_masks(masks, error, message) -> None:
    with pytest.raises(error, match=message):
        Toy()(masks)


def test_packed_masks_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"packed int64 \(T, 2\), got shape \(4, 1\)"):
        Toy().evaluate(torch.zeros((4, 1), dtype=torch.int64))


# Threads.


def test_threads_run_at_once_each_on_one_torch_thread_and_torch_gets_its_own_back() -> None:
    before, both = torch.get_num_threads(), threading.Barrier(2, timeout=20)

    def work(job):
        both.wait()  # passes only if two jobs run at the same time
        return job, torch.get_num_threads()

    assert list(run_threaded(work, range(4), 2)) == [(job, 1) for job in range(4)]
    assert torch.get_num_threads() == before


def test_torch_gets_its_threads_back_when_one_fails_or_nobody_listens() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        list(run_threaded(lambda job: 1 / job, [1, 0, 2], 2))
    assert torch.get_num_threads() == before
    with contextlib.closing(run_threaded(float, range(100), 2)) as results:
        assert next(results) == 0.0
    assert torch.get_num_threads() == before


def test_one_function_may_be_asked_while_another_runs() -> None:
    inner, outer = Toy(threads=2), Toy(threads=2, tokens=300)
    masks, seen = some_masks(70, 40), []
    plan = plan_uniform(70, 40)
    evaluate(outer, plan, progress=lambda *at: seen.append(inner(masks)))
    assert len(seen) > 1
    np.testing.assert_array_equal(seen[-1], inner.truth(masks))


# In a run: packed masks, tokens of progress, nothing lost.


@pytest.mark.parametrize("kind", [Toy, Pairs])
def test_a_run_asks_in_packs_and_counts_the_cost(kind) -> None:
    plan = plan_uniform(70, 20_000)
    f, calls = kind(tokens=5000), []
    values, used = evaluate(f, plan, progress=lambda *at: calls.append(at), many=True)
    rows = bits.unpack(plan.masks(0, plan.total), 70)
    np.testing.assert_array_equal(values, f.truth(rows))
    assert used == sum(map(len, f.packs)) == 20_000
    costs = [int(pack.sum()) + len(pack) for pack in f.packs]
    assert calls == [(done, sum(costs)) for done in np.cumsum(costs).tolist()]
    if kind is Pairs:  # the whole budget is one order: no prefix comes twice
        flat = np.concatenate(f.packs)
        assert (np.lexsort(flat.T[::-1]) == np.arange(20_000)).all()


def test_a_run_of_another_number_of_features_is_refused() -> None:
    with pytest.raises(EvaluationError, match="it must have n = 60 features, got 70"):
        evaluate(Toy(), plan_uniform(60, 20))


@pytest.mark.parametrize("threads", [None, 2])
@pytest.mark.parametrize("cause", [OSError("gone"), KeyboardInterrupt()])
def test_a_run_that_fails_keeps_the_packs_that_were_done(threads, cause) -> None:
    def how(dense):
        raise cause

    plan, before = plan_uniform(70, 600), torch.get_num_threads()
    f = Toy(tokens=1000, how=how, at=9, threads=threads)
    kind = EvaluationInterrupted if isinstance(cause, KeyboardInterrupt) else EvaluationError
    with pytest.raises(kind) as caught:
        evaluate(f, plan)
    assert torch.get_num_threads() == before
    error = caught.value
    assert 0 < error.done == len(error.masks) < 600
    assert threads or error.done == sum(map(len, f.packs[:-1]))  # all but the one that failed
    np.testing.assert_array_equal(error.values, f.truth(error.masks))
    values, used = evaluate(Toy(tokens=1000), plan, known=error.known)
    assert used == 600 - error.done
    np.testing.assert_array_equal(values, f.truth(bits.unpack(plan.masks(0, 600), 70)))


def test_memory_is_that_of_a_pack_whatever_the_number_of_masks() -> None:
    """Each mask costs a megabyte while it is evaluated: 100,000 at once would be 100 GB."""
    script = """
        import resource, sys
        import numpy as np
        from spex_core import masks as bits
        from spex_core.evaluate import evaluate
        from spex_core.budget import plan_uniform
        from spex_core.value_function import ValueFunction

        class Large(ValueFunction):
            features, fingerprint, tokens = range(128), "large", 20 * 65

            def cost(self, masks):
                return bits.orders(masks) + 1

            def run(self, masks):
                block = np.ones((len(masks), 1 << 14))
                return block[:, 0]

        def peak(count):
            evaluate(Large(), plan_uniform(128, count))
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        print(peak(1000), peak(100_000))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    few, many = map(float, done.stdout.split())
    assert many - few < 40, done.stderr  # megabytes, for the masks, keys and values themselves


def test_what_has_to_hold_while_packs_run_is_entered_once_an_evaluation() -> None:
    class Careful(Toy):
        inside = entered = 0

        @contextlib.contextmanager
        def running(self):
            self.inside, self.entered = True, self.entered + 1
            try:
                yield
            finally:
                self.inside = False

        def run(self, masks):
            assert self.inside
            return super().run(masks)

    f = Careful(tokens=80, threads=2)
    masks = np.random.default_rng(0).random((20, f.n)) < 0.5
    assert np.array_equal(f(masks), f.truth(masks))
    assert len(f.packs) > 5
    assert (f.entered, f.inside) == (1, False)
    f(masks[:0])
    assert f.entered == 1
    f.how = lambda dense: np.full(len(dense), np.nan)
    with pytest.raises(EvaluationError):
        evaluate(f, plan_uniform(f.n, 10))
    assert (f.entered, f.inside) == (2, False)


def test_a_subclass_defines_run_or_stream() -> None:
    class Neither(Toy):
        run = ValueFunction.run

    with pytest.raises(NotImplementedError, match="Neither must define run or stream"):
        Neither()(np.ones((1, 70), np.bool_))
