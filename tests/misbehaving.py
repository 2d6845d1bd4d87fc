"""Value functions that fail, for tests that run them in other processes too."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

N = 12


def truth(masks: np.ndarray) -> np.ndarray:
    return 1.5 * masks[:, 0] - 2.0 * (masks[:, 1] & masks[:, 4]) + 0.5 * masks[:, 9] + 0.25


class Misbehaving:
    """Does `how` at the calls in `at`, which are counted in a file, so that processes share it."""

    fingerprint = "misbehaving"

    def __init__(self, folder: Path, how: str, at: tuple[int, ...]):
        self.count, self.how, self.at = Path(folder) / "calls", how, at

    @property
    def calls(self) -> int:
        return self.count.stat().st_size if self.count.exists() else 0

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        call = self.calls
        with open(self.count, "a") as file:
            file.write(".")
        if call in self.at:
            match self.how:
                case "raise":
                    raise ConnectionError("server gone")
                case "bug":
                    raise TypeError("no such thing")
                case "nan":
                    return np.where(np.arange(len(masks)) % 7, truth(masks), np.nan)
                case "short":
                    return truth(masks)[1:]
                case "hang":
                    time.sleep(600)
                case "slow":
                    time.sleep(1)
                case "die":
                    os._exit(3)
        return truth(masks)
