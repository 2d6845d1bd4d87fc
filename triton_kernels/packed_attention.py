"""packed_attention: a softmax that is kept while blocks of keys go by, for sequences end to end."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from . import on_device_of

ALIGNED = 16  # of addresses in bytes, and of strides in values: what Triton makes vectors of


@triton.jit
def _sequence_of(row, starts_ptr, sequences):
    """The last sequence that starts at the row or before it; whatever starts holds, one of them."""
    low, high = 0, sequences
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(starts_ptr + middle) <= row
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def _packed_attention_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    starts_ptr,
    out_ptr,
    rows,
    sequences,
    heads,
    groups,
    query_row,
    query_head,
    key_row,
    key_head,
    value_row,
    value_head,
    scale,
    CAUSAL: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a block of rows, a head and BLOCK_D columns of out; it goes through the sequences
    that the block has, the keys of each in blocks. Scores are of powers of two."""
    chunks: tl.constexpr = (DIM + BLOCK_D - 1) // BLOCK_D
    program = tl.program_id(0)
    chunk, head, block = program % chunks, program // chunks % heads, program // chunks // heads
    row = block.to(tl.int64) * BLOCK_Q
    i = row + tl.arange(0, BLOCK_Q)  # (BLOCK_Q,)
    stop = tl.minimum(row + BLOCK_Q, rows)
    d = tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    column = chunk * BLOCK_D + d  # (BLOCK_D,)
    query_ptr += head.to(tl.int64) * query_head
    key_ptr += (head // groups).to(tl.int64) * key_head
    value_ptr += (head // groups).to(tl.int64) * value_head
    q_ptr = query_ptr + i[:, None] * query_row + d[None, :]  # (BLOCK_Q, BLOCK_D)
    q = tl.load(q_ptr, mask=(i < rows)[:, None] & (d < DIM)[None, :], other=0.0)
    while row < stop:
        t = _sequence_of(row, starts_ptr, sequences)
        begin = tl.load(starts_ptr + t).to(tl.int64)
        end = tl.load(starts_ptr + t + 1).to(tl.int64)
        known = (begin >= 0) & (begin <= row) & (row < end) & (end <= rows)
        last = tl.where(known, tl.minimum(end, stop), row + 1)
        past = tl.where(known, last if CAUSAL else end, begin)  # the last key that counts, and 1
        most = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_Q,), tl.float32)
        sums = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
        for offset in range(0, (past - begin).to(tl.int32), BLOCK_K):
            k = begin + offset + tl.arange(0, BLOCK_K)  # (BLOCK_K,)
            k_ptr = key_ptr + k[None, :] * key_row  # (1, BLOCK_K)
            there = (k < past)[None, :]
            keys = tl.load(k_ptr + d[:, None], mask=(d < DIM)[:, None] & there, other=0.0)
            z = tl.dot(q, keys, input_precision="ieee")  # (BLOCK_Q, BLOCK_K)
            if DIM > BLOCK_D:  # at run time, or the buffers of all parts would have to fit
                for further in range(BLOCK_D, DIM, BLOCK_D):
                    e = further + d  # (BLOCK_D,)
                    inside = (i < rows)[:, None] & (e < DIM)[None, :]
                    more = tl.load(q_ptr + further, mask=inside, other=0.0)
                    keys = tl.load(k_ptr + e[:, None], mask=(e < DIM)[:, None] & there, other=0.0)
                    z = tl.dot(more, keys, z, input_precision="ieee")
            if CAUSAL:  # rows before the sequence, which are not stored, see its first key
                there = there & (k[None, :] <= tl.maximum(i, begin)[:, None])
            z = tl.where(there, z, float("-inf"))
            now = tl.maximum(most, tl.max(z, axis=1))  # (BLOCK_Q,)
            base = tl.where(now == float("-inf"), 0.0, now)
            kept = tl.exp2((most - base) * scale)
            weights = tl.exp2((z - base[:, None]) * scale)  # (BLOCK_Q, BLOCK_K)
            total = total * kept + tl.sum(weights, axis=1)
            v_ptr = value_ptr + k[:, None] * value_row + column[None, :]  # (BLOCK_K, BLOCK_D)
            inside = (k < past)[:, None] & (column < DIM)[None, :]
            values = tl.load(v_ptr, mask=inside, other=0.0)
            high = weights.to(values.dtype)
            sums = tl.dot(high, values, sums * kept[:, None], input_precision="ieee")
            if values.dtype != tl.float32:  # what rounding has taken from the weights
                low = (weights - high.to(tl.float32)).to(values.dtype)
                sums = tl.dot(low, values, sums, input_precision="ieee")
            most = now
        mean = tl.where(known, sums / tl.where(known, total, 1.0)[:, None], float("nan"))
        mine = ((i >= row) & (i < last))[:, None] & (column < DIM)[None, :]
        out = out_ptr + (i[:, None] * heads + head) * DIM + column[None, :]
        tl.store(out, mean.to(out_ptr.dtype.element_ty), mask=mine)
        row = last


def shape(width: int, dtype: torch.dtype) -> dict[str, int]:
    """Queries and keys of a block, how many columns of the width at once, and warps."""
    columns = triton.next_power_of_2(width)
    if dtype == torch.float32:
        keys = 32 if columns <= 64 else 16
        return {"BLOCK_Q": 64, "BLOCK_K": keys, "BLOCK_D": min(columns, 64), "num_warps": 8}
    warps = 4 if columns <= 64 else 8
    return {"BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": min(columns, 128), "num_warps": warps}


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, causal: bool, scale: float
) -> Tensor:
    (rows, heads, dim), groups = query.shape, query.shape[1] // key.shape[1]
    width = triton.cdiv(dim, ALIGNED) * ALIGNED
    given = [aligned(x, width) for x in (query, key, value)]
    out = given[0].new_empty((rows, heads, width))
    if rows:
        how = shape(width, given[0].dtype)
        blocks, chunks = triton.cdiv(rows, how["BLOCK_Q"]), triton.cdiv(width, how["BLOCK_D"])
        with on_device_of(query):
            _packed_attention_kernel[(blocks * heads * chunks,)](
                *(*given, starts.contiguous(), out, rows, len(starts) - 1, heads, groups),
                *(stride for x in given for stride in x.stride()[:2]),
                scale * math.log2(math.e),
                CAUSAL=causal,
                DIM=width,
                **how,
            )
    return out[..., :dim].contiguous().to(query.dtype)


def aligned(x: Tensor, width: int) -> Tensor:
    """x where its rows can be read in vectors, else a copy that can, with zeros up to `width`."""
    if x.dtype == torch.bfloat16 and not x.is_cuda:  # the interpreter would multiply its bits
        x = x.float()
    *strides, last = x.stride()
    if x.shape[2] == width and last == 1 and not any(y % ALIGNED for y in (x.data_ptr(), *strides)):
        return x
    return pad(x, (0, width - x.shape[2])).contiguous()
