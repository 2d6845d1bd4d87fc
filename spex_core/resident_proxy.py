"""ProxySPEX on a device: masks, values, boosting, spectra, priors and the regression stay where the
value function is.

The masks are drawn there. What comes back is the terms with their scores, and on the way numbers
that say what comes next: splits of the trees where their kernel grows them a level at a time, and
errors by prior and level. `Transfers` counts both. The steps are those of proxy.py and samples.py,
and agree with them to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from . import resident_uniform
from .budget import most_masks
from .proxy import DEFAULT, Recipe
from .resident import DeviceFunction, check_room
from .resident_fit import fit
from .resident_uniform import Run, bytes_of
from .ridge import DENSE


def run(
    f: DeviceFunction,
    n: int,
    device: torch.device,
    clock: Callable[[str], AbstractContextManager],
    *,
    budget: int,
    degree: int,
    terms: int | None,
    seed: int,
    recipe: Recipe = DEFAULT,
    **how: Any,
) -> Run:
    """resident_uniform.run with the default fit; how: its further arguments.

    Raises: MemoryError, before f is called, if the device has too little room for the run;
            EvaluationError; torch.OutOfMemoryError, and no result, where it runs out all the same.
    """
    total = most_masks(n, budget)
    square = 8 * min(total, DENSE) ** 2
    check_room("proxyspex", total, n, bytes_of(total, n) + 3 * square, device)
    own = functools.partial(fit, degree=degree, terms=terms, seed=seed, recipe=recipe)
    return resident_uniform.run(f, n, device, clock, fit=own, budget=budget, seed=seed, **how)
