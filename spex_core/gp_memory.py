"""How many samples a Gaussian process can take on this machine, or a device of it, said before
anything is made."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from . import resident
from .errors import check

CPU = torch.device("cpu")
MAX_SAMPLES = 5000  # on the host
MATRICES = 10  # float64 (T, T) that are there at once, at the most
LONGEST = 120.0  # seconds on one core that a fit may take where nobody asked for it by name


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def check_samples_fit(name: str, samples: int, device: torch.device = CPU) -> None:
    """Refuse samples whose matrices are larger than the memory that is free there or, on the host,
    that are more than MAX_SAMPLES."""
    on_host = device.type == "cpu"
    check(
        not on_host or samples <= MAX_SAMPLES,
        "{} must be at most {:,} for a Gaussian process, whose cost is their cube, got {:,}: "
        "proxyspex() (algorithm='proxyspex') takes any number",
        *(name, MAX_SAMPLES, samples),
    )
    needed = MATRICES * 8 * samples**2
    there = available_bytes() if on_host else resident.free_bytes(device)
    check(
        there is None or needed <= there,
        "{} must be fewer for {}: {:,} need {:,} MB for matrices, {:,} MB are free; "
        "proxyspex() (algorithm='proxyspex') needs far less",
        *(name, "this machine" if on_host else device, samples),
        *(needed >> 20, (there or 0) >> 20),
    )


def affordable(samples: int, n: int, degree: int, outputs: int) -> bool:
    """Whether a Gaussian process of so many samples fits in memory, and in LONGEST."""
    if samples > MAX_SAMPLES or outputs * seconds_of(samples, n, degree) > LONGEST:
        return False
    there = available_bytes()
    return there is None or MATRICES * 8 * samples**2 <= there


def seconds_of(samples: int, n: int, degree: int) -> float:
    """What a fit takes on one core, roughly: 1.5 s for 300 samples of 64 features at degree 4, 13 s
    for 1,000. The same on every machine, so that one seed gives one result."""
    fitted = min(samples, 1500)
    return 1.0 + (100 * fitted**2 * (fitted + n * degree) + 2 * samples**3) / 1e10
