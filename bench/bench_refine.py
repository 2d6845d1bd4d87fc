"""Least squares on 20,000 samples and 2,000 terms, with and without the matrix of signs.

    python bench/bench_refine.py

Uniform masks of 256 features and planted terms without noise, so that the error is known: relative
l2 distance to the planted coefficients. Rivals on the same masks, in turn: the float32 matrix of
signs (160 MB) built by a matrix product and then either its normal equations with a Cholesky
factor, or numpy.linalg.lstsq. `matrix_s` is the time to build it, part of their seconds. Each row
is run in a process of its own: `growth_mb` is how far its peak memory rises over what was there
before. The last two rows are one plan's samples: refit, which works in the bins, and least_squares
on the same masks.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from harness import Row, Stopwatch, in_new_process, peak_mb, table, write
from synthetic import planted

from spex_core import masks as bits
from spex_core import ops
from spex_core.budget import aliased_plan
from spex_core.refine import least_squares, refit

N, SAMPLES, TERMS, DEGREE = 256, 20_000, 2000, 5
MOST_SECONDS = 2


def problem(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed support, its coefficients, and the values of the planted function at packed masks."""
    terms = planted(N, TERMS - 1, DEGREE).terms
    support = bits.pack_sets(list(terms), N)
    coefs = torch.tensor(list(terms.values()), dtype=torch.float64)
    return support, coefs, ops.parity_predict(masks, support, coefs)


def signs(masks: torch.Tensor, support: torch.Tensor, watch: Stopwatch) -> np.ndarray:
    """The matrix of signs, float32 (T, S)."""
    with watch("matrix"):
        odd = bits.unpack(masks, N).astype(np.float32) @ bits.unpack(support, N).T.astype(
            np.float32
        )
        odd %= 2
        odd *= -2
        odd += 1
    return odd


def normal_equations(
    masks: torch.Tensor, values: torch.Tensor, support: torch.Tensor, watch: Stopwatch
):
    x = torch.from_numpy(signs(masks, support, watch))
    factor = torch.linalg.cholesky(x.T @ x)
    return torch.cholesky_solve(x.T @ values.float()[:, None], factor)[:, 0]


def lstsq(masks: torch.Tensor, values: torch.Tensor, support: torch.Tensor, watch: Stopwatch):
    found = np.linalg.lstsq(signs(masks, support, watch), values.float().numpy(), rcond=None)
    return torch.from_numpy(found[0])


def ours(masks: torch.Tensor, values: torch.Tensor, support: torch.Tensor, watch: Stopwatch):
    return least_squares(masks, values, support)


SLOW = "float32 matrix, numpy.linalg.lstsq"
METHODS = {
    "least_squares": ours,
    "float32 matrix, normal equations": normal_equations,
    SLOW: lstsq,  # one thread only: most of a minute
}
PLAN_METHODS = ("refit on a plan", "least_squares on its masks")


def on_masks(method: str, threads: int) -> Row:
    torch.set_num_threads(threads)
    masks = ops.uniform_masks(SAMPLES, N, seed=0)
    support, truth, values = problem(masks)
    return measured(lambda watch: METHODS[method](masks, values, support, watch), truth) | {
        "samples": SAMPLES
    }


def on_plan(method: str, threads: int) -> Row:
    torch.set_num_threads(threads)
    plan = aliased_plan(N, 8, degree=DEGREE)
    masks = plan.masks(0, plan.total)
    support, truth, values = problem(masks)
    calls = (
        lambda watch: refit(plan, values, support),
        lambda watch: least_squares(masks, values, support),
    )
    call = dict(zip(PLAN_METHODS, calls, strict=True))[method]
    return measured(call, truth) | {"samples": plan.total}


def measured(call, truth: torch.Tensor) -> Row:
    least_squares(ops.uniform_masks(99, N, seed=1), torch.ones(99), ops.uniform_masks(9, N, seed=2))
    watch, before = Stopwatch(), peak_mb()
    wall = time.perf_counter()
    with watch("all"):
        found = call(watch)
    wall = time.perf_counter() - wall
    error = float((found.double() - truth).norm() / truth.norm())
    row = {"cpu_s": watch.spent["all"], "wall_s": wall, "growth_mb": round(peak_mb() - before)}
    return row | {"matrix_s": watch.spent.get("matrix", 0.0), "error": f"{error:.0e}"}


def main() -> None:
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        cases = [(on_masks, method) for method in METHODS if threads == 1 or method != SLOW]
        cases += [(on_plan, method) for method in PLAN_METHODS]
        for where, method in cases:
            row = in_new_process(where, method=method, threads=threads)
            if not float(row["error"]) < 1e-3:
                raise AssertionError(f"{method} is wrong: {row}")
            rows.append({"method": method, "threads": threads} | row)
    table(rows, f"{TERMS} terms of {N} features")
    ours_alone = rows[0]
    met = ours_alone["wall_s"] < MOST_SECONDS and ours_alone["growth_mb"] < SAMPLES * TERMS * 4e-6
    print(f"target under {MOST_SECONDS} s without a float matrix: {'met' if met else 'MISSED'}")
    write("refine", rows)


if __name__ == "__main__":
    main()
