"""ProxySPEX at large n and many samples: wall seconds by stage and peak memory, on all threads.

    python bench/bench_proxy_scale.py

Masks and values of a planted hierarchical function (200 terms of degree 4, 20 dB) are there; each
case runs in a process of its own. Peak memory is that of the whole process, Python, torch and
the dense masks included.
"""

from __future__ import annotations

import time

import numpy as np
from harness import Row, in_new_process, peak_mb, table, write
from synthetic import hierarchical

import spex_core

CASES = [(4096, 50_000), (50_000, 20_000)]
MOST_SECONDS, MOST_MB = 600, 4096


def run(n: int, samples: int) -> Row:
    f = hierarchical(n, 200, 4, snr=20)
    rng = np.random.default_rng(0)
    masks = np.unpackbits(rng.integers(0, 256, (samples, n // 8), np.uint8), axis=1).view(np.bool_)
    masks = masks[:, :n] if n % 8 == 0 else np.pad(masks, ((0, 0), (0, n - masks.shape[1])))
    values = f(masks)
    start_mb, start, cpu = peak_mb(), time.perf_counter(), time.process_time()
    ex = spex_core.fit(masks, values)
    row = {"n": n, "samples": samples, "seconds": time.perf_counter() - start}
    row |= {"cpu": time.process_time() - cpu, "start_mb": start_mb, "peak_mb": peak_mb()}
    test = rng.random((1000, n)) < 0.5
    row |= {"r2": ex.transform.score(test, f.clean(test)), "terms": len(ex.transform)}
    return row | {
        "out_of_fold": ex.report.r2,
        "linear": ex.report.r2_linear,
        "plan": ex.report.plan,
    }


def main() -> None:
    rows = [in_new_process(run, n=n, samples=samples) for n, samples in CASES]
    table(rows, f"ProxySPEX at scale; at most {MOST_SECONDS} s and {MOST_MB} MB are asked for")
    write("proxy_scale", rows)


if __name__ == "__main__":
    main()
