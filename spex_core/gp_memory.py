"""How many samples a Gaussian process can take on this machine, or a device of it, said before
anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from . import resident
from .errors import check

CPU = torch.device("cpu")
MAX_SAMPLES = 5000  # on the host
MATRICES = 9  # float64 (T, T) that are on a device at once, at the most, beside one an output
LONGEST = 120.0  # seconds on one core that a fit may take where nobody asked for it by name
COMPARED, FITTED, PAIRED = 600, 1500, 4096  # samples and features, as gp_folds and gp_prior have
GROUPS = {  # folder, limit, use and what of it can be dropped, of control groups of version 2 and 1
    2: ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    1: (
        *("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        *("memory.usage_in_bytes", "total_inactive_file"),
    ),
}


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that can be had without swapping, of the machine and of every control group that the
    process is in (a container's limit); None where the system does not say."""
    found = [*_of_machine(root), *_of_groups(root)]
    return max(0, min(found)) if found else None


def _of_machine(root: Path) -> Iterator[int]:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    except OSError:
        return


def _of_groups(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, *names = GROUPS[1 if controllers else 2]
        place = root / top
        inner = place / path.strip("/")
        for folder in (inner, *inner.parents):  # seen from inside, a container's own is the top
            yield from _left_in(folder, *names)
            if folder == place:
                break


def _left_in(folder: Path, limit: str, used: str, idle: str) -> Iterator[int]:
    """Bytes below the limit of a group, if it has one; files that are only cached are no use."""
    try:
        most, now = (int((folder / name).read_text()) for name in (limit, used))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        yield most - now + int(stat.get(idle, 0))
    except (OSError, ValueError):
        return


def check_samples_fit(
    name: str,
    samples: int,
    n: int,
    outputs: int = 1,
    *,
    before: int = 0,
    device: torch.device = CPU,
) -> None:
    """Refuse samples that need more memory than is free there or, on the host, beyond MAX_SAMPLES.

    Args: name: of the argument, which is how many `samples` there are beyond those `before`.
    """
    on_host = device.type == "cpu"
    with_old = f" that has {before:,}" if before else ""
    check(
        not on_host or before + samples <= MAX_SAMPLES,
        "{} must be at most {:,} for a Gaussian process{}, whose cost is the cube of its samples, "
        "got {:,}: proxyspex() (algorithm='proxyspex') takes any number",
        *(name, max(0, MAX_SAMPLES - before), with_old, samples),
    )
    if on_host:
        needed, there = bytes_of(before + samples, n, outputs), available_bytes()
    else:
        needed = 8 * (MATRICES + outputs) * (before + samples) ** 2
        there = resident.free_bytes(device)
    check(
        there is None or needed <= there,
        "{} must be fewer for {}: {:,} samples of {:,} features need {:,} MB, {:,} MB "
        "are free; proxyspex() (algorithm='proxyspex') needs far less",
        *(name, "this machine" if on_host else device, before + samples, n),
        *(needed >> 20, (there or 0) >> 20),
    )


def affordable(samples: int, n: int, degree: int, outputs: int) -> bool:
    """Whether a Gaussian process of so many samples fits in memory, and in LONGEST."""
    if samples > MAX_SAMPLES or outputs * seconds_of(samples, n, degree) > LONGEST:
        return False
    there = available_bytes()
    return there is None or bytes_of(samples, n, outputs) <= there


def bytes_of(samples: int, n: int, outputs: int = 1) -> int:
    """Memory that a fit takes beyond what the process has, at the most: 25 to 160 % more than is
    seen (bench/bench_gp_speed.py, tests/test_gp_memory.py). The first fit of a
    process also loads some 50 MB of libraries, which are in it."""
    T, paired = samples, min(n, PAIRED)
    compared = 32 * _folds(T) * min(T, COMPARED) * min(T, 2 * COMPARED)  # float32, under 8 priors
    fitted = 8 * max(8 * min(T, FITTED) ** 2, 3 * T**2)  # covariances, factors and their inverses
    terms = 32 * 1024 * T + 5 * (n + 8192) * (n // 8 + 64)  # of trees at the samples; packed
    pairs = 8 * paired * (4 * T + 512)
    return 60_000_000 + compared + fitted + terms + pairs + outputs * (8 * T**2 + 3_000_000)


def seconds_of(samples: int, n: int, degree: int) -> float:
    """What a fit takes on one core, within a factor of two in most cases: the kernels of the folds
    and of the last fit, boosting and the terms of all features. The same on every machine, so that
    one seed gives one result."""
    folds, compared, fitted = _folds(samples), min(samples, COMPARED), min(samples, FITTED)
    trials = folds * compared**2 * (2.3e-9 * compared + 1.1e-9 * n * degree)
    last = fitted**2 * (1.75e-9 * fitted + 2.2e-9 * n * degree)
    trees_and_terms = folds * (2.6e-8 * samples + 5.3e-5) * n * degree
    return 0.43 + trials + last + trees_and_terms


def _folds(samples: int) -> int:
    """Folds that the priors are compared on, as gp_folds has them."""
    return min(max(1200 // samples, 4), 8) if samples <= COMPARED else 3
