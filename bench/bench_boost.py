"""Boosting on bits against LightGBM: seconds, and R2 at equal settings.

    SPEX_PEERS_PYTHON=.venv-peers/bin/python python bench/bench_boost.py   # three minutes

200 trees of depth 5, 31 leaves of at least 20 samples, rate 0.1, on masks and values in memory.
LightGBM runs in a process of its own (peers_boost.py), in turn with ours; seconds are the least of
a few rounds. `faster` is by CPU seconds on one thread and by wall seconds on two, which other work
on the machine adds to. Threads of ours share out fits, and here there is one. `backends` holds ours
by instruction set, and the plain reference where it takes seconds. `fidelity` has R2 on planted and
on real functions, from masks and functions of several seeds, with the standard error of the
difference: one split that falls otherwise changes all trees after it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import games
import numpy as np
import torch
from harness import Peers, Row, table, write
from race import isas, race
from synthetic import planted

from spex_core import masks as bits
from spex_core import native, ops

SIZES = [(10_000, 256), (20_000, 1024), (2_000, 64), (1_000, 256), (600, 256)]  # samples, n
TREES = 200
OURS = {"trees": TREES, "depth": 5, "leaves": 31, "min_leaf": 20, "rate": 0.1}
THEIRS = {"max_depth": 5, "num_leaves": 31, "min_data_in_leaf": 20, "learning_rate": 0.1}
GAMES = [
    *("digits_lgbm_n64_img3", "digits_mlp_n64_img7", "digits_knn5_datapoints_n200"),
    *("bc_rf_n30_row0", "bc_lgbm_n30_row20", "digits_ridge_datapoints_n256"),
]
PLANTED = [(500, 32), (1_000, 64), (2_000, 128), (5_000, 256)]  # samples, n
TEST = 4000
SEEDS = 8
ROUNDS = {False: 5, True: 2}  # of small sizes, and of those that take LightGBM seconds
GOAL, WITHIN = 8, 0.01


class Case:
    """One function on uniform masks: both sides fit the same samples and predict the same."""

    def __init__(
        self, peers: Peers, folder: Path, f: Callable, samples: int, n: int, seed: int = 0
    ) -> None:
        dense = bits.unpack(ops.uniform_masks(samples + TEST, n, seed=seed), n)
        values = np.asarray(f(dense), float)
        self.peers, self.folder, self.n = peers, folder, n
        self.masks, self.test = bits.pack(dense[:samples]), bits.pack(dense[samples:])
        self.values, self.truth = torch.from_numpy(values[:samples]), values[samples:]
        parts = {"masks": dense[:samples], "values": values[:samples], "test": dense[samples:]}
        self.data = folder / f"{len(list(folder.iterdir()))}.npz"
        np.savez(self.data, **parts)

    def ours(self, threads: int = 1) -> Row:
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
            ops.boost(self.masks, self.values, self.n, **OURS | {"trees": 1})
        start = time.process_time(), time.perf_counter()
        ops.boost(self.masks, self.values, self.n, **OURS)
        return {"cpu": time.process_time() - start[0], "wall": time.perf_counter() - start[1]}

    def lightgbm(self, threads: int = 1) -> Row:
        how = THEIRS | {"num_threads": threads, "verbose": -1}
        where = {"data": str(self.data), "out": str(self.data.with_suffix(".npy"))}
        return self.peers.run(settings=how, trees=TREES, **where)

    def r2(self) -> tuple[float, float]:
        """Ours and LightGBM's."""
        found = ops.boost(self.masks, self.values, self.n, watch=self.test, **OURS)
        self.lightgbm()
        predicted = found.staged[0, 0, len(self.masks) :].numpy()
        return self.score(predicted), self.score(np.load(self.data.with_suffix(".npy")))

    def score(self, predicted: np.ndarray) -> float:
        return 1 - float(np.mean((self.truth - predicted) ** 2) / self.truth.var())


def compared(cases: list[Case]) -> Row:
    """Mean R2 of both, known to be close; se is the standard error of the difference."""
    r2 = np.array([case.r2() for case in cases])
    ours, theirs = r2.mean(0).tolist()
    if not abs(ours - theirs) < WITHIN:
        raise AssertionError(f"R2 is {ours}, LightGBM's {theirs}")
    se = np.diff(r2).std(ddof=1).item() / len(cases) ** 0.5
    return {"r2": ours, "lightgbm_r2": theirs, "differ": ours - theirs, "se": se}


def speed(case: Case, threads: int) -> Row:
    clock = "cpu" if threads == 1 else "wall"
    rounds = ROUNDS[len(case.masks) * case.n > 10**7]
    runs = [(case.ours(threads), case.lightgbm(threads)) for _ in range(rounds)]
    row: Row = {"samples": len(case.masks), "n": case.n, "threads": threads}
    for key in ("cpu", "wall"):
        row |= {key: min(a[key] for a, _ in runs), f"lightgbm_{key}": min(b[key] for _, b in runs)}
    return row | {"clock": clock, "faster": row[f"lightgbm_{clock}"] / row[clock]}


def by_backend(case: Case) -> Row:
    """CPU seconds of one fit on one thread."""
    run, row = native.boost_cpu, {"samples": len(case.masks), "n": case.n}

    def with_isa(isa: str) -> Callable[[], object]:
        def call() -> object:
            native.boost_cpu = lambda *args: run(*args, isa=isa)
            return ops.boost(case.masks, case.values, case.n, **OURS)

        return call

    calls = {isa: with_isa(isa) for isa in isas()}
    row |= {isa: min(times) for isa, times in race(calls, seconds=0.5).items()}
    native.boost_cpu = run
    if len(case.masks) <= 1000:
        start = time.process_time()
        ops.boost(case.masks, case.values, case.n, **OURS, backend="reference")
        row["reference"] = time.process_time() - start
    return row


def main() -> None:
    peers = Peers("peers_boost.py")
    if peers.why_not:
        print(f"peers skipped: {peers.why_not}")
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeds, backends = [], []
        for samples, n in SIZES:
            case = Case(peers, folder, planted(n, 100, 3, snr=10.0), samples, n)
            r2 = dict(zip(("r2", "lightgbm_r2"), case.r2(), strict=True))
            if not abs(r2["r2"] - r2["lightgbm_r2"]) < 2 * WITHIN:  # of one function by chance
                raise AssertionError(f"{samples} samples, n={n}: {r2}")
            speeds += [speed(case, threads) | r2 for threads in (1, 2)]
            torch.set_num_threads(1)
            backends.append(by_backend(case))
        table(speeds, f"{TREES} trees of depth 5, ours and LightGBM")
        table(backends, "CPU seconds by instruction set")
        fidelity = []
        for samples, n in PLANTED:
            fs = [planted(n, 30, 3, snr=10.0, seed=seed) for seed in range(SEEDS)]
            cases = [Case(peers, folder, f, samples, n, seed) for seed, f in enumerate(fs)]
            fidelity.append({"function": "planted", "samples": samples, "n": n} | compared(cases))
        for game in sorted(set(GAMES) & set(games.names())):
            n, f = games.load(game)
            cases = [Case(peers, folder, f, 2000, n, seed) for seed in range(SEEDS)]
            fidelity.append({"function": game, "samples": 2000, "n": n} | compared(cases))
        table(fidelity, f"R2 on {TEST:,} other masks, mean of {SEEDS} seeds")
    found = [
        f"{row['samples']:,} samples, n={row['n']}, {row['threads']} threads: {row['faster']:.1f} "
        f"times faster, target {GOAL}: {'met' if row['faster'] >= GOAL else 'MISSED'}"
        for row in speeds[:4]
    ]
    worst = max(abs(row["differ"]) for row in fidelity)
    found.append(f"mean R2 within {worst:.4f} of LightGBM's, target {WITHIN}: met")
    print("\n".join(found))
    write(
        "boost", speeds, fidelity=fidelity, backends=backends, verdicts=found, peer=peers.versions
    )


if __name__ == "__main__":
    main()
