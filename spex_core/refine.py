"""Stage 5, support + values -> coefficients, by least squares over all samples. No (T, S) matrix is
built.

Two ways to the same normal equations. For any masks the Gram matrix comes from popcounts of packed
parities (`least_squares`). For the rows of a plan the transform does the sums (`refit`): within a
group the samples at one delay are an orthogonal transform of its bins, so a term meets C P readings
instead of C P B samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .alias import alias
from .errors import check
from .plan import SamplingPlan


def least_squares(masks: Tensor, values: Tensor, support: Tensor, *, ridge: float = 0.0) -> Tensor:
    """argmin_F sum_t (values[t] - sum_s F[s] (-1)**<masks[t], support[s]>)**2 + ridge T |F|**2.

    Args:    masks: packed int64 (T, W). values: (T,). support: packed int64 (S, W). ridge >= 0;
             where the Gram matrix is singular (S > T, or terms that agree on every mask) a ridge of
             1e-10 is used instead of 0.
    Returns: float64 (S,).
    Cost:    S**2 T / 128 word operations and S**3 / 3 products; S**2 floats of memory.
    """
    check(ridge >= 0, "least_squares: ridge must be >= 0, got {}", ridge)
    samples = len(masks)
    gram = ops.parity_gram(ops.parity_bits(masks, support), samples)  # (S, S)
    right = ops.parity_adjoint(masks, support, values.double())  # (S,)
    diagonal = gram.diagonal()
    diagonal += ridge * samples
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed or bool((factor.diagonal() ** 2 < 1e-10 * samples).any()):  # rounding may hide a zero
        diagonal += 1e-10 * samples
        factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(right[:, None], factor)[:, 0]


def refit(
    plan: SamplingPlan, values: Tensor, support: Tensor, start: Tensor | None = None
) -> Tensor:
    """The least-squares coefficients of a support over all fitted rows of a plan: float64 (S,).

    Conjugate gradients on the normal equations from `start` (or zero, which makes the answer the
    one of least norm where it is not unique).

    Args: values: float64 (T,) of all rows; the held-out ones at the end are not looked at.
    Cost: C P S products an iteration for the aliased rows, and (uniform rows) S for the others.
    """
    x = np.zeros(len(support)) if start is None else start.numpy().copy()
    return torch.from_numpy(_solve(PlanSamples(plan, support), values, x))


def linear_fit(plan: SamplingPlan, values: Tensor) -> np.ndarray:
    """Least squares on the constant and the n single features: float64 (1 + n,)."""
    if plan.code is None:
        spectrum = alias(values, plan).flatten().numpy()
        return spectrum[np.append(0, 1 << np.arange(plan.n))]
    return _solve(LinearSamples(plan), values, np.zeros(1 + plan.n))


def linear_predict(masks: Tensor, coefs: np.ndarray) -> np.ndarray:
    """The linear function with these coefficients at packed masks (T, W): float64 (T,)."""
    n = len(coefs) - 1
    out = np.full(len(masks), coefs.sum())
    for rows in _row_blocks(len(masks), n):
        out[rows] -= 2 * (bits.unpack(masks[rows], n) @ coefs[1:])
    return out


def _row_blocks(rows: int, n: int) -> list[slice]:
    """Slices of the rows that hold at most 16 million features each."""
    size = max(1, (1 << 24) // n)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _solve(samples: PlanSamples, values: Tensor, x: np.ndarray) -> np.ndarray:
    """Conjugate gradients on the normal equations of the samples, from x."""
    right = samples.adjoint(*samples.split(values))
    slope = right - samples.normal(x)
    step, size = slope.copy(), float(slope @ slope)
    goal = 1e-24 * float(right @ right)
    for _ in range(200):
        if size <= goal:
            break
        turned = samples.normal(step)
        length = size / float(step @ turned)
        x += length * step
        slope -= length * turned
        before, size = size, float(slope @ slope)
        step = slope + size / before * step
    return x


class PlanSamples:
    """The fitted rows of a plan as a linear operator on the coefficients of a support.

    In NumPy: the arrays are small, and a loop that enters torch's thread pool at every step waits
    for its threads far longer than it computes.
    """

    def __init__(self, plan: SamplingPlan, support: Tensor):
        self.plan, self.support = plan, support
        self.uniform = plan.extra[: len(plan.extra) - plan.holdout]
        self.bins = term_bins(plan, support).numpy()  # (C, S)
        self.signs = term_signs(plan, support)  # (S, P)

    def split(self, values: Tensor) -> tuple[np.ndarray, Tensor]:
        """Values of all rows -> bins of the aliased rows (C, B, P), values of the uniform rows."""
        bins = alias(values, self.plan).transpose(1, 2).contiguous().numpy()
        end = self.plan.aliased + len(self.uniform)
        return bins, values[self.plan.aliased : end].double()

    def adjoint(self, bins: np.ndarray, values: Tensor) -> np.ndarray:
        """The right-hand side of the normal equations: float64 (S,)."""
        out = self.uniform_adjoint(values)
        for group, at in zip(bins, self.bins, strict=True):
            out += np.einsum("sp,sp->s", group[at], self.signs) * (1 << self.plan.b)
        return out

    def normal(self, x: np.ndarray) -> np.ndarray:
        """The normal matrix times x."""
        groups, shifts, width = self.plan.shape
        bins = np.zeros((groups, width, shifts))
        spread = self.signs * x[:, None]
        for group, at in zip(bins, self.bins, strict=True):
            order = np.argsort(at, kind="stable")
            live, first = np.unique(at[order], return_index=True)
            group[live] = np.add.reduceat(spread[order], first)
        return self.adjoint(bins, self.uniform_predict(x))

    def uniform_predict(self, x: np.ndarray) -> Tensor:
        return ops.parity_predict(self.uniform, self.support, torch.from_numpy(x))

    def uniform_adjoint(self, values: Tensor) -> np.ndarray:
        return ops.parity_adjoint(self.uniform, self.support, values).numpy()


class LinearSamples(PlanSamples):
    """PlanSamples for the constant and all single features, without the n**2 bits of their support:
    their bins and signs are the rows of the hash matrices and of the delays."""

    def __init__(self, plan: SamplingPlan):
        self.plan = plan
        self.uniform = plan.extra[: len(plan.extra) - plan.holdout]
        self.bins = np.pad(plan.hashes.numpy(), ((0, 0), (1, 0)))  # (C, 1 + n)
        singles = 1.0 - 2.0 * bits.unpack(plan.delay_columns, plan.shifts)
        self.signs = np.concatenate([np.ones((1, plan.shifts)), singles])  # (1 + n, P)

    def uniform_predict(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(linear_predict(self.uniform, x))

    def uniform_adjoint(self, values: Tensor) -> np.ndarray:
        v, n = values.numpy(), self.plan.n
        out = np.full(1 + n, v.sum())
        for rows in _row_blocks(len(v), n):
            out[1:] -= 2 * (v[rows] @ bits.unpack(self.uniform[rows], n))
        return out


def term_bins(plan: SamplingPlan, support: Tensor) -> Tensor:
    """The bin of every term in every group, M_g^T k: int64 (C, S)."""
    return torch.stack([ops.parity_bits(group, support)[:, 0] for group in plan.columns])


def term_signs(plan: SamplingPlan, support: Tensor) -> np.ndarray:
    """The sign of every term at every delay, (-1)**<d_p, k>: float64 (S, P)."""
    packed = ops.parity_bits(plan.delays, support)  # (S, ceil(P / 64))
    return 1.0 - 2.0 * bits.unpack(packed, plan.shifts)
