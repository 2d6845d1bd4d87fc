"""affine_masks and uniform_masks, in gigabytes of packed masks written a second.

    python bench/bench_masks.py    # all tables, under a minute; writes bench/results/masks.json
    pytest bench/bench_masks.py    # the same cases, in pytest-benchmark groups

Every call is first checked against the reference. One thread, CPU time. Speed of light: a clone of
the result, which also writes it once (and, where it outgrows the caches, waits for fresh pages
as every call here does). Rivals: the reference's doubling in torch, and for uniform masks the same
generator in NumPy, which makes as many bits in another order.
"""

from __future__ import annotations

import statistics
from functools import partial

import harness
import numpy as np
import pytest
import torch
from race import Calls, isas, race, ratio

from spex_core import native, reference

AFFINE = [  # b, P, W: half a megabyte, then 128 MiB
    *((13, 8, 1), (12, 8, 2), (11, 8, 4), (9, 8, 16), (5, 8, 256)),
    *((20, 16, 1), (20, 4, 4), (20, 1, 16)),
]
UNIFORM = [(65_536, 64), (16_384, 256), (4_096, 1000), (256, 16_384), (8_192, 16_384)]  # rows, n


def contestants(op: str, size: tuple[int, ...]) -> tuple[Calls, Calls]:
    """Ours, one call for each instruction set, and the rivals."""
    if op == "affine_masks":
        b, shifts, words = size
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(-(2**62), 2**62, (b + shifts, words), generator=generator)
        problem = drawn[:b], drawn[b:]
        ours = partial(native.affine_masks_cpu, *problem)
        rivals = {"reference": partial(reference.affine_masks, *problem)}
    else:
        rows, n = size
        where = {"seed": 1, "stream": 2, "start": 3}
        ours = partial(native.uniform_masks_cpu, rows, n, **where)
        numpy = np.random.Generator(np.random.Philox(1))
        draw = partial(numpy.integers, 2**64, size=(rows, -(-n // 64)), dtype=np.uint64)
        rivals = {"reference": partial(reference.uniform_masks, rows, n, **where), "numpy": draw}
    return {isa: partial(ours, isa=isa) for isa in isas()}, rivals


def check(op: str, size: tuple[int, ...], ours: Calls, rivals: Calls) -> None:
    want = rivals["reference"]()
    for name, call in ours.items():
        if not torch.equal(call(), want):
            raise AssertionError(f"{op} {size}: {name} is wrong")


def measure(op: str, size: tuple[int, ...], letters: str) -> harness.Row:
    ours, rivals = contestants(op, size)
    check(op, size, ours, rivals)
    best = list(ours)[-1]
    out = ours[best]()
    times = race(ours | rivals | {"clone": out.clone}, 0.6)
    row = dict(zip(letters.split(), size, strict=True)) | {"MB": out.nbytes / 1e6}
    row |= {f"{k} GB/s": out.nbytes / statistics.median(times[k]) / 1e9 for k in (*ours, "clone")}
    return row | {f"x faster than {name}": ratio(times, name, best) for name in rivals}


def main() -> None:
    rows = []
    for op, letters, sizes in (
        ("affine_masks", "b P W", AFFINE),
        ("uniform_masks", "rows n", UNIFORM),
    ):
        table = [measure(op, size, letters) for size in sizes]
        harness.table(table, op)
        rows += [{"op": op, **row} for row in table]
    harness.write("masks", rows, threads=1)


@pytest.mark.parametrize(
    ("op", "size"),
    [("affine_masks", size) for size in AFFINE[:5]]
    + [("uniform_masks", size) for size in UNIFORM[:4]],
)
@pytest.mark.parametrize("name", ["reference", "portable", "avx2", "avx512", "gfni", "clone"])
def test_masks(benchmark, op, size, name):
    ours, rivals = contestants(op, size)
    calls = ours | {"reference": rivals["reference"], "clone": rivals["reference"]().clone}
    if name not in calls:
        pytest.skip(f"this CPU lacks {name}")
    check(op, size, {k: v for k, v in ours.items() if k == name}, rivals)
    benchmark.group = f"{op} {size}"
    torch.set_num_threads(1)
    benchmark.pedantic(calls[name], rounds=20, warmup_rounds=1)


if __name__ == "__main__":
    main()
