"""fit(): an explanation from masks and values that are there already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .auto import auto_algorithm
from .errors import check
from .explanation import Explanation
from .gpspex import gp_algorithm
from .proxyspex import proxy_algorithm
from .uniform import explain_samples

MAKERS = {"proxyspex": proxy_algorithm, "gpspex": gp_algorithm, "auto": auto_algorithm}


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
    Returns: an Explanation; for values (T, q) a list of q.
    Raises:  TypeError, ValueError.
    """
    check(
        algorithm in MAKERS,
        "fit: algorithm must be 'proxyspex', 'gpspex' or 'auto', for masks at random, got {!r}",
        algorithm,
    )
    make = MAKERS[algorithm]
    return explain_samples(make("fit", preset, degree, terms, seed), masks, values, features)
