"""The public implementations for compare.py, one case a line, in their own interpreter.

    shapiq ProxySPEX, spectralexplain ProxySPEX    on samples, as peers_proxy.py calls them
    shapiq SPEX    shapiq.SPEX(n, decoder_type="soft").approximate(samples, f), which asks f itself,
                   stopped where it has the Fourier coefficients

harness.Peers is the other end. CPU seconds leave out imports and the function; memory is resident
MB before the call and at most.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import resource
import time

import peers
import peers_proxy
from serve import serve

PACKAGES = peers_proxy.PACKAGES


def shapiq_spex(case, most_cpu):
    import shapiq.approximator.sparse.base as base
    from shapiq.approximator import SPEX

    def stop(coefficients):
        raise peers.Spectrum(coefficients)

    base.fourier_to_moebius = stop
    n, f, test = peers_proxy.function(**case)
    f = peers.Timed(f)
    start = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(start + most_cpu),) * 2)
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            SPEX(n=n, decoder_type="soft").approximate(case["samples"], f)
        except peers.Spectrum as caught:
            found = caught.args[0]
    spent = time.process_time() - start - f.seconds
    return {"r2": peers_proxy.score(found, *test), "terms": len(found), "cpu": spent}


def run(method, most_cpu, **case):
    start_mb = peak_mb()
    package, algorithm = method.split()
    if algorithm == "SPEX":
        found = shapiq_spex(case, most_cpu)
    else:
        found = peers_proxy.run(package, most_cpu, **case)
    return found | {"start_mb": start_mb, "peak_mb": peak_mb()}


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    for module in ("lightgbm", "shapiq.approximator", "spectralexplain.utils"):
        importlib.import_module(module)  # in no case's seconds
    serve(run, PACKAGES)
