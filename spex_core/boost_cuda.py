"""boost on a device, a kernel for each tree: what is drawn and scaled around them.

A tree is grown on the device from its root to what its leaves predict; the host reads nothing of it
until all trees of a fit are there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _cuda, reference  # type: ignore[attr-defined]
from .backend import why_not
from .boost_start import Start, scaled, started
from .native_cuda import place
from .reference_boost import FEATURES, ROWS, Settings
from .transfers import down, up


def boost_cuda(
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
    rows = torch.cat([masks, watch]).contiguous()
    parts, staged, nodes = [], [], 0
    starts = started(values, bags, len(watch), ordered_sums)
    for j, (start, fit) in enumerate(zip(starts, settings, strict=True)):
        grower = Grower(rows, len(masks), n, start, fit, seed, j)
        staged.append(grower.run(stages))
        parts.append(grower.forest(j, nodes))
        nodes += len(parts[-1][2])
    fields = (torch.cat(x) for x in zip(*parts, strict=True))
    return (*fields, torch.stack(staged))


class Grower:
    """One fit: the trees so far, and what they leave of the values, on the device."""

    def __init__(
        self,
        rows: Tensor,
        samples: int,
        n: int,
        start: Start,
        settings: Settings,
        seed: int,
        index: int,
    ) -> None:
        self.trees, depth, leaves, min_leaf, rate, l2, self.row_share, self.feature_share = settings
        self.rows, self.samples, self.n, self.seed, self.index = rows, samples, n, seed, index
        self.start = start
        self.bag = start.inside.nonzero()[:, 0]
        self.residual = start.values - start.bias
        leaves = min(leaves, samples // min_leaf + 1, 1 << min(depth, 30))

        def memory(size: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.empty(size, dtype=dtype, device=rows.device)

        pieces = -(-n // 64)
        self.memory = [
            *(memory(_cuda.team_pieces, torch.float64), memory(leaves * _cuda.leaf_bytes // 4)),
            *(memory(leaves * 2 * n), memory(samples), memory(samples), memory(len(rows))),
            *(memory(2 * pieces, torch.float64), memory(2 * pieces)),
        ]
        most = self.trees * (2 * leaves - 1)
        self.links = [memory(most) for _ in range(3)]
        self.value = memory(most, torch.float64)
        self.nodes, self.roots = memory(1).zero_(), memory(self.trees)
        self.shared = _cuda.BoostTree(
            *(rows.data_ptr(), samples, len(rows), n, min(depth, 2**30), leaves, min_leaf),
            *(rate, l2, self.residual.data_ptr(), [x.data_ptr() for x in self.memory]),
            [x.data_ptr() for x in (*self.links, self.value, self.nodes)],
        )

    def run(self, stages: list[int]) -> Tensor:
        """All trees; the predictions for every row at each stage, (stages, rows)."""
        staged = []
        for tree in range(self.trees + 1):
            done = [s for s in stages if s == tree or (s > tree and tree == self.trees)]
            staged += [self.predicted() for _ in done]
            if tree < self.trees:
                self.add_tree(tree)
        return torch.stack(staged)

    def predicted(self) -> Tensor:
        return scaled(self.start.values - self.residual, self.start.exponent)

    def add_tree(self, tree: int) -> None:
        device = self.rows.device
        inside = torch.zeros(self.samples, dtype=torch.uint8, device=device)
        inside[self.bag[self.draw(self.start.size, self.row_share, ROWS, tree)]] = 1
        allowed = torch.zeros(self.n, dtype=torch.uint8, device=device)
        allowed[self.draw(self.n, self.feature_share, FEATURES, tree)] = 1
        root = self.roots.data_ptr() + 4 * tree
        _cuda.boost_tree(self.shared, inside.data_ptr(), allowed.data_ptr(), root, place(self.rows))

    def draw(self, size: int, share: float, stream: int, tree: int) -> Tensor:
        """reference_boost.draw, sorted on the device."""
        device = self.rows.device
        if share >= 1:
            return torch.arange(size, device=device)
        where = {"seed": self.seed, "stream": stream, "start": self.index << 32 | tree}
        keys = up(_uniform_masks(1, 64 * size, **where)[0], device)
        order = (keys ^ -(2**63)).argsort(stable=True)  # as unsigned numbers
        return order[: max(1, int(share * size + 0.5))]

    def forest(self, j: int, first: int) -> tuple[Tensor, ...]:
        """The first seven fields of ops.Boosted, with the first node as number `first`."""
        count, device = int(down(self.nodes)), self.rows.device
        feature, *children = (x[:count] for x in self.links)
        absent, present = (torch.where(x >= 0, x + first, x) for x in children)
        group = torch.full((self.trees,), j, dtype=torch.int32, device=device)
        value, bias = (
            scaled(x, self.start.exponent) for x in (self.value[:count], self.start.bias)
        )
        return self.roots + first, group, feature, absent, present, value, bias[None]


def ordered_sums(x: Tensor) -> Tensor:
    """float64 (J, T) -> the sum of each row, from the left: float64 (J,)."""
    x, out = x.contiguous(), torch.empty(len(x), dtype=torch.float64, device=x.device)
    _cuda.sum_of_spans(x.data_ptr(), *x.shape, out.data_ptr(), place(x))
    return out


def _uniform_masks(rows: int, n: int, **where: Any) -> Tensor:
    if why_not("cpu") is None:
        from .native import uniform_masks_cpu

        return uniform_masks_cpu(rows, n, **where)
    return reference.uniform_masks(rows, n, **where)
