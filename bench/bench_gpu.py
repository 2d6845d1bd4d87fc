"""The Triton and CUDA kernels on a CUDA device, beside the floor that a copy there sets.

    make bench-gpu    # or: python bench/bench_gpu.py [--seconds 0.2] [--minutes 7]

Each result is first held to the CPU's. Milliseconds are medians by CUDA events, with the L2 cache
flushed before each call; `floor` is the time of a device copy of as many bytes, in the same run.
`over rival` is how many times as long the rival takes: for fwht the package fast-hadamard-transform
where it is installed, up to 2**15 columns; for parity_predict products of dense float32 matrices;
for masked inference the reference in plain torch on the device, for packed_attention torch's own on
a batch that is padded already. Last come the microseconds that a
call of each op that the host does not wait for takes on next to nothing, above an empty kernel.
After seven minutes no further row is started, and those left out are named. What was measured is
written whatever happens; a row that is not equal to the CPU says so, and the status is not zero.
Without a device nothing is measured or written.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gpu_timing as timing
import torch
from gpu_inference import InferenceSizes, inference_rows
from gpu_overhead import overhead_rows
from harness import table, write
from torch import Tensor

from spex_core import ops
from spex_core.alias import alias
from spex_core.budget import aliased_plan
from spex_core.codes import bch_code
from spex_core.masks import pack, unpack
from spex_core.peel import peel
from spex_core.plan import SamplingPlan
from spex_core.proxy import fit_default
from spex_core.refine import least_squares, refit
from spex_core.resident_fit import fit
from spex_core.transfers import Transfers

FWHT = [(torch.float32, b) for b in (3, 5, 7, 8, 10, 12, 14, 15, 16, 18, 20, 22, 24)]
FWHT += [(torch.float64, b) for b in (3, 7, 10, 12, 13, 14, 15, 20)]
FWHT += [(torch.bfloat16, b) for b in (7, 12, 15)]


@dataclass(frozen=True)
class Sizes:
    """Of the problems: values of a transform, masks and terms of the parities, terms of the Gram
    matrix, bits of affine masks, masks of the process, rows of the decoder, bits and terms of
    peeling, trees of a spectrum, (samples, features, trees) of boosting, and those of masked
    inference."""

    values: int = 1 << 28
    samples: int = 1_000_000
    terms: int = 10_000
    gram: int = 2048
    affine: int = 17
    process: int = 5000
    rows: int = 12_288
    b: int = 12
    planted: int = 1000
    trees: int = 1000
    boosted: tuple[int, int, int] = (300_000, 50_000, 100)
    inference: InferenceSizes = field(default_factory=InferenceSizes)


def words(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)


def fwht_rows(
    device: torch.device, rate: float, seconds: float, sizes: Sizes, deadline: timing.Deadline
) -> Iterator[dict]:
    public = public_fwht()
    for dtype, b in FWHT:
        size = f"{dtype} b={b} values={sizes.values}".removeprefix("torch.")
        if not deadline.allows("fwht", size):
            continue
        small = torch.randint(-9, 10, (4, 1 << b)).to(dtype)
        x = torch.randn(sizes.values >> b, 1 << b, device=device).to(dtype)
        floor = 2 * x.nbytes / rate
        for backend in timing.backends("fwht", device):
            call = functools.partial(ops.fwht, backend=backend)
            exact = torch.equal(call(small.to(device)).cpu(), ops.fwht(small))
            ms = timing.milliseconds(lambda call=call, x=x: call(x), seconds)
            name = {"op": "fwht", "size": size, "backend": backend}
            row = name | {"ms": ms, "floor": floor, "of copy": floor / ms, "equal": exact}
            if public is not None and b <= 15 and dtype != torch.float64:
                row["over rival"] = timing.milliseconds(lambda x=x: public(x), seconds) / ms
            yield row


def public_fwht() -> Callable[[Tensor], Tensor] | None:
    try:
        from fast_hadamard_transform import hadamard_transform
    except ImportError:
        return None
    return hadamard_transform


def dense_predict(masks: Tensor, support: Tensor, coefs: Tensor, rows: int = 1 << 15) -> Tensor:
    """parity_predict by products of dense float32 matrices of 0 and 1, so many masks at a time."""
    parts = ((part @ support.T).remainder_(2) for part in masks.split(rows))
    return torch.cat([(1.0 - 2.0 * odd) @ coefs for odd in parts])


def sparse(terms: int, n: int) -> Tensor:
    """Terms of five features."""
    out = torch.zeros(terms, n, dtype=torch.bool)
    out[torch.arange(terms)[:, None], torch.randint(n, (terms, 5))] = True
    return pack(out)


def planted_bins(n: int, b: int, terms: int) -> tuple[Tensor, tuple]:
    """Bins of terms of five features, at 10 dB for 1,000; and what peel knows of them."""
    plan = aliased_plan(n, b, seed=7)
    masks = plan.masks(0, plan.aliased)
    coefs = torch.randn(terms, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    values = ops.parity_predict(masks, sparse(terms, n), coefs)
    noise = torch.randn(len(values), generator=torch.Generator().manual_seed(9))
    bins = alias(values + 10.0 * noise.double(), plan)
    return bins, (plan.code, plan.delay_columns, plan.hashes)


def explained(plan: SamplingPlan, values: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Transform, decoding and refit, where the values are."""
    support, _ = peel(alias(values, plan), plan)
    return support, least_squares(masks, values, support)


def spex_row(device: torch.device, seconds: float, sizes: Sizes) -> dict:
    """SPEX without its value function, for 1,000 terms of five features at 20 dB, on the device and
    on the host."""
    plan = aliased_plan(1024, sizes.b, seed=7)
    masks, terms = plan.masks(0, plan.total), sparse(sizes.planted, 1024)
    values = ops.parity_predict(masks, terms, torch.randn(sizes.planted).double())
    values += 10**0.5 * torch.randn(len(values)).double()
    there = plan.moved(lambda x: x.to(device))
    given = there, values.to(device), masks.to(device)
    ms = timing.milliseconds(lambda: explained(*given), seconds)
    start = time.perf_counter()
    support, _ = peel(alias(values, plan), plan)
    refit(plan, values, support)
    host = 1000 * (time.perf_counter() - start)
    equal = torch.equal(explained(*given)[0].cpu(), support)
    size = f"{plan.shape}, n=1024, t=5, {sizes.planted} terms"
    row = {"op": "alias + peel + refit", "size": size, "ms": ms, "equal": equal}
    return row | {"cpu ms": host, "times": host / ms}


def op_rows(
    device: torch.device, rate: float, seconds: float, sizes: Sizes, deadline: timing.Deadline
) -> Iterator[dict]:
    """(op, size, call by a backend, a smaller call on any device, bytes that it has to move)."""
    n, samples, terms = 1024, sizes.samples, sizes.terms
    masks, support = words(samples, n // 64, seed=0).to(device), sparse(terms, n)
    coefs, values = torch.randn(terms).double(), torch.randn(samples).double()
    on = {name: x.to(device) for name, x in {"s": support, "c": coefs, "v": values}.items()}
    columns = words(sizes.gram, 2048, seed=3)
    wide = columns.to(device)
    code = bch_code(n, 5)
    readings = torch.randn(sizes.rows, code.delays).double()
    noisy, seldom, whole = readings.to(device), readings[:99], values[:999].round()
    bins, known = planted_bins(n, sizes.b, sizes.planted)
    there, peeling = bins.to(device), {"floor": 1e-15, "chase": 6}
    eight = there[None] * (1 + torch.arange(8, device=device).double())[:, None, None, None]
    grown = ops.boost(masks[:2000], on["v"][:2000], n, trees=sizes.trees)
    forest = grown.roots, grown.feature, grown.absent, grown.present, grown.value
    rows, few = words(24, n // 64, seed=5), masks[:999].cpu()
    points = rows.to(device)
    process, *prior = prior_of(masks[: sizes.process, :1], device)[1:]
    weights = torch.ones(len(process), len(process), dtype=torch.float64, device=device)
    single = (1 << torch.arange(len(process)) % 64)[:, None]  # terms of one feature
    singles = single.to(device)
    cases = [
        (
            *("uniform_masks", f"{samples} x {n}"),
            lambda how: ops.uniform_masks(samples, n, seed=0, device=device, **how),
            lambda d, how: ops.uniform_masks(999, n, seed=0, device=d, **how),
            masks.nbytes,
        ),
        (
            *("affine_masks", f"b={sizes.affine} P=8 n={n}"),
            lambda how: ops.affine_masks(points[: sizes.affine], points[16:], **how),
            lambda d, how: ops.affine_masks(rows[:9].to(d), rows[9:].to(d), **how),
            8 * 8 * (n // 64) << sizes.affine,
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
            *("parity_gram", f"{sizes.gram} x 131072"),
            lambda how: ops.parity_gram(wide, 2048 * 64, **how),
            lambda d, how: ops.parity_gram(columns[:99].to(d), 2048 * 64, **how),
            columns.nbytes + 8 * sizes.gram**2,
        ),
        (
            *("anova_kernel", f"{len(process)} masks, n=64, order 4"),
            lambda how: ops.anova_kernel(process, process, *prior, **how),
            lambda d, how: ops.anova_kernel(*prior_of(few[:99, :1], d), **how),
            8 * len(process) ** 2,
        ),
        (
            *("anova_kernel_grad", f"{len(process)} masks, n=64, order 4"),
            lambda how: ops.anova_kernel_grad(process, process, *prior, weights, **how),
            lambda d, how: ops.anova_kernel_grad(
                *prior_of(few[:99, :1], d), torch.ones(99, 99, dtype=torch.float64, device=d), **how
            )[0].round(decimals=6),
            8 * len(process) ** 2,
        ),
        (
            *("anova_cross", f"as many terms, {len(process)} masks, n=64, order 4, bias 1"),
            lambda how: ops.anova_cross(process, singles, *prior, bias=1.0, **how),
            lambda d, how: ops.anova_cross(
                few[:99, :1].to(d), single[:99].to(d), *prior_of(few, d)[2:], bias=1.0, **how
            ),
            8 * len(process) ** 2,
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
            *("peel", f"C=3 P={bins.shape[1]} b={sizes.b}, n={n}, t=5, {sizes.planted} terms"),
            lambda how: ops.peel(there, *known, **peeling, **how),
            lambda d, how: ops.peel(bins.to(d), *known, **peeling, **how)[0],
            8 * bins.numel(),
        ),
        (
            *(
                "peel_many",
                f"8 outputs, P={bins.shape[1]} b={sizes.b}, n={n}, {sizes.planted} terms",
            ),
            lambda how: ops.peel_many(eight, *known, floors=[1e-15] * 8, chase=6, **how),
            lambda d, how: (
                ops.peel_many(bins[None].to(d), *known, floors=[1e-15], chase=6, **how).features
            ),
            8 * eight.numel(),
        ),
        (
            *("tree_fourier", f"{sizes.trees} trees of depth 5, n={n}"),
            lambda how: ops.tree_fourier(*forest, n, **how),
            lambda d, how: ops.tree_fourier(*(x.to(d) for x in forest), n, **how)[1],
            16 * 220 * sizes.trees,
        ),
        (
            *("boost", "30000 x 1024, 10 trees of depth 5"),
            lambda how: ops.boost(masks[:30_000], on["v"][:30_000], n, trees=10, **how),
            lambda d, how: ops.boost(few.to(d), values[:999].to(d), n, trees=3, **how).value,
            10 * 5 * 30_000 * n // 8,
        ),
    ]
    dense = [torch.from_numpy(unpack(x, n)).to(device).float() for x in (masks, support)]
    product = functools.partial(dense_predict, *dense, on["c"].float())
    rivals = {"parity_predict": timing.milliseconds(product, seconds)}
    cpu = torch.device("cpu")
    for op, size, call, smaller, moved in cases:
        if not deadline.allows(op, size):
            continue
        expected = smaller(cpu, {})
        for backend in timing.backends(op, device):
            how = {"backend": backend}
            equal = torch.equal(smaller(device, how).cpu(), expected)
            ms, floor = (
                timing.milliseconds(lambda call=call, how=how: call(how), seconds),
                moved / rate,
            )
            name = {"op": op, "size": size, "backend": backend}
            row = name | {"ms": ms, "floor": floor, "of copy": floor / ms, "equal": equal}
            yield row | ({"over rival": rivals[op] / ms} if op in rivals else {})


def prior_of(masks: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, ...]:
    """What anova_kernel takes for masks of 64 features at order 4, by sums that are exact."""
    masks = masks.contiguous().to(device)
    relevances = torch.ones(64, dtype=torch.float64, device=device)
    variances = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64, device=device)
    return masks, masks, relevances, variances


def boost_row(device: torch.device, sizes: Sizes) -> dict:
    """Trees of depth 5 on many samples of many features: the second of two runs, and its memory."""
    samples, n, trees = sizes.boosted
    masks = ops.uniform_masks(samples, n, seed=0, device=device)
    values = torch.randn(samples, dtype=torch.float64, device=device)
    for _ in range(2):
        start = time.perf_counter()
        forest = ops.boost(masks, values, n, trees=trees, depth=5)
        found = forest.staged.sum().item()  # waits
        ms = 1000 * (time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    size = f"{samples} x {n}, {trees} trees of depth 5"
    return {"op": "boost", "size": size, "ms": ms, "peak gb": peak, "equal": math.isfinite(found)}


def proxy_row(device: torch.device, sizes: Sizes) -> dict:
    """The default fit of ProxySPEX to 10,000 samples of 1,024 features, on the device and on the
    host: the second of two runs of each."""
    n, samples = 1024, min(10_000, sizes.samples)
    masks = ops.uniform_masks(samples, n, seed=1)
    values = ops.parity_predict(masks, sparse(50, n), torch.randn(50).double())[None]
    transfers = Transfers(device)
    there, here = [], []
    for _ in range(2):
        start = time.perf_counter()
        with transfers:
            found = fit(
                *(masks.to(device), values.to(device), n, transfers), degree=5, terms=None, seed=0
            )[0]
        there.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        expected = fit_default(masks, values, n, degree=5)[0]
        here.append(1000 * (time.perf_counter() - start))
    row = {"op": "proxyspex fit", "size": f"{samples} x {n}", "ms": there[-1], "cpu ms": here[-1]}
    equal = abs(found.r2 - expected.r2) < 1e-3
    return row | {"times": here[-1] / there[-1], "equal": equal}


def all_rows(
    device: torch.device, rate: float, seconds: float, sizes: Sizes, deadline: timing.Deadline
) -> Iterator[dict]:
    """One at a time: where time runs out, it is the small ones that are left out."""
    wholes = {
        "alias + peel + refit": lambda: spex_row(device, seconds, sizes),
        "proxyspex fit": lambda: proxy_row(device, sizes),
        "boost, large": lambda: boost_row(device, sizes),
    }
    yield from fwht_rows(device, rate, seconds, sizes, deadline)
    yield from (row() for name, row in wholes.items() if deadline.allows(name))
    yield from op_rows(device, rate, seconds, sizes, deadline)
    yield from inference_rows(device, rate, seconds, sizes.inference, deadline)
    yield from overhead_rows(device, deadline)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which no row is started")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: nothing was measured")
        return
    device = torch.device("cuda")
    deadline = timing.Deadline(60 * options.minutes)
    rate = timing.copy_rate(device, options.seconds)
    about = {"device": torch.cuda.get_device_name(device), "copy_gb_s": rate / 1e6}
    report(all_rows(device, rate, options.seconds, Sizes(), deadline), deadline, about)


def report(rows: Iterator[dict], deadline: timing.Deadline, about: dict) -> None:
    """Writes the rows, those before an error too; ends with a status if some are wrong."""
    found = []
    try:
        for row in rows:
            found.append(row)
    finally:
        table(found)
        write("gpu", found, **about, left_out=deadline.left_out)
    if deadline.left_out:
        print(f"left out, for want of time: {deadline.left_out}")
    if wrong := [row for row in found if not row["equal"]]:
        sys.exit(f"not equal to the CPU: {wrong}")


if __name__ == "__main__":
    main()
