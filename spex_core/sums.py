"""Fits that are sums of others: coefficients added up, their errors, their processes."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .gp_process import Process, missed_share
from .prior import terms_of
from .records import distinct_rows


def added(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The sum of transforms: packed int64 (S, W) and float64 (S,) each, the constant first."""
    rows = torch.cat([support for support, _ in parts])
    first, slot = distinct_rows(rows.numpy().view(np.uint64))
    coefs = np.bincount(slot, weights=torch.cat([coefs for _, coefs in parts]).numpy())
    support = rows[torch.from_numpy(first)]
    order = support.any(1).argsort(stable=True)
    return support[order], torch.from_numpy(coefs)[order]


def with_others(process: Process, share: float, others: list[tuple[Tensor, Tensor]]) -> Process:
    """That of a result which is so much of what `process` predicts, and other transforms."""
    if process.rest is not None:
        support, coefs = process.rest
        others = [(support, share * coefs), *others]
    rest = added(others) if others else None
    return dataclasses.replace(process, share=share * process.share, rest=rest)


def errors_of(process: Process, support: Tensor, coefs: Tensor) -> tuple[Tensor, float]:
    """The root mean square errors of coefficients under a posterior whose means are others, and the
    share of the variance of its mean in terms that are not among these."""
    terms = terms_of(support, process.n, max(1, int(bits.orders(support).max())))
    means, prior = process.coefs(terms)
    missed = missed_share(process, terms, means)
    means = means * process.unit
    means[0] += process.mean
    return (process.stderr(terms, prior).square() + (coefs - means).square()).sqrt(), missed
