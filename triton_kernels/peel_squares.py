"""The least-squares fit of all terms to all bins, of several outputs at once, by conjugate
gradients that stay on the device.

A term meets C P readings, so the normal matrix is applied by spreading the terms over the bins and
gathering them again; nothing larger than the bins is stored. The host looks every few steps whether
it is done.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..transfers import up
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
    offset_ptr,
    bins,
    shifts,
    RESIDUAL: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """out (all bins, P), the bins of output o from offset[o] on: the sum of x[s] times the signs of
    s over the terms s = entry[first[o, bin]] ... of each bin, in their order; with RESIDUAL what it
    leaves of the target, and its energy."""
    o = tl.program_id(1).to(tl.int64)
    bin = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    p = tl.arange(0, BLOCK_P)
    inside = bin < bins
    at_first = first_ptr + o * (bins + 1) + bin
    start = tl.load(at_first, mask=inside, other=0)
    count = tl.load(at_first + 1, mask=inside, other=0) - start
    bin += tl.load(offset_ptr + o)
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
    x_ptr, step_ptr, slope_ptr, turned_ptr, state_ptr, ends_ptr, BLOCK: tl.constexpr
):
    """One step of conjugate gradients for the terms ends[o] .. ends[o + 1] - 1 of output o, in one
    program; none where the slope is at its goal. state (outputs, 2): |slope|**2, and its goal."""
    o = tl.program_id(0)
    size, goal = tl.load(state_ptr + 2 * o), tl.load(state_ptr + 2 * o + 1)
    begin, end = tl.load(ends_ptr + o), tl.load(ends_ptr + o + 1)  # int64
    at = tl.arange(0, BLOCK)
    if size > goal:
        inner = tl.zeros((BLOCK,), tl.float64)
        for start in range(begin, end, BLOCK):
            s = start + at
            step = tl.load(step_ptr + s, mask=s < end, other=0.0)
            inner += step * tl.load(turned_ptr + s, mask=s < end, other=0.0)
        length = size / tl.sum(inner, axis=0)
        square = tl.zeros((BLOCK,), tl.float64)
        for start in range(begin, end, BLOCK):
            s = start + at
            inside = s < end
            x = tl.load(x_ptr + s, mask=inside, other=0.0)
            step = tl.load(step_ptr + s, mask=inside, other=0.0)
            tl.store(x_ptr + s, x + length * step, mask=inside)
            slope = tl.load(slope_ptr + s, mask=inside, other=0.0)
            slope -= length * tl.load(turned_ptr + s, mask=inside, other=0.0)
            tl.store(slope_ptr + s, slope, mask=inside)
            square += slope * slope
        left = tl.sum(square, axis=0)
        tl.debug_barrier()  # the slope is read back by other threads
        for start in range(begin, end, BLOCK):
            s = start + at
            step = tl.load(step_ptr + s, mask=s < end, other=0.0)
            slope = tl.load(slope_ptr + s, mask=s < end, other=0.0)
            tl.store(step_ptr + s, slope + left / size * step, mask=s < end)
        tl.store(state_ptr + 2 * o, left)


class Terms(NamedTuple):
    """Those of one output: the bins that they fall in, of all, int32 (S, C), their signs as bits
    (S, WORDS), and coefficients to start from (S,); and the first of its bins."""

    bins: Tensor
    bits: Tensor
    coefs: Tensor
    offset: int


def fit(
    target: Tensor, residual: Tensor, energy: Tensor, size: int, outputs: list[Terms]
) -> list[Tensor]:
    """For each of several outputs, of `size` bins each, the coefficients that explain its bins of
    `target` (all bins, P) best; what they leave goes into residual and energy."""
    device, shifts = target.device, target.shape[1]
    groups, counts = outputs[0].bins.shape[1], [len(own.coefs) for own in outputs]
    bins, bits, x = (torch.cat([own[i] for own in outputs]) for i in range(3))
    ends = [0, *accumulate(counts)]
    edges = torch.arange(size + 1, device=device, dtype=torch.int32)
    order = [own.bins.flatten().argsort(stable=True) for own in outputs]
    first = torch.stack(
        [
            torch.searchsorted(own.bins.flatten()[rows], edges + own.offset) + groups * end
            for own, rows, end in zip(outputs, order, ends, strict=False)
        ]
    )  # (outputs, size + 1)
    entry = torch.cat([rows // groups + end for rows, end in zip(order, ends, strict=False)])
    offsets = up(torch.tensor([own.offset for own in outputs]), device)
    bounds = up(torch.tensor(ends), device)
    block_p = triton.next_power_of_2(shifts)
    how = {"WORDS": bits.shape[1], "BLOCK": max(1, VALUES // block_p), "BLOCK_P": block_p}

    def spread(x: Tensor, out: Tensor, whole: bool) -> None:
        _spread_kernel[(triton.cdiv(size, how["BLOCK"]), len(outputs))](
            *(x, bits, entry, first, target, out, energy, offsets, size, shifts),
            RESIDUAL=whole,
            **how,
        )

    def gather(image: Tensor, out: Tensor) -> None:
        if len(x):
            _gather_kernel[(triton.cdiv(len(x), how["BLOCK"]),)](
                *(image, bins, bits, out, len(x), shifts, groups), **how
            )

    def squares(x: Tensor) -> Tensor:
        """Of each output, from memory of its own: the order of a sum may go by addresses."""
        return torch.stack([part.clone().square().sum() for part in x.split(counts)])

    slope, turned = torch.empty_like(x), torch.empty_like(x)
    spread(x, residual, True)
    gather(residual, slope)
    step, image = slope.clone(), torch.empty_like(target)
    goal = 1e-31 * (groups * shifts) ** 2 * squares(x)
    state = torch.stack([squares(slope), goal], 1)
    for i in range(STEPS):
        if i % LOOK == 0 and not bool((state[:, 0] > state[:, 1]).any()):
            break
        spread(step, image, False)
        gather(image, turned)
        _conjugate_kernel[(len(outputs),)](x, step, slope, turned, state, bounds, BLOCK=1024)
    spread(x, residual, True)
    return list(x.split(counts))
