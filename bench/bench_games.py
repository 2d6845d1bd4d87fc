"""SPEX on real value functions against a linear fit, and against what public packages reached.

    SPEX_GAMES=shared/games python bench/bench_games.py       # about four minutes

R2 on 4,000 masks that were not evaluated (all there are, of a small table), mean over two seeds;
the whole table where the budget reaches 2**n. `peeled` is the R2 of the peeled terms alone, before
shrink.py adds what low orders it finds worth it; `linear` that of least squares on the single
features, from the same masks. The last table says how often that is better, by b, the bins a group
(spex.py: warnings names a budget for those). The second runs the games and budgets of the folder's
peer_r2.jsonl, which holds R2 of public implementations at that many evaluations: their rows are
copied from it.
"""

from __future__ import annotations

import json
import statistics

import games
import numpy as np
import torch
from harness import Row, table, unseen_masks, write

from spex_core import masks as bits
from spex_core.alias import alias
from spex_core.budget import least_budget, plan_spex
from spex_core.evaluate import evaluate
from spex_core.peel import peel, with_constant
from spex_core.refine import linear_fit, refit
from spex_core.shrink import with_low_orders
from spex_core.transform import SparseTransform

BUDGETS = [1000, 2000, 5000, 10_000, 20_000]
DEGREE = 5
SEEDS = 2
TEST = 4000
LEAST_N = 10
SLOW = {"digits_knn5_datapoints_n1000": 5000, "digits_ridge_datapoints_n256": 10_000}  # most masks


def run(n: int, f: games.Function, budget: int, seed: int) -> Row:
    """One fit and one linear fit on its masks, both scored on the same new ones."""
    plan = plan_spex(n, budget, degree=DEGREE, seed=seed)
    values, _ = evaluate(f, plan, batch_size=1 << 14)
    support, coefs = with_constant(*peel(alias(values, plan), plan), n)
    if plan.code is None:
        return {"b": plan.b, "terms": len(support), "r2": 1.0, "peeled": 1.0, "linear": np.nan}
    coefs = refit(plan, values, support, coefs)
    peeled = SparseTransform(n, support, coefs)
    found = SparseTransform(n, *with_low_orders(plan, values, support, coefs))
    single = bits.pack(np.eye(n + 1, n, k=-1, dtype=np.bool_))
    linear = SparseTransform(n, single, torch.from_numpy(linear_fit(plan, values)))
    test = unseen_masks(plan, TEST)
    truth = f(bits.unpack(test, n))
    row = {"b": plan.b, "terms": len(found), "r2": found.score(test, truth)}
    return row | {"peeled": peeled.score(test, truth), "linear": linear.score(test, truth)}


def measure(name: str, budgets: list[int]) -> list[Row]:
    n, f = games.load(name)
    rows = []
    for budget in budgets:
        if f is None or budget < least_budget(n, DEGREE) or budget > SLOW.get(name, budget):
            continue
        runs = [run(n, f, budget, seed) for seed in range(SEEDS)]
        columns = ("terms", "r2", "peeled", "linear")
        means = {key: statistics.mean(r[key] for r in runs) for key in columns}
        rows.append({"game": name, "n": n, "budget": budget, "b": runs[0]["b"]} | means)
        if runs[0]["b"] == n:
            break  # the whole table: more is the same
    return rows


def against_peers() -> list[Row]:
    """Our R2 beside each line of peer_r2.jsonl whose game can be asked for any mask."""
    lines = [json.loads(line) for line in (games.FOLDER / "peer_r2.jsonl").read_text().splitlines()]
    rows, done = [], {}
    for line in lines:
        name, budget = line["game"], line["budget"]
        if (name, budget) not in done:
            done[name, budget] = measure(name, [budget])
        for mine in done[name, budget]:
            theirs = {"peer": line["peer"], "its_terms": line["terms"], "its_r2": line["r2"]}
            rows.append(mine | theirs)
    return rows


def linear_wins(rows: list[Row]) -> list[Row]:
    """By b and range of n: how often the linear fit is better, and by how much at worst."""
    found = []
    for low, high in ((10, 20), (21, 100), (101, 1000)):
        for b in sorted({row["b"] for row in rows}):
            some = [r for r in rows if low <= r["n"] <= high and r["b"] == b and b < r["n"]]
            if not some:
                continue
            lost = [r for r in some if r["linear"] > r["r2"]]
            worst = max(some, key=lambda r: r["linear"] - r["r2"])
            found.append(
                {
                    "n": f"{low}-{high}",
                    "b": b,
                    "runs": len(some),
                    "linear wins": len(lost),
                    "median peeled": statistics.median(r["peeled"] for r in some),
                    "median r2": statistics.median(r["r2"] for r in some),
                    "median linear": statistics.median(r["linear"] for r in some),
                    "largest lead of linear": worst["linear"] - worst["r2"],
                    "in": worst["game"],
                }
            )
    return found


def main() -> None:
    torch.set_num_threads(1)
    names = games.names()
    if not names:
        print(f"skipped: no games in {games.FOLDER}; name their folder in SPEX_GAMES")
        return
    rows = []
    for name in names:
        if games.load(name)[0] >= LEAST_N:
            rows += measure(name, BUDGETS)
    table(rows, f"R2 on unseen masks, mean of {SEEDS} seeds")
    peers = against_peers()
    table(peers, "beside the published figures of peer_r2.jsonl")
    wins = linear_wins(rows)
    table(wins, "where least squares on single features is better")
    for row in rows + peers:
        row["linear"] = None if np.isnan(row["linear"]) else row["linear"]
    write("games", rows, peers=peers, linear_wins=wins)


if __name__ == "__main__":
    main()
