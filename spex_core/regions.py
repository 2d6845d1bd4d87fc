"""Labels of rows or of pixels, or a grid of patches -> features: all that share a label are one."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from torch import Tensor

from .errors import check, check_int

KEPT = -1  # the label of what belongs to no feature and is always there

Regions: TypeAlias = "tuple[int, int] | np.ndarray | Tensor"


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


def pixel_owners(
    where: str, regions: Regions, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A grid (down, across) or a map of segments -> the feature of each pixel, int64 (H, W), and
    the names of the features.

    Raises: in the name of `where`, ValueError for a map of another size or a grid finer than the
            pixels; TypeError for a map that is not of integers.
    """
    if not isinstance(regions, tuple):
        labels = regions.cpu().numpy() if isinstance(regions, Tensor) else np.asarray(regions)
        check(
            labels.shape == size,
            "{}: regions must have the image's shape {}, got {}",
            *(where, size, labels.shape),
        )
        owner, names = owners(f"{where}: regions", labels)
        return owner, tuple(f"segment {name}" for name in names)
    check(len(regions) == 2, "{}: regions must be (down, across), got {}", where, regions)
    axes = []
    for name, count, length in zip(("down", "across"), regions, size, strict=True):
        count = check_int(f"{where}: {name}", count, 1, length)
        axes.append(np.arange(length) * count // length)
    down, across = axes
    owner = down[:, None] * regions[1] + across[None, :]
    names = tuple(f"patch {i},{j}" for i in range(regions[0]) for j in range(regions[1]))
    return owner.astype(np.int64), names
