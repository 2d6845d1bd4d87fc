"""Calls timed in turn, so that whatever else the machine does hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

Calls = dict[str, Callable[[], object]]


def isas() -> list[str]:
    """The instruction sets this CPU has, the plainest first."""
    from spex_core import native

    return list(native.ISAS)[: native.ISAS[native.best_isa()] + 1]


def race(calls: Calls, seconds: float = 1.0, threads: int = 1) -> dict[str, list[float]]:
    """name -> seconds of each round, every call once a round, at least three rounds.

    CPU time on one thread, which another process's turn does not count in; wall time on more.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    torch.set_num_threads(before)
    return times


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is than `slow`: the median of the ratios of the rounds."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))
