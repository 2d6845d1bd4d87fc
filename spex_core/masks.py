"""Bit-packing and the bit order: feature j is bit j % 64 of word j // 64, and 1 means present.

A mask batch is bool (T, n) at the public edge and packed int64 (T, W) inside, W = ceil(n / 64). A
support (a set of features, one Fourier term) is packed the same way. Words are bit patterns: bit 63
is the sign of the int64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .backend import why_not
from .errors import check


def words(n: int) -> int:
    """W, the 64-bit words that hold n features."""
    return (n + 63) // 64


def pack(masks: Tensor | np.ndarray) -> Tensor:
    """bool (T, n) -> packed int64 (T, ceil(n / 64)), on the CPU; spare bits are zero.

    Raises: TypeError unless masks is a bool array; ValueError unless it has two axes.
    """
    dense = masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    if dense.dtype != np.bool_:
        raise TypeError(f"pack: masks must be bool, got {dense.dtype}")
    check(dense.ndim == 2, "pack: masks must have shape (T, n), got {}", dense.shape)
    rows, n = dense.shape
    packed = np.zeros((rows, 8 * words(n)), np.uint8)
    packed[:, : (n + 7) // 8] = np.packbits(dense, axis=1, bitorder="little")
    return torch.from_numpy(packed.view("<i8"))


def pack_batch(where: str, masks: Tensor | np.ndarray, n: int) -> Tensor:
    """A mask batch, bool (T, n) or already packed int64 (T, W) and of any device, as it is packed.

    Raises: in the name of `where`, TypeError for another dtype; ValueError for another shape.
    """
    packed = isinstance(masks, Tensor) and masks.dtype == torch.int64
    rows = masks if packed else pack(masks)
    shape = tuple(np.shape(masks))
    check(
        len(shape) == 2 and shape[1] == (words(n) if packed else n),
        "{}: masks must be bool (T, {}) or packed int64 (T, {}), got shape {}",
        *(where, n, words(n), shape),
    )
    return rows


def unpack(packed: Tensor, n: int) -> np.ndarray:
    """Packed int64 (T, W) -> bool (T, n), a NumPy array."""
    return unpack_words(packed.cpu().numpy(), n)


def unpack_words(words: np.ndarray, n: int) -> np.ndarray:
    """The same of an array."""
    return _unpacker()(words, n)


def unpack_reference(words: np.ndarray, n: int) -> np.ndarray:
    as_bytes = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(as_bytes, axis=1, count=n, bitorder="little").view(np.bool_)


@functools.cache
def _unpacker() -> Callable[[np.ndarray, int], np.ndarray]:
    """With AVX-512 ours takes a fifth of the time of NumPy's; else NumPy's is the faster one."""
    if why_not("cpu") is None:
        from . import native

        if native.best_isa() in ("avx512", "gfni"):
            return native.unpack_masks_cpu
    return unpack_reference


def unpack_there(packed: Tensor, n: int) -> Tensor:
    """Packed int64 (T, W) -> bool (T, n), on their device."""
    feature = torch.arange(n, device=packed.device)
    return (packed[:, feature // 64] >> feature % 64 & 1).bool()


def pack_there(dense: Tensor) -> Tensor:
    """bool (T, n) -> packed int64 (T, ceil(n / 64)), on their device."""
    bit = torch.nn.functional.pad(dense.long(), (0, -dense.shape[1] % 64)).unflatten(1, (-1, 64))
    return (bit << torch.arange(64, device=dense.device)).sum(2)


def pack_sets(sets: list[tuple[int, ...]] | list[list[int]], n: int) -> Tensor:
    """Feature sets -> packed int64 (S, W). Raises ValueError for a feature outside [0, n)."""
    out = np.zeros((len(sets), words(n)), np.uint64)
    for row, features in enumerate(sets):
        for j in features:
            check(0 <= j < n, "pack_sets: features must be in [0, {}), got {}", n, j)
            out[row, j // 64] |= np.uint64(1) << np.uint64(j % 64)
    return torch.from_numpy(out.view(np.int64))


def pack_rows(features: Tensor, n: int) -> Tensor:
    """Feature sets as rows of int32 (S, t), -1 beyond the last -> packed int64 (S, W), on their
    device."""
    out = torch.zeros(len(features), words(n), dtype=torch.int64, device=features.device)
    for feature in features.long().T:  # (S,); of different features, so bits add up
        bit = torch.where(feature >= 0, torch.ones_like(feature) << feature % 64, 0)
        out.scatter_add_(1, feature.clamp(min=0)[:, None] // 64, bit[:, None])
    return out


def unpack_sets(packed: Tensor) -> list[tuple[int, ...]]:
    """Packed int64 (S, W) -> the feature sets as sorted tuples."""
    rows, features = members(packed)
    ends = np.cumsum(np.bincount(rows, minlength=len(packed)))
    parts = np.split(features, ends[:-1]) if len(packed) else []
    return [tuple(part.tolist()) for part in parts]


def members(packed: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The set bits as (row, feature) pairs, both int64 (bits,), rows ascending, features within a
    row too.

    Cost: one pass over the bytes; no dense (S, n) array.
    """
    table = np.ascontiguousarray(packed.cpu().numpy().astype("<i8", copy=False)).view(np.uint8)
    at = np.flatnonzero(table)
    rows, byte = np.divmod(at, table.shape[1])
    found = np.flatnonzero(np.unpackbits(table.ravel()[at], bitorder="little"))
    pick = found >> 3
    return rows[pick], byte[pick] * 8 + (found & 7)


def from_members(rows: np.ndarray, features: np.ndarray, count: int, n: int) -> Tensor:
    """The inverse of members: (row, feature) pairs in any order -> packed int64 (count, W)."""
    out = np.zeros((count, words(n)), np.uint64)
    feature = features.astype(np.uint64)
    np.bitwise_or.at(
        out, (rows, feature >> np.uint64(6)), np.uint64(1) << (feature & np.uint64(63))
    )
    return torch.from_numpy(out.view(np.int64))


def sizes(packed: Tensor) -> Tensor:
    """orders, on the device of the sets: int64 (S,)."""
    x = packed.contiguous().view(torch.uint8).to(torch.int64)  # (S, 8 W), small numbers
    x = x - (x >> 1 & 0x55)
    x = (x & 0x33) + (x >> 2 & 0x33)
    return (x + (x >> 4) & 0x0F).sum(1)


def orders(packed: Tensor) -> np.ndarray:
    """|k| for each packed support: int64 (S,)."""
    rows, _ = members(packed)
    return np.bincount(rows, minlength=len(packed)).astype(np.int64)
