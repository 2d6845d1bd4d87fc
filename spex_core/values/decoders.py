"""The last hidden states of a causal language model for many masks of one input, in three ways.

    trie       one forward pass over the nodes of the trie of all sequences
    packed     one over all sequences, end to end
    separate   the model as it is, one length at a time, without padding

Each is asked for three short sequences before it is used, and must agree with the model itself.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import masks as bits
from .. import ops_inference as ops
from ..errors import check
from ..transfers import down
from . import packing, trie
from .causal_scorers import Head
from .choices import Choices
from .tokens import TokenLayout

How = Literal["trie", "packed", "separate"]
HOWS: tuple[How, ...] = ("trie", "packed", "separate")


class States(NamedTuple):
    """hidden (N, d), and int64 (T, A) the rows of each sequence's last A tokens."""

    hidden: Tensor
    rows: Tensor


class Decoder:
    """A causal model without its head. `how` is one of HOWS."""

    def __init__(self, model: Any, how: How):
        self.how, self.one_by_one = how, _routes_by_capacity(model)
        make = {"trie": trie.branching, "packed": packing.packable, "separate": lambda body: body}
        self.body = make[how](model.base_model)

    @torch.inference_mode()
    def states(self, masks: Tensor, choices: Choices) -> States:
        """Packed masks (T, W) of the choices' layout, in lexicographic order for a trie.

        Cost: a forward pass over the nodes of the trie, or the tokens of the sequences.
        """
        device = self.body.device
        ids, owner = choices.tokens(device)
        asked = choices.masks(masks).to(device), ids, owner, choices.n
        if self.how == "trie":
            nodes = ops.pack_trie(*asked, original_positions=choices.original_positions)
            tree = trie.Trie(nodes.input_ids, nodes.position_ids, nodes.subtree_end)
            return States(trie.hidden_states(self.body, tree), _last(nodes.last, choices))
        packed = ops.pack_tokens(*asked, original_positions=choices.original_positions)
        if self.how == "packed":
            pack = packing.Pack(*packed[:2], down(packed.starts).tolist())
            hidden = packing.hidden_states(self.body, pack)
            return States(hidden, _last(packed.starts[1:] - 1, choices))
        return self._separate(packed, choices)

    def _separate(self, packed: ops.PackedTokens, choices: Choices) -> States:
        """Sequences of one length at a time, of which the last A states are kept."""
        lengths, keep = packed.starts.diff(), len(choices.tail) + 1
        hidden: Any = None  # of all, once the width is known
        for length in down(lengths.unique()).tolist():
            same = (lengths == length).nonzero()[:, 0]
            for rows in same.split(1 if self.one_by_one else max(1, len(same))):
                at = packed.starts[rows, None] + torch.arange(length, device=rows.device)
                # The mask is not for padding: without one, gaps in positions look like packing.
                given = {"attention_mask": torch.ones_like(at)}
                if choices.original_positions:
                    given["position_ids"] = packed.position_ids[at]
                out = self.body(input_ids=packed.input_ids[at], use_cache=False, **given)
                states = out.last_hidden_state[:, -keep:]  # (rows, A, d)
                if hidden is None:
                    hidden = states.new_empty(len(lengths), *states.shape[1:])
                hidden[rows] = states
        rows = torch.arange(len(lengths) * keep, device=lengths.device).view(-1, keep)
        return States(hidden.flatten(0, 1), rows)


def _last(last: Tensor, choices: Choices) -> Tensor:
    """The rows of the last tokens, which follow each other: in a trie in lexicographic order, a
    sequence leaves the one before it at a token of a feature, so before its tail."""
    back = torch.arange(len(choices.tail), -1, -1, device=last.device)
    return last[:, None] - back


# ---- Which way -----------------------------------------------------------------------------------


def decoder_for(model: Any, head: Head, choices: Choices, how: How | None) -> Decoder:
    """The first way that is right for the model and the longest sequence, or the one asked for.

    A warning says so where it is not the trie, and why.

    Raises: ValueError for an unknown `how`; NotImplementedError where the one asked for is not
            right, or none is: the model's logits are not its head times its last states.
    """
    check(how is None or how in HOWS, "CausalText: how must be one of {}, got {!r}", HOWS, how)
    name = type(model).__name__
    reasons: list[str] = []
    for way in HOWS if how is None else (how,):
        decoder, reason = _try(model, way, head, choices)
        if decoder is not None:
            if reasons:
                warnings.warn(f"{name} is run {way}: {'; '.join(reasons)}", stacklevel=4)
            return decoder
        reasons.append(f"not {way}, {reason}")
    raise NotImplementedError(f"CausalText: {name} cannot be run: {'; '.join(reasons)}")


def _try(model: Any, how: How, head: Head, choices: Choices) -> tuple[Decoder | None, str]:
    """The decoder, or why it is not right."""
    if how != "separate":
        window = _window(model)
        if window is not None and choices.longest > window // 2:
            return (
                None,
                f"its window of {window} tokens is short for sequences of {choices.longest}",
            )
        if _routes_by_capacity(model):
            return None, "its experts have a capacity, which sequences in one pass would share"
    try:
        decoder = Decoder(model, how)
        gap = check_states(decoder, model, head, choices.layout.ids)
    except (NotImplementedError, TypeError) as error:
        return None, str(error)
    if gap > packing.tolerance(model.dtype):
        return None, f"its states differ from those of separate passes by {gap:.1g}"
    return decoder, ""


def check_states(decoder: Decoder, model: Any, head: Head, ids: np.ndarray) -> float:
    """How far the decoder's states at the ends of three short sequences, and the logits that the
    head makes of them, are from the model's own, asked for one sequence after the other."""
    layout = TokenLayout(
        np.resize(ids, 12), np.array([4, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]), tuple("abcd")
    )
    choices = Choices(layout, None, False)
    masks = bits.pack(np.array([[0, 1, 0, 1], [1, 0, 1, 1], [1, 1, 0, 0]], np.bool_))
    hidden, rows = decoder.states(masks, choices)
    sequences = ops.pack_tokens(masks, *choices.tokens(torch.device("cpu")), choices.n)
    parts = sequences.input_ids.split(sequences.starts.diff().tolist())
    with torch.inference_mode():
        alone = [part[None].to(model.device) for part in parts]
        states = [model.base_model(ids, use_cache=False).last_hidden_state[0, -1:] for ids in alone]
        logits = [model(ids, use_cache=False).logits for ids in alone]
        states = torch.cat(states)
        logits = torch.cat([each.reshape(-1, each.shape[-1])[-1:] for each in logits])
        ours = hidden[rows[:, -1]]
        made = torch.nn.functional.linear(ours, head.weight, head.bias)
    return max(packing.difference(ours, states), packing.difference(made, logits))


def head_of(model: Any) -> Head:
    """The classes of a sequence classifier, else the vocabulary of a language model.

    Raises: TypeError for a model that has neither, or that is not a transformers decoder.
    """
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        raise TypeError(
            "CausalText: model must be a causal language model of transformers, "
            f"got {type(model).__name__}"
        )
    score = getattr(model, "score", None)
    if isinstance(score, torch.nn.Linear):
        names = tuple(str(config.id2label[i]) for i in range(score.out_features))
        return Head(score.weight, score.bias, names)
    vocabulary = model.get_output_embeddings()
    if vocabulary is None:
        raise TypeError(f"CausalText: model must have a head, got {type(model).__name__}")
    return Head(vocabulary.weight, getattr(vocabulary, "bias", None))


def _window(model: Any) -> int | None:
    """The sliding window of any of the model's layers."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    slides = (
        getattr(config, "use_sliding_window", True)
        if kinds is None
        else any(kind not in ("full_attention", "attention") for kind in kinds)
    )
    window = getattr(config, "sliding_window", None)
    return window if slides and isinstance(window, int) else None


def _routes_by_capacity(model: Any) -> bool:
    return getattr(model.config.get_text_config(), "expert_capacity", None) is not None
