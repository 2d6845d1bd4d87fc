"""Stage 2, value function x masks -> values: in batches, each distinct mask once, nothing lost on
failure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .errors import EvaluationError, EvaluationInterrupted, check
from .plan import SamplingPlan
from .value_function import ValueFunction

SetFunction = Callable[[np.ndarray], "np.ndarray | Tensor | list[float]"]
Progress = Callable[[int, int], None]

BLOCK = 1 << 14  # rows made at a time


def evaluate(
    f: SetFunction,
    plan: SamplingPlan,
    *,
    batch_size: int = 1024,
    progress: Progress | None = None,
    known: tuple[np.ndarray, np.ndarray] | None = None,
    many: bool = False,
) -> tuple[Tensor, int]:
    """The values of all rows of the plan, asking f for each distinct mask once.

    A ValueFunction gets packed masks, in its own order and packs; anything else is called on dense
    ones in the order of the plan.

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
    # slot: row -> its place in `values`
    keys, first, slot = np.unique(plan.row_keys(), return_index=True, return_inverse=True)
    answers = _Answers(len(keys))
    if known is not None:
        known = check_samples("known", *known, many=many)
        _fill_known(answers, keys, plan, *known)
    owed = np.zeros(plan.total, np.bool_)
    owed[first[~answers.there]] = True
    total, done = int(owed.sum()), 0

    try:
        spent, work = 0, total if progress is None else _work(f, plan, owed)
        with contextlib.closing(_asked(f, plan, owed, batch_size)) as answered:
            for rows, answer, cost in answered:
                answers.put(slot[rows], _numbers(answer, len(rows), many))
                done, spent = done + len(rows), spent + cost
                if progress is not None:
                    progress(spent, work)
    except (Exception, KeyboardInterrupt) as cause:  # wherever it struck, what was paid for is kept
        paid, worth = _paid(plan, answers, slot, owed & answers.there[slot], known)
        interrupted = isinstance(cause, KeyboardInterrupt)
        raise (EvaluationInterrupted if interrupted else EvaluationError)(
            f"evaluation failed after {done} of {total} evaluations "
            f"({type(cause).__name__}: {cause}); error.known holds what is done: pass it as "
            "known= to go on from there",
            masks=paid,
            values=worth,
            done=done,
            total=total,
        ) from cause
    return torch.from_numpy(answers.values[slot]), total


def _asked(
    f: SetFunction | ValueFunction, plan: SamplingPlan, owed: np.ndarray, batch_size: int
) -> Generator[tuple[np.ndarray, object, int], None, None]:
    """(rows of the plan, what f said of them, what that cost) until no owed row is left."""
    if not isinstance(f, ValueFunction):
        for rows, batch in _batches(plan, owed, batch_size):
            yield rows, f(batch), len(rows)
        return
    check(f.n == plan.n, "it must have n = {} features, got {}", plan.n, f.n)
    for rows, masks in _blocks(plan, owed, whole=f.order == "prefix"):
        with contextlib.closing(f.stream(masks)) as packs:
            for at, values in packs:
                yield rows[at], values, int(f.cost(masks[torch.from_numpy(at)]).sum())


def _work(f: SetFunction | ValueFunction, plan: SamplingPlan, owed: np.ndarray) -> int:
    """What all owed rows cost, in the unit of f."""
    if not isinstance(f, ValueFunction):
        return int(owed.sum())
    return sum(int(f.cost(masks).sum()) for _, masks in _blocks(plan, owed))


class _Answers:
    """One answer for each of `count` masks, a number or q of them: the first says which."""

    def __init__(self, count: int):
        self.there = np.zeros(count, np.bool_)
        self.values: Any = None  # float64 (count,) or (count, q), once there is one

    def put(self, at: np.ndarray, numbers: np.ndarray) -> None:
        if self.values is None:
            self.values = np.zeros((len(self.there), *numbers.shape[1:]))
        check(
            numbers.shape[1:] == self.values.shape[1:],
            "it must return as many outputs as before, shape {}, got shape {}",
            *((len(numbers), *self.values.shape[1:]), numbers.shape),
        )
        self.values[at] = numbers
        self.there[at] = True


def _paid(
    plan: SamplingPlan,
    answers: _Answers,
    slot: np.ndarray,
    done: np.ndarray,
    known: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What `known` held and what the rows marked done added to it, as masks and values."""
    masks, numbers = known or (np.zeros((0, plan.n), np.bool_), np.zeros(0))
    if not done.any():
        return masks, numbers
    fresh, values = [batch for _, batch in _batches(plan, done, BLOCK)], answers.values[slot[done]]
    if not len(masks):  # whose values have a shape of their own
        return np.concatenate(fresh), values
    return np.concatenate([masks, *fresh]), np.concatenate([numbers, values])


def _batches(
    plan: SamplingPlan, owed: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows (batch,), masks bool (batch, n)) over the owed rows, in the order of the plan."""
    for rows, masks in _blocks(plan, owed):
        for at in range(0, len(rows), size):
            yield rows[at : at + size], bits.unpack(masks[at : at + size], plan.n)


def _blocks(
    plan: SamplingPlan, owed: np.ndarray, *, whole: bool = False
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(rows (k,), packed masks (k, W)) over the owed rows, in the order of the plan; all in one
    where `whole`, as masks that share prefixes can only be neighbours in one block."""
    blocks = (
        (rows, plan.masks(start, min(start + BLOCK, plan.total))[torch.from_numpy(rows - start)])
        for start in range(0, plan.total, BLOCK)
        if len(rows := start + np.flatnonzero(owed[start : start + BLOCK]))
    )
    if not whole:
        yield from blocks
    elif parts := list(blocks):
        yield np.concatenate([rows for rows, _ in parts]), torch.cat([masks for _, masks in parts])


def _numbers(answer: object, count: int, many: bool) -> np.ndarray:
    """A value function's answer as float64 (count,) or, if many, (count, q); or a ValueError that
    says what is wrong with it."""
    values = _array(answer)
    check(
        _is_per_mask(values.shape, count, many),
        "it must return one number per mask, shape ({},){}, got shape {}",
        *(count, f" or ({count}, outputs)" if many else "", values.shape),
    )
    if values.dtype.kind == "c":
        raise TypeError(f"it must return real numbers, got {values.dtype}")
    values = values.astype(np.float64)
    bad = ~np.isfinite(values).reshape(count, -1).all(1)
    check(
        not bad.any(),
        "it must return finite numbers, got {} for mask {} of the batch ({} of {} are not finite)",
        *(values[bad.argmax()], bad.argmax(), bad.sum(), count),
    )
    return values


def _array(numbers: Any) -> np.ndarray:
    """A tensor of any kind and device, or what NumPy can make an array of."""
    if isinstance(numbers, Tensor):
        numbers = numbers.detach().cpu()
        numbers = numbers.numpy() if numbers.is_complex() else numbers.double().numpy()
    return np.asarray(numbers)


def _is_per_mask(shape: tuple[int, ...], count: int, many: bool) -> bool:
    return shape == (count,) or (many and len(shape) == 2 and shape[0] == count and shape[1] > 0)


def _fill_known(
    answers: _Answers, keys: np.ndarray, plan: SamplingPlan, masks: np.ndarray, numbers: np.ndarray
) -> None:
    check(
        masks.shape[1] == plan.n,
        "known: masks must have n = {} columns, got {}",
        plan.n,
        masks.shape[1],
    )
    theirs = plan.keys(bits.pack(masks))
    at = np.searchsorted(keys, theirs)
    hit = (at < len(keys)) & (keys[np.minimum(at, len(keys) - 1)] == theirs)
    if len(masks):
        answers.put(at[hit], numbers[hit])


def check_samples(
    name: str, masks: object, values: object, *, many: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """bool (T, n) masks and float64 (T,) values or, if many, (T, q); or an error that names what is
    wrong."""
    dense = masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    if dense.dtype != np.bool_:
        raise TypeError(f"{name}: masks must be bool, got {dense.dtype}")
    check(dense.ndim == 2, "{}: masks must have shape (T, n), got {}", name, dense.shape)
    check(dense.shape[1] > 0, "{}: masks must have a feature, got shape {}", name, dense.shape)
    try:
        numbers = _array(values)
        if numbers.dtype.kind not in "biufO":
            raise TypeError(f"got {numbers.dtype}")
        numbers = numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: values must be real numbers, {error}") from None
    check(
        _is_per_mask(numbers.shape, len(dense), many),
        "{}: values must have shape ({},), one per mask{}, got {}",
        *(name, len(dense), f", or ({len(dense)}, outputs)" if many else "", numbers.shape),
    )
    check(bool(np.isfinite(numbers).all()), "{}: values must be finite", name)
    return dense, numbers
