"""Where the masks of a store are: keys and places, 16 bytes a mask, in sorted runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Run = tuple[np.ndarray, np.ndarray]  # keys uint64, ascending; places int64


class Index:
    """Keys -> places. Each run is at least twice as long as the next, so there are few of them, and
    a place is moved a number of times that is logarithmic in their number.

    Args: same: places (T,), places (T,) -> bool (T,): whether the masks there are the same. Of
          those only the first that was added stays; others may well share a key.
    """

    def __init__(self, same: Callable[[np.ndarray, np.ndarray], np.ndarray]):
        self.same = same
        self.runs: list[Run] = []

    def add(self, keys: np.ndarray, places: np.ndarray) -> None:
        if not len(keys):
            return
        self.runs.append(self._sorted(keys, places))
        while len(self.runs) > 1 and 2 * len(self.runs[-1][0]) > len(self.runs[-2][0]):
            self._merge_last()

    def places(self) -> np.ndarray:
        """All of them, each mask once, in the order of their keys."""
        while len(self.runs) > 1:
            self._merge_last()
        return self.runs[0][1] if self.runs else np.empty(0, np.int64)

    def find(self, keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(which of the keys, places where its mask may be), the first that was added first."""
        for run_keys, run_places in self.runs:
            asked = np.arange(len(keys))
            at = np.searchsorted(run_keys, keys)
            while len(asked):
                hit = run_keys[np.minimum(at, len(run_keys) - 1)] == keys[asked]
                hit &= at < len(run_keys)
                asked, at = asked[hit], at[hit]
                yield asked, run_places[at]
                at = at + 1

    def _merge_last(self) -> None:
        (keys, places), (more_keys, more_places) = self.runs[-2:]
        merged = np.concatenate([keys, more_keys]), np.concatenate([places, more_places])
        self.runs[-2:] = [self._sorted(*merged)]

    def _sorted(self, keys: np.ndarray, places: np.ndarray) -> Run:
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        repeated = self._repeated(keys, places)
        if not len(repeated):
            return keys, places
        return np.delete(keys, repeated), np.delete(places, repeated)

    def _repeated(self, keys: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Which positions of a run hold a mask that stands before them.

        Each round compares those of one key with the first of them, and leaves for the next round
        those that differ from it.
        """
        shared = np.flatnonzero(keys[1:] == keys[:-1])
        left = np.union1d(shared, shared + 1)
        repeated = [np.empty(0, np.int64)]
        while len(left):
            new = np.ones(len(left), np.bool_)
            new[1:] = keys[left][1:] != keys[left][:-1]
            first = left[np.flatnonzero(new)[np.cumsum(new) - 1]]
            later, first = left[~new], first[~new]
            same = self.same(places[later], places[first])
            repeated.append(later[same])
            left = later[~same]
        return np.concatenate(repeated)
