"""Text under an encoder: what it makes of the part of a text that a mask keeps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import masks as bits
from ..errors import check, check_int
from ..transfers import up
from ..value_function import ValueFunction, run_threaded
from .components import Score
from .encoders import Encoder, Packed, Padded, as_encoder, choose, load_encoder, load_minilm
from .fingerprint import digest, name_model
from .masking import Masking
from .scorers import Logit, Margin, Scorer, Similarity, score
from .tokens import tokenize
from .units import Units, sentence_spans

__all__ = [
    "Encoder",
    "EncoderText",
    "Logit",
    "Margin",
    "Similarity",
    "TextSimilarity",
    "as_encoder",
    "load_encoder",
    "load_minilm",
    "sentence_spans",
]


class EncoderText(ValueFunction):
    """f(m) = scorer(output of an encoder for the tokens that m keeps)

    Args:     encoder: load_encoder(...) or as_encoder(...); its `output` is what the scorer gets.
              text: its units are the features. scorer: outputs (T, k) -> (T,) or (T, q): Similarity
              to a target, Logit or Margin of a class, or any callable.
              units, prefix, suffix, pair, pair_first, special_tokens, lossy: as for tokenize.
              masking: "remove" (the rest closes up), "hide" (it keeps its positions), "replace" (by
              mask_token, else by the tokenizer's own). These are three different functions.
              truncate: cut a text that is longer than the model takes.
              threads: on a CPU, packs at a time; default torch.get_num_threads().
    Attributes: layout: the tokens and what they belong to; its `inert` features have no effect, its
              `uncovered` text is always kept. backend: "packed", or "padded" where that is not
              right for the model, as a warning then says.
    Call:     bool (batch, n) -> float32 (batch,) or (batch, q). With nothing kept, the special
              tokens, prefix, suffix and pair are left.
    Raises:   ValueError as tokenize does, for an unknown masking, where nothing would be left, and
              for a scorer that returns the wrong shape or numbers that are not finite.
    Accuracy: float32; the same mask beside other masks moves by 2e-7 (bfloat16: 1e-3).
    Cost:     a forward pass over the kept tokens, no padding.
    Example:  f = EncoderText(load_encoder(folder, output="logits"), "A fine film.", Margin(1))
              f(np.ones((1, f.n), dtype=bool))
    """

    order = "length"

    def __init__(
        self,
        encoder: Encoder,
        text: str,
        scorer: Scorer,
        *,
        units: Units = "words",
        masking: Masking = "remove",
        mask_token: str | None = None,
        prefix: str = "",
        suffix: str = "",
        pair: str | None = None,
        pair_first: bool = False,
        special_tokens: bool = True,
        truncate: bool = False,
        lossy: bool = False,
        threads: int | None = None,
    ):
        if threads is not None:
            threads = check_int(f"{type(self).__name__}: threads", threads, 1)
        self.encoder, self.scorer = encoder, scorer
        self.layout = tokenize(
            encoder.tokenizer,
            text,
            units=units,
            prefix=prefix,
            suffix=suffix,
            pair=pair,
            pair_first=pair_first,
            special_tokens=special_tokens,
            max_tokens=encoder.max_tokens,
            truncate=truncate,
            lossy=lossy,
        )
        self.masker = encoder.masker(self.layout, masking, mask_token)
        self.features = list(self.layout.features)
        self.units = units if isinstance(units, str) else "spans"
        self.tokens = encoder.tokens_per_forward
        on_cpu = encoder.device.type == "cpu"
        self.threads = (threads or torch.get_num_threads()) if on_cpu else None

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @property
    def inert(self) -> tuple[int, ...]:
        """Features without a token, so without effect."""
        return self.layout.inert

    @property
    def backend(self) -> str:
        """How the model runs: "packed" or "padded". Asking it is a few calls of the model."""
        return self._backend.name

    @functools.cached_property
    def fingerprint(self) -> str:
        """The model in words, and a digest of the tokens, the masking and the scorer; it reads all
        weights once."""
        how = self.masker.masking, self.masker.token, self.encoder.output, self.scorer
        return f"{name_model(self.encoder.model)} text-{digest(self.layout, how)}"

    def __repr__(self) -> str:
        how = {"remove": "removed", "hide": "hidden", "replace": "replaced"}[self.masker.masking]
        return (
            f"{type(self).__name__}({self.n} {self.units}, {self.layout.tokens} tokens, "
            f"absent ones {how})"
        )

    def cost(self, masks: Tensor) -> np.ndarray:
        return self.masker.cost(masks)

    def whole(self) -> tuple[torch.nn.Module, dict[str, Tensor], Score]:
        """The model, the whole input as a batch of one, and how f scores the model's answer to it:
        what Components wants to know to explain parts of the model in place of the input."""
        inputs = self.masker.pad(bits.pack(np.ones((1, self.n), np.bool_)))
        keep = inputs["attention_mask"]

        def scored(answer: Any, examples: Tensor) -> Tensor:
            read = Padded(self.encoder).read
            return score(self.scorer, read(answer, keep.expand(len(examples), -1)))

        return Padded(self.encoder).model, inputs, scored

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        _ = self._backend  # made once and before there are threads
        yield

    def run(self, masks: Tensor) -> Tensor:
        return score(self.scorer, self._backend(self.masker, masks))

    @functools.cached_property
    def _backend(self) -> Packed | Padded:
        none, some, every = np.zeros((3, self.n), np.bool_)
        some[::2] = every[:] = True
        masks = up(bits.pack(np.stack([none, some, every])), self.device)
        one = None if self.threads is None else 1
        (found,) = run_threaded(lambda rows: choose(self.encoder, self.masker, rows), [masks], one)
        return found


class TextSimilarity(EncoderText):
    """f(m) = cosine(embedding of the question, embedding of what m keeps of the passage).

    Args:     text: the passage, whose units are the features. question: a short text.
              unit: "words", "sentences", "paragraphs", or spans.
              mask: None removes the tokens of absent features; a token of the model, as "[MASK]" or
              "[UNK]", takes the place of each of them.
              truncate, threads: as EncoderText's. encoder: default load_minilm().
    Raises:   as EncoderText; also ValueError for a blank question; MissingExtra.
    Example:  f = TextSimilarity("The cat sat on the mat.", "Where did the cat sit?")
              f(np.ones((1, f.n), dtype=bool))
    """

    def __init__(
        self,
        text: str,
        question: str,
        *,
        unit: Units = "words",
        mask: str | None = None,
        truncate: bool = False,
        encoder: Encoder | None = None,
        threads: int | None = None,
    ):
        if not isinstance(question, str):
            raise TypeError(f"TextSimilarity: question must be a string, got {question!r}")
        check(bool(question.strip()), "TextSimilarity: question must not be blank")
        encoder = load_minilm() if encoder is None else encoder
        super().__init__(
            encoder,
            text,
            Similarity(encoder.embed(question, "question")),
            units=unit,
            masking="remove" if mask is None else "replace",
            mask_token=mask,
            truncate=truncate,
            threads=threads,
        )
