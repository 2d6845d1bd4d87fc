"""Samples left out of a fit: which they are, and how well priors on the spectrum predict them, at
each level of noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import ops
from .ridge import add_products, mirror, one_thread, ridge_path
from .transfers import down, up

LEVELS = torch.logspace(-5, 1.5, 27, dtype=torch.float64)  # of noise, to a total variance of one
FOLDS = 5  # stream of the uniform-mask table that shuffles the samples


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What fits that had not seen them make of samples.

    Attributes:
        rows: int64 (R,), which samples. fitted, linear: float64 (R,), their values by fits like the
        one that is returned, and by linear ones.
    """

    rows: np.ndarray
    fitted: np.ndarray
    linear: np.ndarray

    def in_units(self, mean: float, unit: float) -> LeftOut:
        """The same where values are not those of (f - mean) / unit but of f."""
        return LeftOut(self.rows, self.fitted * unit + mean, self.linear * unit + mean)


def mean_of(values: Tensor) -> float:
    """The same bits on any number of threads."""
    return float(values.numpy().mean())


def folds(samples: int, count: int, seed: int, together: int = 1) -> np.ndarray:
    """A random fold for each sample, all of about one size: int64 (T,). So many neighbours are in
    one fold, unless there are too few for that."""
    together = together if samples >= 4 * count * together else 1
    groups = -(-samples // together)
    keys = ops.uniform_masks(1, 64 * groups, seed=seed, stream=FOLDS)[0].numpy()
    fold = np.empty(groups, np.int64)
    fold[np.argsort(keys, kind="stable")] = np.arange(groups) % count
    return fold.repeat(together)[:samples]


def shares_of(errors: dict[str, Tensor], count: int, temperature: float) -> dict[str, float]:
    """The share of each prior in a mixture, from its squared errors on `count` samples left out, at
    each level: its likelihood at the best level with the noise of the best prior, tempered."""
    best = np.array([float(error.min()) for error in errors.values()])
    least = max(best.min(), 1e-12 * count)
    weights = (best == best.min()).astype(float)
    if temperature:
        weights = np.exp((best.min() - best) / least * count / (2 * temperature))
        weights[weights < 1e-3] = 0.0
    return dict(zip(errors, (weights / weights.sum()).tolist(), strict=True))


def prior_covariance(z: Tensor, variance: np.ndarray, inside: int, most: int) -> Tensor:
    """Covariance of all samples with the first `inside`, under the `most` largest terms of a prior
    and a constant of variance one. z: float32 (S, rows) of +-1. Returns float32 (rows, inside)."""
    top, share = largest(variance, most)
    scaled = z[top] * torch.from_numpy(share).sqrt()[:, None].float()
    out = torch.ones(z.shape[1], inside)
    add_products(out, scaled)
    return mirror(out)


def linear_covariance(masks: Tensor, inside: int, n: int) -> Tensor:
    """Covariance of all samples with the first `inside`, under a variance of 1 / n for each feature
    and of one for a constant. masks: packed int64 (rows, W). Returns float32 (rows, inside)."""
    return (1.0 + ops.parity_gram(masks, n)[:, :inside] / n).float()


def path_errors(covariance: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Squared errors of the predictions of `outside` from `inside`, at each of LEVELS: float64
    (outside, levels). The covariance may be on a device."""
    mean, device = mean_of(inside), covariance.device
    duals = ridge_path(covariance[: len(inside)], up(inside - mean, device), up(LEVELS, device))
    with one_thread():
        fit = down(covariance[len(inside) :] @ duals).double() + mean
        return (fit - outside[:, None]).square()


def largest(variance: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the `size` largest variances above zero, and those variances, made to sum to one."""
    top = np.argsort(-variance, kind="stable")[:size]
    top = top[variance[top] > 0]
    return top, variance[top] / variance[top].sum()
