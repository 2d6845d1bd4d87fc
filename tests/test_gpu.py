"""What only a GPU can show: graphs, compiled graphs, whole runs there, more than 2**31 elements,
memory that runs out. `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from planted import plant
from test_no_wait import WAITS
from test_traced import problem, public
from torch import Tensor

import spex_core
from spex_core import SparseTransform, ops
from spex_core.backend import OPS, pick, refusal
from spex_core.proxy import DEFAULT

pytestmark = pytest.mark.gpu
CAPTURED = [(how, op) for how in WAITS for op in OPS if how in OPS[op] and op not in WAITS[how]]
WAVE = {spex_core.spex: 0.0, spex_core.proxyspex: 0.3}  # what keeps levels of ProxySPEX apart
RUNS = [*WAVE]
BUDGET = 4000


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda", 0)


@pytest.mark.usefixtures("kept_memory")
@pytest.mark.parametrize(("backend", "name"), CAPTURED)
def test_can_be_captured_in_a_graph(backend: str, name: str, gpu: torch.device) -> None:
    if (reason := refusal(name, backend, gpu)) is not None:
        pytest.skip(reason)
    args, options = problem(name, gpu)

    def call() -> object:
        return public(name)(*args, **options, backend=backend)

    expected = call()  # compiles, and copies tables
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    graph.replay()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("default")  # those of the compiler are not ours
@pytest.mark.parametrize("name", OPS)
def test_compiles_whole_with_the_default_compiler(name: str, gpu: torch.device) -> None:
    """test_traced.py traces every backend; here the graph is run as torch's compiler leaves it."""
    torch._dynamo.reset()
    args, options = problem(name, gpu)
    whole = torch.compile(lambda *args: public(name)(*args, **options), fullgraph=True)
    found, expected = whole(*args), public(name)(*args, **options)
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def planted(device: torch.device, seed: int, wave: float) -> Callable[[Tensor], Tensor]:
    """A planted function of 64 features, on tensors of the device; a wave has many small terms."""
    f = plant(64, 9, 3, seed=seed)
    sets = [torch.tensor(k, dtype=torch.int64, device=device) for k in f.terms]
    coefs = torch.tensor(list(f.terms.values()), dtype=torch.float64, device=device)

    def call(masks: Tensor) -> Tensor:
        odd = torch.stack([masks[:, k].sum(1) % 2 for k in sets], 1)
        rest = torch.sin(3.0 * masks[:, :32].sum(1).double() + masks[:, 40])
        return (1 - 2 * odd).double() @ coefs + wave * rest

    return call


def assert_agree(found: SparseTransform, expected: SparseTransform) -> None:
    """The terms but for a few of the smallest, and the predictions but for little beside what is
    predicted. ProxySPEX compares priors and levels by errors of products in float32, which no two
    libraries sum in one order; where two are as good, either may be taken."""
    ours, theirs = ({tuple(k) for k in x.support.tolist()} for x in (found, expected))
    assert len(ours & theirs) >= 0.9 * len(ours | theirs)
    masks = np.random.default_rng(0).random((500, 64)) < 0.5
    want = expected.predict(masks)
    assert (found.predict(masks) - want).std() <= 0.01 * want.std()


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_a_whole_run(run: Callable, gpu: torch.device) -> None:
    f, how = planted(gpu, 4, WAVE[run]), {"n": 64, "budget": BUDGET, "seed": 1}
    found = run(f, **how, device=gpu)
    expected = run(lambda x: f(torch.from_numpy(x).to(gpu)).cpu().numpy(), **how)
    assert_agree(found.transform, expected.transform)
    if run is spex_core.spex:
        assert torch.equal(found.transform.support, expected.transform.support)
        assert torch.allclose(found.transform.coefs, expected.transform.coefs, rtol=1e-5, atol=1e-6)
    assert found.report.device == str(gpu)
    assert found.report.moved["to_device"] < most_moved(run, gpu)


def most_moved(run: Callable, device: torch.device) -> int:
    """Bytes that a run may send to the device: fewer than its masks have. Triton's booster, unlike
    that of CUDA, grows each tree on the host, which sends its nodes level by level."""
    masks = 8 * BUDGET
    if run is spex_core.spex or pick("boost", "auto", device) == "cuda":
        return masks
    return masks + 8000 * DEFAULT.folds_of(BUDGET) * len(DEFAULT.depths) * DEFAULT.trees


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_several_outputs_are_as_each_alone(run: Callable, gpu: torch.device) -> None:
    parts = [planted(gpu, seed, WAVE[run]) for seed in (4, 5)]
    how = {"n": 64, "budget": BUDGET, "seed": 1}
    together = run(lambda x: torch.stack([f(x) for f in parts], 1), **how, device=gpu)
    for f, found in zip(parts, together, strict=True):
        assert_agree(found.transform, run(f, **how, device=gpu).transform)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_more_than_2_to_the_31_elements(backend: str, gpu: torch.device) -> None:
    if (reason := refusal("fwht", backend, gpu)) is not None:
        pytest.skip(reason)
    rows = (1 << 19) + 3
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info(gpu)[0] < 3 * 4 * 4096 * rows:
        pytest.skip("less than 24 GiB of memory are free")
    x = torch.zeros(rows, 4096, device=gpu)
    x[-2:, :] = torch.tensor([[1.0], [2.0]], device=gpu)
    y = ops.fwht(x, backend=backend)
    assert x.numel() > 2**31
    assert y[-2:, 0].tolist() == [4096, 8192]
    assert y[:, 0].count_nonzero() == y[-3:].count_nonzero() == 2


@pytest.mark.usefixtures("kept_memory")  # compute-sanitizer would report the call that fails
def test_memory_that_runs_out(gpu: torch.device) -> None:
    """An error, no result, and the device goes on working."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(gpu)[0]
    rows = int(free // 4 // 4096 // 2 * 1.2)  # the rows fit, their transform does not
    x = torch.ones(rows, 4096, device=gpu)
    with pytest.raises(torch.OutOfMemoryError):
        ops.fwht(x)
    del x
    assert ops.fwht(torch.ones(1, 8, device=gpu)).tolist() == [[8.0, *7 * [0.0]]]


@pytest.mark.parametrize("budget", [600, 6000])  # the latter beyond what a CPU takes
def test_a_whole_run_of_a_process(budget: int, gpu: torch.device) -> None:
    f = planted(gpu, 4, 0.0)
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
