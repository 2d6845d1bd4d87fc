"""What a fit of GPSPEX takes: seconds and memory, beside what gp_memory.py says of them beforehand.

    python bench/bench_gp_speed.py [--case 0] [--case 1]

A planted function of hierarchical terms with noise, its samples at uniform masks, default options,
two threads, each case in a process of its own. `wall` and `cpu` are seconds of the fit alone,
`stated_cpu` those that gp_memory.seconds_of says; `mb` the most memory beyond what the process had
before the fit, `stated_mb` that of gp_memory.bytes_of; `r2` is on 10,000 masks that it has not
seen, without noise. Cases that are not run keep their rows.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from harness import HERE, Row, in_new_process, table, write
from synthetic import hierarchical

import spex_core
from spex_core import gp_memory

# Samples, features, largest order
CASES = ((300, 64, 4), (1000, 64, 4), (5000, 40, 4), (50, 20_000, 2))
THREADS = 2
TERMS, SNR, TEST = 200, 20.0, 10_000
RESULTS = HERE / "results" / "gp_speed.json"


def run(samples: int, n: int, degree: int) -> Row:
    torch.set_num_threads(THREADS)
    f = hierarchical(n, TERMS, degree, snr=SNR, seed=0)
    rng = np.random.default_rng(1)
    masks, test = (rng.random((count, n)) < 0.5 for count in (samples, TEST))
    values = f(masks)
    spex_core.fit(masks[:40, :12], values[:40], algorithm="gpspex")  # loads what is loaded once
    start = forget_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    ex = spex_core.fit(masks, values, algorithm="gpspex", degree=degree)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "samples": samples,
        "n": n,
        "degree": degree,
        "threads": THREADS,
        "wall": round(wall, 2),
        "cpu": round(cpu, 2),
        "stated_cpu": round(gp_memory.seconds_of(samples, n, degree), 2),
        "mb": round((resident("VmHWM") - start) / 1e6, 1),
        "stated_mb": round(gp_memory.bytes_of(samples, n) / 1e6, 1),
        "r2": round(ex.transform.score(test, f.clean(test)), 4),
    }


def forget_peak() -> int:
    """Bytes that are resident; from here on the largest number of them counts."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return resident("VmRSS")


def resident(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:")) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", type=int, action="append", choices=range(len(CASES)))
    chosen = parser.parse_args().case or list(range(len(CASES)))
    rows = {}
    if RESULTS.is_file():
        rows = {
            tuple(row[key] for key in ("samples", "n", "degree")): row
            for row in json.loads(RESULTS.read_text())["rows"]
        }
    for case in (CASES[i] for i in chosen):
        rows[case] = in_new_process(run, **dict(zip(("samples", "n", "degree"), case, strict=True)))
    rows = [rows[case] for case in CASES if case in rows]
    table(rows, "GPSPEX: seconds and memory of a fit")
    write("gp_speed", rows)


if __name__ == "__main__":
    main()
