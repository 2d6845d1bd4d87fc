"""The checks of records on disk, a column of words at a time: the specification of csrc/records.h.

A record is the W words of a mask, the bits of q float64 values, and a hash of all of them that
starts from what they are values of. All arrays are uint64, (rows, ...).
"""

from __future__ import annotations

import numpy as np

FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
SHIFTS = np.uint64(32), np.uint64(29)
START = 0x243F6A8885A308D3
MARK = np.uint64(0x6C9A35C3A65C9A53)  # half of the bits: no damage to a few makes a mark
DAMAGED, WHOLE, MARKED = 0, 1, 2  # states of a record


def mix(state: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Words (rows, k) into a hash (rows,), one after another. For either argument fixed it is one
    to one in the other, so that a change of one word never goes unseen; of several, with odds of
    2**-64."""
    for word in words.T:
        state = state ^ word
        for factor, shift in zip(FACTORS, SHIFTS, strict=True):
            state *= factor
            state ^= state >> shift
    return state


def mask_keys(masks: np.ndarray) -> np.ndarray:
    """masks (rows, W) -> keys (rows,)."""
    return mix(np.full(len(masks), START, np.uint64), masks)


def fill_records(
    masks: np.ndarray, values: np.ndarray, marks: np.ndarray, identity: int
) -> tuple[np.ndarray, np.ndarray]:
    """masks (rows, W), values (rows, q), marks bool (rows,) -> records (rows, W + q + 1), keys
    (rows,). Marks are in the check: that of a marked record has the bits of MARK changed."""
    keys = mask_keys(masks)
    checks = mix(keys ^ np.uint64(identity), values) ^ np.where(marks, MARK, np.uint64(0))
    return np.column_stack([masks, values, checks]), keys


def check_records(records: np.ndarray, words: int, identity: int) -> tuple[np.ndarray, np.ndarray]:
    """records (rows, W + q + 1) -> keys (rows,), state uint8 (rows,)."""
    keys = mask_keys(records[:, :words])
    checks = mix(keys ^ np.uint64(identity), records[:, words:-1])
    state = np.full(len(records), DAMAGED, np.uint8)
    state[records[:, -1] == checks] = WHOLE
    state[records[:, -1] == checks ^ MARK] = MARKED
    return keys, state
