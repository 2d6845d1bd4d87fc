"""What only a GPU can show: graphs, whole runs there, memory that runs out. `make test-gpu`."""

from __future__ import annotations

import pytest
import torch
from planted import plant
from test_no_wait import WAITS
from test_traced import CALLS, FURTHER, public
from torch import Tensor

import spex_core
from spex_core import ops
from spex_core.backend import OPS, refusal

pytestmark = pytest.mark.gpu
CAPTURED = [(how, op) for how in WAITS for op in OPS if how in OPS[op] and op not in WAITS[how]]


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda", 0)


@pytest.mark.parametrize(("backend", "name"), CAPTURED)
def test_can_be_captured_in_a_graph(backend: str, name: str, gpu: torch.device) -> None:
    if (reason := refusal(name, backend, gpu)) is not None:
        pytest.skip(reason)
    args, options = FURTHER[name]() if name in FURTHER else (CALLS[name](), {})
    there = [x.detach().to(gpu) if isinstance(x, Tensor) else x for x in args]
    options = {key: x.to(gpu) if isinstance(x, Tensor) else x for key, x in options.items()}
    if name == "uniform_masks":
        options["device"] = gpu

    def call() -> object:
        return public(name)(*there, **options, backend=backend)

    expected = call()  # compiles, and copies tables
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    graph.replay()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("run", [spex_core.spex, spex_core.proxyspex], ids=lambda run: run.__name__)
def test_a_whole_run(run, gpu: torch.device) -> None:
    f, how = function_on(gpu), {"n": 64, "budget": 4000, "seed": 1}
    found = run(f, **how, device=gpu)
    expected = run(lambda x: f(torch.from_numpy(x).to(gpu)).cpu().numpy(), **how)
    assert torch.equal(found.transform.support, expected.transform.support)
    assert torch.allclose(found.transform.coefs, expected.transform.coefs, rtol=1e-5, atol=1e-6)
    assert found.report.device == str(gpu)
    assert found.report.moved["to_device"] < 8 * 4000  # the masks alone


@pytest.mark.parametrize("budget", [600, 6000])  # the latter beyond what a CPU takes
def test_a_whole_run_of_a_process(budget: int, gpu: torch.device) -> None:
    f = function_on(gpu)
    found = spex_core.gpspex(f, 64, budget=budget, degree=3, seed=1, device=gpu)
    masks = torch.rand(500, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    truth = f(masks.to(gpu)).cpu().numpy()
    assert found.transform.score(masks.numpy(), truth) > 0.5
    mean, stderr = found.process.predict(masks.numpy())
    assert found.process.factor.device == gpu
    assert found.report.moved["to_device"] < 8 * budget**2
    if budget > 5000:
        return
    expected = spex_core.gpspex(
        lambda x: f(torch.from_numpy(x).to(gpu)).cpu().numpy(), 64, budget=budget, degree=3, seed=1
    )
    for x, y in zip((mean, stderr), expected.process.predict(masks.numpy()), strict=True):
        assert abs(x - y).max() < 1e-4 * abs(y).max()


def function_on(gpu: torch.device):
    """A planted function on tensors of the device."""
    f = plant(64, 9, 3, seed=4)
    sets = [torch.tensor(k, dtype=torch.int64, device=gpu) for k in f.terms]
    coefs = torch.tensor(list(f.terms.values()), dtype=torch.float64, device=gpu)

    def call(masks: Tensor) -> Tensor:
        odd = torch.stack([masks[:, k].sum(1) % 2 for k in sets], 1)
        return (1 - 2 * odd).double() @ coefs

    return call


def test_memory_that_runs_out(gpu: torch.device) -> None:
    """An error, no result, and the device goes on working."""
    free = torch.cuda.mem_get_info(gpu)[0]
    rows = int(free // 4 // 4096 // 2 * 1.2)  # the rows fit, their transform does not
    x = torch.ones(rows, 4096, device=gpu)
    with pytest.raises(torch.OutOfMemoryError):
        ops.fwht(x)
    del x
    assert ops.fwht(torch.ones(1, 8, device=gpu)).tolist() == [[8.0, *7 * [0.0]]]
