"""Several outputs of GPSPEX on the same masks: where the time goes, and what could be shared.

    python bench/bench_gp_outputs.py    # a minute; writes bench/results/gp_outputs.json

`seconds` are of a whole fit, the least of two. `kernels` (anova_kernel, its gradient, anova_cross),
`factors` (Cholesky factors and inverses), `parities` and `trees` are shares of one that is looked
at on the way; `repeated` is the share of kernels, factors and parities whose inputs were there
before to the bit, which is all that one output could take over from another. `lockstep` compares
factors and inverses of four matrices in one call, as four outputs would have them whose optimisers
go step by step together, with four calls. One thread, CPU time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from unittest import mock

import harness
import synthetic
import torch
from race import race, ratio
from torch import Tensor

from spex_core import gp, ops
from spex_core import masks as bits
from spex_core.budget import plan_uniform
from spex_core.gp import fit_gp

T, N, DEGREE, OUTPUTS = 300, 64, 4, (1, 4)
PARTS = {
    "kernels": [(ops, name) for name in ("anova_kernel", "anova_kernel_grad", "anova_cross")],
    "factors": [
        *((torch.linalg, "cholesky_ex"), (torch.linalg, "cholesky")),
        (torch, "cholesky_inverse"),
    ],
    "parities": [(ops, "parity_bits"), (ops, "parity_gram")],
    "trees": [(gp, "bag_spectra")],
}


def problem(outputs: int) -> tuple[Tensor, Tensor]:
    """Masks packed (T, W), and values (outputs, T) of as many functions with noise."""
    masks = plan_uniform(N, T, seed=1).masks(0, T)
    made = [synthetic.planted(N, 40, DEGREE, snr=5, seed=seed) for seed in range(outputs)]
    dense = bits.unpack(masks, N)
    return masks, torch.stack([torch.as_tensor(f(dense)).double() for f in made])


def seconds_of(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def parts_of(fit: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of each part of a fit, and of calls with inputs that were there before."""
    seconds, seen = dict.fromkeys([*PARTS, "repeated"], 0.0), set()

    def watched(part: str, call: Callable) -> Callable:
        def run(*args: object, **options: object) -> object:
            given = hashlib.sha1(call.__name__.encode())
            for x in args:
                given.update(x.numpy().tobytes() if isinstance(x, Tensor) else str(x).encode())
            start = time.process_time()
            out = call(*args, **options)
            spent = time.process_time() - start
            seconds[part] += spent
            seconds["repeated"] += spent * (part != "trees" and given.digest() in seen)
            seen.add(given.digest())
            return out

        return run

    with ExitStack() as patches:
        for part, names in PARTS.items():
            for where, name in names:
                own = watched(part, getattr(where, name))
                patches.enter_context(mock.patch.object(where, name, own))
        fit()
    return seconds


def lockstep(size: int, count: int) -> dict[str, object]:
    """Factors and inverses of so many covariances, in one call and in as many."""
    x = torch.randn(count, size, size, generator=torch.Generator().manual_seed(0)).double()
    stack = x @ x.mT / size + torch.eye(size).double()

    def solved(matrices: Tensor) -> Tensor:
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(matrices)[0])

    singly = torch.stack([solved(matrix) for matrix in stack])
    torch.testing.assert_close(solved(stack), singly)
    times = race({"one": lambda: solved(stack), "each": lambda: [solved(m) for m in stack]})
    return {"size": size, "matrices": count, "one call is faster by": ratio(times, "each", "one")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    fits = {
        count: partial(fit_gp, *problem(count), N, degree=DEGREE, terms=None, trees=True, seed=0)
        for count in OUTPUTS
    }
    least = {count: float("inf") for count in OUTPUTS}
    for _ in range(2):
        least = {count: min(least[count], seconds_of(fit)) for count, fit in fits.items()}
    rows = []
    for count, fit in fits.items():
        parts: dict[str, float] = {}
        total = seconds_of(lambda fit=fit, parts=parts: parts.update(parts_of(fit)))
        shares = {name: spent / total for name, spent in parts.items()}
        rows.append({"T": T, "n": N, "outputs": count, "seconds": least[count]} | shares)
    batched = [lockstep(3 * T // 4, 4)]
    harness.table(rows, "GPSPEX, several outputs")
    harness.table(batched, "lockstep")
    harness.write("gp_outputs", rows, lockstep=batched)
