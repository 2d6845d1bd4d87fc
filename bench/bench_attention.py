"""Attention within the sequences of a pack on a CPU, against torch's own on runs of equal length.

    python bench/bench_attention.py    # a minute; writes bench/results/attention.json
    pytest bench/bench_attention.py    # the same cases, in pytest-benchmark groups

About 2,048 tokens in sequences of one length, which is the rival's best case: it then makes one
call of scaled_dot_product_attention on a batch without padding, and copies nothing. `mixed` has
lengths that all differ, a call each. States are views of rows (N, H D), as models hand them over.
All are first checked against float64. One thread, CPU time, calls in turn; a speed is 4 L^2 D H
operations a sequence over the median of the rounds, `x` the median of the ratios to torch.
"""

from __future__ import annotations

import itertools
import statistics
from functools import partial

import harness
import pytest
import torch
from race import Calls, isas, race, ratio
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from spex_core import native
from spex_core.ops_inference import packed_attention

TOKENS = 2048
CASES = [  # name, lengths, heads, width
    *((str(n), [n] * (TOKENS // n), 12, 32) for n in (24, 45, 100, 190, 349)),
    ("mixed", [*range(170, 181), 93], 12, 32),
    ("190, D = 64", [190] * 10, 12, 64),
    ("1024", [1024] * 2, 12, 32),
]
DTYPES = [torch.float32, torch.bfloat16]
GOAL = 1.6  # at lengths 45 and 190 in float32
BOUND = {torch.float32: 1e-6, torch.bfloat16: 4e-3}  # relative l2 error


def run_by_run(query: Tensor, key: Tensor, value: Tensor, runs: list[tuple[int, int, int]]):
    parts = []
    for start, rows, length in runs:
        q, k, v = (
            x[start : start + rows * length].unflatten(0, (rows, length)).transpose(1, 2)
            for x in (query, key, value)
        )
        out = scaled_dot_product_attention(q, k, v)
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def contestants(lengths: list[int], heads: int, width: int, dtype: torch.dtype) -> Calls:
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, *itertools.accumulate(lengths)])
    rows = torch.randn(3, sum(lengths), heads * width, generator=generator).to(dtype)
    states = rows.unflatten(2, (heads, width)).unbind()
    runs, start = [], 0
    for length, group in itertools.groupby(lengths):
        count = len(list(group))
        runs.append((start, count, length))
        start += count * length
    calls: Calls = {
        "torch": partial(run_by_run, *states, runs),
        "auto": partial(packed_attention, *states, starts),
    }
    for isa in isas():
        calls[isa] = partial(
            native.packed_attention_cpu, *states, starts, False, width**-0.5, isa=isa
        )
    exact = run_by_run(*(x.double() for x in states), runs)
    for name, call in calls.items():
        error = ((call().double() - exact).norm() / exact.norm()).item()
        if not error <= BOUND[dtype]:
            raise AssertionError(f"{name} is wrong: {error}")
    return calls


def measure(name: str, lengths: list[int], heads: int, width: int, dtype: torch.dtype):
    times = race(contestants(lengths, heads, width, dtype), 3.0)
    operations = 4 * sum(n * n for n in lengths) * width * heads
    speeds = {
        f"{way} GFLOP/s": operations / statistics.median(seconds) / 1e9
        for way, seconds in times.items()
    }
    dtype_name = str(dtype).removeprefix("torch.")
    return {"length": name, "dtype": dtype_name} | speeds | {"x": ratio(times, "torch", "auto")}


def main() -> None:
    rows = [measure(*case, dtype) for dtype in DTYPES for case in CASES]
    harness.table(rows, "attention within sequences, one thread")
    found = [
        f"length {row['length']}: {row['x']:.2f} times torch, goal {GOAL}: "
        f"{'met' if row['x'] >= GOAL else 'MISSED'}"
        for row in rows
        if row["dtype"] == "float32" and row["length"] in ("45", "190")
    ]
    print("\n".join(found))
    harness.write("attention", rows, threads=1, verdicts=found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("name", ["torch", "auto"])
def test_attention(benchmark, case, dtype, name):
    title, *sizes = case
    calls = contestants(*sizes, dtype)
    benchmark.group = f"attention {dtype} length {title}"
    torch.set_num_threads(1)
    benchmark.pedantic(calls[name], rounds=20, warmup_rounds=1)


if __name__ == "__main__":
    main()
