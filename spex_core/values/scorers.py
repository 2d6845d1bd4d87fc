"""From a model's outputs to values: Tensor (T, k) -> (T,) or (T, q).

A scorer is any such callable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import check, check_int
from .answers import check_rows

Scorer = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Similarity:
    """Cosine of each embedding and a target (d,), or of q targets (q, d)."""

    target: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        normalize = torch.nn.functional.normalize
        target = normalize(self.target.to(outputs), dim=-1)
        return normalize(outputs, dim=1) @ target.transpose(0, -1)


@dataclass(frozen=True)
class Logit:
    """The logit of one class."""

    label: int

    def __call__(self, outputs: Tensor) -> Tensor:
        return outputs[:, _column(self.label, outputs)]


@dataclass(frozen=True)
class Margin:
    """The logit of one class minus that of another, or minus the largest of all others."""

    label: int
    other: int | None = None

    def __call__(self, outputs: Tensor) -> Tensor:
        label = _column(self.label, outputs)
        if self.other is not None:
            return outputs[:, label] - outputs[:, _column(self.other, outputs)]
        check(outputs.shape[1] > 1, "Margin: a model with one class has no other to compare with")
        others = outputs.clone()
        others[:, label] = -torch.inf
        return outputs[:, label] - others.amax(1)


def _column(label: int, outputs: Tensor) -> int:
    return check_int("label", label, 0, outputs.shape[1] - 1)


def score(scorer: Scorer, outputs: Tensor) -> Tensor:
    """scorer(outputs), or an error that says what is wrong with it."""
    return check_rows("scorer", scorer(outputs), len(outputs))
