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
from .prior import Terms
from .ridge import one_thread
from .transfers import down, up

FLOOR = 1e-6  # of the noise, so that repeated masks and functions without noise can be factored
# Centres and spreads of the priors on log variances by order, and on log noise.
CENTRES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.02, 0.02, 0.02)
ORDER_SPREAD = 1.5
NOISE, NOISE_SPREAD = 0.1, 1.5
START_NOISE = 0.2
STEP = 0.01  # of the objective, in nats: one that gains less is the last


@dataclass(frozen=True)
class Taste:
    """What an ANOVA kernel is expected to be, before any sample.

    Attributes:
        orders: the largest order of a term, 1 to 8.
        spread: standard deviation of the log relevances; 0 keeps all relevances equal.
    """

    orders: int
    spread: float


@dataclass(frozen=True, eq=False)
class Anova:
    """A prior on the spectrum: Var F[k] = variances[|k|] prod_(i in k) relevances[i] / e_|k|.

    Attributes:
        relevances: float64 (n,), the largest 1. variances: float64 (orders + 1,), 0 for the
        constant, with a sum of 1.
    """

    relevances: Tensor
    variances: Tensor

    def covariance(self, masks: Tensor, others: Tensor) -> Tensor:
        given = (up(x, masks.device) for x in (self.relevances, self.variances))
        return ops.anova_kernel(masks, others, *given)

    def variance(self, terms: Terms) -> np.ndarray:
        """The prior variance of each term: float64 (S,)."""
        scales = self.scales()
        by_order = np.append(scales, np.zeros(max(0, terms.sets.shape[1] + 1 - len(scales))))
        return terms.product(self.relevances.numpy()) * by_order[terms.orders]

    def scales(self) -> np.ndarray:
        """variances[d] / e_d(relevances), 0 where no d features are relevant: (orders + 1,)."""
        e = np.zeros(len(self.variances))
        e[0] = 1.0
        for relevance in self.relevances.tolist():
            e[1:] += relevance * e[:-1]
        return np.divide(self.variances.numpy(), e, out=np.zeros_like(e), where=e > 0)


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


def kernel_of(theta: Tensor, n: int) -> Anova:
    """The prior that theta names, the noise left out, with a total of 1."""
    relevances = (theta[:n] - theta[:n].max()).exp()
    variances = theta[n:-1].exp()
    zero = torch.zeros(1, dtype=torch.float64)
    return Anova(relevances, torch.cat([zero, variances / variances.sum()]))


def negative_log_posterior(
    masks: Tensor, values: Tensor, n: int, taste: Taste, theta: Tensor
) -> tuple[float, Tensor]:
    """The objective and its gradient, but for constants, on the host: theta and what comes back are
    small, the matrices stay where masks and values are."""
    relevances = (theta[:n] - theta[:n].max()).exp()
    variances = torch.cat([torch.ones(1, dtype=torch.float64), theta[n:-1].exp()])
    noise = float(theta[-1].exp())
    given = up(relevances, masks.device), up(variances, masks.device)
    matrix = ops.anova_kernel(masks, masks, *given)
    matrix.diagonal().add_(noise + FLOOR)
    with one_thread():
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            return math.inf, torch.zeros_like(theta)
        inverse = torch.cholesky_inverse(factor)
        dual = inverse @ values
        value = 0.5 * float(values @ dual) + float(factor.diagonal().log().sum())
        slope = inverse.addmm_(dual[:, None], dual[None], alpha=-1.0)  # twice d value / d matrix
    found = ops.anova_kernel_grad(masks, masks, *given, slope)
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
