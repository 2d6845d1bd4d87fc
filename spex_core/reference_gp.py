"""The kernel of the Gaussian process in plain torch: the specification.

Written for clarity at small sizes; ops_gp.py says what the arguments are and checks them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def anova_kernel(masks: Tensor, others: Tensor, relevances: Tensor, variances: Tensor) -> Tensor:
    """(T1, W), (T2, W), (n,), (orders + 1,) -> (T1, T2)."""
    agree = signs(masks, len(relevances))[:, None] * signs(others, len(relevances))  # (T1, T2, n)
    orders = len(variances) - 1
    polynomials = elementary(relevances * agree, orders)
    largest = elementary(relevances, orders)
    return sum(
        variance * (polynomial / most)
        for variance, polynomial, most in zip(variances, polynomials, largest, strict=True)
        if most > 0
    )


def anova_kernel_grad(
    masks: Tensor, others: Tensor, relevances: Tensor, variances: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of sum(weights * anova_kernel(...)): (n,), (orders + 1,)."""
    with torch.enable_grad():
        inputs = relevances.detach().requires_grad_(), variances.detach().requires_grad_()
        total = (weights * anova_kernel(masks, others, *inputs)).sum()
        return torch.autograd.grad(total, inputs, materialize_grads=True)


def elementary(x: Tensor, orders: int) -> list[Tensor]:
    """e_0 .. e_orders of the last axis: with one variable more, e_d becomes e_d + x_i e_(d-1)."""
    e = [torch.ones_like(x[..., 0])] + [torch.zeros_like(x[..., 0])] * orders
    for i in range(x.shape[-1]):
        e = e[:1] + [e[d] + x[..., i] * e[d - 1] for d in range(1, orders + 1)]
    return e


def signs(masks: Tensor, n: int) -> Tensor:  # packed (T, W) -> float64 (T, n), -1 where present
    feature = torch.arange(n, device=masks.device)
    return 1.0 - 2.0 * (masks[:, feature // 64] >> feature % 64 & 1).double()
