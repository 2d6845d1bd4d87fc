"""The public kernels of masked inference: from packed masks to the inputs of a model, and from its
hidden states to values. Checked, dispatched and named as those of ops.py.

Tokens have an `owner`, int64 (L,): the feature of each, or n for a token that is always kept. A
mask keeps token l where owner[l] == n or bit owner[l] is set. The tokens of a feature need not be
neighbours, and a feature may have none. Bits of a mask beyond the n features are not read.

On CUDA nothing is checked that would make the host wait for the device once a layer: there a number
in `sequence`, `rows` or `targets` that is out of range makes its row NaN, as `starts` do whose
sequences pass the rows or leave one out, and never reads memory that is not the tensor's (backend
"triton"); and an owner that is out of range is taken as n.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import fakes
from . import reference_inference as reference
from .backend import Backend, pick
from .checks import check_device, check_packed, kind, readable
from .errors import check, check_int
from .reference_inference import Norm
from .traced import custom_op


class PackedTokens(NamedTuple):
    """What ops_inference.pack_tokens returns: the kept tokens of T masks, mask after mask."""

    input_ids: Tensor  # int64 (N,)
    position_ids: Tensor  # int64 (N,)
    sequence: Tensor  # int32 (N,): the mask of each token, ascending
    starts: Tensor  # int64 (T + 1,): mask t has the tokens [starts[t], starts[t + 1])


class PackedTrie(NamedTuple):
    """What ops_inference.pack_trie returns: nodes in depth-first order, a token each.

    Node q has node p above it, or is p, exactly where p <= q < subtree_end[p]: which of the nodes
    before it a causal model lets it attend to.
    """

    input_ids: Tensor  # int64 (N,)
    position_ids: Tensor  # int64 (N,)
    subtree_end: Tensor  # int64 (N,)
    last: Tensor  # int64 (T,): the node of the last token of each mask, -1 where it keeps none
    starts: Tensor  # int64 (T + 1,): mask t adds the nodes [starts[t], starts[t + 1])
    shared: Tensor  # int64 (T,): how many tokens of its path stand before them


@custom_op(
    "(Tensor masks, Tensor lengths, *, SymInt fixed=0, str backend='auto') -> Tensor",
    fake=fakes.mask_lengths,
)
def mask_lengths(
    masks: Tensor, lengths: Tensor, *, fixed: int = 0, backend: Backend = "auto"
) -> Tensor:
    """Tokens that each mask keeps: out[t] = fixed + sum over present features j of lengths[j].

    Args:     masks: packed int64 (T, W). lengths: int64 (n,), tokens of each feature, n >= 1.
              fixed: tokens that are always kept, >= 0.
    Returns:  int64 (T,).
    Raises:   TypeError, ValueError if the arguments are not as above; BackendUnavailable.
    Cost:     one addition for each bit that is set; on triton one for each feature.
    Example:  mask_lengths(masks.pack(np.array([[True, False, True]])), torch.tensor([2, 1, 3]),
              fixed=2)  # tensor([7])
    """
    check_packed("mask_lengths", masks=masks)
    _check_indices("mask_lengths", "lengths", lengths, None, "masks", masks)
    _check_words("mask_lengths", masks, check_int("mask_lengths: len(lengths)", len(lengths), 1))
    fixed = check_int("mask_lengths: fixed", fixed, 0)
    match pick("mask_lengths", backend, masks.device):
        case "cpu":
            from . import native

            return native.mask_lengths_cpu(masks, lengths, fixed)
        case "triton":
            from .triton_kernels.mask_lengths import mask_lengths as impl

            return impl(masks, lengths, fixed)
        case _:
            return reference.mask_lengths(masks, lengths, fixed)


@custom_op(
    "(Tensor masks, Tensor ids, Tensor owner, SymInt n, *, bool original_positions=False, "
    "str backend='auto') -> (Tensor, Tensor, Tensor, Tensor)",
    fake=fakes.pack_tokens,
    result=PackedTokens,
)
def pack_tokens(
    masks: Tensor,
    ids: Tensor,
    owner: Tensor,
    n: int,
    *,
    original_positions: bool = False,
    backend: Backend = "auto",
) -> PackedTokens:
    """The kept tokens of every mask, one mask after another, without padding.

    Args:     masks: packed int64 (T, W). ids: int64 (L,), the token ids with every feature present.
              owner: int64 (L,), in [0, n]. n: features, >= 1. original_positions: number tokens by
              their place in `ids` (the others are hidden) and not within their mask (they are
              removed, and the rest closes up).
    Returns:  PackedTokens; N is the sum of mask_lengths. A mask that keeps nothing has no token,
              starts[t] == starts[t + 1]: what a model makes of no token is the caller's to decide.
    Raises:   TypeError, ValueError if the arguments are not as above; BackendUnavailable.
    Cost:     T L bit tests, 20 bytes written a token. A device is waited for twice.
    Example:  pack_tokens(masks, torch.tensor([101, 7, 8, 9, 102]), torch.tensor([2, 0, 0, 1, 2]),
              2)  # with only feature 1 present: ids 101, 9, 102 at positions 0, 1, 2
    """
    n, owner = _check_layout("pack_tokens", masks, owner, n)
    _check_indices("pack_tokens", "ids", ids, len(owner), "masks", masks)
    match pick("pack_tokens", backend, masks.device):
        case "cpu":
            from . import native

            found = native.pack_tokens_cpu(masks, ids, owner, n, original_positions)
        case "triton":
            from .triton_kernels.pack_tokens import pack_tokens as impl

            found = impl(masks, ids, owner, n, original_positions)
        case _:
            found = reference.pack_tokens(masks, ids, owner, n, original_positions)
    return PackedTokens(*found)


@custom_op(
    "(Tensor masks, Tensor ids, Tensor owner, SymInt n, *, bool original_positions=False, "
    "str backend='auto') -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=fakes.pack_trie,
    result=PackedTrie,
)
def pack_trie(
    masks: Tensor,
    ids: Tensor,
    owner: Tensor,
    n: int,
    *,
    original_positions: bool = False,
    backend: Backend = "auto",
) -> PackedTrie:
    """The kept tokens of every mask as one trie: what a mask shares with the one before is not
    repeated.

    Mask t shares with mask t - 1 the kept tokens before the first one that only one of them keeps,
    and adds the rest as new nodes. In lexicographic order (planner.distinct), with the tokens in
    the order of their features, every common prefix is shared. In any other order the result is as
    true and has more nodes.

    Args:     masks, ids, owner, n: as pack_tokens. original_positions: number nodes by their place
              in `ids`, and not by their depth.
    Returns:  PackedTrie. A mask that adds nothing, where features have no token, ends at a node of
              a mask before it.
    Raises:   TypeError, ValueError if the arguments are not as above; BackendUnavailable.
    Cost:     T L bit tests, 24 bytes written a node; on triton also log2(T) reads a node. A device
              is waited for twice.
    """
    n, owner = _check_layout("pack_trie", masks, owner, n)
    _check_indices("pack_trie", "ids", ids, len(owner), "masks", masks)
    match pick("pack_trie", backend, masks.device):
        case "cpu":
            from . import native

            found = native.pack_trie_cpu(masks, ids, owner, n, original_positions)
        case "triton":
            from .triton_kernels.pack_trie import pack_trie as impl

            found = impl(masks, ids, owner, n, original_positions)
        case _:
            found = reference.pack_trie(masks, ids, owner, n, original_positions)
    return PackedTrie(*found)


@custom_op(
    "(Tensor masks, Tensor embeddings, Tensor? baseline, Tensor owner, SymInt n, "
    "Tensor? starts, *, str backend='auto') -> Tensor",
    fake=fakes.mask_embed,
    loose=("starts",),
)
def mask_embed(
    masks: Tensor,
    embeddings: Tensor,
    baseline: Tensor | None,
    owner: Tensor,
    n: int,
    *,
    starts: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Embeddings of tokens or patches under every mask, the absent ones replaced or dropped.

    Args:     masks: packed int64 (T, W). embeddings: (L, d) floating point. baseline: (d,) or
              (L, d), of their dtype: what stands for an absent token; not read with starts. owner:
              int64 (L,), in [0, n]. n: features, >= 1. starts: int64 (T + 1,) of pack_tokens: drop
              absent tokens and pack the others.
    Returns:  (T, L, d), out[t, l] = embeddings[l] where mask t keeps token l, else baseline[l]; or
              (N, d) with starts, row i the embedding of token i of pack_tokens. Copies, no
              rounding.
    Raises:   TypeError, ValueError if the arguments are not as above, or starts is not that of
              these masks; BackendUnavailable.
    Cost:     one write of the result. With starts a device is waited for. Differentiable on
              reference; triton refuses tensors that require a gradient.
    """
    n, owner = _check_layout("mask_embed", masks, owner, n)
    _check_float("mask_embed", "embeddings", embeddings, (len(owner), None), masks)
    if starts is None:
        each = isinstance(baseline, Tensor) and baseline.ndim == 2
        _check_like("mask_embed", "baseline", baseline, "embeddings", embeddings, 0 if each else 1)
    else:
        counts = torch.bincount(owner, minlength=n + 1)
        lengths = mask_lengths(masks, counts[:n], fixed=int(counts[n]))
        _check_indices("mask_embed", "starts", starts, len(masks) + 1, "masks", masks)
        fits = torch.equal(starts, reference.offsets(lengths))
        check(fits, "mask_embed: starts must be that of pack_tokens for these masks and owners")
    match pick("mask_embed", backend, masks.device):
        case "triton":
            from .triton_kernels.mask_embed import mask_embed as impl

            _refuse_gradients("mask_embed", embeddings, baseline)
            return impl(masks, embeddings, baseline, owner, n, starts)
        case _:
            return reference.mask_embed(
                masks, embeddings, baseline, owner, n, drop=starts is not None
            )


@custom_op(
    "(Tensor x, Tensor masks, Tensor sequence, Tensor? mean, Tensor? scale, "
    "*, int first=0, str backend='auto') -> Tensor",
    fake=fakes.like_first,
    loose=("mean", "scale"),
)
def head_scale(
    x: Tensor,
    masks: Tensor,
    sequence: Tensor,
    *,
    first: int = 0,
    mean: Tensor | None = None,
    scale: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Gates on the outputs of attention heads, each row by its own mask; head h is feature
    first + h.

    out[i, h] = scale[sequence[i]] x[i, h] where masks[sequence[i]] has feature first + h, else
    mean[h].

    Args:     x: (N, H, D) floating point, before the output projection. masks: packed int64 (T, W)
              with first + H <= 64 W. sequence: int32 or int64 (N,), in [0, T). first: the feature
              of head 0. mean: (H, D) of the dtype of x; None is zero. scale: floating point (T,);
              None is one.
    Returns:  (N, H, D), same dtype and device; a new tensor.
    Raises:   TypeError, ValueError if the arguments are not as above; BackendUnavailable.
    Accuracy: without scale exact; with it one product in float32 (float64 for a float64 x), rounded
              to the dtype of x.
    Cost:     one read and one write of x; the mask words are read once a row. Differentiable on
              reference; triton refuses tensors that require a gradient.
    """
    check_packed("head_scale", masks=masks)
    _check_float("head_scale", "x", x, (None, None, None), masks)
    first = check_int("head_scale: first", first, 0)
    check(
        first + x.shape[1] <= 64 * masks.shape[1],
        "head_scale: masks must have words for the {} features to head {}, got {}",
        *(first + x.shape[1], x.shape[1] - 1, masks.shape[1]),
    )
    integers = (torch.int32, torch.int64)
    _check_indices("head_scale", "sequence", sequence, len(x), "masks", masks, integers, len(masks))
    if mean is not None:
        _check_like("head_scale", "mean", mean, "x", x, 1)
    if scale is not None:
        _check_float("head_scale", "scale", scale, (len(masks),), masks)
    match pick("head_scale", backend, x.device):
        case "triton":
            from .triton_kernels.head_scale import head_scale as impl

            _refuse_gradients("head_scale", x, mean, scale)
            return impl(x, masks, sequence, first, mean, scale)
        case _:
            return reference.head_scale(x, masks, sequence, first, mean, scale)


@custom_op(
    "(Tensor query, Tensor key, Tensor value, Tensor starts, *, bool causal=False, "
    "float? scale=None, str backend='auto') -> Tensor",
    fake=fakes.like_first,
)
def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Attention within each sequence of a pack, without padding.

    out[i] = sum over j of p[j] value[j], where j runs over the sequence of i (causal: up to i) and
    p is the softmax of scale <query[i], key[j]>; for each head by itself. Query head h reads the
    key and value head h // (H / K).

    Args:     query: (N, H, D), key and value: (N, K, D), all float32, all float16 or all bfloat16,
              D >= 1, H a multiple of K. starts: int32 or int64 (T + 1,), from 0 to N and nowhere
              falling: sequence t has the rows [starts[t], starts[t + 1]). scale: > 0 and finite;
              None is 1 / sqrt(D).
    Returns:  (N, H, D), same dtype and device; a new tensor, contiguous.
    Raises:   TypeError, ValueError if the arguments are not as above; BackendUnavailable.
    Accuracy: products, weights and sums in float32, rounded once to the dtype of query. With
              standard normal input the relative l2 error in float32 is below 1e-6. On triton a
              weight for 16-bit values is first made the sum of two numbers of their dtype: below
              2^-16 of the largest value in bfloat16, 2^-21 in float16.
    Cost:     4 L^2 D H operations for a sequence of length L, half of it where causal; in 16 bits
              on triton half as many again. Scores are in memory for 48 queries and 256 keys at a
              time on cpu, 64 and 32 on triton. A device is waited for by reference. Differentiable
              on reference; the others refuse tensors that require a gradient.
    """
    for name, x in (("query", query), ("key", key), ("value", value)):
        _check_attended(name, x, query)
    heads, key_heads, dim = query.shape[1], key.shape[1], query.shape[2]
    check(dim >= 1, "packed_attention: query must have D >= 1, got shape {}", tuple(query.shape))
    check(
        key.shape == value.shape == (len(query), key_heads, dim),
        "packed_attention: key and value must have shape ({}, K, {}), got {} and {}",
        *(len(query), dim, tuple(key.shape), tuple(value.shape)),
    )
    check(
        key_heads >= 1 and heads % key_heads == 0,
        "packed_attention: the heads of query must be a multiple of those of key, got {} and {}",
        *(heads, key_heads),
    )
    _check_starts(starts, query)
    scale = dim**-0.5 if scale is None else float(scale)
    check(0 < scale < math.inf, "packed_attention: scale must be in (0, inf), got {}", scale)
    match pick("packed_attention", backend, query.device):
        case "cpu":
            from . import native

            _refuse_gradients("packed_attention", query, key, value, backend="cpu")
            return native.packed_attention_cpu(query, key, value, starts, causal, scale)
        case "triton":
            from .triton_kernels.packed_attention import packed_attention as impl

            _refuse_gradients("packed_attention", query, key, value)
            return impl(query, key, value, starts, causal, scale)
        case _:
            return reference.packed_attention(query, key, value, starts, causal, scale)


@custom_op(
    "(Tensor x, *, str backend='auto') -> Tensor",
    fake=fakes.like_first,
)
def gelu(x: Tensor, *, backend: Backend = "auto") -> Tensor:
    """The exact GELU, x Phi(x), Phi the distribution function of the standard normal: what
    torch.nn.functional.gelu(x, approximate="none") computes.

    Args:     x: float32 or bfloat16, of any shape.
    Returns:  The shape and dtype of x; a new tensor. inf at inf and 0 at -inf, where torch may say
              NaN.
    Raises:   TypeError, ValueError if the arguments are not as above; BackendUnavailable.
    Accuracy: computed in float32, rounded once to the dtype of x. In float32 the absolute error is
              below 1.2e-7 max(1, |x|). On cpu the relative error is below 1e-6 for x >= -2, 2e-5
              for x >= -4 and 5e-4 for x >= -7.6, and the result 0 for x <= -13.4 (with AVX-512
              for x <= -7.7).
    Cost:     one read and one write of x. Differentiable on reference; cpu refuses tensors that
              require a gradient.
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"gelu: x must be a float32 or bfloat16 tensor, got {kind(x)}")
    match pick("gelu", backend, x.device):
        case "cpu":
            from . import native

            _refuse_gradients("gelu", x, backend="cpu")
            return native.gelu_cpu(x)
        case _:
            return reference.gelu(x)


@custom_op(
    "(Tensor hidden, Tensor rows, Tensor weight, Tensor? bias, "
    "Tensor? norm_weight, Tensor? norm_bias, *, str? norm=None, float eps=0.0, str backend='auto') "
    "-> Tensor",
    fake=fakes.score_last,
    flat=fakes.flat_scores,
    whole=fakes.whole_scores,
    loose=("bias", "norm_weight", "norm_bias"),
)
def score_last(
    hidden: Tensor,
    rows: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """A few linear scores of a few rows: out[r] = weight norm(hidden[rows[r]]) + bias.

    norm "rms" is x / sqrt(mean(x**2) + eps) times its weight, and "layer" the same of x - mean(x);
    plus its bias. The rows are gathered first: no product with a vocabulary is made for the others,
    and a difference of two logits is one row of weight.

    Args:     hidden: (N, d) floating point. rows: int64 (R,), in [0, N). weight: (q, d) and bias:
              (q,), floating point. norm: None, or ("rms" or "layer", weight (d,), bias (d,) or
              None, eps > 0).
    Returns:  float32 (R, q); float64 where hidden is.
    Raises:   TypeError, ValueError if the arguments are not as above; BackendUnavailable.
    Accuracy: sums in the dtype of the result: |error| <= 2 (d + 8) eps sum |weight| |norm(x)|.
    Cost:     R (q + 2) d products; reads R rows of hidden. Differentiable on reference; triton
              refuses tensors that require a gradient.
    """
    _check_scores("score_last", hidden, rows, weight, bias, norm)
    match pick("score_last", backend, hidden.device):
        case "triton":
            from .triton_kernels.score_last import score_last as impl

            _refuse_gradients("score_last", hidden, weight, bias, *(norm or ()))
            return impl(hidden, rows, weight, bias, norm)
        case _:
            return reference.score_last(hidden, rows, weight, bias, norm)


@custom_op(
    "(Tensor hidden, Tensor rows, Tensor weight, Tensor targets, Tensor? bias, "
    "Tensor? norm_weight, Tensor? norm_bias, *, str? norm=None, float eps=0.0, str backend='auto') "
    "-> Tensor",
    fake=fakes.token_logprobs,
    flat=fakes.flat_scores,
    whole=fakes.whole_scores,
    loose=("bias", "norm_weight", "norm_bias"),
)
def token_logprobs(
    hidden: Tensor,
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Log-probabilities of given tokens: out[r] = z[r, targets[r]] - log(sum over v of
    exp(z[r, v])), with the logits z[r] = weight norm(hidden[rows[r]]) + bias.

    Args:     hidden, rows, bias, norm: as score_last. weight: (V, d), V >= 1. targets: int64 (R,),
              in [0, V).
    Returns:  float32 (R,); float64 where hidden is.
    Raises:   TypeError, ValueError if the arguments are not as above; BackendUnavailable.
    Accuracy: as score_last for each logit; the log of the sum adds a few eps. On triton the normed
              rows are rounded to the dtype of weight, and summed in that of the result.
    Cost:     R V d products. Logits exist for a tile of V at a time: no (R, V) tensor.
              Differentiable on reference; triton refuses tensors that require a gradient.
    """
    _check_scores("token_logprobs", hidden, rows, weight, bias, norm)
    check(len(weight) >= 1, "token_logprobs: weight must have a row for each of V >= 1 tokens")
    _check_indices(
        *("token_logprobs", "targets", targets, len(rows), "hidden", hidden),
        limit=len(weight),
    )
    match pick("token_logprobs", backend, hidden.device):
        case "triton":
            from .triton_kernels.token_logprobs import token_logprobs as impl

            _refuse_gradients("token_logprobs", hidden, weight, bias, *(norm or ()))
            return impl(hidden, rows, weight, targets, bias, norm)
        case _:
            return reference.token_logprobs(hidden, rows, weight, targets, bias, norm)


def _check_words(op: str, masks: Tensor, n: int) -> None:
    width = -(-n // 64)
    check(
        masks.shape[1] == width,
        "{}: masks must have ceil({} / 64) = {} words, got {}",
        *(op, n, width, masks.shape[1]),
    )


def _check_layout(op: str, masks: Tensor, owner: Tensor, n: int) -> tuple[int, Tensor]:
    """n, and owners that are in [0, n]."""
    check_packed(op, masks=masks)
    n = check_int(f"{op}: n", n, 1)
    _check_words(op, masks, n)
    _check_indices(op, "owner", owner, None, "masks", masks)
    if not readable(owner):
        return n, owner.masked_fill((owner < 0) | (owner > n), n)
    least, most = (int(x) for x in owner.aminmax()) if len(owner) else (0, n)
    check(
        least >= 0 and most <= n,
        "{}: owner must be in [0, {}], {} for what is always kept",
        op,
        n,
        n,
    )
    return n, owner


def _check_indices(
    op: str,
    name: str,
    x: Tensor,
    length: int | None,
    other_name: str,
    other: Tensor,
    dtypes: tuple[torch.dtype, ...] = (torch.int64,),
    limit: int | None = None,
) -> None:
    """Integers of one axis beside `other`; on the CPU also in [0, limit)."""
    if not (isinstance(x, Tensor) and x.dtype in dtypes):
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{op}: {name} must be an {names} tensor, got {kind(x)}")
    fits = x.ndim == 1 and length in (None, len(x))
    expected = f"({'L' if length is None else length},)"
    check(fits, "{}: {} must have shape {}, got {}", op, name, expected, tuple(x.shape))
    check_device(op, name, x, other_name, other)
    check(limit != 0 or not len(x), "{}: {} must be empty where it counts nothing", op, name)
    if limit is not None and readable(x) and len(x):
        least, most = (int(bound) for bound in x.aminmax())
        check(
            least >= 0 and most < limit,
            "{}: {} must be in [0, {}), got {} to {}",
            *(op, name, limit, least, most),
        )


def _check_float(
    op: str, name: str, x: Tensor, shape: tuple[int | None, ...], beside: Tensor
) -> None:
    """Floating point of `shape`, None for any size."""
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        raise TypeError(f"{op}: {name} must be a floating-point tensor, got {kind(x)}")
    fits = x.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, x.shape, strict=True)
    )
    expected = ", ".join("*" if size is None else str(size) for size in shape)
    check(fits, "{}: {} must have shape ({}), got {}", op, name, expected, tuple(x.shape))
    check_device(op, name, x, "the others", beside)


def _check_like(op: str, name: str, x: Tensor, other_name: str, other: Tensor, skip: int) -> None:
    """The dtype of `other`, and its shape without the first `skip` axes."""
    shape = tuple(other.shape[skip:])
    _check_float(op, name, x, shape, other)
    check(
        x.dtype == other.dtype,
        "{}: {} must have the dtype of {}, {}, got {}",
        *(op, name, other_name, other.dtype, x.dtype),
    )


def _check_attended(name: str, x: Tensor, query: Tensor) -> None:
    _check_float("packed_attention", name, x, (None, None, None), query)
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(
            f"packed_attention: {name} must be float32, float16 or bfloat16, got {kind(x)}"
        )
    check(
        x.dtype == query.dtype,
        "packed_attention: {} must have the dtype of query, {}, got {}",
        *(name, query.dtype, x.dtype),
    )


def _check_starts(starts: Tensor, query: Tensor) -> None:
    op, integers = "packed_attention", (torch.int32, torch.int64)
    _check_indices(op, "starts", starts, None, "query", query, integers)
    check(
        len(starts) > (1 if len(query) else 0),
        "{}: starts must ascend from 0 to {}, got shape {}",
        *(op, len(query), tuple(starts.shape)),
    )
    if not readable(starts):
        return
    edges = starts.tolist()
    fits = edges[0] == 0 and edges[-1] == len(query) and edges == sorted(edges)
    check(fits, "{}: starts must ascend from 0 to {}, got {}", op, len(query), edges)


def _check_scores(
    op: str, hidden: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm | None
) -> None:
    _check_float(op, "hidden", hidden, (None, None), hidden)
    width = hidden.shape[1]
    _check_indices(op, "rows", rows, None, "hidden", hidden, limit=len(hidden))
    _check_float(op, "weight", weight, (None, width), hidden)
    if bias is not None:
        _check_float(op, "bias", bias, (len(weight),), hidden)
    if norm is not None:
        check(
            isinstance(norm, tuple) and len(norm) == 4 and norm[0] in ("rms", "layer"),
            "{}: norm must be ('rms' or 'layer', weight, bias or None, eps), got {!r}",
            *(op, norm),
        )
        _check_float(op, "norm weight", norm[1], (width,), hidden)
        if norm[2] is not None:
            _check_float(op, "norm bias", norm[2], (width,), hidden)
        check(norm[3] > 0, "{}: eps of norm must be positive, got {}", op, norm[3])


def _refuse_gradients(op: str, *arguments: object, backend: Backend = "triton") -> None:
    asked = torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in arguments
    )
    check(
        not asked,
        "{}: backend {!r} has no gradient: call it under torch.no_grad()",
        *(op, backend),
    )
