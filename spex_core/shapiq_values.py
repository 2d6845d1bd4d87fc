"""Between a SparseTransform and shapiq's InteractionValues, for shapiq 1.4 and newer."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .errors import MissingExtra, check
from .indices import index_name, interactions
from .transform import SparseTransform

if TYPE_CHECKING:
    from shapiq import InteractionValues

LEAST, BELOW = (1, 4), (2, 0)  # versions of shapiq

# shapiq's names of indices, and those in whose terms f is a sum over the sets that are present.
NAMES = ("SV", "BV", "SII", "BII", "k-SII", "STII", "FBII", "FSII", "Moebius", "Co-Moebius")
SUMS = ("SV", "k-SII", "STII", "FBII", "FSII", "Moebius")


def import_shapiq() -> ModuleType:
    """The module shapiq; MissingExtra where there is none, or one of another version."""
    try:
        module = importlib.import_module("shapiq")
    except ImportError as error:
        raise MissingExtra(
            "shapiq is not installed, or cannot be imported here: pip install 'spex-core[shapiq]'"
        ) from error
    version = importlib.metadata.version("shapiq")
    if not LEAST <= tuple(int(part) for part in version.split(".")[:2]) < BELOW:
        raise MissingExtra(
            f"shapiq must be 1.4 or newer and below 2, got {version}: "
            "pip install 'spex-core[shapiq]'"
        )
    return module


def to_shapiq(
    transform: SparseTransform,
    index: str,
    order: int,
    *,
    top_order: bool = False,
    budget: int | None = None,
) -> InteractionValues:
    """An index of a transform as shapiq's InteractionValues.

    Args:   index: a name of `interactions` that shapiq has too. order: the largest set, up to n.
            top_order: only the sets of that order, without the baseline. budget: evaluations.
    Raises: ValueError for an index that one of the two does not know; MissingExtra.
    """
    shapiq = import_shapiq()
    name = index_name(index)
    check(name in NAMES, "to_shapiq: index must be one of {}, got {!r}", ", ".join(NAMES), index)
    found = interactions(transform, name, order)
    if top_order:
        found = {subset: value for subset, value in found.items() if len(subset) == order}
    # An array and where each set stands in it: 1.4 builds all sets up to the order from a dict.
    return shapiq.InteractionValues(
        np.array(list(found.values())),
        interaction_lookup={subset: place for place, subset in enumerate(found)},
        index=name,
        max_order=order,
        min_order=order if top_order else 0,
        n_players=transform.n,
        estimated=True,
        estimation_budget=budget,
        baseline_value=found.get((), transform.baseline),
    )


def from_shapiq(values: InteractionValues) -> SparseTransform:
    """The set function that interaction values state.

    For SV, k-SII, STII, FBII, FSII and Moebius it is the sum of the values of all sets that are
    present, for BII and BV the function with these averages; sets that are not there count as zero.
    So the way back from to_shapiq is exact where the order is at least the degree of the transform.

    Raises: TypeError for anything else; ValueError for the other indices, which state no function,
            for top orders alone and for values that are not finite.
    """
    shapiq = import_shapiq()
    if not isinstance(values, shapiq.InteractionValues):
        raise TypeError(
            f"from_shapiq: values must be InteractionValues, got {type(values).__name__}"
        )
    check(
        values.index in (*SUMS, "BII", "BV"),
        "from_shapiq: index must be one of {}, got {!r}",
        *(", ".join((*SUMS, "BII", "BV")), values.index),
    )
    check(
        values.min_order <= 1,
        "from_shapiq: values must have all orders from 1 on, got {} and above",
        values.min_order,
    )
    sets = {
        tuple(int(i) for i in subset): float(values[subset]) for subset in values.interaction_lookup
    }
    sets.setdefault((), float(values.baseline_value))
    terms: dict[tuple[int, ...], float] = {}
    for subset, value in sets.items():
        if values.index in ("BII", "BV"):
            terms[subset] = value / (-2.0) ** len(subset)
            continue
        for size in range(len(subset) + 1):  # the product of all (1 - (-1)**m_i) / 2
            part = value * (-1) ** size / 2 ** len(subset)
            for k in itertools.combinations(subset, size):
                terms[k] = terms.get(k, 0.0) + part
    return SparseTransform.from_dict(values.n_players, terms)
