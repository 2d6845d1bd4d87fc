"""Some masks of a plan: those of a batch that is handed out, or of which values are told."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .plan import SamplingPlan


class Part(NamedTuple):
    """Masks of a plan.

    plan: whose. places: of each there, (k,), or the slice that they are. words: int64 (k, W), the
    masks, packed. marks: bool (k,), which of their values are only bounds; None: none.
    """

    plan: SamplingPlan
    places: np.ndarray | slice
    words: np.ndarray
    marks: np.ndarray | None = None

    @property
    def masks(self) -> Tensor:
        return torch.from_numpy(self.words)

    def where(self, rows: np.ndarray) -> Part:
        """Those at rows, numbers or bool (k,)."""
        places = self.places
        if isinstance(places, slice):
            places = np.arange(places.start, places.stop)
        marks = None if self.marks is None else self.marks[rows]
        return Part(self.plan, places[rows], self.words[rows], marks)

    def slice(self, start: int, stop: int) -> Part:
        """Of a part without marks."""
        words, places = self.words[start:stop], self.places
        if isinstance(places, slice):
            first = places.start + start
            return Part(self.plan, slice(first, first + len(words)), words)
        return Part(self.plan, places[start:stop], words)


def as_slice(places: np.ndarray) -> np.ndarray | slice:
    """The same, as a slice where they follow one another."""
    if len(places) and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1)
    return places
