"""fwht in place against fht-cpu (PyPI), and against a stream that only loads, adds 1 and stores.

    python bench/bench_fwht.py    # the full table, about 4 minutes; writes bench/results/fwht.json
    pytest bench/bench_fwht.py    # a few sizes, as pytest-benchmark groups

Each case times its contestants in turn, round after round, on one array that is filled anew before
every call. A ratio is the median over rounds of the ratio within a round, so that whatever else the
machine does hits both sides; one thread is timed by its CPU clock, so that being put aside for
another process is no part of it. GB/s counts every value as read once and written once. "chip" is
512 KiB of rows, or one row where that is longer; "ram" is 128 MiB. The stream is torch's in-place
addition: in ram it is as fast as the same loop in C with AVX-512 (medians within 4 %).
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from harness import write
from torch import Tensor

from spex_core import native, reference

PEER, STREAM = "fht-cpu", "stream"
BYTES = {"chip": 1 << 19, "ram": 1 << 27}
LONGEST_ON_CHIP = 1 << 24  # bytes in a row
SECONDS = {"chip": 0.6, "ram": 1.2}  # spent on the rounds of one case
SHARE_GOALS = {  # of the stream: float32 in ram, one thread, the best instruction set
    **dict.fromkeys(range(3, 9), 0.9),
    **dict.fromkeys((16, 17, 18), 0.4),
    **dict.fromkeys((20, 21, 22), 0.3),
    10: 0.8,
    12: 0.65,
    14: 0.55,
}


def find_peer() -> tuple[Callable | None, str]:
    """fht_cpu.fht, from here or the environment of SPEX_PEERS_PYTHON; its version, or why not."""
    path = list(sys.path)
    if python := os.environ.get("SPEX_PEERS_PYTHON"):
        where = [python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]
        sys.path.append(subprocess.check_output(where, text=True).strip())
    try:
        from fht_cpu import fht

        return fht, importlib.metadata.version("fht-cpu")
    except ImportError as error:
        return None, f"not importable: {error}"
    finally:
        sys.path[:] = path


FHT, FHT_VERSION = find_peer()


def contestants(x: Tensor, threads: int) -> dict:
    """name -> a call without arguments that transforms x in place (the stream only touches it)."""
    best = native.ISAS[native.best_isa()]
    isas = [isa for isa in ("avx2", "avx512") if native.ISAS[isa] <= best] or ["portable"]
    calls = {isa: partial(native.fwht_cpu, x, out=x, isa=isa) for isa in isas}
    if FHT is not None:
        calls[PEER] = partial(FHT, x.numpy(), num_threads=threads)
    return {**calls, STREAM: partial(x.add_, 1.0)}


def exact(row: np.ndarray) -> np.ndarray:
    """The transform of one row in long double."""
    y = row.astype(np.longdouble)
    for h in (1 << i for i in range(len(row).bit_length() - 1)):
        low, high = y.reshape(-1, 2, h).transpose(1, 0, 2)
        y = np.stack([low + high, low - high], axis=1).reshape(-1)
    return y


def check(x: Tensor, calls: dict) -> dict[str, float]:
    """The relative l2 error of each contestant in its last row; raises on a wrong answer."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(x.shape[1], dtype=x.dtype, generator=generator)
    want = exact(source.numpy())
    bound = torch.finfo(x.dtype).eps * max(4, x.shape[1].bit_length())
    errors = {}
    for name in (name for name in calls if name != STREAM):
        x.fill_(1)
        x[-1] = source
        calls[name]()
        square = ((x[-1].numpy() - want) ** 2).sum() / (want**2).sum()
        errors[name] = float(np.sqrt(square))
        first_is_right = len(x) == 1 or (x[0, 0] == x.shape[1] and not x[0, 1:].any())
        if not (errors[name] <= bound and first_is_right):
            raise AssertionError(f"{name}: wrong answer for {tuple(x.shape)}, {errors[name]}")
    return errors


def race(x: Tensor, calls: dict, seconds: float, clock: Callable) -> dict[str, list[int]]:
    """Nanoseconds of each contestant in each round, all in turn, for about `seconds`."""
    ns = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(ns[STREAM]) < 9:
        for name, call in calls.items():
            x.fill_(1)
            start = clock()
            call()
            ns[name].append(clock() - start)
    return ns


def measure(dtype: torch.dtype, place: str, b: int, threads: int) -> dict:
    """One case, as a row of the results."""
    torch.set_num_threads(threads)
    traffic = 2 * max(BYTES[place], dtype.itemsize << b)
    x = torch.empty(traffic // 2 // dtype.itemsize >> b, 1 << b, dtype=dtype)
    calls = contestants(x, threads)
    errors = check(x, calls)
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    ns = race(x, calls, SECONDS[place], clock)
    medians = {name: statistics.median(times) for name, times in ns.items()}

    def against(other):
        return {
            name: round(
                statistics.median(o / t for t, o in zip(ns[name], ns[other], strict=True)), 3
            )
            for name in calls
            if name not in (PEER, STREAM) and other in calls
        }

    return {
        "dtype": str(dtype).removeprefix("torch."),
        "place": place,
        "threads": threads,
        "b": b,
        "rows": len(x),
        "rounds": len(ns[STREAM]),
        "ns": {name: round(t) for name, t in medians.items()},
        "gb_per_s": {name: round(traffic / t, 1) for name, t in medians.items()},
        "error": errors,
        "times_faster_than_fht_cpu": against(PEER),
        "share_of_stream": against(STREAM),
    }


def sweep() -> list[dict]:
    """Every case, printed as it is done: one thread throughout, then all threads in ram."""
    every = torch.get_num_threads()
    results = []
    for dtype in (torch.float32, torch.float64):
        cases = [("chip", b, 1) for b in range(3, 23) if dtype.itemsize << b <= LONGEST_ON_CHIP]
        cases += [("ram", b, 1) for b in range(3, 23)]
        cases += [("ram", b, every) for b in (3, 8, 12, 16, 20, 22) if every > 1]
        for place, b, threads in cases:
            results.append(measure(dtype, place, b, threads))
            print(line(results[-1]), flush=True)
    torch.set_num_threads(every)
    return results


def line(r: dict) -> str:
    """One row of the table."""
    rate = "  ".join(f"{name} {value:6.1f}" for name, value in r["gb_per_s"].items())
    faster = " ".join(f"{value:5.2f}" for value in r["times_faster_than_fht_cpu"].values())
    share = " ".join(f"{value:5.2f}" for value in r["share_of_stream"].values())
    case = f"{r['dtype']} {r['place']:4} {r['threads']}t b={r['b']:2}"
    return f"{case}  GB/s {rate}  | /fht-cpu {faster or '-'}  | /stream {share}"


def summary(results: list[dict]) -> list[str]:
    """Least and median ratio to fht-cpu per dtype, place and path; goals that were missed."""
    lines = []
    single = [r for r in results if r["threads"] == 1]
    for dtype in ("float32", "float64"):
        for path in single[0]["times_faster_than_fht_cpu"]:
            for places in (["chip"], ["ram"], ["chip", "ram"]):
                ratios = [
                    r["times_faster_than_fht_cpu"][path]
                    for r in single
                    if r["dtype"] == dtype and r["place"] in places
                ]
                least, middle = min(ratios), statistics.median(ratios)
                where = "+".join(places)
                lines.append(f"{dtype} {path} {where}: least {least:.2f}, median {middle:.2f}")
    for r in single:
        goal = SHARE_GOALS.get(r["b"]) if (r["dtype"], r["place"]) == ("float32", "ram") else None
        share = list(r["share_of_stream"].values())[-1]
        if goal is not None and share < goal:
            lines.append(f"below its goal: b={r['b']} takes {share:.2f} of the stream, not {goal}")
    return lines


def main() -> None:
    rows = sweep()
    notes = summary(rows)
    print(*notes, sep="\n")
    write("fwht", rows, fht_cpu=FHT_VERSION, summary=notes)


@pytest.mark.parametrize("name", ["reference", "avx2", "avx512", PEER, STREAM])
@pytest.mark.parametrize("b", [3, 8, 12, 16, 18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fwht(benchmark, dtype, b, name):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    x = torch.empty(max(1, BYTES["chip"] // dtype.itemsize >> b), 1 << b, dtype=dtype)
    calls = {"reference": partial(reference.fwht, x), **contestants(x, 1)}
    if name not in calls:
        pytest.skip(f"fht-cpu {FHT_VERSION}" if name == PEER else f"this CPU lacks {name}")
    if name != "reference":
        check(x, {name: calls[name]})
    benchmark.group = f"fwht {str(dtype)[6:]} rows={len(x)} B={1 << b}"

    def fill():
        x.fill_(1)

    benchmark.pedantic(calls[name], setup=fill, rounds=20)
    torch.set_num_threads(before)


if __name__ == "__main__":
    main()
