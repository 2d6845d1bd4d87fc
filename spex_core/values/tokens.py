"""One tokenised input, and which feature each of its tokens belongs to.

The whole input is tokenised once, prefix and suffix included, and the tokenizer's offsets say where
each token stands. So keeping everything gives the model's own tokens, and no string is made or
tokenised per mask. (Tokenising the text that is left over would merge and split tokens differently,
which is another function.)
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import check, check_int
from .fingerprint import digest
from .units import Span, Units, spans_of


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """The tokens of an input with every feature present, in the order in which the model sees them.

    Attributes:
        ids: int64 (L,), token ids.
        owner: int64 (L,), the feature of each token, ascending but for tokens that are always there
        (special tokens, prefix, suffix, text between the features), which have owner n.
        features: names, n of them.
        types: int64 (L,), token type ids, where there are two segments; else None.
        uncovered: the pieces of the text that belong to no feature and so are always kept.
        unknown: features with a character that the tokenizer does not know.
    """

    ids: np.ndarray
    owner: np.ndarray
    features: tuple[str, ...]
    types: np.ndarray | None = None
    uncovered: tuple[str, ...] = ()
    unknown: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        return len(self.features)

    @property
    def tokens(self) -> int:
        """L."""
        return len(self.ids)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 (n,), the tokens of each feature."""
        return np.bincount(self.owner, minlength=self.n + 1)[: self.n]

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self.ids, self.owner, self.n, self.types)

    @property
    def fixed(self) -> int:
        """Tokens that are always kept."""
        return self.tokens - int(self.lengths.sum())

    @property
    def inert(self) -> tuple[int, ...]:
        """Features without a token, so without effect: cut off, of characters that the tokenizer
        drops, or inside a token that starts in another feature."""
        return tuple(np.flatnonzero(self.lengths == 0).tolist())


def tokenize(
    tokenizer: Any,
    text: str,
    *,
    units: Units = "words",
    prefix: str = "",
    suffix: str = "",
    pair: str | None = None,
    pair_first: bool = False,
    special_tokens: bool = True,
    max_tokens: int | None = None,
    truncate: bool = False,
    lossy: bool = False,
) -> TokenLayout:
    """The tokens of prefix + text + suffix, with features in the text.

    A token belongs to the feature in which its first non-blank character stands. The blanks between
    named units belong to the unit before them; text outside given spans is always kept.

    Args:    tokenizer: a fast tokenizer of transformers. units: "words", "sentences", "paragraphs",
             or spans (start, end) in characters of the text, in order and disjoint.
             prefix, suffix: joined to the text as they are (see chat_affixes for a chat template).
             pair: a second segment, always kept, with token types where the model has them: the
             tokenizer is given (text, pair), or (pair, text) with pair_first.
             special_tokens: whether the tokenizer adds its own; not to a chat template, which has
             them. max_tokens: what the model takes. truncate: cut the end of a text that is
             too long; its features are then `inert`.
             lossy: go on where the tokens do not spell the text.
    Returns: TokenLayout.
    Raises:  ValueError for a blank or too long text, bad units, or a tokenizer that gives no
             offsets, or whose tokens do not spell the text (case, accents, blanks and unknown
             characters aside); TypeError where a string is something else.
    Example: tokenize(tokenizer, "The cat sat.", units="words", prefix="Story: ")
    """
    for name, value in (("text", text), ("prefix", prefix), ("suffix", suffix), ("pair", pair)):
        if not (isinstance(value, str) or (name == "pair" and value is None)):
            raise TypeError(f"tokenize: {name} must be a string, got {value!r}")
    check(bool(text.strip()), "tokenize: text must not be blank, got {!r}", text)
    check(pair is None or bool(pair.strip()), "tokenize: pair must not be blank, got {!r}", pair)
    spans = spans_of(text, units)
    joined = prefix + text + suffix
    out = _encode(tokenizer, joined, pair, pair_first, special_tokens)

    ids = np.array(out["input_ids"], np.int64)
    part = 1 if pair is not None and pair_first else 0
    ours = np.array([sequence == part for sequence in out.sequence_ids(0)])  # (L,), no special ones
    starts = _starts(out["offset_mapping"], ours, joined) - len(prefix)  # in the text
    if not lossy:
        _check_spelling(tokenizer, ids[ours], joined)
    owner = _owners(starts, spans, len(text), closed=isinstance(units, str))
    owner[~ours] = len(spans)
    unknown = owner[ids == tokenizer.unk_token_id] if tokenizer.unk_token_id is not None else ()

    kept = np.ones(len(ids), np.bool_)
    if max_tokens is not None and len(ids) > check_int("tokenize: max_tokens", max_tokens, 1):
        inside = np.flatnonzero(ours & (starts >= 0) & (starts < len(text)))
        kept[_cut_off(inside, len(ids), max_tokens, truncate)] = False
    types = out.get("token_type_ids") if pair is not None else None
    return TokenLayout(
        ids=ids[kept],
        owner=owner[kept],
        features=tuple(" ".join(text[start:end].split()) for start, end in spans),
        types=None if types is None else np.array(types, np.int64)[kept],
        uncovered=() if isinstance(units, str) else _between(text, spans),
        unknown=tuple(sorted(set(np.asarray(unknown).tolist()) - {len(spans)})),
    )


def chat_affixes(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], **options: Any
) -> tuple[str, str]:
    """What a chat template puts before and after the text: the (prefix, suffix) for tokenize, which
    is then to be called with special_tokens=False.

    Args:    messages: as for tokenizer.apply_chat_template; "{text}" stands in one of them once.
             options: for apply_chat_template; add_generation_prompt=True unless given.
    Raises:  ValueError unless "{text}" stands there once and the template shows it once.
    Example: chat_affixes(tokenizer, [{"role": "user", "content": "Who sat?\\n{text}"}])
    """
    given = sum(str(message.get("content")).count("{text}") for message in messages)
    check(given == 1, "chat_affixes: messages must hold {{text}} once, got it {} times", given)
    marked = [
        {**message, "content": message["content"].replace("{text}", _HERE)} for message in messages
    ]
    shown = tokenizer.apply_chat_template(
        marked, tokenize=False, **{"add_generation_prompt": True, **options}
    )
    check(
        shown.count(_HERE) == 1,
        "chat_affixes: the template must show the text once, got it {} times",
        shown.count(_HERE),
    )
    prefix, suffix = shown.split(_HERE)
    return prefix, suffix


_HERE = "\ue000text\ue000"  # of a private area of Unicode: no template changes or contains it


def _encode(
    tokenizer: Any, joined: str, pair: str | None, pair_first: bool, special_tokens: bool
) -> Any:
    check(
        getattr(tokenizer, "is_fast", False),
        "tokenize: tokenizer must give offsets, as the fast ones of transformers do, got {}",
        type(tokenizer).__name__,
    )
    both = [joined] if pair is None else [pair, joined] if pair_first else [joined, pair]
    return tokenizer(
        *both, return_offsets_mapping=True, add_special_tokens=special_tokens, verbose=False
    )


def _starts(offsets: Sequence[Span], ours: np.ndarray, joined: str) -> np.ndarray:
    """Where the first non-blank character of each of our tokens stands: int64 (L,)."""
    starts = np.zeros(len(offsets), np.int64)
    before = 0
    for at in np.flatnonzero(ours).tolist():
        start, end = offsets[at]
        check(
            before <= start <= end <= len(joined),
            "tokenize: tokenizer must give ascending offsets within the text, got {} after {}",
            *((start, end), before),
        )
        before = start
        piece = joined[start:end]
        starts[at] = start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
    return starts


def _owners(starts: np.ndarray, spans: list[Span], size: int, *, closed: bool) -> np.ndarray:
    """The feature that each token starts in, n where in none: int64 (L,). If closed, a feature
    reaches up to the next one."""
    begin = np.array([start for start, _ in spans])
    end = np.append(begin[1:], size) if closed else np.array([stop for _, stop in spans])
    owner = np.searchsorted(begin, starts, side="right") - 1
    return np.where((owner >= 0) & (starts < end[owner]), owner, len(spans))


def _cut_off(inside: np.ndarray, tokens: int, most: int, truncate: bool) -> np.ndarray:
    """Which tokens of the text go, the last first, so that `most` are left."""
    check(truncate, "tokenize: text must have at most {} tokens, got {}; {}", most, tokens, _ADVICE)
    check(
        tokens - most < len(inside),
        "tokenize: text must leave room for {} tokens beside it of at most {}",
        *(tokens - len(inside), most),
    )
    return inside[len(inside) - (tokens - most) :]


_ADVICE = "shorten it or ask for truncate=True"


def _between(text: str, spans: list[Span]) -> tuple[str, ...]:
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    pieces = (text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True))
    return tuple(piece for piece in pieces if piece)


def _check_spelling(tokenizer: Any, ids: np.ndarray, joined: str) -> None:
    """Refuse tokens that spell another text: values would be of something that nobody wrote."""
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        return
    spelt = tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
    theirs, mine = _squash(spelt), _squash(joined)
    same = next((i for i, (a, b) in enumerate(zip(theirs, mine, strict=False)) if a != b), None)
    same = min(len(theirs), len(mine)) if same is None else same
    check(
        theirs == mine,
        "tokenize: tokenizer must round-trip: its tokens must spell the text, got {!r} for {!r}; "
        "lossy=True goes on all the same",
        *(theirs[same : same + 20], mine[same : same + 20]),
    )


def _squash(text: str) -> str:
    """Letters and signs alone: no case, accents, blanks or control characters."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in folded if unicodedata.category(c)[0] not in "ZC" and not _mark(c))


def _mark(character: str) -> bool:
    return unicodedata.category(character) == "Mn"
