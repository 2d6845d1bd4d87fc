"""The public ProxySPEX implementations, asked for one fit at a time, in their own interpreter.

Reads one JSON case a line, answers one JSON line; harness.Peers is the other end. The first line
out names versions. A case is a game, or a planted function (synthetic.hierarchical), with a number
of samples and a seed; the peer gets masks and values that are there already:

    shapiq           shapiq.ProxySPEX(n, index="FBII", max_order=2).approximate(T, values), its
                     sampler replaced by the masks, its refitted Fourier coefficients kept
    spectralexplain  spectralexplain.utils.proxy_spex((masks, values), max_order=5)

CPU seconds are those of the whole call, imports apart. R2 is on the test masks of the case.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import resource
import time
from types import SimpleNamespace

import games
import numpy as np
from serve import serve
from synthetic import hierarchical

PACKAGES = ("shapiq", "spectralexplain", "lightgbm", "scikit-learn", "numpy")


def shapiq(masks, values):
    from shapiq.approximator import ProxySPEX

    approximator = ProxySPEX(n=masks.shape[1], index="FBII", max_order=2, random_state=0)
    approximator._uniform_sampler = SimpleNamespace(
        sample=lambda budget: None, coalitions_matrix=masks
    )
    kept = {}
    refine = approximator._refine

    def keep(*args):
        kept.update(refine(*args))
        return kept

    approximator._refine = keep
    approximator.approximate(len(masks), lambda _: values)
    return kept


def spectralexplain(masks, values):
    from spectralexplain.utils import proxy_spex

    found = proxy_spex((masks.astype(int), values), max_order=5)
    return {tuple(np.flatnonzero(key).tolist()): value for key, value in found.items()}


PEERS = {"shapiq": shapiq, "spectralexplain": spectralexplain}


def samples(samples, seed, game=None, n=None, **planted):
    """((masks, values) to fit, (masks, values) to test) of a case; ours are made by the same."""
    if game:
        _, (masks, values), test = games.samples(game, seed)
        return (masks[:samples], values[:samples]), test
    _, f, test = function(samples, seed, n=n, **planted)
    masks = _masks(samples, seed, n)[:samples]
    return (masks, f(masks)), test


def function(samples, seed, game=None, n=None, terms=100, degree=5, snr=20.0):
    """n, the function of a case, and (masks, values) to test."""
    if game:
        n, f = games.load(game)
        return n, f, games.samples(game, seed)[2]
    f = hierarchical(n, terms, degree, snr=snr, seed=seed)
    test = _masks(samples, seed, n)[samples:]
    return n, f, (test, f.clean(test))


def _masks(samples, seed, n):
    """Those to fit, and 4,000 to test."""
    return np.random.default_rng([seed, 1]).random((samples + 4000, n)) < 0.5


def quietly(peer, masks, values):
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return PEERS[peer](masks, values)


def run(peer, most_cpu=None, **case):
    (masks, values), (test, truth) = samples(**case)
    start = time.process_time()
    if most_cpu:  # then the kernel ends this process
        resource.setrlimit(resource.RLIMIT_CPU, (int(start + most_cpu),) * 2)
    found = quietly(peer, masks, values)
    spent = time.process_time() - start
    return {"r2": score(found, test, truth), "terms": len(found), "cpu": spent}


def score(found, test, truth):
    """R2 of Fourier coefficients by term on masks and their values."""
    signs = 1.0 - 2.0 * test
    fit = np.zeros(len(test))
    for term, coef in found.items():
        fit += coef * signs[:, list(term)].prod(1)
    return float(1 - np.sum((truth - fit) ** 2) / np.sum((truth - truth.mean()) ** 2))


if __name__ == "__main__":
    for module in ("lightgbm", "shapiq.approximator", "spectralexplain.utils"):
        importlib.import_module(module)  # in no case's seconds
    serve(run, PACKAGES)
