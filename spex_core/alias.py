"""Stage 3, values -> bins. The one place where the transform is divided by B.

U[g, p, j] = (1 / B) sum_l f(M_g l + d_p) (-1)**<j, l> = sum over k with M_g^T k = j of F[k]
(-1)**<d_p, k>
"""

from __future__ import annotations

from torch import Tensor

from . import ops
from .backend import Backend
from .plan import SamplingPlan


def alias(values: Tensor, plan: SamplingPlan, *, backend: Backend = "auto") -> Tensor:
    """Bins of the aliased rows: float64 (..., C, P, B).

    Args:   values: (..., T), the values of all rows of the plan or at least of the aliased ones; of
            several outputs all are transformed in one call.
    Source: Kang et al. 2025 (SPEX), eq. (4).
    """
    sampled = values[..., : plan.aliased].double()
    sampled = sampled.reshape(*values.shape[:-1], *plan.shape)
    return ops.fwht(sampled, backend=backend) / (1 << plan.b)
