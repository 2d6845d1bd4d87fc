"""LightGBM, asked for one fit at a time, in an interpreter of its own.

Reads one JSON case a line, answers one JSON line; harness.Peers is the other end. The first line
out names versions. A case names a .npz file with the bool masks (T, n), the values and the masks to
predict, the settings of LightGBM, and a file for its predictions. The features are handed over as
float32, as the public ProxySPEX implementations do; making that array is not in the seconds,
LightGBM's own reading of it is.
"""

from __future__ import annotations

import functools
import time

import numpy as np
from serve import serve

PACKAGES = ("lightgbm", "numpy")


@functools.cache
def load(path):
    with np.load(path) as file:
        return [file[name].astype(np.float32) for name in ("masks", "values", "test")]


def run(data, settings, trees, out):
    """CPU and wall seconds of a fit."""
    import lightgbm

    masks, values, test = load(data)
    lightgbm.train(settings, lightgbm.Dataset(masks[:100], values[:100]), 1)  # imports, threads
    start = time.process_time(), time.perf_counter()
    model = lightgbm.train(settings, lightgbm.Dataset(masks, values), trees)
    end = time.process_time(), time.perf_counter()
    np.save(out, model.predict(test))
    return {"cpu": end[0] - start[0], "wall": end[1] - start[1]}


if __name__ == "__main__":
    serve(run, PACKAGES)
