"""Stage 5 of ProxySPEX: ridge regression on Fourier terms, each with a prior variance of its own.

    values[t] = sum_k F[k] (-1)**<k, m_t> + noise,   F[k] ~ N(0, s w_k),   noise ~ N(0, s level)

The estimate depends on the variances w and the level only. There are two ways to it: with S terms
<= T samples the Gram matrix of the scaled columns, from popcounts of packed parities; with S > T
its dual, the T x T covariance of the samples under the prior. Where neither fits in memory,
conjugate gradients on the normal equations.

Dense algebra runs on one thread: BLAS adds up in another order on two, and a result is to be the
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
from .checks import readable

DENSE = 8192  # rows of the largest matrix that is factored, 512 MB
SOME = 256  # samples from which the trace of the hat matrix is estimated, at most
BLOCK = 1024  # terms whose signs are held unpacked at a time
STRIP = 256  # columns of a symmetric matrix that are made at a time
LANCZOS = 48  # steps
STEPS = 100  # of conjugate gradients, at most


@dataclass(frozen=True)
class Fit:
    """A ridge regression.

    Attributes:
        coefs: float64 (S,), the posterior mean of F.
        effective: trace of the hat matrix, the number of free terms that the fit amounts to; NaN by
        conjugate gradients and where it was not asked for.
        level: at which it was fitted.
        residual: of the equations, relative; 0 but where conjugate gradients used all their STEPS.
    """

    coefs: Tensor
    effective: float
    level: float
    residual: float = 0.0


def ridge(
    masks: Tensor,
    values: Tensor,
    support: Tensor,
    variance: Tensor,
    level: float,
    *,
    trace: bool = True,
) -> Fit:
    """The posterior mean of F at one level.

    Args:    masks: packed int64 (T, W). values: float64 (T,). support: packed int64 (S, W).
             variance: float64 (S,), positive. level: > 0. trace: whether to find `effective`.
    Cost:    with S <= T: S**2 T / 128 word operations and S**3 / 3 products; with S > T: S T**2 and
             T**3 / 3 products. Where both are over 8,192, T S additions an iteration.
    """
    if min(len(masks), len(support)) > DENSE:
        return _iterate(masks, values.double(), support, variance.double(), level)
    way = _primal if len(support) <= len(masks) else _dual
    return way(masks, values.double(), support, variance.double(), level, trace)


def _primal(
    masks: Tensor, values: Tensor, support: Tensor, variance: Tensor, level: float, trace: bool
) -> Fit:
    """coefs = D (D X'X D + level)**-1 D X' values, D the square roots of the variances."""
    scale = variance.sqrt()
    matrix = ops.parity_gram(ops.parity_bits(masks, support), len(masks))
    matrix *= scale
    matrix *= scale[:, None]
    right = scale * ops.parity_adjoint(masks, support, values)
    with one_thread():
        factor = _factor(matrix, level)
        coefs = scale * torch.cholesky_solve(right[:, None], factor)[:, 0]
    if not trace:
        return Fit(coefs, float("nan"), level)
    some = _spread(masks)
    rows = signs(ops.parity_bits(masks[some], support), len(some))  # (S, some)
    rows *= scale[:, None].float()
    leverage = _inverse_squares(factor, rows)
    return Fit(coefs, float(leverage.mean()) * len(masks), level)


def _dual(
    masks: Tensor, values: Tensor, support: Tensor, variance: Tensor, level: float, trace: bool
) -> Fit:
    """coefs = diag(w) X' (X diag(w) X' + level)**-1 values."""
    matrix = _covariance(ops.parity_bits(masks, support), len(masks), variance)
    with one_thread():
        factor = _factor(matrix, level)
        dual = torch.cholesky_solve(values[:, None], factor)[:, 0]
    coefs = variance * ops.parity_adjoint(masks, support, dual)
    if not trace:
        return Fit(coefs, float("nan"), level)
    some = _spread(masks)
    units = torch.zeros(len(masks), len(some), device=masks.device)
    units[some, torch.arange(len(some), device=masks.device)] = 1.0
    diagonal = _inverse_squares(factor, units)  # of the inverse
    return Fit(coefs, len(masks) * (1.0 - level * float(diagonal.mean())), level)


def _covariance(columns: Tensor, samples: int, variance: Tensor) -> Tensor:
    """X diag(w) X' of packed parities (S, ceil(T / 64)), summed in float32: float64 (T, T), whose
    lower triangle alone is there, which is what a Cholesky factorization reads."""
    out = torch.zeros(samples, samples, device=columns.device)
    for start in range(0, len(columns), BLOCK):
        part = signs(columns[start : start + BLOCK], samples)  # (block, T)
        part *= variance[start : start + BLOCK, None].sqrt().float()
        add_products(out, part)
    return out.double()


def add_products(out: Tensor, x: Tensor) -> None:
    """out (T, C) += x' x[:, :C] for x (S, T), C <= T, by strips of columns from their diagonal
    block on: half to two thirds of the work of all of it. `mirror` fills in the rest."""
    with one_thread():
        for start in range(0, out.shape[1], STRIP):
            strip = slice(start, start + STRIP)
            out[start:, strip].addmm_(x[:, start:].T, x[:, : out.shape[1]][:, strip])


def mirror(out: Tensor) -> Tensor:
    """out (T, C) with what stands above the diagonal blocks, filled in from below."""
    for stop in range(STRIP, out.shape[1], STRIP):
        start = stop - STRIP
        out[start:stop, stop:] = out[stop : out.shape[1], start:stop].T
    return out


def _spread(masks: Tensor) -> Tensor:
    """At most SOME samples, at even distances."""
    some = min(SOME, len(masks))
    return torch.arange(some, device=masks.device) * len(masks) // some


def _factor(matrix: Tensor, level: float) -> Tensor:
    """The Cholesky factor of matrix + level; of a larger level where rounding hides that one.
    The matrix is overwritten."""
    added = 0.0
    while True:
        matrix.diagonal().add_(level - added)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return factor
        added, level = level, 4 * level


def _inverse_squares(factor: Tensor, columns: Tensor) -> Tensor:
    """x' (L L')**-1 x for each column x, in float32: float64 (columns,)."""
    with one_thread():
        half = torch.linalg.solve_triangular(factor.float(), columns, upper=False)
        return half.square_().sum(0).double()


def _iterate(masks: Tensor, values: Tensor, support: Tensor, variance: Tensor, level: float) -> Fit:
    """Conjugate gradients on (D X'X D + level) x = D X' values; coefs = D x."""
    scale = variance.sqrt()

    def normal(x: Tensor) -> Tensor:
        fit = ops.parity_predict(masks, support, scale * x)
        return scale * ops.parity_adjoint(masks, support, fit) + level * x

    def dot(x: Tensor, y: Tensor) -> float:
        with one_thread():
            return float(x @ y)

    slope = scale * ops.parity_adjoint(masks, support, values)
    x, step, size = torch.zeros_like(slope), slope.clone(), dot(slope, slope)
    goal = 1e-8 * size
    for _ in range(STEPS):
        if size <= goal:
            return Fit(scale * x, float("nan"), level)
        turned = normal(step)
        length = size / dot(step, turned)
        x += length * step
        slope -= length * turned
        before, size = size, dot(slope, slope)
        step = slope + size / before * step
    return Fit(scale * x, float("nan"), level, (1e-8 * size / goal) ** 0.5)


def ridge_path(covariance: Tensor, values: Tensor, levels: Tensor) -> Tensor:
    """The dual solutions (covariance + level)**-1 values at all levels: (T, levels), in the dtype
    of the covariance.

    By Lanczos tridiagonalisation from the values: after it a level costs next to nothing. At most
    48 steps, so that levels far below the largest eigenvalue are solved roughly or not at all,
    which shows in their errors on other samples.
    """
    basis = covariance.new_zeros(min(LANCZOS, len(values)), len(values))
    diagonal, beside = [], []
    with one_thread():
        size = torch.linalg.vector_norm(values)
        vector = (values / size.clamp(min=1e-300)).to(covariance.dtype)
        for i in range(len(basis)):
            basis[i] = vector
            before = basis[: i + 1]
            vector = covariance @ vector
            along = before @ vector
            diagonal.append(along[i])
            vector = torch.addmv(vector, before.T, along, alpha=-1)
            vector = torch.addmv(vector, before.T, before @ vector, alpha=-1)  # rounding's share
            length = torch.linalg.vector_norm(vector)
            if not readable(length):  # goes on, from where it is done with zeros
                length = torch.where(length < 1e-7, torch.inf, length)
            elif length < 1e-7:
                break
            beside.append(length)
            vector = vector / length
        steps = len(diagonal)
        matrix = torch.diag(torch.stack(diagonal).double())
        if steps > 1:
            lower = torch.stack(beside[: steps - 1]).double().nan_to_num(posinf=0.0)
            matrix += torch.diag(lower, -1)
        root, turn = torch.linalg.eigh(matrix)
        weights = size * turn @ (turn[0, :, None] / (root[:, None] + levels))  # of basis vectors
        return basis[:steps].T @ weights.to(covariance.dtype)


def leave_one_out(masks: Tensor, values: Tensor, support: Tensor, levels: Tensor) -> Fit:
    """Plain ridge regression, all variances one, at the level of least leave-one-out error.

    The errors are in closed form for all levels at once: with X X' = U diag(e) U' the residual of
    sample t, left out, is its residual divided by 1 - sum_i U[t, i]**2 e_i / (e_i + level).

    Args:    as in ridge; levels: float64, positive.
    Cost:    with D = min(S, T): S T D products, an eigenvalue problem of size D, and T D products
             for each level.
    Source:  Golub, Heath and Wahba 1979; Rifkin and Lippert 2007. scikit-learn's RidgeCV does this.
    """
    columns = ops.parity_bits(masks, support)
    x = signs(columns, len(masks)).double()  # (S, T)
    primal = len(support) <= len(masks)
    right = ops.parity_adjoint(masks, support, values) if primal else values
    with one_thread():
        matrix = ops.parity_gram(columns, len(masks)) if primal else x.T @ x
        root, turn = torch.linalg.eigh(matrix)
        real = root > 1e-10 * root.max()
        root, turn = root[real], turn[:, real]  # (D,), (S or T, D)
        if primal:
            turn /= root.sqrt()
        inside = turn.T @ right  # (D,), U' values
        turned = x.T @ turn if primal else turn  # U, (T, D)
        share = root[:, None] / (root[:, None] + levels)  # (D, levels)
        errors = values[:, None] - turned @ (share * inside[:, None])  # (T, levels)
        leverage = turned.square() @ share
        left_out = (errors / (1 - leverage).clamp_min(1e-12)).square().sum(0)
        best = int(left_out.argmin())
        weights = share[:, best] * inside
        coefs = turn @ weights if primal else x @ (turn @ (weights / root))
    return Fit(coefs, float(share[:, best].sum()), float(levels[best]))


def signs(columns: Tensor, samples: int) -> Tensor:
    """Packed parities (S, ceil(T / 64)) -> float32 (S, T) of +-1."""
    if not readable(columns):
        bit = columns[..., None] >> torch.arange(64, device=columns.device) & 1
        return 1 - 2 * bit.flatten(1)[:, :samples].float()
    as_bytes = columns.contiguous().numpy().view(np.uint8)
    bits = np.unpackbits(as_bytes, axis=1, count=samples, bitorder="little")
    return torch.from_numpy(1 - 2 * bits.astype(np.float32))


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
