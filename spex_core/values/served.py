"""Text before a language model that a server has: what it says of the part that a mask keeps.

The text is tokenised here, as for CausalText, and masks are sent as token ids in lexicographic
order: those under way together share their beginnings, which the server's cache then has.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import masks as bits
from .. import ops_inference as ops
from ..errors import check
from ..planner import lexicographic
from ..value_function import Answers, ValueFunction
from .calls import Call
from .causal_scorers import AnswerLogprob, LabelLogprobs, LogitDifference, token_id
from .choices import text_choices
from .fingerprint import digest
from .masking import Masking
from .protocols import Wanted
from .server import Server
from .tokens import TokenLayout
from .units import Units

MASKINGS: tuple[Masking, ...] = ("remove", "replace")  # no server hides tokens
Scored = LogitDifference | LabelLogprobs | AnswerLogprob


class ServedText(ValueFunction):
    """f(m) = the score of a served language model on prefix, what m keeps of the text, suffix.

    Args:     server: and model, with what may be spent. tokenizer: the fast one of that model.
              text, units, masking, mask_token, prefix, suffix, special_tokens, truncate: as for
              CausalText; masking is "remove" or "replace".
              scorer: LogitDifference, LabelLogprobs or AnswerLogprob.
              mark_bounds: a further output, after those of the scorer: 1 where the value is a bound
              (see Accuracy), else 0. So marks are stored and resumed with the values.
              identity: what to call the server's model in the fingerprint in place of the server's
              address: a name that changes with the weights, so that values outlive a move.
    Call:     bool (T, n) -> float32 (T,) or (T, q); evaluate() takes packed masks.
    Raises:   ValueError, TypeError for what does not fit together; once it is evaluated,
              ServerError for a server that refuses, keeps failing or is none, and CostCapReached.
    Accuracy: the server's. Where a server gives the likeliest tokens only and a label is not among
              them, its log-probability is taken as the least of theirs, which it cannot exceed.
              Such values are bounds, not values: `censored` has their masks, a warning counts them,
              a store and the report keep account of them, and mark_bounds makes it an output. (Of a
              difference of which both labels are missing, not even a bound.)
    Cost:     one request for `server.prompts` masks, in tokens.
    Example:  server = Server("http://localhost:8000/v1", "my/model", api="vllm")
              tokenizer = load_tokenizer("my/model")
              f = ServedText(server, tokenizer, passage, LogitDifference(" yes", " no"),
                             prefix="Is this good? ", suffix=" Answer:")
              spex(f, budget=5000)
    """

    order = "prefix"

    def __init__(
        self,
        server: Server,
        tokenizer: Any,
        text: str,
        scorer: Scored,
        *,
        units: Units = "words",
        masking: Masking = "remove",
        mask_token: str | None = None,
        prefix: str = "",
        suffix: str = "",
        special_tokens: bool = True,
        truncate: bool = False,
        mark_bounds: bool = False,
        identity: str | None = None,
    ):
        if not isinstance(scorer, Scored):
            raise TypeError(
                "ServedText: scorer must be LogitDifference, LabelLogprobs or AnswerLogprob, got "
                f"{scorer!r}"
            )
        self.server, self.tokenizer, self.scorer = server, tokenizer, scorer
        self.masking, self.mark_bounds, self.identity = masking, mark_bounds, identity
        self.wanted = _wanted(scorer, tokenizer, server.top)
        most = tokenizer.model_max_length
        self.choices = text_choices(
            *("ServedText", tokenizer, text, self.wanted.answer),
            masking=masking,
            maskings=MASKINGS,
            mask_token=mask_token,
            max_tokens=int(most) - 1 if 1 < most < 1e9 else None,
            units=units,
            prefix=prefix,
            suffix=suffix,
            special_tokens=special_tokens,
            truncate=truncate,
        )
        self.features = self.choices.layout.features
        server.protocol.body(server.model, [[0] * 9], self.wanted)  # whether it can be asked at all
        self._censored: list[Tensor] = []

    @property
    def layout(self) -> TokenLayout:
        """The tokens and what they belong to."""
        return self.choices.layout

    @property
    def inert(self) -> tuple[int, ...]:
        """Features without a token, so without effect."""
        return self.layout.inert

    @property
    def censored(self) -> Tensor:
        """Packed masks int64 (c, W) of the values so far that are bounds."""
        return torch.cat([torch.empty(0, bits.words(self.n), dtype=torch.int64), *self._censored])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Server, model and api in words, and a digest of the tokens, the masking and the scorer.
        The weights are the server's: a name for them is `identity`."""
        where = self.server.url if self.identity is None else self.identity
        how = self.masking, self.choices.replacement, self.wanted, self.scorer, self.mark_bounds
        return f"{where} {self.server.model} {self.server.api} text-{digest(self.layout, how)}"

    def cost(self, masks: Tensor) -> np.ndarray:
        return self.choices.cost(masks)

    def stream(self, masks: Tensor) -> Answers:
        """Values as replies come in; what is under way when one fails still counts."""
        if not len(masks):
            return
        rank = lexicographic(masks)
        rows, count = masks[torch.from_numpy(rank)], self.server.prompts
        packs = [slice(start, start + count) for start in range(0, len(rows), count)]
        bounds = 0
        try:
            for number, (values, censored) in self.server.replies(
                self._call(rows[pack]) for pack in packs
            ):
                pack = packs[number]
                if censored.any():
                    self._censored.append(rows[pack][torch.from_numpy(censored)])
                    bounds += int(censored.sum())
                yield rank[pack], values
        finally:
            if bounds:
                warnings.warn(
                    f"ServedText: {bounds} of {len(rows)} values are bounds, since a label was not "
                    f"among the {self.wanted.top} likeliest tokens: see `censored`; a larger top= "
                    "or another api= of the server may have them",
                    stacklevel=2,
                )

    def _call(self, masks: Tensor) -> Call:
        """The request for some packed masks (rows, W)."""
        ids, owner = self.choices.tokens(torch.device("cpu"))
        packed = ops.pack_tokens(self.choices.masks(masks), ids, owner, self.choices.n)
        parts = packed.input_ids.split(packed.starts.diff().tolist())
        prompts, server = [part.tolist() for part in parts], self.server
        return Call(
            server.address(server.protocol.path),
            server.protocol.body(server.model, prompts, self.wanted),
            tokens=sum(map(len, prompts)) + len(prompts),  # and one that is generated, of each
            read=lambda reply: self._score(*server.protocol.read(reply, prompts, self.wanted)),
        )

    def _score(self, logprobs: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P, K) log-probabilities -> float32 (P,) or (P, q), and bool (P,): which are bounds."""
        match self.scorer:
            case LogitDifference():
                values = logprobs[:, 0] - logprobs[:, 1]
            case AnswerLogprob(mean=mean):
                values = logprobs.mean(1) if mean else logprobs.sum(1)
            case _:
                values = logprobs
        censored = np.any(bounds, axis=1)
        if self.mark_bounds:
            values = np.column_stack([values, censored])
        return values.astype(np.float32), censored

    def __repr__(self) -> str:
        layout = self.layout
        return (
            f"ServedText({self.server!r}, {self.n} features, {layout.tokens} tokens, "
            f"{self.masking})"
        )


def _wanted(scorer: Scored, tokenizer: Any, top: int) -> Wanted:
    """What is to be asked of the server; an answer of one token as a label, for which no server
    computes the whole prompt."""
    contrast = isinstance(scorer, LogitDifference)
    if isinstance(scorer, AnswerLogprob):
        ids = scorer.answer(tokenizer)
        if len(ids) > 1:
            return Wanted(answer=tuple(ids))
    else:
        labels = (
            (scorer.yes, scorer.no) if isinstance(scorer, LogitDifference) else tuple(scorer.labels)
        )
        check(len(labels) > 0, "LabelLogprobs: labels must be one at least, got none")
        ids = [token_id(label, tokenizer, len(tokenizer)) for label in labels]
    names = tuple(_name(tokenizer, label) for label in ids)
    return Wanted(tuple(ids), names, contrast, top=top)


def _name(tokenizer: Any, label: int) -> str | None:
    """The text of a token; None where another token has the same one."""
    vocabulary, name = tokenizer.get_vocab(), tokenizer.decode([label])
    twins = {vocabulary.get(mark + name.strip()) for mark in ("", "▁", "Ġ", " ")} - {None, label}
    alone = all(tokenizer.decode([twin]) != name for twin in twins)
    return name if alone and "\ufffd" not in name else None
