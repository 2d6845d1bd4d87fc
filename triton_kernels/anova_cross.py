"""anova_cross: the polynomials of anova_kernel.py of the features outside of a term, at a mask, and
the product over those inside."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference_gp import inside, product
from .anova_kernel import bits_of, float64, joined, norms_of, usable
from .tactics import launch

TACTICS = [{"BLOCK": 32, "num_warps": 8}, {"BLOCK": 16, "num_warps": 4}]


@triton.jit
def part(e, share, order, variances_ptr, norms_ptr, J: tl.constexpr, ORDERS: tl.constexpr):
    """What the sets of J features more than the terms add: share variances[d] e / norms[d] for
    d = order + J, 0 beyond the orders."""
    if J > ORDERS:
        return tl.zeros_like(share)
    d = order + J  # (BLOCK,)
    norm = tl.load(norms_ptr + d, mask=d <= ORDERS, other=1.0)[:, None]
    variance = tl.load(variances_ptr + d, mask=d <= ORDERS, other=0.0)[:, None]
    return variance * (share * e / norm)


@triton.jit
def _anova_cross_kernel(
    support_ptr,
    masks_ptr,
    relevances_ptr,
    variances_ptr,
    norms_ptr,
    out_ptr,
    terms,
    samples,
    words,
    n,
    inside_absent: tl.float64,
    inside_present: tl.float64,
    outside_absent: tl.float64,
    outside_present: tl.float64,
    ORDERS: tl.constexpr,
    HIGHER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a square of terms and masks; HIGHER: how many polynomials there are, 0 where the
    features outside of a term have no say."""
    inside_absent, inside_present = float64(inside_absent), float64(inside_present)
    outside_absent, outside_present = float64(outside_absent), float64(outside_present)
    across = tl.cdiv(samples, BLOCK)
    row, column = tl.program_id(0) // across, tl.program_id(0) % across
    k = row.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    t = column.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    zero = tl.zeros((BLOCK, BLOCK), tl.float64)
    e1, e2, e3, e4, e5, e6, e7, e8 = zero, zero, zero, zero, zero, zero, zero, zero
    share = zero + 1.0
    order = tl.zeros((BLOCK,), tl.int64)
    for i in range(n):
        relevance = tl.load(relevances_ptr + i)
        own = bits_of(support_ptr, k, terms, words, i)  # (BLOCK,)
        there = bits_of(masks_ptr, t, samples, words, i) != 0  # (BLOCK,)
        within = relevance * tl.where(there, inside_present, inside_absent)
        share *= tl.where((own != 0)[:, None], within[None, :], 1.0)
        order += own
        if HIGHER > 0:
            beyond = relevance * tl.where(there, outside_present, outside_absent)
            x = tl.where((own != 0)[:, None], 0.0, beyond[None, :])
            e1, e2, e3, e4, e5, e6, e7, e8 = joined(x, e1, e2, e3, e4, e5, e6, e7, e8, HIGHER)
    total = part(zero + 1.0, share, order, variances_ptr, norms_ptr, 0, ORDERS)
    total += part(e1, share, order, variances_ptr, norms_ptr, 1, HIGHER)
    total += part(e2, share, order, variances_ptr, norms_ptr, 2, HIGHER)
    total += part(e3, share, order, variances_ptr, norms_ptr, 3, HIGHER)
    total += part(e4, share, order, variances_ptr, norms_ptr, 4, HIGHER)
    total += part(e5, share, order, variances_ptr, norms_ptr, 5, HIGHER)
    total += part(e6, share, order, variances_ptr, norms_ptr, 6, HIGHER)
    total += part(e7, share, order, variances_ptr, norms_ptr, 7, HIGHER)
    total += part(e8, share, order, variances_ptr, norms_ptr, 8, HIGHER)
    square = (k < terms)[:, None] & (t < samples)[None, :]
    tl.store(out_ptr + (k * samples)[:, None] + t[None, :], total, mask=square)


def anova_cross(
    masks: Tensor, support: Tensor, relevances: Tensor, variances: Tensor, bias: float
) -> Tensor:
    terms, samples, n, orders = len(support), len(masks), len(relevances), len(variances) - 1
    out = torch.empty(terms, samples, dtype=torch.float64, device=masks.device)
    support, masks, relevances = support.contiguous(), masks.contiguous(), relevances.contiguous()
    norms, variances = usable(norms_of(relevances, orders), variances)

    def run(tactic: dict) -> None:
        squares = triton.cdiv(terms, tactic["BLOCK"]) * triton.cdiv(samples, tactic["BLOCK"])
        _anova_cross_kernel[(squares,)](
            *(support, masks, relevances, variances, norms, out),
            *(terms, samples, masks.shape[1], n, *weights(bias)),
            ORDERS=orders,
            HIGHER=orders if bias else 0,
            **tactic,
        )

    if terms and samples:
        launch("anova_cross", TACTICS, (terms, samples, n, orders + 1), run, masks)
    return out


def weights(bias: float) -> tuple[float, float, float, float]:
    """What a feature of a term adds to a mask without it, with it, and a feature outside of it."""
    return (*(inside(z, bias) for z in (1, -1)), *(product(z, 0, bias) for z in (1, -1)))
