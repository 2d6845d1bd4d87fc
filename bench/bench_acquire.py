"""Masks proposed by gp_acquire against uniform ones, at equal budgets, on real value functions.

    SPEX_GAMES=shared/games python bench/bench_acquire.py --run [--every 4] [--seeds 0]
    SPEX_GAMES=... python bench/bench_acquire.py                            # the summary

The first command runs the cases that results/acquire_runs.jsonl has no line for. A case: GPSPEX on
50 uniform masks, then on 50 more that are uniform or proposed, in two batches of 25 with a fit
between, for the "function" or for the "first" order. `r2` is held-out R2; `first` the squared error
of the coefficients of single features over their sum of squares, where the whole table is known.
"""

from __future__ import annotations

import argparse
import json
import statistics

import games
import numpy as np
import torch
from bench_gp import TABLE
from harness import HERE, Row, table, write

import spex_core
from spex_core import masks as bits
from spex_core.gp_acquire import propose

RUNS = HERE / "results" / "acquire_runs.jsonl"
START, BATCH, BATCHES = 50, 25, 2


def run(name: str, seed: int) -> Row | None:
    n, function = games.load(name)
    _, (masks, values), test = games.samples(name, seed)
    total = START + BATCH * BATCHES
    if function is None or len(masks) < 2 * total or values[:START].std() == 0:
        return None
    row: Row = {"game": name, "n": n, "seed": seed}
    start = spex_core.fit(masks[:START], values[:START], algorithm="gpspex", seed=seed)
    for how in ("uniform", "function", "first"):
        if how == "uniform":
            ex = spex_core.fit(masks[:total], values[:total], algorithm="gpspex", seed=seed)
        else:
            ex = acquired(function, masks[:START], values[:START], start, how, seed)
        row[f"{how}_r2"] = ex.transform.score(*test)
        if n <= TABLE:
            row[f"{how}_first"] = first_error(function, n, ex.transform)
    return row


def acquired(
    function: games.Function,
    masks: np.ndarray,
    values: np.ndarray,
    ex: spex_core.Explanation,
    quantity: str,
    seed: int,
) -> spex_core.Explanation:
    for batch in range(BATCHES):
        new = bits.unpack(propose(ex.process, BATCH, quantity=quantity, seed=batch), masks.shape[1])
        masks, values = np.vstack([masks, new]), np.append(values, function(new))
        ex = spex_core.fit(masks, values, algorithm="gpspex", seed=seed)
        if ex.process is None:
            break
    return ex


def first_error(function: games.Function, n: int, transform: spex_core.SparseTransform) -> float:
    every = (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)
    exact = spex_core.ops.fwht(torch.from_numpy(function(every))) / (1 << n)
    exact = exact[1 << torch.arange(n)].numpy()
    found = transform.to_dict()
    fit = np.array([found.get((i,), 0.0) for i in range(n)])
    return float(((fit - exact) ** 2).sum() / (exact**2).sum())


def lines() -> list[Row]:
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    args = parser.parse_args()
    if args.run:
        torch.set_num_threads(1)
        there = {(row["game"], row["seed"]) for row in lines()}
        for seed in map(int, args.seeds.split(",")):
            for name in games.names()[:: args.every]:
                if (name, seed) in there or (row := run(name, seed)) is None:
                    continue
                with RUNS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        return
    rows = lines()
    summary = []
    for how in ("function", "first"):
        gains = [row[f"{how}_r2"] - row["uniform_r2"] for row in rows]
        errors = [
            (row[f"{how}_first"], row["uniform_first"]) for row in rows if "uniform_first" in row
        ]
        summary.append(
            {
                "quantity": how,
                "cases": len(rows),
                "games": len({row["game"] for row in rows}),
                "mean gain of R2": statistics.mean(gains),
                "median gain of R2": statistics.median(gains),
                "better R2": sum(gain > 0 for gain in gains) / len(gains),
                "first: median ratio of errors": statistics.median(a / b for a, b in errors),
                "first: smaller error": sum(a < b for a, b in errors) / len(errors),
            }
        )
    table(summary, "masks proposed against uniform ones")
    write("acquire", rows, threads=1, summary=summary)


if __name__ == "__main__":
    main()
