"""An algorithm as a run needs it: a plan, a fit of what has been told, further masks."""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .budget import further_masks
from .errors import check, check_int
from .explanation import Explanation
from .plan import SamplingPlan

Found = Explanation | list[Explanation]


@dataclass(frozen=True)
class Answered:
    """What a run has been told, for an algorithm to fit.

    Attributes:
        plan: the masks asked for. values: float64 (T,) or (T, q), of all its rows.
        there: bool (T,), which rows have a value; the others have 0.
        names: of the features.
        chosen: rows with a value whose masks a fit has chosen (Recipe.propose): no uniform ones.
    """

    plan: SamplingPlan
    values: Tensor
    there: np.ndarray
    names: tuple[str, ...]
    chosen: int = 0

    @property
    def whole(self) -> bool:
        return bool(self.there.all())

    def samples(self) -> tuple[Tensor, Tensor]:
        """Masks packed (rows, W) and values of the rows that have one."""
        rows = torch.from_numpy(self.there)
        return self.plan.masks(0, self.plan.total)[rows], self.values[rows]


class Recipe(abc.ABC):
    """An algorithm with its options.

    Attributes:
        name: of the algorithm. budget, seed: as asked.
        options: whatever else its masks and its result depend on, as JSON can hold it.
        many: whether a mask may have several values.
    """

    name: str
    budget: int
    seed: int
    options: Mapping[str, Any]
    many: bool = True

    @abc.abstractmethod
    def plan(self, n: int) -> SamplingPlan: ...

    @abc.abstractmethod
    def fit(self, answered: Answered, clock: Clock) -> Found:
        """The explanation of what has been told, of which something may be missing."""

    def propose(self, plan: SamplingPlan, count: int, found: Found | None) -> Tensor:
        """Up to `count` further masks that the plan does not have, packed (count, W). An adaptive
        algorithm chooses them by what the last fit found; by default they are uniform."""
        return further_masks(plan, count)


def feature_names(
    where: str, n: int | None, features: Sequence[str] | None, f: object = None
) -> tuple[str, ...]:
    """Names of the features: as given, else those of a value function; x0, x1, ... where only n is
    given."""
    if n is None and features is None:
        features = getattr(f, "features", None)
    check(
        n is not None or features is not None,
        "{}: n or features must be given, got neither",
        where,
    )
    if features is None:
        return tuple(f"x{i}" for i in range(check_int(f"{where}: n", n, 1)))
    if isinstance(features, str | bytes):
        raise TypeError(f"{where}: features must be a list of names, got {features!r}")
    names = tuple(str(name) for name in features)
    check(len(names) >= 1, "{}: features must name at least one feature, got none", where)
    check(
        n is None or n == len(names),
        "{}: features must have n = {} names, got {}",
        *(where, n, len(names)),
    )
    return names


class Clock:
    """Wall seconds by stage: `with clock("peel"): ...`."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(seconds or {})

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
