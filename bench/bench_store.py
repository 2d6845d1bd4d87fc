"""The store of masks and values: records a second, and the memory of ten million.

    python bench/bench_store.py    # some minutes; writes bench/results/store.json; 2 GB of disk
    pytest bench/bench_store.py    # one append, in pytest-benchmark groups

Writing: `append` of batches of 1,024 masks of 128 features and one value, against a plain write of
the bytes of the same records and the same sync, in turn in one run, a file each. What a disk takes
for a sync varies by an order of magnitude from one to the next, so the ratio is of the medians, and
the CPU time of both is beside it. Every value is read back and compared.
Memory: ten million masks of 1,024 features in one store, in a new process that opens it, looks up
a million of them and a million others, and walks through all; and what of that is left when the
libraries alone have been imported.
"""

from __future__ import annotations

import os
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

from spex_core import ops
from spex_core.store import Store
from spex_core.store_manifest import Manifest
from spex_core.store_shards import sync

BATCH, N, ROUNDS = 1024, 128, 600
MANY, WIDE, PART = 10_000_000, 1024, 1_000_000


def manifest(n: int) -> Manifest:
    return Manifest("bench", [f"x{j}" for j in range(n)])


def values_of(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop) * 0.5


def writing(folder: Path, batch: int, n: int, rounds: int) -> harness.Row:
    """Both write to files of their own, one batch in turn."""
    store = Store.open(folder / "run", manifest(n))
    masks, values = ops.uniform_masks(batch * rounds, n, seed=0), values_of(0, batch * rounds)
    width = store.manifest.words + 2
    raw = np.random.default_rng(0).bytes(8 * width * batch)
    file = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def plain(_: slice) -> None:
        os.write(file, raw)
        sync(file)

    def append(part: slice) -> None:
        store.append(masks[part], values[part])

    calls: dict[str, Callable[[slice], None]] = {"plain": plain, "store": append}
    wall = {name: [] for name in calls}
    cpu = {name: [] for name in calls}
    for i in range(rounds):
        part = slice(i * batch, (i + 1) * batch)
        for name in list(calls)[:: 1 if i % 2 else -1]:
            start, start_cpu = time.perf_counter(), time.thread_time()
            calls[name](part)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.thread_time() - start_cpu)
    os.close(file)
    store.close()
    found, read = Store.open(folder / "run").lookup(masks)
    if not (found.all() and (read == values).all()):
        raise AssertionError("the store does not give back what was put in")
    shutil.rmtree(folder / "run")
    (folder / "plain").unlink()
    median = {name: statistics.median(times[1:]) for name, times in wall.items()}
    row = {"batch": batch, "n": n, "bytes of a record": 8 * width, "rounds": rounds}
    row |= {f"{name} records/s": round(batch / seconds) for name, seconds in median.items()}
    row["store / plain, medians"] = median["plain"] / median["store"]
    row["store / plain, totals"] = sum(wall["plain"]) / sum(wall["store"])
    row |= {f"{name} CPU us": 1e6 * statistics.median(times) for name, times in cpu.items()}
    return row


def fill(path: str) -> harness.Row:
    """A store of MANY masks, by appends of 65,536."""
    start = time.process_time()
    with Store.open(path, manifest(WIDE)) as store:
        for first in range(0, MANY, 1 << 16):
            rows = min(1 << 16, MANY - first)
            masks = ops.uniform_masks(rows, WIDE, seed=0, start=first)
            store.append(masks, values_of(first, first + rows))
    return {"fill CPU s": time.process_time() - start}


def memory(path: str) -> harness.Row:
    watch, row = harness.Stopwatch(), {"imports MB": harness.peak_mb()}
    with watch("open"):
        store = Store.open(path)
    row["opened MB"] = harness.peak_mb()
    for first in range(0, PART, 1 << 16):
        rows = min(1 << 16, PART - first)
        masks = ops.uniform_masks(rows, WIDE, seed=0, start=first)
        others = ops.uniform_masks(rows, WIDE, seed=1, start=first)
        with watch("look up"):
            found, values = store.lookup(masks)
            absent, _ = store.lookup(others)
        if not (found.all() and (values == values_of(first, first + rows)).all()) or absent.any():
            raise AssertionError("the store does not give back what was put in")
    with watch("walk"):
        count = sum(len(masks) for masks, _ in store.blocks())
    if not count == len(store) == MANY:
        raise AssertionError(f"{count} masks are not {MANY}")
    row["peak MB"] = harness.peak_mb()
    return row | {f"{stage} CPU s": seconds for stage, seconds in watch.spent.items()}


def main() -> None:
    torch.set_num_threads(1)
    rounds, many = (ROUNDS, True) if len(sys.argv) == 1 else (int(sys.argv[1]), False)
    with tempfile.TemporaryDirectory(dir=harness.HERE) as name:
        cases = [(256, N), (BATCH, N), (BATCH, WIDE), (1 << 14, N)]
        rows = [writing(Path(name), *case, rounds if case[0] <= BATCH else 50) for case in cases]
        harness.table(rows, "append and sync")
        if not many:
            return
        path = os.path.join(name, "many")
        row = {"masks": MANY, "n": WIDE} | harness.in_new_process(fill, path=path)
        row |= harness.in_new_process(memory, path=path)
        harness.table([row], "memory")
    harness.write("store", rows, memory=[row])


@pytest.mark.parametrize("what", ["store", "plain"])
def test_append(benchmark, tmp_path, what):
    store = Store.open(tmp_path / "run", manifest(N))
    masks, values = ops.uniform_masks(BATCH, N, seed=0), values_of(0, BATCH)
    raw, file = bytes(32 * BATCH), os.open(tmp_path / "plain", os.O_WRONLY | os.O_CREAT)
    benchmark.group = f"append and sync {BATCH} x {N}"

    def plain():
        os.write(file, raw)
        sync(file)

    call = plain if what == "plain" else lambda: store.append(masks, values)
    benchmark.pedantic(call, rounds=20, warmup_rounds=1)
    os.close(file)


if __name__ == "__main__":
    main()
