"""fit(): an explanation from masks and values that are there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from . import resident
from .auto import auto_algorithm
from .errors import check
from .explanation import Explanation
from .gpspex import gp_algorithm
from .proxyspex import proxy_algorithm
from .uniform import Algorithm, explain_samples

MAKERS: dict[str, Callable[..., Algorithm]] = {
    "proxyspex": proxy_algorithm,
    "gpspex": gp_algorithm,
    "auto": auto_algorithm,
}


def fit(
    masks: np.ndarray | Tensor,
    values: Sequence[float] | np.ndarray | Tensor,
    *,
    algorithm: str = "proxyspex",
    features: Sequence[str] | None = None,
    preset: str = "default",
    degree: int | None = None,
    terms: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Explanation | list[Explanation]:
    """An explanation from masks and values that are there already.

    A mask that comes more than once counts once, with the mean of its values; where they differ the
    report says so. So it does where the masks are not uniform (then R2 is for masks of their kind)
    and where a feature never varies (then no term has it). All 2**n masks give the exact result.

    Args:    masks: bool (T, n), at least 8 distinct ones (2**n for n <= 2). values: (T,), or (T, q)
             for q outputs.
             algorithm: "proxyspex"; "gpspex" for up to 5,000 masks; or "auto", a stack of both
             and a linear fit, as explain() says. The others: as in the function of that name, whose
             preset, degree and terms differ.
             device: for "gpspex", where its trees and matrices are made; then as many masks as its
             memory holds. Masks go there once, as does what gpspex() names.
    Returns: an Explanation; for values (T, q) a list of q.
    Raises:  TypeError, ValueError.
    Cost:    that of the function named, which has no f to ask.
    Source:  Butler et al. 2025 (ProxySPEX, arXiv 2505.17495); gpspex() and explain() have theirs.
    Example: fit(masks, values, algorithm="auto").transform.top(5)
    """
    check(
        algorithm in MAKERS,
        "fit: algorithm must be 'proxyspex', 'gpspex' or 'auto', for masks at random, got {!r}",
        algorithm,
    )
    device = resident.usable_device("fit", device, None, {})
    check(
        device.type == "cpu" or algorithm == "gpspex",
        "fit: device must be 'cpu' with algorithm={!r}, got {}",
        *(algorithm, device),
    )
    there = {"device": device} if algorithm == "gpspex" else {}
    made = MAKERS[algorithm]("fit", preset, degree, terms, seed, **there)
    return explain_samples(made, masks, values, features)
