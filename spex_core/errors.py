"""Every error this package raises on purpose, beside ValueError and TypeError for bad arguments."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any


class SpexError(Exception):
    """Base of the errors below."""


class BackendUnavailable(SpexError, RuntimeError):
    """A backend was asked for by name and cannot run this op here; the message says why."""


class EvaluationError(SpexError, RuntimeError):
    """The value function raised, or returned something that is not one finite number per mask.

    Args: paid: makes (masks, values), when they are first asked for.
    Attributes:
        masks: bool (done, n), the masks whose values were paid for before the failure.
        values: float64 (done,) or (done, q), those values; NaN where a device was lost with them.
        known: (masks, values), to pass as `known=` to the call that is to go on.
        done: how many evaluations this run made. total: how many it meant to make.
    """

    def __init__(
        self,
        message: str,
        *,
        masks: Any = None,
        values: Any = None,
        done: int,
        total: int,
        paid: Callable[[], tuple[Any, Any]] | None = None,
    ):
        super().__init__(message)
        self._paid = paid or (lambda: (masks, values))
        self.done, self.total = done, total

    @functools.cached_property
    def known(self) -> tuple[Any, Any]:
        return self._paid()

    @property
    def masks(self) -> Any:
        return self.known[0]

    @property
    def values(self) -> Any:
        return self.known[1]


class EvaluationInterrupted(EvaluationError, KeyboardInterrupt):
    """Ctrl-C while the value function ran; holds what was paid for, as EvaluationError does."""


class MissingExtra(SpexError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""


class FormatError(SpexError, ValueError):
    """A result file that is damaged, not ours, or written by a newer version."""


def check(condition: bool, message: str, *got: object) -> None:
    """Raise ValueError(message.format(*got)) unless condition holds."""
    if not condition:
        raise ValueError(message.format(*got))


def check_int(name: str, value: object, least: int, most: int | None = None) -> int:
    """`value` as an int within [least, most]; bool and float are refused."""
    contract = f"{name} must be an integer >= {least}" + ("" if most is None else f" and <= {most}")
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{contract}, got {value!r}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{contract}, got {number}")
    return number
