"""How servers of language models are asked for log-probabilities, and how they answer.

Prompts are token ids, so that the server tokenises nothing. What is wanted of a prompt is the
log-probability of some labels as its next token, or that of its own last tokens.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import check

Prompts = Sequence[list[int]]
Logprobs = tuple[np.ndarray, np.ndarray]  # float64 (P, K); bool (P, K): where it is a bound


class BadReply(ValueError):
    """A reply that is not of the protocol."""


@dataclass(frozen=True)
class Wanted:
    """Of each prompt, K numbers.

    Attributes:
        labels: K token ids, whose log-probabilities as the next token are wanted. names: what they
        are called by a server that does not say ids; None where the name is not theirs alone.
        contrast: of two labels, whether only their difference is wanted.
        answer: without labels: the K last tokens of each prompt.
        top: how many of the likeliest tokens to ask for where a server gives no others.
    """

    labels: tuple[int, ...] = ()
    names: tuple[str | None, ...] = ()
    contrast: bool = False
    answer: tuple[int, ...] = ()
    top: int = 5


class Protocol(abc.ABC):
    """One kind of server: path: of its requests; from the root if it starts with a slash, else from
    the base URL."""

    path: str

    @abc.abstractmethod
    def body(self, model: str, prompts: Prompts, wanted: Wanted) -> dict[str, Any]:
        """What to send. Raises: ValueError for what this protocol cannot be asked."""

    @abc.abstractmethod
    def read(self, reply: Any, prompts: Prompts, wanted: Wanted) -> Logprobs:
        """Raises: BadReply; LookupError, TypeError, ValueError for other shapes than expected."""


class Completions(Protocol):
    """OpenAI's completions: labels are looked for among the likeliest tokens, and answers are read
    from the prompt's own log-probabilities, by `echo`."""

    path = "completions"

    def body(self, model: str, prompts: Prompts, wanted: Wanted) -> dict[str, Any]:
        body = {"model": model, "prompt": list(prompts), "max_tokens": 1, "temperature": 0}
        if wanted.answer:
            return body | {"logprobs": 1, "echo": True}
        return body | {"logprobs": wanted.top}

    def read(self, reply: Any, prompts: Prompts, wanted: Wanted) -> Logprobs:
        choices = sorted(reply["choices"], key=lambda choice: choice.get("index", 0))
        _count(choices, prompts)
        given = [choice.get("logprobs") for choice in choices]
        if not all(given):
            raise BadReply("it has no log-probabilities")
        if wanted.answer:
            return _exact(
                [self._echoed(*pair) for pair in zip(given, prompts, strict=True)], wanted
            )
        found = [self._labels(each, wanted) for each in given]
        numbers, bounds = zip(*found, strict=True)
        return _exact(numbers, wanted)[0], np.array(bounds)

    def _echoed(self, logprobs: Any, prompt: list[int]) -> list[float]:
        every = logprobs["token_logprobs"]
        if len(every) not in (len(prompt), len(prompt) + 1):  # with the one that was generated
            raise BadReply(
                f"it has {len(every)} log-probabilities for a prompt of {len(prompt)} tokens: the "
                "server does not echo them"
            )
        return every[: len(prompt)]

    def _labels(self, logprobs: Any, wanted: Wanted) -> tuple[list[float], list[bool]]:
        top = _by_name(logprobs)
        least = min(top.values())
        numbers, bounds = [], []
        for label, name in zip(wanted.labels, wanted.names, strict=True):
            if name is None and not any(_has_ids(key) for key in top):
                raise BadReply(
                    f"it names tokens by their text, which token {label} shares with another: ask "
                    "by an api that takes ids, as 'vllm' or 'sglang'"
                )
            there = [top[key] for key in (label, f"token_id:{label}", name) if key in top]
            numbers.append(there[0] if there else least)
            bounds.append(not there)
        return numbers, bounds


class VLLM(Completions):
    """Completions with `logprob_token_ids`: exact for any label, and cached prefixes are used.
    Answers are echoed, for which vLLM computes the whole prompt each time."""

    def body(self, model: str, prompts: Prompts, wanted: Wanted) -> dict[str, Any]:
        body = super().body(model, prompts, wanted)
        if wanted.answer:
            return body
        ids = list(wanted.labels)
        more = {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        return body | {"logprobs": len(ids)} | more

    def read(self, reply: Any, prompts: Prompts, wanted: Wanted) -> Logprobs:
        numbers, bounds = super().read(reply, prompts, wanted)
        if bounds.any():
            raise BadReply("labels asked for by logprob_token_ids are not there: it is too old")
        return numbers, bounds


class VLLMScoring(Protocol):
    """vLLM's generative scoring: the probability of one label, or of one of two over the other."""

    path = "/generative_scoring"

    def body(self, model: str, prompts: Prompts, wanted: Wanted) -> dict[str, Any]:
        check(
            len(wanted.labels) == 1 or wanted.contrast,
            "api 'vllm-scoring' must be asked for one label or the difference of two",
        )
        return _scoring_body(model, prompts, wanted)

    def read(self, reply: Any, prompts: Prompts, wanted: Wanted) -> Logprobs:
        scores = [item["score"] for item in sorted(reply["data"], key=lambda item: item["index"])]
        _count(scores, prompts)
        return _exact([_log_score(score, wanted) for score in scores], wanted)


class SGLang(Protocol):
    """SGLang's own `generate`: the labels' log-probabilities, or those of the answer alone, so that
    what stands before it comes from the cache."""

    path = "/generate"

    def body(self, model: str, prompts: Prompts, wanted: Wanted) -> dict[str, Any]:
        body: dict[str, Any] = {"input_ids": list(prompts), "return_logprob": True}
        if wanted.labels:
            body["token_ids_logprob"] = [list(wanted.labels)] * len(prompts)
            body["logprob_start_len"] = [-1] * len(prompts)
        else:  # the first token from there has no log-probability
            before = len(wanted.answer) + 1
            body["logprob_start_len"] = [len(prompt) - before for prompt in prompts]
        new = 1 if wanted.labels else 0
        return body | {"sampling_params": {"max_new_tokens": new, "temperature": 0}}

    def read(self, reply: Any, prompts: Prompts, wanted: Wanted) -> Logprobs:
        items = [reply] if isinstance(reply, dict) else reply
        _count(items, prompts)
        rows = []
        for item in items:
            about = item["meta_info"]
            if wanted.labels:
                found = {entry[1]: entry[0] for entry in about["output_token_ids_logprobs"][0]}
                rows.append([found[label] for label in wanted.labels])
            else:
                tokens = about["input_token_logprobs"][-len(wanted.answer) :]
                if tuple(entry[1] for entry in tokens) != wanted.answer:
                    raise BadReply("its last tokens are not those of the answer")
                rows.append([entry[0] for entry in tokens])
        return _exact(rows, wanted)


class SGLangScore(Protocol):
    """SGLang's score: the probabilities of labels."""

    path = "/v1/score"

    def body(self, model: str, prompts: Prompts, wanted: Wanted) -> dict[str, Any]:
        check(len(wanted.labels) > 0, "api 'sglang-score' must be asked for labels")
        return _scoring_body(model, prompts, wanted)

    def read(self, reply: Any, prompts: Prompts, wanted: Wanted) -> Logprobs:
        _count(reply["scores"], prompts)
        rows = [[_log(score) for score in scores] for scores in reply["scores"]]
        return _exact(rows, wanted)


PROTOCOLS: dict[str, Protocol] = {
    "completions": Completions(),
    "vllm": VLLM(),
    "vllm-scoring": VLLMScoring(),
    "sglang": SGLang(),
    "sglang-score": SGLangScore(),
}


def _by_name(logprobs: Any) -> dict[str | int, float]:
    """The likeliest next tokens, by name, or by id where the server says it."""
    if "content" in logprobs:  # as llama.cpp has it
        return {entry["id"]: entry["logprob"] for entry in logprobs["content"][0]["top_logprobs"]}
    return logprobs["top_logprobs"][0]


def _has_ids(key: str | int) -> bool:
    return isinstance(key, int) or key.startswith("token_id:")


def _scoring_body(model: str, prompts: Prompts, wanted: Wanted) -> dict[str, Any]:
    """What all prompts begin with is the query, what follows an item each."""
    shared = 0
    for tokens in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return {
        "model": model,
        "query": prompts[0][:shared],
        "items": [prompt[shared:] for prompt in prompts],
        "label_token_ids": list(wanted.labels),
        "apply_softmax": wanted.contrast,
        "item_first": False,
    }


def _log_score(score: float, wanted: Wanted) -> list[float]:
    """Of a probability among two labels, numbers with the difference of their log-probabilities."""
    return [_log(score), _log(1 - score)] if wanted.contrast else [_log(score)]


def _log(probability: float) -> float:
    return math.log(probability) if 0 < probability <= 1 else math.nan


def _count(items: Sequence[Any], prompts: Prompts) -> None:
    if len(items) != len(prompts):
        raise BadReply(f"it has {len(items)} results for {len(prompts)} prompts")


def _exact(rows: Sequence[Sequence[float]], wanted: Wanted) -> Logprobs:
    """Numbers of which none is a bound; the last K of each row."""
    count = len(wanted.labels or wanted.answer)
    numbers = np.array([row[-count:] for row in rows], np.float64)
    if not np.isfinite(numbers).all():
        raise BadReply(f"it has log-probabilities that are not finite: {numbers.min()}")
    return numbers, np.zeros(numbers.shape, np.bool_)
