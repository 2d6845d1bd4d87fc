"""ProxySPEX on a device: the same as on the host, with nothing moved but the terms and what says
which come next. The CPU stands for a device, and what would move a tensor is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from planted import plant
from test_resident import function, never
from torch import Tensor
from two_worlds import DISPATCHED, Mixed, TwoWorlds, kernels_unseen, plans_of_the_host

import spex_core
from spex_core import (
    EvaluationError,
    SparseTransform,
    ops,
    resident,
    resident_fit,
    resident_proxy,
    resident_uniform,
    ridge,
)
from spex_core import masks as bits
from spex_core.backend import OPS, why_not
from spex_core.budget import plan_uniform
from spex_core.left_out import LEVELS
from spex_core.proxy import Recipe
from spex_core.transfers import Transfers

CPU = torch.device("cpu")
FEW = Recipe(folds=(2, 2), trees=4, depths=(0,), candidates=40)  # for kernels in the interpreter


def smooth(n: int) -> Callable[[Tensor], Tensor]:
    """Some large terms, and many small ones."""
    f = function(plant(n, 6, 3, seed=n))
    return lambda x: f(x) + 0.3 * torch.sin(3 * x[:, : n // 2].sum(1) + x[:, 0])


def run(f: Callable, n: int, budget: int, **options) -> resident_uniform.Run:
    how = {"degree": 5, "terms": None, "seed": 3, "batch_size": 128, "progress": None} | options
    return resident_proxy.run(f, n, CPU, lambda _: nullcontext(), budget=budget, **how)


def transform(found: resident_uniform.Run, output: int = 0) -> SparseTransform:
    samples, fit = found.samples, found.fits[output]
    coefs = torch.from_numpy(np.ldexp(fit.coefs.numpy(), samples.powers[output]))
    return SparseTransform(samples.n, samples.widened(fit.support), coefs)


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense algebra goes the way of tensors that the host does not look at."""
    monkeypatch.setattr(ridge, "readable", lambda x: False)


# More terms than samples, more samples than terms, a few of either, features that never vary.
@pytest.mark.parametrize(
    ("n", "budget"), [(20, 150), (70, 400), (9, 300), (200, 40), (40, 9), (3, 8), (9, 512)]
)
def test_the_same_as_on_the_host(n: int, budget: int, on_a_device: None) -> None:
    f = smooth(n)
    found = run(f, n, budget)
    expected = spex_core.proxyspex(
        lambda x: f(torch.from_numpy(x)).numpy(), n=n, budget=budget, seed=3
    )
    own, (fit,) = transform(found), found.fits
    assert len(own) > n // 2
    assert torch.equal(own.support, expected.transform.support)
    scale = expected.transform.coefs.abs().max().item()
    # Shares of priors come from errors in float32.
    assert torch.allclose(own.coefs, expected.transform.coefs, rtol=1e-6, atol=1e-6 * scale)
    report = expected.report
    assert (fit.r2, fit.r2_linear) == pytest.approx((report.r2, report.r2_linear), abs=1e-5)
    assert (fit.left_out, found.used) == (report.left_out, report.used)
    assert f"{len(found.samples.masks):,} masks; {fit.note}" == report.plan
    assert found.samples.warnings == report.warnings


def test_a_linear_fit_has_no_more_terms_than_asked_for() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x.double() @ 0.9 ** torch.arange(30.0, dtype=torch.float64)

    (fit,) = run(f, 30, 60, terms=5).fits
    host = spex_core.proxyspex(lambda x: f(torch.from_numpy(x)).numpy(), n=30, budget=60, terms=5,
                               seed=3)  # fmt: skip
    assert fit.note == "a linear fit: the samples left out speak for no more"
    assert torch.equal(fit.support, host.transform.support)
    assert (fit.r2, fit.r2_linear) == pytest.approx((host.report.r2, host.report.r2_linear))
    assert fit.r2 < 0.8 < 0.999 < fit.r2_linear


@pytest.mark.parametrize(("n", "budget"), [(20, 40), (70, 60)])
def test_a_share_of_a_linear_fit(n: int, budget: int, on_a_device: None) -> None:
    f = smooth(n)
    (fit,) = run(f, n, budget).fits
    host = spex_core.proxyspex(lambda x: f(torch.from_numpy(x)).numpy(), n=n, budget=budget, seed=3)
    assert fit.note.endswith("% of a linear fit")
    assert host.report.plan.endswith(fit.note)
    assert len(fit.support) == len(host.transform) > n
    assert (fit.r2, fit.r2_linear) == pytest.approx((host.report.r2, host.report.r2_linear))


def test_what_moves_does_not_grow_with_the_samples() -> None:
    moved = []
    for budget in (300, 900):
        found = run(smooth(20), 20, budget, terms=50)
        assert found.moved["to_device"] == 8 * 27 + 8  # levels, and which outputs vary
        batches = 8 * (-(-budget // 128) + 1)
        terms = found.fits[0].support.nbytes + found.fits[0].coefs.nbytes
        moved.append(found.moved["to_host"] - batches - terms)
    of_priors, of_mixture = 4 * 8 * 27, 8 * 27
    # A power, what varies, a constant, how good the fits are, scores, orders, the mean.
    each = 4 + 1 + 8 + 24 + 16 + 6 + 8
    assert {x - each - of_priors for x in moved} <= {0, of_mixture}, moved


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize(("n", "budget"), [(8, 100), (70, 60)])
def test_nothing_else_moves(
    n: int, budget: int, backend: str, monkeypatch: pytest.MonkeyPatch, on_a_device: None
) -> None:
    """The whole run with the kernels of a device, in a world where it is another one."""
    if (reason := why_not("triton") or why_not(backend)) is not None:
        pytest.skip(reason)

    def pick(op: str, name: str, device: torch.device) -> str:
        return backend if backend in OPS[op] else "triton"

    for module in DISPATCHED:
        monkeypatch.setattr(module, "pick", pick)
    f, levels = smooth(n), LEVELS.tolist()
    with TwoWorlds(monkeypatch):
        monkeypatch.setattr(resident_fit, "LEVELS", torch.tensor(levels).double())
        transfers = Transfers(CPU)
        with transfers:
            plan = plan_uniform(n, budget, device=CPU)
        values = resident.evaluate(f, plan, transfers, never, batch_size=50)[0]
        before = transfers.to_host
        with transfers:
            samples = resident_uniform.sampled(plan, values[None], transfers)
            fit = partial(resident_fit.fit, degree=3, terms=30, seed=0, recipe=FEW)
            (fit,) = resident_uniform.fit_outputs(samples, transfers, fit)
        with pytest.raises(Mixed):
            values.numpy()
    assert fit.support.on_host
    assert len(fit.support) > 5
    assert 0 < transfers.to_host - before < 20_000


@pytest.mark.parametrize(
    ("n", "budget"), [(5, 20), (12, 100), (10, 500), (70, 300), (64, 90), (12, 4096), (2, 4)]
)
@pytest.mark.parametrize("shared", [False, True])
def test_the_masks_are_those_of_the_host(
    n: int, budget: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where draws repeat, and where most of the table is asked for."""
    how = {"seed": 7, "prefix_sharing": shared}
    expected = plan_uniform(n, budget, **how)
    plans_of_the_host(monkeypatch)
    kernels_unseen(monkeypatch)
    with TwoWorlds(monkeypatch), Transfers(CPU):
        plan = plan_uniform(n, budget, **how, device=CPU)
    masks = plan.masks(0, plan.total)
    assert torch.equal(masks, expected.masks(0, expected.total))
    assert torch.equal(plan.names(masks), expected.names(masks))
    assert len(masks) == budget


def test_several_outputs_are_as_each_alone() -> None:
    parts = [smooth(12), lambda x: torch.full((len(x),), 2.5), function(plant(12, 9, 3, seed=9))]
    together = run(lambda x: torch.stack([part(x) for part in parts], 1), 12, 300)
    assert together.several
    for i, part in enumerate(parts):
        alone, (fit,) = run(part, 12, 300), run(part, 12, 300).fits
        assert transform(together, i).to_dict() == transform(alone).to_dict()
        assert (together.fits[i].r2, together.fits[i].note) == (fit.r2, fit.note)
    assert transform(together, 1).to_dict() == {(): 2.5}


@pytest.mark.parametrize("shape", [(300, 40), (40, 300)])
def test_ridge_regression_on_a_device(shape: tuple[int, int], monkeypatch) -> None:
    """By either matrix, and by conjugate gradients where neither fits."""
    (samples, terms), rng = shape, np.random.default_rng(0)
    masks, support = (bits.pack(rng.random((rows, 70)) < 0.5) for rows in (samples, terms))
    values, variance = (torch.from_numpy(rng.random(rows) + 0.1) for rows in (samples, terms))
    given = masks, values, support, variance, 0.1
    expected = ridge.ridge(*given)
    monkeypatch.setattr(ridge, "readable", lambda x: False)
    found = ridge.ridge(*given)
    assert torch.equal(found.coefs, expected.coefs)
    assert found.effective == expected.effective > 10
    monkeypatch.setattr(ridge, "DENSE", 10)
    assert torch.allclose(ridge.ridge(*given).coefs, expected.coefs, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 1, 3, 60])
def test_levels_without_looking(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps after the last that changes anything; a covariance of few dimensions has few."""
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(60, rank, generator=generator, dtype=torch.float64)
    values = torch.randn(60, generator=generator, dtype=torch.float64)
    given = (x @ x.T).float(), values, LEVELS
    expected = ridge.ridge_path(*given)
    monkeypatch.setattr(ridge, "readable", lambda x: False)
    assert torch.allclose(ridge.ridge_path(*given), expected, rtol=1e-4, atol=1e-5)
    assert not ridge.ridge_path(given[0], 0 * values, LEVELS).any()


def test_a_device_takes_the_way_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def on_device(f, n, device, clock, **how) -> resident_uniform.Run:
        seen.append(device)
        return of_proxy(f, n, CPU, clock, **how)

    of_proxy = resident_proxy.run
    monkeypatch.setattr(resident_proxy, "run", on_device)
    f, how, done = smooth(12), {"n": 12, "budget": 200, "seed": 3}, []
    found = spex_core.proxyspex(
        f, **how, device="meta", progress=lambda *x: done.append(x), batch_size=150
    )
    expected = spex_core.proxyspex(lambda x: f(torch.from_numpy(x)).numpy(), **how)
    assert seen == [torch.device("meta")]
    assert done == [(150, 200), (200, 200)]
    assert torch.equal(found.transform.support, expected.transform.support)
    assert found.report.moved["to_host"] > found.transform.support.nbytes
    same = "budget", "used", "unique", "asked", "left_out", "terms", "plan", "warnings", "preset"
    assert [getattr(found.report, name) for name in same] == [
        getattr(expected.report, name) for name in same
    ]
    assert found.report.device == "meta"


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nowhere"}, "proxyspex: device must be one that torch has, got nowhere"),
        ({"preset": "paper"}, "proxyspex: preset must be 'default' on meta, got 'paper'"),
        ({"prefix_sharing": True}, "proxyspex: prefix_sharing must be False on meta, got True"),
        ({"store": "here"}, "proxyspex: store must be None on meta"),
        ({"progress": True}, "proxyspex: progress must be None or a function"),
        ({"budget": 7}, "proxyspex: budget must be an integer >= 8"),
    ],
)
def test_what_a_device_does_not_do(options: dict, message: str) -> None:
    how = {"n": 8, "budget": 100, "device": "meta"} | options
    with pytest.raises(ValueError, match=message):
        spex_core.proxyspex(lambda x: pytest.fail("called"), **how)


def test_a_function_that_fails() -> None:
    def f(masks: Tensor) -> Tensor:
        calls.append(masks)
        if len(calls) == 2:
            raise RuntimeError("gone")
        return masks.sum(1)

    calls: list[Tensor] = []
    with pytest.raises(EvaluationError, match="RuntimeError: gone") as failed:
        run(f, 20, 200)
    assert failed.value.done == len(failed.value.values) == len(calls[0]) == 128


def test_too_little_memory_is_found_before_f_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "free_bytes", lambda device: 100_000)
    with pytest.raises(MemoryError, match=r"proxyspex: 3,000 masks of 70 features need about"):
        run(lambda x: pytest.fail("called"), 70, 3000)


@pytest.mark.parametrize("stage", ["boost", "tree_fourier", "parity_bits"])
def test_memory_that_runs_out_leaves_no_result(stage: str, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(ops, stage, full)
    with pytest.raises(torch.OutOfMemoryError):
        run(smooth(9), 9, 100)
