"""One value function in several processes, against the same in one: a real local Ray, and processes
of this machine."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spread import Bounded, Spread, broken, fails

from spex_core import masks as bits
from spex_core.errors import MissingExtra, SpexError
from spex_core.proxyspex import proxyspex
from spex_core.values import distributed, ray_workers
from spex_core.values.distributed import Distributed
from spex_core.values.ray_workers import RayWorkers
from spex_core.values.runs import Runs


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Two cores of this machine, whose workers can import the helpers of the tests."""
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), before])
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init(num_cpus=2, num_gpus=1, **options)  # which Ray does not look at
    yield ray
    ray.shutdown()
    os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module", params=["ray", "processes"])
def two(request: pytest.FixtureRequest) -> Iterator[Distributed]:
    """Two workers that make their value function themselves, with half a GPU each."""
    if request.param == "ray":
        request.getfixturevalue("ray")
    with Distributed(fails, executor=request.param, gpus=0.5) as f:
        yield f


def some_masks(rows: int, n: int = 20, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed).random((rows, n)) < 0.5
    return bits.pack(draw)


# ---- Values --------------------------------------------------------------------------------------


def test_the_values_of_one_process_in_the_same_order(two: Distributed) -> None:
    f = Spread()
    assert (two.n, two.fingerprint, two.unit, two.order) == (20, "spread-20", "masks", "prefix")
    masks = some_masks(700)
    masks = torch.cat([masks, masks[:50]])
    assert two.cost(masks).tolist() == [1] * 750
    here = Distributed(f)
    assert (here.unit, here.cost(masks).tolist()) == ("tokens", f.cost(masks).tolist())
    np.testing.assert_array_equal(two.evaluate(masks), f.evaluate(masks))
    np.testing.assert_array_equal(two.evaluate(masks[:1]), f.evaluate(masks[:1]))
    assert two.evaluate(masks[:0]).shape == (0,)


def test_an_algorithm_on_it(two: Distributed) -> None:
    shown = []
    found = proxyspex(two, budget=150, progress=lambda done, total: shown.append((done, total)))
    assert found.interactions("SV") == proxyspex(Spread(), budget=150).interactions("SV")
    assert shown[-1] == (150, 150)


@pytest.mark.parametrize("order", ["prefix", "length", "any"])
def test_jobs_have_the_packs_of_one_process(order: str) -> None:
    masks = some_masks(700)
    f = Spread(order=order)
    rank, stops = distributed.planned(f, masks)
    rows, found = masks[torch.from_numpy(rank)], np.empty(len(masks), np.float32)
    for job in distributed.jobs_of(stops, 3):
        found[rank[job]] = f.evaluate(rows[job])
    truth = f.evaluate(masks)
    np.testing.assert_array_equal(found, truth)
    f.tokens = 50  # other packs are other values
    assert (f.evaluate(masks) != truth).any()


def test_bounds_are_known_as_such() -> None:
    masks = some_masks(300)
    want = proxyspex(Bounded(), budget=150)
    with Distributed(Bounded, executor="processes", workers=1) as f:
        for _ in range(2):  # those of the first are not counted again
            found = proxyspex(f, budget=150)
            assert found.report.censored == want.report.censored > 50
        before = len(f.censored)
        f.evaluate(masks)
    marked = {int(word) for word in f.censored[before:, 0]}
    assert marked == {int(word) for word in masks[:, 0] if word & 1}


# ---- Failures ------------------------------------------------------------------------------------


def test_actors_that_die_are_replaced(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a job, and one killed from outside; each with half a core."""
    started, start = [], RayWorkers._start
    monkeypatch.setattr(
        RayWorkers, "_start", lambda self, place: started.append(place) or start(self, place)
    )
    masks = some_masks(600)
    f = Spread(folder=str(tmp_path), burn=2, deadly=int(masks[17, 0]), lives=1)
    found, killed = np.full(len(masks), np.nan, np.float32), False
    with Distributed(f, cpus=0.5) as spread_out:
        for rows, values in spread_out.stream(masks):
            found[rows] = values
            if not killed:
                ray.kill(spread_out._workers._actors[0])
                killed = True
    assert len(list(tmp_path.glob("death-*"))) == 1
    np.testing.assert_array_equal(found, Spread().evaluate(masks))
    assert len(started) == 4
    processes = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert str(os.getpid()) not in processes


def test_a_job_that_kills_every_actor_is_named(ray: Any, tmp_path: Path) -> None:
    masks = some_masks(200)
    f = Spread(folder=str(tmp_path), deadly=int(masks[3, 0]), lives=99)
    done = []

    def collect() -> None:
        done.extend(len(rows) for rows, _ in spread_out.stream(masks))

    message = r"f failed on masks \d+ to \d+ of 200 in its order: 3 actors died of it"
    with Distributed(f, workers=1) as spread_out, pytest.raises(ValueError, match=message):
        collect()
    assert 0 < sum(done) < 200
    assert len(list(tmp_path.glob("death-*"))) == ray_workers.DEATHS


def test_a_value_function_that_raises_is_named_with_its_masks(two: Distributed) -> None:
    masks = torch.cat([some_masks(200), torch.tensor([[(1 << 20) - 1]])])
    message = r"f failed on masks \d+ to 200 of 201 in its order: ArithmeticError: no value for you"
    with pytest.raises(ValueError, match=message):
        two.evaluate(masks)
    np.testing.assert_array_equal(two.evaluate(masks[:9]), Spread().evaluate(masks[:9]))


def test_a_value_function_that_cannot_be_made(ray: Any) -> None:
    with (
        Distributed(broken, workers=1) as f,
        pytest.raises(SpexError, match="OSError: no such model"),
    ):
        f.evaluate(some_masks(5))


# ---- Bad input -----------------------------------------------------------------------------------


def test_more_than_the_cluster_has(ray: Any) -> None:
    workers = RayWorkers(fails, 1, timeout=0.5, num_cpus=0, num_gpus=7)
    with pytest.raises(SpexError, match=r"no actor was ready within 0.5 s: .*'num_gpus': 7"):
        list(workers.each([1]))
    workers.close()


@pytest.mark.parametrize("executor", ["ray", "processes"])
def test_what_cannot_be_sent(executor: str, ray: Any) -> None:
    f = Spread()
    f.lock = threading.Lock()
    for _ in range(2):
        with pytest.raises(TypeError, match="lock"):
            Distributed(f, executor=executor).evaluate(some_masks(5))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"f": 3}, TypeError, "f must be a ValueFunction or make one, got 3"),
        ({"executor": "threads"}, ValueError, "executor must be 'ray' or 'processes'"),
        ({"workers": 0}, ValueError, "workers must be an integer >= 1"),
        ({"gpus": -1}, ValueError, "gpus and cpus must be >= 0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Distributed(**({"f": fails} | options))


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install spex-core\[ray\]"):
        Distributed(Spread()).evaluate(some_masks(5))


# ---- Who does what -------------------------------------------------------------------------------


def order_of(count: int, workers: int, turns: Callable[[int], int]) -> list[list[int]]:
    runs, done = Runs(count, workers), [[] for _ in range(workers)]
    for turn in range(100 * count + 100):
        worker = turns(turn)
        if (job := runs.take(worker)) is not None:
            done[worker].append(job)
    return done


@pytest.mark.parametrize(("count", "workers"), [(0, 2), (1, 3), (7, 2), (64, 3), (100, 7)])
def test_every_job_once_whoever_is_fast(count: int, workers: int) -> None:
    draw = np.random.default_rng(count).integers(0, workers, 100 * count + 100)
    done = order_of(count, workers, lambda turn: int(draw[turn]))
    assert sorted(job for jobs in done for job in jobs) == list(range(count))


def test_workers_as_fast_as_each_other_keep_to_their_runs() -> None:
    done = order_of(12, 3, lambda turn: turn % 3)
    assert done == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_the_later_half_of_the_longest_run_is_stolen_in_order() -> None:
    runs = Runs(16, 2)
    assert [runs.take(0) for _ in range(8)] == list(range(8))
    assert [runs.take(0), runs.take(0), runs.take(1)] == [12, 13, 8]
    runs.give_back(13)
    assert [runs.take(1), runs.take(1), runs.take(0)] == [13, 9, 14]


def test_jobs_are_whole_packs() -> None:
    stops = [3, 5, 9, 10, 20]
    assert distributed.jobs_of(stops, 50) == [
        slice(0, 3), slice(3, 5), slice(5, 9), slice(9, 10), slice(10, 20)
    ]  # fmt: skip
    jobs = distributed.jobs_of(list(range(1, 1001)), 2)
    assert len(jobs) == 32
    assert {job.stop - job.start for job in jobs} == {31, 32}
    assert functools.reduce(lambda end, job: job.stop if job.start == end else -1, jobs, 0) == 1000
