"""Stage 4, bins -> support: decode and subtract until nothing is left (ops.peel has the loop)."""

from __future__ import annotations

import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .backend import Backend
from .plan import SamplingPlan
from .transfers import down

SOFT_FLIPS = 6  # readings whose flips the soft decoder tries: bench/bench_peel.py
ROUNDING = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def peel(
    bins: Tensor,
    plan: SamplingPlan,
    *,
    decoder: str = "soft",
    dtype: torch.dtype = torch.float64,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """The terms that explain the bins, least-squares fitted to them.

    Args:    bins: float64 (C, P, B) from alias. decoder: "soft" (Chase, with all P readings) or
             "hard".
             dtype: of the values the bins were made of, which sets what counts as rounding.
    Returns: packed support int64 (S, W) and coefficients float64 (S,).
    """
    return peel_many(bins[None], plan, decoder=decoder, dtypes=[dtype], backend=backend)[0]


def peel_many(
    bins: Tensor,
    plan: SamplingPlan,
    *,
    decoder: str = "soft",
    dtypes: list[torch.dtype],
    backend: Backend = "auto",
) -> list[tuple[Tensor, Tensor]]:
    """What peel finds of each of q outputs, bins (q, C, P, B), in one call of the kernel."""
    if plan.code is None:  # the whole table: the bins are the spectrum
        return [beyond_rounding(own.flatten(), x) for own, x in zip(bins, dtypes, strict=True)]
    largest = down(bins.abs().amax((1, 2, 3))).tolist()
    scales = [max(scale, 1e-100) for scale in largest]  # whose squares are still numbers
    features, coefs, counts = ops.peel_many(
        bins,
        plan.code,
        plan.delay_columns,
        plan.hashes,
        degree=plan.degree,
        floors=[4 * ROUNDING[x] * scale for x, scale in zip(dtypes, scales, strict=True)],
        chase=SOFT_FLIPS if decoder == "soft" else 0,
        backend=backend,
    )
    sizes = down(counts).tolist()
    support = bits.pack_rows(features, plan.n)
    return list(zip(support.split(sizes), coefs.split(sizes), strict=True))


def precision(values: Tensor) -> torch.dtype:
    """Of what f answered in, whose values are given in float64."""
    return torch.float32 if bool((values == values.float()).all()) else torch.float64


def beyond_rounding(spectrum: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The coefficients of a full table that are more than rounding: of the transform in float64,
    and of the values, whose part in each of the 2**n coefficients is smaller by 2**(n / 2).

    Args:    spectrum: float64 (2**n,). dtype: of the values.
    Returns: packed support int64 (S, 1) and float64 (S,).
    """
    of_values = ROUNDING[dtype] * float(spectrum.norm()) / len(spectrum) ** 0.5
    floor = 4 * max(ROUNDING[torch.float64] * float(spectrum.abs().max()), of_values)
    support = torch.nonzero(spectrum.abs() > floor).flatten()
    return support[:, None], spectrum[support]


def with_constant(support: Tensor, coefs: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The terms, and the constant with coefficient 0 if it is not among them."""
    if bool((support == 0).all(1).any()):
        return support, coefs
    constant = support.new_zeros(1, bits.words(n))
    return torch.cat([constant, support]), torch.cat([coefs.new_zeros(1), coefs])
