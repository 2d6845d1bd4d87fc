"""How many samples a Gaussian process can take on this machine, said before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import check

MAX_SAMPLES = 5000
MATRICES = 10  # float64 (T, T) that are there at once, at the most


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def check_samples_fit(name: str, samples: int) -> None:
    """Refuse samples beyond MAX_SAMPLES, or whose matrices are larger than the memory that is
    free."""
    check(
        samples <= MAX_SAMPLES,
        "{} must be at most {:,} for a Gaussian process, whose cost is their cube, got {:,}: "
        "proxyspex() (algorithm='proxyspex') takes any number",
        *(name, MAX_SAMPLES, samples),
    )
    needed, there = MATRICES * 8 * samples**2, available_bytes()
    check(
        there is None or needed <= there,
        "{} must be fewer for this machine: {:,} need {:,} MB for matrices, {:,} MB are free; "
        "proxyspex() (algorithm='proxyspex') needs far less",
        *(name, samples, needed >> 20, (there or 0) >> 20),
    )
