"""What a call of an op costs the host: microseconds on next to nothing, above an empty kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gpu_timing as timing
import torch
from gpu_inference import InferenceSizes, problems

from spex_core import ops
from spex_core.codes import bch_code

LEAST = InferenceSizes(1, 1, 1, 1, 1, 8, 1, 1, 1, 8, 8, 1)


def calls(device: torch.device) -> dict[str, Callable[[str], object]]:
    """A least call, by a backend, of every op with a kernel that the host does not wait for."""
    x, masks = torch.ones(1, 8, device=device), torch.ones(64, 1, dtype=torch.int64, device=device)
    one = torch.ones(64, dtype=torch.float64, device=device)
    equal = one[:2]  # one relevance and the variances of orders 0 and 1
    prior = masks[:1], masks[:1], equal[:1], equal
    code = bch_code(8, 1)
    readings = torch.ones(1, code.delays, dtype=torch.float64, device=device)
    few, none = masks[:1], {"seed": 0, "device": device}
    least = {
        "uniform_masks": lambda backend: ops.uniform_masks(1, 64, **none, backend=backend),
        "affine_masks": lambda backend: ops.affine_masks(few, few, backend=backend),
        "fwht": lambda backend: ops.fwht(x, backend=backend),
        "parity_bits": lambda backend: ops.parity_bits(masks, masks, backend=backend),
        "parity_predict": lambda backend: ops.parity_predict(masks, masks, one, backend=backend),
        "parity_adjoint": lambda backend: ops.parity_adjoint(masks, masks, one, backend=backend),
        "parity_gram": lambda backend: ops.parity_gram(few, 64, backend=backend),
        "anova_kernel": lambda backend: ops.anova_kernel(*prior, backend=backend),
        "anova_kernel_grad": lambda backend: ops.anova_kernel_grad(
            *prior, one[:1, None], backend=backend
        ),
        "anova_cross": lambda backend: ops.anova_cross(*prior, backend=backend),
        "bch_decode": lambda backend: ops.bch_decode(readings, code, chase=0, backend=backend),
    }
    for problem in problems(LEAST, device):
        if problem.op not in ("pack_tokens", "pack_trie"):  # which wait
            least[problem.op] = lambda backend, p=problem: p.solved(device, backend)
    return least


def overhead_rows(device: torch.device, deadline: timing.Deadline) -> Iterator[dict]:
    empty = timing.each(lambda: torch.cuda._sleep(0), device) if device.type == "cuda" else 0.0
    for op, call in calls(device).items():
        for backend in timing.backends(op, device):
            row = {"op": f"{op}, overhead", "size": "least", "backend": backend, "equal": True}
            if deadline.allows(row["op"], backend):
                us = timing.each(lambda call=call, how=backend: call(how), device) - empty
                yield row | {"us": us}
