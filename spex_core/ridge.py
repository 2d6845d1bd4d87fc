"""Stage 5 of ProxySPEX: ridge regression on Fourier terms, each with a prior variance of its own.

    F[k] ~ N(0, s w_k),  values = sum_k F[k] (-1)**<k, m> + N(0, level s)

The estimate depends on the variances w and the level only. Two ways to it: with S terms <= T
samples the Gram matrix of the scaled columns, from popcounts of packed parities; with S > T its
dual, the T x T covariance of the samples. Where neither fits in memory, conjugate gradients.

Dense algebra runs on one thread: BLAS adds up in another order on two, and a result here is the
same bits on any number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import ops

DENSE = 8192  # rows of the largest matrix that is factored: 512 MB
LEAVE_OUT = 512  # samples whose leave-one-out error is looked at, at most
BLOCK = 1024  # terms whose signs are held unpacked at a time


@dataclass(frozen=True)
class Fit:
    """Coefficients of the terms, and how they were got.

    Attributes:
        coefs: float64 (S,). level: the noise against the prior variance.
        effective: trace of the hat matrix, the number of terms that the fit amounts to.
        left_out: mean squared leave-one-out error.
    """

    coefs: Tensor
    level: float
    effective: float
    left_out: float


class Ridge:
    """The ridge regressions of one set of values on one support, at any level.

    Args: masks: packed int64 (T, W). values: float64 (T,). support: packed int64 (S, W).
          variance: float64 (S,), positive.
    """

    def __init__(self, masks: Tensor, values: Tensor, support: Tensor, variance: Tensor):
        self.samples = len(masks)
        self.values, self.scale = values.double(), variance.double().sqrt()
        self.masks, self.support = masks, support
        self.columns = ops.parity_bits(masks, support)  # (S, ceil(T / 64))
        self.primal = len(support) <= self.samples
        with one_thread():
            self.matrix = self._gram() if self.primal else self._covariance()

    def _gram(self) -> Tensor:
        """scale (X'X) scale: (S, S)."""
        gram = ops.parity_gram(self.columns, self.samples)
        gram *= self.scale
        gram *= self.scale[:, None]
        return gram

    def _covariance(self) -> Tensor:
        """X diag(variance) X': (T, T)."""
        out = torch.zeros(self.samples, self.samples, dtype=torch.float32)
        for start in range(0, len(self.columns), BLOCK):
            part = signs(self.columns[start : start + BLOCK], self.samples)  # (block, T)
            part *= self.scale[start : start + BLOCK, None].float()
            out.addmm_(part.T, part)
        return out.double()

    def at(self, level: float) -> Fit:
        """The fit at one level > 0."""
        with one_thread():
            return self._primal(level) if self.primal else self._dual(level)

    def best(self, start: float, step: float = 3.0) -> Fit:
        """The fit whose level has the least leave-one-out error, walking from `start` by factors
        of `step` as long as it falls."""
        fit = self.at(start)
        for factor in (1 / step, step):
            while (other := self.at(fit.level * factor)).left_out < fit.left_out:
                fit = other
                if not 1e-9 < fit.level < 1e6:
                    return fit
            if fit.level != start:
                break
        return fit

    def _primal(self, level: float) -> Fit:
        matrix = self.matrix.clone()
        matrix.diagonal().add_(level)
        factor = torch.linalg.cholesky(matrix)
        right = self.scale * ops.parity_adjoint(self.masks, self.support, self.values)
        coefs = self.scale * torch.cholesky_solve(right[:, None], factor)[:, 0]
        some = spread(self.samples, LEAVE_OUT)
        rows = signs_of(self.columns, some) * self.scale.float()[:, None]  # (S, some)
        half = torch.linalg.solve_triangular(factor.float(), rows, upper=False)
        leverage = (half * half).sum(0).double()
        chosen = torch.from_numpy(some)
        errors = self.values[chosen] - ops.parity_predict(self.masks[chosen], self.support, coefs)
        left_out = errors / (1 - leverage).clamp_min(1e-9)
        effective = float(leverage.mean()) * self.samples
        return Fit(coefs, level, effective, float((left_out**2).mean()))

    def _dual(self, level: float) -> Fit:
        matrix = self.matrix.clone()
        matrix.diagonal().add_(level)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        dual = inverse @ self.values
        coefs = self.scale**2 * ops.parity_adjoint(self.masks, self.support, dual)
        diagonal = inverse.diagonal()
        effective = self.samples - level * float(diagonal.sum())
        return Fit(coefs, level, effective, float(((dual / diagonal) ** 2).mean()))


def signs(columns: Tensor, samples: int) -> Tensor:
    """Packed parities (S, ceil(T / 64)) -> float32 (S, T) of +-1."""
    packed = columns.contiguous().numpy().view(np.uint8)
    bits = np.unpackbits(packed, axis=1, count=samples, bitorder="little")
    return torch.from_numpy(1 - 2 * bits.astype(np.float32))


def spread(samples: int, most: int) -> np.ndarray:
    """At most `most` samples at even distances."""
    return np.arange(samples) if samples <= most else np.arange(most) * samples // most


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
