"""ProxySPEX against the public implementation on the same samples of real value functions.

    SPEX_GAMES=shared/games python bench/bench_faithful.py            # ours, and the comparison
    SPEX_GAMES=... SPEX_PEERS_PYTHON=... python bench/bench_faithful.py --peers [--seeds 0,1]

R2 on masks that neither has seen, for every game and 100, 300, 600, 1,000 and 3,000 samples where
the game has them, mean over seeds. The second command runs the peer where results/faithful_peers
.jsonl has no line for a case yet, one line a case, so it can be stopped and goes on; a case that
the peer has run for some seeds only is compared on those. The peer is shapiq's ProxySPEX:
spectralexplain's is several times slower (bench_proxyspex.py), too slow for all cases.

`matched` is the number of samples at which ours reaches the peer's R2 at 1,000, by interpolation in
the logarithm of the samples.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict

import games
import numpy as np
import torch
from harness import HERE, Peers, Row, table, write

import spex_core

BUDGETS = [100, 300, 600, 1000, 3000]
SEEDS = 5
KNOWN = HERE / "results" / "faithful_peers.jsonl"


def cases(seed: int) -> list[tuple[str, int]]:
    out = []
    for name in games.names():
        _, (masks, values), _ = games.samples(name, seed)
        out += [(name, T) for T in BUDGETS if len(masks) >= T and values[:T].std() > 0]
    return out


def known() -> dict[tuple[str, int, int], float]:
    """R2 of the peer by (game, samples, seed)."""
    lines = KNOWN.read_text().splitlines() if KNOWN.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["game"], row["samples"], row["seed"]): row["r2"] for row in rows}


def run_peers(seeds: list[int]) -> None:
    peers = Peers("peers_proxy.py")
    if peers.why_not:
        sys.exit(peers.why_not)
    for seed in seeds:
        there = known()
        for game, T in cases(seed):
            if (game, T, seed) in there:
                continue
            case = {"game": game, "samples": T, "seed": seed}
            row = case | peers.run(peer="shapiq", **case)
            with KNOWN.open("a") as file:
                file.write(json.dumps(row) + "\n")


def ours(seed: int) -> dict[tuple[str, int], Row]:
    out = {}
    for game, T in cases(seed):
        _, (masks, values), test = games.samples(game, seed)
        start = time.process_time()
        ex = spex_core.fit(masks[:T], values[:T], seed=seed)
        spent = time.process_time() - start
        row = {"r2": ex.transform.score(*test), "cpu": spent, "out_of_fold": ex.report.r2}
        out[game, T] = row | {"linear": ex.report.r2_linear}
    return out


def matched(rows: list[Row]) -> float | None:
    """Samples at which ours first reaches the peer's R2 at 1,000, of one game's rows."""
    goal = next((row["theirs"] for row in rows if row["samples"] == 1000), None)
    if goal is None:
        return None
    before = None
    for row in sorted(rows, key=lambda row: row["samples"]):
        if row["ours"] >= goal:
            if before is None:
                return float(row["samples"])
            share = (goal - before["ours"]) / (row["ours"] - before["ours"])
            return float(before["samples"] * (row["samples"] / before["samples"]) ** share)
        before = row
    return float("inf")


def main() -> None:
    if "--peers" in sys.argv:
        last = sys.argv[-1]
        run_peers([int(s) for s in last.split(",")] if last != "--peers" else list(range(SEEDS)))
        return
    torch.set_num_threads(1)
    own = [ours(seed) for seed in range(SEEDS)]
    peer = known()
    found = defaultdict(list)
    for seed, there in enumerate(own):
        for case, row in there.items():
            found[case].append(row | {"seed": seed, "theirs": peer.get((*case, seed))})
    rows = []
    for (game, T), runs in sorted(found.items()):
        both = [run for run in runs if run["theirs"] is not None]
        means = {key: float(np.mean([run[key] for run in runs])) for key in ("cpu", "out_of_fold")}
        rows.append(
            {"game": game, "samples": T, "seeds": len(runs), "r2": mean(runs, "r2")} | means
        )
        if both:
            pair = {"ours": mean(both, "r2"), "theirs": mean(both, "theirs")}
            rows[-1] |= {"peer_seeds": len(both)} | pair | {"gain": pair["ours"] - pair["theirs"]}
    summary = []
    for T in BUDGETS:
        gains = [row["gain"] for row in rows if row["samples"] == T and "gain" in row]
        summary.append(
            {
                "samples": T,
                "games": len(gains),
                "mean_gain": statistics.mean(gains),
                "mean_gain_capped_at_1": statistics.mean(min(gain, 1.0) for gain in gains),
                "median_gain": statistics.median(gains),
                "least_gain": min(gains),
                "worse_by_0.005": sum(gain < -0.005 for gain in gains),
                "cpu": statistics.mean(row["cpu"] for row in rows if row["samples"] == T),
            }
        )
    reached = {
        game: matched([r for r in rows if r["game"] == game and "gain" in r])
        for game in games.names()
    }
    reached = {game: samples for game, samples in reached.items() if samples is not None}
    table(summary, "R2 of ours less the peer's, on the same samples")
    half = statistics.median(reached.values())
    print(f"samples to match the peer's R2 at 1,000: median {half:.0f} of {len(reached)} games")
    write("faithful", rows, summary=summary, matched=reached, median_matched=half)


def mean(runs: list[Row], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


if __name__ == "__main__":
    main()
