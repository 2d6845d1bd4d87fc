"""Text before a causal language model: what the model says of the part of a text that a mask keeps.

The text is tokenised once, between a fixed prefix and suffix. Masks that share their beginnings go
through the model as one trie (trie.py), each common prefix once; where a model does not allow that,
end to end without padding (packing.py), or one length at a time.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import check, check_int
from ..value_function import ValueFunction
from .causal_scorers import Custom, Scorer
from .choices import Choices, text_choices
from .components import Score
from .decoders import How, decoder_for, head_of
from .fingerprint import digest, name_model
from .loading import Kind, load_model
from .masking import MASKINGS, Masking
from .tokens import TokenLayout
from .units import Units

LONG_TAIL = 16  # fixed tokens after the features that are too few to warn of


class CausalText(ValueFunction):
    """f(m) = the score of a causal language model on prefix, what m keeps of the text, suffix.

    Args:     model: a causal language model or sequence classifier of transformers, in evaluation
              mode; it stays as it is. tokenizer: its fast one. text: holds the features.
              scorer: of causal_scorers.py, or any function of the hidden states at the last token,
              (T, d) -> (T,) or (T, q).
              units: "words", "sentences", "paragraphs", or spans (start, end) of the text.
              masking: "remove" drops the tokens of absent features and closes up positions; "hide"
              lets nobody attend to them, and the others keep their positions; "replace" puts
              mask_token, one token of the model, in the place of each. Three different functions.
              prefix, suffix: always there, joined to the text as they are; tokens.chat_affixes
              makes them of a chat template, to be used with special_tokens=False.
              special_tokens: whether the tokenizer adds its own.
              truncate: cut a text that is longer than the model takes; the features cut off have
              no effect and are listed in `inert`.
              how: "trie", "packed" or "separate"; None is the first that is right for the model.
              tokens: of one pack; by default 2**11 on a CPU, else 2**14.
    Call:     bool (T, n) -> float32 (T,) or (T, q); evaluate() takes packed masks.
    Raises:   ValueError, TypeError for a text, units or scorer that do not fit, where nothing is
              left when all features are absent, or where values are not finite;
              NotImplementedError for a `how` that is not right for the model; MissingExtra.
    Accuracy: that of separate forward passes, but for the order of sums: some 1e-6 of the largest
              hidden state in float32, 1e-15 in float64.
    Cost:     one forward pass over the nodes of a trie. What is fixed should stand before the text:
              a prefix is computed once a pack, a suffix once a mask.
    Example:  f = CausalText(model, tokenizer, passage, LogitDifference(" yes", " no"),
                             prefix="Is this good? ", suffix=" Answer:")
              spex(f, features=f.features, budget=5000, prefix_sharing=True)
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        text: str,
        scorer: Scorer | Callable[[Tensor], Tensor],
        *,
        units: Units = "words",
        masking: Masking = "remove",
        mask_token: str | None = None,
        prefix: str = "",
        suffix: str = "",
        special_tokens: bool = True,
        truncate: bool = False,
        how: How | None = None,
        tokens: int | None = None,
    ):
        if not (isinstance(scorer, Scorer) or callable(scorer)):
            raise TypeError(f"CausalText: scorer must be a Scorer or a function, got {scorer!r}")
        self._head = head_of(model)
        check(not model.training, "CausalText: model must be in evaluation mode: model.eval()")
        self.scorer = scorer if isinstance(scorer, Scorer) else Custom(scorer)
        self.tokenizer, self.masking, self._model = tokenizer, masking, model
        answer = self.scorer.answer(tokenizer)
        self.choices = text_choices(
            *("CausalText", tokenizer, text, answer[:-1]),
            masking=masking,
            maskings=MASKINGS,
            mask_token=mask_token,
            max_tokens=_most_tokens(model, tokenizer),
            units=units,
            prefix=prefix,
            suffix=suffix,
            special_tokens=special_tokens,
            truncate=truncate,
        )
        self.features = self.choices.layout.features
        _warn_of_tail(self.choices)
        self._decoder = decoder_for(model, self._head, self.choices, how)
        self.order = "prefix" if self.how == "trie" else "length"
        self.tokens = 1 << (11 if model.device.type == "cpu" else 14)
        if tokens is not None:
            self.tokens = check_int("CausalText: tokens", tokens, 1)

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def how(self) -> How:
        """In which way the model is run: "trie", "packed" or "separate"."""
        return self._decoder.how

    @property
    def layout(self) -> TokenLayout:
        """The tokens and what they belong to."""
        return self.choices.layout

    @property
    def inert(self) -> tuple[int, ...]:
        """Features without a token, so without effect."""
        return self.layout.inert

    @functools.cached_property
    def fingerprint(self) -> str:
        """The model in words, and a digest of the tokens, the masking and the scorer; it reads all
        weights once."""
        how = self.masking, self.choices.replacement, self.choices.tail, self.scorer
        return f"{name_model(self._model)} text-{digest(self.layout, how)}"

    def cost(self, masks: Tensor) -> np.ndarray:
        return self.choices.cost(masks)

    def added(self, masks: Tensor) -> np.ndarray | None:
        return self.choices.added(masks) if self.how == "trie" else None

    def whole(self) -> tuple[torch.nn.Module, dict[str, Tensor], Score]:
        """The model without its head, the whole input as a batch of one, and how f scores its
        answer to it: what Components wants to know to explain parts of the model in place of the
        input."""
        tail = torch.tensor(self.choices.tail, dtype=torch.int64)
        ids = torch.cat([torch.from_numpy(self.layout.ids), tail]).to(self._model.device)
        last = torch.arange(len(ids) - 1 - len(tail), len(ids), device=ids.device)

        def scored(answer: Any, examples: Tensor) -> Tensor:
            first = torch.arange(len(examples), device=ids.device) * len(ids)
            hidden = answer.last_hidden_state.flatten(0, 1)
            return self.scorer.score(hidden, first[:, None] + last, self._head, self.tokenizer)

        given = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
        return self._model.base_model, given | {"use_cache": False}, scored

    def run(self, masks: Tensor) -> Tensor:
        hidden, rows = self._decoder.states(masks, self.choices)
        with torch.inference_mode():
            return self.scorer.score(hidden, rows, self._head, self.tokenizer)

    def __repr__(self) -> str:
        layout = self.layout
        return (
            f"CausalText({type(self._model).__name__}, {self.n} features, {layout.tokens} tokens, "
            f"{self.masking}, {self.how})"
        )


def load_causal(
    name: str | Path,
    *,
    classifier: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> tuple[Any, Any]:
    """(model, tokenizer) of a causal language model of transformers, or of a sequence classifier
    that is made of one: a folder, or a name on the hub (HF_HUB_OFFLINE is heeded).

    Raises:  MissingExtra without transformers; OSError for a model that is not there.
    Example: CausalText(*load_causal("HuggingFaceTB/SmolLM2-135M"), passage, AnswerLogprob(" yes"))
    """
    kind: Kind = "AutoModelForSequenceClassification" if classifier else "AutoModelForCausalLM"
    tokenizer, model = load_model(kind, name, device=device, dtype=dtype, revision=revision)
    return model, tokenizer


def _most_tokens(model: Any, tokenizer: Any) -> int | None:
    """What the model takes, by its positions and its tokenizer."""
    config = model.config.get_text_config()
    given = getattr(config, "max_position_embeddings", None), tokenizer.model_max_length
    known = [int(number) for number in given if number is not None and 0 < number < 1e9]
    return min(known, default=None)


def _warn_of_tail(choices: Choices) -> None:
    """A fixed block after the features is computed for every mask, and before them once a pack."""
    layout = choices.layout
    own = np.flatnonzero(layout.owner < layout.n)
    after = choices.longest - 1 - int(own.max(initial=-1))
    if after > max(LONG_TAIL, int(layout.lengths.sum()) // 4):
        warnings.warn(
            f"CausalText: {after} fixed tokens follow the {int(layout.lengths.sum())} that masks "
            "choose from, and are computed for every mask: what can stand before the text should",
            stacklevel=3,
        )
