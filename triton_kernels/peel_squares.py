"""The least-squares fit of all terms to all bins, by conjugate gradients that stay on the device.

A term meets C P readings, so the normal matrix is applied by spreading the terms over the bins and
gathering them again; nothing larger than the bins is stored. The host looks every few steps whether
it is done.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .peel_bins import VALUES, signs_of

STEPS = 100  # at most
LOOK = 5  # steps between two looks


@triton.jit
def _spread_kernel(
    x_ptr,
    bits_ptr,
    entry_ptr,
    first_ptr,
    target_ptr,
    out_ptr,
    energy_ptr,
    bins,
    shifts,
    RESIDUAL: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """out (bins, P): the sum of x[s] times the signs of s over the terms s = entry[first[bin]] ...
    of each bin, in their order; with RESIDUAL what it leaves of the target, and its energy."""
    bin = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    p = tl.arange(0, BLOCK_P)
    inside = bin < bins
    start = tl.load(first_ptr + bin, mask=inside, other=0)
    count = tl.load(first_ptr + bin + 1, mask=inside, other=0) - start
    live = inside[:, None] & (p < shifts)[None, :]
    total = tl.zeros((BLOCK, BLOCK_P), tl.float64)
    for i in range(tl.max(count, axis=0)):
        term = tl.load(entry_ptr + start + i, mask=i < count, other=0)  # int64
        x = tl.load(x_ptr + term, mask=i < count, other=0.0)
        total += x[:, None] * signs_of(bits_ptr, term, p, WORDS, live)
    at = (bin * shifts)[:, None] + p[None, :]
    if RESIDUAL:
        total = tl.load(target_ptr + at, mask=live, other=0.0) - total
        tl.store(energy_ptr + bin, tl.sum(total * total, axis=1), mask=inside)
    tl.store(out_ptr + at, total, mask=live)


@triton.jit
def _gather_kernel(
    image_ptr,
    bins_ptr,
    bits_ptr,
    out_ptr,
    terms,
    shifts,
    groups,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """out[s]: the sum of all readings that term s meets, times its signs."""
    s = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    p = tl.arange(0, BLOCK_P)
    inside = s < terms
    live = inside[:, None] & (p < shifts)[None, :]
    total = tl.zeros((BLOCK, BLOCK_P), tl.float64)
    for g in range(groups):
        bin = tl.load(bins_ptr + s * groups + g, mask=inside, other=0).to(tl.int64)
        at = image_ptr + (bin * shifts)[:, None] + p[None, :]
        total += tl.load(at, mask=live, other=0.0)
    total *= signs_of(bits_ptr, s, p, WORDS, live)
    tl.store(out_ptr + s, tl.sum(total, axis=1), mask=inside)


@triton.jit
def _conjugate_kernel(
    x_ptr, step_ptr, slope_ptr, turned_ptr, state_ptr, terms, BLOCK: tl.constexpr
):
    """One step of conjugate gradients, in one program; none where the slope is at its goal.
    state: |slope|**2, and its goal."""
    size, goal = tl.load(state_ptr), tl.load(state_ptr + 1)
    at = tl.arange(0, BLOCK)
    if size > goal:
        inner = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, terms, BLOCK):
            s = start + at
            step = tl.load(step_ptr + s, mask=s < terms, other=0.0)
            inner += step * tl.load(turned_ptr + s, mask=s < terms, other=0.0)
        length = size / tl.sum(inner, axis=0)
        square = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, terms, BLOCK):
            s = start + at
            inside = s < terms
            x = tl.load(x_ptr + s, mask=inside, other=0.0)
            step = tl.load(step_ptr + s, mask=inside, other=0.0)
            tl.store(x_ptr + s, x + length * step, mask=inside)
            slope = tl.load(slope_ptr + s, mask=inside, other=0.0)
            slope -= length * tl.load(turned_ptr + s, mask=inside, other=0.0)
            tl.store(slope_ptr + s, slope, mask=inside)
            square += slope * slope
        left = tl.sum(square, axis=0)
        tl.debug_barrier()  # the slope is read back by other threads
        for start in range(0, terms, BLOCK):
            s = start + at
            step = tl.load(step_ptr + s, mask=s < terms, other=0.0)
            slope = tl.load(slope_ptr + s, mask=s < terms, other=0.0)
            tl.store(step_ptr + s, slope + left / size * step, mask=s < terms)
        tl.store(state_ptr, left)


def fit(
    target: Tensor, residual: Tensor, energy: Tensor, bins: Tensor, bits: Tensor, coefs: Tensor
) -> Tensor:
    """The coefficients that explain `target` (bins, P) best, from `coefs` (S,) on; what they leave
    of it goes into residual and energy.

    Args: bins int32 (S, C), bits (S, WORDS): of the terms.
    """
    (size, shifts), (terms, groups) = target.shape, bins.shape
    order = bins.flatten().argsort(stable=True)
    ends = torch.arange(size + 1, device=target.device, dtype=torch.int32)
    first = torch.searchsorted(bins.flatten()[order], ends)  # (size + 1,)
    entry = order // groups
    block_p = triton.next_power_of_2(shifts)
    how = {"WORDS": bits.shape[1], "BLOCK": max(1, VALUES // block_p), "BLOCK_P": block_p}

    def spread(x: Tensor, out: Tensor, whole: bool) -> None:
        _spread_kernel[(triton.cdiv(size, how["BLOCK"]),)](
            *(x, bits, entry, first, target, out, energy, size, shifts), RESIDUAL=whole, **how
        )

    def gather(image: Tensor, out: Tensor) -> None:
        if terms:
            _gather_kernel[(triton.cdiv(terms, how["BLOCK"]),)](
                *(image, bins, bits, out, terms, shifts, groups), **how
            )

    x, slope, turned = coefs.clone(), torch.empty_like(coefs), torch.empty_like(coefs)
    spread(x, residual, True)
    gather(residual, slope)
    step, image = slope.clone(), torch.empty_like(target)
    goal = 1e-31 * (groups * shifts) ** 2 * x.square().sum()
    state = torch.stack([slope.square().sum(), goal])
    for i in range(STEPS):
        if i % LOOK == 0 and not bool(state[0] > state[1]):
            break
        spread(step, image, False)
        gather(image, turned)
        _conjugate_kernel[(1,)](x, step, slope, turned, state, terms, BLOCK=1024)
    spread(x, residual, True)
    return x
