"""pack_trie: the kept tokens of every mask as one trie.

Three passes: what each mask shares with the one before it; the nodes it adds (the kernel of
pack_tokens); and where each subtree ends, the first later mask that shares no more than the depth
of the node, found in a table of minima over ranges of masks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference_inference import offsets
from . import on_device_of
from .pack_tokens import TOKENS, fill, kept_tokens

NODES = 256


@triton.jit
def _trie_prefixes_kernel(
    masks_ptr,
    owner_ptr,
    first_ptr,
    shared_ptr,
    added_ptr,
    length,
    n,
    words,
    BLOCK_L: tl.constexpr,
):
    """One program a mask; mask 0 shares nothing."""
    t = tl.program_id(0).to(tl.int64)
    mask_ptr = masks_ptr + t * words
    before_ptr = masks_ptr + tl.maximum(t - 1, 0) * words
    first = tl.where(t == 0, 0, length).to(tl.int64)
    shared = tl.zeros((), tl.int64)
    total = tl.zeros((), tl.int64)
    for start in range(0, length, BLOCK_L):
        token = start + tl.arange(0, BLOCK_L).to(tl.int64)  # (BLOCK_L,)
        keep = kept_tokens(mask_ptr, owner_ptr, token, length, n)
        differs = keep != kept_tokens(before_ptr, owner_ptr, token, length, n)
        first = tl.minimum(first, tl.min(tl.where(differs, token, length), axis=0))
        shared += tl.sum(tl.where(token < first, keep, 0), axis=0)
        total += tl.sum(keep, axis=0)
    tl.store(first_ptr + t, first)
    tl.store(shared_ptr + t, shared)
    tl.store(added_ptr + t, total - shared)


@triton.jit
def _subtree_end_kernel(
    minima_ptr,
    mask_ptr,
    starts_ptr,
    shared_ptr,
    end_ptr,
    nodes,
    samples,
    LEVELS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """minima (LEVELS, samples + 1): the least of shared[t .. t + 2**level); -1 from `samples`
    on."""
    node = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    inside = node < nodes
    t = tl.load(mask_ptr + node, mask=inside, other=0).to(tl.int64)  # (BLOCK_N,)
    start = tl.load(starts_ptr + t, mask=inside, other=0)
    depth = tl.load(shared_ptr + t, mask=inside, other=0) + node - start  # (BLOCK_N,)
    t += 1
    for i in tl.static_range(LEVELS):
        level = LEVELS - 1 - i
        least = tl.load(
            minima_ptr + level * (tl.cast(samples, tl.int64) + 1) + t, mask=inside, other=-1
        )
        t = tl.where(least > depth, t + (1 << level), t)  # a range that ends past samples holds -1
    end = tl.load(starts_ptr + t, mask=inside, other=0)
    tl.store(end_ptr + node, end, mask=inside)


@triton.jit
def _last_node_kernel(starts_ptr, shared_ptr, last_ptr):
    """One program a mask. The last node is of this mask, or of the last one before it that adds a
    node at that depth."""
    t = tl.program_id(0).to(tl.int64)
    own = tl.load(starts_ptr + t + 1) - tl.load(starts_ptr + t)
    depth = tl.load(shared_ptr + t) + own - 1
    at = t
    while (at > 0) & (tl.load(shared_ptr + at) > depth):
        at -= 1
    node = tl.load(starts_ptr + at) + depth - tl.load(shared_ptr + at)
    tl.store(last_ptr + t, tl.where(depth < 0, -1, node))


def pack_trie(
    masks: Tensor, ids: Tensor, owner: Tensor, n: int, original_positions: bool
) -> tuple[Tensor, ...]:
    masks, owner = masks.contiguous(), owner.contiguous()
    samples, words = masks.shape
    first, shared, added, last = masks.new_empty((4, samples))
    if not samples:
        return ids[:0], ids[:0].clone(), ids[:0].clone(), last, masks.new_zeros(1), shared
    with on_device_of(masks):
        _trie_prefixes_kernel[(samples,)](
            masks, owner, first, shared, added, len(owner), n, words, BLOCK_L=TOKENS
        )
        starts = offsets(added)
        input_ids, position_ids, mask = fill(
            masks, ids, owner, n, starts, first, shared, original_positions
        )
        nodes, minima = len(mask), range_minima(shared)
        subtree_end = torch.empty_like(input_ids)
        if nodes:
            _subtree_end_kernel[(triton.cdiv(nodes, NODES),)](
                *(minima, mask, starts, shared, subtree_end, nodes, samples),
                LEVELS=len(minima),
                BLOCK_N=NODES,
            )
        _last_node_kernel[(samples,)](starts, shared, last)
    return input_ids, position_ids, subtree_end, last, starts, shared


def range_minima(x: Tensor) -> Tensor:  # (T,) -> (levels, T + 1)
    """Row k: the least of 2**k entries from each on, where -1 follows the last."""
    levels = [torch.nn.functional.pad(x, (0, 1), value=-1)]
    while 1 << len(levels) <= len(x):
        row, step = levels[-1], 1 << len(levels) - 1
        later = torch.nn.functional.pad(row[step:], (0, step), value=-1)
        levels.append(torch.minimum(row, later))
    return torch.stack(levels)
