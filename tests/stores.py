"""What the tests of the store share: masks, values that no two masks share, a folder of shards."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spex_core import masks as bits
from spex_core.store import Store
from spex_core.store_manifest import Manifest
from spex_core.value_function import ValueFunction


def manifest(n: int = 70, **fields) -> Manifest:
    return Manifest("toy", [f"x{j}" for j in range(n)], **fields)


def some_masks(n: int, rows: int, seed: int = 0) -> Tensor:
    """Packed, distinct."""
    rng = np.random.default_rng(seed)
    dense = np.unique(rng.random((20 * rows, n)) < 0.5, axis=0)
    assert len(dense) >= rows
    return bits.pack(rng.permutation(dense)[:rows])


def some_values(rows: int, outputs: int | None = None, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, outputs) if outputs else rows)


def check_holds(store: Store, masks: Tensor, values: np.ndarray) -> None:
    """Exactly these."""
    found, read = store.lookup(masks)
    assert found.all()
    np.testing.assert_array_equal(read, values)
    assert len(store) == len(masks)


class Toy(ValueFunction):
    """A sum and a product, in packs of 16 masks; `asked` has the masks of each pack."""

    fingerprint = "toy"
    order = "any"
    tokens = 16

    def __init__(self, n: int = 20):
        self.features = [f"x{j}" for j in range(n)]
        self.weights = np.random.default_rng(n).integers(-9, 9, n)
        self.asked: list[np.ndarray] = []

    def cost(self, masks):
        return np.ones(len(masks), np.int64)

    def run(self, masks):
        dense = bits.unpack(masks, self.n)
        self.asked.append(dense)
        return dense @ self.weights + 7 * dense[:, 0] * dense[:, -1] + 0.1

    @property
    def evaluated(self) -> int:
        return sum(map(len, self.asked))


def words_of(masks: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in torch.as_tensor(masks).tolist()]
