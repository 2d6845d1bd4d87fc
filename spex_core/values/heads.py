"""Attention heads: what each contributes to how a sentence encoder compares sentences, or to how a
model scores a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import check
from .components import Components

if TYPE_CHECKING:
    from .language import CausalText
    from .text import EncoderText


def sentence_heads(
    pairs: Sequence[tuple[str, str]],
    related: Sequence[bool] | None = None,
    *,
    encoder: Any = None,
    components: str | Sequence[str] = "heads",
    absent: Literal["zero", "mean"] = "zero",
    rescale: bool = False,
    tokens: int | None = None,
    threads: int = 1,
) -> Components:
    """The 72 heads of MiniLM, or parts of another encoder, on pairs of sentences.

    With labels, f(m) is how well the encoder tells them apart: the mean cosine of the related pairs
    minus that of the unrelated. Without, it is how far the encoder still ranks the pairs as when
    it is whole: the correlation of the pairs' cosines with those of the whole model (0 where all
    cosines are equal).

    Args:    pairs: two sentences each; a sentence in several pairs is computed once a mask.
             related: one label a pair, some true and some false.
             encoder: has a `tokenizer` and a `model`; default load_minilm(). Its sentence embedding
             is the mean of the last hidden states.
             The others: as in Components.
    Returns: Components, whose features are the heads.
    Raises:  ValueError for no pair, a blank sentence, one longer than the encoder takes, labels of
             another number or all equal, or, without labels, fewer than three pairs; MissingExtra.
    Cost:    a forward pass over the distinct sentences for each mask; one without labels.
    Example: f = sentence_heads([("A cat sleeps.", "A kitten naps."), ("A cat sleeps.", "Rain.")],
                                [True, False])
             f(np.ones((1, f.n), dtype=bool))
    """
    check(len(pairs) > 0, "sentence_heads: pairs must hold a pair, got none")
    if encoder is None:
        from .text import load_minilm

        encoder = load_minilm()
    batches, place = _by_length(encoder, [text for pair in pairs for text in pair])
    first = np.array([place[a] for a, _ in pairs])
    second = np.array([place[b] for _, b in pairs])

    def parts_of(combine: Cosines) -> Components:
        return Components(
            *(encoder.model, batches, mean_embedding),
            combine=combine,
            components=components,
            absent=absent,
            rescale=rescale,
            tokens=tokens,
            threads=threads,
        )

    if related is not None:
        labels = np.asarray(related, np.bool_)
        check(
            labels.shape == first.shape and bool(labels.any()) and not labels.all(),
            "sentence_heads: related must be {} labels, some true and some false, got {}",
            *(len(pairs), related),
        )
        return parts_of(Contrast(first, second, labels))
    check(
        len(pairs) > 2, "sentence_heads: 3 pairs must be given without labels, got {}", len(pairs)
    )
    whole = parts_of(Cosines(first, second))
    cosines = whole(np.ones((1, whole.n), np.bool_))[0]
    return parts_of(Agreement(first, second, cosines))


def text_heads(
    f: EncoderText | CausalText,
    *,
    components: str | Sequence[str] = "heads",
    absent: Literal["zero", "mean"] = "zero",
    rescale: bool = False,
    tokens: int | None = None,
    threads: int = 1,
) -> Components:
    """The heads, or other parts, of the model of f, with the whole text there and scored as f does.

    Args:    f: whose model, text and scorer count. The others: as in Components.
    Cost:    a forward pass over the text for each mask.
    Example: f = EncoderText(minilm, "A cat sleeps.", Similarity(minilm.embed("Who sleeps?")))
             text_heads(f)(np.ones((1, 72), dtype=bool))
    """
    return Components(
        *f.whole(),
        components=components,
        absent=absent,
        rescale=rescale,
        tokens=tokens,
        threads=threads,
    )


def mean_embedding(output: Any, examples: Tensor) -> Tensor:
    """Embeddings of sentences without padding: means over tokens, of length one, (rows, d)."""
    return torch.nn.functional.normalize(output.last_hidden_state.float().mean(1), dim=1)


@dataclass(frozen=True)
class Cosines:
    """Embeddings (masks, sentences, d) -> the cosine of each pair, (masks, pairs)."""

    first: np.ndarray  # int64 (pairs,), a sentence
    second: np.ndarray

    def __call__(self, embeddings: Tensor) -> Tensor:
        return (embeddings[:, self.first] * embeddings[:, self.second]).sum(-1)


@dataclass(frozen=True)
class Contrast(Cosines):
    """The mean cosine of related pairs minus that of the others, (masks,)."""

    related: np.ndarray  # bool (pairs,)

    def __call__(self, embeddings: Tensor) -> Tensor:
        cosines = super().__call__(embeddings)
        return cosines[:, self.related].mean(1) - cosines[:, ~self.related].mean(1)


@dataclass(frozen=True)
class Agreement(Cosines):
    """The correlation of the pairs' cosines with given ones, (masks,)."""

    given: np.ndarray  # (pairs,)

    def __call__(self, embeddings: Tensor) -> Tensor:
        cosines = super().__call__(embeddings).double()
        given = torch.from_numpy(self.given).to(cosines)
        cosines = cosines - cosines.mean(1, keepdim=True)
        given = given - given.mean()
        size = cosines.norm(dim=1) * given.norm()
        return torch.where(size > 1e-12, cosines @ given / size.clamp(min=1e-12), 0.0)


def _by_length(
    encoder: Any, texts: Sequence[str]
) -> tuple[list[dict[str, Tensor]], dict[str, int]]:
    """Distinct sentences in batches of one length, so without padding, and the place of each."""
    ids: dict[str, list[int]] = {}
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"sentence_heads: pairs must be of strings, got {text!r}")
        check(bool(text.strip()), "sentence_heads: pairs must not hold a blank sentence")
        ids[text] = encoder.tokenizer(text, verbose=False)["input_ids"]
        check(
            len(ids[text]) <= encoder.max_tokens,
            "sentence_heads: a sentence must have at most {} tokens, got {}: {!r}",
            *(encoder.max_tokens, len(ids[text]), text),
        )
    order = sorted(ids, key=lambda text: len(ids[text]))
    groups: dict[int, list[list[int]]] = {}
    for text in order:
        groups.setdefault(len(ids[text]), []).append(ids[text])
    batches = [{"input_ids": torch.tensor(group)} for group in groups.values()]
    return batches, {text: i for i, text in enumerate(order)}
