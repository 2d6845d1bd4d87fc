"""How bench_gpu.py and its parts take times, and of which backends."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from spex_core.backend import refusal


class Deadline:
    """After so many seconds no further row is started, but noted as left out."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, *row: str) -> bool:
        if time.monotonic() < self.end:
            return True
        self.left_out.append(" ".join(row))
        return False


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """The median by CUDA events, with the L2 cache flushed before each call."""
    from triton.testing import do_bench

    return do_bench(call, warmup=50, rep=1000 * seconds, return_mode="median")


def copy_rate(device: torch.device, seconds: float) -> float:
    """Bytes read and written in a millisecond by a copy of 1 GiB."""
    x = torch.empty(1 << 28, device=device)
    return 2 * x.nbytes / milliseconds(x.clone, seconds)


def each(call: Callable[[], object], device: torch.device, times: int = 300) -> float:
    """Microseconds of one of many calls one after another."""
    for count in (10, times):
        start = time.perf_counter()
        for _ in range(count):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return 1e6 * (time.perf_counter() - start) / times


def backends(op: str, device: torch.device) -> list[str]:
    """Those that run on the device; the reference alone where there is none."""
    there = [name for name in ("triton", "cuda") if refusal(op, name, device) is None]
    return there or ["reference"]
