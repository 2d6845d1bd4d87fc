"""How far a long evaluation is: a bar on a terminal or in a notebook, lines, or a log."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Status:
    """How far an evaluation is.

    Attributes:
        done, total: in `unit`, what has been spent on the model and what all of it costs.
        masks, of: the same in masks; None where nobody counts them.
        seconds: since the beginning.
        r2: of the last fit on the way, on masks it left out; None where there is none.
    """

    done: int
    total: int
    unit: str
    seconds: float
    masks: int | None = None
    of: int | None = None
    r2: float | None = None

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float:
        """Seconds, at that rate."""
        return self.seconds * (self.total / self.done - 1) if self.done else float("inf")

    def __str__(self) -> str:
        parts = [f"{self.done:,} of {self.total:,} {self.unit}"]
        rates = f"{self.rate:,.0f} a second"
        if self.masks is not None and self.unit != "masks":
            parts.insert(0, f"{self.masks:,} of {self.of:,} masks")
            each = self.masks / self.seconds if self.seconds > 0 else 0.0
            rates = f"{each:,.0f} masks and {self.rate:,.0f} {self.unit} a second"
        parts += [rates, f"{self.left:.0f} s left"]
        return ", ".join(parts + ([] if self.r2 is None else [f"R2 {self.r2:.4f}"]))


class Watcher:
    """Is shown a Status after each call of the model; `progress=` takes one.

    Args: score_every: seconds between two fits on the way, whose R2 the status then has; they take
          a tenth of the time at the most. None for no fits. unit: of what another counts.
    """

    def __init__(self, *, score_every: float | None = None, unit: str = "masks"):
        self.score_every, self.unit = score_every, unit
        self._start = time.perf_counter()

    def show(self, status: Status) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define show")

    def close(self) -> None:
        """The evaluation has ended."""

    def __call__(self, done: int, total: int) -> None:
        """Show what another counts."""
        self.show(Status(done, total, self.unit, time.perf_counter() - self._start))


class Bar(Watcher):
    """tqdm's, on a terminal or in a notebook."""

    bar: Any = None

    def show(self, status: Status) -> None:
        if self.bar is None:
            self.bar = _tqdm()(desc="model", unit=f" {status.unit}", unit_scale=True)
        self.bar.total = status.total
        told = {}
        if status.masks is not None and status.unit != "masks" and status.seconds > 0:
            told["masks/s"] = f"{status.masks / status.seconds:,.0f}"
        if status.r2 is not None:
            told["R2"] = f"{status.r2:.4f}"
        if told:
            self.bar.set_postfix(told, refresh=False)
        self.bar.update(status.done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Lines(Watcher):
    """A line on standard error for every tenth, and for every new R2."""

    tenths, r2 = 0, None

    def show(self, status: Status) -> None:
        tenths = status.done * 10 // status.total if status.total else 10
        if tenths > self.tenths or status.r2 != self.r2:
            self.tenths, self.r2 = tenths, status.r2
            print(f"spex: {status}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.tenths = 0


class Logged(Watcher):
    """A record of `logger` at most every so many seconds, for services; the status is its attribute
    `spex`. The first status and the last are logged whenever they come."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        level: int = logging.INFO,
        every: float = 30.0,
        score_every: float | None = None,
    ):
        super().__init__(score_every=score_every)
        self.logger, self.level, self.every = logger, level, every
        self.due = -float("inf")

    def show(self, status: Status) -> None:
        now = time.perf_counter()
        if now >= self.due or status.done >= status.total:
            self.due = now + self.every
            self.logger.log(self.level, "spex: %s", status, extra={"spex": status})


class Called(Watcher):
    """A function of (done, total)."""

    def __init__(self, function: Progress):
        super().__init__()
        self.function = function

    def show(self, status: Status) -> None:
        self.function(status.done, status.total)


def watcher(progress: Watcher | Progress | logging.Logger | bool | None) -> Watcher | None:
    """What `progress=` means: a Watcher; a function of (done, total); a logger; True for a bar or
    lines, whichever suits; None for nothing."""
    if progress is None or progress is False:
        return None
    if isinstance(progress, Watcher):
        return progress
    if isinstance(progress, logging.Logger):
        return Logged(progress)
    return suitable() if progress is True else Called(progress)


def suitable(*, score_every: float | None = None, unit: str = "masks") -> Watcher:
    """A bar where somebody watches and tqdm is installed, else lines."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    kind = Bar if watched and _tqdm() is not None else Lines
    return kind(score_every=score_every, unit=unit)


@contextlib.contextmanager
def progress(
    unit: str, *, quiet: bool = False, score_every: float | None = None
) -> Iterator[Watcher | None]:
    """A suitable Watcher, which is closed at the end; None if quiet."""
    if quiet:
        yield None
        return
    with contextlib.closing(suitable(score_every=score_every, unit=unit)) as watching:
        yield watching


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
