"""The choices of ProxySPEX's default fit (proxy.Recipe), measured on real value functions.

    SPEX_GAMES=shared/games python bench/bench_refit.py [name ...]

Each line changes one choice. R2 on unseen masks, mean over all games that have so many samples, at
n, 2 n and 4 n log2 n samples (at least 16, at most 3,000) and at 300; `worst` is the largest loss
against the chosen recipe on one game and number of samples, `cpu` the mean seconds of a fit, one
thread. `leave-one-out` takes the ridge level of least leave-one-out error among those of the path,
in closed form, instead of the one that is best on samples left out of the trees. `the better of two
fits` mixes no share of a linear one in; `hedge at` wants more of it, or less. Half an hour.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from dataclasses import asdict, replace

import games
import numpy as np
import torch
from harness import HERE, Row, table, write

from spex_core import masks as bits
from spex_core import ops, proxy
from spex_core.hedge import Hedge
from spex_core.left_out import LEVELS
from spex_core.proxy import DEFAULT, Recipe, fit_default
from spex_core.ridge import Fit, ridge, signs
from spex_core.transform import SparseTransform

VARIANTS: dict[str, Recipe] = {
    "chosen": DEFAULT,
    "folds 4": replace(DEFAULT, folds=(4, 4)),
    "folds 8": replace(DEFAULT, folds=(8, 8)),
    "priors compared on 2 folds": replace(DEFAULT, compared_folds=2),
    "depths 1 less, as asked": replace(DEFAULT, depths=(1, 0)),
    "depth as asked": replace(DEFAULT, depths=(0,)),
    "trees 150": replace(DEFAULT, trees=150),
    "rate 0.05": replace(DEFAULT, rate=0.05),
    "leaves 32, trees 150": replace(DEFAULT, leaves=32, trees=150),
    "leaves 8": replace(DEFAULT, leaves=8),
    "min_leaf 2": replace(DEFAULT, min_leaf=2),
    "min_leaf 10": replace(DEFAULT, min_leaf=10),
    "terms 512": replace(DEFAULT, candidates=512),
    "terms 2 T": replace(DEFAULT, candidates=2048, share=2.0),
    "exponent 1": replace(DEFAULT, exponent=1.0),
    "exponent 1.5": replace(DEFAULT, exponent=1.5),
    "best prior alone": replace(DEFAULT, temperature=0.0),
    "temperature 4": replace(DEFAULT, temperature=4.0),
    "the better of two fits": replace(DEFAULT, hedge=None),
    "hedge at 0.1": replace(DEFAULT, hedge=Hedge(0.1)),
    "hedge at 0.34": replace(DEFAULT, hedge=Hedge(0.34)),
    "leave-one-out": DEFAULT,
}
KINDS = {
    "n": lambda n: max(16, n),
    "2 n": lambda n: max(16, 2 * n),
    "4 n log2 n": lambda n: min(3000, int(4 * n * math.log2(n))),
    "300": lambda n: 300,
}


def leave_one_out_ridge(masks, values, support, variance, level, *, trace=True) -> Fit:
    """ridge() at the level of least leave-one-out error, by eigenvalues."""
    x = signs(ops.parity_bits(masks, support), len(masks)).double() * variance.sqrt()[:, None]
    root, turn = torch.linalg.eigh(x.T @ x)  # (T,), (T, T)
    inverse = 1 / (root.clamp_min(0)[:, None] + LEVELS)
    errors = (turn @ (inverse * (turn.T @ values)[:, None])) / (turn.square() @ inverse)
    best = float(LEVELS[errors.square().sum(0).argmin()])
    return ridge(masks, values, support, variance, best, trace=trace)


def measure(variant: str) -> dict[tuple[str, str], tuple[float, float]]:
    """R2 and CPU seconds by (kind of budget, game)."""
    proxy.ridge = leave_one_out_ridge if variant == "leave-one-out" else ridge
    out = {}
    for name in games.names():
        n, (masks, values), (test, truth) = games.samples(name, 0)
        packed, unseen = bits.pack(masks), bits.pack(test)
        for kind, count in KINDS.items():
            T = count(n)
            if len(masks) < T or values[:T].std() == 0:
                continue
            y = torch.from_numpy(values[:T])[None]
            start = time.process_time()
            found = fit_default(packed[:T], y, n, degree=5, recipe=VARIANTS[variant])[0]
            spent = time.process_time() - start
            r2 = SparseTransform(n, found.support, found.coefs).score(unseen, truth)
            out[kind, name] = r2, spent
    return out


def main() -> None:
    torch.set_num_threads(1)
    there = {row["recipe"]: row for row in before()}
    chosen = measure("chosen")
    for variant in sys.argv[1:] or VARIANTS:
        found = chosen if variant == "chosen" else measure(variant)
        row = {"recipe": variant}
        for kind in KINDS:
            row[kind] = statistics.mean(r2 for (k, _), (r2, _) in found.items() if k == kind)
        row["mean"] = statistics.mean(row[kind] for kind in KINDS)
        losses = np.array([chosen[key][0] - found[key][0] for key in found])
        row |= {"worst": float(losses.max()), "lost 0.005 on": int((losses > 0.005).sum())}
        row["gained 0.005 on"] = int((losses < -0.005).sum())
        row["cpu"] = statistics.mean(cpu for _, cpu in found.values())
        table([row])
        there[variant] = row
        rows = [there[name] for name in VARIANTS if name in there]
        write("refit", rows, cases=len(chosen), recipe=asdict(DEFAULT))
    table(rows, f"R2 on unseen masks, {len(chosen)} games and numbers of samples")


def before() -> list[Row]:
    """The rows of the file that is there, which a run of a few recipes keeps."""
    path = HERE / "results" / "refit.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


if __name__ == "__main__":
    main()
