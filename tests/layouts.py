"""Token layouts and masks of awkward sizes, for the kernels of masked inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spex_core import masks as bits

# "words": one to three tokens a feature between two that are always kept. "gaps": a third of the
# features have no token, and tokens that are always kept stand in front, in the middle and behind.
# "scattered": owners in any order. "bare": nothing is always kept. "none": no token at all.
KINDS = ["words", "gaps", "scattered", "bare", "none"]
CASES = [  # masks, features, kind
    *((T, 5, "gaps") for T in (0, 1, 63, 64, 65)),
    *((7, n, "gaps") for n in (1, 2, 63, 64, 65, 100, 1000)),
    *((9, 64, kind) for kind in KINDS),
    *((6, 300, kind) for kind in ("words", "scattered", "bare")),
    (1000, 12, "words"),
]


def layout(n: int, kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """ids and owner, int64 (L,)."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, n)
    if kind == "gaps":
        counts[rng.random(n) < 1 / 3] = 0
    owner = np.repeat(np.arange(n), counts)
    if kind == "words":
        owner = np.concatenate([[n], owner, [n]])
    elif kind == "gaps":
        middle = len(owner) // 2
        owner = np.concatenate([[n, n], owner[:middle], [n], owner[middle:], [n]])
    elif kind == "scattered":
        owner = rng.permutation(np.concatenate([owner, [n] * 3]))
    elif kind == "none":
        owner = owner[:0]
    ids = rng.integers(0, 2**40, len(owner))
    return torch.from_numpy(ids), torch.from_numpy(owner.astype(np.int64))


def masks(rows: int, n: int, seed: int = 0) -> Tensor:
    """Packed: half of the features each; row 0 none, row 1 all, row 3 as row 2."""
    dense = np.random.default_rng(seed).random((rows, n)) < 0.5
    dense[:1], dense[1:2] = False, True
    dense[3:4] = dense[2:3]
    return bits.pack(dense)


def with_garbage(packed: Tensor, n: int) -> Tensor:
    """The same masks with all bits set beyond the n features."""
    packed = packed.clone()
    if n % 64:
        packed[:, -1] |= -1 << n % 64
    return packed


def kept(packed: Tensor, owner: Tensor, n: int) -> list[list[int]]:
    """The tokens that each mask keeps, one at a time."""
    dense, owners = bits.unpack(packed.cpu(), n).tolist(), owner.tolist()
    return [[at for at, j in enumerate(owners) if j == n or row[j]] for row in dense]


def skip_if_slow(backend: str, rows: int) -> None:
    """Triton's interpreter takes milliseconds a program."""
    if backend == "triton" and rows > 100 and not torch.cuda.is_available():
        pytest.skip("triton: too many programs for the interpreter")
