"""What a run asks for and what it has been told: one value for each distinct mask of its plan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .backend import why_not
from .errors import check
from .given import check_samples
from .keep import Keep
from .parts import Part, as_slice
from .plan import SamplingPlan
from .store import Store

BLOCK = 1 << 14  # rows made at a time

Known = tuple[np.ndarray, np.ndarray]


def _at(masks: Tensor, rows: np.ndarray) -> Tensor:
    """Those of bool (k,). Indexing takes up to 70 times as long."""
    return torch.from_numpy(masks.numpy().take(np.flatnonzero(rows), 0))


@functools.cache
def _kernel() -> Callable[[np.ndarray, np.ndarray, np.ndarray], bool] | None:
    """What `settle` calls, if it was built."""
    if why_not("cpu") is not None:
        return None
    from .native import settle_cpu

    return settle_cpu


class Ledger:
    """The account of one run.

    Args:   many: whether a mask may have several values, the first answer saying how many.
            keep: the store in which values are kept, and from which they are read.
    Attributes:
        plan: what is asked for. first, slot: its places.
        there: bool (U,), which masks have a value. values: float64 (U,) or (U, q), or None yet.
        marked: bool (U,), which of the values are only bounds.
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
        self.there, self.marked = np.zeros((2, len(self.first)), np.bool_)
        self._was_known = np.zeros(len(self.first), np.bool_)  # as `known`, which has the masks

    # ---- Asking ----------------------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Distinct masks without a value."""
        return len(self.there) - int(self.there.sum())

    def owed(self) -> np.ndarray:
        """bool (T,): one row of each mask without a value."""
        rows = np.zeros(self.plan.total, np.bool_)
        rows[self.first] = ~self.there
        return rows

    def blocks(
        self, wanted: np.ndarray, *, whole: bool = False
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """(rows (k,), packed masks (k, W)) over the wanted rows bool (T,): those held out first,
        so that a fit can be scored from the beginning, then the others in the order of the plan.
        All in one where `whole`, as masks that share prefixes can only be neighbours in one."""
        blocks = self._wanted(wanted)
        if not whole:
            yield from blocks
        elif parts := list(blocks):
            rows, masks = zip(*parts, strict=True)
            yield np.concatenate(rows), torch.cat(masks)

    def still_owed(self, rows: np.ndarray, masks: Tensor) -> Part:
        """Those of them that nobody, here or in another process, has a value of by now."""
        if self.keep is not None and self.keep.news():
            self._read_store()
        places = self.slot[rows]
        left = ~self.there[places]
        if not left.all():
            places, masks = places[left], _at(masks, left)
        return Part(self.plan, as_slice(places), masks.numpy())

    def extend(self, masks: Tensor) -> None:
        """Ask for these packed masks too, which the plan does not have."""
        before, there, known, values = self.plan.places, self.there, self._was_known, self.values
        marked = self.marked
        self._begin(self.plan.extended(masks))
        at = np.empty(len(there), np.int64)
        at[before.at] = self._find(before.keys)
        self.there[at], self._was_known[at], self.marked[at] = there, known, marked
        if values is not None:
            self.values = np.zeros((len(self.there), *values.shape[1:]))
            self.values[at] = values
        self._read_store()

    def _wanted(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The wanted ones of all rows in the order in which they are asked for, BLOCK of all at a
        time, and their masks."""
        plan, holdout = self.plan, self.plan.holdout
        for start in range(0, plan.total, BLOCK):
            stop = min(start + BLOCK, plan.total)
            turn = min(max(start, holdout), stop)  # held out until there
            last = slice(plan.total - holdout + start, plan.total - holdout + turn)
            parts = []
            for rows in (last, slice(turn - holdout, stop - holdout)):
                some = wanted[rows]
                if not some.any():
                    continue
                numbers, masks = np.arange(rows.start, rows.stop), plan.masks(rows.start, rows.stop)
                parts.append((numbers, masks) if some.all() else (numbers[some], _at(masks, some)))
            if len(parts) == 1:
                yield parts[0]
            elif parts:
                yield (
                    np.concatenate([parts[0][0], parts[1][0]]),
                    torch.cat([parts[0][1], parts[1][1]]),
                )

    # ---- Telling ---------------------------------------------------------------------------------

    def put(self, part: Part, values: np.ndarray) -> None:
        """What f said of distinct masks: finite float64 (k,) or (k, q). They are kept before this
        returns; where that fails with an OSError they are known here all the same."""
        part = self._now(part)
        told = self.there[part.places]
        if np.count_nonzero(told):
            part, values = part.where(~told), values[~told]
        self._put(part, values)

    def settle(self, part: Part, values: object) -> bool:
        """`tell`, of a batch as it was handed out, where there is nothing special: an array of a
        finite float64 for each mask, and none told before. Whether that is so; else nothing is
        done. A batch is asked for between two calls of a model, when nothing of this is in a cache:
        so it is one call of compiled code."""
        known, places = self.values, part.places
        if not (
            type(values) is np.ndarray
            and values.dtype == np.float64
            and known is not None
            and values.shape == (len(part.words), *known.shape[1:])
            and values.flags.c_contiguous
            and isinstance(places, slice)
            and part.marks is None
            and part.plan is self.plan
            and (kernel := _kernel()) is not None
            and kernel(values, known[places], self.there[places])
        ):
            return False
        self.evaluated += len(values)
        if self.keep is not None:
            self.keep.append(part.words, known[places])
        return True

    def tell(self, part: Part, values: np.ndarray, *, distinct: bool = True) -> None:
        """The same of masks that may have been told, or be there twice: they keep their first
        value. distinct: whether none is there twice."""
        part = self._now(part)
        if not distinct and not isinstance(part.places, slice):
            first = np.zeros(len(values), np.bool_)
            first[np.unique(part.places, return_index=True)[1]] = True
            self.tell(part.where(first), values[first])
            part, values = part.where(~first), values[~first]
        told = self.there[part.places]
        if np.count_nonzero(told):
            self._check_outputs(values)
            again = self.values[part.places][told]
            other = values[told] != again
            self.repeated += len(again)
            self.contrary += int(other.reshape(len(again), -1).any(1).sum())
            part, values = part.where(~told), values[~told]
        self._put(part, values)

    def _put(self, part: Part, values: np.ndarray) -> None:
        """Of masks that have none."""
        self._set(part.places, values)
        if part.marks is not None:
            self.marked[part.places] = part.marks
        self.evaluated += len(values)
        if self.keep is not None and len(values):
            self.keep.append(part.words, values, part.marks)

    def values_of(self, part: Part) -> np.ndarray:
        return self.values[self._now(part).places]

    def part(self, masks: Tensor, marks: np.ndarray | None = None) -> Part:
        """The part of the plan that packed masks are.

        Raises: ValueError for masks that are not asked for.
        """
        at = self._find(self.plan.keys(masks))
        if (at < 0).any():
            raise ValueError(
                f"tell: masks must be ones that the run asks for; {int((at < 0).sum()):,} of "
                f"{len(at):,} are not, the first in row {int((at < 0).argmax())}"
            )
        return Part(self.plan, at, masks.numpy(), marks)

    def _now(self, part: Part) -> Part:
        """The same masks in the plan as it is now, if it has been extended since."""
        return part if part.plan is self.plan else self.part(part.masks, part.marks)

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
            self.keep.append(packed.numpy()[fresh], values[fresh])

    def take_stored(self, store: Store) -> None:
        """Values that another run has paid for."""
        for rows, masks in self.blocks(self.owed()):
            found, values, marks = store.lookup_marked(masks)
            if found.any():
                places = self.slot[rows[found]]
                self._set(places, values[found])
                self.marked[places] = marks[found]
                self.cached += int(found.sum())
                if self.keep is not None:
                    self.keep.append(masks.numpy()[found], values[found], marks[found])

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

    def told(self) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
        """The masks of the plan that have a value, packed, their values, and which of these are
        only bounds, in blocks."""
        rows = np.zeros(self.plan.total, np.bool_)
        rows[self.first[self.there]] = True
        for at, masks in self.blocks(rows):
            yield masks, self.values[self.slot[at]], self.marked[self.slot[at]]

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

    def _set(self, slots: np.ndarray | slice, values: np.ndarray) -> None:
        self._check_outputs(values)
        if self.values is None:
            self.values = np.zeros((len(self.there), *values.shape[1:]))
        self.values[slots] = values
        self.there[slots] = True

    def _check_outputs(self, values: np.ndarray) -> None:
        if self.values is not None and values.shape[1:] != self.values.shape[1:]:
            raise ValueError(
                "it must return as many outputs as before, shape "
                f"{(len(values), *self.values.shape[1:])}, got shape {values.shape}"
            )

    # ---- The store -------------------------------------------------------------------------------

    def _read_store(self) -> None:
        if self.keep is not None:
            for rows, masks in self.blocks(self.owed()):
                self._take_stored(rows, masks)

    def _take_stored(self, rows: np.ndarray, masks: Tensor) -> None:
        found, values, marks = self.keep.lookup(masks)
        found &= ~self.there[self.slot[rows]]
        if found.any():
            self._set(self.slot[rows[found]], values[found])
            self.marked[self.slot[rows[found]]] = marks[found]
            self.cached += int(found.sum())
