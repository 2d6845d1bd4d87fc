"""From the last hidden states of a causal language model to values.

A scorer never makes the logits of a whole vocabulary: a difference of two logits is one product,
and the log-probability of an answer takes its own tokens, in one pass for the whole answer.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops_inference as ops
from ..errors import check
from .scorers import Margin


@dataclass(frozen=True, eq=False)
class Head:
    """What makes logits of hidden states: weight (V, d), bias (V,) or None, names of the classes of
    a classifier."""

    weight: Tensor
    bias: Tensor | None
    classes: tuple[str, ...] = ()

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights and biases of some of the logits, in float32 at least: a difference of two close
        rows in half precision would lose what tells them apart."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias[ids].to(wide)
        return self.weight[ids].to(wide), bias


class Scorer(abc.ABC):
    """One value or several for each mask. Subclasses define score, and `answer` where tokens follow
    the text that the model is to be asked for."""

    def answer(self, tokenizer: Any) -> list[int]:
        """Token ids that follow the text, always there."""
        return []

    @abc.abstractmethod
    def score(self, hidden: Tensor, rows: Tensor, head: Head, tokenizer: Any) -> Tensor:
        """hidden: (N, d), after the last norm. rows: int64 (T, A): of each mask the last token of
        the text and all but the last token of the answer; A = 1 without one. -> (T,) or (T, q)."""


@dataclass(frozen=True)
class LogitDifference(Scorer):
    """The logit of one token over that of another, of what would come next.

    Args: yes, no: each one token of the model, given as text (with its leading blank, where the
          model writes it with one) or as a token id.
    """

    yes: str | int
    no: str | int

    def score(self, hidden: Tensor, rows: Tensor, head: Head, tokenizer: Any) -> Tensor:
        ids = [token_id(label, tokenizer, len(head.weight)) for label in (self.yes, self.no)]
        return _difference(hidden, rows, head, *ids)


@dataclass(frozen=True)
class LabelLogprobs(Scorer):
    """The log-probabilities of some tokens as what would come next: a value each.

    Args: labels: each one token of the model, as for LogitDifference.
    """

    labels: Sequence[str | int]

    def score(self, hidden: Tensor, rows: Tensor, head: Head, tokenizer: Any) -> Tensor:
        ids = [token_id(label, tokenizer, len(head.weight)) for label in self.labels]
        targets = torch.tensor(ids, device=hidden.device).repeat(len(rows))
        last = rows[:, -1].repeat_interleave(len(ids))
        found = ops.token_logprobs(hidden, last, head.weight, targets, bias=head.bias)
        return found.view(len(rows), len(ids))


@dataclass(frozen=True)
class AnswerLogprob(Scorer):
    """The log-probability of an answer, teacher-forced: the sum (or the mean) over its tokens of
    the log-probability of each after the text and the tokens before it.

    Args: text: the answer, with its leading blank where the model writes it with one. It is
          tokenised by itself.
    Cost: for A tokens, A - 1 tokens and A rows of the vocabulary a mask.
    """

    text: str
    mean: bool = False

    def answer(self, tokenizer: Any) -> list[int]:
        ids = _ids_of(self.text, tokenizer)
        check(len(ids) > 0, "AnswerLogprob: text must have at least one token, got {!r}", self.text)
        return ids

    def score(self, hidden: Tensor, rows: Tensor, head: Head, tokenizer: Any) -> Tensor:
        targets = torch.tensor(self.answer(tokenizer), device=hidden.device).repeat(len(rows))
        found = ops.token_logprobs(hidden, rows.flatten(), head.weight, targets, bias=head.bias)
        each = found.view(rows.shape)
        return each.mean(1) if self.mean else each.sum(1)


@dataclass(frozen=True)
class ClassLogit(Scorer):
    """The logit of a class of a sequence classifier, or its margin over another class.

    Args: label: a class by name or number; None is all of them, a value each. against: another.
    """

    label: str | int | None = None
    against: str | int | None = None

    def score(self, hidden: Tensor, rows: Tensor, head: Head, tokenizer: Any) -> Tensor:
        check(len(head.classes) > 0, "ClassLogit: model must be a sequence classifier")
        if self.label is None:
            check(self.against is None, "ClassLogit: against must come with a label")
            everything = torch.arange(len(head.classes), device=hidden.device)
            return _scores(hidden, rows, *head.rows(everything))
        label = class_number(self.label, head.classes)
        if self.against is not None:
            return _difference(hidden, rows, head, label, class_number(self.against, head.classes))
        return _scores(hidden, rows, *head.rows(torch.tensor([label], device=hidden.device)))[:, 0]


@dataclass(frozen=True)
class ClassMargin(Scorer):
    """The logit of a class of a sequence classifier over the largest of all others."""

    label: str | int

    def score(self, hidden: Tensor, rows: Tensor, head: Head, tokenizer: Any) -> Tensor:
        logits = ClassLogit().score(hidden, rows, head, tokenizer)
        return Margin(class_number(self.label, head.classes))(logits)


@dataclass(frozen=True)
class Custom(Scorer):
    """Any function of the hidden states at the last token: (T, d) -> (T,) or (T, q)."""

    function: Any

    def score(self, hidden: Tensor, rows: Tensor, head: Head, tokenizer: Any) -> Tensor:
        return self.function(hidden[rows[:, -1]])


def class_number(label: str | int, classes: Sequence[str]) -> int:
    """Raises: ValueError for a class that is not there."""
    known = label in classes or (label in range(len(classes)) and not isinstance(label, str))
    check(known, "label must be one of the classes {}, got {!r}", list(classes), label)
    return classes.index(label) if label in classes else int(label)


def token_id(label: str | int, tokenizer: Any, vocabulary: int) -> int:
    """Raises: ValueError unless the label is one token."""
    if isinstance(label, str):
        ids = _ids_of(label, tokenizer)
        check(
            len(ids) == 1,
            "a label must be one token, got {!r}, which is {}: give one of them "
            "by its id, or score the whole of it by AnswerLogprob",
            *(label, ids),
        )
        return ids[0]
    check(0 <= label < vocabulary, "a token id must be in [0, {}), got {}", vocabulary, label)
    return int(label)


def _ids_of(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _difference(hidden: Tensor, rows: Tensor, head: Head, plus: int, minus: int) -> Tensor:
    weight, bias = head.rows(torch.tensor([plus, minus], device=hidden.device))
    bias = None if bias is None else bias[:1] - bias[1:]
    return _scores(hidden, rows, weight[:1] - weight[1:], bias)[:, 0]


def _scores(hidden: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return ops.score_last(hidden, rows[:, -1].contiguous(), weight, bias=bias)
