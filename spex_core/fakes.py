"""What the public kernels return without computing it, for torch.compile: the shapes of their fake
kernels, and the plain arguments that a custom operator can take (traced.py).

A size that depends on values is a new symbol, `some()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .codes import BchCode

Call = tuple[tuple, dict]  # arguments, options
MOST_CODES = 16  # as many as bch_code remembers
_codes: dict[tuple[int, ...], BchCode] = {}  # by n and the places of the tables, which they hold


def some() -> torch.SymInt:
    return torch.library.get_ctx().new_dynamic_size()


# Arguments: what a custom operator has no type for, and back.


def flat_uniform_masks(rows: int, n: int, *, seed: int, device="cpu", **options) -> Call:
    signed = seed - 2**64 if seed >= 2**63 else seed
    return (rows, n), {"seed": signed, "device": torch.device(device), **options}


def whole_uniform_masks(rows: int, n: int, *, seed: int, **options) -> Call:
    return (rows, n), {"seed": seed % 2**64, **options}


def flat_code(x: Tensor, code: BchCode, *tensors: Tensor, **options) -> Call:
    return (x, code.exp, code.log, code.syndromes, code.columns, code.n, *tensors), options


def whole_code(
    x: Tensor,
    exp: Tensor,
    log: Tensor,
    syndromes: Tensor,
    columns: Tensor,
    n: int,
    *tensors: Tensor,
    **options,
) -> Call:
    """The same code for the same tables, whose copies on a device are kept beside it."""
    place = (n, *(table.data_ptr() for table in (exp, log, syndromes, columns)))
    if place not in _codes:
        parities, t = syndromes.shape
        sizes = {"n": n, "t": t, "m": len(log).bit_length() - 1, "parities": parities}
        tables = {"exp": exp, "log": log, "syndromes": syndromes, "columns": columns}
        if len(_codes) == MOST_CODES:
            del _codes[next(iter(_codes))]
        _codes[place] = BchCode(**sizes, **tables)
    return (x, _codes[place], *tensors), options


def flat_boost(
    masks: Tensor, values: Tensor, n: int, *, stages: Sequence[int] | None = None, **options
) -> Call:
    default = {"trees": 100, "depth": 5, "leaves": 31, "min_leaf": 20, "rate": 0.1, "l2": 0.0}
    each: dict[str, Any] = default | {"row_share": 1.0, "feature_share": 1.0}
    for name, value in each.items():
        given = options.pop(name, value)
        each[name] = list(given) if isinstance(given, (list, tuple)) else [given]
    stages = [max(each["trees"])] if stages is None else list(stages)
    return (masks, values, n), {**each, "stages": stages, **options}


def flat_scores(hidden: Tensor, rows: Tensor, weight: Tensor, *targets: Tensor, **options) -> Call:
    kind, norm_weight, norm_bias, eps = options.pop("norm", None) or (None, None, None, 0.0)
    norm = {"norm": kind, "norm_weight": norm_weight, "norm_bias": norm_bias, "eps": eps}
    return (hidden, rows, weight, *targets), {**options, **norm}


def whole_scores(hidden: Tensor, rows: Tensor, weight: Tensor, *targets: Tensor, **options) -> Call:
    kind, eps = options.pop("norm", None), options.pop("eps", 0.0)
    norm = kind, options.pop("norm_weight"), options.pop("norm_bias"), eps
    return (hidden, rows, weight, *targets), {**options, "norm": norm if kind else None}


# Results.


def uniform_masks(rows, n, *, seed, stream=0, start=0, device, backend="auto") -> Tensor:
    return torch.empty(rows, (n + 63) // 64, dtype=torch.int64, device=device)


def bch_decode(readings, exp, log, syndromes, columns, n, **_) -> tuple[Tensor, Tensor]:
    rows = readings.shape[0]
    features = readings.new_empty(rows, syndromes.shape[1], dtype=torch.int32)
    return features, readings.new_empty(rows, dtype=torch.int32)


def peel(bins, exp, log, syndromes, *_, **__) -> tuple[Tensor, Tensor]:
    terms = some()
    features = bins.new_empty(terms, syndromes.shape[1], dtype=torch.int32)
    return features, bins.new_empty(terms, dtype=torch.float64)


def peel_many(bins, exp, log, syndromes, *_, **__) -> tuple[Tensor, ...]:
    return *peel(bins, exp, log, syndromes), bins.new_empty(bins.shape[0], dtype=torch.int64)


def boost(masks, values, n, *, bags=None, watch=None, stages, **options) -> tuple[Tensor, ...]:
    trees = options["trees"]
    lengths = [values.shape[0] if values.ndim == 2 else 1, 1 if bags is None else bags.shape[0]]
    lengths += [len(x) for x in options.values() if isinstance(x, (list, tuple))]
    fits = next((length for length in lengths if length != 1), 1)
    total = sum(trees) if len(trees) == fits else trees[0] * fits
    rows = masks.shape[0] + (0 if watch is None else watch.shape[0])
    nodes = some()
    roots, group = (masks.new_empty(total, dtype=torch.int32) for _ in range(2))
    links = (masks.new_empty(nodes, dtype=torch.int32) for _ in range(3))
    value, bias = (masks.new_empty(size, dtype=torch.float64) for size in (nodes, fits))
    staged = masks.new_empty(fits, len(stages), rows, dtype=torch.float64)
    return roots, group, *links, value, bias, staged


def tree_fourier(roots, feature, absent, present, value, n, *, groups=1, **_) -> tuple:
    terms = some()
    support = roots.new_empty(terms, (n + 63) // 64, dtype=torch.int64)
    return support, value.new_empty(terms, groups)


def superset_sums(support, coefs, weights, **_) -> tuple[Tensor, Tensor]:
    sets = some()
    return support.new_empty(sets, weights.shape[0], dtype=torch.int32), coefs.new_empty(sets)


def anova_kernel(masks, others, relevances, variances, **_) -> Tensor:
    return masks.new_empty(masks.shape[0], others.shape[0], dtype=torch.float64)


def anova_kernel_grad(masks, others, relevances, variances, weights, **_) -> tuple:
    return relevances.new_empty(relevances.shape, dtype=torch.float64), variances.new_empty(
        variances.shape, dtype=torch.float64
    )


def anova_cross(masks, support, relevances, variances, **_) -> Tensor:
    return masks.new_empty(support.shape[0], masks.shape[0], dtype=torch.float64)


def mask_lengths(masks, lengths, **_) -> Tensor:
    return masks.new_empty(masks.shape[0])


def pack_tokens(masks, ids, owner, n, **_) -> tuple[Tensor, ...]:
    tokens, starts = some(), masks.new_empty(masks.shape[0] + 1)
    sequence = ids.new_empty(tokens, dtype=torch.int32)
    return ids.new_empty(tokens), ids.new_empty(tokens), sequence, starts


def pack_trie(masks, ids, owner, n, **_) -> tuple[Tensor, ...]:
    nodes, rows = some(), masks.shape[0]
    each = (ids.new_empty(nodes) for _ in range(3))
    return *each, ids.new_empty(rows), ids.new_empty(rows + 1), ids.new_empty(rows)


def mask_embed(masks, embeddings, baseline, owner, n, *, starts=None, backend="auto") -> Tensor:
    rows = (masks.shape[0], embeddings.shape[0]) if starts is None else (some(),)
    return embeddings.new_empty(*rows, embeddings.shape[1])


def like_first(x, *_, **__) -> Tensor:
    return x.new_empty(x.shape)


def score_last(hidden, rows, weight, **_) -> Tensor:
    return hidden.new_empty(rows.shape[0], weight.shape[0], dtype=_sum_dtype(hidden))


def token_logprobs(hidden, rows, weight, targets, **_) -> Tensor:
    return hidden.new_empty(rows.shape[0], dtype=_sum_dtype(hidden))


def _sum_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32
