"""Stage 2, value function x masks -> values: in batches, each distinct mask once, nothing lost on
failure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .errors import EvaluationError, EvaluationInterrupted, check
from .plan import SamplingPlan

ValueFunction = Callable[[np.ndarray], "np.ndarray | Tensor | list[float]"]
Progress = Callable[[int, int], None]

BLOCK = 1 << 14  # rows made at a time


def evaluate(
    f: ValueFunction,
    plan: SamplingPlan,
    *,
    batch_size: int = 1024,
    progress: Progress | None = None,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Tensor, int]:
    """The values of all rows of the plan, asking f for each distinct mask once.

    Args:    f: bool (batch, n) -> (batch,) finite numbers. batch_size: rows of a call at the most.
             progress: called with (evaluations done, evaluations in all) after each call.
             known: bool masks (rows, n) and their values (rows,), which are not asked for again.
    Returns: float64 (T,) and how many masks f was asked for.
    Raises:  EvaluationError if f raises or returns anything but one finite number per mask. It
             holds what was paid for; pass its `known` to go on.
    """
    keys, first, inverse = np.unique(plan.row_keys(), return_index=True, return_inverse=True)
    values = np.full(len(keys), np.nan)
    if known is not None:
        _fill_known(values, keys, plan, known)
    owed = np.zeros(plan.total, np.bool_)
    owed[first[np.isnan(values)]] = True
    slot = inverse  # row -> its place in `values`
    total, done = int(owed.sum()), 0

    for rows, batch in _batches(plan, owed, batch_size):
        try:
            answer = _numbers(f(batch), len(batch))
        except (Exception, KeyboardInterrupt) as cause:
            paid, worth = _paid(plan, owed & ~np.isnan(values[slot]), values[slot], known)
            interrupted = isinstance(cause, KeyboardInterrupt)
            raise (EvaluationInterrupted if interrupted else EvaluationError)(
                f"the value function failed after {done} of {total} evaluations "
                f"({type(cause).__name__}: {cause}); error.known holds what is done: pass it as "
                "known= to go on from there",
                masks=paid,
                values=worth,
                done=done,
                total=total,
            ) from cause
        values[slot[rows]] = answer
        done += len(rows)
        if progress is not None:
            progress(done, total)
    return torch.from_numpy(values[slot]), total


def _paid(
    plan: SamplingPlan,
    done: np.ndarray,
    values: np.ndarray,
    known: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What `known` held and what the rows marked done added to it, as masks and values."""
    masks, numbers = known or (np.zeros((0, plan.n), np.bool_), np.zeros(0))
    parts = [batch for _, batch in _batches(plan, done, BLOCK)]
    return np.concatenate([masks, *parts]), np.concatenate([numbers, values[done]])


def _batches(plan: SamplingPlan, owed: np.ndarray, size: int):
    """(rows (batch,), masks bool (batch, n)) over the owed rows, in the order of the plan."""
    for start in range(0, plan.total, BLOCK):
        rows = start + np.flatnonzero(owed[start : start + BLOCK])
        if not len(rows):
            continue
        block = plan.masks(start, min(start + BLOCK, plan.total))
        for at in range(0, len(rows), size):
            some = rows[at : at + size]
            yield some, bits.unpack(block[torch.from_numpy(some - start)], plan.n)


def _numbers(answer: object, count: int) -> np.ndarray:
    """A value function's answer as float64 (count,), or a ValueError that says what is wrong with
    it."""
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu().double().numpy()
    values = np.asarray(answer, dtype=np.float64)
    check(
        values.shape == (count,),
        "it must return one number per mask, shape ({},), got shape {}",
        *(count, values.shape),
    )
    bad = ~np.isfinite(values)
    check(
        not bad.any(),
        "it must return finite numbers, got {} for mask {} of the batch ({} of {} are not finite)",
        *(values[bad.argmax()], bad.argmax(), bad.sum(), count),
    )
    return values


def _fill_known(
    values: np.ndarray, keys: np.ndarray, plan: SamplingPlan, known: tuple[np.ndarray, np.ndarray]
) -> None:
    masks, numbers = check_samples("known", *known)
    check(
        masks.shape[1] == plan.n,
        "known: masks must have n = {} columns, got {}",
        plan.n,
        masks.shape[1],
    )
    theirs = plan.keys(bits.pack(masks))
    at = np.searchsorted(keys, theirs)
    hit = (at < len(keys)) & (keys[np.minimum(at, len(keys) - 1)] == theirs)
    values[at[hit]] = numbers[hit]


def check_samples(name: str, masks: object, values: object) -> tuple[np.ndarray, np.ndarray]:
    """bool (T, n) masks and float64 (T,) values, or an error that names what is wrong."""
    dense = masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    if dense.dtype != np.bool_:
        raise TypeError(f"{name}: masks must be bool, got {dense.dtype}")
    check(dense.ndim == 2, "{}: masks must have shape (T, n), got {}", name, dense.shape)
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    numbers = np.asarray(values, dtype=np.float64)
    check(
        numbers.shape == (len(dense),),
        "{}: values must have shape ({},), one per mask, got {}",
        *(name, len(dense), numbers.shape),
    )
    check(bool(np.isfinite(numbers).all()), "{}: values must be finite", name)
    return dense, numbers
