"""The parity kernels against dense products of +-1 matrices and counts of bits.

    python bench/bench_parity.py   # all tables, 2 minutes; writes bench/results/parity.json
    pytest bench/bench_parity.py   # the same cases, in pytest-benchmark groups

Every call is first checked against a rival. Times are medians, of CPU time on one thread and of
wall time on all; a ratio is the median over rounds of the ratio within a round. A bit product is
one of the T S n ANDs of a product; Tbit/s counts them over the best time of the whole call, layout
changes included. Rivals: torch's products of dense 0/1 or +-1 matrices (made beforehand and not
timed, but for "made on the way") and NumPy's count of bits, term by term. Supports are dense (half
of the features) or sparse (up to 5 features, as SPEX finds them).
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import harness
import numpy as np
import pytest
import torch
from race import Calls, isas, race, ratio
from torch import Tensor

from spex_core import masks, native

REFIT = (20_000, 2_000, 1024)  # T, S, n of the refit in the goals
CASES = [
    ("parity_bits", "dense", (4000, 4000, 256)),
    ("parity_bits", "dense", REFIT),
    ("parity_bits", "dense", (16_000, 2000, 4096)),
    ("parity_bits", "sparse", REFIT),
    ("parity_predict", "sparse", REFIT),
    ("parity_predict", "dense", REFIT),
    ("parity_adjoint", "sparse", REFIT),
    ("parity_gram", "sparse", REFIT),
]
SCALE = (934_000, 1_000, 16_384)


def sparse_supports(terms: int, n: int) -> Tensor:
    rng = np.random.default_rng(1)
    return masks.pack_sets(
        [rng.choice(n, rng.integers(6), replace=False).tolist() for _ in range(terms)], n
    )


def problem(kind: str, samples: int, terms: int, n: int) -> tuple[Tensor, Tensor]:
    """Packed masks (T, W) and supports (S, W)."""
    dense = native.uniform_masks_cpu(terms, n, seed=2, stream=0, start=0)
    packed = native.uniform_masks_cpu(samples, n, seed=1, stream=0, start=0)
    return packed, dense if kind == "dense" else sparse_supports(terms, n)


def count_bits(packed: np.ndarray, support: np.ndarray) -> np.ndarray:
    """parity_bits with NumPy, a term at a time: bool (S, T)."""
    return np.stack(
        [np.bitwise_count(np.bitwise_xor.reduce(packed & k, axis=1)) & 1 for k in support]
    ).view(bool)


def floats(packed: Tensor, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(masks.unpack(packed, n)).to(dtype)


def signs(packed: Tensor, support: Tensor) -> Tensor:
    """(-1)**<m, k> as a dense float64 (T, S) matrix."""
    bits = masks.unpack(native.parity_bits_cpu(packed, support), len(packed))
    return torch.from_numpy(1.0 - 2.0 * bits.T)


def contestants(op: str, kind: str, size: tuple[int, int, int]) -> tuple[Calls, Calls]:
    """Ours, one call for each instruction set, and the rivals."""
    samples, terms, n = size
    packed, support = problem(kind, *size)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-9, 9, (terms,), generator=generator).double()
    y = torch.randint(-9, 9, (samples,), generator=generator).double()
    match op:
        case "parity_bits":
            ours = partial(native.parity_bits_cpu, packed, support)
            m, k = floats(packed, n), floats(support, n).T.contiguous()
            rivals = {"torch float32 product": lambda: m @ k}
            if samples * terms * n < 1 << 33:
                arrays = packed.numpy().view(np.uint64), support.numpy().view(np.uint64)
                rivals["numpy bit count"] = partial(count_bits, *arrays)
        case "parity_predict":
            ours, matrix = (
                partial(native.parity_predict_cpu, packed, support, x),
                signs(packed, support),
            )
            rivals = {"torch float64 product": lambda: matrix @ x}
            rivals["the same, made on the way"] = lambda: signs(packed, support) @ x
        case "parity_adjoint":
            ours, matrix = (
                partial(native.parity_adjoint_cpu, packed, support, y),
                signs(packed, support),
            )
            rivals = {"torch float64 product": lambda: matrix.T @ y}
            rivals["the same, made on the way"] = lambda: signs(packed, support).T @ y
        case "parity_gram":
            ours = partial(native.parity_gram_cpu, native.parity_bits_cpu(packed, support), samples)
            z = signs(packed, support).float()
            rivals = {"torch float32 product": lambda: z.T @ z}
    return {isa: partial(ours, isa=isa) for isa in isas()}, rivals


def check(op: str, size: tuple[int, int, int], ours: Calls, rivals: Calls) -> None:
    """All are equal, bit for bit: products of integers are exact."""
    first = next(iter(rivals.values()))()
    if op == "parity_bits":
        first = masks.pack((first.T % 2).bool())
    for name, call in ours.items():
        if not torch.equal(call(), first.double() if first.is_floating_point() else first):
            raise AssertionError(f"{op} {size}: {name} is wrong")


def measure(op: str, kind: str, size: tuple[int, int, int]) -> harness.Row:
    samples, terms, n = size
    ours, rivals = contestants(op, kind, size)
    check(op, size, ours, rivals)
    times = race(ours | rivals)
    best = list(ours)[-1]
    row = {"op": op, "supports": kind, "T": samples, "S": terms, "n": n}
    row |= {f"{name} ms": 1e3 * statistics.median(times[name]) for name in ours}
    if op == "parity_bits":
        products = samples * terms * n
        row |= {f"{isa} Tbit/s": products / min(times[isa]) / 1e12 for isa in ours}
    row |= {f"x faster than {name}": ratio(times, name, best) for name in rivals}
    if min(times[best]) < 5e-3:
        return row  # starting threads would be what is measured
    threads = torch.get_num_threads()
    together = {
        "one": partial(with_threads, 1, ours[best]),
        "all": partial(with_threads, threads, ours[best]),
    }
    row["x faster on all threads"] = ratio(race(together, 0.5, threads), "one", "all")
    return row


def with_threads(threads: int, call) -> None:
    torch.set_num_threads(threads)
    call()


def scale() -> harness.Row:
    """SPEX at n = 16,384: seconds of one thread, and memory beyond the masks and the result."""
    samples, terms, n = SCALE
    torch.set_num_threads(1)
    packed, support = problem("sparse", *SCALE)
    values = torch.ones(samples, dtype=torch.float64)
    calls = {
        "predict": partial(native.parity_predict_cpu, packed, support, values[:terms]),
        "adjoint": partial(native.parity_adjoint_cpu, packed, support, values),
        "bits": partial(native.parity_bits_cpu, packed, support),
    }
    row = {"T": samples, "S": terms, "n": n}
    for name, call in calls.items():
        before, start = harness.peak_mb(), time.process_time()
        out = call()
        row[f"{name} s"] = time.process_time() - start
        row[f"{name} extra MB"] = max(0.0, harness.peak_mb() - before - out.nbytes / 2**20)
    return row


def main() -> None:
    rows = [measure(*case) for case in CASES]
    for op in dict.fromkeys(row["op"] for row in rows):
        harness.table(
            [{k: v for k, v in row.items() if k != "op"} for row in rows if row["op"] == op], op
        )
    large = harness.in_new_process(scale)
    harness.table([large], "one thread, sparse supports")
    harness.write("parity", rows, scale=large)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[" ".join(map(str, c)) for c in CASES])
@pytest.mark.parametrize("name", ["portable", "avx2", "avx512", "gfni", "torch"])
def test_parity(benchmark, index, name):
    op, kind, size = CASES[index]
    ours, rivals = contestants(op, kind, size)
    calls = ours | {"torch": next(iter(rivals.values()))}
    if name not in calls:
        pytest.skip(f"this CPU lacks {name}")
    check(op, size, {k: v for k, v in ours.items() if k == name}, rivals)
    benchmark.group = f"{op} {kind} T={size[0]} S={size[1]} n={size[2]}"
    torch.set_num_threads(1)
    benchmark.pedantic(calls[name], rounds=5, warmup_rounds=1)


if __name__ == "__main__":
    main()
