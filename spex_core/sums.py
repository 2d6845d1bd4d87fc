"""Fits that are sums of others: their processes, and the errors of their coefficients."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from . import masks as bits
from .gp_process import Process, missed_share
from .prior import terms_of
from .sparse import added


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
