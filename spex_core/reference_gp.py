"""The kernels of the Gaussian process in plain torch: the specification.

Written for clarity at small sizes; ops_gp.py says what the arguments are and checks them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def anova_kernel(
    masks: Tensor, others: Tensor, relevances: Tensor, variances: Tensor, bias: float = 0.0
) -> Tensor:
    """(T1, W), (T2, W), (n,), (orders + 1,) -> (T1, T2)."""
    n, orders = len(relevances), len(variances) - 1
    u = product(signs(masks, n)[:, None], signs(others, n), bias)  # (T1, T2, n)
    polynomials = elementary(relevances * u, orders)
    largest = elementary(relevances, orders)
    return sum(
        variance * (polynomial / most)
        for variance, polynomial, most in zip(variances, polynomials, largest, strict=True)
        if most > 0
    )


def anova_kernel_grad(
    masks: Tensor,
    others: Tensor,
    relevances: Tensor,
    variances: Tensor,
    weights: Tensor,
    bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The gradient of sum(weights * anova_kernel(...)): (n,), (orders + 1,).

    By hand, for autograd does not reach into a custom operator: e_d has the derivative e_(d-1) of
    the other variables.
    """
    n, orders = len(relevances), len(variances) - 1
    u = product(signs(masks, n)[:, None], signs(others, n), bias)  # (T1, T2, n)
    x = relevances * u
    polynomials, largest = elementary(x, orders), elementary(relevances, orders)
    by_relevance, by_variance = torch.zeros_like(relevances), torch.zeros_like(variances)
    for d in (d for d in range(orders + 1) if largest[d] > 0):
        share = polynomials[d] / largest[d]
        by_variance[d] = (weights * share).sum()
        for i in range(n if d else 0):
            rest = torch.arange(n, device=x.device) != i
            lower = elementary(x[..., rest], d - 1)[-1]
            least = elementary(relevances[rest], d - 1)[-1]
            slope = (u[..., i] * lower - share * least) / largest[d]
            by_relevance[i] += variances[d] * (weights * slope).sum()
    return by_relevance, by_variance


def anova_cross(
    masks: Tensor, support: Tensor, relevances: Tensor, variances: Tensor, bias: float
) -> Tensor:
    """(T, W), (S, W), (n,), (orders + 1,) -> (S, T)."""
    n, orders = len(relevances), len(variances) - 1
    largest = elementary(relevances, orders)
    z = signs(masks, n)  # (T, n)
    within, beyond = relevances * inside(z, bias), relevances * product(z, 0, bias)
    out = z.new_zeros(len(support), len(masks))
    for row, term in zip(out, signs(support, n) < 0, strict=True):
        order = int(term.sum())
        polynomials = elementary(beyond[:, ~term], max(orders - order, 0))
        for d in (d for d in range(order, orders + 1) if largest[d] > 0):
            share = within[:, term].prod(-1) * polynomials[d - order] / largest[d]
            row += variances[d] * share
    return out


def product(z: Any, others: Any, bias: float) -> Any:
    """(z + bias) (others + bias) / (1 + bias**2), of numbers or tensors."""
    scale = max(1.0, abs(bias))
    return (others + bias) / scale * (inside(z, bias) * scale)


def inside(z: Any, bias: float) -> Any:
    """(z + bias) / (1 + bias**2), with no square that overflows."""
    scale = max(1.0, abs(bias))
    return (z + bias) / scale / (1 / scale / scale + (bias / scale) * (bias / scale)) / scale


def elementary(x: Tensor, orders: int) -> list[Tensor]:
    """e_0 .. e_orders of the last axis: with one variable more, e_d becomes e_d + x_i e_(d-1)."""
    e = [x.new_ones(x.shape[:-1])] + [x.new_zeros(x.shape[:-1])] * orders
    for i in range(x.shape[-1]):
        e = e[:1] + [e[d] + x[..., i] * e[d - 1] for d in range(1, orders + 1)]
    return e


def signs(masks: Tensor, n: int) -> Tensor:  # packed (T, W) -> float64 (T, n), -1 where present
    feature = torch.arange(n, device=masks.device)
    return 1.0 - 2.0 * (masks[:, feature // 64] >> feature % 64 & 1).double()
