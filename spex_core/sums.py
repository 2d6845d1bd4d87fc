"""Fits that are sums of others: coefficients added up, the largest terms of them, their errors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .gp_process import Process
from .prior import terms_of


def added(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The sum of transforms: packed int64 (S, W) and float64 (S,) each, the constant first."""
    rows = torch.cat([support for support, _ in parts]).numpy()
    support, slot = np.unique(rows, axis=0, return_inverse=True)
    coefs = np.bincount(slot.reshape(-1), weights=torch.cat([coefs for _, coefs in parts]).numpy())
    order = np.argsort(support.any(1), kind="stable")
    return torch.from_numpy(support[order]), torch.from_numpy(coefs[order])


def largest(support: Tensor, coefs: Tensor, terms: int | None) -> tuple[Tensor, Tensor]:
    """The constant, which comes first, and the so many terms of largest coefficient."""
    if terms is None or len(coefs) <= terms + 1:
        return support, coefs
    top = torch.argsort(coefs[1:].abs(), descending=True, stable=True)[:terms] + 1
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), top])
    return support[rows], coefs[rows]


def stderr_of(process: Process, support: Tensor, coefs: Tensor) -> Tensor:
    """The root mean square errors of coefficients under a posterior whose means are others."""
    terms = terms_of(support, process.n, max(1, int(bits.orders(support).max())))
    means, prior = process.coefs(terms)
    means = means * process.unit
    means[0] += process.mean
    return (process.stderr(terms, prior).square() + (coefs - means).square()).sqrt()
