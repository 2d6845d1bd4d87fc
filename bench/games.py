"""Real value functions that can be asked for any mask, from a folder of games.

The folder is named by SPEX_GAMES, else it is ../shared/games beside the repository; its README.md
has the format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ.get("SPEX_GAMES", Path(__file__).parents[2] / "shared" / "games"))
BLOCK = 4096  # masks at a time, for those that make large intermediates

MOST_FIT, MOST_TEST = 3000, 4000

Function = Callable[[np.ndarray], np.ndarray]
Samples = tuple[np.ndarray, np.ndarray]  # bool (T, n) masks and their values


def names() -> list[str]:
    """The games in the folder, those without a function too; empty where there is no folder."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def load(name: str) -> tuple[int, Function | None]:
    """n and the function, bool masks (T, n) -> float64 (T,); None where only samples are there."""
    with np.load(FOLDER / f"{name}.npz") as file:
        z = dict(file)
    n, meta = int(z["n"]), json.loads(str(z["meta"]))
    if meta["kind"] == "full":
        table = z["values"].astype(float)
        return n, lambda x: table[np.asarray(x, np.int64) @ (1 << np.arange(n))]
    make = {"mlp": mlp, "forest": forest, "knn": knn, "ridge": ridge}.get(meta.get("callable"))
    return n, make and blockwise(make, z)


def samples(name: str, seed: int) -> tuple[int, Samples, Samples]:
    """n, up to 3,000 (masks, values) to fit in an order that the seed shuffles, of which any first
    part may be taken, and those to test on.

    Of a table three quarters of the masks at most are to fit, and up to 4,000 of the rest to test.
    """
    with np.load(FOLDER / f"{name}.npz") as file:
        z = dict(file)
    n = int(z["n"])
    rng = np.random.default_rng(seed)
    if json.loads(str(z["meta"]))["kind"] == "full":
        order, table = rng.permutation(1 << n), z["values"].astype(float)
        fit = min(MOST_FIT, 3 << n - 2)
        parts = order[:fit], order[fit:][:MOST_TEST]
        return n, *(
            ((part[:, None] >> np.arange(n) & 1).astype(bool), table[part]) for part in parts
        )
    masks = {
        part: np.unpackbits(z[f"{part}_masks"], axis=1, count=n, bitorder="little").astype(bool)
        for part in ("train", "test")
    }
    values = z["train_values"].astype(float)
    order = rng.permutation(len(values))[:MOST_FIT]
    test = masks["test"], z["test_values"].astype(float)
    return n, (masks["train"][order], values[order]), test


def blockwise(make: Callable, z: dict[str, np.ndarray]) -> Function:
    def function(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.bool_)
        parts = [make(z, x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)]
        return np.concatenate([np.zeros(0), *parts])

    return function


def mlp(z: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    a = np.maximum(x @ z["W0"] + z["b0"], 0)
    return (np.maximum(a @ z["W1"] + z["b1"], 0) @ z["W2"] + z["b2"])[:, 0]


def forest(z: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """All trees one step deeper at a time, until every path has reached its leaf."""
    node = np.repeat(z["root"][None], len(x), axis=0)  # (T, trees)
    while (inner := z["feature"][node] >= 0).any():
        rows, trees = np.nonzero(inner)
        at = node[rows, trees]
        kept = x[rows, z["feature"][at]]
        node[rows, trees] = np.where(kept, z["kept"][at], z["masked"][at])
    return float(z["bias"]) + float(z["scale"]) * z["value"][node].sum(1, dtype=float)


def knn(z: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    out = np.zeros(len(x))
    for order, match in zip(z["order"], z["match"], strict=True):
        kept = x[:, order]
        out += (kept & (kept.cumsum(1) <= z["k"]) & match).sum(1) / z["k"]
    return out / len(z["order"])


def ridge(z: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    a, y = z["A"].astype(float), z["y"].astype(float)
    gram = np.einsum("tn,ni,nj->tij", x.astype(float), a, a, optimize=True)
    gram += 0.1 * np.eye(a.shape[1])
    right = (x * y) @ a  # (T, d)
    return np.linalg.solve(gram, right[..., None])[..., 0] @ z["x"].astype(float)
