"""The records of a store: masks and values to words on disk and back, and which can be trusted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import reference_records
from .backend import why_not
from .reference_records import DAMAGED, MARKED

Words = np.ndarray  # uint64
Keys = np.ndarray  # uint64 (T,): a name for each mask. Two may share it: compare them


class Kernels(NamedTuple):
    """As in reference_records.py, which says what they do."""

    mask_keys: Callable[[Words], Keys]
    fill_records: Callable[[Words, Words, np.ndarray, int], tuple[Words, Keys]]
    check_records: Callable[[Words, int, int], tuple[Keys, np.ndarray]]


REFERENCE = Kernels(
    *(reference_records.mask_keys, reference_records.fill_records, reference_records.check_records)
)


@functools.cache
def kernels() -> Kernels:
    """The compiled ones, where there are any."""
    if why_not("cpu") is not None:
        return REFERENCE
    from . import native

    return Kernels(native.mask_keys_cpu, native.fill_records_cpu, native.check_records_cpu)


def keys_of(masks: Words) -> Keys:
    """Of packed masks (T, W)."""
    return kernels().mask_keys(masks)


def distinct_rows(rows: Words) -> tuple[np.ndarray, np.ndarray]:
    """Which of packed rows (T, W) come for the first time, in their order, and which of those each
    row equals: int64 (D,) and (T,). By keys; all words are compared where two rows share one."""
    _, first, slot = np.unique(keys_of(rows), return_index=True, return_inverse=True)
    again = np.flatnonzero(first[slot] != np.arange(len(rows)))
    if not np.array_equal(rows[first[slot[again]]], rows[again]):
        _, first, slot = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[slot.reshape(-1)]


class Checked(NamedTuple):
    """What records (T, width) say: keys (T,); whole, bool (T,): which are not damaged; marked, bool
    (T,): which of those have a value that is only a bound."""

    keys: Keys
    whole: np.ndarray
    marked: np.ndarray


class Layout:
    """Of the records of one store: W words, q values, and a check that starts from `identity`, 64
    bits that name what the values are values of."""

    def __init__(self, words: int, values: int, identity: int):
        self.words, self.values, self.identity = words, values, identity
        self.width = words + values + 1

    def records(self, masks: Words, values: np.ndarray, marks: np.ndarray) -> tuple[Words, Keys]:
        """masks (T, W), values float64 (T, q), marks bool (T,) -> (T, width), (T,)."""
        return kernels().fill_records(masks, values.view(np.uint64), marks, self.identity)

    def check(self, records: Words) -> Checked:
        keys, state = kernels().check_records(records, self.words, self.identity)
        return Checked(keys, state != DAMAGED, state == MARKED)

    def values_of(self, records: Words) -> np.ndarray:
        """float64 (T, q)."""
        return np.ascontiguousarray(records[:, self.words : -1]).view(np.float64)
