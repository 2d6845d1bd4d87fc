"""Masks at random on a device, from a budget to one fit an output: what ProxySPEX and GPSPEX share
there. The steps are those of budget.py, samples.py and uniform.py, and agree with them to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .boost_start import scaled
from .budget import plan_uniform
from .peel import beyond_rounding, precision, with_constant
from .plan import SamplingPlan
from .proxy import ProxyFit
from .resident import DeviceFunction, evaluate
from .samples import Samples, never_vary
from .transfers import Transfers
from .transform import SparseTransform

ROWS = 1 << 24  # features that are unpacked at a time

# (masks packed int64 (T, W), values float64 (q, T), n, transfers) -> one fit an output, on the host
Fit = Callable[[Tensor, Tensor, int, Transfers], list[ProxyFit]]


@dataclass
class Run:
    """What `run` found: a fit an output in the units of samples, whether f has several outputs, the
    plan, masks asked for, bytes moved."""

    samples: Samples
    fits: list[ProxyFit]
    several: bool
    plan: SamplingPlan
    used: int
    moved: dict[str, int]


def run(
    f: DeviceFunction,
    n: int,
    device: torch.device,
    clock: Callable[[str], AbstractContextManager],
    *,
    fit: Fit,
    budget: int,
    seed: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> Run:
    """From a budget to the terms, on the device.

    Raises: EvaluationError; torch.OutOfMemoryError, and no result, where the device runs out.
    """
    transfers = Transfers(device)

    def maker(where: torch.device | None) -> SamplingPlan:
        return plan_uniform(n, budget, seed=seed, device=where)

    with clock("plan"), transfers:
        plan = maker(device)
    with clock("evaluate"):
        how: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
        values, used = evaluate(f, plan, transfers, maker, **how)
    with clock("fit"), transfers:
        rows = values.T if values.ndim == 2 else values[None]
        samples = sampled(plan, rows.contiguous(), transfers)
        fits = fit_outputs(samples, transfers, fit)
    return Run(samples, fits, values.ndim == 2, plan, used, transfers.moved)


def bytes_of(masks: int, n: int) -> int:
    """What so many masks and their values take, in their forms."""
    return masks * (32 * bits.words(n) + 200)


def sampled(plan: SamplingPlan, values: Tensor, transfers: Transfers) -> Samples:
    """samples.varying of all rows of a plan and values (q, T): on the device but for which features
    vary and the powers of two."""
    masks, n = plan.masks(0, plan.total), plan.n
    powers = transfers.down(torch.frexp(values.abs().amax(1))[1]).numpy()
    values = torch.stack([scaled(*x) for x in zip(values, (-powers).tolist(), strict=True)])
    step = max(1, ROWS // n)
    count = sum(bits.unpack_there(part, n).sum(0) for part in masks.split(step))
    vary = (count > 0) & (count < len(masks))
    features, warnings = np.arange(n), []
    if not bool(vary.all()):
        features = transfers.down(vary.nonzero()[:, 0]).numpy()
        parts = (bits.unpack_there(part, n) for part in masks.split(step))
        masks = torch.cat([bits.pack_there(part[:, vary]) for part in parts])
        warnings.append(never_vary(np.setdiff1d(np.arange(n), features)))
    return Samples(n, features, masks, values, powers, warnings)


def fit_outputs(samples: Samples, transfers: Transfers, fit: Fit) -> list[ProxyFit]:
    """One fit an output, on the host; values that are all equal need none."""
    masks, values, n = samples.masks, samples.values, len(samples.features)
    if samples.whole:
        return [whole_table(masks, y, n, transfers) for y in values]
    vary = transfers.down((values != values[:, :1]).any(1))
    constants = transfers.down(values[:, :1])
    none = torch.zeros(1, masks.shape[1], dtype=torch.int64)
    note = "all values are equal"
    out = [ProxyFit(none, value, 1.0, 1.0, len(masks), 1.0, note) for value in constants]
    if len(rows := vary.nonzero()[:, 0]):
        found = fit(masks, values[transfers.up(rows)], n, transfers)
        for i, one in zip(rows.tolist(), found, strict=True):
            out[i] = one
    return out


def whole_table(masks: Tensor, y: Tensor, n: int, transfers: Transfers) -> ProxyFit:
    """uniform's fit of all 2**n masks: the exact spectrum but for rounding."""
    table = torch.empty_like(y)
    table[masks[:, 0]] = y
    found = beyond_rounding(ops.fwht(table) / len(table), precision(table))
    support, coefs = (transfers.down(x) for x in with_constant(*found, n))
    energy = SparseTransform(n, support, coefs).energy_by_order()
    linear = energy.get(1, 0.0) if energy else 1.0
    return ProxyFit(support, coefs, 1.0, linear, 0, float(len(coefs)), "the whole table")
