"""The bins of a planted function, by definition: what peeling is tested on."""

from __future__ import annotations

import numpy as np
import torch
from planted import Planted
from torch import Tensor

from spex_core import masks as bits
from spex_core.plan import SamplingPlan


def true_bins(f: Planted, plan: SamplingPlan, rounding: float = 1e-16) -> Tensor:
    """U[g, p, j] = sum over k with M_g^T k = j of F[k] (-1)**<d_p, k>, by definition, plus noise.

    An evaluation's noise of variance sigma**2 is white of variance sigma**2 / B in the bins.
    """
    groups, _, width = plan.shape
    delays = bits.unpack(plan.delays, plan.n)  # (P, n)
    columns = np.stack([bits.unpack(group, plan.n) for group in plan.columns])  # (C, b, n)
    out = np.zeros(plan.shape)
    for k, coef in f.terms.items():
        sign = 1.0 - 2.0 * (delays[:, list(k)].sum(1) % 2)
        index = (columns[:, :, list(k)].sum(2) % 2) @ (1 << np.arange(plan.b))  # (C,)
        out[np.arange(groups), :, index] += coef * sign
    out += (rounding + f.sigma / np.sqrt(width)) * f.noise.standard_normal(out.shape)
    return torch.from_numpy(out)
