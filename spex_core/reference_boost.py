"""Gradient boosting on mask bits, in plain NumPy: the specification of ops.boost.

Everything that decides about a split is exact (sums of whole numbers, then the same few float64
operations), so that every backend grows the same trees.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import reference

ROWS, FEATURES = 3, 4  # streams of random words
Settings = tuple[int, int, int, int, float, float, float, float]


@dataclass
class Forest:
    """The trees of one fit; a node is (feature, absent, present, value)."""

    roots: list[int] = field(default_factory=list)
    nodes: list[tuple[int, int, int, float]] = field(default_factory=list)

    def new_node(self) -> int:
        self.nodes.append((-1, -1, -1, 0.0))
        return len(self.nodes) - 1


@dataclass
class Leaf:
    """A leaf of the tree that is being grown, with its best split."""

    node: int
    depth: int
    rows: np.ndarray  # bool: all that reach it, fitted or not
    feature: int = -1
    gain: float = 0.0


def boost(
    masks: Tensor,
    values: Tensor,
    n: int,
    bags: Tensor,
    watch: Tensor,
    settings: list[Settings],
    stages: list[int],
    seed: int,
) -> tuple[Tensor, ...]:
    """The fields of ops.Boosted, from the arguments of ops.boost after its checks."""
    bits = bit_table(torch.cat([masks, watch]), n)  # (T + E, n)
    inside = bit_table(bags, len(masks))  # (J, T)
    forests, bias, staged = [], [], []
    for j, fit in enumerate(settings):
        forest, mean, stage = boost_one(bits, values[j].numpy(), inside[j], fit, stages, seed, j)
        forests.append(forest)
        bias.append(mean)
        staged.append(np.stack(stage))
    return (*joined(forests, bias), torch.from_numpy(np.stack(staged)))


def joined(forests: list[Forest], bias: list[float]) -> tuple[Tensor, ...]:
    """The fields of ops.Boosted but the last: nodes numbered through, a fit's before the next's."""
    roots: list[int] = []
    group: list[int] = []
    nodes: list[tuple[int, int, int, float]] = []
    for j, forest in enumerate(forests):
        first = len(nodes)
        roots += [first + root for root in forest.roots]
        group += [j] * len(forest.roots)
        nodes += [
            (f, a + first if a >= 0 else a, p + first if p >= 0 else p, value)
            for f, a, p, value in forest.nodes
        ]
    integers = [torch.tensor(x, dtype=torch.int32) for x in (roots, group)]
    integers += [torch.tensor([node[i] for node in nodes], dtype=torch.int32) for i in range(3)]
    doubles = [torch.tensor(x, dtype=torch.float64) for x in ([node[3] for node in nodes], bias)]
    return (*integers, *doubles)


def bit_table(packed: Tensor, n: int) -> np.ndarray:  # (rows, W) -> bool (rows, n)
    as_bytes = packed.contiguous().numpy().view(np.uint8)
    return np.unpackbits(as_bytes, axis=1, count=n, bitorder="little").view(np.bool_)


def boost_one(
    bits: np.ndarray,
    values: np.ndarray,
    inside: np.ndarray,
    settings: Settings,
    stages: list[int],
    seed: int,
    index: int,
) -> tuple[Forest, float, list[np.ndarray]]:
    """Fit number `index`: its trees, its bias and its predictions for every row at each stage."""
    trees, *_, row_share, feature_share = settings
    bag = np.flatnonzero(inside)
    exponent = np.frexp(np.abs(values[bag]).max())[1]
    target = np.zeros(len(bits))
    target[bag] = np.ldexp(values[bag], -exponent)
    bias = np.cumsum(target[bag])[-1] / len(bag)
    residual = target - bias
    most = min(8191, (2**31 - 1) // len(values))
    forest, staged = Forest(), []
    for tree in range(trees + 1):
        done = [s for s in stages if s == tree or (s > tree and tree == trees)]
        staged += [np.ldexp(target - residual, exponent) for _ in done]
        if tree == trees:
            break
        fitted = bag[draw(len(bag), row_share, seed, ROWS, index, tree)]
        features = draw(bits.shape[1], feature_share, seed, FEATURES, index, tree)
        allowed = np.isin(np.arange(bits.shape[1]), features)
        add_tree(forest, bits, residual, fitted, allowed, most, settings)
    scaled = [(a, b, c, float(np.ldexp(value, exponent))) for a, b, c, value in forest.nodes]
    return Forest(forest.roots, scaled), float(np.ldexp(bias, exponent)), staged


def draw(size: int, share: float, seed: int, stream: int, index: int, tree: int) -> np.ndarray:
    """Of `size` things share * size, rounded, at least one: those with the least random words."""
    if share >= 1:
        return np.arange(size)
    start = index << 32 | tree
    keys = reference.uniform_masks(1, 64 * size, seed=seed, stream=stream, start=start)
    order = np.argsort(keys[0].numpy().view(np.uint64), kind="stable")
    return order[: max(1, int(share * size + 0.5))]


def add_tree(
    forest: Forest,
    bits: np.ndarray,
    residual: np.ndarray,
    fitted: np.ndarray,
    allowed: np.ndarray,
    most: int,
    settings: Settings,
) -> None:
    """Grows one tree, best leaf first, and subtracts its predictions from `residual`."""
    _, depth, leaves, min_leaf, rate, l2, *_ = settings
    largest = np.abs(residual[fitted]).max()
    with np.errstate(divide="ignore", over="ignore"):
        scale = most / largest
    q = np.zeros(len(bits))  # whole numbers, 0 where not fitted
    count = np.zeros(len(bits), np.bool_)
    count[fitted] = True
    if np.isfinite(scale):
        q[fitted] = np.rint(residual[fitted] * scale)

    def leaf_of(node: int, depth_of: int, rows: np.ndarray) -> Leaf:
        leaf = Leaf(node, depth_of, rows)
        if depth_of < depth:
            at = rows & count
            leaf.feature, leaf.gain = best_split(bits[at], q[at], allowed, min_leaf, l2)
        return leaf

    forest.roots.append(forest.new_node())
    grown = [leaf_of(forest.roots[-1], 0, np.ones(len(bits), np.bool_))]
    while len(grown) < leaves:
        at = max(range(len(grown)), key=lambda i: grown[i].gain)  # the older leaf on a tie
        leaf = grown[at]
        if leaf.gain <= 0:
            break
        absent, present = forest.new_node(), forest.new_node()
        forest.nodes[leaf.node] = (leaf.feature, absent, present, 0.0)
        column = bits[:, leaf.feature]
        grown[at] = leaf_of(absent, leaf.depth + 1, leaf.rows & ~column)
        grown.append(leaf_of(present, leaf.depth + 1, leaf.rows & column))

    for leaf in grown:
        total, number = q[leaf.rows].sum(), (leaf.rows & count).sum()
        if total != 0:
            value = rate * (total / scale) / (number + l2)
            forest.nodes[leaf.node] = (-1, -1, -1, value)
            residual[leaf.rows] -= value


def best_split(
    bits: np.ndarray, q: np.ndarray, allowed: np.ndarray, min_leaf: int, l2: float
) -> tuple[int, float]:
    """The feature that lowers the squared error most, the first on a tie, and by how much; the gain
    is 0 where none does. bits (samples, n) and q (samples,) are those of the leaf.
    """
    count, total = len(q), q.sum()
    c1, s1 = bits.sum(0), q @ bits
    w1, w0 = c1 + l2, count - c1 + l2
    apart = s1 * w0 - (total - s1) * w1
    may = allowed & (c1 >= min_leaf) & (count - c1 >= min_leaf)
    score = np.where(may, apart * apart / np.where(may, w0 * w1, 1.0), 0.0)
    feature = int(score.argmax())
    shrunk = total * total * l2 / ((count + l2) * (count + 2 * l2)) if count else 0.0
    gain = score[feature] / (count + 2 * l2) - shrunk if may[feature] else 0.0
    return feature, max(gain, 0.0)
