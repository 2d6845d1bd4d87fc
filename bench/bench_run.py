"""What ask and tell and the store cost beside the model: a run against a bare loop.

    python bench/bench_run.py          # two minutes; writes bench/results/run.json; 40 MB of disk
    python bench/bench_run.py 32768    # so many masks, nothing written
    pytest bench/bench_run.py          # the same, in pytest-benchmark groups

The value function computes for 1 ms for each 256 masks and returns a sum of some features. The bare
loop calls it on batches that are there already, as dense masks, and keeps what it says. Ask and
tell makes the masks of each batch, checks and keeps the values, and, with a store, has them on disk
at the end. Planning and opening the store are in neither; the seconds are beside it. The three
take turns, in an order that turns too. Ratios are of medians, of wall time and of the CPU
time of the process.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import pytest
import torch

from spex_core import plan
from spex_core.run import Run

N, MASKS, ROUNDS = 128, 1 << 19, 3
SECONDS = 1e-3 / 256  # a mask


def model(masks: np.ndarray) -> np.ndarray:
    """Busy for its time, whatever its arithmetic takes."""
    end = time.perf_counter() + SECONDS * len(masks)
    values = masks[:, 0] * 1.5 - 2.0 * (masks[:, 1] & masks[:, 4])
    while time.perf_counter() < end:
        pass
    return values


model.fingerprint = "bench"


def new_run(count: int, store: Path | None = None) -> Run:
    return plan("proxyspex", N, budget=count, store=store, fingerprint="bench")


def bare(batches: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([model(masks) for masks in batches])


def asked_and_told(run: Run, size: int) -> np.ndarray:
    for masks in run.batches(size):
        run.tell(model(masks))
    run.close()
    return run._ledger.answers()[0].numpy()


def measure(count: int, size: int, rounds: int, folder: Path) -> harness.Row:
    batches = [masks.copy() for masks in new_run(count).batches(size)]
    truth = bare(batches)
    ways: dict[str, Callable[[Run], np.ndarray]] = {
        "bare": lambda run: bare(batches),
        "ask and tell": lambda run: asked_and_told(run, size),
        "ask and tell, store": lambda run: asked_and_told(run, size),
    }
    wall = {name: [] for name in ways}
    cpu = {name: [] for name in ways}
    planning = []
    for turn in range(rounds):
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            run = new_run(count, folder / "run" if "store" in name else None)
            planning.append(time.process_time() - start)
            start, start_cpu = time.perf_counter(), time.process_time()
            values = ways[name](run)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
            if not np.array_equal(values, truth):
                raise AssertionError(f"{name} has other values")
            shutil.rmtree(folder / "run", ignore_errors=True)
    row = {"masks": count, "n": N, "batch": size, "rounds": rounds}
    row["planning CPU s"] = statistics.median(planning)
    for name in ways:
        row[f"{name} s"] = statistics.median(wall[name])
    for name in list(ways)[1:]:
        row[f"{name}: overhead"] = row[f"{name} s"] / row["bare s"] - 1
        ratio = statistics.median(cpu[name]) / statistics.median(cpu["bare"])
        row[f"{name}: overhead, CPU"] = ratio - 1
    return row


def main() -> None:
    torch.set_num_threads(1)
    count, write = (MASKS, True) if len(sys.argv) == 1 else (int(sys.argv[1]), False)
    with tempfile.TemporaryDirectory(dir=harness.HERE) as name:
        rows = [measure(count, size, ROUNDS, Path(name)) for size in (256, 1024)]
    for row in rows:
        print("\n".join(f"{key:32} {harness.text(value)}" for key, value in row.items()), "\n")
    if write:
        harness.write("run", rows)


@pytest.mark.parametrize("way", ["bare", "ask and tell", "store"])
def test_run(benchmark, tmp_path, way):
    count, size = 1 << 13, 1024
    benchmark.group = f"{count} masks of {N} features in batches of {size}, 1 ms for 256"
    batches = list(new_run(count).batches(size))

    def setup():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return (new_run(count, tmp_path / "run" if way == "store" else None), size), {}

    if way == "bare":
        benchmark.pedantic(bare, args=(batches,), rounds=3, warmup_rounds=1)
    else:
        benchmark.pedantic(asked_and_told, setup=setup, rounds=3)


if __name__ == "__main__":
    main()
