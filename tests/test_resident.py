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
from test_no_wait import NoCopy, Waited
from torch import Tensor

import spex_core
from spex_core import EvaluationError, resident
from spex_core import masks as bits
from spex_core.backend import why_not
from spex_core.plan import SamplingPlan, plan_spex
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


def run(f: Callable, plan: SamplingPlan, batch_size: int = 700, **options) -> resident.Run:
    how = {"decoder": "soft", "progress": None, "backend": "auto"} | options
    return resident.run(f, plan, CPU, lambda _: nullcontext(), batch_size=batch_size, **how)


def bytes_of(plan: SamplingPlan) -> int:
    tensors = plan.columns, plan.delays, plan.extra, plan.hashes, plan.delay_columns
    return sum(x.nbytes for x in (*tensors, plan._projection))


@pytest.mark.parametrize(("n", "budget"), [(20, 3000), (70, 3000), (8, 256), (10, 900)])
def test_the_same_as_on_the_host(n: int, budget: int) -> None:
    f = plant(n, 12, 3, seed=1)
    smooth = function(f)

    def call(masks: Tensor) -> Tensor:
        return smooth(masks) + 0.05 * torch.sin(7 * masks[:, 1:9].sum(1) + masks[:, 0])

    plan = plan_spex(n, budget, degree=3, seed=3)
    found = run(call, plan)
    values = call(torch.from_numpy(bits.unpack(plan.masks(0, plan.total), n)))
    expected = recipe.fit_plan(plan, values)
    (fitted,) = found.outputs
    assert len(expected) > 10
    assert torch.equal(fitted.transform.support, expected.support)
    assert torch.allclose(fitted.transform.coefs, expected.coefs, rtol=1e-7, atol=1e-9)
    assert (fitted.r2, fitted.r2_linear) == pytest.approx(recipe.scores(plan, values, expected))
    assert found.used == len(plan.places.first)
    assert not found.several
    batches = 8 * (-(-plan.total // 700) + 1)
    assert found.moved == {
        "to_device": bytes_of(plan),
        "to_host": fitted.transform.support.nbytes + fitted.transform.coefs.nbytes + 16 + batches,
    }


@pytest.mark.skipif(why_not("triton") is not None, reason="needs Triton")
def test_nothing_else_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole run with the kernels of a device, under a mode that refuses all other moves."""
    free = []

    class Strict(NoCopy):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            few = func in (Tensor.tolist, Tensor.item) and args[0].numel() <= 16
            if free or few:
                return func(*args, **(kwargs or {}))
            return super().__torch_function__(func, types, args, kwargs)

    def counted(move: Callable) -> Callable:
        def allowed(*args: object) -> object:
            free.append(1)
            try:
                return move(*args)
            finally:
                free.pop()

        return allowed

    # What it is given has come to the host already.
    monkeypatch.setattr(resident, "SparseTransform", counted(resident.SparseTransform))
    for name in ("up", "down"):
        monkeypatch.setattr(Transfers, name, counted(getattr(Transfers, name)))
    f = plant(9, 3, 2, seed=0)
    plan = plan_spex(9, 400, degree=2, seed=0)
    plan.moved(lambda x: x)
    plan.code.on(CPU)
    call = function(f)
    with Strict():
        there = plan.moved((transfers := Transfers(CPU)).up)
        ends = resident.evaluate(call, there, transfers, batch_size=100)[0]
        found = resident.fit_plan(there, ends[None], transfers, decoder="hard", backend="triton")
        with pytest.raises(Waited):
            ends.numpy()
    assert found[0].transform.to_dict() == pytest.approx(f.terms)


def test_several_outputs_are_as_each_alone() -> None:
    parts = [function(plant(12, terms, 3, seed=terms)) for terms in (5, 9, 1)]
    plan = plan_spex(12, 1500, degree=3, seed=0)
    together = run(lambda x: torch.stack([part(x) for part in parts], 1), plan)
    assert together.several
    assert together.used == run(parts[0], plan).used
    for part, fitted in zip(parts, together.outputs, strict=True):
        (alone,) = run(part, plan).outputs
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
        run(f, plan_spex(9, 400, degree=2), batch_size=100)


def test_what_was_paid_for_is_kept() -> None:
    calls = []

    def f(masks: Tensor) -> Tensor:
        calls.append(masks)
        if len(calls) == 3:
            raise RuntimeError("gone")
        return masks.sum(1)

    with pytest.raises(EvaluationError, match="RuntimeError: gone") as failed:
        run(f, plan_spex(70, 3000, degree=2), batch_size=50)
    masks = torch.cat(calls[:2]).numpy()
    assert failed.value.done == len(masks) > 50
    assert np.array_equal(failed.value.masks, masks)
    assert np.array_equal(failed.value.values, masks.sum(1))


def test_too_little_memory_is_found_before_f_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, need = plan_spex(70, 3000, degree=2), 3000 * (16 * 2 + 96)
    assert resident.free_bytes(CPU) is None
    monkeypatch.setattr(resident, "free_bytes", lambda device: need // 2)
    with pytest.raises(MemoryError, match=r"masks of 70 features need about 0\.0 GB on cpu"):
        run(lambda x: pytest.fail("called"), plan)
    monkeypatch.setattr(resident, "free_bytes", lambda device: 2 * need)
    assert run(lambda x: x[:, 0].double(), plan).outputs[0].r2 == pytest.approx(1)


def test_memory_that_runs_out_leaves_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(resident, "least_squares", full)
    with pytest.raises(torch.OutOfMemoryError):
        run(lambda x: x[:, 0].double(), plan_spex(9, 400, degree=2))


def test_devices_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    f, how = plant(8, 3, 2, seed=0), {"n": 8, "budget": 256}
    with pytest.raises(ValueError, match="spex: device must be one that torch has, got nowhere"):
        spex_core.spex(f, **how, device="nowhere")
    with pytest.raises(ValueError, match="spex: store must be None on meta"):
        resident.usable_device("spex", "meta", f, {"known": None, "store": "here"})
    groups = object.__new__(TrainingGroups)
    with pytest.raises(TypeError, match=r"plain callable .* got TrainingGroups"):
        resident.usable_device("spex", "meta", groups, {})


def test_a_device_takes_the_way_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def on_device(f, plan, device, clock, **how) -> resident.Run:
        seen.append(device)
        return resident_run(f, plan, CPU, clock, **how)

    resident_run = resident.run
    monkeypatch.setattr(resident, "run", on_device)
    f = plant(8, 3, 2, seed=0)
    explained = spex_core.spex(function(f), n=8, budget=256, device="meta", backend="reference")
    assert seen == [torch.device("meta")]
    assert explained.report.device == "meta"
    assert explained.report.moved["to_host"] > 0
    assert explained.transform.to_dict() == pytest.approx(f.terms)
