"""How long a value function is waited for, and how often it is asked again."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from .errors import check, check_int
from .given import WrongAnswer

# Errors of a program, not of a server or a network: the same call would raise them again.
PERMANENT = (
    *(WrongAnswer, TypeError, AttributeError, NameError, ImportError, NotImplementedError),
)


@dataclass(frozen=True)
class Patience:
    """How often a call that fails is made again, and how long a call may take.

    An error that is one of a program (TypeError, AttributeError, NameError, ImportError,
    NotImplementedError, an answer of the wrong shape), or has a true attribute `permanent`, ends
    the run at once. Whatever ends it, all values are kept.

    A call that takes too long counts as failed. In a thread, where it is made, it cannot be ended:
    it goes on by itself, its answer is not used, and what is asked next runs beside it. For a
    function that hangs for good, or takes its process with it, see `Isolated`, which can end it.

    Args: retries: failures in a row, less one, after which the run stops. wait: seconds before the
          second attempt, doubled for each further one, up to `longest`; a random half of it less.
          timeout: seconds that one call of f may take; None for any. Of a ValueFunction: one pack.
    """

    retries: int = 0
    wait: float = 1.0
    longest: float = 60.0
    timeout: float | None = None

    def __post_init__(self) -> None:
        check_int("Patience: retries", self.retries, 0)
        for name in ("wait", "longest"):
            value = getattr(self, name)
            check(value >= 0, "Patience: {} must be >= 0 seconds, got {}", name, value)
        check(
            self.timeout is None or self.timeout > 0,
            "Patience: timeout must be > 0 seconds or None, got {}",
            self.timeout,
        )

    def again(self, error: Exception, failures: int) -> bool:
        """Whether to go on after so many failures in a row, of which this is the last."""
        if isinstance(error, PERMANENT) or getattr(error, "permanent", False):
            return False
        return failures <= self.retries

    def pause(self, failures: int) -> float:
        """Seconds to wait then, at random, so that many callers do not come back at once."""
        return min(self.wait * 2 ** (failures - 1), self.longest) * _random.uniform(0.5, 1)


_random = random.Random()  # not that of the user

END = object()


def timed(items: Iterator[Any], seconds: float | None) -> Generator[Any, None, None]:
    """The same items, each waited for so long at most.

    Raises: TimeoutError. The iterator, which is asked in a thread of its own where there is a
            limit, is then left alone.
    """
    if seconds is None:
        yield from items
        return
    orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    threading.Thread(target=_serve, args=(items, orders, answers), daemon=True).start()
    try:
        while True:
            orders.put(True)
            try:
                item, error = answers.get(timeout=seconds)
            except queue.Empty:
                raise TimeoutError(f"no answer after {seconds:g} s") from None
            if error is not None:
                raise error
            if item is END:
                return
            yield item
    finally:
        orders.put(False)


def _serve(items: Iterator[Any], orders: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    while orders.get():
        try:
            answers.put((next(items, END), None))
        except BaseException as error:
            answers.put((None, error))
    if hasattr(items, "close"):
        items.close()
