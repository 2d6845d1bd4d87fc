"""Stage 2, value function x masks -> values: in batches, each distinct mask once, nothing lost on
failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator

import numpy as np
from torch import Tensor

from . import masks as bits
from .errors import EvaluationError, EvaluationInterrupted, check
from .given import not_finite, numbers_of
from .ledger import Ledger
from .parts import Part
from .patience import Patience, timed
from .plan import SamplingPlan
from .progress import Progress, Status, Watcher, watcher
from .value_function import ValueFunction

SetFunction = Callable[[np.ndarray], "np.ndarray | Tensor | list[float]"]
AsyncFunction = Callable[[np.ndarray], "Awaitable[np.ndarray | Tensor | list[float]]"]
Shown = Watcher | Progress | logging.Logger | bool | None

DENSE = 1 << 15  # features unpacked at a time, or those of a batch: they stay in a cache
ONCE = Patience()


def evaluate(
    f: SetFunction,
    plan: SamplingPlan,
    *,
    batch_size: int = 1024,
    progress: Shown = None,
    known: tuple[np.ndarray, np.ndarray] | None = None,
    many: bool = False,
) -> tuple[Tensor, int]:
    """The values of all rows of the plan, asking f for each distinct mask once.

    A ValueFunction gets packed masks, in its own order and packs; anything else is called on dense
    ones, those held out first, then in the order of the plan.

    Args:    f: bool (batch, n) -> (batch,) finite numbers, or a ValueFunction.
             batch_size: rows of a call at the most; a ValueFunction has a budget of its own.
             progress: called with (evaluations done, evaluations in all) after each call; of a
             ValueFunction, what they cost in its own unit.
             known: bool masks (rows, n) and their values (rows,), which are not asked for again.
             many: whether f may have q outputs, (batch, q), and known values (rows, q).
    Returns: float64 (T,), or (T, q), and how many masks f was asked for.
    Raises:  EvaluationError if f raises or returns anything but one finite number per mask. It
             holds what was paid for; pass its `known` to go on.
    """
    ledger = Ledger(plan, many=many)
    if known is not None:
        ledger.take(*known)
    ask(f, ledger, batch_size=batch_size, progress=progress)
    return ledger.answers()[0], ledger.evaluated


def ask(
    f: SetFunction | ValueFunction,
    ledger: Ledger,
    *,
    batch_size: int = 1024,
    progress: Shown = None,
    patience: Patience = ONCE,
    score: Callable[[], float | None] | None = None,
) -> None:
    """Ask f for whatever the ledger is missing.

    Args:   progress: as `watcher` takes it. score: R2 of what is there, for a watcher that asks.
    Raises: EvaluationError if f fails more often than patience allows, or values cannot be kept,
            or progress raises.
    """
    owed = ledger.owed()
    total, before = int(owed.sum()), ledger.evaluated
    watching = watcher(progress)
    try:
        meter = None
        if watching is not None:
            unit = f.unit if isinstance(f, ValueFunction) else "masks"
            meter = Meter(watching, unit, _work(f, ledger, owed), total, score)
        with contextlib.closing(_patiently(f, ledger, batch_size, patience)) as answered:
            for part, values, cost in answered:
                ledger.put(part, values)
                if meter is not None:
                    meter.add(len(values), cost)
    except (Exception, KeyboardInterrupt) as cause:  # wherever it struck, what was paid for is kept
        raise failure(ledger, cause, ledger.evaluated - before, total) from cause
    finally:
        if watching is not None:
            watching.close()


class Meter:
    """Counts what is done, and shows it."""

    def __init__(
        self,
        watching: Watcher,
        unit: str,
        work: int,
        total: int,
        score: Callable[[], float | None] | None,
    ):
        self.watching, self.unit, self.work, self.total = watching, unit, work, total
        self.score = score if watching.score_every is not None else None
        self.start = time.perf_counter()
        self.due = self.start + (watching.score_every or 0.0)  # the next score
        self.masks = self.spent = 0
        self.r2: float | None = None

    def add(self, masks: int, cost: int) -> None:
        self.masks += masks
        self.spent += cost
        now = time.perf_counter()
        if self.score is not None and now >= self.due:
            self.r2 = self.score()
            took, now = time.perf_counter() - now, time.perf_counter()
            self.due = now + max(self.watching.score_every or 0.0, 9 * took)
        self.watching.show(
            Status(
                *(self.spent, self.work, self.unit, now - self.start),
                masks=self.masks,
                of=self.total,
                r2=self.r2,
            )
        )


def failure(
    ledger: Ledger, cause: BaseException, done: int, total: int, what: str = "evaluation"
) -> EvaluationError:
    """What to raise of a run that stops, with all that it has paid for."""
    how = "error.known holds what is done: pass it as known= to go on from there"
    if ledger.keep is not None:
        how = f"all that is done is in {ledger.keep.folder}: the same call goes on from there"
        try:
            ledger.keep.flush()
        except OSError as error:
            how = (
                f"what is done is in {ledger.keep.folder} but for the last values, which cannot "
                f"be written there ({error.strerror}); error.known holds all: pass it as known="
            )
    kind = EvaluationInterrupted if isinstance(cause, KeyboardInterrupt) else EvaluationError
    return kind(
        f"{what} failed after {done} of {total} evaluations ({type(cause).__name__}: {cause}); "
        f"{how}",
        done=done,
        total=total,
        paid=ledger.paid,
    )


def _patiently(
    f: SetFunction | ValueFunction, ledger: Ledger, batch_size: int, patience: Patience
) -> Generator[tuple[Part, np.ndarray, int], None, None]:
    """What f says, with its cost; after a failure, what is still missing is asked for again."""
    failures = 0
    while (owed := ledger.owed()).any():
        try:
            asked = timed(_asked(f, ledger, owed, batch_size), patience.timeout)
            with contextlib.closing(asked) as parts:
                for part, answer, cost in parts:
                    values, finite = numbers_of(answer, len(part.words), ledger.many)
                    if finite.all():
                        yield part, values, cost
                        failures = 0
                        continue
                    if finite.any():
                        share = cost * int(finite.sum()) // len(finite)
                        yield part.where(finite), values[finite], share
                    raise not_finite(values, finite)
            return
        except Exception as error:
            failures += 1
            ledger.failed += 1
            if not patience.again(error, failures):
                raise
        time.sleep(patience.pause(failures))


def _asked(
    f: SetFunction | ValueFunction, ledger: Ledger, owed: np.ndarray, batch_size: int
) -> Iterator[tuple[Part, object, int]]:
    """(a part of the plan, what f said of it, what that cost) until no owed row is left."""
    if not isinstance(f, ValueFunction):
        for part, batch in batches(ledger, owed, batch_size):
            yield part, f(batch), len(batch)
        return
    check(f.n == ledger.plan.n, "it must have n = {} features, got {}", ledger.plan.n, f.n)
    for block in ledger.blocks(owed, whole=f.order == "prefix"):
        left = ledger.still_owed(*block)
        before = len(f.censored)
        with contextlib.closing(f.stream(left.masks.clone())) as packs:
            for at, values in packs:
                part, censored = left.where(at), f.censored
                if len(censored) > before:
                    fresh = ledger.plan.keys(censored[before:])
                    marks = np.isin(ledger.plan.keys(part.masks), fresh)
                    part, before = part._replace(marks=marks), len(censored)
                yield part, values, int(f.cost(part.masks).sum())


def batches(ledger: Ledger, owed: np.ndarray, size: int) -> Iterator[tuple[Part, np.ndarray]]:
    """(a part of the plan, its masks bool (batch, n)) over owed rows, in the order of asking."""
    n = ledger.plan.n
    some = size * max(1, DENSE // (n * size))
    for block in ledger.blocks(owed):
        left = ledger.still_owed(*block)
        for start in range(0, len(left.words), some):
            chunk = left.slice(start, start + some)
            dense = bits.unpack_words(chunk.words, n)
            for at in range(0, len(dense), size):
                yield chunk.slice(at, at + size), dense[at : at + size]


def _work(f: SetFunction | ValueFunction, ledger: Ledger, owed: np.ndarray) -> int:
    """What all owed rows cost, in the unit of f."""
    if not isinstance(f, ValueFunction):
        return int(owed.sum())
    return sum(int(f.cost(masks).sum()) for _, masks in ledger.blocks(owed))


async def ask_async(
    f: AsyncFunction,
    ledger: Ledger,
    *,
    batch_size: int,
    concurrency: int,
    patience: Patience = ONCE,
) -> AsyncGenerator[tuple[np.ndarray, np.ndarray], None]:
    """The same of a coroutine function, so many calls at a time: (masks, values) of each call, as
    they are done and in the ledger.

    Raises: EvaluationError as `ask`, once the calls under way have ended and are kept too.
    """
    total, before = ledger.missing, ledger.evaluated
    source = batches(ledger, ledger.owed(), batch_size)
    under_way: set[asyncio.Task] = set()
    try:
        while True:
            while len(under_way) < concurrency and (batch := next(source, None)) is not None:
                under_way.add(asyncio.ensure_future(_attempts(f, ledger, *batch, patience)))
            if not under_way:
                return
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    except Exception as cause:
        await asyncio.gather(*under_way, return_exceptions=True)
        raise failure(ledger, cause, ledger.evaluated - before, total) from cause
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _attempts(
    f: AsyncFunction, ledger: Ledger, part: Part, dense: np.ndarray, patience: Patience
) -> tuple[np.ndarray, np.ndarray]:
    """One batch, until each of its masks has a value."""
    left, asked, failures = part, dense, 0
    while True:
        try:
            answer = await asyncio.wait_for(f(asked.copy()), patience.timeout)
            values, finite = numbers_of(answer, len(asked), ledger.many)
        except Exception as error:
            failure = error
        else:
            if finite.all():
                ledger.put(left, values)
                return dense, ledger.values_of(part)
            ledger.put(left.where(finite), values[finite])
            failure = not_finite(values, finite)
            left, asked = left.where(~finite), asked[~finite]
        failures += 1
        ledger.failed += 1
        if not patience.again(failure, failures):
            raise failure
        await asyncio.sleep(patience.pause(failures))
