"""SPEX on a device: the same as on the host, with nothing moved but the plan and the terms. There
is no device here, so the CPU stands for one, and what would move a tensor is refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from planted import Planted, plant
from torch import Tensor
from torch.utils._pytree import tree_leaves
from two_worlds import (
    DISPATCHED,
    Mixed,
    TwoWorlds,
    kernels_unseen,
    of_the_host,
    on_host,
    plans_of_the_host,
)

import spex_core
from spex_core import EvaluationError, SparseTransform, resident
from spex_core import masks as bits
from spex_core.backend import why_not
from spex_core.budget import plan_spex
from spex_core.plan import SamplingPlan
from spex_core.transfers import Transfers
from spex_core.values import TrainingGroups

recipe = importlib.import_module("spex_core.spex")
CPU = torch.device("cpu")


def function(f: Planted) -> Callable[[Tensor], Tensor]:
    """A value function on tensors, without noise."""
    sets = [torch.tensor(k, dtype=torch.int64) for k in f.terms]
    coefs = torch.tensor(list(f.terms.values()), dtype=torch.float64)

    def call(masks: Tensor) -> Tensor:
        assert masks.dtype == torch.bool
        odd = torch.stack([masks[:, k].sum(1) % 2 for k in sets], 1)
        return (1 - 2 * odd).double() @ coefs

    return call


def run(
    f: Callable,
    n: int,
    budget: int,
    batch_size: int = 700,
    degree: int = 2,
    seed: int = 0,
    **options,
) -> resident.Run:
    def plan(device: torch.device | None) -> SamplingPlan:
        return plan_spex(n, budget, degree=degree, seed=seed, device=device)

    how = {"decoder": "soft", "progress": None, "backend": "auto", "budget": budget} | options
    return resident.run(f, n, plan, CPU, lambda _: nullcontext(), batch_size=batch_size, **how)


def never(device: object) -> SamplingPlan:
    pytest.fail("the plan is made again")


def bytes_of(plan: SamplingPlan) -> int:
    tensors = plan.columns, plan.delays, plan.hashes, plan.delay_columns
    return sum(x.nbytes for x in tensors)


@pytest.mark.parametrize(("n", "budget"), [(20, 3000), (70, 3000), (8, 256), (10, 900)])
def test_the_same_as_on_the_host(n: int, budget: int) -> None:
    f = plant(n, 12, 3, seed=1)
    smooth = function(f)

    def call(masks: Tensor) -> Tensor:
        return smooth(masks) + 0.05 * torch.sin(7 * masks[:, 1:9].sum(1) + masks[:, 0])

    plan = plan_spex(n, budget, degree=3, seed=3)
    found = run(call, n, budget, degree=3, seed=3)
    values = call(torch.from_numpy(bits.unpack(plan.masks(0, plan.total), n)))
    expected = recipe.fit_plan(plan, values)
    (fitted,) = found.outputs
    assert len(expected) > 10
    assert torch.equal(fitted.transform.support, expected.support)
    assert torch.allclose(fitted.transform.coefs, expected.coefs, rtol=1e-7, atol=1e-9)
    assert (fitted.r2, fitted.r2_linear) == pytest.approx(recipe.scores(plan, values, expected))
    assert found.used == len(plan.places.first)
    assert torch.equal(found.plan.masks(0, plan.total), plan.masks(0, plan.total))
    assert not found.several
    batches = 8 * (-(-plan.total // 700) + 1)
    terms = fitted.transform.support.nbytes + fitted.transform.coefs.nbytes
    decoded = 16 if plan.code else 0  # the scale of the bins, the number of terms
    assert found.moved == {
        "to_device": bytes_of(plan),
        "to_host": terms + 16 + batches + decoded,  # scores
    }


@pytest.mark.skipif(why_not("triton") is not None, reason="needs Triton")
def test_nothing_else_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole run with the kernels of a device, in a world where it is another one."""
    f = plant(9, 3, 2, seed=0)
    there, call = plan_spex(9, 400, degree=2, device=CPU), function(f)
    for module in DISPATCHED:
        monkeypatch.setattr(module, "pick", lambda op, name, device: "triton")
    monkeypatch.setattr(resident, "SparseTransform", lambda *fields: fields)
    with TwoWorlds(monkeypatch):
        transfers = Transfers(CPU)
        values = resident.evaluate(call, there, transfers, never, batch_size=100)[0]
        with transfers:
            found = resident.fit_plan(there, values[None], transfers, decoder="hard")
        with pytest.raises(Mixed):
            values.numpy()
    n, support, coefs = found[0].transform
    assert support.on_host
    assert coefs.on_host
    assert SparseTransform(n, support, coefs).to_dict() == pytest.approx(f.terms)


def test_several_outputs_are_as_each_alone() -> None:
    parts = [function(plant(12, terms, 3, seed=terms)) for terms in (5, 9, 1)]
    together = run(lambda x: torch.stack([part(x) for part in parts], 1), 12, 1500, degree=3)
    assert together.several
    assert together.used == 1500
    for part, fitted in zip(parts, together.outputs, strict=True):
        (alone,) = run(part, 12, 1500, degree=3).outputs
        assert torch.equal(fitted.transform.support, alone.transform.support)
        assert torch.equal(fitted.transform.coefs, alone.transform.coefs)
        assert (fitted.r2, fitted.r2_linear) == (alone.r2, alone.r2_linear)


def test_several_outputs_on_the_host() -> None:
    parts = [plant(12, terms, 3, seed=terms) for terms in (5, 9)]
    how = {"n": 12, "budget": 1500, "degree": 3}
    found = spex_core.spex(lambda x: np.stack([part(x) for part in parts], 1), **how)
    for part, explained in zip(parts, found, strict=True):
        alone = spex_core.spex(part, **how)
        assert torch.equal(explained.transform.support, alone.transform.support)
        assert torch.equal(explained.transform.coefs, alone.transform.coefs)
        assert explained.report.r2 == alone.report.r2
        assert explained.report.moved == {}


def test_the_report_names_the_bytes(tmp_path) -> None:
    explained = spex_core.spex(plant(8, 3, 2, seed=0), n=8, budget=256, degree=2)
    assert "moved" not in str(explained.report)
    explained.report.moved.update(to_device=12345, to_host=678)
    assert "moved       12,345 bytes to the device, 678 to the host" in str(explained.report)
    explained.save(tmp_path / "run.npz")
    assert spex_core.load(tmp_path / "run.npz").report.moved == explained.report.moved


def test_a_linear_fit_of_many_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """By conjugate gradients, where the Gram matrix would be large."""
    masks = bits.pack(np.random.default_rng(0).random((400, 70)) < 0.5)
    values = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    support, expected = resident.linear_fit(masks, values, 70)
    assert bits.unpack_sets(support) == [(), *((i,) for i in range(70))]
    monkeypatch.setattr(resident, "MOST_LINEAR", 69)
    assert torch.allclose(resident.linear_fit(masks, values, 70)[1], expected, atol=1e-9)


def test_r_squared_of_equal_values() -> None:
    same = torch.full((3,), 2.0)
    assert resident.r_squared(same, same) == 1
    assert resident.r_squared(same, same + 1e-3) == 0
    assert resident.r_squared(torch.arange(3.0), torch.ones(3)) == 0


# Bad input.


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: x.sum(1).numpy(), r"got ndarray"),
        (lambda x: x.sum(1).to("meta"), r"a tensor on cpu of shape \(\d+,\)"),
        (lambda x: x.sum(1)[:-1], r"of shape \((\d+),\) or .*, got \((?!\1)\d+,\)"),
        (lambda x: x.sum(1)[:, None, None], r"got \(\d+, 1, 1\)"),
        (lambda x: x.sum(1) / 0, "values must be finite"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_bad_functions(f: Callable, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        run(f, 9, 400, batch_size=100)


def test_what_was_paid_for_is_kept() -> None:
    calls = []

    def f(masks: Tensor) -> Tensor:
        calls.append(masks)
        if len(calls) == 3:
            raise RuntimeError("gone")
        return masks.sum(1)

    with pytest.raises(EvaluationError, match="RuntimeError: gone") as failed:
        run(f, 70, 3000, batch_size=50)
    masks = torch.cat(calls[:2]).numpy()
    assert failed.value.done == len(masks) > 50
    assert np.array_equal(failed.value.masks, masks)
    assert np.array_equal(failed.value.values, masks.sum(1))


@pytest.mark.parametrize(
    ("n", "budget", "shared"),
    [(70, 1500, True), (9, 300, False), (10, 900, False), (7, 128, False)],
)
def test_a_plan_of_a_device_is_that_of_the_host(
    n: int, budget: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn there and not sent: also where draws repeat, and most of the table is asked for."""
    how = {"degree": 2, "seed": 5, "prefix_sharing": shared}
    expected = plan_spex(n, budget, **how)
    plans_of_the_host(monkeypatch)
    kernels_unseen(monkeypatch)
    with TwoWorlds(monkeypatch), Transfers(CPU) as transfers:
        there = plan_spex(n, budget, **how, device=CPU)
    assert not any(on_host(x) for x in (there.extra, there.columns, there.hashes))
    assert torch.equal(there.extra, expected.extra)
    assert torch.equal(there.row_names(), expected.row_names())
    assert there.holdout == expected.holdout
    assert transfers.moved == {"to_device": bytes_of(expected), "to_host": 0}


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_device_that_is_lost(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error that every later call repeats: the masks are there, the values are not."""
    plans_of_the_host(monkeypatch)
    kernels_unseen(monkeypatch)
    host, calls = plan_spex(20, 600, degree=2).moved(of_the_host), []

    def f(masks: Tensor) -> Tensor:
        calls.append(masks)
        lost.on = len(calls) == 4
        out = masks.sum(1)
        return out if outputs == 1 else torch.stack([out] * outputs, 1)

    with Lost(monkeypatch) as lost:
        transfers = Transfers(CPU)
        with transfers:
            there = plan_spex(20, 600, degree=2, device=CPU)
        with pytest.raises(
            EvaluationError, match=r"assert\); .* not give the values back"
        ) as failed:
            resident.evaluate(f, there, transfers, lambda _: host, batch_size=50)
        masks, values = failed.value.known
    assert failed.value.done == len(masks) > 100
    assert np.array_equal(masks, torch.cat(calls[:3]).numpy())
    assert values.shape == (len(masks), *([] if outputs == 1 else [outputs]))
    assert np.isnan(values).all()


class Lost(TwoWorlds):
    """A device that answers no call once it is lost."""

    on = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        asks = func.__name__ not in ("__get__", "__len__")  # not the shape alone
        if self.on and asks and not all(on_host(x) for x in given):
            raise RuntimeError("Lost: device-side assert")
        return super().__torch_function__(func, types, args, kwargs)


def test_too_little_memory_is_found_before_f_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    need = 3000 * (16 * 2 + 96)
    assert resident.free_bytes(CPU) is None
    monkeypatch.setattr(resident, "free_bytes", lambda device: need // 2)
    with pytest.raises(MemoryError, match=r"masks of 70 features need about 0\.0 GB on cpu"):
        run(lambda x: pytest.fail("called"), 70, 3000)
    monkeypatch.setattr(resident, "free_bytes", lambda device: 2 * need)
    assert run(lambda x: x[:, 0].double(), 70, 3000).outputs[0].r2 == pytest.approx(1)


def test_memory_that_runs_out_leaves_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(resident, "least_squares", full)
    with pytest.raises(torch.OutOfMemoryError):
        run(lambda x: x[:, 0].double(), 9, 400)


def test_devices_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    f, how = plant(8, 3, 2, seed=0), {"n": 8, "budget": 256}
    with pytest.raises(ValueError, match="spex: device must be one that torch has, got nowhere"):
        spex_core.spex(f, **how, device="nowhere")
    with pytest.raises(ValueError, match="spex: store must be None on meta"):
        resident.usable_device("spex", "meta", f, {"known": None, "store": "here"})
    groups = object.__new__(TrainingGroups)
    with pytest.raises(TypeError, match=r"of meta, .* got TrainingGroups, which .* on the host"):
        resident.usable_device("spex", "meta", groups, {})
    groups.device = CPU
    with pytest.raises(TypeError, match=r"got TrainingGroups, which takes them on cpu"):
        resident.usable_device("spex", "meta", groups, {})
    groups.device = torch.device("meta")
    assert resident.usable_device("spex", "meta", groups, {}) == groups.device


def test_a_device_takes_the_way_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def on_device(f, n, plan, device, clock, **how) -> resident.Run:
        seen.append(device)
        return resident_run(f, n, lambda _: plan(CPU), CPU, clock, **how)

    resident_run = resident.run
    monkeypatch.setattr(resident, "run", on_device)
    f = plant(8, 3, 2, seed=0)
    explained = spex_core.spex(function(f), n=8, budget=256, device="meta", backend="reference")
    assert seen == [torch.device("meta")]
    assert explained.report.device == "meta"
    assert explained.report.moved["to_host"] > 0
    assert explained.transform.to_dict() == pytest.approx(f.terms)
