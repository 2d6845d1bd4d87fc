"""Masks that Run.more proposes against uniform ones, at equal budgets, on real value functions.

    SPEX_GAMES=shared/games python bench/bench_acquire.py                   # the summary
    SPEX_GAMES=... python bench/bench_acquire.py --run [--seeds 0,1] [--starts 50] [--every 4]

The second command runs the cases that results/acquire_runs_<start>.jsonl have no line for, one line
a case, so it can be stopped and goes on; --every 4 takes every fourth game. The first reads those
lines and writes results/acquire.json.

A case: plan() with `start` uniform masks, a fit, then as many masks again in two batches, each
after a fit: run.more(k), which are uniform, or run.more(k, ex), which the fit chooses, for the
coefficients of single features ("first") or for f at uniform masks ("function"). Games are those
that can be asked, have four times as many masks as are asked for, and do not answer all the same.
`r2` is held-out R2, on uniform masks that none of the ways of the same algorithm has asked for;
`error` the squared error of the coefficients of single features over their sum of squares, where
the whole table is known. `proposed` counts the masks that are not those of the uniform run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections import defaultdict
from typing import Any

import games
import numpy as np
import torch
from bench_gp import TABLE
from harness import HERE, Row, table, write

import spex_core
from spex_core import auto
from spex_core import masks as bits
from spex_core.gp import GpFit, fit_gp

RUNS = HERE / "results"  # acquire_runs_<start>.jsonl
BATCHES = 2
WAYS = {"gpspex": (None, "first", "function"), "auto": (None, "first")}  # None: uniform


def run(name: str, start: int, seed: int) -> Row | None:
    """One case; None where the game cannot be asked, is too small, or answers all the same."""
    n, function = games.load(name)
    if function is None or (n < 40 and 1 << n < 8 * start):
        return None
    row: Row = {"game": name, "n": n, "start": start, "seed": seed}
    test, exact = games.samples(name, seed)[2], exact_first(function, n)
    begin = time.process_time()
    # spex_core.gpspex is the function.
    sys.modules["spex_core.gpspex"].fit_gp = auto.fit_gp = Kept()
    for algorithm, ways in WAYS.items():
        begun = spex_core.plan(algorithm, n, budget=start, seed=seed)
        first = answered(begun, function)
        if not begun.samples()[1].std():
            return None
        runs = [went_on(begun, first, how, function) for how in ways]
        asked = [set(map(bytes, one.samples()[0].numpy())) for one, _ in runs]
        new = [bytes(mask) not in set.union(*asked) for mask in bits.pack(test[0]).numpy()]
        for how, its, (_, ex) in zip(ways, asked, runs, strict=True):
            key = f"{algorithm}_{how or 'uniform'}"
            row[f"{key}_r2"] = ex.transform.score(test[0][new], test[1][new])
            row[f"{key}_said"] = ex.report.r2
            if exact is not None:
                row[f"{key}_error"] = error_of(exact, ex.transform)
            if how is not None:
                row[f"{key}_proposed"] = len(its - asked[0])
    return row | {"cpu": round(time.process_time() - begin, 1)}


def went_on(
    begun: spex_core.Run, ex: spex_core.Explanation, how: str | None, function: games.Function
) -> tuple[spex_core.Run, spex_core.Explanation]:
    """The run with as many masks again, and its last fit."""
    start, recipe = begun.recipe.budget, dataclasses.replace(begun.recipe, acquire=how)
    masks, values = begun.samples()
    run = spex_core.Run(recipe, begun.features)
    run.tell(values, masks)
    for _ in range(BATCHES):
        run.more(start // BATCHES, ex)
        ex = answered(run, function)
    return run, ex


class Kept:
    """fit_gp, that fits the same samples once: GPSPEX and the stack, whose member it is, mostly
    have the same."""

    def __init__(self) -> None:
        self.fits: dict[object, list[GpFit]] = {}

    def __call__(
        self, masks: torch.Tensor, values: torch.Tensor, n: int, **options: Any
    ) -> list[GpFit]:
        key = masks.numpy().tobytes(), values.numpy().tobytes(), n, *sorted(options.items())
        if key not in self.fits:
            self.fits[key] = fit_gp(masks, values, n, **options)
        return self.fits[key]


def answered(run: spex_core.Run, function: games.Function) -> spex_core.Explanation:
    for masks in run.batches():
        run.tell(function(masks))
    return run.fit()


def exact_first(function: games.Function, n: int) -> np.ndarray | None:
    """The coefficients of single features, where all masks can be asked."""
    if n > TABLE:
        return None
    every = (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)
    spectrum = spex_core.ops.fwht(torch.from_numpy(function(every))) / (1 << n)
    return spectrum[1 << torch.arange(n)].numpy()


def error_of(exact: np.ndarray, transform: spex_core.SparseTransform) -> float:
    found = transform.to_dict()
    fit = np.array([found.get((i,), 0.0) for i in range(len(exact))])
    return float(((fit - exact) ** 2).sum() / (exact**2).sum())


def lines() -> list[Row]:
    files = sorted(RUNS.glob("acquire_runs_*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def run_cases(seeds: list[int], starts: list[int], every: int) -> None:
    torch.set_num_threads(1)
    there = {(row["game"], row["start"], row["seed"]) for row in lines()}
    for seed in seeds:
        for start in starts:
            for name in games.names()[::every]:
                if (name, start, seed) in there or (row := run(name, start, seed)) is None:
                    continue
                with (RUNS / f"acquire_runs_{start}.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")


def averaged() -> list[Row]:
    """A row for each game and start: means over seeds."""
    found = defaultdict(list)
    for row in lines():
        found[row["game"], row["start"]].append(row)
    return [
        {"game": game, "n": rows[0]["n"], "start": start, "seeds": len(rows)}
        | {key: statistics.mean(row[key] for row in rows) for key in rows[0] if "_" in key}
        for (game, start), rows in sorted(found.items())
    ]


def summary(rows: list[Row], start: int, algorithm: str, how: str) -> Row:
    """Over games; an R2 below -1 counts as -1."""
    rows = [row for row in rows if row["start"] == start]
    new, old = (f"{algorithm}_{way}" for way in (how, "uniform"))
    gains = [max(row[f"{new}_r2"], -1.0) - max(row[f"{old}_r2"], -1.0) for row in rows]
    errors = [(row[f"{new}_error"], row[f"{old}_error"]) for row in rows if f"{new}_error" in row]
    return {
        "start": start,
        "algorithm": algorithm,
        "quantity": how,
        "games": len(rows),
        "runs": sum(row["seeds"] for row in rows),
        "mean gain of R2": statistics.mean(gains),
        "standard error": statistics.stdev(gains) / len(gains) ** 0.5,
        "median gain of R2": statistics.median(gains),
        "better R2": sum(gain > 0 for gain in gains) / len(gains),
        "lost over 0.02": sum(gain < -0.02 for gain in gains),
        "gained over 0.02": sum(gain > 0.02 for gain in gains),
        "tables": len(errors),
        "mean gain of error": statistics.mean(b - a for a, b in errors),
        "median ratio of errors": statistics.median(a / b for a, b in errors),
        "smaller error": sum(a < b for a, b in errors) / len(errors),
        "R2 said over R2": statistics.median(row[f"{new}_said"] - row[f"{new}_r2"] for row in rows),
        "so of uniform": statistics.median(row[f"{old}_said"] - row[f"{old}_r2"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true")
    for name, default in (("seeds", "0,1,2,3,4"), ("starts", "50")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    if args.run:
        seeds, starts = ([int(x) for x in text.split(",")] for text in (args.seeds, args.starts))
        run_cases(seeds, starts, args.every)
        return
    rows = averaged()
    totals = [
        summary(rows, start, algorithm, how)
        for start in sorted({row["start"] for row in rows})
        for algorithm, ways in WAYS.items()
        for how in ways
        if how is not None
    ]
    table(totals, "masks proposed against uniform ones")
    write("acquire", rows, threads=1, summary=totals)


if __name__ == "__main__":
    main()
