"""SPEX, ProxySPEX and GPSPEX as approximators of shapiq, wherever it takes one.

    from spex_core.interop.shapiq import ProxySPEX
    shapiq.TabularExplainer(model, data, approximator=ProxySPEX(n=30, index="FBII", max_order=2))

Importing this module imports shapiq, since its explainers take only subclasses of its Approximator.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..budget import least_budget
from ..errors import check, check_int
from ..evaluate import SetFunction
from ..explanation import Explanation
from ..gpspex import gpspex
from ..proxyspex import proxyspex
from ..shapiq_values import NAMES, from_shapiq, import_shapiq, to_shapiq
from ..spex import spex
from .games import to_game

if TYPE_CHECKING:
    from shapiq import Game, InteractionValues

__all__ = ["GPSPEX", "SPEX", "ProxySPEX", "from_shapiq", "to_game", "to_shapiq"]

shapiq = import_shapiq()
Approximator: Any = shapiq.approximator.Approximator

# Defaults differ between versions of shapiq: ours are those of the one that is installed.
_defaults = {
    name: parameter.default for name, parameter in inspect.signature(shapiq.SPEX).parameters.items()
}
INDEX, MAX_ORDER = _defaults["index"], _defaults["max_order"]


class Spectral(Approximator, abc.ABC):
    """What the three have in common: a run, then an index of its transform.

    Attributes:
        explanation: of the last run, with its report and its transform; None before.
        degree_parameter: the largest order of a Fourier term.
    """

    valid_indices = NAMES
    transform_type = "fourier"

    def __init__(
        self,
        n: int,
        index: str,
        max_order: int | None,
        top_order: bool,
        random_state: int | None,
        degree_parameter: int,
    ) -> None:
        name = type(self).__name__
        n = check_int(f"{name}: n", n, 1)
        max_order = n if max_order is None else check_int(f"{name}: max_order", max_order, 1, n)
        self.degree_parameter = check_int(f"{name}: degree_parameter", degree_parameter, 1)
        self.explanation: Explanation | None = None
        super().__init__(
            n=n,
            max_order=1 if index in ("SV", "BV") else max_order,
            index=index,
            top_order=top_order,
            random_state=random_state,
            sampling_weights=np.ones(n + 1),  # not used; shapiq's own overflow beyond 1,029
            initialize_dict=False,  # not the sets up to max_order, of which there are too many
        )

    def approximate(
        self, budget: int, game: Game | Callable[[np.ndarray], np.ndarray], **_: Any
    ) -> InteractionValues:
        """The index from at most `budget` calls of `game`, bool (batch, n) -> (batch,)."""
        found = self._run(lambda masks: np.asarray(game(masks), np.float64), budget, self._seed())
        self.explanation = found
        values = to_shapiq(
            found.transform,
            self.index,
            self.max_order,
            top_order=self.top_order,
            budget=found.report.used,
        )
        self._interaction_lookup = values.interaction_lookup
        return values

    def _seed(self) -> int:
        state = self._random_state
        return int(self._rng.integers(2**63)) if state is None else int(state)

    @abc.abstractmethod
    def _run(self, f: SetFunction, budget: int, seed: int) -> Explanation: ...


class SPEX(Spectral):
    """SPEX with the constructor of shapiq's.

    A budget too small for degree_parameter lowers it, to 2 at the least, as shapiq's does; the
    warnings of explanation.report then say so. The budget is used up, and the seed is honoured.
    """

    def __init__(
        self,
        *,
        n: int,
        index: str = INDEX,
        max_order: int | None = MAX_ORDER,
        top_order: bool = False,
        random_state: int | None = None,
        decoder_type: str = "soft",
        degree_parameter: int = 5,
    ) -> None:
        self.decoder_type = str(decoder_type).lower()
        check(
            self.decoder_type in ("soft", "hard"),
            "SPEX: decoder_type must be 'soft' or 'hard', got {!r}",
            decoder_type,
        )
        super().__init__(n, index, max_order, top_order, random_state, degree_parameter)

    def _run(self, f: SetFunction, budget: int, seed: int) -> Explanation:
        asked = self.degree_parameter
        while self.degree_parameter > 2 and least_budget(self.n, self.degree_parameter) > budget:
            self.degree_parameter -= 1
        found = spex(
            f,
            self.n,
            budget=budget,
            degree=self.degree_parameter,
            decoder=self.decoder_type,
            seed=seed,
        )
        assert isinstance(found, Explanation)  # a game has one output
        if self.degree_parameter < asked:
            found.report.warnings.append(
                f"degree_parameter lowered from {asked} to {self.degree_parameter}: budget "
                f"{budget:,} is below {least_budget(self.n, asked):,}, the least for {asked}"
            )
        return found


class ProxySPEX(Spectral):
    """ProxySPEX with the constructor of shapiq's; no LightGBM is needed.

    preset: "default" or "paper", as in proxyspex(). What newer versions of shapiq choose about
    trees and sampling may be given as it stands there, and nothing else: both are fixed here.
    """

    def __init__(
        self,
        *,
        n: int,
        index: str = INDEX,
        max_order: int | None = MAX_ORDER,
        top_order: bool = False,
        random_state: int | None = None,
        preset: str = "default",
        degree_parameter: int = 5,
        **fixed: Any,
    ) -> None:
        theirs = inspect.signature(shapiq.ProxySPEX).parameters
        for name, value in fixed.items():
            if name not in theirs:
                raise TypeError(f"ProxySPEX: there is no argument {name!r}")
            default = theirs[name].default
            check(
                type(value) is type(default) and value == default,
                "ProxySPEX: {} must be {!r}, what it is here, got {!r}",
                *(name, default, value),
            )
        check(
            preset in ("default", "paper"),
            "ProxySPEX: preset must be 'default' or 'paper', got {!r}",
            preset,
        )
        self.preset, self.decoder_type = preset, "proxyspex"
        super().__init__(n, index, max_order, top_order, random_state, degree_parameter)

    def _run(self, f: SetFunction, budget: int, seed: int) -> Explanation:
        found = proxyspex(
            f, self.n, budget=budget, preset=self.preset, degree=self.degree_parameter, seed=seed
        )
        return cast(Explanation, found)  # a game has one output


class GPSPEX(Spectral):
    """GPSPEX, for budgets up to a few thousand, with the constructor of the other two."""

    def __init__(
        self,
        *,
        n: int,
        index: str = INDEX,
        max_order: int | None = MAX_ORDER,
        top_order: bool = False,
        random_state: int | None = None,
        preset: str = "default",
        degree_parameter: int = 5,
    ) -> None:
        check(
            preset in ("default", "pure"),
            "GPSPEX: preset must be 'default' or 'pure', got {!r}",
            preset,
        )
        self.preset = preset
        super().__init__(n, index, max_order, top_order, random_state, degree_parameter)

    def _run(self, f: SetFunction, budget: int, seed: int) -> Explanation:
        found = gpspex(
            f, self.n, budget=budget, preset=self.preset, degree=self.degree_parameter, seed=seed
        )
        return cast(Explanation, found)  # a game has one output
