"""GPSPEX on a device: the same as on the host, with matrices that are made there. The CPU stands
for a device, and what would bring tensors of both together is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from planted import plant
from test_resident import function
from test_resident_proxy import CPU, FEW, smooth
from torch import Tensor
from two_worlds import DISPATCHED, Mixed, TwoWorlds, of_the_host, on_host, unseen

import spex_core
from spex_core import (
    Explanation,
    gp,
    gp_acquire,
    gp_folds,
    gp_memory,
    left_out,
    ops,
    resident,
    resident_uniform,
    ridge,
)
from spex_core import masks as bits
from spex_core.backend import why_not
from spex_core.budget import plan_uniform
from spex_core.gp import GpFit, fit_gp
from spex_core.gp_folds import GpRecipe
from spex_core.left_out import LEVELS, folds
from spex_core.prior import Terms
from spex_core.transfers import Transfers

META = torch.device("meta")


@pytest.fixture(autouse=True)
def one_core(set_threads: Callable[[int], None]) -> None:
    """Fits this small are the faster on one thread."""
    set_threads(1)


@pytest.fixture
def as_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "meta" is the CPU, whose tensors the host does not look at."""

    def on_cpu(f, n, device, clock, **how) -> resident_uniform.Run:
        assert device == META
        return run(f, n, CPU, clock, **how)

    run = resident_uniform.run
    monkeypatch.setattr(resident_uniform, "run", on_cpu)
    for module in (ridge, gp):
        monkeypatch.setattr(module, "readable", lambda x: False)


def close(found: Explanation, expected: Explanation, tolerance: float) -> None:
    own, other = found.transform, expected.transform
    assert torch.equal(own.support, other.support)
    for x, y in ((own.coefs, other.coefs), (own.stderr, other.stderr)):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * float(y.abs().max()))
    numbers = "r2", "r2_linear", "r2_process", "missed", "effective_terms"
    for name in numbers:
        value = getattr(expected.report, name)
        assert getattr(found.report, name) == pytest.approx(value, rel=tolerance, abs=tolerance)
    same = "budget", "used", "unique", "asked", "left_out", "terms", "plan", "warnings", "preset"
    for name in same:
        assert getattr(found.report, name) == getattr(expected.report, name)
    new = np.random.default_rng(1).random((30, own.n)) < 0.5
    for x, y in zip(found.process.predict(new), expected.process.predict(new), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.abs(y).max())


# A few samples, features that never vary, more features than samples.
@pytest.mark.parametrize(
    ("n", "budget", "preset"),
    [(12, 60, "default"), (70, 40, "pure"), (40, 9, "default")],
)
def test_the_same_as_on_the_host(n: int, budget: int, preset: str, as_device: None) -> None:
    f, done = smooth(n), []
    how = {"n": n, "budget": budget, "preset": preset, "degree": 3, "seed": 3}
    found = spex_core.gpspex(
        f, **how, device="meta", batch_size=100, progress=lambda *x: done.append(x)
    )
    expected = spex_core.gpspex(lambda x: f(torch.from_numpy(x)).numpy(), **how)
    assert len(found.transform) > 3
    # Trees add up in another order there, and a few steps of L-BFGS carry that on.
    close(found, expected, 1e-6)
    assert done[-1] == (budget, budget)
    assert found.report.device == "meta"
    assert min(found.report.moved.values()) > found.transform.support.nbytes


def test_masks_and_values_that_are_there(as_device: None, monkeypatch) -> None:
    sent = []
    monkeypatch.setattr("spex_core.uniform.up", lambda x, to: (sent.append((x, to)), x)[1])
    x = np.random.default_rng(0).random((40, 20)) < 0.5
    y = smooth(20)(torch.from_numpy(x)).numpy()
    found = spex_core.fit(x, y, algorithm="gpspex", degree=2, preset="pure", device="meta")
    assert [(tuple(masks.shape), to) for masks, to in sent] == [((40, 1), META)]
    close(found, spex_core.fit(x, y, algorithm="gpspex", degree=2, preset="pure"), 1e-6)
    assert found.report.device == "meta"


def test_several_outputs_and_those_that_need_no_fit(as_device: None) -> None:
    parts = [smooth(9), lambda x: torch.full((len(x),), 2.5), function(plant(9, 6, 3, seed=9))]
    how = {"n": 9, "budget": 20, "degree": 2, "device": "meta"}
    together = spex_core.gpspex(lambda x: torch.stack([part(x) for part in parts], 1), **how)
    alone = spex_core.gpspex(parts[2], **how)
    assert together[2].transform.to_dict() == alone.transform.to_dict()
    assert len(together) == 3
    assert together[1].transform.to_dict() == {(): 2.5}
    table = spex_core.gpspex(parts[0], **(how | {"budget": 512}))
    assert (table.report.r2, table.process, table.transform.stderr) == (1.0, None, None)


class Shapes(Transfers):
    """Of what moves."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.shapes: set[tuple[int, ...]] = set()

    def up(self, x: Tensor) -> Tensor:
        self.shapes.add(tuple(x.shape))
        return super().up(x)

    def down(self, x: Tensor) -> Tensor:
        self.shapes.add(tuple(x.shape))
        return super().down(x)


LITTLE = GpRecipe(
    kernels=((2, 0.7, 0.0), (0, 0.5, 1.0)), folds=(2, 2), steps=(1, 1), listed=20, candidates=40
)
FEWER = dataclasses.replace(FEW, trees=2)


@pytest.mark.parametrize(("n", "rows", "trees"), [(6, 16, True), (7, 24, False)])
def test_nothing_else_moves(
    n: int, rows: int, trees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole fit with the kernels of a device, in a world where it is another one."""
    if (reason := why_not("triton")) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(gp, "DEFAULT", FEWER)
    masks = plan_uniform(n, rows, seed=1).masks(0, rows)
    values = smooth(n)(bits.unpack_there(masks, n)).double()[None]
    how = {"degree": 2, "terms": 30, "trees": trees, "seed": 0, "recipe": LITTLE}
    (expected,) = fit_gp(masks, values, n, **how)
    new = bits.unpack_there(masks[:9], n).numpy() ^ (np.arange(n) < 2)
    predicted, proposed = expected.process.predict(new), gp_acquire.propose(expected.process, 3)
    fold, levels = folds(rows, 2, 0), LEVELS.tolist()
    for module in (ridge, gp):
        monkeypatch.setattr(module, "readable", lambda x: False)
    for module in DISPATCHED:
        monkeypatch.setattr(module, "pick", lambda op, name, device: "triton")
    monkeypatch.setattr(gp, "folds", lambda *_: fold)
    made = torch.from_numpy  # which no mode of torch sees
    monkeypatch.setattr(torch, "from_numpy", lambda x: of_the_host(made(x)))
    monkeypatch.setattr(Terms, "packed", packed)
    monkeypatch.setattr(ops, "anova_cross", of_either(ops.anova_cross))
    with TwoWorlds(monkeypatch):
        for module in (left_out, gp_folds):
            monkeypatch.setattr(module, "LEVELS", of_the_host(torch.tensor(levels).double()))
        with Shapes(CPU) as transfers:
            (found,) = fit_gp(masks, of_the_host(values), n, **how)
        with pytest.raises(Mixed):
            found.process.factor.numpy()
    assert found.support.on_host
    if not trees:
        half, shapes = rows // 2, transfers.shapes  # errors by level, but nothing of two samples
        long = {shape for shape in shapes if sum(size >= half for size in shape) > 1}
        assert long == {(half, len(levels))}
    agrees(found, expected)
    for x, y in zip(found.process.predict(new), predicted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-7)
    assert torch.equal(gp_acquire.propose(found.process, 3), proposed)


def of_either(kernel: Callable) -> Callable:
    """The kernel of a device, which stands for that of the host where all is given on the host."""
    of_host = unseen(kernel)

    def called(*args: Tensor, **options: float) -> Tensor:
        return (of_host if all(map(on_host, args)) else kernel)(*args, **options)

    return called


def packed(terms: Terms) -> Tensor:
    """The same by NumPy, which is of the host."""
    return bits.pack_sets([[j for j in row if j < terms.n] for row in terms.sets.tolist()], terms.n)


def agrees(found: GpFit, expected: GpFit) -> None:
    assert torch.equal(found.support, expected.support)
    torch.testing.assert_close(found.coefs, expected.coefs, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.stderr, expected.stderr, rtol=1e-7, atol=1e-9)
    assert found.r2 == pytest.approx(expected.r2, abs=1e-7)
    assert (found.note, found.left_out) == (expected.note, expected.left_out)


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nowhere"}, "gpspex: device must be one that torch has, got nowhere"),
        ({"prefix_sharing": True}, "gpspex: prefix_sharing must be False on meta, got True"),
        ({"store": "here"}, "gpspex: store must be None on meta"),
        ({"progress": True}, "gpspex: progress must be None or a function"),
        ({"budget": 7}, "gpspex: budget must be an integer >= 8"),
        ({"preset": "paper"}, "gpspex: preset must be 'default' or 'pure'"),
    ],
)
def test_what_a_device_does_not_do(options: dict, message: str) -> None:
    how = {"n": 8, "budget": 100, "device": "meta"} | options
    with pytest.raises(ValueError, match=message):
        spex_core.gpspex(lambda x: pytest.fail("called"), **how)


@pytest.mark.parametrize("algorithm", ["proxyspex", "auto"])
def test_fits_that_a_device_does_not_do(algorithm: str) -> None:
    message = rf"fit: device must be 'cpu' with algorithm='{algorithm}', got meta"
    with pytest.raises(ValueError, match=message):
        spex_core.fit(np.zeros((9, 4), bool), np.zeros(9), algorithm=algorithm, device="meta")


def test_as_many_samples_as_the_device_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before f is called or anything is made there, and beyond what the host takes."""
    monkeypatch.setattr(resident, "free_bytes", lambda device: 80 * 20_000**2)
    monkeypatch.setattr(gp_memory, "available_bytes", lambda: 0)
    gp_memory.check_samples_fit("gpspex: budget", 20_000, 70, device=META)
    gp_memory.check_samples_fit("more: count", 1, 70, before=19_999, device=META)
    with pytest.raises(ValueError, match=r"count must be fewer for meta: 20,001 samples"):
        gp_memory.check_samples_fit("more: count", 1, 70, before=20_000, device=META)
    needed, free = 80 * 20_001**2 >> 20, 80 * 20_000**2 >> 20
    message = "budget must be fewer for meta: 20,001 samples of 70 features need "
    message += f"{needed:,} MB, {free:,} MB are free"
    with pytest.raises(ValueError, match=message) as caught:
        spex_core.gpspex(lambda x: pytest.fail("called"), 70, budget=20_001, device="meta")
    assert "proxyspex()" in str(caught.value)
    monkeypatch.setattr(resident, "free_bytes", lambda device: 8_000)
    x = np.random.default_rng(0).random((60, 20)) < 0.5
    with pytest.raises(ValueError, match="fit: masks must be fewer for meta: 60 samples of 20"):
        spex_core.fit(x, x[:, 0] * 1.0, algorithm="gpspex", device="meta")
    with pytest.raises(MemoryError, match="gpspex: 1,048,576 masks of 20 features need about"):
        spex_core.gpspex(lambda x: pytest.fail("called"), 20, budget=1 << 20, device="meta")
