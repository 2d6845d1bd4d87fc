"""anova_kernel and its gradient: elementary symmetric polynomials of pairs of masks, feature by
feature, in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference_gp import product
from . import on_device_of
from .tactics import launch

TACTICS = [{"BLOCK": 32, "num_warps": 8}, {"BLOCK": 16, "num_warps": 4}]
SQUARE = 16  # masks on a side of what a program of the gradient has at a time
WARPS = 4
LANES = 64  # features that a program of the gradient of the norms has
KEPT = 1 << 29  # bytes that all programs of the gradient keep, at most


@triton.jit
def float64(x):
    """A number of the host, of which Triton's interpreter would make a float32."""
    return tl.full((), x, tl.float64)


@triton.jit
def bits_of(masks_ptr, rows, count, words, i):
    """Bit i of the masks `rows`, 0 beyond `count`."""
    word = tl.load(masks_ptr + rows * words + i // 64, mask=rows < count, other=0)
    return (word >> i % 64) & 1


@triton.jit
def unit(masks_ptr, others_ptr, s, t, rows, columns, words, i, neither, one, both):
    """u of feature i: which of three it is, by how many of masks s and others t have it."""
    here = bits_of(masks_ptr, s, rows, words, i)[:, None]  # (BLOCK, 1)
    there = bits_of(others_ptr, t, columns, words, i)[None, :]  # (1, BLOCK)
    return tl.where(here != there, one, tl.where(here + there != 0, both, neither))


@triton.jit
def joined(x, e1, e2, e3, e4, e5, e6, e7, e8, ORDERS: tl.constexpr):
    """e_1 .. e_ORDERS with one variable more: e_d += x e_(d-1)."""
    if ORDERS >= 8:
        e8 += x * e7
    if ORDERS >= 7:
        e7 += x * e6
    if ORDERS >= 6:
        e6 += x * e5
    if ORDERS >= 5:
        e5 += x * e4
    if ORDERS >= 4:
        e4 += x * e3
    if ORDERS >= 3:
        e3 += x * e2
    if ORDERS >= 2:
        e2 += x * e1
    return e1 + x, e2, e3, e4, e5, e6, e7, e8


@triton.jit
def share(e, norms_ptr, D: tl.constexpr, ORDERS: tl.constexpr):
    """e / norms[D], 0 beyond the orders."""
    if D > ORDERS:
        return tl.zeros_like(e)
    return e / tl.load(norms_ptr + D)


@triton.jit
def scaled(e, variances_ptr, D: tl.constexpr, ORDERS: tl.constexpr):
    """e variances[D], 0 beyond the orders."""
    if D > ORDERS:
        return tl.zeros_like(e)
    return e * tl.load(variances_ptr + D)


@triton.jit
def _anova_kernel_kernel(
    masks_ptr,
    others_ptr,
    relevances_ptr,
    variances_ptr,
    norms_ptr,
    out_ptr,
    rows,
    columns,
    words,
    n,
    neither: tl.float64,
    one: tl.float64,
    both: tl.float64,
    SAME: tl.constexpr,
    ORDERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a square of pairs and, where both sides are the SAME, its mirror image."""
    neither, one, both = float64(neither), float64(one), float64(both)
    across = tl.cdiv(columns, BLOCK)
    row, column = tl.program_id(0) // across, tl.program_id(0) % across
    if SAME * row <= column:
        s = row.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
        t = column.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
        zero = tl.zeros((BLOCK, BLOCK), tl.float64)
        e1, e2, e3, e4, e5, e6, e7, e8 = zero, zero, zero, zero, zero, zero, zero, zero
        for i in range(n):
            u = unit(masks_ptr, others_ptr, s, t, rows, columns, words, i, neither, one, both)
            x = u * tl.load(relevances_ptr + i)
            e1, e2, e3, e4, e5, e6, e7, e8 = joined(x, e1, e2, e3, e4, e5, e6, e7, e8, ORDERS)
        total = zero + tl.load(variances_ptr)
        total += scaled(share(e1, norms_ptr, 1, ORDERS), variances_ptr, 1, ORDERS)
        total += scaled(share(e2, norms_ptr, 2, ORDERS), variances_ptr, 2, ORDERS)
        total += scaled(share(e3, norms_ptr, 3, ORDERS), variances_ptr, 3, ORDERS)
        total += scaled(share(e4, norms_ptr, 4, ORDERS), variances_ptr, 4, ORDERS)
        total += scaled(share(e5, norms_ptr, 5, ORDERS), variances_ptr, 5, ORDERS)
        total += scaled(share(e6, norms_ptr, 6, ORDERS), variances_ptr, 6, ORDERS)
        total += scaled(share(e7, norms_ptr, 7, ORDERS), variances_ptr, 7, ORDERS)
        total += scaled(share(e8, norms_ptr, 8, ORDERS), variances_ptr, 8, ORDERS)
        square = (s < rows)[:, None] & (t < columns)[None, :]
        tl.store(out_ptr + (s * columns)[:, None] + t[None, :], total, mask=square)
        if SAME:
            tl.store(out_ptr + (t * columns)[None, :] + s[:, None], total, mask=square)


@triton.jit
def keep(kept_ptr, at, e, D: tl.constexpr, ORDERS: tl.constexpr, AREA: tl.constexpr):
    """kept[D - 1] = e, for D below ORDERS."""
    if D < ORDERS:
        tl.store(kept_ptr + (D - 1) * AREA + at, e)


@triton.jit
def back(kept_ptr, at, a, D: tl.constexpr, ORDERS: tl.constexpr, AREA: tl.constexpr):
    """a kept[D - 1], for D below ORDERS, else 0."""
    if D >= ORDERS:
        return tl.zeros_like(a)
    return a * tl.load(kept_ptr + (D - 1) * AREA + at)


@triton.jit
def add_sum(part_ptr, x):
    """part[0] += the sum of x."""
    tl.store(part_ptr, tl.load(part_ptr) + tl.sum(x))


@triton.jit
def _anova_grad_kernel(
    masks_ptr,
    others_ptr,
    relevances_ptr,
    variances_ptr,
    norms_ptr,
    weights_ptr,
    kept_ptr,
    parts_ptr,
    rows,
    columns,
    words,
    n,
    neither: tl.float64,
    one: tl.float64,
    both: tl.float64,
    SAME: tl.constexpr,
    ORDERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program every so manieth square of pairs: parts (programs, n + ORDERS + 1), by relevance
    at fixed norms, then by variance. The polynomials before each feature are kept (n, ORDERS - 1,
    BLOCK, BLOCK) for the way back, where a_d is the slope by e_d."""
    AREA: tl.constexpr = BLOCK * BLOCK
    neither, one, both = float64(neither), float64(one), float64(both)
    program = tl.program_id(0).to(tl.int64)
    kept = kept_ptr + program * n * (ORDERS - 1) * AREA
    part = parts_ptr + program * (n + ORDERS + 1)
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    across = tl.cdiv(columns, BLOCK)
    for square in range(tl.program_id(0), tl.cdiv(rows, BLOCK) * across, tl.num_programs(0)):
        if SAME * (square // across) <= square % across:
            s = (square // across).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
            t = (square % across).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
            zero = tl.zeros((BLOCK, BLOCK), tl.float64)
            e1, e2, e3, e4, e5, e6, e7, e8 = zero, zero, zero, zero, zero, zero, zero, zero
            for i in range(n):
                before = kept + i * (ORDERS - 1) * AREA
                keep(before, at, e1, 1, ORDERS, AREA)
                keep(before, at, e2, 2, ORDERS, AREA)
                keep(before, at, e3, 3, ORDERS, AREA)
                keep(before, at, e4, 4, ORDERS, AREA)
                keep(before, at, e5, 5, ORDERS, AREA)
                keep(before, at, e6, 6, ORDERS, AREA)
                keep(before, at, e7, 7, ORDERS, AREA)
                u = unit(masks_ptr, others_ptr, s, t, rows, columns, words, i, neither, one, both)
                x = u * tl.load(relevances_ptr + i)
                e1, e2, e3, e4, e5, e6, e7, e8 = joined(x, e1, e2, e3, e4, e5, e6, e7, e8, ORDERS)
            inside = (s < rows)[:, None] & (t < columns)[None, :]
            where = (s * columns)[:, None] + t[None, :]
            weight = tl.load(weights_ptr + where, mask=inside, other=0.0)
            add_sum(part + n, weight)
            for_orders = part + n
            add_order(for_orders, weight, e1, norms_ptr, 1, ORDERS)
            add_order(for_orders, weight, e2, norms_ptr, 2, ORDERS)
            add_order(for_orders, weight, e3, norms_ptr, 3, ORDERS)
            add_order(for_orders, weight, e4, norms_ptr, 4, ORDERS)
            add_order(for_orders, weight, e5, norms_ptr, 5, ORDERS)
            add_order(for_orders, weight, e6, norms_ptr, 6, ORDERS)
            add_order(for_orders, weight, e7, norms_ptr, 7, ORDERS)
            add_order(for_orders, weight, e8, norms_ptr, 8, ORDERS)
            a1 = share(scaled(weight, variances_ptr, 1, ORDERS), norms_ptr, 1, ORDERS)
            a2 = share(scaled(weight, variances_ptr, 2, ORDERS), norms_ptr, 2, ORDERS)
            a3 = share(scaled(weight, variances_ptr, 3, ORDERS), norms_ptr, 3, ORDERS)
            a4 = share(scaled(weight, variances_ptr, 4, ORDERS), norms_ptr, 4, ORDERS)
            a5 = share(scaled(weight, variances_ptr, 5, ORDERS), norms_ptr, 5, ORDERS)
            a6 = share(scaled(weight, variances_ptr, 6, ORDERS), norms_ptr, 6, ORDERS)
            a7 = share(scaled(weight, variances_ptr, 7, ORDERS), norms_ptr, 7, ORDERS)
            a8 = share(scaled(weight, variances_ptr, 8, ORDERS), norms_ptr, 8, ORDERS)
            tl.debug_barrier()  # what is kept has been written
            for back_by in range(n):
                i = n - 1 - back_by
                before = kept + i * (ORDERS - 1) * AREA
                slope = a1 + back(before, at, a2, 1, ORDERS, AREA)
                slope += back(before, at, a3, 2, ORDERS, AREA)
                slope += back(before, at, a4, 3, ORDERS, AREA)
                slope += back(before, at, a5, 4, ORDERS, AREA)
                slope += back(before, at, a6, 5, ORDERS, AREA)
                slope += back(before, at, a7, 6, ORDERS, AREA)
                slope += back(before, at, a8, 7, ORDERS, AREA)
                u = unit(masks_ptr, others_ptr, s, t, rows, columns, words, i, neither, one, both)
                add_sum(part + i, u * slope)
                x = u * tl.load(relevances_ptr + i)
                a1 += x * a2
                a2 += x * a3
                a3 += x * a4
                a4 += x * a5
                a5 += x * a6
                a6 += x * a7
                a7 += x * a8
            tl.debug_barrier()  # and has been read, before the next square


@triton.jit
def add_order(part_ptr, weight, e, norms_ptr, D: tl.constexpr, ORDERS: tl.constexpr):
    """part[D] += the sum of weight e / norms[D]."""
    if D <= ORDERS:
        add_sum(part_ptr + D, weight * share(e, norms_ptr, D, ORDERS))


@triton.jit
def put(out_ptr, x, D: tl.constexpr, ORDERS: tl.constexpr):
    """out[D] = x, unless it is beyond the orders."""
    if D <= ORDERS:
        tl.store(out_ptr + D, x)


@triton.jit
def _norms_kernel(relevances_ptr, norms_ptr, n, ORDERS: tl.constexpr):
    """One program: e_0 .. e_ORDERS of the relevances, the largest that those of a pair can be."""
    zero = tl.full((), 0.0, tl.float64)
    e1, e2, e3, e4, e5, e6, e7, e8 = zero, zero, zero, zero, zero, zero, zero, zero
    for i in range(n):
        x = tl.load(relevances_ptr + i)
        e1, e2, e3, e4, e5, e6, e7, e8 = joined(x, e1, e2, e3, e4, e5, e6, e7, e8, ORDERS)
    put(norms_ptr, zero + 1.0, 0, ORDERS)
    put(norms_ptr, e1, 1, ORDERS)
    put(norms_ptr, e2, 2, ORDERS)
    put(norms_ptr, e3, 3, ORDERS)
    put(norms_ptr, e4, 4, ORDERS)
    put(norms_ptr, e5, 5, ORDERS)
    put(norms_ptr, e6, 6, ORDERS)
    put(norms_ptr, e7, 7, ORDERS)
    put(norms_ptr, e8, 8, ORDERS)


@triton.jit
def _norms_grad_kernel(
    relevances_ptr, slopes_ptr, out_ptr, n, ORDERS: tl.constexpr, BLOCK: tl.constexpr
):
    """out[i] = the derivative by relevance i of sum_d slopes[d] e_d, which is the sum over d of
    slopes[d] e_(d-1) of all relevances but it."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    zero = tl.zeros((BLOCK,), tl.float64)
    e1, e2, e3, e4, e5, e6, e7, e8 = zero, zero, zero, zero, zero, zero, zero, zero
    for j in range(n):
        x = tl.where(i == j, 0.0, tl.load(relevances_ptr + j))
        e1, e2, e3, e4, e5, e6, e7, e8 = joined(x, e1, e2, e3, e4, e5, e6, e7, e8, ORDERS)
    total = scaled(zero + 1.0, slopes_ptr, 1, ORDERS)
    total += scaled(e1, slopes_ptr, 2, ORDERS)
    total += scaled(e2, slopes_ptr, 3, ORDERS)
    total += scaled(e3, slopes_ptr, 4, ORDERS)
    total += scaled(e4, slopes_ptr, 5, ORDERS)
    total += scaled(e5, slopes_ptr, 6, ORDERS)
    total += scaled(e6, slopes_ptr, 7, ORDERS)
    total += scaled(e7, slopes_ptr, 8, ORDERS)
    tl.store(out_ptr + i, total, mask=i < n)


def anova_kernel(
    masks: Tensor, others: Tensor, relevances: Tensor, variances: Tensor, bias: float = 0.0
) -> Tensor:
    rows, columns, n = len(masks), len(others), len(relevances)
    same = others is masks
    out = torch.empty(rows, columns, dtype=torch.float64, device=masks.device)
    masks, others, relevances = masks.contiguous(), others.contiguous(), relevances.contiguous()
    norms, variances = usable(norms_of(relevances, len(variances) - 1), variances)

    def run(tactic: dict) -> None:
        squares = triton.cdiv(rows, tactic["BLOCK"]) * triton.cdiv(columns, tactic["BLOCK"])
        _anova_kernel_kernel[(squares,)](
            *(masks, others, relevances, variances, norms, out, rows, columns, masks.shape[1], n),
            *units(bias),
            SAME=int(same),
            ORDERS=len(variances) - 1,
            **tactic,
        )

    if rows and columns:
        launch("anova_kernel", TACTICS, (rows, columns, n, len(variances)), run, masks)
    return out


def anova_kernel_grad(
    masks: Tensor,
    others: Tensor,
    relevances: Tensor,
    variances: Tensor,
    weights: Tensor,
    bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    rows, columns, n, orders = len(masks), len(others), len(relevances), len(variances) - 1
    same = others is masks
    if same:
        weights = weights.triu() + weights.tril(-1).T
    relevances = relevances.contiguous()
    norms, known = usable(norms_of(relevances, orders), variances)
    squares = triton.cdiv(rows, SQUARE) * triton.cdiv(columns, SQUARE)
    size = 8 * n * max(orders - 1, 1) * SQUARE**2
    programs = max(1, min(squares, KEPT // size))
    kept = torch.empty(programs * size // 8, dtype=torch.float64, device=masks.device)
    parts = kept.new_zeros(programs, n + orders + 1)
    if squares:
        with on_device_of(masks):
            _anova_grad_kernel[(programs,)](
                *(masks.contiguous(), others.contiguous(), relevances, known, norms),
                *(weights.contiguous(), kept, parts, rows, columns, masks.shape[1], n),
                *units(bias),
                SAME=int(same),
                ORDERS=orders,
                BLOCK=SQUARE,
                num_warps=WARPS,
            )
    total = parts.sum(0)
    by_relevance, by_variance = total[:n], total[n:]
    return by_relevance - norms_grad(relevances, by_variance * known / norms), by_variance


def units(bias: float) -> tuple[float, float, float]:
    """u of a feature that neither of two masks has, one of them, and both."""
    return product(1, 1, bias), product(1, -1, bias), product(-1, -1, bias)


def norms_of(relevances: Tensor, orders: int) -> Tensor:
    """e_0 .. e_orders of the relevances: (orders + 1,)."""
    norms = relevances.new_empty(orders + 1)
    with on_device_of(relevances):
        _norms_kernel[(1,)](relevances, norms, len(relevances), ORDERS=orders, num_warps=1)
    return norms


def usable(norms: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Norms, one where they are zero, and variances, zero there."""
    none = norms <= 0
    return norms.masked_fill(none, 1.0), variances.masked_fill(none, 0.0)


def norms_grad(relevances: Tensor, slopes: Tensor) -> Tensor:
    """The gradient of sum slopes[d] e_d(relevances): (n,)."""
    n, out = len(relevances), torch.empty_like(relevances)
    with on_device_of(relevances):
        _norms_grad_kernel[(triton.cdiv(n, LANES),)](
            *(relevances, slopes, out, n),
            ORDERS=len(slopes) - 1,
            BLOCK=LANES,
            num_warps=LANES // 32,
        )
    return out
