"""Groups of training rows."""

from __future__ import annotations

import numpy as np

from ..errors import check_int


def even_groups(rows: int, groups: int, *, seed: int = 0) -> np.ndarray:
    """Labels that deal `rows` rows at random into `groups` groups of sizes that differ by one.

    At random, because data sets are often sorted by class and a run of rows would be one class.

    Returns: int64 (rows,), each label in [0, groups).
    Example: even_groups(150, 12)
    """
    rows = check_int("even_groups: rows", rows, 1)
    groups = check_int("even_groups: groups", groups, 1, rows)
    return np.random.default_rng(seed).permutation(np.arange(rows) % groups)
