"""algorithm="auto" where SPEX may be the one to take: functions of high order with nothing inside,
and real ones, at thousands of evaluations.

    SPEX_GAMES=shared/games python bench/bench_explain.py

R2 on 2,000 uniform masks that none has been asked, CPU seconds on one thread. `order 4, 10 dB` is
a sum of 12 products of 4 features each, coefficients of 1 to 3, with noise of a tenth of the
variance in each value.
"""

from __future__ import annotations

import time

import games
import numpy as np
import torch
from bench_gp import of_spex
from harness import Row, table, write

import spex_core
from spex_core.budget import least_budget


def products(n: int, order: int, count: int, noise: float) -> games.Function:
    """A sum of products of +-1, and noise that depends on the mask alone."""
    rng = np.random.default_rng(order)
    sets = [rng.choice(n, order, replace=False) for _ in range(count)]
    coefs = rng.uniform(1, 3, count) * rng.choice([-1, 1], count)
    turn = rng.normal(size=n)

    def function(x: np.ndarray) -> np.ndarray:
        z = 1.0 - 2.0 * x
        clean = sum(c * z[:, k].prod(1) for c, k in zip(coefs, sets, strict=True))
        rough = np.sin(1e4 * (x @ turn)) * 2**0.5  # of variance one
        return clean + noise * (coefs**2).sum() ** 0.5 * rough

    return function


CASES = [
    ("order 4", 40, 6000, products(40, 4, 12, 0.0)),
    ("order 4, 10 dB", 40, 6000, products(40, 4, 12, 0.1**0.5)),
    ("order 5", 100, 8000, products(100, 5, 8, 0.0)),
]
GAMES = [("digits_knn5_datapoints_n200", 6000)]


def run(name: str, n: int, budget: int, f: games.Function) -> Row:
    unseen = np.random.default_rng(99).random((2000, n)) < 0.5
    truth = f(unseen)
    row: Row = {"function": name, "n": n, "budget": budget}
    for algorithm in ("proxyspex", "spex", "auto"):
        if algorithm == "spex" and budget < least_budget(n, 5):
            continue
        start = time.process_time()
        ex = spex_core.explain(f, n, budget=budget, algorithm=algorithm)
        row[f"{algorithm}_cpu"] = time.process_time() - start
        row[algorithm] = ex.transform.score(unseen, truth)
    return row | {"took": ex.report.algorithm, "plan": ex.report.plan}


def small(T: int = 1000) -> list[Row]:
    rows = []
    for name in games.names()[::3]:
        _, (masks, values), test = games.samples(name, 0)
        if len(masks) < T or values[:T].std() == 0:
            continue
        if (found := of_spex(name, T, 0, test[0])) is None:
            continue
        spex, unseen = found
        there = test[0][unseen], test[1][unseen]
        ex = spex_core.fit(masks[:T], values[:T])
        scores = {"proxyspex": ex.transform.score(*there), "spex": spex.score(*there)}
        rows.append({"game": name} | scores)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    cases = CASES + [
        (name, *games.load(name)[:1], budget, games.load(name)[1])
        for name, budget in GAMES
        if name in games.names()
    ]
    rows = [run(*case) for case in cases]
    table(rows, "R2 on masks that none was asked")
    few = small()
    better = sum(row["spex"] > row["proxyspex"] + 0.01 for row in few)
    print(f"SPEX better by 0.01 at 1,000 masks: {better} of {len(few)} games")
    write("explain", rows, threads=1, small=few, small_spex_better=better)


if __name__ == "__main__":
    main()
