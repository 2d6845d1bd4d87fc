"""The exact GELU on a CPU, against torch's.

    python bench/bench_gelu.py    # half a minute; writes bench/results/gelu.json
    pytest bench/bench_gelu.py    # the same cases, in pytest-benchmark groups

Shapes are those of MiniLM's inner states, (tokens, 1536), standard normal. All are first checked
against float64. One thread, CPU time, calls in turn; ns are of an element, medians of the rounds,
`x` the median of the ratios to torch. `clone` reads and writes as much and computes nothing.
"""

from __future__ import annotations

import statistics
from functools import partial

import harness
import pytest
import torch
from race import Calls, isas, race, ratio

from spex_core import native
from spex_core.ops_inference import gelu

SHAPES = [(1012, 1536), (2048, 1536)]
DTYPES = [torch.float32, torch.bfloat16]
GOAL = 2.0  # in float32
BOUND = {torch.float32: 5e-7, torch.bfloat16: 4e-3}  # of the error over max(1, |x|)


def contestants(shape: tuple[int, int], dtype: torch.dtype) -> Calls:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    calls: Calls = {"torch": partial(torch.nn.functional.gelu, x), "auto": partial(gelu, x)}
    calls |= {isa: partial(native.gelu_cpu, x, isa=isa) for isa in isas()}
    wide = x.double()
    exact = wide * torch.special.ndtr(wide)
    for name, call in calls.items():
        error = ((call() - exact).abs() / wide.abs().clamp(min=1)).max().item()
        if not error <= BOUND[dtype]:
            raise AssertionError(f"{name} is wrong: {error}")
    return calls | {"clone": x.clone}


def measure(shape: tuple[int, int], dtype: torch.dtype) -> harness.Row:
    times = race(contestants(shape, dtype), 3.0)
    elements = shape[0] * shape[1]
    speeds = {f"{way} ns": statistics.median(s) / elements * 1e9 for way, s in times.items()}
    dtype_name = str(dtype).removeprefix("torch.")
    shape_name = " x ".join(map(str, shape))
    row = {"shape": shape_name, "dtype": dtype_name}
    return row | speeds | {"x": ratio(times, "torch", "auto")}


def main() -> None:
    rows = [measure(shape, dtype) for dtype in DTYPES for shape in SHAPES]
    harness.table(rows, "exact GELU, one thread")
    found = [
        f"{row['shape']}: {row['x']:.2f} times torch, goal {GOAL}: "
        f"{'met' if row['x'] >= GOAL else 'MISSED'}"
        for row in rows
        if row["dtype"] == "float32"
    ]
    print("\n".join(found))
    harness.write("gelu", rows, threads=1, verdicts=found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["torch", "auto"])
def test_gelu(benchmark, shape, dtype, name):
    calls = contestants(shape, dtype)
    benchmark.group = f"gelu {dtype} {shape}"
    torch.set_num_threads(1)
    benchmark.pedantic(calls[name], rounds=20, warmup_rounds=1)


if __name__ == "__main__":
    main()
