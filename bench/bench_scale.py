"""Large inputs: seconds by stage and peak memory of planning and decoding.

    python bench/bench_scale.py

Three groups of 2**12 bins, degree 5, 1,000 planted terms at 20 dB; n = 16,384 takes 933,888
samples. Each case runs in a process of its own, on all threads. The values are made from the bins,
a transform each, which takes no masks and is not counted; `masks` makes every mask of the plan,
packed and in blocks, as evaluate does. Peak memory is that of the whole process, Python and torch,
which hold `start_mb` before the plan, included.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from harness import Row, Stopwatch, in_new_process, peak_mb, table, write
from synthetic import Planted, accuracy, planted

from spex_core import masks as bits
from spex_core import ops
from spex_core.alias import alias
from spex_core.budget import aliased_plan
from spex_core.evaluate import BLOCK
from spex_core.peel import peel
from spex_core.plan import SamplingPlan
from spex_core.refine import refit, term_bins, term_signs

B, DEGREE, TERMS, SNR = 12, 5, 1000, 20.0
SIZES = [16_384, 50_000]
MOST_SECONDS, MOST_MB = 20, 3000  # plan + alias + peel, and peak memory, at n = 16,384


def values_on(plan: SamplingPlan, f: Planted) -> torch.Tensor:
    """f at all aliased rows, with noise: its bins transformed back, checked on some rows."""
    support = bits.pack_sets(list(f.terms), plan.n)
    terms = term_signs(plan, support) * np.array(list(f.terms.values()))[:, None]  # (S, P)
    groups, shifts, width = plan.shape
    bins = np.zeros((groups, width, shifts))
    for group, at in zip(bins, term_bins(plan, support).numpy(), strict=True):
        np.add.at(group, at, terms)
    values = ops.fwht(torch.from_numpy(bins).transpose(1, 2).contiguous()).flatten().numpy()
    first = plan.aliased - 100
    again = f.clean(bits.unpack(plan.masks(first, plan.aliased), plan.n))
    if not np.allclose(values[first:], again, atol=1e-9):
        raise AssertionError("values from bins are not those of the function")
    return torch.from_numpy(values + f.sigma * f.noise.standard_normal(len(values)))


def run(n: int) -> Row:
    f = planted(n, TERMS, DEGREE, snr=SNR)
    start_mb = peak_mb()
    watch = Stopwatch(time.perf_counter)
    cpu = Stopwatch()
    with watch("plan"), cpu("decode"):
        plan = aliased_plan(n, B, degree=DEGREE)
    with watch("masks"):
        for row in range(0, plan.total, BLOCK):
            plan.masks(row, min(row + BLOCK, plan.total))
    values = values_on(plan, f)
    with watch("alias"), cpu("decode"):
        bins = alias(values, plan)
    with watch("peel"), cpu("decode"):
        support, coefs = peel(bins, plan)
    with watch("refit"):
        coefs = refit(plan, values, support, coefs)
    found = dict(zip(bits.unpack_sets(support), coefs.tolist(), strict=True))
    seconds = {f"{stage}_s": spent for stage, spent in watch.spent.items()}
    wall = sum(watch.spent[stage] for stage in ("plan", "alias", "peel"))
    total = {"plan_alias_peel_s": wall, "plan_alias_peel_cpu_s": cpu.spent["decode"]}
    memory = {"start_mb": round(start_mb), "peak_mb": round(peak_mb())}
    size = {"n": n, "samples": plan.total, "threads": torch.get_num_threads()}
    return size | accuracy(f.terms, found) | seconds | total | memory


def main() -> None:
    rows = [in_new_process(run, n=n) for n in SIZES]
    for row in rows:
        if not (row["precision"] == row["recall"] == 1):
            raise AssertionError(f"terms missing or wrong: {row}")
    table(rows, f"b={B}, t={DEGREE}, {TERMS} terms, {SNR:g} dB, soft, wall seconds")
    first = rows[0]
    met = first["plan_alias_peel_s"] < MOST_SECONDS and first["peak_mb"] < MOST_MB
    print(
        f"target under {MOST_SECONDS} s and {MOST_MB} MB at n=16,384: {'met' if met else 'MISSED'}"
    )
    write("scale", rows)


if __name__ == "__main__":
    main()
