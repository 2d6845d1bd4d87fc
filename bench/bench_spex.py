"""Plan, alias, decode and peel against the public SPEX implementations: seconds and accuracy.

    SPEX_PEERS_PYTHON=.venv-peers/bin/python python bench/bench_spex.py   # half an hour, all theirs

Planted functions (synthetic.py), the same for both sides, and the same number of samples: three
groups, all delays of the BCH code, 2**b bins. peers.py says how each peer is called. The two sides
take turns, the peers in a process of their own at one thread of numba; ours too runs on one
thread, but in the last table. Seconds are CPU seconds of everything from (n, b, t) to the Fourier
coefficients, without the value function: ours with all caches emptied, the masks made and unpacked
to bool, as a peer makes them. `faster` is the median over the seeds of theirs / ours.
"""

from __future__ import annotations

import statistics
import time

import torch
from harness import Peers, Row, Stopwatch, mean, table, write
from synthetic import accuracy, planted

from spex_core import codes
from spex_core import masks as bits
from spex_core.alias import alias
from spex_core.budget import aliased_plan
from spex_core.peel import peel

DEGREE = 5
CASES = [(64, 6, 30), (256, 8, 100)]  # n, b, terms
LEVELS = [None, 20.0, 10.0, 5.0, 0.0]  # dB
PEERS = {
    "shapiq soft": "soft",
    "sparse-transform hard": "hard",
    "spectralexplain soft": "soft",
}
SEEDS = {"shapiq soft": 4, "sparse-transform hard": 16, "spectralexplain soft": 4}
SLOW_SEEDS = 1  # of spectralexplain soft at n = 256: a minute of CPU a run
REPEATS = 5  # of ours, whose median counts
TARGETS = {"soft": ("shapiq soft", 300), "hard": ("sparse-transform hard", 60)}  # at n = 256, 20 dB


def ours(
    n: int, b: int, terms: int, snr: float | None, seed: int, decoder: str, clock=time.process_time
) -> Row:
    """One run: accuracy, samples and seconds by stage."""
    f = planted(n, terms, DEGREE, snr=snr, seed=seed)
    for cache in (codes.bch_code, codes.roots, codes.field, codes.generator):
        cache.cache_clear()
    watch = Stopwatch(clock)
    with watch("plan"):
        plan = aliased_plan(n, b, degree=DEGREE, seed=seed)
    with watch("masks"):
        masks = bits.unpack(plan.masks(0, plan.total), n)
    values = torch.from_numpy(f(masks))
    with watch("alias"):
        bins = alias(values, plan)
    with watch("peel"):
        support, coefs = peel(bins, plan, decoder=decoder)
    found = dict(zip(bits.unpack_sets(support), coefs.tolist(), strict=True))
    seconds = {"all": sum(watch.spent.values())} | watch.spent
    return accuracy(f.terms, found) | {"samples": plan.total, "seconds": seconds}


def median_run(*case, **how) -> Row:
    """ours, REPEATS times: the run of median seconds."""
    runs = [ours(*case, **how) for _ in range(REPEATS)]
    return sorted(runs, key=lambda run: run["seconds"]["all"])[REPEATS // 2]


def turn(peers: Peers, peer: str, n: int, b: int, terms: int, snr: float | None, seed: int) -> Row:
    """One peer and ours on one function."""
    case = {"n": n, "b": b, "t": DEGREE, "terms": terms, "snr": snr, "seed": seed}
    theirs = peers.run(peer=peer, **case)
    mine = median_run(n, b, terms, snr, seed, PEERS[peer])
    if theirs["samples"] != mine["samples"]:
        raise AssertionError(f"{peer} took {theirs['samples']} samples, ours {mine['samples']}")
    truth = planted(n, terms, DEGREE, snr=snr, seed=seed).terms
    reached = accuracy(truth, {tuple(k): coef for k, coef in theirs["terms"]})
    row: Row = {}
    for key in ("r2", "precision", "recall"):
        row |= {f"its_{key}": reached[key], f"our_{key}": mine[key]}
    seconds = mine["seconds"]["all"]
    return row | {"its_cpu": theirs["cpu"], "our_cpu": seconds, "faster": theirs["cpu"] / seconds}


def compare(peers: Peers) -> list[Row]:
    rows = []
    for n, b, terms in CASES:
        for snr in LEVELS:
            for peer in PEERS:
                slow = peer == "spectralexplain soft" and n > 64
                seeds = SLOW_SEEDS if slow else SEEDS[peer]
                turns = [turn(peers, peer, n, b, terms, snr, seed) for seed in range(seeds)]
                case = {"n": n, "b": b, "terms": terms, "snr": snr, "peer": peer, "seeds": seeds}
                faster = statistics.median(row["faster"] for row in turns)
                rows.append(case | mean(turns) | {"faster": faster})
                table(rows[-1:])
    return rows


def stages(n: int, b: int, terms: int) -> list[Row]:
    """Ours alone at 20 dB, wall seconds by stage: on all threads, then on one, which stays."""
    rows = []
    for threads in sorted({1, torch.get_num_threads()}, reverse=True):
        torch.set_num_threads(threads)
        for decoder in ("hard", "soft"):
            run = median_run(n, b, terms, 20.0, 0, decoder, clock=time.perf_counter)
            rows.append({"decoder": decoder, "threads": threads} | run["seconds"])
    return rows


def verdicts(rows: list[Row]) -> list[str]:
    """Each target of speed, and where ours is less accurate than a peer of the same decoder."""
    found = []
    for decoder, (peer, goal) in TARGETS.items():
        (row,) = [r for r in rows if (r["n"], r["snr"], r["peer"]) == (256, 20.0, peer)]
        met = "met" if row["faster"] >= goal else "MISSED"
        found.append(
            f"{decoder}: {row['faster']:.0f} times faster than {peer}, target {goal}: {met}"
        )
    for row in rows:
        for key in ("r2", "precision", "recall"):
            if row[f"our_{key}"] < row[f"its_{key}"] - 1e-9:
                case = f"n={row['n']}, {row['snr']} dB, against {row['peer']}"
                found.append(
                    f"lower {key}: {row[f'our_{key}']:.5f} < {row[f'its_{key}']:.5f}, {case}"
                )
    return found


def main() -> None:
    alone = stages(*CASES[-1])
    table(alone, "ours alone, n=256, b=8, 100 terms, 20 dB: wall seconds by stage")
    peers = Peers()
    if peers.why_not:
        print(f"peers skipped: {peers.why_not}")
        return
    rows = compare(peers)
    table(rows, "peer and ours in turn, one thread, means over the seeds, CPU seconds")
    found = verdicts(rows)
    print("\n".join(found))
    write("spex", rows, peers=peers.versions, ours_by_stage_wall=alone, verdicts=found)


if __name__ == "__main__":
    main()
