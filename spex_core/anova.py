"""Stage 3'' of GPSPEX, values -> one prior on the spectrum: an ANOVA kernel whose relevances, order
variances and noise have the highest posterior density.

With values of mean 0 and variance 1, theta = (log relevances, log variances of orders 1 .. d, log
noise), and K(theta) = 1 + ops.anova_kernel + noise, what is minimised is

    1/2 y' K**-1 y + 1/2 log det K - log prior(theta)

with its gradient 1/2 tr((K**-1 - a a') dK), a = K**-1 y. A priori relevances are alike, the spread
says how firmly: those that the samples do not tell apart stay alike, and so do not fit noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import ops
from .lbfgs import minimise
from .ridge import one_thread
from .transfers import down, up

FLOOR = 1e-6  # of the noise, so that repeated masks and functions without noise can be factored
# Centres and spreads of the priors on log variances by order, and on log noise.
CENTRES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.02, 0.02, 0.02)
ORDER_SPREAD = 1.5
NOISE, NOISE_SPREAD = 0.1, 1.5
START_NOISE = 0.2
DIAGONAL = 32  # masks whose variances are found together
STEP = 0.01  # of the objective, in nats: one that gains less is the last


@dataclass(frozen=True)
class Taste:
    """What an ANOVA kernel is expected to be, before any sample.

    Attributes:
        orders: the largest order of a term, 1 to 8.
        spread: standard deviation of the log relevances; 0 keeps all relevances equal.
        bias: >= 0; 0 where Fourier coefficients are independent, 1 where effects of features that
        are removed together are (`Anova`).
    """

    orders: int
    spread: float
    bias: float = 0.0

    @property
    def name(self) -> str:
        biased = f" bias {self.bias:g}" if self.bias else ""
        return f"order {self.orders} spread {self.spread:g}{biased}"


@dataclass(frozen=True, eq=False)
class Anova:
    """A prior on the spectrum: f = sum_k G[k] prod_(i in k) (z_i + bias) / sqrt(1 + bias**2) with
    Var G[k] = variances[|k|] prod_(i in k) relevances[i] / e_|k|, and z_i = -1 where a mask has
    feature i, 1 where not. Without a bias G is F; a bias of 1 leaves the products of features that
    a mask lacks, so that features removed together have effects of their own.

    Attributes:
        relevances: float64 (n,), the largest 1. variances: float64 (orders + 1,), 0 for the
        constant, with a sum of 1. bias: >= 0.
    """

    relevances: Tensor
    variances: Tensor
    bias: float = 0.0

    def covariance(self, masks: Tensor, others: Tensor) -> Tensor:
        return ops.anova_kernel(masks, others, *self._on(masks), bias=self.bias)

    def diagonal(self, masks: Tensor) -> Tensor:
        """The prior variance of the value at each mask, 1 in the mean: float64 (T,)."""
        blocks = [self.covariance(rows, rows).diagonal() for rows in masks.split(DIAGONAL)]
        return torch.cat(blocks)

    def cross(self, masks: Tensor, support: Tensor) -> Tensor:
        """The covariance of Fourier coefficients with values: float64 (S, T)."""
        return ops.anova_cross(masks, support, *self._on(masks), bias=self.bias)

    def variance(self, support: Tensor) -> np.ndarray:
        """The prior variance of F[k], packed k (S, W) -> float64 (S,): the sum over the sets S that
        contain k of Var G[S] bias**(2 |S| - 2 |k|) / (1 + bias**2)**|S|. As a covariance, with the
        empty mask and a bias of bias**2."""
        square = self.bias**2
        size = (1.0 + square**2) / (1.0 + square) ** 2
        given = self.relevances, self._scaled(size)
        empty = support.new_zeros(1, support.shape[1])
        return ops.anova_cross(empty, support, *given, bias=square)[:, 0].numpy()

    def in_pairs(self, masks: Tensor) -> Tensor:
        """The covariance of a value with F[i, j], over relevances[i] relevances[j] w_i w_j as in
        ops.anova_cross, if sets that have i or j twice counted too: float64 (T,)."""
        e = elementary(self.relevances.numpy(), len(self.variances) - 1)
        scales = np.divide(self.variances.numpy(), e, out=np.zeros_like(e), where=e > 0)
        shares = scales[2:] * e[:-2] * (self.bias / (1.0 + self.bias)) ** np.arange(len(e) - 2)
        given = up(self.relevances, masks.device), up(torch.from_numpy(shares), masks.device)
        empty = masks.new_zeros(1, masks.shape[1])  # where a factor is w_i (1 + bias)
        return ops.anova_kernel(masks, empty, *given, bias=self.bias)[:, 0]

    def _scaled(self, size: float) -> Tensor:
        """The variances where each factor of a product counts `size` times as much."""
        return self.variances * size ** torch.arange(len(self.variances), dtype=torch.float64)

    def _on(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        return up(self.relevances, masks.device), up(self.variances, masks.device)


def elementary(relevances: np.ndarray, orders: int) -> np.ndarray:
    """The elementary symmetric polynomials: float64 (n,) -> (orders + 1,)."""
    e = np.zeros(orders + 1)
    e[0] = 1.0
    for relevance in relevances.tolist():
        e[1:] += relevance * e[:-1]
    return e


def linear(n: int) -> Anova:
    """All features alike, no interactions."""
    return Anova(torch.ones(n, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64))


def fit_anova(
    masks: Tensor, values: Tensor, n: int, taste: Taste, start: Tensor | None, steps: int
) -> Tensor:
    """theta of the highest posterior density that so many steps of L-BFGS find.

    Args: masks: packed int64 (T, W), of any device. values: float64 (T,) of the host, of mean 0 and
          variance about 1.
          start: theta of a like problem, with as many orders; None starts from equal relevances.
    """
    values = up(values, masks.device)
    return minimise(
        lambda theta: negative_log_posterior(masks, values, n, taste, theta),
        start_of(n, taste) if start is None else start,
        steps=steps,
        least=STEP,
    )


def start_of(n: int, taste: Taste) -> Tensor:
    """Equal relevances, variances and noise near their centres."""
    logs = [math.log(x) for x in (*CENTRES[: taste.orders], START_NOISE)]
    return torch.cat([torch.zeros(n, dtype=torch.float64), torch.tensor(logs, dtype=torch.float64)])


def kernel_of(theta: Tensor, n: int, bias: float = 0.0) -> Anova:
    """The prior that theta names, the noise left out, with a total of 1."""
    relevances = (theta[:n] - theta[:n].max()).exp()
    variances = theta[n:-1].exp()
    zero = torch.zeros(1, dtype=torch.float64)
    return Anova(relevances, torch.cat([zero, variances / variances.sum()]), bias)


def negative_log_posterior(
    masks: Tensor, values: Tensor, n: int, taste: Taste, theta: Tensor
) -> tuple[float, Tensor]:
    """The objective and its gradient, but for constants, on the host: theta and what comes back are
    small, the matrices stay where masks and values are."""
    relevances = (theta[:n] - theta[:n].max()).exp()
    variances = torch.cat([torch.ones(1, dtype=torch.float64), theta[n:-1].exp()])
    noise = float(theta[-1].exp())
    given = up(relevances, masks.device), up(variances, masks.device)
    matrix = ops.anova_kernel(masks, masks, *given, bias=taste.bias)
    matrix.diagonal().add_(noise + FLOOR)
    with one_thread():
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            return math.inf, torch.zeros_like(theta)
        inverse = torch.cholesky_inverse(factor)
        dual = inverse @ values
        value = 0.5 * float(values @ dual) + float(factor.diagonal().log().sum())
        slope = inverse.addmm_(dual[:, None], dual[None], alpha=-1.0)  # twice d value / d matrix
    found = ops.anova_kernel_grad(masks, masks, *given, slope, bias=taste.bias)
    by_relevance, by_variance = (down(x) for x in found)
    gradient = 0.5 * torch.cat(
        [
            by_relevance * relevances,
            by_variance[1:] * variances[1:],
            noise * down(slope.diagonal().sum()[None]),
        ]
    )
    away, spreads = theta - centres(n, taste), prior_spreads(n, taste)
    value += 0.5 * float((away / spreads).square().sum())
    return value, gradient + away / spreads.square()


def centres(n: int, taste: Taste) -> Tensor:
    """Of the normal prior on theta."""
    logs = [math.log(x) for x in (*CENTRES[: taste.orders], NOISE)]
    return torch.cat([torch.zeros(n, dtype=torch.float64), torch.tensor(logs, dtype=torch.float64)])


def prior_spreads(n: int, taste: Taste) -> Tensor:
    return torch.tensor(
        [taste.spread] * n + [ORDER_SPREAD] * taste.orders + [NOISE_SPREAD], dtype=torch.float64
    )
