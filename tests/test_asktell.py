"""Ask and tell: the result of the blocking call, however the values come."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest
import torch

import spex_core
from spex_core import EvaluationError, Patience, gp_acquire, plan, resume
from spex_core import masks as bits
from spex_core.asktell import RECIPES
from spex_core.budget import further_masks
from spex_core.run import Run
from spex_core.spex import spex_recipe
from spex_core.store import Store
from spex_core.store_manifest import Manifest

N, BUDGET = 12, {"spex": 900, "proxyspex": 40, "gpspex": 24, "auto": 24}


def f(masks: np.ndarray) -> np.ndarray:
    return 1.5 * masks[:, 0] - 2.0 * (masks[:, 1] & masks[:, 4]) + 0.5 * masks[:, -1] + 0.25


def small(algorithm: str = "spex", **options) -> Run:
    degree = {"degree": 2} if algorithm == "spex" else {}
    return plan(algorithm, N, budget=BUDGET[algorithm], seed=3, **degree | options)


def blocking(algorithm: str):
    degree = {"degree": 2} if algorithm == "spex" else {}
    call = getattr(spex_core, "explain" if algorithm == "auto" else algorithm)
    return call(f, N, budget=BUDGET[algorithm], seed=3, **degree)


def check_same(ex, other) -> None:
    assert len(ex.transform) > 3
    assert torch.equal(ex.transform.support, other.transform.support)
    assert torch.equal(ex.transform.coefs, other.transform.coefs)
    assert ex.report.r2 == other.report.r2


def every_mask(run: Run) -> np.ndarray:
    return np.concatenate(list(run.batches(10**6)))


# ---- The same result -----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", RECIPES)
def test_the_loop_of_the_readme_is_the_blocking_call(algorithm) -> None:
    run = small(algorithm)
    for masks in run.batches(7):
        assert masks.dtype == np.bool_
        run.tell(f(masks))
    check_same(run.fit(), blocking(algorithm))
    assert run.missing == 0
    assert list(run.batches()) == []


@pytest.mark.parametrize("seed", range(4))
def test_any_order_any_size_repeated(seed) -> None:
    """Masks in a random order, in portions of random sizes, some twice, some as packed words."""
    rng, run = np.random.default_rng(seed), small()
    masks = every_mask(run)
    order = rng.permutation(np.r_[np.arange(len(masks)), rng.integers(len(masks), size=200)])
    while len(order):
        now, order = np.split(order, [rng.integers(1, 90)])
        part = bits.pack(masks[now]) if rng.random() < 0.5 else masks[now]
        run.tell(torch.from_numpy(f(masks[now])) if rng.random() < 0.5 else f(masks[now]), part)
    ex = run.fit()
    check_same(ex, blocking("spex"))
    assert run.counts["evaluated"] == ex.report.evaluated == len(masks) == 900
    assert not any("differed" in text for text in ex.report.warnings)


def test_every_mask_is_handed_out_once_and_again_if_nobody_told() -> None:
    run = small()
    handed = list(run.batches(64, packed=True))
    assert all(masks.dtype == torch.int64 for masks in handed)
    assert [len(masks) for masks in handed[:-1]] == [64] * (len(handed) - 1)
    table = torch.cat(handed)
    assert len(torch.unique(table, dim=0)) == len(table) == run.missing == 900
    run.tell(f(bits.unpack(handed[3], N)), handed[3])
    again = torch.cat(list(run.batches(500, packed=True)))
    assert torch.equal(again, torch.cat([*handed[:3], *handed[4:]]))


def test_held_out_masks_come_first() -> None:
    """So that a fit of part of the values has an honest score."""
    run = small()
    first = next(run.batches(run.plan.holdout, packed=True))
    assert torch.equal(first, run.plan.masks(run.plan.total - len(first), run.plan.total))


def test_several_outputs() -> None:
    run, one = small("proxyspex"), small("proxyspex")
    for masks in run.batches(25):
        run.tell(np.stack([f(masks), -3 * f(masks)], axis=1))
        one.tell(f(masks), masks)
    ex, other = run.fit()
    check_same(ex, one.fit())
    torch.testing.assert_close(other.transform.coefs, -3 * ex.transform.coefs)
    assert [ex.report.evaluated, other.report.evaluated] == [40, 40]


def test_a_batch_is_told_after_more_masks_were_asked_for() -> None:
    """They stand before the masks held out, which have other rows then."""
    run = small()
    masks = next(run.batches(run.plan.holdout))
    run.more(50)
    run.tell(f(masks))
    found, values = run.samples()
    assert len(found) == run.plan.holdout
    np.testing.assert_array_equal(values.numpy(), f(bits.unpack(found, N)))
    assert {row.tobytes() for row in bits.unpack(found, N)} == {row.tobytes() for row in masks}


@pytest.mark.parametrize("kind", [list, np.float32, "strided", "tensor", "again", np.float64])
def test_arrays_that_are_taken_as_they_are_and_others(kind) -> None:
    """The short way of compiled code, and the long one, lead to the same."""
    run, other = small(), small()
    for at, masks in enumerate(run.batches(64)):
        values = np.round(f(masks), 3).astype(np.float32).astype(np.float64)
        asked = values.copy()
        if kind == "again":
            run.tell(asked)
        else:
            told = {
                "strided": lambda v: np.repeat(v, 2)[::2],
                "tensor": torch.from_numpy,
                list: list,
            }
            run.tell(told.get(kind, lambda v: v.astype(kind))(asked) if at else asked)
        asked += 1.0  # the caller's own
        if kind == "again":
            run.tell(values + 5.0)
        other.tell(values, masks)
    assert run.counts | {"evaluated": 0} == other.counts | {"evaluated": 0}
    for one, two in zip(run.samples(), other.samples(), strict=True):
        assert torch.equal(one, two)
    warned = any(
        "values were told again and differed" in text for text in run.fit().report.warnings
    )
    assert warned == (kind == "again")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_of_a_bad_array_the_others_are_kept(bad) -> None:
    run = small()
    for masks in run.batches(64):
        values = f(masks)
        values[3] = bad
        with pytest.raises(ValueError, match="the others are kept"):
            run.tell(values)
    assert run.missing == -(-900 // 64)
    assert np.isfinite(run.samples()[1].numpy()).all()


# ---- Part of the values --------------------------------------------------------------------------


def told(run: Run, share: float) -> Run:
    masks = every_mask(run)[: int(share * run.missing)]
    run.tell(f(masks), masks)
    return run


def test_a_fit_of_whole_groups() -> None:
    ex = told(small(), 0.8).fit()
    assert ex.report.algorithm == "spex"
    assert (ex.report.missing, ex.report.unique, ex.report.evaluated) == (180, 720, 720)
    assert ex.report.left_out == 45
    assert ex.report.r2 > 0.999
    assert ex.report.warnings[:2] == [
        "180 of 900 masks have no value yet: this is the fit of the others",
        "of 3 groups of masks 2 have all their values",
    ]
    assert "720 unique masks, 180 missing" in str(ex.report)
    check_planted(ex)


def test_a_fit_before_any_group_is_whole() -> None:
    ex = told(small(), 0.1).fit()
    assert (ex.report.algorithm, ex.report.missing, ex.report.unique) == ("proxyspex", 810, 90)
    assert ex.report.r2 > 0.9
    assert any("no group of masks has all its values yet" in text for text in ex.report.warnings)


def test_a_fit_without_the_masks_held_out() -> None:
    run = small()
    masks = every_mask(run)[run.plan.holdout :]
    run.tell(f(masks), masks)
    ex = run.fit()
    assert (ex.report.algorithm, ex.report.left_out) == ("spex", 0)
    assert any("R2 is of the samples fitted" in text for text in ex.report.warnings)
    check_planted(ex)


def check_planted(ex) -> None:
    assert ex.interactions("Fourier", order=2)[(1, 4)] == pytest.approx(-0.5, abs=1e-6)


def test_a_fit_of_a_whole_table_in_part() -> None:
    run = told(plan("spex", 7, budget=200), 0.7)
    assert run.plan.code is None
    ex = plan("spex", 7, budget=200, known=run._ledger.paid()).fit()
    assert ex.report.algorithm == "proxyspex"
    assert (ex.report.cached, ex.report.evaluated, ex.report.missing) == (89, 0, 39)


def test_fits_on_the_way_change_nothing() -> None:
    run = small()
    for i, masks in enumerate(run.batches(300)):
        run.tell(f(masks))
        if i < 2:
            run.fit()
    ex = run.fit()
    check_same(ex, blocking("spex"))
    assert ex.report.warnings == blocking("spex").report.warnings


def test_nothing_told() -> None:
    with pytest.raises(ValueError, match="fit: values must be told first, got none"):
        small().fit()


def test_too_little_told() -> None:
    run = small("proxyspex")
    run.tell(f(next(run.batches(3))))
    with pytest.raises(ValueError, match="masks must be at least 8 different ones, got 3"):
        run.fit()


# ---- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 70])
def test_masks_never_asked_for(n) -> None:
    run = plan("proxyspex", n, budget=50)
    masks = every_mask(run)
    foreign = ~masks[:5]
    mixed = np.concatenate([masks[:3], foreign])
    with pytest.raises(
        ValueError, match="ones that the run asks for; 5 of 8 are not, the first in row 3"
    ):
        run.tell(np.zeros(8), mixed)
    assert run.missing == 50
    with pytest.raises(ValueError, match=r"tell: masks must be bool \(T, .*\) or packed"):
        run.tell(np.zeros(5), masks[:5, 1:])


def test_values_that_are_none() -> None:
    run = small()
    with pytest.raises(ValueError, match="tell: masks must be given, as no batch is handed out"):
        run.tell([1.0])
    masks = next(run.batches(4))
    for values, kind, message in [
        ([1.0, 2.0], ValueError, r"tell: values: .*shape \(4,\) .*, got shape \(2,\)"),
        (np.zeros((4, 2, 1)), ValueError, r"\(4, outputs\), got shape \(4, 2, 1\)"),
        (np.zeros(4) * 1j, TypeError, "tell: values: it must return real numbers"),
        (["a"] * 4, ValueError, "tell: values: could not convert"),
    ]:
        with pytest.raises(kind, match=message):
            run.tell(values, masks)
    assert run.missing == 900
    with pytest.raises(ValueError, match="the others are kept"):
        run.tell([1.0, np.nan, 3.0, np.inf], masks)
    assert run.missing == 898
    assert next(run.batches(2)).tolist() == masks[[1, 3]].tolist()


def test_the_first_value_stays_and_the_report_says_so() -> None:
    run = small()
    masks = every_mask(run)
    run.tell(f(masks), masks)
    run.tell(f(masks[:9]) + 1, masks[:9])
    run.tell([f(masks[:1])[0], -5.0], masks[[0, 0]])
    ex = run.fit()
    check_same(ex, blocking("spex"))
    assert ex.report.warnings[0] == ("10 values were told again and differed: the first ones count")
    assert ex.report.evaluated == 900


def test_another_number_of_outputs() -> None:
    run = small("proxyspex")
    masks = every_mask(run)
    run.tell(np.zeros((5, 2)), masks[:5])
    for part in (masks[5:9], masks[:5]):
        with pytest.raises(ValueError, match="as many outputs as before"):
            run.tell(np.zeros(len(part)), part)
    assert run.missing == 35


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"algorithm": "lime"}, ValueError, "plan: algorithm must be one of 'spex', 'prox"),
        ({"terms": 5}, TypeError, "plan: spex takes the options .*, got terms"),
        ({"n": None}, ValueError, "plan: n or features must be given"),
        ({"budget": 10}, ValueError, "budget must be at least .* got 10"),
        ({"decoder": "mild"}, ValueError, "decoder must be 'soft' or 'hard'"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"store": "here"}, ValueError, "store: f must have a `fingerprint`"),
    ],
)
def test_bad_plans(options, kind, message) -> None:
    options = {"algorithm": "spex", "n": 30, "budget": 2000} | options
    with pytest.raises(kind, match=message):
        plan(options.pop("algorithm"), options.pop("n"), **options)


# ---- More ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["spex", "proxyspex", "gpspex"])
def test_more_masks_after_a_fit(algorithm) -> None:
    run = small(algorithm)
    before = every_mask(run)
    run.tell(f(before), before)
    first = run.fit()
    assert run.more(40, first) == 40
    assert run.missing == 40
    new = every_mask(run)
    assert len(np.unique(np.concatenate([before, new]), axis=0)) == len(before) + 40
    run.tell(f(new), new)
    ex = run.fit()
    assert ex.report.unique == first.report.unique + 40
    assert ex.report.left_out >= first.report.left_out
    assert ex.report.r2 > 0.999


def test_a_process_chooses_by_what_it_would_learn() -> None:
    run = told(plan("gpspex", N, budget=24, seed=2), 1)
    masks = run.recipe.propose(run.plan, 10, run.fit())
    candidates = further_masks(run.plan, 512)
    assert torch.equal(masks, gp_acquire.propose(run.fit().process, 10, candidates=candidates))
    assert not torch.equal(masks, candidates[:10])
    assert torch.equal(run.recipe.propose(run.plan, 10, None), candidates[:10])
    for quantity in gp_acquire.QUANTITIES:
        recipe = dataclasses.replace(run.recipe, acquire=quantity)
        how = {"quantity": quantity, "candidates": candidates}
        expected = gp_acquire.propose(run.fit().process, 10, **how)
        assert torch.equal(recipe.propose(run.plan, 10, run.fit()), expected)
    recipe = dataclasses.replace(run.recipe, acquire=None)
    assert torch.equal(recipe.propose(run.plan, 10, run.fit()), candidates[:10])


def test_a_fit_that_chose_masks_says_so() -> None:
    """Once their values are there; further uniform masks need no warning."""
    run = told(plan("gpspex", N, budget=24, seed=2), 1)
    ex = run.fit()
    assert run.more(10) == 10
    assert told(run, 1).fit().report.warnings == []
    assert run.more(10, ex) == 10
    assert run.fit().report.warnings == [
        "10 of 44 masks have no value yet: this is the fit of the others"
    ]
    (warning,) = told(run, 1).fit().report.warnings
    assert warning.startswith("10 of 44 masks were chosen by an earlier fit and are not uniform: ")


def test_masks_that_are_held_out_are_not_chosen() -> None:
    """SPEX scores itself on uniform masks of its plan, and further masks are uniform."""
    run = told(small(), 1)
    run.more(10, run.fit())
    assert told(run, 1).fit().report.warnings == []


def test_more_than_there_is() -> None:
    run = told(plan("proxyspex", 5, budget=20), 1)
    assert run.more(100) == 12
    assert run.missing == 12
    told(run, 1)
    assert run.fit().report.left_out == 0  # the whole table


def test_an_adaptive_algorithm_chooses_by_what_it_found(monkeypatch) -> None:
    recipe = spex_recipe(budget=900, degree=2, seed=3)
    chosen = bits.pack(np.eye(N, dtype=np.bool_))
    seen = []

    def propose(self, plan, count, found):
        seen.append(found)
        new = ~torch.isin(chosen[:, 0], plan.masks(0, plan.total)[:, 0])
        return chosen[new][:count]

    monkeypatch.setattr(type(recipe), "propose", propose)
    run = told(Run(recipe, tuple(f"x{i}" for i in range(N))), 1)
    ex = run.fit()
    assert 0 < run.more(3, ex) <= 3
    assert seen == [ex]
    assert every_mask(run).sum(1).tolist() == [1] * run.missing
    answers = []
    monkeypatch.setattr(type(recipe), "fit", lambda self, answered, _: answers.append(answered))
    monkeypatch.setattr(run, "_reported", lambda ex: ex)
    run.fit()
    new = run.missing
    told(run, 1).fit()
    assert [answered.chosen for answered in answers] == [0, new]  # though some rows are held out


# ---- Save and resume -----------------------------------------------------------------------------


def test_a_run_saved_in_part_goes_on(tmp_path) -> None:
    run = told(small(fingerprint="toy 1"), 0.4)
    run.save(tmp_path / "run")
    run.save(tmp_path / "run")  # adds nothing
    with resume(tmp_path / "run") as again:
        assert again.recipe == run.recipe
        assert (again.features, again.missing) == (run.features, 540)
        assert again.counts["cached"] == 360
        for masks in again.batches(100):
            again.tell(f(masks))
        check_same(again.fit(), blocking("spex"))
    assert len(Store.open(tmp_path / "run")) == 900
    with pytest.raises(ValueError, match="fingerprint: 'toy 1' there, 'toy 2' asked"):
        resume(tmp_path / "run", fingerprint="toy 2")


@pytest.mark.parametrize("algorithm", RECIPES)
def test_resume_knows_the_options(tmp_path, algorithm) -> None:
    options = {"spex": {"decoder": "hard", "degree": 3, "prefix_sharing": True}}
    options["auto"] = {"degree": 4, "prefix_sharing": True}
    given = options.get(algorithm, {"preset": "default", "degree": 4, "terms": 900})
    run = plan(algorithm, features=["a", "b", *"cdefghijkl"], budget=1200, seed=5, **given)
    run.save(tmp_path / "run")
    again = resume(tmp_path / "run")
    assert again.features == run.features
    assert again.recipe.options == run.recipe.options
    assert torch.equal(again.plan.masks(0, 500), run.plan.masks(0, 500))


def test_outputs_are_saved(tmp_path) -> None:
    run = small("proxyspex")
    masks = every_mask(run)
    run.tell(np.stack([f(masks), 1 - f(masks)], axis=1), masks)
    run.save(tmp_path / "run")
    for ex, other in zip(resume(tmp_path / "run").fit(), run.fit(), strict=True):
        check_same(ex, other)


def test_what_cannot_be_resumed(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no store in"):
        resume(tmp_path)
    Store.open(tmp_path / "values", Manifest("toy", ["a", "b"]))
    with pytest.raises(ValueError, match="must be the store of a run, got one of values without"):
        resume(tmp_path / "values")


# ---- Coroutines ----------------------------------------------------------------------------------


class Server:
    """An async f that counts the calls at a time, and fails at some."""

    def __init__(self, fail=lambda call: None):
        self.calls = self.now = self.most = 0
        self.fail = fail

    async def __call__(self, masks: np.ndarray) -> np.ndarray:
        call, self.calls = self.calls, self.calls + 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.001 * (call % 3))  # answers come in another order
            answer = self.fail(call)
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, float):
                await asyncio.sleep(answer)
            return f(masks) if not callable(answer) else answer(f(masks))
        finally:
            self.now -= 1


QUICK = Patience(retries=2, wait=0.0)


async def drain(run: Run, server: Server, **options) -> int:
    options = {"batch_size": 50, "concurrency": 4} | options
    return sum([len(masks) async for masks, _ in run.answers(server, **options)])


@pytest.mark.parametrize("concurrency", [1, 4, 100])
def test_bounded_concurrency(concurrency) -> None:
    run, server = small(), Server()
    assert asyncio.run(drain(run, server, concurrency=concurrency)) == 900
    assert server.most == min(concurrency, 18)
    check_same(run.fit(), blocking("spex"))


def test_answers_are_those_of_the_masks() -> None:
    async def check(run: Run) -> None:
        async for masks, values in run.answers(Server(), batch_size=33, concurrency=5):
            np.testing.assert_array_equal(values, f(masks))

    asyncio.run(check(small()))


def test_a_failing_call_is_made_again() -> None:
    def fail(call):
        return ConnectionError("reset") if call % 3 == 0 else None

    run = small()
    asyncio.run(drain(run, Server(fail), patience=QUICK))
    assert run.counts["failed"] >= 6
    check_same(run.fit(), blocking("spex"))


def test_a_call_that_hangs_is_made_again() -> None:
    run = small()
    server = Server(lambda call: 60.0 if call == 5 else None)
    asyncio.run(drain(run, server, patience=Patience(retries=1, wait=0, timeout=0.2)))
    assert run.counts["failed"] == 1
    check_same(run.fit(), blocking("spex"))


def test_values_that_are_not_finite_are_asked_for_again() -> None:
    def broken(values):
        values = values.copy()
        values[::2] = np.nan
        return values

    run = small()
    asyncio.run(drain(run, Server(lambda call: broken if call == 4 else None), patience=QUICK))
    assert run.counts["failed"] == 1
    check_same(run.fit(), blocking("spex"))


def test_a_failure_keeps_what_the_other_calls_said() -> None:
    """The call that fails is the fastest of four."""
    run, server = small(), Server(lambda call: RuntimeError("gone") if call == 3 else None)
    with pytest.raises(EvaluationError, match="RuntimeError: gone") as failure:
        asyncio.run(drain(run, server))
    assert server.now == 0
    assert failure.value.done == 900 - run.missing >= 150
    assert len(failure.value.known[0]) == failure.value.done
    asyncio.run(drain(run, Server()))
    check_same(run.fit(), blocking("spex"))


def test_stopping_half_way_loses_nothing_that_was_answered() -> None:
    async def some(run: Run, server: Server) -> None:
        stream = run.answers(server, batch_size=50, concurrency=4)
        async for _ in stream:
            if run.missing < 500:
                break
        await stream.aclose()
        assert server.now == 0

    run, server = small(), Server()
    asyncio.run(some(run, server))
    left = run.missing
    assert 0 < left < 500
    assert asyncio.run(drain(run, Server())) == left
    check_same(run.fit(), blocking("spex"))
