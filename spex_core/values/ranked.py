"""One value function in the processes of `torchrun`, which share nothing but a store.

Each process runs the same program. Of the masks that it asks for, each evaluates its share into
files of its own and reads the others' shares from the store. So each has all values, and no two
talk to each other.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import check, check_int
from ..store import Store
from ..stored import Stored
from ..value_function import Answers, ValueFunction
from .distributed import jobs_of, planned

POLL = 0.2  # seconds between two looks at what the others have written


class Ranked(ValueFunction):
    """f, with its masks shared out to the processes of a store.

    Args:    f: a value function, the same in each process. store: of its fingerprint; each process
             opens it by itself. An algorithm that f is given to gets no store of its own: all
             processes have to ask for the same masks.
             rank, world: which of how many processes this is; by default what torchrun says in the
             environment variables RANK and WORLD_SIZE.
             stall: seconds without a new value of the others after which this process takes over a
             part of theirs. A pack should take less; what two evaluate costs twice and harms
             nothing.
    Raises:  ValueError as Stored does, and where neither the arguments nor the environment say who
             this is.
    Accuracy: that of f; values are those of one process where the store was empty.
    Example: f = Ranked(f, Store.open("run", Manifest.of(f)))
             ex = spex(f, budget=100_000)  # torchrun --nproc-per-node 8 this_file.py
    """

    def __init__(
        self,
        f: ValueFunction,
        store: Store,
        *,
        rank: int | None = None,
        world: int | None = None,
        stall: float = 60.0,
    ):
        self.stored = Stored(f, store)
        self.world = _said("world", "WORLD_SIZE", world, 1, None)
        self.rank = _said("rank", "RANK", rank, 0, self.world - 1)
        check(stall > 0, "Ranked: stall must be positive, got {}", stall)
        self.stall = stall
        self.features, self.order, self.unit = f.features, f.order, f.unit
        self.picture = f.picture

    @property
    def fingerprint(self) -> str:
        return self.stored.fingerprint

    @property
    def censored(self) -> Tensor:
        return self.stored.censored

    def cost(self, masks: Tensor) -> np.ndarray:
        return self.stored.cost(masks)

    def stream(self, masks: Tensor) -> Answers:
        """Its own share, then those of the others as they are written."""
        if not len(masks):
            return
        order, stops = planned(self.stored.f, masks)
        jobs = jobs_of(stops, self.world)
        shares = [jobs[i % self.world :: self.world] for i in range(self.rank, 2 * self.world)]
        waiting = np.zeros(len(masks), np.bool_)  # in that order
        for job in itertools.chain.from_iterable(shares[1 : self.world]):
            waiting[job] = True
        for job in shares[0]:
            yield from self._evaluated(masks, order[job])
        since = time.monotonic()
        while waiting.any():
            at = np.flatnonzero(waiting)
            rows = order[at]
            self.stored.store.refresh()
            found, values, marks = self.stored.store.lookup_marked(masks[torch.from_numpy(rows)])
            if found.any():
                waiting[at[found]] = False
                since = time.monotonic()
                self.stored.mark(masks, rows[marks])
                yield rows[found], values[found].astype(np.float32)
            elif time.monotonic() - since < self.stall:
                time.sleep(POLL)
            else:  # whoever's it was
                others = itertools.chain.from_iterable(shares[1 : self.world])
                job = next(job for job in others if waiting[job].any())
                left = np.arange(job.start, job.stop)[waiting[job]]
                waiting[left] = False
                yield from self._evaluated(masks, order[left])

    def _evaluated(
        self, masks: Tensor, rows: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The values of some rows, by this process unless the store has them."""
        with contextlib.closing(self.stored.stream(masks[torch.from_numpy(rows)])) as packs:
            for at, values in packs:
                yield rows[at], values


def _said(name: str, variable: str, value: int | None, least: int, most: int | None) -> int:
    """An argument, or what the environment says."""
    if value is None:
        said = os.environ.get(variable, "")
        check(
            said.isdecimal(),
            "Ranked: {} must be given, or {} be set as torchrun sets it, got {!r}",
            *(name, variable, said),
        )
        value = int(said)
    return check_int(f"Ranked: {name}", value, least, most)
