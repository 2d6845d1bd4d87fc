"""The recipe: the stages called in order, no cleverness."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from . import resident
from .alias import alias
from .backend import Backend, pick
from .errors import check, check_int
from .evaluate import Progress, SetFunction, evaluate
from .explanation import Explanation, Report
from .hierarchy import hierarchy_rates
from .peel import peel
from .plan import SamplingPlan, least_budget, plan_spex
from .prefixes import profile_of
from .refine import linear_fit, linear_predict, refit, with_constant
from .shrink import with_low_orders
from .transform import SparseTransform, r2
from .value_function import ValueFunction

# Bits a group from which a linear fit was better on no game of bench/bench_games.py.
LEAST_B = 7


def spex(
    f: SetFunction,
    n: int | None = None,
    *,
    features: Sequence[str] | None = None,
    budget: int,
    degree: int = 5,
    decoder: str = "soft",
    prefix_sharing: bool | Sequence[float] | None = None,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Progress | None = None,
    known: tuple[np.ndarray, np.ndarray] | None = None,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
) -> Explanation | list[Explanation]:
    """SPEX: the Fourier terms of f up to `degree`, from at most `budget` evaluations.

    A twentieth of the budget (32 to 1,000 masks) is held out to score the result. The rest goes, as
    far as it reaches, to three groups of 2**b aliased bins with the largest b that fits, then to
    delays of a code that corrects more errors, then to uniform delays and last to uniform masks
    that only the refit uses: plan_spex says why. A budget of 2**n evaluates every mask, and the
    result is then exact whatever the degree.

    Sets of low order that are too small to decode join the result where cross-validation wants them
    (shrink.py); a sparse function stays sparse.

    Args:
        f: any callable, bool (batch, n) array -> (batch,) numbers; 1 = the feature is kept. Or a
            ValueFunction, which is asked in packs of its own and names its features.
        n: features; or `features`, their names, which results then use.
        budget: the most evaluations. Too few is an error that gives the least that works.
        degree: the largest order of a term, 1 to 10.
        decoder: "soft" (better where f is noisy or not sparse) or "hard" (faster).
        prefix_sharing: whether masks are to agree on their first features, for a model that
            computes a shared prefix once: True, or the profile of a staircase hash (prefixes.py).
            (0.5, 0.25), which is True, saves such a model 30 to 36 % of the tokens of the features.
            In bench/bench_prefix.py it costs no accuracy at 10 dB and more or up to a term a bin;
            at 5 dB, with 1.5 terms a bin that all lie in the first half of the features, it costs
            up to 0.11 of R2. None: where f is a ValueFunction that shares prefixes.
        seed: every random choice follows from it; the same seed gives the same bits.
        batch_size: masks in one call of f at the most.
        progress: called as progress(done, total) after each batch.
        known: (masks bool (rows, n), values (rows,) or (rows, q)) that need not be asked for
            again.
        device: where f takes its masks and leaves its values. On another than the CPU f is called
            with bool tensors (batch, n) of that device and returns a tensor of it; nothing but the
            plan goes there and nothing but the terms and their scores comes back
            (Report.moved), and `known` and ValueFunctions are refused.
        backend: of the transform and the decoder.
    Returns: an Explanation; for q outputs, values (batch, q), a list of q, each as it would be
            alone.
    Raises:  TypeError, ValueError for bad arguments, before f is called; EvaluationError if f
             fails, holding what was paid for; BackendUnavailable; MemoryError, before f is called,
             if the device has too little room.
    Cost:    f aside: O(T log B + n b) for T samples, and the decoding of C B bins.
    Source:  Kang et al., SPEX, ICML 2025 (arXiv 2502.13870).
    Example: spex(lambda x: x[:, 0] * 1.0 - 2 * (x[:, 1] & x[:, 4]), n=30, budget=2000)
    """
    if not callable(f):
        raise TypeError(f"spex: f must be callable, got {type(f).__name__}")
    names = feature_names("spex", n, features, f)
    check(decoder in ("soft", "hard"), "spex: decoder must be 'soft' or 'hard', got {!r}", decoder)
    batch_size = check_int("spex: batch_size", batch_size, 1)
    if prefix_sharing is None:
        prefix_sharing = isinstance(f, ValueFunction) and f.order == "prefix"
    profile = profile_of(prefix_sharing)
    device = usable_device(device, f, known)
    chosen = pick("peel", backend, device)
    clock = Clock()
    with clock("plan"):
        plan = plan_spex(len(names), budget, degree=degree, seed=seed, prefix_sharing=profile)
    how = {"batch_size": batch_size, "progress": progress}
    if device.type == "cpu":
        found = run_here(f, plan, clock, known=known, decoder=decoder, backend=backend, **how)
    else:
        found = resident.run(f, plan, device, clock, decoder=decoder, backend=backend, **how)
    unique = len(np.unique(plan.row_keys()))
    explained = []
    for fitted in found.outputs:
        report = Report(
            algorithm="spex",
            decoder=decoder,
            backend=chosen,
            device=str(device),
            seed=plan.seed,
            n=plan.n,
            degree=plan.n if plan.code is None else plan.degree,
            budget=plan.budget,
            used=found.used,
            unique=unique,
            left_out=plan.holdout,
            r2=fitted.r2,
            r2_linear=fitted.r2_linear,
            terms=len(fitted.transform),
            effective_terms=float(len(fitted.transform)),
            energy_by_order=fitted.transform.energy_by_order(),
            hierarchy=hierarchy_rates(fitted.transform),
            plan=describe(plan),
            seconds=clock.seconds,
            moved=found.moved,
            warnings=warnings(plan, fitted.r2, fitted.r2_linear),
        )
        explained.append(Explanation(fitted.transform, names, report))
    return explained if found.several else explained[0]


def usable_device(device: torch.device | str, f: object, known: object) -> torch.device:
    """The device, checked against what else was asked for."""
    try:
        device = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"spex: device must be one that torch has, got {device} ({error})"
        ) from None
    if device.type != "cpu" and isinstance(f, ValueFunction):
        raise TypeError(
            "spex: f must be a plain callable on tensors where device is not the CPU, got "
            f"{type(f).__name__}, which takes its masks on the host"
        )
    check(device.type == "cpu" or known is None, "spex: known must be None on {}", device)
    return device


def run_here(
    f: SetFunction,
    plan: SamplingPlan,
    clock: Clock,
    *,
    known: tuple[np.ndarray, np.ndarray] | None,
    decoder: str,
    batch_size: int,
    progress: Progress | None,
    backend: Backend,
) -> resident.Run:
    """resident.run, where nothing has to move."""
    with clock("evaluate"):
        asked = {"batch_size": batch_size, "progress": progress, "known": known, "many": True}
        values, used = evaluate(f, plan, **asked)
    outputs = []
    for own in values.T.contiguous() if values.ndim == 2 else values[None]:
        transform = fit_plan(plan, own, decoder=decoder, backend=backend, clock=clock)
        with clock("score"):
            outputs.append(resident.Fitted(transform, *scores(plan, own, transform)))
    return resident.Run(outputs, values.ndim == 2, used, {})


def fit_plan(
    plan: SamplingPlan,
    values: Tensor,
    *,
    decoder: str = "soft",
    backend: Backend = "auto",
    clock: Clock | None = None,
) -> SparseTransform:
    """Values of all rows of a plan -> the transform, the held-out rows not looked at.

    The constant is always one of the terms.
    """
    clock = clock or Clock()
    with clock("alias"):
        bins = alias(values, plan, backend=backend)
    with clock("peel"):
        single = bool((values == values.float()).all())  # f answered in float32
        dtype = torch.float32 if single else torch.float64
        support, coefs = peel(bins, plan, decoder=decoder, dtype=dtype, backend=backend)
    with clock("refine"):
        support, coefs = with_constant(support, coefs, plan.n)
        if plan.code is not None:
            coefs = refit(plan, values, support, coefs)
            support, coefs = with_low_orders(plan, values, support, coefs)
    return SparseTransform(plan.n, support, coefs)


def scores(plan: SamplingPlan, values: Tensor, transform: SparseTransform) -> tuple[float, float]:
    """R2 of the transform and of a linear fit on the same samples, on the held-out rows (or on all
    rows of a whole table)."""
    first = plan.total - plan.holdout if plan.holdout else 0
    masks, truth = plan.masks(first, plan.total), values[first:].numpy()
    linear = linear_predict(masks, linear_fit(plan, values))
    return transform.score(masks, truth), r2(truth, linear)


def warnings(plan: SamplingPlan, score: float, linear: float) -> list[str]:
    """What the user should know about a result of these scores."""
    if linear <= score + 1e-6:
        return []
    b = max(plan.b + 1, LEAST_B)
    budget = least_budget(plan.n, plan.degree, b)
    buys = "the whole table" if budget == 1 << plan.n else f"{1 << b} bins a group"
    return [
        f"a linear fit on the same samples does better (R2 {linear:.3f} against {score:.3f}): ask "
        f"for {budget:,} evaluations, {buys}"
    ]


def describe(plan: SamplingPlan) -> str:
    """How the budget was spent, in words."""
    if plan.code is None:
        return f"the whole table, 2**{plan.n} masks"
    further = plan.shifts - plan.code.delays
    delays = f"{plan.code.delays} + {further} uniform" if further else f"{plan.code.delays}"
    text = f"{plan.groups} groups x {delays} delays x {1 << plan.b} bins, code of t = {plan.code.t}"
    if plan.profile:
        zero = ", ".join(f"{share:.0%}" for share in plan.profile)
        text += f", hash zero on the first {zero} of the features"
    uniform = len(plan.extra) - plan.holdout
    return text + (f", {uniform:,} uniform masks" if uniform else "")


def feature_names(
    where: str, n: int | None, features: Sequence[str] | None, f: object = None
) -> tuple[str, ...]:
    """Names of the features: as given, else those of a value function; x0, x1, ... where only n is
    given."""
    if n is None and features is None and isinstance(f, ValueFunction):
        features = f.features
    check(
        n is not None or features is not None,
        "{}: n or features must be given, got neither",
        where,
    )
    if features is None:
        return tuple(f"x{i}" for i in range(check_int(f"{where}: n", n, 1)))
    if isinstance(features, str | bytes):
        raise TypeError(f"{where}: features must be a list of names, got {features!r}")
    names = tuple(str(name) for name in features)
    check(len(names) >= 1, "{}: features must name at least one feature, got none", where)
    check(
        n is None or n == len(names),
        "{}: features must have n = {} names, got {}",
        *(where, n, len(names)),
    )
    return names


class Clock:
    """Wall seconds by stage: `with clock("peel"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
