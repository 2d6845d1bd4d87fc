"""Sequences that share their beginnings in one forward pass over the nodes of their trie.

A causal model's states at a token depend on the tokens before it alone, so what masks have in
common at their start is one path of nodes, computed once. A node attends to its ancestors and to
itself; in depth-first order those are the nodes kv <= q < subtree_end[kv]. No cache is kept.

As in packing.py, the attention is registered with transformers under a name that makes no masks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .packing import packable, refuse, register

ATTENTION = "spex_trie"
BLOCK = 128  # neighbouring nodes that attend together


@dataclass(frozen=True, eq=False)
class Trie:
    """The nodes of a trie in depth-first order, as ops_inference.pack_trie makes them.

    Attributes: input_ids, position_ids, subtree_end: int64 (N,).
    """

    input_ids: Tensor
    position_ids: Tensor
    subtree_end: Tensor

    @functools.cached_property
    def blocks(self) -> list[Block]:
        """The attention of all nodes, BLOCK at a time; the same for every layer."""
        end = self.subtree_end
        nodes = torch.arange(len(end), device=end.device)
        blocks = []
        for start in range(0, len(end), BLOCK):
            own = nodes[start : start + BLOCK]
            above = (end[:start] > start).nonzero()[:, 0]  # the ancestors of the first, so of all
            keys = torch.cat([above, own])
            seen = (keys <= own[:, None]) & (own[:, None] < end[keys])
            blocks.append(Block(start, start + len(own), keys, seen))
        return blocks

    @functools.cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The blocks as one batch, filled up to one size: keys int64 (blocks, M) and seen bool
        (blocks, BLOCK, M). What fills up is seen by nobody; rows that fill up see the first key."""
        most = max(len(block.keys) for block in self.blocks)
        most += -most % 16  # as the kernels of a GPU like it
        keys = self.subtree_end.new_zeros(len(self.blocks), most)
        seen = torch.zeros(len(self.blocks), BLOCK, most, dtype=torch.bool, device=keys.device)
        seen[-1, :, 0] = True
        for i, block in enumerate(self.blocks):
            keys[i, : len(block.keys)] = block.keys
            seen[i, : block.stop - block.start, : len(block.keys)] = block.seen
        return keys, seen

    @functools.cached_property
    def longest(self) -> int:
        """The largest number of positions that one of the sequences spans."""
        return int(self.position_ids.max()) + 1


class Block(NamedTuple):
    """Nodes [start, stop), and which nodes before or among them each attends to: keys int64 (M,)
    and bool (stop - start, M)."""

    start: int
    stop: int
    keys: Tensor
    seen: Tensor


def hidden_states(model: Any, trie: Trie) -> Tensor:
    """The last hidden states (N, d) of a body (a model without its head) made by `branching`.

    Cost: one forward pass over N tokens.
    """
    return model(
        input_ids=trie.input_ids[None],
        position_ids=trie.position_ids[None],
        use_cache=False,
        spex_trie=trie,
    ).last_hidden_state[0]


def branching(model: Any) -> Any:
    """The model over again, with the same weights in the same memory, whose attention follows a
    trie.

    Raises: as packing.packable.
    """
    register(ATTENTION, attend)
    return packable(model, ATTENTION)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    spex_trie: Trie,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of each node to its ancestors and itself: query (1, H, N, D), key and value
    (1, K, N, D) -> (1, N, H, D). H is a multiple of K.

    A block of neighbours shares the ancestors of its first node, since whatever stands before the
    block and above one of its nodes is above the first too. So a block attends to those and to
    itself, under a mask.

    Raises: NotImplementedError for attention in both directions, and for what packing.attend
            refuses.
    """
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    if not causal:
        raise NotImplementedError("a trie needs causal attention")
    refuse(attention_mask, spex_trie.longest, options)
    grouped = query[0].unflatten(0, (key.shape[1], -1))  # (K, H / K, N, D)
    follow = _block_by_block if query.device.type == "cpu" else _all_at_once
    return follow(grouped, key[0], value[0], spex_trie, scaling)[None], None


def _block_by_block(
    query: Tensor, key: Tensor, value: Tensor, trie: Trie, scale: float | None
) -> Tensor:  # (K, G, N, D), (K, N, D), (K, N, D) -> (N, K G, D)
    groups = query.shape[1]  # heads with the same keys, which stand as further rows
    parts = []
    for start, stop, keys, seen in trie.blocks:
        q = query[:, :, start:stop].flatten(1, 2)  # (K, G block, D)
        k, v = key.index_select(1, keys), value.index_select(1, keys)  # (K, M, D)
        mask = seen.repeat(groups, 1)
        out = scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=mask[None, None], scale=scale
        )
        parts.append(out[0].unflatten(1, (groups, -1)))  # (K, G, block, D)
    return torch.cat(parts, 2).flatten(0, 1).transpose(0, 1)


def _all_at_once(
    query: Tensor, key: Tensor, value: Tensor, trie: Trie, scale: float | None
) -> Tensor:
    """As _block_by_block, in one launch: for a GPU, which would wait for many small ones."""
    keys, seen = trie.batch
    heads, groups, nodes, dim = query.shape
    blocks = len(keys)
    q = torch.nn.functional.pad(query, (0, 0, 0, blocks * BLOCK - nodes))
    q = q.view(heads, groups, blocks, BLOCK, dim).permute(2, 0, 1, 3, 4).flatten(2, 3)
    k, v = (x[:, keys].transpose(0, 1) for x in (key, value))  # (blocks, K, M, D)
    mask = seen.repeat(1, groups, 1)[:, None]  # (blocks, 1, G BLOCK, M)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    out = out.view(blocks, heads, groups, BLOCK, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(blocks * BLOCK, heads * groups, dim)[:nodes]
