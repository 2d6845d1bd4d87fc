"""Sequences of different lengths in one forward pass, end to end, without padding.

transformers lets anyone register an attention function by name. A model that is set to such a name
makes no attention mask, and hands what it does not know itself to every attention layer. So one
function that keeps sequences apart serves encoders and decoders, and all else in a model works on
one token at a time.

No other way to pack is used: for encoders, positions that start again are ignored, and masks of
four axes are right with some attentions and silently wrong with others. Whether it is right for a
model is asked of the model itself, by `difference`, before anything else is.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..backend import pick
from ..errors import MissingExtra
from ..ops_inference import packed_attention
from ..transfers import up
from .activations import replace_gelus

ATTENTION = "spex_packed"
Run = tuple[int, int, int]  # first token, sequences, tokens of each


@dataclass(frozen=True, eq=False)
class Pack:
    """Sequences end to end, as a model takes them.

    Attributes:
        input_ids, position_ids: int64 (N,). token_types: int64 (N,) or None.
        starts: where each sequence starts, and N: T + 1 numbers, on the host.
    """

    input_ids: Tensor
    position_ids: Tensor
    starts: Sequence[int]
    token_types: Tensor | None = None

    @functools.cached_property
    def lengths(self) -> list[int]:
        return [b - a for a, b in itertools.pairwise(self.starts)]

    @functools.cached_property
    def runs(self) -> list[Run]:
        """Neighbours of one length, which are a batch without padding."""
        runs, first = [], 0
        for length, group in itertools.groupby(self.lengths):
            rows = len(list(group))
            runs.append((self.starts[first], rows, length))
            first += rows
        return runs

    @functools.cached_property
    def edges(self) -> Tensor:
        """starts, int32 (T + 1,) on the device of the tokens."""
        return up(torch.tensor(self.starts, dtype=torch.int32), self.input_ids.device)


def hidden_states(model: Any, pack: Pack) -> Tensor:
    """The last hidden states (N, d) of a body (a model without its head) made by `packable`.

    Cost: one forward pass over N tokens.
    """
    types = {} if pack.token_types is None else {"token_type_ids": pack.token_types[None]}
    return model(
        input_ids=pack.input_ids[None],
        position_ids=pack.position_ids[None],
        use_cache=False,
        spex_pack=pack,
        **types,
    ).last_hidden_state[0]


def packable(model: Any, attention: str = ATTENTION) -> Any:
    """The model over again, with the same weights in the same memory but an attention and an exact
    GELU of its own, in evaluation mode; the caller's stays as it is.

    Raises: NotImplementedError where the model does not take its attention from transformers'
            registry.
    """
    register(ATTENTION, attend)
    weights = itertools.chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in weights}).eval()
    if not twin._can_set_attn_implementation():
        raise NotImplementedError(f"{type(model).__name__} has no attention hook")
    twin.set_attn_implementation(attention)
    replace_gelus(twin)
    return twin


def register(name: str, attention: Callable[..., tuple[Tensor, None]]) -> None:
    """Make `attention` known to transformers, with no function that makes masks.

    Raises: MissingExtra without transformers, or with one from before the registry.
    """
    try:
        from transformers import AttentionInterface
    except ImportError as error:
        raise MissingExtra(
            "packing: transformers >= 4.48 is not installed; pip install spex-core[text]"
        ) from error
    AttentionInterface.register(name, attention)


def difference(packed: Tensor, alone: Tensor) -> float:
    """The largest difference of outputs, relative to the largest output; NaN counts as infinite."""
    gap = (packed.double() - alone.double()).abs().max() / alone.double().abs().max()
    return float(torch.nan_to_num(gap, nan=torch.inf))


def tolerance(dtype: torch.dtype) -> float:
    """What `difference` is at most for a model of this dtype that is packed rightly. Wrong ones,
    whose tokens see those of other sequences, are off by more than a tenth."""
    return 0.05 if torch.finfo(dtype).bits == 16 else 1000 * torch.finfo(dtype).eps


# ---- Attention -----------------------------------------------------------------------------------


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    spex_pack: Pack,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention within each sequence of a pack: query (1, H, N, D), key and value (1, K, N, D) ->
    (1, N, H, D). H is a multiple of K.

    Raises: NotImplementedError for what the registry's own functions would heed and this does not:
            masks, windows shorter than a sequence, bounded scores, biases, sinks.
    """
    refuse(attention_mask, max(spex_pack.lengths), options)
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (N, H or K, D), views
    half = query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16)
    if half and (kernel := _varlen_kernel()) is not None:
        return kernel(q, k, v, spex_pack, causal, scaling)[None], None
    if compiled(query, key, value):
        return packed_attention(q, k, v, spex_pack.edges, causal=causal, scale=scaling)[None], None
    return _run_by_run(query, key, value, spex_pack, causal, scaling)[None], None


def refuse(mask: Tensor | None, longest: int, options: dict[str, Any]) -> None:
    given = [
        name for name in ("softcap", "position_bias", "s_aux") if options.get(name) is not None
    ]
    given += [] if mask is None else ["attention_mask"]
    if (window := options.get("sliding_window")) is not None and longest > window // 2:
        given.append("sliding_window")  # models differ in whether it counts one side or both
    if given:
        raise NotImplementedError(f"packed attention does not support {', '.join(given)}")


def compiled(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether a kernel of this package is there and takes them: on a CPU the compiled one, which
    would widen float16, on CUDA Triton's."""
    asked = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    how = pick("packed_attention", "auto", query.device)
    known = query.dtype in (torch.float32, torch.bfloat16)
    known |= query.dtype == torch.float16 and how == "triton"
    return known and not asked and how != "reference" and key.shape == value.shape


def _run_by_run(
    query: Tensor, key: Tensor, value: Tensor, pack: Pack, causal: bool, scale: float | None
) -> Tensor:  # (N, H, D)
    parts = []
    for start, rows, length in pack.runs:
        q, k, v = (
            x[0, :, start : start + rows * length].unflatten(1, (rows, length)).transpose(0, 1)
            for x in (query, key, value)
        )  # (rows, H or K, length, D), views
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


@functools.cache
def _varlen_kernel() -> Callable[..., Tensor] | None:
    """(N, H, D) states of a pack, in half precision -> (N, H, D), in one launch: by torch's own
    kernel where it has one, else by flash-attn's; None where neither is installed."""
    with contextlib.suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn

        if "window_size" in inspect.signature(varlen_attn).parameters:
            return functools.partial(_torch_varlen, varlen_attn)
    with contextlib.suppress(ImportError):
        from flash_attn import flash_attn_varlen_func

        return functools.partial(_flash_varlen, flash_attn_varlen_func)
    return None


def _torch_varlen(
    kernel: Any, q: Tensor, k: Tensor, v: Tensor, pack: Pack, causal: bool, scale: float | None
) -> Tensor:
    return kernel(
        *(q, k, v, pack.edges, pack.edges, max(pack.lengths), max(pack.lengths)),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _flash_varlen(
    kernel: Any, q: Tensor, k: Tensor, v: Tensor, pack: Pack, causal: bool, scale: float | None
) -> Tensor:
    return kernel(
        *(q, k, v, pack.edges, pack.edges, max(pack.lengths), max(pack.lengths)),
        softmax_scale=scale,
        causal=causal,
    )
