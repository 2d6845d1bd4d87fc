"""From masks to packs: which masks of a batch are distinct, in which order a model should see them,
and where to cut so that no pack holds more than a budget of tokens.

Sizes come from tokens, never from rows: rows of one batch differ in length, and a budget of rows
that fits short ones runs out of memory on long ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .checks import readable
from .errors import check, check_int
from .transfers import down

Order = Literal["any", "length", "prefix"]
ORDERS = ("any", "length", "prefix")


def distinct(masks: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Packed masks int64 (T, W) -> (first, slot), int64 (U,) and (T,).

    first: a row of each distinct mask, in lexicographic order of the features, absent before
    present: masks that agree on their first features are neighbours. slot: row -> its place there.
    """
    rank = lexicographic(masks)
    rows = masks.cpu().numpy()[rank]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows[1:] != rows[:-1]).any(1)
    slot = np.empty(len(rows), np.int64)
    slot[rank] = np.cumsum(new) - 1
    return rank[new], slot


def lexicographic(masks: Tensor) -> np.ndarray:
    """The stable order of packed masks int64 (T, W) by feature 0, then 1, ...: int64 (T,). That of
    masks on a device is found there."""
    if not readable(masks):
        return down(_lexicographic_there(masks)).numpy()
    as_bytes = np.ascontiguousarray(masks.cpu().numpy()).view(np.uint8)
    first_feature_highest = _REVERSED[as_bytes].view(">u8")  # (T, W): numbers that sort like masks
    return np.lexsort(first_feature_highest.T[::-1])


def _lexicographic_there(masks: Tensor) -> Tensor:
    """A stable sort a word, the last first, of words turned round so that feature 0 counts most."""
    rank = torch.arange(len(masks), device=masks.device)
    for word in reversed(masks.unbind(1)):
        turned = word[rank]
        for width, pattern in _SWAPS:
            turned = (turned >> width & pattern) | (turned & pattern) << width
        rank = rank[(turned ^ torch.iinfo(torch.int64).min).sort(stable=True)[1]]  # as unsigned
    return rank


# Bits, pairs, ... and halves of a word that change places, and which of them move down.
_SWAPS = [(width, (2**64 - 1) // (2**width + 1)) for width in (1, 2, 4, 8, 16, 32)]
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1])


def arrange(cost: np.ndarray, order: Order) -> np.ndarray:
    """The order in which to evaluate distinct masks that stand in lexicographic order.

    Args:    cost: int64 (U,), tokens of each. order: "length" puts the longest first (so those of
             one length are neighbours, and the largest pack comes first); "any" and "prefix" keep
             the order they have.
    Returns: int64 (U,).
    """
    check(order in ORDERS, "order must be one of {}, got {!r}", ORDERS, order)
    return np.argsort(-cost, kind="stable") if order == "length" else np.arange(len(cost))


def cut(cost: np.ndarray, tokens: int, added: np.ndarray | None = None) -> Iterator[slice]:
    """Consecutive packs of at most `tokens` tokens, or of one mask that is longer.

    Args:   cost: int64 (U,), tokens of each mask by itself. tokens: the budget of a pack.
            added: int64 (U,), what each mask costs after the one before it in the same pack, where
            masks share their prefixes; `cost` where they do not.
    Yields: slices that cover [0, U) in order.
    """
    tokens = check_int("tokens", tokens, 1)
    total = np.concatenate([[0], np.cumsum(cost if added is None else added)])
    start = 0
    while start < len(cost):
        room = tokens - cost[start] + total[start + 1]
        stop = max(int(np.searchsorted(total, room, side="right")) - 1, start + 1)
        yield slice(start, stop)
        start = stop
