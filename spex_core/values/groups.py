"""Labels of pixels or of rows -> features: all that share a label are one feature."""

from __future__ import annotations

import numpy as np

from ..errors import check, check_int

KEPT = -1  # the label of what belongs to no feature and is always there


def owners(where: str, labels: object) -> tuple[np.ndarray, tuple[str, ...]]:
    """Whole-number labels -> (owner, names).

    Args:    labels: integers >= 0 of any shape, -1 for what is always kept; gaps are allowed.
    Returns: int64 of that shape: the feature of each place, n for what is always kept; and the n
             names, the labels in ascending order.
    Raises:  in the name of `where`, TypeError unless labels are integers; ValueError for labels
             below -1 or none that is a feature.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{where} must be integers, got {array.dtype}")
    check(array.size > 0, "{} must not be empty, got shape {}", where, array.shape)
    check(int(array.min()) >= KEPT, "{} must be >= -1, got {}", where, array.min())
    found, owner = np.unique(array, return_inverse=True)
    owner = owner.reshape(array.shape).astype(np.int64)
    if found[0] == KEPT:
        found = found[1:]
        owner = np.where(owner == 0, len(found), owner - 1)
    check(len(found) > 0, "{} must have a label >= 0, got -1 only", where)
    return owner, tuple(str(label) for label in found)


def even_groups(rows: int, groups: int, *, seed: int = 0) -> np.ndarray:
    """Labels that deal `rows` rows at random into `groups` groups of sizes that differ by one.

    At random, because data sets are often sorted by class and a run of rows would be one class.

    Returns: int64 (rows,), each label in [0, groups).
    Example: even_groups(150, 12)
    """
    rows = check_int("even_groups: rows", rows, 1)
    groups = check_int("even_groups: groups", groups, 1, rows)
    return np.random.default_rng(seed).permutation(np.arange(rows) % groups)
