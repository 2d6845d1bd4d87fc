"""Peeling alone: its seconds by n, and how many readings the soft decoder should flip.

    python bench/bench_peel.py                                # both tables, bench/results/peel.json
    python -m pytest bench/bench_peel.py --benchmark-only   # the sizes, as pytest-benchmark groups

Planted functions (synthetic.py), three groups, all delays of a code of t = 5. One thread; each
answer is checked first. The second table is why peel.SOFT_FLIPS is what it is: 0 flips is the hard
decoder, and more of them cost time twofold each; what they find is seen where the noise hides
terms, at 5 and 0 dB.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import pytest
import torch
from harness import Row, mean, table, write
from synthetic import Planted, accuracy, planted

from spex_core import masks as bits
from spex_core import ops
from spex_core.alias import alias
from spex_core.budget import aliased_plan
from spex_core.peel import SOFT_FLIPS
from spex_core.plan import SamplingPlan

DEGREE = 5
SIZES = [64, 128, 256, 512, 1024]
FLIPS = [0, 3, 4, 6, 8]
CASES = [(64, 6, 30), (256, 8, 100)]  # n, b, terms of the flips table
LEVELS = [5.0, 0.0]  # dB
SEEDS = 8
ROUNDS = 7


@dataclass
class Problem:
    """Bins of a planted function, ready to peel."""

    f: Planted
    plan: SamplingPlan
    bins: torch.Tensor

    def peel(self, chase: int) -> tuple[torch.Tensor, torch.Tensor]:
        columns, hashes = self.plan.delay_columns, self.plan.hashes
        return ops.peel(self.bins, self.plan.code, columns, hashes, floor=1e-15, chase=chase)

    def accuracy(self, chase: int) -> Row:
        features, coefs = self.peel(chase)
        sets = bits.unpack_sets(bits.pack_rows(features, self.plan.n))
        return accuracy(self.f.terms, dict(zip(sets, coefs.tolist(), strict=True)))


def problem(n: int, b: int, terms: int, snr: float | None, seed: int = 0) -> Problem:
    f = planted(n, terms, DEGREE, snr=snr, seed=seed)
    plan = aliased_plan(n, b, degree=DEGREE, seed=seed)
    values = torch.from_numpy(f(bits.unpack(plan.masks(0, plan.total), n)))
    found = Problem(f, plan, alias(values, plan))
    found.peel(0)  # makes what the plan remembers
    return found


def checked(n: int, decoder: str) -> tuple[Problem, int]:
    """The problem of one size at 20 dB and the flips of the decoder, known to solve it."""
    case, chase = problem(n, 8, 100, 20.0), SOFT_FLIPS if decoder == "soft" else 0
    reached = case.accuracy(chase)
    if not (reached["r2"] > 0.999 and reached["precision"] == reached["recall"] == 1):
        raise AssertionError(f"n={n}, {decoder}: {reached}")
    return case, chase


@pytest.mark.parametrize("decoder", ["hard", "soft"])
@pytest.mark.parametrize("n", SIZES)
def test_peel(benchmark, n, decoder):
    torch.set_num_threads(1)
    case, chase = checked(n, decoder)
    benchmark.group = f"peel n={n} b=8 terms=100 20 dB"
    benchmark(case.peel, chase)


def milliseconds(case: Problem, chase: int) -> float:
    """Median CPU time of a few calls."""
    spent = []
    for _ in range(ROUNDS):
        start = time.process_time()
        case.peel(chase)
        spent.append(1e3 * (time.process_time() - start))
    return statistics.median(spent)


def by_size() -> list[Row]:
    rows = []
    for n in SIZES:
        row: Row = {"n": n, "delays": checked(n, "hard")[0].plan.shifts}
        for decoder in ("hard", "soft"):
            row[f"{decoder}_ms"] = milliseconds(*checked(n, decoder))
        rows.append(row)
    return rows


def by_flips() -> list[Row]:
    rows = []
    for n, b, terms in CASES:
        for snr in LEVELS:
            cases = [problem(n, b, terms, snr, seed) for seed in range(SEEDS)]
            for chase in FLIPS:
                runs = [case.accuracy(chase) | {"ms": milliseconds(case, chase)} for case in cases]
                rows.append({"n": n, "b": b, "snr": snr, "flips": chase} | mean(runs))
    return rows


def main() -> None:
    torch.set_num_threads(1)
    sizes = by_size()
    table(sizes, "peel alone, b=8, 100 terms, 20 dB, one thread")
    flips = by_flips()
    table(flips, f"flips of the soft decoder, mean of {SEEDS} seeds")
    write("peel", flips, by_size=sizes)


if __name__ == "__main__":
    main()
