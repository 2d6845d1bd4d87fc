"""Trees: a sum of regression trees on mask bits, and its exact Fourier spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import ops, tree_dumps
from .backend import Backend
from .errors import check, check_int
from .forest import check_forest
from .masks import pack_batch
from .transform import SparseTransform

WALK = 1 << 20  # positions, one for each mask and tree, that predict holds at a time


@dataclass(frozen=True, eq=False, repr=False)
class Trees:
    """A sum of regression trees on mask bits: f(m) = bias + the sum over trees of the value at the
    leaf that m reaches.

    Args:     n: features, at least 1.
              roots int32 (trees,); feature, absent, present int32 (nodes,); value float64 (nodes,):
              the trees, as forest.py says. bias: a finite number.
    Raises:   TypeError, ValueError if they are not as above.
    Example:  Trees.of(lightgbm.LGBMRegressor().fit(masks, values)).predict(masks)
    """

    n: int
    roots: Tensor
    feature: Tensor
    absent: Tensor
    present: Tensor
    value: Tensor
    bias: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", check_int("Trees: n", self.n, 1, 2**31 - 1))
        check_forest("Trees", *self._arrays(), self.n)
        object.__setattr__(self, "bias", float(self.bias))
        check(bool(np.isfinite(self.bias)), "Trees: bias must be finite, got {}", self.bias)

    @classmethod
    def of(cls, model: Any, n: int | None = None) -> Trees:
        """The trees of a fitted model, for its raw score: the output before any link function.

        Args:   model: of LightGBM a Booster, an LGBM* estimator or the dict of dump_model(); of
                XGBoost a Booster or an XGB* estimator; of scikit-learn a DecisionTree,
                RandomForest, ExtraTrees, GradientBoosting or HistGradientBoosting regressor.
                n: features, by default the model's, and at least those.
        Raises: TypeError for another kind of model; ValueError if it is not fitted, has more than
                one output, categorical splits, linear leaves or a start that depends on the mask.
        """
        dump = tree_dumps.read(model)
        n = dump.n if n is None else check_int("Trees.of: n", n, dump.n)
        roots, feature, absent, present, value = map(torch.from_numpy, dump.arrays())
        return cls(n, roots, feature, absent, present, value, dump.bias)

    def __len__(self) -> int:
        """How many trees."""
        return len(self.roots)

    def __repr__(self) -> str:
        return f"Trees(n={self.n}, trees={len(self)}, leaves={int((self.feature < 0).sum())})"

    def predict(self, masks: np.ndarray | Tensor) -> np.ndarray:
        """f at each mask: a NumPy float64 array (T,).

        Args:   masks: bool (T, n), NumPy or torch; or a packed int64 tensor (T, W).
        Raises: TypeError for another dtype; ValueError for another shape.
        Cost:   T trees gathers for each level of the deepest tree.
        """
        rows = pack_batch("predict", masks, self.n).cpu()
        roots, feature, absent, present, value = (x.cpu() for x in self._arrays())
        inner, here = feature >= 0, torch.arange(len(feature))
        sides = torch.stack([absent, present], 1)  # (nodes, 2)
        sides = torch.where(inner[:, None], sides, here[:, None])  # a leaf leads to itself
        asked = feature.clamp(min=0).long()
        out = torch.empty(len(rows), dtype=torch.float64)
        step = max(1, WALK // max(1, len(self)))
        for some, part in zip(rows.split(step), out.split(step), strict=True):
            at = roots.long().expand(len(some), -1)  # (step, trees)
            while inner[at].any():
                j = asked[at]
                at = sides[at, some.gather(1, j >> 6) >> (j & 63) & 1]
            part.copy_(value[at].sum(1) + self.bias)
        return out.numpy()

    def _arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.roots, self.feature, self.absent, self.present, self.value


def tree_fourier(
    trees: Any, n: int | None = None, *, limit: int | None = None, backend: Backend = "auto"
) -> SparseTransform:
    """The exact Fourier spectrum of a tree ensemble, bias included.

    Args:    trees: Trees, or a fitted model that Trees.of takes. n: features, as in Trees.of;
             Trees know theirs. limit: keep at most so many terms, those of largest |F[k]|, of
             equals the first in canonical order; the constant is one of them.
    Returns: the terms that are not exactly 0.
    Raises:  what Trees.of raises; ValueError if n is not that of the Trees, a path asks more than
             64 different features, or one tree has more than 2**24 terms.
    Cost:    ops.tree_fourier.
    Example: tree_fourier(model).top(10)
    """
    if not isinstance(trees, Trees):
        trees = Trees.of(trees, n)
    check(n in (None, trees.n), "tree_fourier: n must be that of the trees, {}, got {}", trees.n, n)
    roots, feature, absent, present, value = trees._arrays()
    bias = len(feature)  # a tree of one leaf more
    leaf = feature.new_tensor([-1])
    support, coefs = ops.tree_fourier(
        torch.cat([roots, roots.new_tensor([bias])]),
        torch.cat([feature, leaf]),
        torch.cat([absent, leaf]),
        torch.cat([present, leaf]),
        torch.cat([value, value.new_tensor([trees.bias])]),
        trees.n,
        limit=limit,
        backend=backend,
    )
    return SparseTransform.from_canonical(trees.n, support.cpu(), coefs[:, 0].cpu())
