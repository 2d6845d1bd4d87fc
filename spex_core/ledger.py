"""What a run asks for and what it has been told: one value for each distinct mask of its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .errors import check
from .given import check_samples
from .keep import Keep
from .plan import SamplingPlan
from .store import Ready, Store

BLOCK = 1 << 14  # rows made at a time

Known = tuple[np.ndarray, np.ndarray]


class Part(NamedTuple):
    """Rows of the plan (k,), their packed masks (k, W), and what a store has ready for them."""

    rows: np.ndarray
    masks: Tensor
    ready: Ready | None = None

    def where(self, some: np.ndarray) -> Part:
        """bool (k,): those of them alone."""
        return Part(self.rows[some], self.masks[torch.from_numpy(some)])

    def slice(self, rows: slice) -> Part:
        ready = None if self.ready is None else self.ready.part(rows)
        return Part(self.rows[rows], self.masks[rows], ready)


class Ledger:
    """The account of one run.

    Args:   many: whether a mask may have several values, the first answer saying how many.
            keep: the store in which values are kept, and from which they are read.
    Attributes:
        plan: what is asked for. first, slot: its places.
        there: bool (U,), which masks have a value. values: float64 (U,) or (U, q), or None yet.
        cached, evaluated: masks whose values were known or read, and those that were told.
        failed: calls that gave no value, or not one for each mask.
        repeated: values told again, which do not count; contrary: those of them that differed.
    """

    def __init__(self, plan: SamplingPlan, *, many: bool = False, keep: Keep | None = None):
        self.many = many
        self.keep: Any = keep
        self.values: Any = None
        self.cached = self.evaluated = self.failed = self.repeated = self.contrary = 0
        self._known: Known | None = None
        self._begin(plan)
        self._read_store()

    def _begin(self, plan: SamplingPlan) -> None:
        self.plan = plan
        self.first, self.slot = plan.places.first, plan.places.slot
        self.there = np.zeros(len(self.first), np.bool_)
        self._was_known = np.zeros(len(self.first), np.bool_)  # as `known`, which has the masks

    # ---- Asking ----------------------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Distinct masks without a value."""
        return len(self.there) - int(self.there.sum())

    def owed(self) -> np.ndarray:
        """bool (T,): one row of each mask without a value."""
        rows = np.zeros(self.plan.total, np.bool_)
        rows[self.first[~self.there]] = True
        return rows

    def blocks(
        self, wanted: np.ndarray, *, whole: bool = False
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """(rows (k,), packed masks (k, W)) over the wanted rows bool (T,): those held out first,
        so that a fit can be scored from the beginning, then the others in the order of the plan.
        All in one where `whole`, as masks that share prefixes can only be neighbours in one."""
        blocks = (
            (rows[some], masks()[torch.from_numpy(some)])
            for rows, masks in self._rows()
            if len(some := np.flatnonzero(wanted[rows]))
        )
        if not whole:
            yield from blocks
        elif parts := list(blocks):
            rows, masks = zip(*parts, strict=True)
            yield np.concatenate(rows), torch.cat(masks)

    def still_owed(self, rows: np.ndarray, masks: Tensor) -> Part:
        """Those of them that nobody, here or in another process, has a value of by now."""
        if self.keep is not None and self.keep.news():
            self._read_store()
        left = ~self.there[self.slot[rows]]
        part = Part(rows, masks)
        return part if left.all() else part.where(left)

    def ready(self, part: Part) -> Part:
        """The same, with what makes it faster to keep slices of it."""
        return part if self.keep is None else part._replace(ready=self.keep.ready(part.masks))

    def extend(self, masks: Tensor) -> None:
        """Ask for these packed masks too, which the plan does not have."""
        before, there, known, values = self.plan.places, self.there, self._was_known, self.values
        self._begin(self.plan.extended(masks))
        at = np.empty(len(there), np.int64)
        at[before.at] = self._find(before.keys)
        self.there[at], self._was_known[at] = there, known
        if values is not None:
            self.values = np.zeros((len(self.there), *values.shape[1:]))
            self.values[at] = values
        self._read_store()

    def _rows(self) -> Iterator[tuple[np.ndarray, Callable[[], Tensor]]]:
        """All rows in the order in which they are asked for, BLOCK at a time, and their masks."""
        plan, first = self.plan, self.plan.total - self.plan.holdout
        for start in range(0, plan.total, BLOCK):
            stop = min(start + BLOCK, plan.total)
            rows = (np.arange(start, stop) + first) % plan.total
            turn = int((rows >= first).sum()) if plan.holdout else 0  # held out until there

            def masks(rows: np.ndarray = rows, turn: int = turn) -> Tensor:
                parts = [part for part in (rows[:turn], rows[turn:]) if len(part)]
                made = [plan.masks(int(part[0]), int(part[-1]) + 1) for part in parts]
                return made[0] if len(made) == 1 else torch.cat(made)

            yield rows, masks

    # ---- Telling ---------------------------------------------------------------------------------

    def put(self, part: Part, values: np.ndarray) -> None:
        """What f said of a part of the plan: finite float64 (k,) or (k, q). They are kept before
        this returns; where that fails with an OSError they are known here all the same."""
        slots = self.slot[part.rows]
        new = ~self.there[slots]
        if not new.all():
            part, slots, values = part.where(new), slots[new], values[new]
        self._set(slots, values)
        self.evaluated += len(slots)
        if self.keep is not None and len(slots):
            self.keep.append(part.masks, values, part.ready)

    def tell(self, part: Part, values: np.ndarray, *, distinct: bool = False) -> None:
        """The same of any part, of which masks may have been told. They keep their first value.
        distinct: whether no mask is in it twice."""
        at = self.slot[part.rows]
        new = ~self.there[at]
        if not distinct:
            first = np.zeros_like(new)
            first[np.unique(at, return_index=True)[1]] = True
            new &= first
        if new.all():
            self.put(part, values)
            return
        self._check_outputs(values)
        self.put(part.where(new), values[new])
        again = at[~new]
        other = values[~new] != self.values[again]
        self.repeated += len(again)
        self.contrary += int(other.reshape(len(again), -1).any(1).sum())

    def part(self, masks: Tensor) -> Part:
        """The part of the plan that packed masks are.

        Raises: ValueError for masks that are not asked for.
        """
        at = self._find(self.plan.keys(masks))
        if (at < 0).any():
            raise ValueError(
                f"tell: masks must be ones that the run asks for; {int((at < 0).sum()):,} of "
                f"{len(at):,} are not, the first in row {int((at < 0).argmax())}"
            )
        return Part(self.first[at], masks)

    def take(self, masks: np.ndarray, values: np.ndarray) -> None:
        """Values that are known, of any masks bool (rows, n)."""
        masks, values = check_samples("known", masks, values, many=self.many)
        check(
            masks.shape[1] == self.plan.n,
            "known: masks must have n = {} columns, got {}",
            *(self.plan.n, masks.shape[1]),
        )
        self._known = masks, values
        if not len(masks):
            return
        packed = bits.pack(masks)
        at = self._find(self.plan.keys(packed))
        hit = at >= 0
        fresh = hit & ~self.there[at]
        self._set(at[hit], values[hit])
        self._was_known[at[hit]] = True
        self.cached += len(np.unique(at[fresh]))
        if self.keep is not None and fresh.any():
            self.keep.append(packed[torch.from_numpy(fresh)], values[fresh])

    def take_stored(self, store: Store) -> None:
        """Values that another run has paid for."""
        for rows, masks in self.blocks(self.owed()):
            found, values = store.lookup(masks)
            if found.any():
                self._set(self.slot[rows[found]], values[found])
                self.cached += int(found.sum())
                if self.keep is not None:
                    self.keep.append(masks[torch.from_numpy(found)], values[found])

    def paid(self) -> Known:
        """All that is known: what `take` was given, then the rest, as it was asked for."""
        masks, values = self._known or (np.zeros((0, self.plan.n), np.bool_), np.zeros(0))
        rest = np.zeros(self.plan.total, np.bool_)
        rest[self.first[self.there & ~self._was_known]] = True
        if not rest.any():
            return masks, values
        rows, packed = zip(*self.blocks(rest), strict=True)
        fresh = bits.unpack(torch.cat(packed), self.plan.n)
        numbers = self.values[self.slot[np.concatenate(rows)]]
        if not len(masks):  # whose values have a shape of their own
            return fresh, numbers
        return np.concatenate([masks, fresh]), np.concatenate([values, numbers])

    def told(self) -> Iterator[tuple[Tensor, np.ndarray]]:
        """The masks of the plan that have a value, packed, and their values, in blocks."""
        rows = np.zeros(self.plan.total, np.bool_)
        rows[self.first[self.there]] = True
        for at, masks in self.blocks(rows):
            yield masks, self.values[self.slot[at]]

    @property
    def outputs(self) -> int | None:
        """q, or None for one value a mask."""
        return None if self.values is None or self.values.ndim == 1 else self.values.shape[1]

    def answers(self) -> tuple[Tensor, np.ndarray]:
        """Of all rows: float64 (T,) or (T, q), and bool (T,): which have a value, 0 elsewhere."""
        if self.keep is not None:
            self.keep.flush()
        values = np.zeros(len(self.there)) if self.values is None else self.values
        return torch.from_numpy(values[self.slot]), self.there[self.slot]

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """The places of masks, by their keys; -1 for those that are not asked for."""
        there = self.plan.places
        at = np.minimum(np.searchsorted(there.keys, keys), len(there.keys) - 1)
        return np.where(there.keys[at] == keys, there.at[at], -1)

    def _set(self, slots: np.ndarray, values: np.ndarray) -> None:
        self._check_outputs(values)
        if self.values is None:
            self.values = np.zeros((len(self.there), *values.shape[1:]))
        self.values[slots] = values
        self.there[slots] = True

    def _check_outputs(self, values: np.ndarray) -> None:
        check(
            self.values is None or values.shape[1:] == self.values.shape[1:],
            "it must return as many outputs as before, shape {}, got shape {}",
            *(self.values is not None and (len(values), *self.values.shape[1:]), values.shape),
        )

    # ---- The store -------------------------------------------------------------------------------

    def _read_store(self) -> None:
        if self.keep is not None:
            for rows, masks in self.blocks(self.owed()):
                self._take_stored(rows, masks)

    def _take_stored(self, rows: np.ndarray, masks: Tensor) -> None:
        found, values = self.keep.lookup(masks)
        found &= ~self.there[self.slot[rows]]
        if found.any():
            self._set(self.slot[rows[found]], values[found])
            self.cached += int(found.sum())
