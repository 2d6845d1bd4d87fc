"""Value functions as other libraries call them: a shapiq Game, a forward of captum's kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import check, check_int
from ..evaluate import SetFunction
from ..shapiq_values import import_shapiq
from ..value_function import ValueFunction

if TYPE_CHECKING:
    from shapiq import Game


def to_game(
    f: SetFunction,
    n: int | None = None,
    *,
    features: Sequence[str] | None = None,
    normalize: bool = False,
) -> Game:
    """A value function as a shapiq Game, for its approximators, explainers and exact computer.

    Args:   f: bool (batch, n) -> (batch,), or a ValueFunction, which knows its n.
            features: names of the players. normalize: subtract the value of the empty coalition.
    Raises: TypeError, ValueError for an f that is not callable or has several outputs, and for an n
            that f does not have; MissingExtra without shapiq.
    """
    shapiq: Any = import_shapiq()
    players = _players("to_game", f, n, features)

    class ValueFunctionGame(shapiq.Game):
        """The game of one value function."""

        def value_function(self, coalitions: np.ndarray) -> np.ndarray:
            return _one_output("to_game", f, np.asarray(coalitions, bool))

    empty = float(_one_output("to_game", f, np.zeros((1, players), bool))[0]) if normalize else None
    return ValueFunctionGame(
        players,
        normalize=normalize,
        normalization_value=empty,
        player_names=None if features is None else list(features),
    )


def to_forward(f: SetFunction, n: int | None = None) -> Callable[[Tensor], Tensor]:
    """A value function as captum's ablation and sampling methods call one.

    Their inputs are ones and their baselines zeros, so a row of floats says which features are
    there: `ShapleyValueSampling(to_forward(f)).attribute(torch.ones(1, n))`.

    Args:    f: bool (batch, n) -> (batch,) or (batch, q), or a ValueFunction.
    Returns: forward(x): (batch, n) of zeros and ones on any device -> float32 on that device.
    Raises:  TypeError, ValueError as to_game; forward does for inputs other than zeros and ones.
    """
    players = _players("to_forward", f, n, None)

    def forward(inputs: Tensor) -> Tensor:
        check(
            inputs.ndim == 2 and inputs.shape[1] == players,
            "to_forward: inputs must have shape (batch, {}), got {}",
            *(players, tuple(inputs.shape)),
        )
        present = inputs.detach() != 0
        check(
            bool((inputs.detach() == present).all()),
            "to_forward: inputs must be zeros and ones; attribute torch.ones(1, {}), baselines 0",
            players,
        )
        values = f(present.cpu().numpy())
        values = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
        return values.to(inputs.device, torch.float32)

    return forward


def _players(where: str, f: SetFunction, n: int | None, features: Sequence[str] | None) -> int:
    if not callable(f):
        raise TypeError(f"{where}: f must be callable, got {type(f).__name__}")
    known = {
        *([] if n is None else [check_int(f"{where}: n", n, 1)]),
        *([] if features is None else [len(features)]),
        *([f.n] if isinstance(f, ValueFunction) else []),
    }
    check(
        len(known) == 1,
        "{}: n, features and f must give one number of features, got {}",
        *(where, sorted(known) or "none"),
    )
    return known.pop()


def _one_output(where: str, f: SetFunction, masks: np.ndarray) -> np.ndarray:
    values = f(masks)
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    check(
        values.shape == (len(masks),),
        "{}: f must return one number per mask, ({},), got shape {}",
        *(where, len(masks), values.shape),
    )
    return values.astype(np.float64)
