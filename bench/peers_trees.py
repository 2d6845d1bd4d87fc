"""The public extractions of tree spectra, asked for one ensemble at a time, in their own
interpreter.

Reads one JSON case a line, answers one JSON line; harness.Peers is the other end. The first line
out names versions. A case names a LightGBM dump as a JSON file and a file for the terms. Each peer
is called as its own package calls it, with the dump at hand:

    shapiq           shapiq.ProxySPEX(n=n)._lgboost_to_fourier(dump)
    spectralexplain  spectralexplain.utils.lgboost_to_fourier(model), whose model.booster_ has
                     dump_model()
"""

from __future__ import annotations

import functools
import json
import time
from types import SimpleNamespace

import numpy as np
from serve import serve

PACKAGES = ("shapiq", "spectralexplain", "lightgbm", "numpy")


def shapiq(dump, n):
    from shapiq import ProxySPEX

    return ProxySPEX(n=n)._lgboost_to_fourier(dump)


def spectralexplain(dump, n):
    from spectralexplain.utils import lgboost_to_fourier

    booster = SimpleNamespace(dump_model=lambda: dump)
    return lgboost_to_fourier(SimpleNamespace(booster_=booster, n_features_=n))


PEERS = {"shapiq": shapiq, "spectralexplain": spectralexplain}


@functools.cache
def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def run(peer, dump, n, out):
    """CPU seconds from the dump to the terms, which go to `out` as packed rows and coefficients."""
    at_hand = load(dump)
    PEERS[peer](at_hand | {"tree_info": []}, n)  # imports are not extraction
    start = time.process_time()
    found = PEERS[peer](at_hand, n)
    spent = time.process_time() - start
    rows = np.zeros((len(found), 8 * -(-n // 64)), np.uint8)
    for row, key in zip(rows, found, strict=True):
        bits = np.array(key, np.int64)
        if peer == "shapiq":  # which names the features; spectralexplain has n of 0 and 1
            bits = np.isin(np.arange(n), bits)
        row[: -(-n // 8)] = np.packbits(bits.astype(bool), bitorder="little")
    np.savez(out, rows=rows.view("<i8"), coefs=np.array(list(found.values())))
    return {"cpu": spent, "terms": len(found)}


if __name__ == "__main__":
    serve(run, PACKAGES)
