"""Masks that share their first features, for models that compute a shared prefix once.

A causal language model computes the states of a prefix once for all masks that agree on it. Masks
drawn one by one agree on their first log2(T) features and no more. Two kinds agree on many more and
are as random where it counts: the staircase hash of SPEX, and the branching samples of ProxySPEX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .errors import check
from .transfers import up

PROFILE = (0.5, 0.25)  # of prefix_sharing=True; bench/bench_prefix.py measures it
BRANCHES = ((0.25, 8), (0.5, 4), (0.75, 2))  # (share of the features, masks that agree on them)
BRANCHING = 8  # masks that have any prefix in common


def profile_of(prefix_sharing: bool | Sequence[float]) -> tuple[float, ...]:
    """The profile that an option names: PROFILE for True, none for False.

    Raises: TypeError, ValueError unless it is a bool or numbers in [0, 1).
    """
    if isinstance(prefix_sharing, bool):
        return PROFILE if prefix_sharing else ()
    wanted = "prefix_sharing must be a bool or numbers in [0, 1), got {!r}"
    try:
        profile = tuple(float(share) for share in prefix_sharing)
    except (TypeError, ValueError):
        raise TypeError(wanted.format(prefix_sharing)) from None
    check(all(0 <= share < 1 for share in profile), wanted, prefix_sharing)
    return profile


def hash_columns(
    b: int, n: int, *, seed: int, stream: int, profile: Sequence[float] = ()
) -> Tensor:
    """b linearly independent columns of a hash matrix: packed int64 (b, W).

    Column k is zero on the first int(profile[k] * n) features and uniform on the rest. So among the
    2**b sums of the columns only 2**r differ on the first i features, where r of the columns have
    begun by then.

    Raises: ValueError where too few features are left to the first columns to be independent.
    """
    begin = [int(share * n) for share in profile[:b]]
    for k, first in enumerate(sorted(begin, reverse=True)):
        check(
            n - first > k,
            "prefix_sharing must leave {} columns independent, of {} features in all, got {}",
            *(k + 1, n, tuple(profile)),
        )
    rows = ops.uniform_masks(2 * b + 64, n, seed=seed, stream=stream).numpy().astype("<i8")
    basis: dict[int, int] = {}  # leading bit -> reduced row
    columns: list[int] = []
    for row in rows:
        if len(columns) == b:
            break
        first = begin[len(columns)] if len(columns) < len(begin) else 0
        column = rest = int.from_bytes(row.tobytes(), "little") >> first << first
        while rest and rest.bit_length() in basis:
            rest ^= basis[rest.bit_length()]
        if rest:
            basis[rest.bit_length()] = rest
            columns.append(column)
    width = 8 * bits.words(n)
    packed = b"".join(column.to_bytes(width, "little") for column in columns)
    return torch.from_numpy(np.frombuffer(packed, "<i8").reshape(b, width // 8).copy())


def branching_masks(
    rows: int,
    n: int,
    *,
    seed: int,
    stream: int = 0,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Rows [start, start + rows) of a table of uniform masks in groups that share prefixes.

    Eight masks in a row agree on the first quarter of the features, four on the first half, two on
    the first three quarters. Each mask by itself is uniform.

    Returns: packed int64 (rows, W); any range is made without the rows before it.
    """
    first = start - start % BRANCHING
    where: dict[str, Any] = {"seed": seed, "stream": stream, "device": device}
    table = ops.uniform_masks(start + rows - first, n, start=first, **where)
    at = torch.arange(start - first, start - first + rows, device=device)
    out = table[at]
    for share, masks in reversed(BRANCHES):
        shared = up(first_features(int(share * n), n), table.device)
        out = (out & ~shared) | (table[at - at % masks] & shared)
    return out


def first_features(count: int, n: int) -> Tensor:
    """The packed mask of the first `count` of n features: int64 (W,)."""
    return bits.pack((np.arange(n) < count)[None])[0]
