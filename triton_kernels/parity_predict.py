"""parity_predict: the parities of parity_bits, a block of masks at a time, and signed sums of
coefficients, each in the order of the terms."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .parity_bits import parity_blocks
from .tactics import launch

TACTICS = [
    {"BLOCK_T": 256, "UNROLL": 8, "num_warps": 4},
    {"BLOCK_T": 128, "UNROLL": 8, "num_warps": 4},
    {"BLOCK_T": 512, "UNROLL": 4, "num_warps": 4},
]


@triton.jit
def _parity_predict_kernel(
    bits_ptr,
    coefs_ptr,
    out_ptr,
    terms,
    samples,
    halves,
    BLOCK_T: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """One program a block of masks; bits int32 (terms, halves), 32 masks in each."""
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)  # (BLOCK_T,)
    inside, place = t < samples, (t % 32).to(tl.int32)
    word_ptr = bits_ptr + t // 32
    total = tl.zeros((BLOCK_T,), tl.float64)
    for first in range(0, terms, UNROLL):
        for i in tl.static_range(UNROLL):
            s = tl.cast(first + i, tl.int64)
            word = tl.load(word_ptr + s * halves, mask=inside & (s < terms), other=0)
            coef = tl.load(coefs_ptr + s, mask=s < terms, other=0.0)
            total += tl.where((word >> place) & 1 == 1, -coef, coef)
    tl.store(out_ptr + t, total, mask=inside)


def parity_predict(masks: Tensor, support: Tensor, coefs: Tensor) -> Tensor:
    coefs, terms = coefs.contiguous(), len(support)
    out = torch.zeros(len(masks), dtype=torch.float64, device=masks.device)
    for start, samples, bits in parity_blocks(masks, support):

        def run(tactic: dict, start=start, samples=samples, bits=bits) -> None:
            _parity_predict_kernel[(triton.cdiv(samples, tactic["BLOCK_T"]),)](
                bits, coefs, out[start:], terms, samples, bits.shape[1], **tactic
            )

        launch("parity_predict", TACTICS, (samples, terms), run, out)
    return out
