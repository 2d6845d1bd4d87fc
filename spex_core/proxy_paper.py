"""Stage 3' of ProxySPEX as published: a grid of boosted trees by five-fold cross-validation, the
terms that hold 95 % of the energy of the best, plain ridge regression on them.

Source: Butler et al. 2025 (arXiv 2505.17495), section 3.3, with the grid of its authors' and
shapiq's code.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .proxy import ProxyFit
from .ridge import leave_one_out, one_thread, ridge
from .transform import r2

FOLDS = 5  # of consecutive samples
RATES, TREES = (0.01, 0.1), (500, 1000)
LEAVES, MIN_LEAF = 31, 20  # LightGBM's defaults
ENERGY = 0.95
LEVELS = torch.logspace(-6, 6, 100, dtype=torch.float64)


def fit_paper(masks: Tensor, values: Tensor, n: int, *, degree: int) -> list[ProxyFit]:
    """Each output by itself: masks packed int64 (T, W), values float64 (q, T)."""
    return [_fit(masks, y, n, degree) for y in values]


def _fit(masks: Tensor, y: Tensor, n: int, degree: int) -> ProxyFit:
    grid = list(itertools.product(RATES, (max(1, degree - 2), degree)))
    part = np.array_split(np.arange(len(y)), FOLDS)
    inside = np.stack([~np.isin(np.arange(len(y)), out) for out in part])  # (folds, T)
    folds = [
        tuple(map(torch.from_numpy, (np.flatnonzero(rows), out)))
        for rows, out in zip(inside, part, strict=True)
    ]
    forest = _boost(masks, y, n, np.tile(inside, (len(grid), 1)), np.repeat(grid, FOLDS, axis=0))
    with one_thread():  # many small steps: a second thread costs more than it does
        staged = forest.staged.unflatten(0, (len(grid), FOLDS))  # (grid, folds, stages, T)
        best, stage = _best(staged, y, folds)
        supports = _supports(forest, range(FOLDS * best, FOLDS * (best + 1)), TREES[stage], n)
        whole = _boost(masks, y, n, np.ones((1, len(y)), np.bool_), [grid[best]])
        [support] = _supports(whole, range(1), TREES[stage], n)
        fit = leave_one_out(masks, y, support, LEVELS)
        single = _single_features(n)
        level = leave_one_out(masks, y, single, LEVELS).level
        r2_ = _out_of_fold(masks, y, folds, supports, fit.level)
        r2_linear = _out_of_fold(masks, y, folds, [single] * FOLDS, level)
    rate, depth = grid[best]
    return ProxyFit(
        support,
        fit.coefs,
        r2=r2_,
        r2_linear=r2_linear,
        left_out=len(y),
        effective=fit.effective,
        note=f"{TREES[stage]} trees of depth {depth:.0f} at rate {rate}, terms with {ENERGY:.0%} "
        "of their energy",
    )


def _best(staged: Tensor, y: Tensor, folds: list[tuple[Tensor, Tensor]]) -> tuple[int, int]:
    """The point of the grid and the stage of best mean R2 over the folds, the first of equals.

    staged: float64 (grid, folds, stages, T). folds: rows inside and outside.
    """
    truth, fit = y.numpy(), staged.numpy()
    scores = [
        np.mean([r2(truth[out], fit[i, k, s, out]) for k, (_, out) in enumerate(folds)])
        for i, s in np.ndindex(fit.shape[0], fit.shape[2])
    ]
    return divmod(int(np.argmax(scores)), fit.shape[2])


def _out_of_fold(
    masks: Tensor,
    y: Tensor,
    folds: list[tuple[Tensor, Tensor]],
    supports: list[Tensor],
    level: float,
) -> float:
    """R2 on the samples left out of ridge regressions, on a support for each fold."""
    truth, fitted = [], []
    for support, (rows, out) in zip(supports, folds, strict=True):
        one = torch.ones(len(support), dtype=torch.float64)
        fit = ridge(masks[rows], y[rows], support, one, level, trace=False)
        truth.append(y[out].numpy())
        fitted.append(ops.parity_predict(masks[out], support, fit.coefs).numpy())
    return r2(np.concatenate(truth), np.concatenate(fitted))


def _boost(
    masks: Tensor, y: Tensor, n: int, bags: np.ndarray, grid: list[tuple[float, int]] | np.ndarray
) -> ops.Boosted:
    """A fit for each bag, bool (J, T), at its rate and depth."""
    return ops.boost(
        masks,
        y,
        n,
        bags=bits.pack(bags),
        rate=[float(rate) for rate, _ in grid],
        depth=[int(depth) for _, depth in grid],
        trees=TREES[-1],
        leaves=LEAVES,
        min_leaf=MIN_LEAF,
        stages=TREES,
    )


def _supports(forest: ops.Boosted, fits: range, trees: int, n: int) -> list[Tensor]:
    """The largest terms of the first `trees` trees of each fit: packed int64 (S, W)."""
    group = forest.group - fits.start
    place = torch.arange(len(group)) - torch.searchsorted(group, group)  # of a tree in its fit
    own = (group >= 0) & (group < len(fits)) & (place < trees)
    nodes = forest.feature, forest.absent, forest.present, forest.value
    support, coefs = ops.tree_fourier(
        forest.roots[own], *nodes, n, group=group[own], groups=len(fits)
    )
    bias = forest.bias[fits.start : fits.stop]
    return [_cut(support, column, constant) for column, constant in zip(coefs.T, bias, strict=True)]


def _cut(support: Tensor, coefs: Tensor, bias: Tensor) -> Tensor:
    """The terms (S, W) above the first one after 95 % of the energy, the constant's apart."""
    varying = (support != 0).any(1)
    constant = coefs[~varying].sum() + bias  # no term where it is exactly zero
    there = varying & (coefs != 0)
    support, coefs = support[there], coefs[there]
    energy, zero = coefs.square(), torch.zeros(1, support.shape[1], dtype=torch.int64)
    if not len(coefs):  # no tree has split
        return zero
    largest = energy.sort(descending=True).values
    held = largest.cumsum(0)
    after = int((held >= ENERGY * held[-1]).long().argmax()) + 1
    least = float(largest[after]) if after < len(largest) else -1.0
    support = support[energy > least]
    return torch.cat([zero, support]) if constant.square() > least or not len(support) else support


def _single_features(n: int) -> Tensor:
    """{}, {0}, {1}, ...: packed int64 (n + 1, W)."""
    return bits.pack(np.eye(n + 1, n, -1, dtype=np.bool_))
