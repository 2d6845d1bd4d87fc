"""What a mask does to the tokens of an input: absent ones are removed, hidden or replaced."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import check
from ..ops_inference import mask_lengths, pack_tokens
from ..reference_inference import kept
from ..transfers import down, up
from .packing import Pack
from .tokens import TokenLayout

Masking = Literal["remove", "hide", "replace"]
MASKINGS: tuple[Masking, ...] = ("remove", "hide", "replace")


@dataclass(frozen=True, eq=False)
class Masker:
    """Packed masks -> what a model is given. The three maskings are three different functions:

    remove:  absent tokens go, and those after them move up.
    hide:    nobody attends to absent tokens; the others keep their positions. (So the absent ones
             need not be computed either.)
    replace: `token` stands in place of each; all lengths are equal.

    Attributes:
        layout, masking: as above. token: an id, for "replace". padding: the id that fills up rows.
        first: the position of the first token (RoBERTa's is padding_idx + 1). device: of the model.
    """

    layout: TokenLayout
    masking: Masking = "remove"
    token: int | None = None
    padding: int = 0
    first: int = 0
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        check(
            self.masking in MASKINGS,
            "masking must be one of {}, got {!r}",
            *(MASKINGS, self.masking),
        )
        check(
            (self.masking == "replace") == (self.token is not None),
            "masking {!r} must come with {}token to put in place of absent ones, got {}",
            *(self.masking, "a " if self.masking == "replace" else "no ", self.token),
        )
        check(
            self.masking == "replace" or self.layout.fixed > 0,
            "masking {!r} must leave a token when all features are removed: give a prefix, a "
            "suffix or special tokens",
            self.masking,
        )

    def cost(self, masks: Tensor) -> np.ndarray:
        """Tokens that each packed mask keeps: int64 (T,)."""
        if self.masking == "replace":
            return np.full(len(masks), self.layout.tokens)
        lengths = up(torch.from_numpy(self.layout.lengths), masks.device)
        return down(mask_lengths(masks, lengths, fixed=self.layout.fixed)).numpy()

    def pack(self, masks: Tensor) -> Pack:
        """Packed masks (T, W) -> the tokens of all, end to end."""
        masks = masks.to(self.device)
        if self.masking == "replace":
            place = torch.arange(self.layout.tokens, device=self.device).repeat(len(masks))
            starts = range(0, len(place) + 1, self.layout.tokens)
            return self._as_pack(self._replaced(masks).flatten(), place, place, starts)
        ids, place, sequence, starts = pack_tokens(
            masks, self._ids, self._owner, self.layout.n, original_positions=True
        )
        closed_up = torch.arange(len(ids), device=self.device) - starts[sequence.long()]
        positions = place if self.masking == "hide" else closed_up
        return self._as_pack(ids, place, positions, down(starts).tolist())

    def pad(self, masks: Tensor) -> dict[str, Tensor]:
        """The same as the inputs (T, longest) of a plain call of a model, with an attention mask:
        filled up on the right, or whole with the hidden tokens masked."""
        masks = masks.to(self.device)
        if self.masking == "remove":
            return self._filled(self.pack(masks))
        whole = {"input_ids": self._ids.expand(len(masks), -1)}
        keep = kept(masks, self._owner, self.layout.n)
        if self.masking == "replace":
            whole, keep = {"input_ids": self._replaced(masks)}, torch.ones_like(keep)
        if self._types is not None:
            whole["token_type_ids"] = self._types.expand(len(masks), -1)
        return whole | {"attention_mask": keep.long()}

    def _as_pack(self, ids: Tensor, place: Tensor, positions: Tensor, starts: Any) -> Pack:
        types = None if self._types is None else self._types[place]
        return Pack(ids, positions + self.first, starts, types)

    def _filled(self, pack: Pack) -> dict[str, Tensor]:
        lengths = pack.edges.diff()
        keep = torch.arange(max(pack.lengths), device=self.device) < lengths[:, None]
        inputs = {"input_ids": torch.full(keep.shape, self.padding, device=self.device)}
        inputs["input_ids"][keep] = pack.input_ids
        if pack.token_types is not None:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
            inputs["token_type_ids"][keep] = pack.token_types
        return inputs | {"attention_mask": keep.long()}

    def _replaced(self, masks: Tensor) -> Tensor:  # (T, L)
        keep = kept(masks, self._owner, self.layout.n)
        return torch.where(keep, self._ids, self.token)

    @functools.cached_property
    def _ids(self) -> Tensor:
        return up(torch.from_numpy(self.layout.ids), torch.device(self.device))

    @functools.cached_property
    def _owner(self) -> Tensor:
        return up(torch.from_numpy(self.layout.owner), torch.device(self.device))

    @functools.cached_property
    def _types(self) -> Tensor | None:
        types = self.layout.types
        return None if types is None else up(torch.from_numpy(types), torch.device(self.device))
