"""GPSPEX beside ProxySPEX, a linear fit and the public ProxySPEX, on real value functions.

    SPEX_GAMES=shared/games python bench/bench_gp.py                        # the summary
    SPEX_GAMES=... python bench/bench_gp.py --run [--seeds 0,1] [--budgets 50] [--every 4]

The second command runs the cases that results/gp_runs_<samples>.jsonl have no line for, one line a
case, so it can be stopped and goes on; --every 4 takes every fourth game. The first reads those
lines and writes results/gp.json: held-out R2, mean over seeds, on masks that none has seen.

`gp` is gpspex(), `ours` proxyspex(), `linear` ridge regression on single features at the level of
least leave-one-out error, `auto` the stack of these that algorithm="auto" makes, `theirs` shapiq's
ProxySPEX as bench_faithful.py recorded it, all on the same samples. `spex` is spex() at the same
budget, on masks of its own, where the game can be asked and the budget is enough; it is tested on
those of the masks that it did not ask for, and `auto_there` is auto on the same.
`below` is what auto lacks on the best of linear, ours, gp and spex; `told` the R2 of the member
that is best on the other seeds of the same game, which no user can know: beside it stands what
remains to be gained by choosing, and what the noise of the samples takes. `allowed`, where it was
looked at, is R2 of the best shares that auto's rule allows, never 0.005 worse out of fold than the
best member, chosen by one who knows R2 on the test masks: what no choice of shares can exceed.
`covered` is the share of the coefficients returned whose 95 % interval holds the exact one, where
the whole table is known; `process` R2 of process.predict, the result before small terms are left
out, and `z` the root mean square of its errors over their standard deviations. CPU seconds, one
thread; those of auto hold those of its members.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections import defaultdict
from typing import Any

import games
import numpy as np
import torch
from bench_faithful import known, matched
from harness import HERE, Row, table, write

import spex_core
from spex_core import masks as bits
from spex_core.auto import AUTO, allowed, auto_algorithm, left_out, linear_fit, stack
from spex_core.budget import least_budget
from spex_core.explanation import Explanation
from spex_core.gpspex import gp_algorithm
from spex_core.proxy import ProxyFit
from spex_core.proxyspex import proxy_algorithm
from spex_core.uniform import Algorithm, explain_samples

MEMBERS = ("linear", "ours", "gp")
BUDGETS = [50, 100, 300, 600, 1000, 3000]
RUNS = HERE / "results"  # gp_runs_<samples>.jsonl
TABLE = 16  # features up to which the exact spectrum is compared with


def run(name: str, T: int, seed: int) -> Row | None:
    """One case; None where the game has fewer samples, or only equal ones."""
    n, (masks, values), test = games.samples(name, seed)
    masks, values = masks[:T], values[:T]
    if len(masks) < T or values.std() == 0:
        return None
    row: Row = {"game": name, "n": n, "samples": T, "seed": seed}
    members = [linear(masks, values, n)]
    row["linear"] = members[0].score(*test)
    kept = Kept()
    for key, make in (("ours", proxy_algorithm), ("gp", gp_algorithm), ("auto", auto_algorithm)):
        algorithm = make("bench_gp", "default", None, None, seed)
        start = time.process_time()
        ex = explain_samples(kept.shared(algorithm, key), masks, values, None)
        row[f"{key}_cpu"] = round(time.process_time() - start, 3)
        members.append(ex.transform)
        row[key] = ex.transform.score(*test)
        row[f"{key}_out_of_fold"] = ex.report.r2
        if ex.transform.stderr is not None:
            row |= {f"{key}_{what}": x for what, x in honesty(name, n, ex, test).items()}
    row["auto_cpu"] = round(row["auto_cpu"] + row["ours_cpu"] + row["gp_cpu"], 3)
    row["allowed"] = best_of(kept.allowed, members[:3], test)
    if (found := of_spex(name, T, seed, test[0])) is not None:
        transform, unseen = found
        there = test[0][unseen], test[1][unseen]
        row |= {"spex": transform.score(*there), "auto_there": ex.transform.score(*there)}
    return row


class Kept:
    """The fits of one case, which auto stacks, and the shares that it might have taken."""

    def __init__(self) -> None:
        self.fits: dict[str, Any] = {}
        self.allowed = np.empty((0, 3))

    def shared(self, algorithm: Algorithm, key: str) -> Algorithm:
        """The algorithm, that keeps its fit, or of auto, that stacks those kept."""

        def fit(masks: torch.Tensor, values: torch.Tensor, n: int) -> list[ProxyFit]:
            if key == "auto":
                pair = self.fits["ours"], self.fits["gp"]
                rows, made, _ = left_out(*pair)
                self.allowed, _ = allowed(made, values[0].numpy()[rows], AUTO)
                return [stack(masks, values[0], n, *pair, None, AUTO)]
            found = algorithm.fit(masks, values, n)
            self.fits[key] = found[0]
            return found

        return dataclasses.replace(algorithm, fit=fit)


def best_of(
    shares: np.ndarray, members: list[spex_core.SparseTransform], test: games.Samples
) -> float:
    """R2 on the test masks of the best of these sums."""
    errors = np.stack([member.predict(test[0]) - test[1] for member in members])
    lost = np.einsum("ga,ab,gb->g", shares, errors @ errors.T, shares).min()
    return float(1 - lost / ((test[1] - test[1].mean()) ** 2).sum())


def honesty(name: str, n: int, ex: Explanation, test: games.Samples) -> Row:
    """How far the errors that an explanation states are true."""
    out: Row = {}
    if ex.report.r2_process is not None:
        mean, stderr = ex.process.predict(test[0][:1000])
        out["process"] = r2(test[1][:1000], mean)
        out["z"] = float(np.mean(((test[1][:1000] - mean) / stderr) ** 2) ** 0.5)
    if (covered := coverage(name, n, ex.transform)) is not None:
        out["covered"] = covered
    return out


def of_spex(
    name: str, T: int, seed: int, test: np.ndarray
) -> tuple[spex_core.SparseTransform, list[bool]] | None:
    """What spex() finds with so many masks, where that is not all there are, and which of the test
    masks it did not see."""
    n, function = games.load(name)
    if function is None or not least_budget(n, 5) <= T < 1 << n:
        return None
    asked: set[bytes] = set()

    def listening(masks: np.ndarray) -> np.ndarray:
        asked.update(map(bytes, np.packbits(masks, axis=1)))
        return function(masks)

    transform = spex_core.spex(listening, n, budget=T, seed=seed).transform
    return transform, [bytes(mask) not in asked for mask in np.packbits(test, axis=1)]


def linear(masks: np.ndarray, values: np.ndarray, n: int) -> spex_core.SparseTransform:
    found = linear_fit(bits.pack(masks), torch.from_numpy(values), n)
    return spex_core.SparseTransform(n, found.support, found.coefs)


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
    """The last line of each case."""
    files = sorted(RUNS.glob("gp_runs_*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return list({(row["game"], row["samples"], row["seed"]): row for row in rows}.values())


def run_cases(seeds: list[int], budgets: list[int], every: int) -> None:
    torch.set_num_threads(1)
    there = {(row["game"], row["samples"], row["seed"]) for row in lines()}
    for seed in seeds:
        for T in budgets:
            for name in games.names()[::every]:
                if (name, T, seed) in there or (row := run(name, T, seed)) is None:
                    continue
                with (RUNS / f"gp_runs_{T}.jsonl").open("a") as file:
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
        row["below"] = max(row[key] for key in MEMBERS) - row["auto"]
        if "spex" in row:
            row["below"] = max(row["below"], row["spex"] - row["auto_there"])
        if len(runs) > 1:
            row["told"] = told(np.array([[run[key] for key in MEMBERS] for run in runs]))
        rows.append(row)
    return rows


def told(scores: np.ndarray) -> float:
    """Mean R2 over seeds of the member that is best on the others: float64 (seeds, members)."""
    others = scores.sum(0) - scores
    return float(scores[np.arange(len(scores)), others.argmax(1)].mean())


def summary(rows: list[Row], T: int) -> Row:
    """The figures that are asked for, over the games that have so many samples."""
    rows = [row for row in rows if row["samples"] == T]
    out = {"samples": T, "games": len(rows), "runs": sum(row["seeds"] for row in rows)}
    for key in MEMBERS:
        out[key] = mean_of([max(row[key], -1.0) for row in rows])
    out |= of_auto(rows) | of_told(rows) | against_others(rows, T)
    for key in ("gp", "auto"):
        covered = [row[f"{key}_covered"] for row in rows if f"{key}_covered" in row]
        out |= {
            f"{key} covered": mean_of(covered),
            f"{key} covered below 0.9": sum(x < 0.9 for x in covered),
            f"{key} covered over 0.99": sum(x > 0.99 for x in covered),
            f"{key} tables": len(covered),
        }
    for key in ("ours", "gp", "auto"):
        out[f"{key} cpu"] = mean_of([row[f"{key}_cpu"] for row in rows])
    return out


def of_auto(rows: list[Row]) -> Row:
    """The stack against its members."""
    return {
        "auto": mean_of([max(row["auto"], -1.0) for row in rows]),
        "foolish auto": sum(row["auto"] < row["linear"] - 0.02 for row in rows),
        "auto below by over 0.01": sum(row["below"] > 0.01 for row in rows),
        "auto below at most": max((row["below"] for row in rows), default=""),
        "allowed below by over 0.01": sum(
            row["allowed"] < max(row[key] for key in MEMBERS) - 0.01
            for row in rows
            if "allowed" in row
        ),
        "allowed games": sum("allowed" in row for row in rows),
        "spex": sum("spex" in row for row in rows),
        "spex best": sum(row.get("spex", -9) > max(row["ours"], row["gp"]) + 0.01 for row in rows),
    }


def of_told(rows: list[Row]) -> Row:
    """The member that the other seeds name, against the best of all and a linear fit."""
    rows = [row for row in rows if "told" in row]
    return {
        "told games": len(rows),
        "told": mean_of([max(row["told"], -1.0) for row in rows]),
        "foolish told": sum(row["told"] < row["linear"] - 0.02 for row in rows),
        "told below by over 0.01": sum(
            row["told"] < max(row[key] for key in MEMBERS) - 0.01 for row in rows
        ),
    }


def against_others(rows: list[Row], T: int) -> Row:
    """GPSPEX against a linear fit, the public ProxySPEX and ours."""
    gains = [row["gain"] for row in rows if "gain" in row]
    small = [row for row in rows if 10 * row["n"] >= T]
    return {
        "foolish": sum(row["gp"] < row["linear"] - 0.02 for row in rows),
        "below linear at most": max((row["linear"] - row["gp"] for row in rows), default=""),
        "better than theirs": share([gain > 0 for gain in gains]),
        "mean gain capped at 1": mean_of([min(gain, 1.0) for gain in gains]),
        "not below ours, to 10 n": share([row["gp"] >= row["ours"] - 0.01 for row in small]),
        "z": middle([row["gp_z"] for row in rows if "gp_z" in row]),
    }


def share(answers: list[bool]) -> float | str:
    return sum(answers) / len(answers) if answers else ""


def mean_of(values: list[float]) -> float | str:
    return statistics.mean(values) if values else ""


def middle(values: list[float]) -> float | str:
    return statistics.median(values) if values else ""


def samples_to_match(rows: list[Row], key: str) -> dict[str, float]:
    """Samples at which `key` reaches the peer's R2 at 1,000, of each game that has so many."""
    pairs = defaultdict(list)
    for row in rows:
        if "theirs" in row and key in row:
            pair = {"samples": row["samples"], "ours": row[key], "theirs": row["theirs"]}
            pairs[row["game"]].append(pair)
    found = {game: matched(pair) for game, pair in pairs.items()}
    return {game: samples for game, samples in found.items() if samples is not None}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true")
    for name, default in (("seeds", "0,1,2,3,4"), ("budgets", ",".join(map(str, BUDGETS)))):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    if args.run:
        seeds, budgets = ([int(x) for x in text.split(",")] for text in (args.seeds, args.budgets))
        run_cases(seeds, budgets, args.every)
        return
    rows = averaged()
    totals = [summary(rows, T) for T in sorted({row["samples"] for row in rows})]
    table(totals, "R2 on masks not seen")
    matches = {}
    for key in ("gp", "auto"):
        reached = samples_to_match(rows, key)
        half = statistics.median(reached.values()) if reached else None
        matches |= {f"{key}_matched": reached, f"{key}_median_matched": half}
        print(f"{key}: the peer's R2 at 1,000 with {half} samples, median of {len(reached)} games")
    write("gp", rows, threads=1, summary=totals, **matches)


if __name__ == "__main__":
    main()
