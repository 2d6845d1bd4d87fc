"""Transforms while they are made: packed support int64 (S, W), the constant first, and coefficients
float64 (S,)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .records import distinct_rows

DUST = 1e-8  # share of the energy that the terms left out hold together


def added(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The sum of transforms of the host."""
    rows = torch.cat([support for support, _ in parts])
    first, slot = distinct_rows(rows.numpy().view(np.uint64))
    coefs = np.bincount(slot, weights=torch.cat([coefs for _, coefs in parts]).numpy())
    support = rows[torch.from_numpy(first)]
    order = support.any(1).argsort(stable=True)
    return support[order], torch.from_numpy(coefs)[order]


def strongest(support: Tensor, coefs: Tensor, terms: int | None) -> tuple[Tensor, Tensor]:
    """The constant, which comes first, and the so many terms of largest coefficient."""
    if terms is None or len(coefs) <= terms + 1:
        return support, coefs
    top = torch.argsort(coefs[1:].abs(), descending=True, stable=True)[:terms] + 1
    rows = torch.cat([top.new_zeros(1), top])
    return support[rows], coefs[rows]


def without_dust(support: Tensor, coefs: Tensor) -> tuple[Tensor, Tensor]:
    """The constant, which comes first, and all terms but the least that hold DUST of the energy."""
    energy, order = coefs[1:].square().sort(stable=True)
    held = energy.cumsum(0)
    keep = torch.ones_like(coefs, dtype=torch.bool)
    keep[1 + order[held <= DUST * held[-1:]]] = False
    return support[keep], coefs[keep]
