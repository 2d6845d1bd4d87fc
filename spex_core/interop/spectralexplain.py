"""The interface of the package spectralexplain: `from spex_core.interop import spectralexplain as
spex` in place of `import spectralexplain as spex`.

    explainer = spex.Explainer(value_function, features=30, sample_budget=1000)
    print(explainer.interactions(index="fbii"))

Explainer and its interactions, and utils.ExactSolver, which needs no licence here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..budget import least_budget
from ..errors import check, check_int
from ..explanation import Explanation
from ..indices import interactions as index_of
from ..proxyspex import proxyspex
from ..spex import spex
from ..transform import SparseTransform

INDICES = {
    "fourier": "Fourier",
    "mobius": "Moebius",
    "bii": "BII",
    "sii": "SII",
    "fbii": "FBII",
    "fsii": "FSII",
    "stii": "STII",
}
DEFAULT_B = 8  # bits a group, where no budget is given

Fourier = dict[tuple[int, ...], float]  # {a 0 or 1 for each feature: coefficient}


class Explainer:
    """Runs SPEX or ProxySPEX on a value function as soon as it is made.

    Args:
        value_function: a matrix of 0 and 1, one row a mask -> one number a row.
        features: how many, or their names, in which interactions are given.
        sample_budget: the most masks; by default what SPEX needs for 2**8 bins a group.
        max_order: the largest order of a Fourier term, and of the interactions.
        algorithm: "spex" or "proxyspex". name: is kept, and not used. seed: of the masks.
    Attributes:
        fourier_transform: {a 0 or 1 for each feature: coefficient}.
        explanation: the run itself, with its report, which spectralexplain does not have.
    Raises: TypeError, ValueError for bad arguments, a budget too small among them.
    """

    def __init__(
        self,
        value_function: Callable[[np.ndarray], Sequence[float] | np.ndarray],
        features: int | Sequence[Hashable],
        sample_budget: int | None = None,
        max_order: int = 5,
        algorithm: str = "spex",
        name: str = "",
        *,
        seed: int = 0,
    ) -> None:
        run: Any = {"spex": spex, "proxyspex": proxyspex}.get(str(algorithm).lower())
        check(
            run is not None,
            "Explainer: algorithm must be 'spex' or 'proxyspex', got {!r}",
            algorithm,
        )
        self.value_function, self.name, self.algorithm = value_function, name, algorithm
        self.features = range(features) if isinstance(features, int) else features
        self.num_features = n = len(self.features)
        self.max_order = min(check_int("Explainer: max_order", max_order, 1), n)
        self.sample_budget = sample_budget
        self.explanation: Explanation = run(
            lambda masks: np.asarray(value_function(masks.astype(np.int64)), np.float64),
            n,
            budget=least_budget(n, self.max_order, DEFAULT_B)
            if sample_budget is None
            else sample_budget,
            degree=self.max_order,
            seed=seed,
        )

    @property
    def fourier_transform(self) -> Fourier:
        return {
            tuple(int(i in term) for i in range(self.num_features)): coef
            for term, coef in self.explanation.transform.to_dict().items()
        }

    def interactions(self, index: str) -> Interactions:
        """An index in terms of the features: fourier, mobius, bii, sii, fbii, fsii or stii."""
        return Interactions(
            self.fourier_transform, self.features, index, self.sample_budget, self.max_order
        )


class Interactions:
    """The interactions of a Fourier transform, by the names of the features, largest first.

    Attributes: interactions: {tuple of features: value}; baseline_value: that of the empty tuple.
    Raises: ValueError for an index that spectralexplain does not have, and an empty transform.
    """

    def __init__(
        self,
        fourier_transform: Mapping[tuple[int, ...], float],
        features: Sequence[Hashable],
        index: str,
        sample_budget: int | None,
        order: int | None = None,
    ) -> None:
        known: Any = INDICES.get(str(index).lower())
        check(
            known is not None,
            "Interactions: index must be one of {}, got {!r}",
            *(", ".join(INDICES), index),
        )
        transform = _transform("Interactions", fourier_transform)
        self.fourier_transform, self.features = fourier_transform, features
        self.index, self.sample_budget = index, sample_budget
        self.num_features = transform.n
        self.max_order = max(transform.degree, 1) if order is None else order
        # as there, Fourier and Moebius interactions come whole
        largest = max(transform.degree, 1) if known in ("Fourier", "Moebius") else self.max_order
        found = index_of(transform, known, min(largest, transform.n))
        self.interactions = {
            tuple(features[i] for i in subset): value
            for subset, value in sorted(found.items(), key=lambda item: -abs(item[1]))
        }
        self.is_baseline_value = () in self.interactions
        self.baseline_value = self.interactions.get((), 0)
        self.num_interactions = len(self.interactions)

    def get_interactions(self) -> dict[tuple[Hashable, ...], float]:
        return self.interactions

    def __str__(self) -> str:
        top = [(subset, value) for subset, value in self.interactions.items() if subset][:5]
        return "\n".join(
            [
                "Interactions(",
                f"    index={self.index.upper()}, max_order={self.max_order}, "
                f"baseline_value={np.round(self.baseline_value, 3)}",
                f"    sample_budget={self.sample_budget}, num_features={self.num_features},",
                "    Top Interactions:",
                *(f"\t\t{subset}: {np.round(value, 3)}" for subset, value in top),
                ")",
            ]
        )


class ExactSolver:
    """The features at which a Fourier transform is largest or smallest, proven best.

    Args:   fourier_dictionary: as Explainer.fourier_transform. maximize: or minimise.
            max_solution_order: the most features. exact_solution_order: how many; it goes first.
    Raises: ValueError for an empty dictionary; MissingExtra for over 20 features without SciPy.
    """

    def __init__(
        self,
        fourier_dictionary: Mapping[tuple[int, ...], float],
        maximize: bool = True,
        max_solution_order: int | None = None,
        exact_solution_order: int | None = None,
    ) -> None:
        self.transform = _transform("ExactSolver", fourier_dictionary)
        self.fourier_dictionary, self.maximize = fourier_dictionary, maximize
        self.max_solution_order = max_solution_order
        self.exact_solution_order = exact_solution_order

    def solve(self, **options: Any) -> list[int]:
        """A 0 or 1 for each feature; options as for SparseTransform.maximize, as time_limit."""
        search = self.transform.maximize if self.maximize else self.transform.minimize
        if self.exact_solution_order is not None:
            best = search(size=self.exact_solution_order, **options)
        else:
            best = search(at_most=self.max_solution_order, **options)
        return best.mask.astype(int).tolist()


def _transform(where: str, fourier: Mapping[tuple[int, ...], float]) -> SparseTransform:
    check(len(fourier) > 0, "{}: the Fourier transform must have a term, got none", where)
    n = len(next(iter(fourier)))
    return SparseTransform.from_dict(
        n, {tuple(np.flatnonzero(key).tolist()): float(np.real(v)) for key, v in fourier.items()}
    )


utils = SimpleNamespace(ExactSolver=ExactSolver)
