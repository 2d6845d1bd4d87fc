"""auto.py: shares against their rules, sums of transforms, and what the stack is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from planted import plant_products
from test_proxyspex import drawn, simple

from spex_core import fit, gp_memory
from spex_core import masks as bits
from spex_core.auto import AUTO, AutoRecipe, linear_fit, shares_of, simplex
from spex_core.sparse import added, strongest


@pytest.fixture(autouse=True)
def one_core(set_threads: Callable[[int], None]) -> None:
    """Fits this small are the faster on one thread."""
    set_threads(1)


def left_out(scales: dict[str, float], rows: int = 200, seed: int = 0):
    """A truth of variance one, and members that err independently by so much."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=rows)
    return {name: truth + scale * rng.normal(size=rows) for name, scale in scales.items()}, truth


def error(fits: dict[str, np.ndarray], truth: np.ndarray, shares: dict[str, float]) -> float:
    return float(((sum(shares[name] * fits[name] for name in fits) - truth) ** 2).mean())


def test_shares_are_the_simplex() -> None:
    grid = simplex(3, 4)
    assert len(grid) == 15
    np.testing.assert_allclose(grid.sum(1), 1.0)
    assert len(np.unique(grid, axis=0)) == 15
    assert grid.min() == 0
    assert simplex(1, 4).tolist() == [[1.0]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scales", [(2.0, 0.3, 0.3), (0.1, 0.5, 1.0), (1.0, 0.2, 0.9)])
def test_never_worse_than_the_best_member(scales: tuple[float, ...], seed: int) -> None:
    names = ("linear", "proxyspex", "gpspex")
    fits, truth = left_out(dict(zip(names, scales, strict=True)), 60, seed)
    shares = shares_of(fits, truth, AUTO)
    assert sum(shares.values()) == pytest.approx(1.0)
    single = min(error(fits, truth, {x: float(x == y) for x in names}) for y in names)
    assert error(fits, truth, shares) <= single + 0.005 * truth.var()


def test_errors_that_differ_cancel() -> None:
    fits, truth = left_out({"linear": 3.0, "proxyspex": 0.5, "gpspex": 0.5})
    shares = shares_of(fits, truth, AUTO)
    assert 0.2 <= shares["proxyspex"] <= 0.6
    assert shares["linear"] <= 0.1
    single = error(fits, truth, {"linear": 0.0, "proxyspex": 0.0, "gpspex": 1.0})
    assert error(fits, truth, shares) < 0.8 * single


def test_where_nothing_tells_them_apart_the_last_is_alone() -> None:
    fits, truth = left_out({"gpspex": 0.3})
    fits = {"linear": fits["gpspex"], "proxyspex": fits["gpspex"], "gpspex": fits["gpspex"]}
    assert list(shares_of(fits, truth, AUTO).values()) == [0.0, 0.0, 1.0]
    del fits["gpspex"]
    assert shares_of(fits, truth, AUTO) == {"linear": 0.0, "proxyspex": 1.0}


def test_many_samples_decide_and_few_do_not() -> None:
    """With independent errors the least is at shares inverse to their squares."""
    scales = {"linear": 1.0, "proxyspex": 0.3, "gpspex": 0.5}
    weights = 1.0 / np.square(list(scales.values()))
    shares = shares_of(*left_out(scales, 20_000), AUTO)
    np.testing.assert_allclose(list(shares.values()), weights / weights.sum(), atol=0.05)
    few = shares_of(*left_out(scales, 10), AutoRecipe(worse=1.0, strength=500.0))
    np.testing.assert_allclose(list(few.values()), [0.0, 0.0, 1.0], atol=0.1)


def test_a_member_that_is_far_better_is_alone() -> None:
    fits, truth = left_out({"linear": 0.01, "proxyspex": 1.0, "gpspex": 1.0})
    assert shares_of(fits, truth, AUTO)["linear"] == 1.0


def test_one_sample_does_not_decide() -> None:
    fits, truth = left_out({"linear": 3.0, "proxyspex": 0.31, "gpspex": 0.3}, 100)
    fits["gpspex"][7] += 2.9
    assert shares_of(fits, truth, AutoRecipe(worse=1.0))["gpspex"] >= 0.3


def test_rare_errors_bring_in_little_of_a_linear_fit() -> None:
    """It errs more, but not where the others err most."""
    fits, truth = left_out({"linear": 0.6, "proxyspex": 0.31, "gpspex": 0.3}, 1000)
    fits["gpspex"][:30] += 2.0
    fits["proxyspex"][:30] += 2.0
    alike = shares_of(fits, truth, AutoRecipe(doubt=1.0))["linear"]
    assert shares_of(fits, truth, AUTO)["linear"] < 0.7 * alike


def test_a_sum_of_transforms() -> None:
    one = torch.tensor([[0], [5], [2]]), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    two = torch.tensor([[2], [0], [-1]]), torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    support, coefs = added([one, two])
    assert support[0].item() == 0
    found = dict(zip(support[:, 0].tolist(), coefs.tolist(), strict=True))
    assert found == {0: 21.0, 5: 2.0, 2: 13.0, -1: 30.0}
    few, kept = strongest(support, coefs, 2)
    assert dict(zip(few[:, 0].tolist(), kept.tolist(), strict=True)) == {0: 21.0, -1: 30.0, 2: 13.0}


def test_a_linear_function_has_a_linear_fit() -> None:
    """The mean over the samples is not the constant."""
    masks = drawn(12, 60)
    y = masks @ np.arange(1.0, 13.0)
    found = linear_fit(bits.pack(masks), torch.from_numpy(y), 12)
    np.testing.assert_allclose(found.coefs[0], 39.0, rtol=1e-3)
    np.testing.assert_allclose(found.coefs[1:], -np.arange(1.0, 13.0) / 2, atol=0.02)


def test_the_stack_from_end_to_end() -> None:
    f = plant_products(20, 6, 3, seed=0, snr=10)
    masks = drawn(20, 200)
    y = f(masks)  # noise is new each time
    ex, proxy, gp = (
        fit(masks, y, algorithm=name, seed=1) for name in ("auto", "proxyspex", "gpspex")
    )
    report = ex.report
    assert (report.algorithm, report.left_out) == ("auto", 200)
    assert report.r2_process == pytest.approx(report.r2, abs=0.02)
    assert 0 <= report.missed < gp.report.missed + 1e-9
    assert report.r2 >= max(proxy.report.r2, gp.report.r2, report.r2_linear) - 0.005
    shares = {
        name: int(text.split(f"{name} ")[1].split("%")[0]) / 100 if f"{name} " in text else 0.0
        for text in [report.plan.split(";")[1]]
        for name in ("linear", "proxyspex", "gpspex")
    }
    assert shares["gpspex"] > 0
    if not shares["linear"]:
        want = sum(
            shares[name] * one.transform.predict(masks)
            for name, one in (("proxyspex", proxy), ("gpspex", gp))
        )
        np.testing.assert_allclose(ex.transform.predict(masks), want, atol=1e-9)
    mine, theirs = ex.transform.to_dict(), gp.transform.to_dict()
    errors = dict(zip(theirs, gp.transform.stderr.tolist(), strict=True))
    for term, stderr in zip(mine, ex.transform.stderr.tolist(), strict=True):
        if term in errors:
            wider = (errors[term] ** 2 + (mine[term] - theirs[term]) ** 2) ** 0.5
            assert stderr == pytest.approx(wider, rel=1e-9)
    unseen = drawn(20, 300, seed=8)
    mean, stderr = ex.process.predict(unseen)
    np.testing.assert_allclose(mean, ex.transform.predict(unseen), atol=0.02)
    own = dataclasses.replace(ex.process, share=1.0, rest=None)
    bare, least = own.predict(unseen)
    assert np.abs(bare - mean).max() > 0.02
    np.testing.assert_allclose(stderr, np.hypot(least, mean - bare), rtol=1e-9)


def test_one_member_where_there_is_no_place_for_the_terms_of_all() -> None:
    f = plant_products(20, 6, 3, seed=0)
    masks = drawn(20, 100)
    for terms in (9, 25):
        ex, *members = (
            fit(masks, f(masks), algorithm=name, terms=terms, degree=3, seed=1)
            for name in ("auto", "proxyspex", "gpspex")
        )
        assert "100%" in ex.report.plan
        assert ("linear" in ex.report.plan) == (terms == 25)
        assert ex.report.r2 >= max(one.report.r2 for one in members) - 0.005
        assert any(torch.equal(ex.transform.coefs, one.transform.coefs) for one in members)


def test_outputs_and_scale() -> None:
    masks = drawn(12, 40)
    y = simple(masks)
    outputs = [y, y * 2.0**-1000, np.full(40, 0.3)]
    one, tiny, constant = fit(masks, np.stack(outputs, 1), algorithm="auto")
    assert torch.equal(one.transform.coefs * 2.0**-1000, tiny.transform.coefs)
    assert torch.equal(one.transform.support, tiny.transform.support)
    assert constant.transform.to_dict() == {(): 0.3}
    twice = np.concatenate([np.arange(40), [5] * 7])
    repeated = fit(masks[twice], y[twice], algorithm="auto").transform
    assert torch.equal(one.transform.coefs, repeated.coefs)


def test_what_the_machine_can_afford(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = drawn(12, 40)
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: 10**4)
    ex = fit(masks, simple(masks), algorithm="auto")
    assert "gpspex" not in ex.report.plan
    assert ex.transform.stderr is ex.process is None
    assert not gp_memory.affordable(400, 40, 5, 1)
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: None)
    assert gp_memory.affordable(5000, 40, 5, 1)
    assert not gp_memory.affordable(5001, 40, 5, 1)
    assert gp_memory.affordable(1000, 64, 4, 10)
    assert not gp_memory.affordable(1000, 64, 4, 40)
    assert not gp_memory.affordable(1500, 5000, 5, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "paper"}, "preset must be 'default', got 'paper'"),
        ({"degree": 9}, "degree must be an integer >= 1 and <= 8, got 9"),
        ({"terms": 0}, "terms must be an integer >= 1, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0"),
    ],
)
def test_bad_options(change: dict, message: str) -> None:
    masks = drawn(12, 40)
    with pytest.raises(ValueError, match=f"fit: {message}"):
        fit(masks, simple(masks), algorithm="auto", **change)
