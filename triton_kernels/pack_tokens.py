"""pack_tokens: the kept tokens of every mask, one mask after another."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference_inference import offsets
from . import on_device_of
from .mask_lengths import mask_lengths

TOKENS = 256


@triton.jit
def kept_tokens(mask_ptr, owner_ptr, token, length, n):
    """Whether the mask at mask_ptr (W,) keeps each of `token` (BLOCK_L,): 0 or 1."""
    owner = tl.load(owner_ptr + token, mask=token < length, other=0)  # (BLOCK_L,)
    has_bit = (token < length) & (owner < n)
    word = tl.load(mask_ptr + owner // 64, mask=has_bit, other=0)  # (BLOCK_L,)
    always = (token < length) & (owner == n)
    return ((word >> (owner % 64)) & 1) | always.to(tl.int64)


@triton.jit
def _pack_tokens_kernel(
    masks_ptr,
    ids_ptr,
    owner_ptr,
    starts_ptr,
    first_ptr,
    shared_ptr,
    input_ids_ptr,
    position_ids_ptr,
    sequence_ptr,
    length,
    n,
    words,
    TRIE: tl.constexpr,
    ORIGINAL: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """One program a mask: its tokens; with TRIE those from first[t] on, at depth shared[t]."""
    t = tl.program_id(0).to(tl.int64)
    slot = tl.load(starts_ptr + t)
    first = tl.zeros((), tl.int64)
    depth = tl.zeros((), tl.int64)
    if TRIE:
        first = tl.load(first_ptr + t)
        depth = tl.load(shared_ptr + t)
    for start in range(0, length, BLOCK_L):
        token = start + tl.arange(0, BLOCK_L).to(tl.int64)  # (BLOCK_L,)
        keep = kept_tokens(masks_ptr + t * words, owner_ptr, token, length, n)
        keep = tl.where(token >= first, keep, 0)  # (BLOCK_L,)
        before = tl.cumsum(keep, axis=0) - keep  # (BLOCK_L,)
        at = slot + before
        write = keep == 1
        ids = tl.load(ids_ptr + token, mask=write, other=0)
        tl.store(input_ids_ptr + at, ids, mask=write)
        position = token if ORIGINAL else depth + before
        tl.store(position_ids_ptr + at, position, mask=write)
        tl.store(sequence_ptr + at, tl.zeros_like(at).to(tl.int32) + t.to(tl.int32), mask=write)
        count = tl.sum(keep, axis=0)
        slot += count
        depth += count


def pack_tokens(
    masks: Tensor, ids: Tensor, owner: Tensor, n: int, original_positions: bool
) -> tuple[Tensor, ...]:
    masks, owner = masks.contiguous(), owner.contiguous()
    starts = token_starts(masks, owner, n)
    packed = fill(masks, ids, owner, n, starts, None, None, original_positions)
    return *packed, starts


def token_starts(masks: Tensor, owner: Tensor, n: int) -> Tensor:  # -> (T + 1,)
    counts = torch.bincount(owner, minlength=n + 1)
    return offsets(mask_lengths(masks, counts[:n], int(counts[n])))


def fill(
    masks: Tensor,
    ids: Tensor,
    owner: Tensor,
    n: int,
    starts: Tensor,
    first: Tensor | None,
    shared: Tensor | None,
    original_positions: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, position_ids and the mask of each token; all of a mask's, or those it adds."""
    ids = ids.contiguous()
    input_ids, position_ids = ids.new_empty((2, int(starts[-1])))
    sequence = torch.empty_like(input_ids, dtype=torch.int32)
    if len(input_ids):
        with on_device_of(masks):
            _pack_tokens_kernel[(len(masks),)](
                *(masks, ids, owner, starts, starts if first is None else first),
                *(starts if shared is None else shared, input_ids, position_ids, sequence),
                *(len(ids), n, masks.shape[1]),
                TRIE=first is not None,
                ORIGINAL=original_positions,
                BLOCK_L=TOKENS,
            )
    return input_ids, position_ids, sequence
