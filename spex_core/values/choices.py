"""The tokens that a mask chooses from, and what each choice costs a model that shares prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import masks as bits
from .. import ops_inference as ops
from ..checks import readable
from ..errors import check
from ..transfers import down, up
from .masking import Masking
from .tokens import TokenLayout, tokenize


@dataclass(frozen=True, eq=False)
class Choices:
    """A layout whose absent tokens are removed, hidden or replaced, with further tokens after it.

    A replacement is a second feature, there where the first is absent: token l of feature j becomes
    two tokens, of the features 2 j and 2 j + 1, of which each mask has one. So the kernels that
    remove tokens serve for all three.

    Attributes:
        layout: the tokens of the input. replacement: a token id, or None.
        original_positions: whether tokens keep the positions that they have with all present.
        tail: ids of further tokens, which follow and are always there.
    """

    layout: TokenLayout
    replacement: int | None
    original_positions: bool
    tail: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """Features of `masks`, and of `owner`."""
        return self.layout.n * (1 if self.replacement is None else 2)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.layout.tokens + len(self.tail)

    def tokens(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """ids and owner, both int64 (L,), of n features."""
        ids, owner, n = self.layout.ids, self.layout.owner, self.layout.n
        if self.replacement is not None:
            own = owner < n
            at = np.repeat(np.arange(len(ids)), np.where(own, 2, 1))
            second = np.append(False, at[1:] == at[:-1])
            ids = np.where(second, self.replacement, ids[at])
            owner = np.where(own[at], 2 * owner[at] + second, self.n)
        ids = np.concatenate([ids, np.array(self.tail, np.int64)])
        owner = np.concatenate([owner, np.full(len(self.tail), self.n)])
        return up(torch.from_numpy(ids), device), up(torch.from_numpy(owner), device)

    def masks(self, masks: Tensor) -> Tensor:
        """Masks of the layout's features, packed, as masks of n features; in the same order."""
        if self.replacement is None:
            return masks
        if not readable(masks):
            dense = bits.unpack_there(masks, self.layout.n)
            return bits.pack_there(torch.stack([dense, ~dense], 2).flatten(1))
        dense = bits.unpack(masks, self.layout.n)
        return bits.pack(np.stack([dense, ~dense], 2).reshape(len(dense), self.n))

    def cost(self, masks: Tensor) -> np.ndarray:
        """Tokens of each sequence by itself: packed masks (T, W) -> int64 (T,)."""
        if self.replacement is not None:
            return np.full(len(masks), self.longest)
        lengths = up(torch.from_numpy(self.layout.lengths), masks.device)
        fixed = self.layout.fixed + len(self.tail)
        return down(ops.mask_lengths(masks, lengths, fixed=fixed)).numpy()

    def added(self, masks: Tensor) -> np.ndarray:
        """Tokens of each sequence that it does not share with the one before: int64 (T,)."""
        added = self.cost(masks).copy()
        added[1:] -= self._shared(masks[1:], masks[:-1])
        return added

    def _shared(self, masks: Tensor, before: Tensor) -> np.ndarray:
        """Tokens before the first feature with a token in which the masks differ."""
        lengths, owner = self.layout.lengths, self.layout.owner
        device = masks.device
        visible = up(bits.pack((lengths > 0)[None])[0], device)
        differ = first_feature((masks ^ before) & visible, self.layout.n)
        first = down(differ).numpy()
        _, begin = np.unique(np.append(owner, self.layout.n), return_index=True)
        start = np.full(self.layout.n + 1, self.longest)
        start[np.flatnonzero(lengths)] = begin[:-1]  # the first token of each feature that has one
        if self.replacement is not None:
            return start[first]
        below = up(bits.pack(np.tri(self.layout.n + 1, self.layout.n, -1, dtype=np.bool_)), device)
        common = masks & below[differ]
        kept = down(ops.mask_lengths(common, up(torch.from_numpy(lengths), device))).numpy()
        always = np.concatenate([owner == self.layout.n, np.ones(len(self.tail) + 1, np.bool_)])
        return kept + (always.cumsum() - always)[start[first]]


def text_choices(
    where: str,
    tokenizer: Any,
    text: str,
    tail: Sequence[int],
    *,
    masking: Masking,
    maskings: Sequence[Masking],
    mask_token: str | None,
    max_tokens: int | None,
    **layout: Any,
) -> Choices:
    """Those of a text before a causal language model.

    Args:   maskings: allowed ones. max_tokens: of a sequence with its tail. layout: for tokenize.
    Raises: in the name of `where`, ValueError for a masking that is none of them or has the wrong
            mask_token, and where nothing is left when all features are absent; what tokenize does.
    """
    check(
        masking in maskings and (masking == "replace" or mask_token is None),
        "{}: masking must be one of {}, with a mask_token for 'replace' only, got {!r} and {!r}",
        *(where, maskings, masking, mask_token),
    )
    most = None if max_tokens is None else max(1, max_tokens - len(tail))
    tokens = tokenize(tokenizer, text, max_tokens=most, **layout)
    replacement = None if masking != "replace" else _token_id(where, tokenizer, mask_token)
    check(
        tokens.fixed > 0 or masking == "replace",
        "{}: a token must be left when all features are absent: prefix or suffix must not both be "
        "empty, such as prefix={!r}",
        *(where, tokenizer.bos_token or tokenizer.eos_token),
    )
    return Choices(tokens, replacement, masking == "hide", tuple(tail))


def _token_id(where: str, tokenizer: Any, token: str | None) -> int:
    known = tokenizer.get_vocab()
    check(
        token in known,
        "{}: mask_token must be one token of the model, such as one of {}, got {!r}",
        *(where, tokenizer.all_special_tokens, token),
    )
    return known[token]


def first_feature(masks: Tensor, n: int) -> Tensor:
    """The lowest feature of each packed mask, n where it has none: int64 (T,), on their device."""
    word = (masks != 0).int().argmax(1)  # the first of them
    lowest = masks.gather(1, word[:, None])[:, 0]
    lowest = lowest & -lowest  # its lowest bit alone, a power of two: its logarithm is exact
    exponent = lowest.double().abs().clamp(min=1).log2().long()
    return torch.where(lowest == 0, n, 64 * word + exponent)
