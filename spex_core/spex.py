"""The recipe: the stages called in order, no cleverness."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import resident
from .alias import alias
from .backend import Backend, pick
from .budget import least_budget, plan_spex
from .errors import check, check_int
from .evaluate import SetFunction, Shown
from .explanation import Explanation, Report, with_picture
from .hierarchy import hierarchy_rates
from .patience import Patience
from .peel import peel_many, precision, with_constant
from .plan import SamplingPlan
from .prefixes import profile_of
from .proxyspex import proxy_recipe
from .recipe import Answered, Clock, Found, Recipe, feature_names
from .refine import linear_fit, linear_predict, refit
from .run import Known, Where, explain
from .shrink import with_low_orders
from .transform import SparseTransform, r2
from .value_function import ValueFunction

# Bits a group from which a linear fit was better on no game of bench/bench_games.py.
LEAST_B = 7
CPU = torch.device("cpu")


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
    progress: Shown = None,
    known: Known | None = None,
    store: Where | None = None,
    patience: Patience | None = None,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
) -> Found:
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
        progress: called as progress(done, total) after each batch; or True for a bar or lines, or a
            logger, or a Watcher (progress.py), which may ask for R2 on the way.
        known: (masks bool (rows, n), values (rows,)) that need not be asked for again; or the Store
            of another run on f, or its directory.
        store: a directory, new or of the same call: values are kept there as they come, and those
            that are there are not asked for again. Or a Store, which other runs on f may share.
        patience: a Patience, which says how often a call that fails is made again and how long it
            may take; by default it is not, and any time.
        device: where f takes its masks and leaves its values. On another than the CPU f is called
            with bool tensors (batch, n) of that device and returns a tensor of it, or it is a
            ValueFunction whose `device` it is. Nothing but the plan's columns and delays goes
            there, nothing but the terms and their scores comes back, and what says which masks a
            ValueFunction takes together (Report.moved). `known`, `store`, `patience` are refused.
        backend: of the transform and the decoder.
    Returns: an Explanation; for q outputs, values (batch, q), a list of q, each as it would be
            alone.
    Raises:  TypeError, ValueError for bad arguments, before f is called, among them a store of
             another function or plan, with what differs; EvaluationError if f fails, holding what
             was paid for; BackendUnavailable; MemoryError, before f is called, if the device has
             too little room.
    Cost:    f aside: O(T log B + n b) for T samples, and the decoding of C B bins.
    Source:  Kang et al., SPEX, ICML 2025 (arXiv 2502.13870).
    Example: spex(lambda x: x[:, 0] * 1.0 - 2 * (x[:, 1] & x[:, 4]), n=30, budget=2000)
    """
    if not callable(f):
        raise TypeError(f"spex: f must be callable, got {type(f).__name__}")
    names = feature_names("spex", n, features, f)
    if prefix_sharing is None:
        prefix_sharing = isinstance(f, ValueFunction) and f.order == "prefix"
    batch_size = check_int("spex: batch_size", batch_size, 1)
    given: dict[str, Any] = {"known": known, "store": store, "patience": patience}
    device = resident.usable_device("spex", device, f, given)
    recipe = spex_recipe(
        budget=budget,
        degree=degree,
        decoder=decoder,
        prefix_sharing=prefix_sharing,
        seed=seed,
        backend=backend,
        device=device,
    )
    if device.type != "cpu":
        found = recipe.on_device(f, names, device, batch_size=batch_size, progress=progress)
        return with_picture(found, f)
    return explain(recipe, f, names, batch_size=batch_size, progress=progress, **given)


def spex_recipe(
    *,
    budget: int,
    degree: int = 5,
    decoder: str = "soft",
    prefix_sharing: bool | Sequence[float] = False,
    seed: int = 0,
    backend: Backend = "auto",
    device: torch.device | str = "cpu",
) -> SpexRecipe:
    """The options of spex(), checked but for what depends on n; device: where it will run."""
    check(decoder in ("soft", "hard"), "spex: decoder must be 'soft' or 'hard', got {!r}", decoder)
    pick("peel", backend, torch.device(device))
    profile = tuple(profile_of(prefix_sharing))
    return SpexRecipe(budget, degree, decoder, profile, seed, backend)


@dataclasses.dataclass(frozen=True)
class SpexRecipe(Recipe):
    """SPEX with its options, as spex() has them; profile as in SamplingPlan."""

    budget: int
    degree: int
    decoder: str
    profile: tuple[float, ...]
    seed: int
    backend: Backend

    name = "spex"

    @property
    def options(self) -> dict[str, object]:
        options = {"degree": self.degree, "decoder": self.decoder}
        return options | {"prefix_sharing": list(self.profile), "backend": self.backend}

    def plan(self, n: int, device: torch.device | None = None) -> SamplingPlan:
        how: dict[str, Any] = {"degree": self.degree, "seed": self.seed, "device": device}
        return plan_spex(n, self.budget, prefix_sharing=self.profile, **how)

    def fit(self, answered: Answered, clock: Clock) -> Found:
        """Of the groups whose values are all there, with the other values as further samples; where
        there is no such group, the fit of ProxySPEX."""
        if answered.whole:
            return self._fitted(answered, answered.plan, answered.values, clock, [])
        part = complete_part(answered)
        if part is None:
            other = proxy_recipe(budget=self.budget, degree=self.degree, seed=self.seed)
            found = other.fit(answered, clock)
            text = "no group of masks has all its values yet: this is the fit of ProxySPEX"
            if isinstance(found, list):
                return [warned(ex, text) for ex in found]
            return warned(found, text)
        plan, values = part
        notes = [f"of {answered.plan.groups} groups of masks {plan.groups} have all their values"]
        if not plan.holdout:
            notes.append("none of the masks held out has a value yet: R2 is of the samples fitted")
        return self._fitted(answered, plan, values, clock, notes)

    def on_device(
        self,
        f: resident.DeviceFunction,
        names: tuple[str, ...],
        device: torch.device,
        *,
        batch_size: int,
        progress: Shown,
    ) -> Found:
        """The whole run on a device."""
        resident.check_progress("spex", progress, device)
        n, clock = len(names), Clock()
        how: dict[str, Any] = {"decoder": self.decoder, "backend": self.backend}
        how |= {"budget": self.budget, "batch_size": batch_size, "progress": progress}
        found = resident.run(f, n, functools.partial(self.plan, n), device, clock, **how)
        plan = found.plan
        there: dict[str, Any] = {
            "device": device,
            "used": found.used,
            "unique": found.used,
            "asked": plan.total,
            "moved": found.moved,
        }
        outputs = []
        for fitted in found.outputs:
            report = self._report(plan, plan, fitted, clock, [], **there)
            outputs.append(Explanation(fitted.transform, names, report))
        return outputs if found.several else outputs[0]

    def _fitted(
        self,
        answered: Answered,
        plan: SamplingPlan,
        values: Tensor,
        clock: Clock,
        notes: list[str],
    ) -> Found:
        """Of values of all rows of a plan, (T,) or (T, q)."""
        outputs = []
        rows = values.T.contiguous() if values.ndim == 2 else values[None]
        how: dict[str, Any] = {"decoder": self.decoder, "backend": self.backend}
        transforms = fit_outputs(plan, rows, clock=clock, **how)
        for own, transform in zip(rows, transforms, strict=True):
            with clock("score"):
                fitted = resident.Fitted(transform, *scores(plan, own, transform))
            report = self._report(plan, answered.plan, fitted, clock, notes)
            outputs.append(Explanation(transform, answered.names, report))
        return outputs if values.ndim == 2 else outputs[0]

    def _report(
        self,
        plan: SamplingPlan,
        whole: SamplingPlan,
        fitted: resident.Fitted,
        clock: Clock,
        notes: list[str],
        *,
        device: torch.device = CPU,
        used: int = 0,
        unique: int | None = None,
        **counts: Any,
    ) -> Report:
        transform = fitted.transform
        return Report(
            algorithm="spex",
            decoder=self.decoder,
            backend=pick("peel", self.backend, device),
            device=str(device),
            seed=plan.seed,
            n=plan.n,
            degree=plan.n if plan.code is None else plan.degree,
            budget=plan.budget,
            used=used,
            unique=len(plan.places.first) if unique is None else unique,
            left_out=plan.holdout,
            r2=fitted.r2,
            r2_linear=fitted.r2_linear,
            terms=len(transform),
            effective_terms=float(len(transform)),
            energy_by_order=transform.energy_by_order(),
            hierarchy=hierarchy_rates(transform),
            plan=describe(whole),
            seconds=clock.seconds,
            warnings=notes + warnings(plan, fitted.r2, fitted.r2_linear),
            **counts,
        )


def warned(ex: Explanation, text: str) -> Explanation:
    """With a warning before the others."""
    report = dataclasses.replace(ex.report, warnings=[text, *ex.report.warnings])
    return dataclasses.replace(ex, report=report)


def complete_part(answered: Answered) -> tuple[SamplingPlan, Tensor] | None:
    """The groups and delays of which all values are there, as a plan with its values, all other
    masks that have one being extra masks of it; None where no group has those of all its coded
    delays."""
    plan, there = answered.plan, answered.there
    if plan.code is None:
        return None
    rows = there[: plan.aliased].reshape(plan.shape)
    full = np.all(rows, axis=2)  # (C, P)
    groups = np.flatnonzero(full[:, : plan.code.delays].all(1))
    if not len(groups):
        return None
    shifts = np.flatnonzero(full[groups].all(0))
    taken = np.zeros(plan.total, np.bool_)
    taken[: plan.aliased].reshape(plan.shape)[np.ix_(groups, shifts)] = True
    rest = torch.from_numpy(there & ~taken)
    part = dataclasses.replace(
        plan,
        columns=plan.columns[torch.from_numpy(groups)],
        delays=plan.delays[torch.from_numpy(shifts)],
        extra=plan.masks(0, plan.total)[rest],
        holdout=int(there[plan.total - plan.holdout :].sum()),
    )
    return part, torch.cat([answered.values[torch.from_numpy(taken)], answered.values[rest]])


def fit_plan(
    plan: SamplingPlan,
    values: Tensor,
    *,
    decoder: str = "soft",
    backend: Backend = "auto",
    clock: Clock | None = None,
) -> SparseTransform:
    """Values (T,) of all rows of a plan -> the transform, the held-out rows not looked at.

    The constant is always one of the terms.
    """
    return fit_outputs(plan, values[None], decoder=decoder, backend=backend, clock=clock)[0]


def fit_outputs(
    plan: SamplingPlan,
    values: Tensor,
    *,
    decoder: str = "soft",
    backend: Backend = "auto",
    clock: Clock | None = None,
) -> list[SparseTransform]:
    """fit_plan of each of q outputs, values (q, T): transformed and decoded in one call."""
    clock = clock or Clock()
    with clock("alias"):
        bins = alias(values, plan, backend=backend)
    with clock("peel"):
        how: dict[str, Any] = {"dtypes": [precision(own) for own in values], "backend": backend}
        found = peel_many(bins, plan, decoder=decoder, **how)
    out = []
    with clock("refine"):
        for own, terms in zip(values, found, strict=True):
            support, coefs = with_constant(*terms, plan.n)
            if plan.code is not None:
                coefs = refit(plan, own, support, coefs)
                support, coefs = with_low_orders(plan, own, support, coefs)
            out.append(SparseTransform(plan.n, support, coefs))
    return out


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
