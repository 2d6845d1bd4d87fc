"""boost: a tree is grown a level at a time on the device, and cut to its best leaves on the host.

The split of a node does not depend on when it is made, so the nodes of a level are searched
together. The host, which reads a feature and three numbers of each, then takes them best first, as
the op says. A node that is not among the first leaves - 1 of those known so far never will be, so
no level is wider than that. Values, bags and residuals stay on the device; what is read and sent
back for each tree is counted (transfers.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..boost_start import Start, scaled, started
from ..reference_boost import FEATURES, ROWS, Forest, Settings, joined
from ..transfers import down, up
from .histogram import best_splits, histograms, ordered_sums, walk
from .parity_bits import bit_columns
from .uniform_masks import uniform_masks


@dataclass(eq=False)
class Node:
    """A node of the tree that is being grown; sums are over the samples that it is fitted to."""

    count: int
    total: int  # of the residuals, as whole numbers
    depth: int
    feature: int = -1
    gain: float = 0.0
    children: tuple[Node, Node] | None = None  # without and with the feature


@dataclass
class Data:
    """What all fits share, on the device."""

    masks: Tensor  # (T + E, W): those that are fitted, then those that are only predicted
    columns: Tensor  # bits of the first T, by feature
    samples: int  # T
    n: int
    seed: int

    def tensor(self, x: list, dtype: torch.dtype) -> Tensor:
        return up(torch.tensor(x, dtype=dtype), self.masks.device)


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
    data = Data(torch.cat([masks, watch]), bit_columns(masks), len(masks), n, seed)
    forests, staged = [], []
    starts = started(values, bags, len(watch), ordered_sums)
    for j, (start, fit) in enumerate(zip(starts, settings, strict=True)):
        forest, stage = boost_one(data, start, fit, stages, j)
        forests.append(forest)
        staged.append(torch.stack(stage))
    *fields, _ = joined(forests, [0.0] * len(forests))
    bias = torch.stack([scaled(start.bias, start.exponent) for start in starts])
    return (*(up(x, masks.device) for x in fields), bias, torch.stack(staged))


def boost_one(
    data: Data, start: Start, settings: Settings, stages: list[int], index: int
) -> tuple[Forest, list[Tensor]]:
    """Fit number `index`: its trees, and its predictions for every row at each stage."""
    trees, *_, row_share, feature_share = settings
    bag = start.inside.nonzero()[:, 0]
    residual = start.values - start.bias
    most = min(8191, (2**31 - 1) // data.samples)
    forest, staged = Forest(), []
    for tree in range(trees + 1):
        done = [s for s in stages if s == tree or (s > tree and tree == trees)]
        staged += [scaled(start.values - residual, start.exponent) for _ in done]
        if tree == trees:
            break
        fitted = torch.zeros(data.samples, dtype=torch.bool, device=bag.device)
        fitted[bag[draw(data, start.size, row_share, ROWS, index, tree)]] = True
        allowed = torch.zeros(data.n, dtype=torch.int8, device=bag.device)
        allowed[draw(data, data.n, feature_share, FEATURES, index, tree)] = 1
        residual = add_tree(forest, data, residual, fitted, allowed, most, settings)
    nodes = [(*links, float(np.ldexp(value, start.exponent))) for *links, value in forest.nodes]
    return Forest(forest.roots, nodes), staged


def draw(data: Data, size: int, share: float, stream: int, index: int, tree: int) -> Tensor:
    """reference_boost.draw, on the device."""
    device = data.masks.device
    if share >= 1:
        return torch.arange(size, device=device)
    keys = uniform_masks(1, 64 * size, data.seed, stream, index << 32 | tree, device)[0]
    order = (keys ^ -(2**63)).argsort(stable=True)  # as unsigned numbers
    return order[: max(1, int(share * size + 0.5))]


def add_tree(
    forest: Forest,
    data: Data,
    residual: Tensor,
    fitted: Tensor,
    allowed: Tensor,
    most: int,
    settings: Settings,
) -> Tensor:
    """Grows one tree and returns what its predictions leave of the residual."""
    _, depth, leaves, min_leaf, rate, l2, *_ = settings
    own = residual[: data.samples].where(fitted, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        scale = most / np.float64(down(own.abs().max()).item())
    whole = (own * float(scale)).round() if np.isfinite(scale) else torch.zeros_like(own)
    whole = whole.to(torch.int32)
    high = (whole + 64) >> 7  # whole = low + 128 high, both of 8 bits
    weights = torch.stack([fitted, whole - 128 * high, high]).to(torch.int8)  # (3, T)

    root = Node(*down(torch.stack([fitted.sum(), whole.sum()])).tolist(), 0)
    level, steps = [root], 0
    while level and steps < depth:
        find_splits(data, root, level, weights, allowed, min_leaf, l2)
        taken, _ = best_first(root, leaves)
        level = [child for node in level if node in taken for child in node.children]
        steps += 1

    first = len(forest.nodes)
    add_nodes(forest, *best_first(root, leaves), rate, l2, scale)
    added = forest.nodes[first:]
    links = [(f, a - first, p - first) if f >= 0 else (-1, -1, -1) for f, a, p, _ in added]
    reached = walk(data.masks, data.tensor(links, torch.int32), steps)
    return residual - data.tensor([value for *_, value in added], torch.float64)[reached]


def find_splits(
    data: Data,
    root: Node,
    level: list[Node],
    weights: Tensor,
    allowed: Tensor,
    min_leaf: int,
    l2: float,
) -> None:
    """The best split of each node of a level, and its children where there is one."""
    links, slots = [], []
    nodes = [root]
    for node in nodes:  # grows below; a node's children get the next two numbers
        slots.append(level.index(node) if node in level else -1)
        links.append((-1, -1, -1))
        if node.children:
            links[-1] = node.feature, len(nodes), len(nodes) + 1
            nodes += node.children
    masks, steps = data.masks[: data.samples], level[0].depth
    slot = data.tensor(slots, torch.int32)[walk(masks, data.tensor(links, torch.int32), steps)]
    histogram = histograms(data.columns, weights, slot, data.n, len(level))
    totals = data.tensor([(node.count, node.total) for node in level], torch.int64)
    found = down(best_splits(histogram, totals, allowed, min_leaf, l2)).tolist()
    for node, (feature, score, count, total) in zip(level, found, strict=True):
        shrunk = float(node.total) ** 2 * l2 / ((node.count + l2) * (node.count + 2 * l2))
        node.gain = max(score / (node.count + 2 * l2) - shrunk, 0.0)
        if node.gain > 0:
            node.feature, deeper = int(feature), node.depth + 1
            present = Node(int(count), int(total), deeper)
            absent = Node(node.count - present.count, node.total - present.total, deeper)
            node.children = absent, present


def best_first(root: Node, leaves: int) -> tuple[list[Node], list[Node]]:
    """The nodes that are split, largest gain first, the older leaf on a tie; and the leaves."""
    grown, taken = [root], []
    while len(grown) < leaves:
        at = max(range(len(grown)), key=lambda i: grown[i].gain)
        if not grown[at].children:
            break
        taken.append(grown[at])
        grown[at], present = grown[at].children
        grown.append(present)
    return taken, grown


def add_nodes(
    forest: Forest, taken: list[Node], grown: list[Node], rate: float, l2: float, scale: float
) -> None:
    """A tree at the end of `forest`, its nodes numbered as they come to be."""
    forest.roots.append(forest.new_node())
    number = {id(taken[0] if taken else grown[0]): forest.roots[-1]}
    for node in taken:
        absent, present = forest.new_node(), forest.new_node()
        forest.nodes[number[id(node)]] = (node.feature, absent, present, 0.0)
        number |= {id(node.children[0]): absent, id(node.children[1]): present}
    for leaf in grown:
        if leaf.total != 0:
            value = float(rate * (leaf.total / scale) / (leaf.count + l2))
            forest.nodes[number[id(leaf)]] = (-1, -1, -1, value)
