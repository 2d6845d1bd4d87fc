"""L-BFGS for a smooth function of a few hundred numbers whose every value costs a factorisation.

torch.optim has one too, but its first call imports the compiler of torch, over a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

LONGEST = 2.0  # change of a coordinate in one step: they are logarithms
ARMIJO = 1e-4  # share of the fall that the slope promises which a step has to bring
HALVINGS = 8


def minimise(
    objective: Callable[[Tensor], tuple[float, Tensor]], start: Tensor, *, steps: int, least: float
) -> Tensor:
    """The best point after so many steps, or after one that lowers the objective by less than
    `least`.

    Args:   objective: point (p,) -> (value, gradient). A value of infinity or NaN is never taken.
    Source: Nocedal and Wright, Numerical Optimization, algorithm 7.4.
    """
    point = start
    value, slope = objective(point)
    moves: list[Tensor] = []
    turns: list[Tensor] = []  # of the gradient
    for _ in range(steps):
        direction = -_inverse_hessian(slope, moves, turns)
        promised = float(direction @ slope)
        if not promised < 0:
            break
        length = min(1.0, LONGEST / float(direction.abs().max()))
        for _ in range(HALVINGS):
            new_value, new_slope = objective(point + length * direction)
            if new_value <= value + ARMIJO * length * promised:  # False for NaN
                break
            length *= _shorter(new_value - value, length * promised)
        else:
            break
        move, turn = length * direction, new_slope - slope
        if float(move @ turn) > 1e-10 * float(turn @ turn):
            moves.append(move)
            turns.append(turn)
        fell = value - new_value
        point, value, slope = point + move, new_value, new_slope
        if fell < least:
            break
    return point


def _shorter(rise: float, promised: float) -> float:
    """Where the parabola through value, slope and the value at the end of a step is least, as a
    share of that step; within [1/10, 1/2]."""
    if not math.isfinite(rise):
        return 0.1
    return min(max(-0.5 * promised / (rise - promised), 0.1), 0.5)


def _inverse_hessian(slope: Tensor, moves: list[Tensor], turns: list[Tensor]) -> Tensor:
    """The two-loop recursion; before the first step a gradient of length at most one."""
    if not moves:
        return slope / max(1.0, float(slope.norm()))
    out, shares = slope.clone(), []
    for move, turn in zip(reversed(moves), reversed(turns), strict=True):
        shares.append(float(move @ out) / float(move @ turn))
        out -= shares[-1] * turn
    out *= float(moves[-1] @ turns[-1]) / float(turns[-1] @ turns[-1])
    for move, turn, share in zip(moves, turns, reversed(shares), strict=True):
        out += (share - float(turn @ out) / float(move @ turn)) * move
    return out
