"""The public SPEX implementations, asked for one spectrum at a time, in their own interpreter.

Reads one JSON case a line, answers one JSON line; harness.Peers is the other end. The first line
out names versions. Each peer is called as its users call it, up to the spectrum:

    shapiq soft            shapiq.SPEX(n, decoder_type="soft", degree_parameter=t).approximate(...),
                           stopped where it has the Fourier coefficients, before the index
    sparse-transform hard  spectralexplain.sampling_strategy(f, b, b, n, None, t), which makes the
                           SubsampledSignal, then spectralexplain.support_recovery("hard", ...), the
                           sparse_transform.qsft transform with its authors' arguments: the
                           Explainer itself only decodes soft
    spectralexplain soft   spectralexplain.Explainer(f, n, max_order=t), with the budget named
                           unless b = 8, which it takes without one (naming it makes all masks of
                           b = 12 first, and that is then in its seconds)

CPU seconds leave out the value function and the compilation of galois' kernels, one field at a
time beforehand.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import time

import numpy as np
from serve import serve
from synthetic import planted

PACKAGES = ("shapiq", "spectralexplain", "sparse-transform", "galois", "numba", "numpy")


class Timed:
    """A value function that keeps the CPU seconds spent in it and the rows asked for."""

    def __init__(self, function):
        self.function, self.seconds, self.rows = function, 0.0, 0

    def __call__(self, masks):
        start = time.process_time()
        values = self.function(masks)
        self.seconds += time.process_time() - start
        self.rows += len(values)
        return values


class Spectrum(Exception):
    """Carries shapiq's Fourier coefficients out of approximate()."""


def shapiq_soft(f, n, b, t):
    import shapiq.approximator.sparse.base as base
    from shapiq.approximator import SPEX

    def stop(coefficients):
        raise Spectrum(coefficients)

    base.fourier_to_moebius = stop
    try:
        SPEX(n=n, decoder_type="soft", degree_parameter=t).approximate(samples(n, b, t), f)
    except Spectrum as found:
        return found.args[0]
    raise AssertionError("shapiq no longer calls fourier_to_moebius")


def sparse_transform_hard(f, n, b, t):
    import spectralexplain

    signal, _ = spectralexplain.sampling_strategy(f, b, b, n, None, t)
    return sets(spectralexplain.support_recovery("hard", signal, b, t))


def spectralexplain_soft(f, n, b, t):
    import spectralexplain

    budget = None if b == 8 else samples(n, b, t)
    return sets(spectralexplain.Explainer(f, n, budget, max_order=t).fourier_transform)


PEERS = {
    "shapiq soft": shapiq_soft,
    "sparse-transform hard": sparse_transform_hard,
    "spectralexplain soft": spectralexplain_soft,
}


def sets(coefficients):
    return {tuple(np.nonzero(key)[0].tolist()): value for key, value in coefficients.items()}


def samples(n, b, t):
    from sparse_transform.qsft.codes.BCH import BCH

    length, dimension = BCH.parameter_search(n, t)
    return 3 * (length - dimension + 1) << b


@functools.cache
def compile_kernels(n, t):
    """galois compiles its decoder once for each field: decode true and random parities."""
    from sparse_transform.qsft.codes.BCH import BCH

    start = time.process_time()
    rng = np.random.default_rng(0)
    for code in (BCH(n, t), BCH(n, t)):
        delays = np.array(code.get_delay_matrix(), dtype=int)[1:]
        for i in range(4 * t):
            chosen = np.isin(np.arange(n), rng.choice(n, i % (t + 1), replace=False))
            noise = rng.integers(0, 2, len(delays))
            code.parity_decode(list(delays @ chosen % 2 if i % 2 else noise))
    return time.process_time() - start


def run(peer, n, b, t, terms, snr, seed):
    compiling = compile_kernels(n, t)
    f = Timed(planted(n, terms, t, snr=snr, seed=seed))
    np.random.seed(seed)  # noqa: NPY002, the peers draw from the global generator
    start = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        found = PEERS[peer](f, n, b, t)
    spent = time.process_time() - start - f.seconds
    terms = [[[int(i) for i in k], float(coef)] for k, coef in found.items()]
    return {"cpu": spent, "compile": compiling, "samples": f.rows, "terms": terms}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    import lightgbm  # noqa: F401, imports are in no case's seconds
    import shapiq  # noqa: F401
    import spectralexplain  # noqa: F401

    serve(run, PACKAGES)
