"""Value functions for several processes: importable there, of known values, slow or deadly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spex_core import masks as bits
from spex_core.value_function import ValueFunction


class Spread(ValueFunction):
    """A value that depends on the pack in its last bits, so that other packs are other values.

    Args: burn: matrix products for each mask. deadly: the process of the pack whose first mask has
          this word dies, as long as `folder` has fewer than `lives` marks. seen: where each pack
          leaves a mark with its process.
    """

    order = "prefix"
    tokens = 100

    def __init__(
        self,
        n: int = 20,
        *,
        burn: int = 0,
        folder: str | None = None,
        deadly: int | None = None,
        lives: int = 0,
        order: str = "prefix",
    ):
        self.features = tuple(f"x{j}" for j in range(n))
        self.burn, self.folder, self.deadly, self.lives, self.order = (
            burn,
            folder,
            deadly,
            lives,
            order,
        )

    @property
    def fingerprint(self) -> str:
        return f"spread-{self.n}"

    def cost(self, masks: Tensor) -> np.ndarray:
        return 1 + bits.unpack(masks, self.n).sum(1)

    def added(self, masks: Tensor) -> np.ndarray:
        cost = self.cost(masks)
        cost[1:] //= 2
        return cost

    def run(self, masks: Tensor) -> np.ndarray:
        self.mark(masks)
        dense = bits.unpack(masks, self.n).astype(np.float64)
        weights = np.cos(np.arange(1, self.n + 1))
        values = dense @ weights + dense[:, 0] * dense[:, 1]
        for _ in range(self.burn * len(masks)):
            torch.cos(torch.arange(20_000, dtype=torch.float32))
        return (values + 1e-3 * values.sum() / len(masks)).astype(np.float32)

    def mark(self, masks: Tensor) -> None:
        if self.folder is None:
            return
        folder = Path(self.folder)
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").write_text(f"{len(masks)}")
        if self.deadly is not None and (masks[:, 0] == self.deadly).any():
            marks = len(list(folder.glob("death-*")))
            if marks < self.lives:
                (folder / f"death-{marks}").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)


class Fails(Spread):
    """Raises for the mask that has all features."""

    def run(self, masks: Tensor) -> np.ndarray:
        if (masks[:, 0] == (1 << self.n) - 1).any():
            raise ArithmeticError("no value for you")
        return super().run(masks)


class Bounded(Spread):
    """Of masks with feature 0 it has bounds only."""

    def __init__(self, **options: object):
        super().__init__(**options)
        self.bounds: list[Tensor] = []

    @property
    def censored(self) -> Tensor:
        return torch.cat([super().censored, *self.bounds])

    def run(self, masks: Tensor) -> np.ndarray:
        self.bounds.append(masks[masks[:, 0] & 1 == 1])
        return super().run(masks)


def fails() -> Fails:
    return Fails()


def broken() -> Spread:
    raise OSError("no such model")
