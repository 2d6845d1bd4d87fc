"""Runs on a store: nothing paid twice, nothing used that is not on disk, nothing lost."""

from __future__ import annotations

import contextlib
import errno
import os

import numpy as np
import pytest
import torch
from misbehaving import N, truth
from stores import Toy

from spex_core import EvaluationError, FormatError, gpspex, plan, proxyspex, resume, spex
from spex_core import masks as bits
from spex_core.store import Store
from spex_core.store_manifest import Manifest
from spex_core.stored import Stored

OPTIONS = {"budget": 900, "degree": 2, "batch_size": 100}


class Named:
    """truth, with a fingerprint, that counts."""

    def __init__(self, fingerprint: str = "truth 1"):
        self.fingerprint, self.evaluated = fingerprint, 0

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        self.evaluated += len(masks)
        return truth(masks)


@pytest.fixture(scope="module")
def whole():
    return spex(truth, N, **OPTIONS)


def check_same(ex, whole) -> None:
    assert torch.equal(ex.transform.support, whole.transform.support)
    assert torch.equal(ex.transform.coefs, whole.transform.coefs)
    assert ex.report.r2 == whole.report.r2


def counts(ex) -> tuple[int, int, int, int]:
    report = ex.report
    return report.unique, report.cached, report.evaluated, report.failed


# ---- Never paid twice ----------------------------------------------------------------------------


def test_the_same_call_again_evaluates_nothing(tmp_path, whole) -> None:
    f = Named()
    first = spex(f, N, **OPTIONS, store=tmp_path / "run")
    again = spex(f, N, **OPTIONS, store=str(tmp_path / "run"))
    check_same(first, whole)
    check_same(again, whole)
    assert (counts(first), counts(again)) == ((900, 0, 900, 0), (900, 900, 0, 0))
    assert first.report.asked == spex(truth, N, **OPTIONS).report.asked >= 900
    assert f.evaluated == 900
    assert "900 cached" in str(again.report)


def test_the_manifest_is_of_the_run(tmp_path) -> None:
    names = [f"word {j}" for j in range(N)]
    proxyspex(Named(), features=names, budget=20, degree=3, seed=7, store=tmp_path / "run")
    there = Store.open(tmp_path / "run").manifest
    assert (there.algorithm, there.seed, there.budget) == ("proxyspex", 7, 20)
    assert (there.fingerprint, there.features) == ("truth 1", tuple(names))
    assert there.options["degree"] == 3


def test_another_run_takes_what_one_has_paid_for(tmp_path) -> None:
    f = Named()
    first = proxyspex(f, N, budget=40, store=tmp_path / "one")
    known = Store.open(tmp_path / "one")
    for where in (tmp_path / "one", known):
        ex = proxyspex(f, N, budget=60, known=where, store=tmp_path / "two")
        assert ex.report.unique == 60
    assert f.evaluated == 60
    assert len(Store.open(tmp_path / "two")) == 60  # by itself it is whole
    assert first.report.evaluated == 40
    with pytest.raises(ValueError, match="known: it must be of the same function, got another: n"):
        proxyspex(f, N + 1, budget=60, known=known)
    with pytest.raises(ValueError, match="fingerprint: 'truth 1' there, 'truth 2' asked"):
        proxyspex(Named("truth 2"), N, budget=60, known=known)


def test_a_store_without_a_plan_serves_every_run(tmp_path) -> None:
    f = Named()
    with Store.open(tmp_path / "all", Manifest("truth 1", [f"x{j}" for j in range(N)])) as store:
        one = proxyspex(f, N, budget=60, seed=1, store=store)
        two = proxyspex(f, N, budget=40, seed=1, store=store)
        other = spex(f, N, **OPTIONS, seed=1, store=store)
        assert counts(one) == (60, 0, 60, 0)
        assert counts(two) == (40, 40, 0, 0)
        assert other.report.cached > 0
        assert f.evaluated == len(store) == 60 + other.report.evaluated
        with pytest.raises(ValueError, match="fingerprint: 'truth 1' there, 'truth 2' asked"):
            proxyspex(Named("truth 2"), N, budget=60, store=store)
        without = proxyspex(truth, N, budget=40, seed=1, store=store)  # the manifest is believed
        assert without.report.evaluated == 0


def test_value_functions_and_ask_and_tell_share_a_store(tmp_path) -> None:
    options = {"budget": 120, "seed": 2}
    want = proxyspex(Toy(), **options)
    run = plan("proxyspex", features=Toy().features, store=tmp_path, fingerprint="toy", **options)
    with run:
        for i, masks in enumerate(run.batches(30)):
            run.tell(Toy()(masks))
            if i == 1:
                break
    f = Toy()
    ex = proxyspex(f, **options, store=tmp_path)
    check_same(ex, want)
    assert (counts(ex), f.evaluated) == ((120, 60, 60, 0), 60)


def test_several_outputs(tmp_path) -> None:
    """A store of a new function is begun when it is known how many there are."""
    f = Named()
    two = Named()
    two.__class__ = type("Two", (Named,), {"__call__": lambda self, m: np.stack([f(m), -f(m)], 1)})
    run = {"budget": 30, "store": tmp_path / "run"}
    first = proxyspex(two, N, **run)
    assert Store.open(tmp_path / "run").manifest.outputs == 2
    again = proxyspex(two, N, **run)
    for one, other in zip(first, again, strict=True):
        check_same(one, other)
    assert f.evaluated == 60
    assert [counts(ex) for ex in again] == [(30, 30, 0, 0)] * 2
    with pytest.raises(EvaluationError, match=r"as many outputs as before, shape \(.*, 2\)"):
        proxyspex(Named(), N, budget=40, known=tmp_path / "run")


@pytest.mark.parametrize(("call", "budget"), [(spex, 900), (proxyspex, 40), (gpspex, 24)])
def test_several_outputs_of_every_algorithm(tmp_path, call, budget) -> None:
    """Killed half way, they go on from the store, to what they are without one."""
    options = {"budget": budget, "degree": 2, "batch_size": budget // 4}

    def two(masks: np.ndarray) -> np.ndarray:
        return np.stack([truth(masks), masks[:, 0] - 0.5 * masks[:, 2]], 1)

    asked = []

    def stops(masks: np.ndarray) -> np.ndarray:
        asked.append(len(masks))
        if len(asked) == 3:
            raise RuntimeError("gone")
        return two(masks)

    want = call(two, N, **options)
    stops.fingerprint = "two"
    with pytest.raises(EvaluationError, match="the same call goes on from there"):
        call(stops, N, **options, store=tmp_path)
    found = call(stops, N, **options, store=tmp_path)
    assert len(found) == len(want) == 2
    for ex, other in zip(found, want, strict=True):
        check_same(ex, other)
        assert ex.report.cached == sum(asked[:2]) > 0
    again = resume(tmp_path)
    assert again.missing == 0
    for ex, other in zip(again.fit(), want, strict=True):
        check_same(ex, other)


# ---- Values that are only bounds -----------------------------------------------------------------


class Bounded(Toy):
    """Values of more than ten features are bounds, as of a server that does not say more."""

    def __init__(self):
        super().__init__()
        self.bounds = []

    @property
    def censored(self) -> torch.Tensor:
        return torch.cat([torch.empty(0, bits.words(self.n), dtype=torch.int64), *self.bounds])

    def run(self, masks: torch.Tensor) -> np.ndarray:
        self.bounds.append(masks[bits.sizes(masks) > 10])
        return super().run(masks)


def check_marks(store: Store, size: int = 10) -> int:
    """That those of more than `size` features are marked, and no others; how many."""
    masks, marks = zip(*((m, marks) for m, _, marks in store.blocks_marked()), strict=True)
    masks, marks = torch.cat(masks), np.concatenate(marks)
    np.testing.assert_array_equal(marks, bits.sizes(masks).numpy() > size)
    np.testing.assert_array_equal(store.lookup_marked(masks)[2], marks)
    assert 0 < marks.sum() < len(marks)
    return int(marks.sum())


def test_bounds_are_still_known_as_such_when_a_run_goes_on(tmp_path) -> None:
    f, options = Bounded(), {"budget": 120, "seed": 2}
    ex = proxyspex(f, **options, store=tmp_path / "run")
    count = check_marks(Store.open(tmp_path / "run"))
    assert ex.report.censored == count
    assert f"{count} censored" in str(ex.report)
    assert any(f"{count} values are only bounds" in text for text in ex.report.warnings)
    again = resume(tmp_path / "run")
    assert again.counts["censored"] == again.fit().report.censored == count
    again.save(tmp_path / "copy")
    check_marks(Store.open(tmp_path / "copy"))
    other = proxyspex(Toy(), **options, known=tmp_path / "run", store=tmp_path / "other")
    assert other.report.censored == count
    check_marks(Store.open(tmp_path / "other"))
    assert proxyspex(Toy(), **options).report.censored == 0


def test_bounds_pass_a_store_in_front_of_a_function(tmp_path) -> None:
    f, options = Bounded(), {"budget": 120, "seed": 2}
    manifest = Manifest.of(f)
    for _ in range(2):  # evaluated, then read
        stored = Stored(f, Store.open(tmp_path, manifest))
        with stored.store:
            ex = proxyspex(stored, **options)
        assert ex.report.censored == check_marks(Store.open(tmp_path))


def test_bounds_are_told(tmp_path) -> None:
    run = plan("spex", N, budget=900, degree=2, store=tmp_path, fingerprint="t")
    with run:
        for masks in run.batches(100):
            run.tell(truth(masks), censored=masks.sum(1) > 3)
            run.tell(truth(masks), masks[::-1].copy(), censored=np.ones(len(masks), bool))
        marked = check_marks(Store.open(tmp_path), 3)
        assert run.counts["censored"] == marked
        run.more(30)
        assert run.counts["censored"] == marked
        masks = next(run.batches(10))
        for wrong in (np.ones(9, bool), np.ones(10), [1] * 10):
            with pytest.raises(ValueError, match=r"censored must be bool \(10,\)"):
                run.tell(truth(masks), censored=wrong)


def test_two_runs_at_once(tmp_path, whole) -> None:
    """Each asks only for what the other has not told when its turn comes."""
    options = {"budget": 900, "degree": 2, "store": tmp_path, "fingerprint": "truth 1"}
    one, two = plan("spex", N, **options), plan("spex", N, **options)
    with one, two:
        for masks in one.batches(100):
            one.tell(truth(masks))
            if one.missing <= 500:
                break
        two.evaluate(truth)
        assert (two.counts["cached"], two.counts["evaluated"]) == (400, 500)
        one.evaluate(truth)
        assert (one.counts["cached"], one.counts["evaluated"]) == (500, 400)
        check_same(one.fit(), whole)
        check_same(two.fit(), whole)


# ---- On disk before it is used -------------------------------------------------------------------


def test_values_are_synced_before_any_fit(tmp_path, monkeypatch) -> None:
    from spex_core import store_shards

    real, synced = store_shards.sync, []

    def sync(file):
        real(file)
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(store_shards, "sync", sync)
    run = plan("spex", N, budget=900, degree=2, store=tmp_path, fingerprint="t")
    width = 8 * 3
    for i, masks in enumerate(run.batches(50)):
        run.tell(truth(masks))
        (shard,) = tmp_path.glob("*.part")
        assert shard.stat().st_size == width * 50 * (i + 1)  # with the kernel at once
        if i % 6 == 2:
            run.fit()
            assert synced[-1] == shard.stat().st_size
    run.close()
    assert synced[-1] == width * 900
    assert len(synced) <= 18 + 4


# ---- Refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"seed": 1}, "seed: 0 there, 1 asked"),
        ({"budget": 950}, "budget: 900 there, 950 asked"),
        ({"degree": 3, "budget": 1200}, r"options\['degree'\]: 2 there, 3 asked"),
        ({"decoder": "hard"}, r"options\['decoder'\]: 'soft' there, 'hard' asked"),
        ({"n": N + 1}, f"n: {N} there, {N + 1} asked"),
        ({"f": Named("truth 2")}, "fingerprint: 'truth 1' there, 'truth 2' asked"),
    ],
)
def test_another_run_in_the_same_directory(tmp_path, change, differs) -> None:
    """While its first writer is at work."""
    f = Named()
    first = plan("spex", N, budget=900, degree=2, store=tmp_path, fingerprint="truth 1")
    masks = next(first.batches(100))
    first.tell(truth(masks))
    options = {"f": f, "n": N} | OPTIONS | change
    with pytest.raises(ValueError, match=differs):
        spex(options.pop("f"), options.pop("n"), **options, store=tmp_path)
    first.tell(truth(next(first.batches(100))))
    first.close()
    assert len(Store.open(tmp_path)) == 200
    assert f.evaluated == 0


@pytest.mark.parametrize("call", [spex, proxyspex])
def test_foreign_and_damaged_directories(tmp_path, call) -> None:
    f, options = Named(), {"budget": 900, "degree": 2}
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"not a store: it has no manifest\.json but notes\.txt"):
        call(f, N, **options, store=tmp_path)
    with pytest.raises(FormatError, match="is not a directory"):
        call(f, N, **options, store=tmp_path / "notes.txt")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    with pytest.raises(FormatError, match=r"manifest\.json is damaged"):
        call(f, N, **options, store=broken)
    with pytest.raises(FileNotFoundError, match="no store in"):
        call(f, N, **options, known=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="store: f must have a `fingerprint`"):
        call(truth, N, **options, store=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert f.evaluated == 0


# ---- A disk that refuses -------------------------------------------------------------------------


def test_disk_full(tmp_path, monkeypatch, whole) -> None:
    """In the middle of the fourth batch. Nothing is lost, and both ways go on."""
    f, real, room = Named(), os.write, [24 * 350 + 5]

    def write(file, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= (written := real(file, data[: room[0]]))
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(EvaluationError, match="No space left on device") as failure:
            spex(f, N, **OPTIONS, store=tmp_path / "run")
    assert "but for the last values" in str(failure.value)
    assert "error.known holds all" in str(failure.value)
    masks, values = failure.value.known
    assert len(masks) == f.evaluated == 400
    np.testing.assert_array_equal(values, truth(masks))
    kept = len(Store.open(tmp_path / "run"))
    assert 300 <= kept <= 350
    ex = spex(f, N, **OPTIONS, store=tmp_path / "run", known=failure.value.known)
    check_same(ex, whole)
    assert f.evaluated == 900
    assert len(Store.open(tmp_path / "run")) == 900


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_refused_value_is_told_again_by_the_next(tmp_path, monkeypatch, call) -> None:
    from spex_core import store_shards

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = plan("spex", N, budget=900, degree=2, store=tmp_path, fingerprint="t")
    batches = run.batches(100)
    for _ in range(3):
        run.tell(truth(next(batches)))
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "write") if call == "write" else (store_shards, "sync")), refuse)
        masks = next(batches)
        with contextlib.suppress(OSError):  # a sync may be due later only
            run.tell(truth(masks), masks)
        assert run.missing == 500  # known all the same
        with pytest.raises(OSError, match="cannot write to the store"):
            run.fit()
    run.tell(truth(next(batches)))
    run.close()
    found, values = Store.open(tmp_path).lookup(run.plan.masks(0, run.plan.total))
    assert len(Store.open(tmp_path)) == 500
    dense = bits.unpack(run.plan.masks(0, run.plan.total), N)
    np.testing.assert_array_equal(values[found], truth(dense)[found])


@pytest.mark.parametrize("call", [spex, proxyspex])
def test_a_disk_that_is_read_only(tmp_path, monkeypatch, call) -> None:
    """It is seen before anything is paid for; a finished run can be read."""
    f, options = Named(), {"budget": 900, "degree": 2} if call is spex else {"budget": 30}
    call(f, N, **options, store=tmp_path / "run")
    paid, real = f.evaluated, os.open

    def refuse(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("builtins.open", _read_only(open))
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    again = call(f, N, **options, store=tmp_path / "run")
    assert again.report.evaluated == 0
    with pytest.raises(OSError, match=r"Read-only|cannot write"):
        call(f, N, **options, store=tmp_path / "new")
    assert f.evaluated == paid


def _read_only(real):
    def opened(file, mode="r", *rest, **more):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return real(file, mode, *rest, **more)

    return opened
