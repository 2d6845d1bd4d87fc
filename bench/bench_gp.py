"""GPSPEX beside ProxySPEX, a linear fit and the public ProxySPEX, on real value functions.

    SPEX_GAMES=shared/games python bench/bench_gp.py                        # the summary
    SPEX_GAMES=... python bench/bench_gp.py --run [--seeds 0,1] [--budgets 50] [--every 4] [--pure]

The second command runs the cases that results/gp_runs.jsonl has no line for, one line a case, so it
can be stopped and goes on; --every 4 takes every fourth game, --pure runs the preset without trees
too. The first reads those lines and writes results/gp.json: held-out R2, mean over seeds, on masks
that none has seen.

`gp` is gpspex(), `pure` its preset without trees, `ours` proxyspex(), `linear` ridge regression on
single features at the level of least leave-one-out error, `theirs` shapiq's ProxySPEX as
bench_faithful.py recorded it, on the same samples. `covered` is the share of the coefficients
returned whose 95 % interval holds the exact one, where the whole table is known; `z` the root mean
square of the errors of predictions over their standard deviations. CPU seconds, one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict

import games
import numpy as np
import torch
from bench_faithful import known, matched
from harness import HERE, Row, table, write

import spex_core
from spex_core import masks as bits
from spex_core.ridge import leave_one_out

BUDGETS = [50, 100, 300, 600, 1000]
RUNS = HERE / "results" / "gp_runs.jsonl"
LEVELS = torch.logspace(-3, 4, 29, dtype=torch.float64)
TABLE = 16  # features up to which the exact spectrum is compared with


def run(name: str, T: int, seed: int, pure: bool) -> Row | None:
    """One case; None where the game has fewer samples, or only equal ones."""
    n, (masks, values), test = games.samples(name, seed)
    masks, values = masks[:T], values[:T]
    if len(masks) < T or values.std() == 0:
        return None
    row: Row = {"game": name, "n": n, "samples": T, "seed": seed}
    row["linear"] = linear(masks, values, n).score(*test)
    options = {"gp": ("gpspex", "default"), "ours": ("proxyspex", "default")}
    if pure:
        options["pure"] = ("gpspex", "pure")
    for key, (algorithm, preset) in options.items():
        start = time.process_time()
        ex = spex_core.fit(masks, values, algorithm=algorithm, preset=preset, seed=seed)
        row[f"{key}_cpu"] = round(time.process_time() - start, 3)
        row[key] = ex.transform.score(*test)
        if ex.process is None:
            continue
        row[f"{key}_out_of_fold"], row[f"{key}_missed"] = ex.report.r2, ex.report.missed
        mean, stderr = ex.process.predict(test[0][:1000])
        row[f"{key}_process"] = r2(test[1][:1000], mean)
        row[f"{key}_z"] = float(np.mean(((test[1][:1000] - mean) / stderr) ** 2) ** 0.5)
        if (covered := coverage(name, n, ex.transform)) is not None:
            row[f"{key}_covered"] = covered
    return row


def linear(masks: np.ndarray, values: np.ndarray, n: int) -> spex_core.SparseTransform:
    single = bits.pack(np.eye(n, dtype=bool))
    mean = values.mean()
    found = leave_one_out(bits.pack(masks), torch.from_numpy(values - mean), single, LEVELS)
    support = torch.cat([torch.zeros(1, single.shape[1], dtype=torch.int64), single])
    coefs = torch.cat([torch.tensor([mean], dtype=torch.float64), found.coefs])
    return spex_core.SparseTransform(n, support, coefs)


def coverage(name: str, n: int, transform: spex_core.SparseTransform) -> float | None:
    """The share of the coefficients within 1.96 standard errors of the exact ones."""
    if n > TABLE or (function := games.load(name)[1]) is None:
        return None
    masks = (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)
    exact = spex_core.ops.fwht(torch.from_numpy(function(masks))) / (1 << n)
    error = (transform.coefs - exact[transform.support[:, 0]]).abs()
    return float((error <= 1.96 * transform.stderr).double().mean())


def r2(values: np.ndarray, fit: np.ndarray) -> float:
    return float(1 - ((values - fit) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def lines() -> list[Row]:
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []


def run_cases(seeds: list[int], budgets: list[int], every: int, pure: bool) -> None:
    torch.set_num_threads(1)
    there = {(row["game"], row["samples"], row["seed"]) for row in lines()}
    for seed in seeds:
        for T in budgets:
            for name in games.names()[::every]:
                if (name, T, seed) in there or (row := run(name, T, seed, pure)) is None:
                    continue
                with RUNS.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def averaged() -> list[Row]:
    """A row for each game and budget: means over seeds, and over those that the peer has too."""
    peer = known()
    found = defaultdict(list)
    for row in lines():
        theirs = peer.get((row["game"], row["samples"], row["seed"]))
        found[row["game"], row["samples"]].append(row | {"theirs": theirs})
    rows = []
    for (game, T), runs in sorted(found.items()):
        row = {"game": game, "n": runs[0]["n"], "samples": T, "seeds": len(runs)}
        for key in dict.fromkeys(key for run in runs for key in run):
            values = [run[key] for run in runs if run.get(key) is not None]
            if key not in row and key != "seed" and values:
                row[key] = statistics.mean(values)
        if both := [run for run in runs if run["theirs"] is not None]:
            row["gain"] = statistics.mean(run["gp"] - run["theirs"] for run in both)
        rows.append(row)
    return rows


def summary(rows: list[Row], T: int) -> Row:
    """The figures that are asked for, over the games that have so many samples."""
    rows = [row for row in rows if row["samples"] == T]
    gains = [row["gain"] for row in rows if "gain" in row]
    small = [row for row in rows if 10 * row["n"] >= T]
    covered = [row["gp_covered"] for row in rows if "gp_covered" in row]
    return {
        "samples": T,
        "games": len(rows),
        "seeds": max(row["seeds"] for row in rows),
        "gp": statistics.mean(max(row["gp"], -1.0) for row in rows),
        "pure": mean_of([max(row["pure"], -1.0) for row in rows if "pure" in row]),
        "ours": statistics.mean(max(row["ours"], -1.0) for row in rows),
        "foolish": sum(row["gp"] < row["linear"] - 0.02 for row in rows),
        "better than theirs": share([gain > 0 for gain in gains]),
        "mean gain capped at 1": mean_of([min(gain, 1.0) for gain in gains]),
        "not below ours, to 10 n": share([row["gp"] >= row["ours"] - 0.01 for row in small]),
        "covered": middle(covered),
        "covered 0.9 to 0.99": share([0.9 <= x <= 0.99 for x in covered]),
        "z": middle([row["gp_z"] for row in rows if "gp_z" in row]),
        "cpu": statistics.mean(row["gp_cpu"] for row in rows),
    }


def share(answers: list[bool]) -> float | str:
    return sum(answers) / len(answers) if answers else ""


def mean_of(values: list[float]) -> float | str:
    return statistics.mean(values) if values else ""


def middle(values: list[float]) -> float | str:
    return statistics.median(values) if values else ""


def samples_to_match(rows: list[Row]) -> dict[str, float]:
    """Samples at which gp reaches the peer's R2 at 1,000, of each game that has so many."""
    pairs = defaultdict(list)
    for row in rows:
        if "theirs" in row:
            pair = {"samples": row["samples"], "ours": row["gp"], "theirs": row["theirs"]}
            pairs[row["game"]].append(pair)
    found = {game: matched(pair) for game, pair in pairs.items()}
    return {game: samples for game, samples in found.items() if samples is not None}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("run", "pure"):
        parser.add_argument(f"--{name}", action="store_true")
    for name, default in (("seeds", "0,1,2,3,4"), ("budgets", ",".join(map(str, BUDGETS)))):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    if args.run:
        seeds, budgets = ([int(x) for x in text.split(",")] for text in (args.seeds, args.budgets))
        run_cases(seeds, budgets, args.every, args.pure)
        return
    rows = averaged()
    totals = [summary(rows, T) for T in sorted({row["samples"] for row in rows})]
    table(totals, "R2 on masks not seen")
    reached = samples_to_match(rows)
    half = statistics.median(reached.values()) if reached else None
    print(f"samples to match the peer's R2 at 1,000: median {half} of {len(reached)} games")
    write("gp", rows, threads=1, summary=totals, matched=reached, median_matched=half)


if __name__ == "__main__":
    main()
