"""Tree spectra: ours against the extractions of the public ProxySPEX implementations.

    SPEX_PEERS_PYTHON=.venv-peers/bin/python python bench/bench_tree_fourier.py   # five minutes

LightGBM models of depth 5 with up to 32 leaves, trained here; all sides start from the same dump,
which is in memory as Python has it. peers_trees.py says how each peer is called. They take turns,
the peers in a process of their own, ours on one thread, all in CPU seconds: `read` turns the dump
into node arrays, `spectrum` these into the terms. The library's own boosting makes node arrays, so
that `read` is not part of it; the peers have no such step, so `faster` has both, and
`faster_from_arrays` leaves it out. Ratios are medians over the rounds. No speed is kept unless the
spectra agree to 1e-9 of the largest coefficient. `clone` copies the result: the speed of light.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import lightgbm
import numpy as np
import torch
from harness import Peers, Row, table, write

from spex_core import SparseTransform, Trees, tree_fourier

CASES = [(1024, 1000), (256, 2400)]  # n, trees
PEERS = ("shapiq", "spectralexplain")
ROUNDS = 3
REPEATS = 5  # of ours in a round, whose median counts
LIMIT = 10_000  # as a fit asks
GOAL = 100


def dump_of(n: int, trees: int) -> dict:
    """A LightGBM ensemble on a function of 120 features and 50 pairs of them, under noise."""
    rng = np.random.default_rng(n)
    masks = rng.integers(0, 2, (4000, n)).astype(float)
    pairs = (masks[:, 20:120:2] * masks[:, 21:121:2]) @ rng.normal(size=50)
    f = masks[:, :20] @ rng.normal(size=20) + pairs + 0.3 * rng.normal(size=len(masks))
    how = {"num_leaves": 32, "max_depth": 5, "learning_rate": 0.05, "verbose": -1, "num_threads": 1}
    return lightgbm.train(how, lightgbm.Dataset(masks, f), trees).dump_model()


def ours(dump: dict) -> tuple[Row, SparseTransform]:
    """Median CPU seconds of each step, and the spectrum."""
    runs = []
    for _ in range(REPEATS):
        times = [time.process_time()]
        trees = Trees.of(dump)
        times.append(time.process_time())
        spectrum = tree_fourier(trees)
        times.append(time.process_time())
        tree_fourier(trees, limit=LIMIT)
        times.append(time.process_time())
        spectrum.support.clone()
        times.append(time.process_time())
        runs.append(np.diff(times))
    names = ("read", "spectrum", "limited", "clone")
    return dict(zip(names, np.median(runs, axis=0).tolist(), strict=True)), spectrum


def difference(spectrum: SparseTransform, theirs: Path) -> float:
    """The largest difference of a coefficient, relative to the largest coefficient."""
    found = np.load(theirs)
    left = {row.tobytes(): coef for row, coef in zip(found["rows"], found["coefs"], strict=True)}
    mine = zip(spectrum.support.numpy(), spectrum.coefs.tolist(), strict=True)
    worst = max(abs(coef - left.pop(row.tobytes(), 0.0)) for row, coef in mine)
    most = spectrum.coefs.abs().max().item()
    return max([worst, *map(abs, left.values())]) / most


def measure(peers: Peers, n: int, trees: int, folder: Path) -> list[Row]:
    dump = dump_of(n, trees)
    (folder / "dump.json").write_text(json.dumps(dump))
    where = {"dump": str(folder / "dump.json"), "out": str(folder / "terms.npz")}
    rounds: dict[str, list[Row]] = {peer: [] for peer in PEERS}
    for _ in range(ROUNDS):
        for peer in PEERS:
            mine, spectrum = ours(dump)
            its = peers.run(peer=peer, n=n, **where)
            differ = difference(spectrum, Path(where["out"]))
            if not differ < 1e-9:  # a NaN fails too
                raise AssertionError(f"{peer}, n={n}: coefficients differ by {differ}")
            rounds[peer].append(mine | {"its_cpu": its["cpu"], "differ": differ})
    return [
        {"n": n, "trees": trees, "terms": len(spectrum), "peer": peer} | summary(rounds[peer])
        for peer in PEERS
    ]


def summary(runs: list[Row]) -> Row:
    def median(of) -> float:
        return statistics.median(map(of, runs))

    return {key: median(lambda run, key=key: run[key]) for key in runs[0]} | {
        "faster": median(lambda run: run["its_cpu"] / (run["read"] + run["spectrum"])),
        "faster_from_arrays": median(lambda run: run["its_cpu"] / run["spectrum"]),
    }


def verdicts(rows: list[Row]) -> list[str]:
    found = []
    for row in rows:
        for key in ("faster", "faster_from_arrays"):
            met = "met" if row[key] >= GOAL else "MISSED"
            case = f"n={row['n']}, {row['trees']} trees, {row['peer']}"
            found.append(f"{case}: {key} {row[key]:.0f} times, target {GOAL}: {met}")
    return found


def main() -> None:
    torch.set_num_threads(1)
    peers = Peers("peers_trees.py")
    if peers.why_not:
        print(f"peers skipped: {peers.why_not}")
        return
    rows = []
    for n, trees in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(peers, n, trees, Path(folder))
            table(rows)
    found = verdicts(rows)
    print("\n".join(found))
    write("tree_fourier", rows, peers=peers.versions, verdicts=found)


if __name__ == "__main__":
    main()
