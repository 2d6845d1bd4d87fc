"""SPEX on a device: masks, values, bins, support and refit stay where the value function is.

The columns and delays of the plan go there once, the terms and two scores come back, and
`Transfers` counts both. Beside that the host reads single numbers that say what comes next: how
many terms there are, whether a fit is done.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .alias import alias
from .backend import Backend
from .budget import most_masks
from .codes import MAX_N
from .errors import EvaluationError, check, check_int
from .peel import peel_many, precision, with_constant
from .plan import SamplingPlan, first_rows
from .refine import least_squares
from .shrink import with_low_orders
from .transfers import Transfers, down, up
from .transform import SparseTransform
from .value_function import ValueFunction

DeviceFunction = Callable[[Tensor], Tensor]  # bool (batch, n) -> (batch,) or (batch, q)
PlanMaker = Callable[[torch.device | None], SamplingPlan]  # on a device, or on the host

MOST_LINEAR = 4096  # features up to which a linear fit takes its Gram matrix
STEPS = 50  # of conjugate gradients


@dataclass
class Fitted:
    """One output: its transform, and R2 of that and of a linear fit on the masks held out."""

    transform: SparseTransform
    r2: float
    r2_linear: float


@dataclass
class Run:
    """What `run` found: outputs, whether f has several, the plan, masks asked for, bytes moved."""

    outputs: list[Fitted]
    several: bool
    plan: SamplingPlan
    used: int
    moved: dict[str, int]


def run(
    f: DeviceFunction | ValueFunction,
    n: int,
    plan: PlanMaker,
    device: torch.device,
    clock: Callable[[str], AbstractContextManager],
    *,
    budget: int,
    decoder: str,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
    backend: Backend,
) -> Run:
    """From a plan of a budget to its transforms, on the device.

    Raises: MemoryError, before f is called, if the device has too little room for the run;
            EvaluationError; torch.OutOfMemoryError, and no result, where it runs out all the same.
    """
    # The masks in two orders, and the values in their forms.
    total = most_masks(check_int("n", n, 1, MAX_N), check_int("budget", budget, 1))
    check_room("spex", total, n, total * (16 * bits.words(n) + 96), device)
    transfers = Transfers(device)
    with clock("plan"), transfers:
        there = plan(device)
    how: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    with clock("evaluate"):
        values, used = evaluate(f, there, transfers, plan, **how)
    with clock("fit"), transfers:
        rows = values.T if values.ndim == 2 else values[None]
        outputs = fit_plan(there, rows, transfers, decoder=decoder, backend=backend)
    return Run(outputs, values.ndim == 2, there, used, transfers.moved)


def usable_device(
    where: str, device: torch.device | str, f: object, given: dict[str, object]
) -> torch.device:
    """The device, checked against what else was asked for; `where` is the public function."""
    try:
        device = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = f"{where}: device must be one that torch has, got {device} ({error})"
        raise ValueError(reason) from None
    if device.type != "cpu" and isinstance(f, ValueFunction) and f.device != device:
        takes = "the host" if f.device is None else str(f.device)
        raise TypeError(
            f"{where}: f must be a callable on tensors of {device}, or a ValueFunction that takes "
            f"its masks there, got {type(f).__name__}, which takes them on {takes}"
        )
    for name, value in given.items():
        check(
            device.type == "cpu" or value is None,
            "{}: {} must be None on {}",
            *(where, name, device),
        )
    return device


def check_progress(where: str, progress: object, device: torch.device) -> None:
    check(
        progress is None or (callable(progress) and not isinstance(progress, bool)),
        "{}: progress must be None or a function of (done, total) on {}, got {!r}",
        *(where, device, progress),
    )


def check_room(where: str, masks: int, n: int, need: int, device: torch.device) -> None:
    """Raises MemoryError where the device has not `need` bytes left."""
    free = free_bytes(device)
    if free is not None and need > free:
        raise MemoryError(
            f"{where}: {masks:,} masks of {n:,} features need about {need / 1e9:.1f} GB on "
            f"{device}, which has {free / 1e9:.1f} GB left: ask for fewer evaluations"
        )


def free_bytes(device: torch.device) -> int | None:
    """What can still be allocated on a device, what torch keeps for itself included; None where
    nobody says."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def evaluate(
    f: DeviceFunction | ValueFunction,
    plan: SamplingPlan,
    transfers: Transfers,
    maker: PlanMaker,
    *,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, int]:
    """The values of all rows of a plan that is on the device, each distinct mask asked for once.

    Args:    maker: makes the plan anew on the host, should f fail.
    Returns: float64 (T,) or (T, q) on the device, and how many masks f was asked for.
    Raises:  EvaluationError if f raises or returns anything but numbers of the device, one or q a
             mask; or, after the last, if one is not finite.
    """
    first, slot = first_rows(plan.row_names())
    rows = first.sort()[0]
    answers: Tensor | None = None
    paid, done = [np.zeros(0, np.int64)], 0
    try:
        with transfers, contextlib.closing(asked(f, plan, rows, batch_size)) as parts:
            for at, found in parts:
                there = at if isinstance(at, slice) else up(torch.from_numpy(at), rows.device)
                answers = put(answers, slot[rows[there]], found, len(rows))
                paid.append(np.arange(at.start, at.stop) if isinstance(at, slice) else at)
                done += len(paid[-1])
                if progress is not None:
                    progress(done, len(rows))
        assert answers is not None  # a plan has a mask at least
        check(bool(answers.isfinite().all()), "values must be finite")
    except Exception as cause:
        values, lost = kept_answers(answers, transfers)
        raise EvaluationError(
            f"evaluation failed after {done} of {len(rows)} evaluations "
            f"({type(cause).__name__}: {cause}){lost}",
            paid=functools.partial(paid_for, maker, values, np.concatenate(paid)),
            done=done,
            total=len(rows),
        ) from cause
    return answers[slot], len(rows)


def asked(
    f: DeviceFunction | ValueFunction, plan: SamplingPlan, rows: Tensor, batch_size: int
) -> Generator[tuple[slice | np.ndarray, Tensor], None, None]:
    """What f says of the masks of these rows, a part at a time: which of them, and the answer.

    A function is asked for the rows of a batch, a ValueFunction in packs of its own, of all rows.
    """
    if isinstance(f, ValueFunction):
        yield from f.stream_on(plan.masks(0, plan.total)[rows])
        return
    starts = range(0, plan.total, batch_size)
    edges = torch.arange(0, plan.total + batch_size, batch_size, device=rows.device)
    ends = down(torch.searchsorted(rows, edges.clamp(max=plan.total))).tolist()
    for start, (begin, end) in zip(starts, pairwise(ends), strict=True):
        if begin < end:
            block = plan.masks(start, min(start + batch_size, plan.total))
            own = slice(begin, end)
            yield own, f(bits.unpack_there(block[rows[own] - start], plan.n))


def kept_answers(answers: Tensor | None, transfers: Transfers) -> tuple[Tensor, str]:
    """The answers on the host after a failure, and what to say where the device, which may be what
    failed, does not give them back: then they are NaN."""
    if answers is None:
        return torch.zeros(0, dtype=torch.float64), ""
    try:
        return transfers.down(answers), ""
    except Exception as error:
        text = f"; the device does not give the values back ({type(error).__name__}: {error})"
        return torch.full(answers.shape, torch.nan, dtype=torch.float64), text


def paid_for(maker: PlanMaker, answers: Tensor, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The masks asked for, bool (done, n), `at` of the distinct ones in the order of their rows,
    and their values, float64 (done,) or (done, q), of answers in the order of their names. It asks
    the device for nothing: the plan is made again on the host, where it is the same."""
    plan = maker(None)
    first, slot = first_rows(plan.row_names())
    if not len(at):
        return np.zeros((0, plan.n), np.bool_), np.zeros(0)
    rows = first.sort()[0][torch.from_numpy(at)]
    packed = plan.masks(0, int(rows.max()) + 1)[rows]
    return bits.unpack(packed, plan.n), answers[slot[rows]].numpy()


def put(answers: Tensor | None, at: Tensor, found: Tensor, count: int) -> Tensor:
    """answers (count,) or (count, q), made by the first, with what was found at `at`."""
    device = at.device
    ok = isinstance(found, Tensor) and found.device == device and found.ndim in (1, 2)
    what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    check(
        ok and len(found) == len(at) and (answers is None or found.shape[1:] == answers.shape[1:]),
        "f must return a tensor on {} of shape ({},) or ({}, q), got {}",
        *(device, len(at), len(at), what),
    )
    if answers is None:
        answers = torch.zeros(count, *found.shape[1:], dtype=torch.float64, device=device)
    answers[at] = found.double()
    return answers


def fit_plan(
    plan: SamplingPlan,
    values: Tensor,
    transfers: Transfers,
    *,
    decoder: str = "soft",
    backend: Backend = "auto",
) -> list[Fitted]:
    """spex.fit_plan for each of q outputs, values (q, T), on the device: transformed and decoded in
    one call, each as it would be alone."""
    end = plan.total - plan.holdout
    masks = plan.masks(0, plan.total)
    held = slice(end, None) if plan.holdout else slice(None)
    bins, dtypes = alias(values, plan, backend=backend), [precision(own) for own in values]
    found = peel_many(bins, plan, decoder=decoder, dtypes=dtypes, backend=backend)
    out = []
    for own, terms in zip(values, found, strict=True):
        support, coefs = with_constant(*terms, plan.n)
        if plan.code is not None:
            coefs = least_squares(masks[:end], own[:end], support)
            support, coefs = with_low_orders(plan, own, support, coefs)
        singles, linear = linear_fit(masks[:end], own[:end], plan.n)
        fits = (support, coefs), (singles, linear)
        r2, r2_linear = (r_squared(own[held], ops.parity_predict(masks[held], *x)) for x in fits)
        scores = transfers.down(torch.stack([r2, r2_linear])).tolist()
        transform = SparseTransform(plan.n, transfers.down(support), transfers.down(coefs))
        out.append(Fitted(transform, *scores))
    return out


def linear_fit(masks: Tensor, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Least squares on the constant and the single features: their sets, and coefficients."""
    feature = torch.arange(n, device=masks.device)
    support = masks.new_zeros(1 + n, bits.words(n))
    support[1 + feature, feature // 64] = torch.ones_like(feature) << feature % 64
    if n <= MOST_LINEAR:
        return support, least_squares(masks, values, support)
    x = torch.zeros(1 + n, dtype=torch.float64, device=masks.device)
    slope = ops.parity_adjoint(masks, support, values)
    step, size = slope, slope @ slope
    goal = 1e-24 * size
    for _ in range(STEPS):
        if bool(size <= goal):
            break
        turned = ops.parity_adjoint(masks, support, ops.parity_predict(masks, support, step))
        length = size / (step @ turned)
        x, slope = x + length * step, slope - length * turned
        before, size = size, slope @ slope
        step = slope + size / before * step
    return support, x


def r_squared(values: Tensor, fit: Tensor) -> Tensor:
    """transform.r2, on the device."""
    spread = values - values.mean()
    unit = spread.abs().max()
    score = 1 - ((values - fit) / unit).square().sum() / (spread / unit).square().sum()
    close = (fit - values).abs() <= 1e-9 * values.abs()
    return torch.where(values.min() == values.max(), close.all().double(), score)
