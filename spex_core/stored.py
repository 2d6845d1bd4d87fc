"""A value function whose values outlive the process: those in a store are read, others are written
to it before anybody sees them."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor

from .errors import check
from .store import Store
from .value_function import Answers, ValueFunction

BLOCK = 1 << 13  # stored values handed on at a time


class Stored(ValueFunction):
    """f, with a store of its values in front of it. A run on it that is killed and made again asks
    f for what is missing: at most the pack that it was at is evaluated twice.

    Args:    f: a value function. store: of the same fingerprint and features.
    Raises:  ValueError if they differ, with both.
    Attributes:
        asked, cached, evaluated: distinct masks so far: all, those read, those that f was asked
        for and that are now in the store.
    Example: spex.proxyspex(Stored(f, Store.open("run", Manifest.of(f))), budget=300)
    """

    def __init__(self, f: ValueFunction, store: Store):
        for name, there, ours in (
            ("fingerprint", store.manifest.fingerprint, f.fingerprint),
            ("features", store.manifest.features, tuple(f.features)),
        ):
            check(there == ours, "Stored: {} must be the store's, {}, got {}", name, there, ours)
        self.f, self.store = f, store
        self.features, self.order, self.unit = f.features, f.order, f.unit
        self.picture = f.picture
        self.asked = self.cached = self.evaluated = 0
        self._censored: list[Tensor] = []

    @property
    def fingerprint(self) -> str:
        return self.f.fingerprint

    @property
    def censored(self) -> Tensor:
        return torch.cat([super().censored, *self._censored])

    def cost(self, masks: Tensor) -> np.ndarray:
        return self.f.cost(masks)

    def stream(self, masks: Tensor) -> Answers:
        self.store.refresh()  # what other processes have paid for meanwhile
        found, values, marks = self.store.lookup_marked(masks)
        self.asked += len(masks)
        self.cached += int(found.sum())
        there, missing = np.flatnonzero(found), np.flatnonzero(~found)
        for start in range(0, len(there), BLOCK):
            rows = there[start : start + BLOCK]
            self.mark(masks, rows[marks[rows]])
            yield rows, values[rows]
        wanted, before = masks[torch.from_numpy(missing)], len(self.f.censored)
        with contextlib.closing(self.f.stream(wanted)) as packs:
            for at, fresh in packs:
                asked, censored = wanted[torch.from_numpy(at)], self.f.censored
                bounds = {mask.tobytes() for mask in censored[before:].numpy()}
                marked = np.array([mask.tobytes() in bounds for mask in asked.numpy()], np.bool_)
                before = len(censored)
                self.mark(asked, np.flatnonzero(marked))
                self.store.append(asked, fresh, censored=marked)
                self.evaluated += len(at)
                yield missing[at], fresh

    def mark(self, masks: Tensor, rows: np.ndarray) -> None:
        """The values of these rows of masks are only bounds."""
        if len(rows):
            self._censored.append(masks[torch.from_numpy(rows)])
