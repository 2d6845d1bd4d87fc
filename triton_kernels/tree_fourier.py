"""tree_fourier: the spectra of all trees at once, a level at a time.

On the way down the nodes of each level are listed, with the features asked above them. On the way
up a spectrum is a list of terms, each with the node that it is of, and the terms of a node come
from those of its two sides by sorting. At the roots equal terms of all trees are added up in the
order of the trees, which one kernel does; the rest is torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import check
from ..transfers import down
from . import on_device_of

MOST_PATH = 64  # different features on one path
MOST_TERMS = 1 << 24  # of one tree
BLOCK = 128  # runs that a program adds up


@triton.jit
def _sum_runs_kernel(x_ptr, first_ptr, out_ptr, runs, BLOCK: tl.constexpr):
    """out[r]: x[first[r]] + ... + x[first[r + 1] - 1], from the left."""
    r = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    inside = r < runs
    first = tl.load(first_ptr + r, mask=inside, other=0)
    count = tl.load(first_ptr + r + 1, mask=inside, other=0) - first
    total = tl.zeros((BLOCK,), tl.float64)
    for i in range(tl.max(count, axis=0)):
        total += tl.load(x_ptr + first + i, mask=i < count, other=0.0)
    tl.store(out_ptr + r, total, mask=inside)


@dataclass(frozen=True)
class Level:
    """Nodes at one depth, below those that ask what is known already.

    Attributes:
        tree: int64 (F,). node: int64 (F,). feature: int64 (F,), -1 at a leaf.
    """

    tree: Tensor
    node: Tensor
    feature: Tensor


@dataclass(frozen=True)
class Terms:
    """Terms of the spectra of the nodes of a level.

    Attributes:
        at: int64 (N,), whose. sets: int32 (N, w), features ascending, n beyond the last.
        coefs: float64 (N,).
    """

    at: Tensor
    sets: Tensor
    coefs: Tensor

    def __getitem__(self, rows: Tensor) -> Terms:
        return Terms(self.at[rows], self.sets[rows], self.coefs[rows])


def tree_fourier(
    roots: Tensor,
    feature: Tensor,
    absent: Tensor,
    present: Tensor,
    value: Tensor,
    n: int,
    group: Tensor | None,
    groups: int,
    limit: int | None,
) -> tuple[Tensor, Tensor]:
    levels = walk_down(roots, feature, absent, present)
    terms = of_leaves(levels[-1], value, n)
    for level in levels[-2::-1]:
        leaves = of_leaves(level, value, n)
        terms = joined(level, terms, n)
        pad = (0, terms.sets.shape[1])
        leaves = Terms(leaves.at, torch.nn.functional.pad(leaves.sets, pad, value=n), leaves.coefs)
        terms = Terms(*(torch.cat(x) for x in zip(fields(terms), fields(leaves), strict=True)))
        check_size(level, terms)
    columns = torch.zeros_like(roots) if group is None else group
    sets, coefs = added_up(terms, columns.long(), groups, n)
    if limit is not None and limit < len(coefs):
        kept = largest(coefs, limit)
        sets, coefs = sets[kept], coefs[kept]
    return packed(sets, n), coefs


def fields(terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
    return terms.at, terms.sets, terms.coefs


def walk_down(roots: Tensor, feature: Tensor, absent: Tensor, present: Tensor) -> list[Level]:
    """The nodes of each depth; the two sides of the splits of a level, the one without the feature
    first, are the next one."""
    links = torch.stack([absent, present], 1).long()  # (nodes, 2)
    feature = feature.long()
    tree, node = torch.arange(len(roots), device=roots.device), roots.long()
    asked = node.new_empty(len(node), 0)  # the features above, and the sides taken
    sides = asked
    levels = []
    while True:
        node = followed(node, feature, links, asked, sides)
        level = Level(tree, node, feature[node])
        levels.append(level)
        split = (level.feature >= 0).nonzero()[:, 0]
        if not len(split):
            return levels
        check(
            asked.shape[1] < MOST_PATH,
            "tree_fourier: trees must ask at most {} features on a path, got more",
            MOST_PATH,
        )
        tree = tree[split].repeat_interleave(2)
        side = torch.arange(len(tree), device=tree.device) % 2
        asked = torch.cat([asked[split], level.feature[split, None]], 1).repeat_interleave(2, 0)
        sides = torch.cat([sides[split].repeat_interleave(2, 0), side[:, None]], 1)
        node = links[node[split]].flatten()


def followed(node: Tensor, feature: Tensor, links: Tensor, asked: Tensor, sides: Tensor) -> Tensor:
    """The nodes, or those below them on the known side where a feature was asked above."""
    while asked.shape[1]:
        known = asked == feature[node][:, None]  # (F, depth)
        again = known.any(1)
        if not bool(again.any()):
            break
        side = (known * sides).sum(1)
        node = torch.where(again, links[node, side], node)
    return node


def of_leaves(level: Level, value: Tensor, n: int) -> Terms:
    """The constants of the leaves of a level, those of 0 left out."""
    at = ((level.feature < 0) & (value[level.node] != 0)).nonzero()[:, 0]
    sets = torch.empty(len(at), 0, dtype=torch.int32, device=at.device)
    return Terms(at, sets, value[level.node[at]])


def joined(level: Level, below: Terms, n: int) -> Terms:
    """The spectra at the splits of a level from those of their sides: half the sum, and half the
    difference with the feature joined to each set."""
    split = (level.feature >= 0).nonzero()[:, 0]
    words = as_words(below.sets, n)
    order = below.at.argsort(stable=True)  # of equal sets the side without the feature first
    order = sorted_by(order, [*words, below.at // 2])
    below, words = below[order], [word[order] for word in words]
    fresh = starts([*words, below.at // 2])
    first = fresh.nonzero()[:, 0]
    second = (first + 1).clamp(max=max(0, len(fresh) - 1))
    twice = ~fresh[second] & (second > first)
    half = 0.5 * below.coefs
    here, there = half[first], torch.where(twice, half[second], 0.0)
    without = below.at[first] % 2 == 0
    a, b = torch.where(without, here, 0.0), torch.where(without, there, here)
    at, sets = split[below.at[first] // 2], below.sets[first]
    more = level.feature[at].to(torch.int32)[:, None]
    sets = torch.cat(
        [torch.cat([sets, torch.full_like(more, n)], 1), torch.cat([sets, more], 1).sort(1)[0]]
    )
    coefs = torch.cat([a + b, a - b])
    kept = coefs.nonzero()[:, 0]
    return Terms(at.repeat(2), sets, coefs)[kept]


def check_size(level: Level, terms: Terms) -> None:
    if len(terms.at) > MOST_TERMS:
        most = int(torch.bincount(level.tree[terms.at]).max())
        check(
            most <= MOST_TERMS,
            "tree_fourier: trees must have at most 2**24 terms each, got {}",
            most,
        )


def added_up(terms: Terms, columns: Tensor, groups: int, n: int) -> tuple[Tensor, Tensor]:
    """Equal sets of all trees, the coefficients of tree i added to column columns[i], in the
    canonical order: int32 (S, w), float64 (S, groups); those of 0 left out."""
    keys = [*as_words(terms.sets, n), (terms.sets < n).sum(1)]
    group = columns[terms.at]
    order = sorted_by(terms.at.argsort(stable=True), [group, *keys])
    keys, group = [key[order] for key in keys], group[order]
    new_term, new_run = starts(keys), starts([group, *keys])
    first = new_run.nonzero()[:, 0]
    sums = run_sums(terms.coefs[order], first)
    row = new_term.cumsum(0) - 1
    sets = terms.sets[order[new_term]]
    coefs = sums.new_zeros(len(sets), groups)
    coefs[row[first], group[first]] = sums
    kept = (coefs != 0).any(1)
    return sets[kept], coefs[kept]


def run_sums(x: Tensor, first: Tensor) -> Tensor:
    """Sums of the runs of x that begin at `first`, each from the left."""
    ends = torch.cat([first, first.new_full((1,), len(x))])
    out = torch.empty(len(first), dtype=torch.float64, device=x.device)
    if len(first):
        with on_device_of(x):
            grid = (triton.cdiv(len(first), BLOCK),)
            _sum_runs_kernel[grid](x, ends, out, len(first), BLOCK=BLOCK)
    return out


def largest(coefs: Tensor, limit: int) -> Tensor:
    """Rows of the largest norms, the first of equals, ascending."""
    most = float(down(coefs.abs().max()))
    scaled = coefs * 2.0 ** -max(math.frexp(most)[1] - 1, -1000)  # the squares are in range
    norms = torch.zeros_like(coefs[:, 0])
    for column in scaled.T:
        norms = norms + column * column
    return norms.argsort(descending=True, stable=True)[:limit].sort()[0]


def as_words(sets: Tensor, n: int) -> list[Tensor]:
    """Sets as a few whole numbers, the least significant first, that order as their features do."""
    if not sets.shape[1]:
        return []
    bits = n.bit_length()
    each = 63 // bits
    shifts = bits * torch.arange(each - 1, -1, -1, device=sets.device)
    parts = torch.nn.functional.pad(sets.long(), (0, -sets.shape[1] % each), value=n)
    return [(part << shifts).sum(1) for part in parts.split(each, 1)][::-1]


def sorted_by(order: Tensor, keys: list[Tensor]) -> Tensor:
    """`order` sorted by keys, the last one first; equal ones stay as they are."""
    for key in keys:
        order = order[key[order].argsort(stable=True)]
    return order


def starts(keys: list[Tensor]) -> Tensor:
    """Where, in sorted rows, one differs from that before it: bool (N,)."""
    fresh = torch.zeros_like(keys[0], dtype=torch.bool)
    fresh[:1] = True
    for key in keys:
        fresh[1:] |= key[1:] != key[:-1]
    return fresh


def packed(sets: Tensor, n: int) -> Tensor:
    """int32 (S, w) -> int64 (S, ceil(n / 64))."""
    out = torch.zeros(len(sets), -(-n // 64), dtype=torch.int64, device=sets.device)
    for feature in sets.long().T:  # (S,); of different features, so bits add up
        bit = torch.where(feature < n, torch.ones_like(feature) << feature % 64, 0)
        out.scatter_add_(1, feature.clamp(max=n - 1)[:, None] // 64, bit[:, None])
    return out
