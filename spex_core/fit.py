"""fit(): an explanation from masks and values that are there already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .errors import check
from .explanation import Explanation
from .gpspex import gp_algorithm
from .proxyspex import proxy_algorithm
from .uniform import explain_samples

ALGORITHMS = ("proxyspex", "gpspex")


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
             algorithm: "proxyspex", or "gpspex" for up to 5,000 masks. The others: as in the
             function of that name, whose preset, degree and terms differ.
    Returns: an Explanation; for values (T, q) a list of q.
    Raises:  TypeError, ValueError.
    """
    check(
        algorithm in ALGORITHMS,
        "fit: algorithm must be 'proxyspex' or 'gpspex', the ones for masks at random, got {!r}",
        algorithm,
    )
    make = gp_algorithm if algorithm == "gpspex" else proxy_algorithm
    return explain_samples(make("fit", preset, degree, terms, seed), masks, values, features)
