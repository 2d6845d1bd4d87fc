"""Which part of a text is one feature: words, sentences, paragraphs, or spans that are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import check

Span = tuple[int, int]  # [start, end) in characters
Units = str | Sequence[Span]  # a name of UNITS, or the spans themselves


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


def paragraph_spans(text: str) -> list[Span]:
    """What blank lines separate, without the blanks around it."""
    return [match.span() for match in re.finditer(r"\S(?:(?!\n\s*\n)[\s\S])*(?<=\S)", text)]


UNITS: dict[str, Callable[[str], list[Span]]] = {
    "words": word_spans,
    "sentences": sentence_spans,
    "paragraphs": paragraph_spans,
}


def spans_of(text: str, units: Units) -> list[Span]:
    """The spans of the features in `text`: those of a named unit, or the given ones, checked.

    Raises: ValueError for an unknown name, no span at all, and spans that are empty, outside the
            text, out of order or overlap; TypeError for anything but pairs of whole numbers.
    """
    if isinstance(units, str):
        check(units in UNITS, "units must be one of {} or spans, got {!r}", list(UNITS), units)
        return UNITS[units](text)
    spans = [_pair(span) for span in units]
    check(len(spans) > 0, "units must have at least one span, got none")
    before = 0
    for span in spans:
        start, end = span
        check(
            0 <= start < end <= len(text),
            "units must be spans (start, end) with 0 <= start < end <= {}, got {}",
            *(len(text), span),
        )
        check(
            start >= before,
            "units must be spans in order that do not overlap, got {} after one that ends at {}",
            *(span, before),
        )
        before = end
    return spans


def _pair(span: Any) -> Span:
    try:
        start, end = span
        return start.__index__(), end.__index__()
    except (TypeError, ValueError, AttributeError):
        raise TypeError(
            f"units must be spans (start, end) of whole numbers, got {span!r}"
        ) from None
