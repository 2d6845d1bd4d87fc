"""The Triton and CUDA kernels on a CUDA device, beside the floor that a copy there sets.

    make bench-gpu    # or: python bench/bench_gpu.py [--seconds 0.2]

Each result is first held to the CPU's. Milliseconds are medians by CUDA events, with the L2 cache
flushed before each call; `floor` is the time of a device copy of as many bytes, in the same run.
Without a device it says so and writes nothing.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable

import torch
from harness import table, write
from torch import Tensor

from spex_core import ops
from spex_core.alias import alias
from spex_core.backend import refusal
from spex_core.codes import bch_code
from spex_core.masks import pack
from spex_core.peel import peel
from spex_core.plan import SamplingPlan, aliased_plan
from spex_core.refine import least_squares, refit

FWHT = [(torch.float32, b) for b in (3, 5, 7, 8, 10, 12, 14, 15, 16, 18, 20, 22, 24)]
FWHT += [(torch.float64, b) for b in (3, 7, 10, 12, 13, 14, 15, 20)]
FWHT += [(torch.bfloat16, b) for b in (7, 12, 15)]
VALUES = 1 << 28  # of a transform


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    from triton.testing import do_bench

    return do_bench(call, warmup=50, rep=1000 * seconds, return_mode="median")


def copy_rate(device: torch.device, seconds: float) -> float:
    """Bytes read and written in a millisecond by a copy of 1 GiB."""
    x = torch.empty(1 << 28, device=device)
    return 2 * x.nbytes / milliseconds(x.clone, seconds)


def backends(op: str, device: torch.device) -> list[str]:
    """Those that run on the device; the reference alone where there is none."""
    there = [name for name in ("triton", "cuda") if refusal(op, name, device) is None]
    return there or ["reference"]


def words(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)


def fwht_rows(device: torch.device, rate: float, seconds: float) -> list[dict]:
    rows = []
    for dtype, b in FWHT:
        small = torch.randint(-9, 10, (4, 1 << b)).to(dtype)
        x = torch.randn(VALUES >> b, 1 << b, device=device).to(dtype)
        floor = 2 * x.nbytes / rate
        size = f"{dtype} b={b} values=2**28".removeprefix("torch.")
        for backend in backends("fwht", device):
            call = functools.partial(ops.fwht, backend=backend)
            exact = torch.equal(call(small.to(device)).cpu(), ops.fwht(small))
            ms = milliseconds(lambda call=call, x=x: call(x), seconds)
            name = {"op": "fwht", "size": size, "backend": backend}
            rows.append(name | {"ms": ms, "floor": floor, "of copy": floor / ms, "equal": exact})
    return rows


def sparse(terms: int, n: int) -> Tensor:
    """Terms of five features."""
    out = torch.zeros(terms, n, dtype=torch.bool)
    out[torch.arange(terms)[:, None], torch.randint(n, (terms, 5))] = True
    return pack(out)


def planted_bins(n: int) -> tuple[Tensor, tuple]:
    """Bins of 1,000 terms of five features, b = 12, at 10 dB; and what peel knows of them."""
    plan = aliased_plan(n, 12, seed=7)
    masks = plan.masks(0, plan.aliased)
    coefs = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    values = ops.parity_predict(masks, sparse(1000, n), coefs)
    noise = torch.randn(len(values), generator=torch.Generator().manual_seed(9))
    bins = alias(values + 10.0 * noise.double(), plan)
    return bins, (plan.code, plan.delay_columns, plan.hashes)


def explained(plan: SamplingPlan, values: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Transform, decoding and refit, where the values are."""
    support, _ = peel(alias(values, plan), plan)
    return support, least_squares(masks, values, support)


def spex_row(device: torch.device, seconds: float) -> dict:
    """SPEX without its value function, for 1,000 terms of five features at 20 dB, on the device and
    on the host."""
    plan = aliased_plan(1024, 12, seed=7)
    masks, terms = plan.masks(0, plan.total), sparse(1000, 1024)
    values = ops.parity_predict(masks, terms, torch.randn(1000).double())
    values += 10**0.5 * torch.randn(len(values)).double()
    there = plan.moved(lambda x: x.to(device))
    given = there, values.to(device), masks.to(device)
    ms = milliseconds(lambda: explained(*given), seconds)
    start = time.perf_counter()
    support, _ = peel(alias(values, plan), plan)
    refit(plan, values, support)
    host = 1000 * (time.perf_counter() - start)
    equal = torch.equal(explained(*given)[0].cpu(), support)
    size = f"{plan.shape}, n=1024, t=5, 1000 terms"
    row = {"op": "alias + peel + refit", "size": size, "ms": ms, "equal": equal}
    return row | {"cpu ms": host, "times": host / ms}


def op_rows(device: torch.device, rate: float, seconds: float) -> list[dict]:
    """(op, size, call by a backend, a smaller call on any device, bytes that it has to move)."""
    n, samples, terms = 1024, 1_000_000, 10_000
    masks, support = words(samples, n // 64, seed=0).to(device), sparse(terms, n)
    coefs, values = torch.randn(terms).double(), torch.randn(samples).double()
    on = {name: x.to(device) for name, x in {"s": support, "c": coefs, "v": values}.items()}
    columns = words(2048, 2048, seed=3)
    wide = columns.to(device)
    code = bch_code(n, 5)
    readings = torch.randn(12_288, code.delays).double()
    noisy, seldom, whole = readings.to(device), readings[:99], values[:999].round()
    bins, known = planted_bins(n)
    there, peeling = bins.to(device), {"floor": 1e-15, "chase": 6}
    rows, few = words(24, n // 64, seed=5), masks[:999].cpu()
    points = rows.to(device)
    process, *prior = prior_of(masks[:5000, :1], device)[1:]
    weights = torch.ones(5000, 5000, dtype=torch.float64, device=device)
    cases = [
        (
            *("uniform_masks", f"{samples} x {n}"),
            lambda how: ops.uniform_masks(samples, n, seed=0, device=device, **how),
            lambda d, how: ops.uniform_masks(999, n, seed=0, device=d, **how),
            masks.nbytes,
        ),
        (
            *("affine_masks", f"b=17 P=8 n={n}"),
            lambda how: ops.affine_masks(points[:17], points[16:], **how),
            lambda d, how: ops.affine_masks(rows[:9].to(d), rows[9:].to(d), **how),
            8 * 8 * (n // 64) << 17,
        ),
        (
            *("parity_bits", f"{samples} x {terms}, n={n}, |k|=5"),
            lambda how: ops.parity_bits(masks, on["s"], **how),
            lambda d, how: ops.parity_bits(few.to(d), support.to(d), **how),
            masks.nbytes + samples * terms // 8,
        ),
        (
            *("parity_predict", f"{samples} x {terms}, n={n}, |k|=5"),
            lambda how: ops.parity_predict(masks, on["s"], on["c"], **how),
            lambda d, how: ops.parity_predict(few.to(d), support.to(d), coefs.round().to(d), **how),
            masks.nbytes + 8 * samples,
        ),
        (
            *("parity_adjoint", f"{samples} x {terms}, n={n}, |k|=5"),
            lambda how: ops.parity_adjoint(masks, on["s"], on["v"], **how),
            lambda d, how: ops.parity_adjoint(few.to(d), support.to(d), whole.to(d), **how),
            masks.nbytes + 8 * samples,
        ),
        (
            *("parity_gram", "2048 x 131072"),
            lambda how: ops.parity_gram(wide, 2048 * 64, **how),
            lambda d, how: ops.parity_gram(columns[:99].to(d), 2048 * 64, **how),
            columns.nbytes + 8 * 2048**2,
        ),
        (
            *("anova_kernel", "5000 x 5000, n=64, order 4"),
            lambda how: ops.anova_kernel(process, process, *prior, **how),
            lambda d, how: ops.anova_kernel(*prior_of(few[:99, :1], d), **how),
            8 * 5000**2,
        ),
        (
            *("anova_kernel_grad", "5000 x 5000, n=64, order 4"),
            lambda how: ops.anova_kernel_grad(process, process, *prior, weights, **how),
            lambda d, how: ops.anova_kernel_grad(
                *prior_of(few[:99, :1], d), torch.ones(99, 99, dtype=torch.float64, device=d), **how
            )[0].round(decimals=6),
            8 * 5000**2,
        ),
        *(
            (
                *("bch_decode", f"{len(readings)} rows, n={n}, t=5, chase={chase}"),
                lambda how, q=chase: ops.bch_decode(noisy, code, chase=q, **how),
                lambda d, how, q=chase: ops.bch_decode(seldom.to(d), code, chase=q, **how)[0],
                readings.nbytes,
            )
            for chase in (0, 6)
        ),
        (
            *("peel", f"C=3 P={bins.shape[1]} b=12, n={n}, t=5, 1000 terms"),
            lambda how: ops.peel(there, *known, **peeling, **how),
            lambda d, how: ops.peel(bins.to(d), *known, **peeling, **how)[0],
            8 * bins.numel(),
        ),
        (
            *("boost", "30000 x 1024, 10 trees of depth 5"),
            lambda how: ops.boost(masks[:30_000], on["v"][:30_000], n, trees=10, **how),
            lambda d, how: ops.boost(few.to(d), values[:999].to(d), n, trees=3, **how).value,
            10 * 5 * 30_000 * n // 8,
        ),
    ]
    cpu, found = torch.device("cpu"), []
    for op, size, call, smaller, moved in cases:
        expected = smaller(cpu, {})
        for backend in backends(op, device):
            how = {"backend": backend}
            equal = torch.equal(smaller(device, how).cpu(), expected)
            ms, floor = milliseconds(lambda call=call, how=how: call(how), seconds), moved / rate
            name = {"op": op, "size": size, "backend": backend}
            found.append(name | {"ms": ms, "floor": floor, "of copy": floor / ms, "equal": equal})
    return found


def prior_of(masks: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, ...]:
    """What anova_kernel takes for masks of 64 features at order 4, by sums that are exact."""
    masks = masks.contiguous().to(device)
    relevances = torch.ones(64, dtype=torch.float64, device=device)
    variances = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64, device=device)
    return masks, masks, relevances, variances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each measurement")
    seconds = parser.parse_args().seconds
    if not torch.cuda.is_available():
        print("no GPU: nothing was measured")
        return
    device = torch.device("cuda")
    rate = copy_rate(device, seconds)
    rows = fwht_rows(device, rate, seconds) + op_rows(device, rate, seconds)
    rows.append(spex_row(device, seconds))
    table(rows)
    wrong = [row for row in rows if not row["equal"]]
    if wrong:
        sys.exit(f"not equal to the CPU, so no results were written: {wrong}")
    about = {"device": torch.cuda.get_device_name(device), "copy_gb_s": rate / 1e6}
    write("gpu", rows, **about)


if __name__ == "__main__":
    main()
