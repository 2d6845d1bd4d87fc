"""The kernels of masked inference in plain torch: from packed masks to the inputs of a model, and
from its hidden states to values.

Written for clarity; ops_inference.py says what the arguments are and checks them.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import pad

VOCABULARY_TILE = 4096


def mask_lengths(masks: Tensor, lengths: Tensor, fixed: int) -> Tensor:  # (T, W), (n,) -> (T,)
    features = torch.arange(len(lengths), device=masks.device)
    return fixed + (present(masks, features) * lengths).sum(1)


def present(masks: Tensor, features: Tensor) -> Tensor:  # (T, W), (...) -> bool (T, ...)
    return (masks[:, features // 64] >> features % 64 & 1).bool()


def kept(masks: Tensor, owner: Tensor, n: int) -> Tensor:  # (T, W), (L,) -> bool (T, L)
    return (owner == n) | present(masks, owner.clamp(max=n - 1))


def pack_tokens(
    masks: Tensor, ids: Tensor, owner: Tensor, n: int, original_positions: bool
) -> tuple[Tensor, ...]:
    keep = kept(masks, owner, n)  # (T, L)
    sequence, token = keep.nonzero(as_tuple=True)  # (N,), (N,)
    starts = offsets(keep.sum(1))
    position = torch.arange(len(token), device=masks.device) - starts[sequence]
    return ids[token], token if original_positions else position, sequence.int(), starts


def offsets(lengths: Tensor) -> Tensor:  # (T,) -> (T + 1,)
    return pad(lengths.cumsum(0), (1, 0))


def pack_trie(
    masks: Tensor, ids: Tensor, owner: Tensor, n: int, original_positions: bool
) -> tuple[Tensor, ...]:
    keep = kept(masks, owner, n)  # (T, L)
    new = keep.clone()  # all but what a mask shares with the one before it
    new[1:] &= (keep[1:] != keep[:-1]).cumsum(1) > 0
    mask, token = new.nonzero(as_tuple=True)  # (N,), (N,): the nodes
    starts, shared = offsets(new.sum(1)), (keep & ~new).sum(1)
    node = torch.arange(len(token), device=masks.device)
    position = token if original_positions else shared[mask] + node - starts[mask]

    subtree_end = torch.full_like(node, len(node))
    last = torch.full_like(shared, -1)
    path = torch.empty_like(token[:0])  # the nodes of the tokens of the mask before
    for t, depth in enumerate(shared.tolist()):
        subtree_end[path[depth:]] = starts[t]
        path = torch.cat([path[:depth], node[starts[t] : starts[t + 1]]])
        if len(path):
            last[t] = path[-1]
    return ids[token], position, subtree_end, last, starts, shared


def mask_embed(
    masks: Tensor, embeddings: Tensor, baseline: Tensor | None, owner: Tensor, n: int, drop: bool
) -> Tensor:  # -> (N, d) or (T, L, d)
    keep = kept(masks, owner, n)  # (T, L)
    if drop:
        return embeddings[keep.nonzero(as_tuple=True)[1]]
    return torch.where(keep[..., None], embeddings, baseline)


def head_scale(
    x: Tensor,
    masks: Tensor,
    sequence: Tensor,
    first: int,
    mean: Tensor | None,
    scale: Tensor | None,
) -> Tensor:  # (N, H, D) -> (N, H, D)
    heads = torch.arange(first, first + x.shape[1], device=x.device)
    sequence = sequence.long()
    keep = present(masks, heads)[sequence]  # (N, H)
    dtype = x.dtype
    if scale is not None:
        wide = torch.promote_types(dtype, torch.float32)
        x = (x.to(wide) * scale.to(wide)[sequence, None, None]).to(dtype)
    return gated(x, keep, mean)


def gated(x: Tensor, keep: Tensor, mean: Tensor | None) -> Tensor:
    """torch.where(keep[..., None], x, mean or 0). Where no gradient is wanted by AND with bits that
    are all 0 or all 1: as exact, and on a CPU several times faster than under a broadcast mask."""
    if torch.is_grad_enabled() and (x.requires_grad or (mean is not None and mean.requires_grad)):
        return torch.where(keep[..., None], x, x.new_zeros(()) if mean is None else mean)
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    ones = -keep[..., None].to(integer)
    there = x.view(integer) & ones
    if mean is not None:
        there |= mean.view(integer) & ~ones
    return there.view(x.dtype)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, causal: bool, scale: float
) -> Tensor:  # (N, H, D), (N, K, D), (N, K, D), (T + 1,) -> (N, H, D)
    wide = torch.promote_types(query.dtype, torch.float32)
    groups = query.shape[1] // key.shape[1]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    for start, stop in itertools.pairwise(starts.tolist()):
        q, k, v = (x[start:stop].to(wide) for x in (query, key, value))
        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))  # (L, H, D)
        scores = scale * torch.einsum("ihd,jhd->hij", q, k)
        if causal:
            later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        out[start:stop] = torch.einsum("hij,jhd->ihd", scores.softmax(2), v).to(query.dtype)
    return out


def gelu(x: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).clamp(min=-40)  # no -inf times 0
    return (wide * torch.special.ndtr(wide)).to(x.dtype)


Norm = tuple[str, Tensor, Tensor | None, float]  # "rms" or "layer", weight, bias, eps


def normed_rows(hidden: Tensor, rows: Tensor, norm: Norm | None) -> Tensor:
    """(N, d), (R,) -> (R, d), float64 where hidden is and else float32."""
    x = hidden[rows].to(torch.promote_types(hidden.dtype, torch.float32))
    if norm is None:
        return x
    kind, weight, bias, eps = norm
    if kind == "layer":
        x = x - x.mean(1, keepdim=True)
    x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps) * weight.to(x.dtype)
    return x if bias is None else x + bias.to(x.dtype)


def logits(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # (R, d), (q, d) -> (R, q)
    products = x @ weight.to(x.dtype).T
    return products if bias is None else products + bias.to(x.dtype)


def score_last(
    hidden: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm | None
) -> Tensor:  # -> (R, q)
    return logits(normed_rows(hidden, rows, norm), weight, bias)


def token_logprobs(
    hidden: Tensor,
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    norm: Norm | None,
) -> Tensor:  # -> (R,)
    x = normed_rows(hidden, rows, norm)
    total = x.new_full((len(x),), -torch.inf)  # log of the sum of exp(logit) over the tiles so far
    for start in range(0, len(weight), VOCABULARY_TILE):
        tile = slice(start, start + VOCABULARY_TILE)
        z = logits(x, weight[tile], None if bias is None else bias[tile])  # (R, tile)
        total = torch.logaddexp(total, z.logsumexp(1))
    target = (x * weight[targets].to(x.dtype)).sum(1)
    return target + (0 if bias is None else bias[targets].to(x.dtype)) - total
