"""parity_adjoint: the parities of parity_bits, a block of masks at a time, and signed sums of
values, in an order that is written out here: no reduction is left to the compiler."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .parity_bits import SPAN, parity_blocks
from .tactics import launch

LANES = 1024  # sums of a span that are made beside each other, then pairwise added
TACTICS = [
    {"BLOCK_S": 2, "num_warps": 4},
    {"BLOCK_S": 1, "num_warps": 4},
    {"BLOCK_S": 4, "num_warps": 8},
]
SUM_TACTICS = [{"BLOCK_S": 256, "num_warps": 4}]


@triton.jit
def _parity_adjoint_kernel(
    bits_ptr,
    values_ptr,
    out_ptr,
    terms,
    samples,
    halves,
    SPAN: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """One program a block of terms and a span of masks; bits int32 (terms, halves), 32 masks in
    each; out (spans, terms)."""
    span = tl.program_id(1).to(tl.int64)
    s = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)  # (BLOCK_S,)
    lane = tl.arange(0, LANES)
    place = lane % 32
    total = tl.zeros((BLOCK_S, LANES), tl.float64)
    for start in range(0, tl.minimum(SPAN, samples - span * SPAN), LANES):
        t = span * SPAN + start + lane  # (LANES,)
        value = tl.load(values_ptr + t, mask=t < samples, other=0.0)[None, :]
        at = bits_ptr + (s * halves)[:, None] + (t // 32)[None, :]
        word = tl.load(at, mask=(s < terms)[:, None] & (t < samples)[None, :], other=0)
        total += tl.where((word >> place[None, :]) & 1 == 1, -value, value)
    for i in tl.static_range(LANES.bit_length() - 1):  # a sum of two has one order
        total = tl.sum(tl.reshape(total, (BLOCK_S, 2, LANES >> (i + 1))), axis=1)
    total = tl.reshape(total, (BLOCK_S,))
    tl.store(out_ptr + span * terms + s, total, mask=s < terms)


@triton.jit
def _sum_rows_kernel(x_ptr, out_ptr, rows, columns, BLOCK_S: tl.constexpr):
    """x (rows, columns), added from the first row to the last."""
    s = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)  # (BLOCK_S,)
    total = tl.zeros((BLOCK_S,), tl.float64)
    for row in range(rows):
        at = x_ptr + tl.cast(row, tl.int64) * columns + s
        total += tl.load(at, mask=s < columns, other=0.0)
    tl.store(out_ptr + s, total, mask=s < columns)


def parity_adjoint(masks: Tensor, support: Tensor, values: Tensor) -> Tensor:
    values, (samples, terms) = values.contiguous(), (len(masks), len(support))
    spans = triton.cdiv(samples, SPAN)
    parts = values.new_zeros(spans, terms)
    out = torch.zeros(terms, dtype=torch.float64, device=masks.device)
    for start, count, bits in parity_blocks(masks, support):

        def run(tactic: dict, start=start, count=count, bits=bits) -> None:
            grid = triton.cdiv(terms, tactic["BLOCK_S"]), triton.cdiv(count, SPAN)
            _parity_adjoint_kernel[grid](
                *(bits, values[start:], parts[start // SPAN :], terms, count, bits.shape[1]),
                **{"SPAN": SPAN, "LANES": LANES, **tactic},
            )

        launch("parity_adjoint", TACTICS, (count, terms), run, out)

    def add(tactic: dict) -> None:
        grid = (triton.cdiv(terms, tactic["BLOCK_S"]),)
        _sum_rows_kernel[grid](parts, out, spans, terms, **tactic)

    if terms:
        launch("sum_rows", SUM_TACTICS, (spans, terms), add, out)
    return out
