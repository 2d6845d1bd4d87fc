"""Random trees as node arrays, and what they are, by plain Python that shares no code with ours."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

Forest = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # roots, feature, absent, present, value


def grow(trees: int, depth: int, n: int, *, seed: int = 0, pool: int = 0, floats=False) -> Forest:
    """Trees of at most `depth`, a fifth of the nodes above it leaves, with nodes in random order
    and some of no tree.

    Features are uniform, or from `pool` of them, and may be asked twice on a path. Leaves are whole
    numbers in [-9, 9], or Gaussian.
    """
    rng = np.random.default_rng([trees, depth, n, seed])
    features = rng.choice(n, pool, replace=False) if pool else np.arange(n)
    nodes: list[list[float]] = [[-1, -1, -1, 7.0]]  # of no tree

    def make(level: int) -> int:
        here = len(nodes)
        nodes.append([])
        if level == depth or (level > 0 and rng.random() < 0.2):
            nodes[here] = [-1, -1, -1, rng.normal() if floats else rng.integers(-9, 10)]
        else:
            nodes[here] = [rng.choice(features), make(level + 1), make(level + 1), 0.0]
        return here

    roots = np.array([make(0) for _ in range(trees)], np.int64)
    place = rng.permutation(len(nodes))
    table = np.array(nodes, np.float64)[np.argsort(place)]
    links = table[:, :3].astype(np.int64)
    links[:, 1:] = np.where(links[:, 1:] < 0, -1, place[links[:, 1:]])
    columns = (torch.tensor(column, dtype=torch.int32) for column in (place[roots], *links.T))
    return *columns, torch.tensor(table[:, 3])


def chain(features: list[int], leaves: list[float]) -> Forest:
    """One tree: where features[i] is absent, the value is leaves[i]; where all are present, the
    last."""
    d = len(features)
    inner, leaf = range(d), range(d, 2 * d + 1)
    filler = [-1] * (d + 1)
    columns = ([0], [*features, *filler], [*leaf[:d], *filler], [*inner[1:], leaf[d], *filler])
    value = torch.tensor([0.0] * d + list(leaves), dtype=torch.float64)
    return *(torch.tensor(column, dtype=torch.int32) for column in columns), value


def join(*forests: Forest) -> Forest:
    """The trees of all, in order."""
    starts = np.cumsum([0] + [len(forest[1]) for forest in forests]).tolist()
    moved = [
        (roots + start, feature, *(torch.where(x < 0, x, x + start) for x in links), value)
        for start, (roots, feature, *links, value) in zip(starts, forests, strict=False)
    ]
    return tuple(torch.cat(parts) for parts in zip(*moved, strict=True))


def values(forest: Forest, masks: np.ndarray) -> np.ndarray:
    """Each tree at each mask, one step at a time: (trees, T)."""
    roots, feature, absent, present, value = (x.tolist() for x in forest)
    out = np.zeros((len(roots), len(masks)))
    for (i, node), (t, mask) in itertools.product(enumerate(roots), enumerate(masks.tolist())):
        while feature[node] >= 0:
            node = present[node] if mask[feature[node]] else absent[node]
        out[i, t] = value[node]
    return out


def all_masks(n: int) -> np.ndarray:
    """bool (2**n, n): row i is the bits of i."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def signs(masks: np.ndarray, sets: list[tuple[int, ...]]) -> np.ndarray:
    """(-1)**<k, m>: (T, S)."""
    counts = [masks[:, list(k)].sum(1) for k in sets]
    return 1.0 - 2.0 * (np.array(counts).reshape(len(sets), len(masks)).T % 2)
