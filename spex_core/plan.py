"""The masks of one run, in order, without storing those that can be computed:

    x = M_g l + d_p   for all l in {0,1}^b, groups g < C, delays p < P        (C, P, B) rows
    then uniform masks for the refit, then uniform masks held out to score the result

M_g is n x b, over GF(2). budget.py chooses the columns, the delays and how many there are of each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .codes import BchCode

KEYS = 2  # stream of the uniform-mask table; those of budget.py are others


class Places(NamedTuple):
    """The distinct masks of a plan, each of which has a place.

    keys: int64 (U,), ascending, and at: int64 (U,), the place of each. first: int64 (U,), the first
    row of each place. slot: int64 (T,), row -> place.
    """

    keys: np.ndarray
    at: np.ndarray
    first: np.ndarray
    slot: np.ndarray


@dataclass(frozen=True, eq=False)
class SamplingPlan:
    """The masks of one run, in order, without storing those that can be computed.

    Attributes:
        n, degree, seed, budget: as asked.
        b: bits a group; B = 2**b.
        code: the BCH code of the delays, which corrects `degree` errors or more; None where there
            are none: the whole table of 2**n masks, or uniform masks alone.
        columns: packed int64 (C, b, W), columns[g, i] is column i of M_g.
        delays: packed int64 (P, W).
        extra: packed int64 (uniform + holdout, W), none of them an aliased mask or another extra
        one.
        holdout: how many of the last rows are held out of the fit.
        profile: column k of each M_g is zero on the first profile[k] of the features.
    """

    n: int
    degree: int
    seed: int
    budget: int
    b: int
    code: BchCode | None
    columns: Tensor
    delays: Tensor
    extra: Tensor
    holdout: int
    profile: tuple[float, ...] = ()

    @property
    def groups(self) -> int:
        """C."""
        return len(self.columns)

    @property
    def shifts(self) -> int:
        """P."""
        return len(self.delays)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, P, B), of the aliased rows."""
        return self.groups, self.shifts, 1 << self.b

    @property
    def aliased(self) -> int:
        """C P B, rows that are aliased; the extra rows follow."""
        return self.groups * self.shifts << self.b

    @property
    def total(self) -> int:
        """T, all rows."""
        return self.aliased + len(self.extra)

    @functools.cached_property
    def hashes(self) -> Tensor:
        """int32 (C, n): row i of M_g as b bits. The bin of a set in group g is the XOR of its
        rows."""
        dense = np.stack([bits.unpack(group, self.n) for group in self.columns])  # (C, b, n)
        rows = (dense.astype(np.int32) << np.arange(self.b, dtype=np.int32)[:, None]).sum(1)
        return torch.from_numpy(rows.astype(np.int32))

    @functools.cached_property
    def delay_columns(self) -> Tensor:
        """int64 (n, ceil(P / 64)): bit p of row i is entry i of delay p."""
        return bits.pack(bits.unpack(self.delays, self.n).T)

    def masks(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the plan, packed int64 (stop - start, W): a view where it can be,
        so not to be changed."""
        width = 1 << self.b
        parts = []
        row, end = start, min(stop, self.aliased)
        while row < end:
            group, shift = divmod(row // width, self.shifts)
            last = min((end - 1) // width + 1 - group * self.shifts, self.shifts)  # of this group
            block = ops.affine_masks(self.columns[group], self.delays[shift:last])
            first = (group * self.shifts + shift) * width
            taken = block.flatten(0, 1)[row - first : end - first]
            parts.append(taken)
            row += len(taken)
        if stop > self.aliased:
            parts.append(self.extra[max(0, start - self.aliased) : stop - self.aliased])
        return parts[0] if len(parts) == 1 else torch.cat([self.extra[:0], *parts])

    def names(self, masks: Tensor) -> Tensor:
        """A name for each packed mask: int64 (T,). Up to 64 features it is the mask itself; above,
        64 random parities of it, which two different masks share with probability 2**-64."""
        if self.n <= 64:
            return masks[:, 0]
        return ops.parity_bits(self._projection, masks)[:, 0]

    def row_names(self) -> Tensor:
        """The names of all rows: int64 (T,). Names are linear, so no mask is made."""
        shifts = self.names(self.delays)[:, None]
        columns = (self.names(group)[:, None] for group in self.columns)
        parts = [ops.affine_masks(own, shifts).flatten() for own in columns]
        return torch.cat([*parts, self.names(self.extra)])

    def keys(self, masks: Tensor) -> np.ndarray:
        return self.names(masks).cpu().numpy()

    def row_keys(self) -> np.ndarray:
        return self.row_names().cpu().numpy()

    def moved(self, to: Callable[[Tensor], Tensor]) -> SamplingPlan:
        """The plan with all its tensors where `to` takes them."""
        names = "columns", "delays", "extra"
        there = dataclasses.replace(self, **{name: to(getattr(self, name)) for name in names})
        derived = "hashes", "delay_columns"
        there.__dict__.update({name: to(getattr(self, name)) for name in derived})
        return there

    def with_extra(self, extra: Tensor, **fields: Any) -> SamplingPlan:
        """The plan with other extra masks; what follows from its columns and delays stays."""
        other = dataclasses.replace(self, extra=extra, **fields)
        kept = "hashes", "delay_columns", "_projection"
        other.__dict__.update({name: self.__dict__[name] for name in kept if name in self.__dict__})
        return other

    @functools.cached_property
    def places(self) -> Places:
        """The distinct masks, in the order of their first rows."""
        keys, first, slot = np.unique(self.row_keys(), return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return Places(keys, rank, first[order], rank[slot])

    def extended(self, masks: Tensor) -> SamplingPlan:
        """The plan with further packed masks (count, W), which stand before those held out."""
        uniform = len(self.extra) - self.holdout
        return self.with_extra(torch.cat([self.extra[:uniform], masks, self.extra[uniform:]]))

    @functools.cached_property
    def _projection(self) -> Tensor:
        where = self.extra.device
        return ops.uniform_masks(64, self.n, seed=self.seed, stream=KEYS, device=where)


def first_rows(names: Tensor) -> tuple[Tensor, Tensor]:
    """np.unique of names (T,), on their device: where each distinct one comes first, in the order
    of the names, (U,); and which of these each row is, (T,)."""
    ordered, order = names.sort(stable=True)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    slot = torch.empty_like(order)
    slot[order] = fresh.cumsum(0) - 1
    return order[fresh], slot
