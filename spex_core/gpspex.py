"""The recipe of GPSPEX: uniform masks, and a Gaussian process whose kernel is a prior on the Walsh
spectrum."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from . import resident, resident_uniform
from .budget import MAX_TABLE
from .errors import check, check_int
from .evaluate import SetFunction, Shown
from .explanation import Explanation, with_picture
from .gp import GpFit, fit_gp
from .gp_memory import check_samples_fit
from .ops import MAX_ORDER
from .patience import Patience
from .plan import SamplingPlan
from .prefixes import BRANCHING
from .proxy import ProxyFit
from .recipe import Found, feature_names
from .run import Known, Where, explain
from .transfers import Transfers
from .uniform import CPU, Algorithm, UniformRecipe, explain_on_device

PRESETS = ("default", "pure")
DEGREE = 5


def gpspex(
    f: SetFunction,
    n: int | None = None,
    *,
    features: Sequence[str] | None = None,
    budget: int,
    preset: str = "default",
    degree: int = DEGREE,
    terms: int | None = None,
    prefix_sharing: bool = False,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Shown = None,
    known: Known | None = None,
    store: Where | None = None,
    patience: Patience | None = None,
    device: torch.device | str = "cpu",
) -> Explanation | list[Explanation]:
    """GPSPEX: what drives f, from `budget` evaluations at uniform masks, with error bars.

    The coefficients of f, or the effects of features removed together, are taken for independent
    normal variables, whose variance depends on the order of a term and on the relevance of its
    features. Both, and the noise, come from the values, by maximum posterior density, under several
    priors; how far each is trusted is decided by the samples left out. The coefficients are then
    the mean of a Gaussian process given the values, in closed form, and their standard errors its
    deviations. A share of the result is a linear fit: the less the process explains of samples
    left out, the more, up to all. Meant for small budgets: the cost is the cube of the
    samples. A budget of 2**n evaluates every mask (n <= 24), and is exact.

    Args:
        f: any callable, bool (batch, n) array -> (batch,) numbers, or (batch, q) for q outputs.
        n: features; or `features`, their names, which results then use.
        budget: the most evaluations, 8 (2**n for n <= 2) to 5,000, or on a device as many as its
            memory holds; all are distinct.
        preset: "default", where the spectrum of boosted trees, as in ProxySPEX, is one of the
            priors; or "pure", without trees.
        degree: the largest order of a term, 1 to 8.
        terms: Fourier terms to keep at most, beside the constant; by default half the samples, from
            1,024 to 8,192, or as many as there are features (to 65,536). `report.r2` is of the
            terms kept, `report.missed` the share of the posterior mean's variance that they lack at
            1,024 uniform masks, and two standard errors of that. With fewer terms than features no
            share of a linear fit is mixed in, which would lose features; a linear fit that is all
            of the result is cut, and scored so.
        prefix_sharing: as in proxyspex().
        seed: every random choice follows from it; same seed, same bits, on any number of threads.
        batch_size: masks in one call of f at the most.
        progress: called as progress(done, total) after each batch; or True for a bar or lines, or a
            logger, or a Watcher (progress.py), which may ask for R2 on the way.
        known: (masks bool (rows, n), values (rows,) or (rows, q)) that need not be asked for again;
            or the Store of another run on f, or its directory.
        store, patience: where values are kept as they come, and what is done about calls that fail,
            as in spex().
        device: where f takes its masks and leaves its values, as in proxyspex(): masks, trees and
            all matrices of T x T are made there. Values, hyperparameters, terms and errors by
            sample come to the host and go back, T numbers at a time. The result is that of the
            CPU, to rounding. `process` stays there, with 8 T**2 bytes, and takes masks of the host.
            Not with prefix_sharing.
    Returns: an Explanation; for q outputs a list of q. `transform.stderr` has the standard errors
             of the coefficients, `process.predict(masks)` values with theirs, before small terms
             are left out, with the share of a linear fit if there is one.
    Raises:  TypeError, ValueError for bad arguments, or a budget over what fits in memory or, on
             the CPU, over 5,000, before f is called; EvaluationError if f fails, holding what was
             paid for.
    Cost:    f aside, gp_memory.seconds_of says: some 70 times T**2 (T + n degree) products for T
             samples up to 1,500, on one thread, and little but a factor of all beyond. At degree 4
             1.2 s for 300 samples of 64 features, 6.8 s for 1,000, 7.3 s for 5,000 of 40; and 36,
             143 and 832 MB (bench/bench_gp_speed.py). gp_memory.bytes_of says no less.
    Source:  Butler et al. 2025 (ProxySPEX, the trees); Rasmussen and Williams 2006, chapters 2 and
             5 (the process and its marginal likelihood); Durrande et al. 2013 (ANOVA kernels).
    Example: gpspex(lambda x: x[:, 0] * 1.0 - 2 * (x[:, 1] & x[:, 4]), n=30, budget=100)
    """
    if not callable(f):
        raise TypeError(f"gpspex: f must be callable, got {type(f).__name__}")
    names = feature_names("gpspex", n, features, f)
    batch_size = check_int("gpspex: batch_size", batch_size, 1)
    given: dict[str, Any] = {"known": known, "store": store, "patience": patience}
    device = resident.usable_device("gpspex", device, f, given)
    recipe = gp_recipe(
        budget=budget,
        preset=preset,
        degree=degree,
        terms=terms,
        prefix_sharing=prefix_sharing,
        seed=seed,
    )
    shown: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    if device.type != "cpu":
        algorithm = gp_algorithm("gpspex", preset, degree, terms, seed, device=device)
        run = functools.partial(run_there, algorithm)
        return with_picture(explain_on_device(recipe, run, f, names, device, **shown), f)
    return explain(recipe, f, names, **shown, **given)


def run_there(
    algorithm: Algorithm,
    f: resident.DeviceFunction,
    n: int,
    device: torch.device,
    clock: Callable[[str], AbstractContextManager],
    *,
    budget: int,
    **how: Any,
) -> resident_uniform.Run:
    """resident_uniform.run with the fit of an algorithm, which takes its values on the host; how:
    its further arguments."""
    total = min(budget, 1 << n) if n <= MAX_TABLE else budget
    resident.check_room("gpspex", total, n, resident_uniform.bytes_of(total, n), device)
    if n > MAX_TABLE or budget < 1 << n:
        check_samples_fit("gpspex: budget", budget, n, device=device)

    def fit(masks: Tensor, values: Tensor, n: int, transfers: Transfers) -> list[ProxyFit]:
        return list(algorithm.fit(masks, transfers.down(values), n))

    return resident_uniform.run(f, n, device, clock, fit=fit, budget=budget, **how)


def gp_recipe(
    *,
    budget: int,
    preset: str = "default",
    degree: int = DEGREE,
    terms: int | None = None,
    prefix_sharing: bool = False,
    seed: int = 0,
) -> GpRecipe:
    """The options of gpspex(), checked but for what depends on n."""
    together = BRANCHING if prefix_sharing else 1
    algorithm = gp_algorithm("gpspex", preset, degree, terms, seed, together=together)
    options = {"preset": preset, "degree": algorithm.degree, "terms": terms}
    options["prefix_sharing"] = prefix_sharing
    return GpRecipe(algorithm, budget, prefix_sharing, options)


class GpRecipe(UniformRecipe):
    """That of GPSPEX, which takes so many samples and no more: refused before they are asked for,
    unless they are all masks there are."""

    def plan(self, n: int) -> SamplingPlan:
        plan = super().plan(n)
        if n > MAX_TABLE or self.budget < 1 << n:
            check_samples_fit("gpspex: budget", self.budget, n)
        return plan

    def propose(self, plan: SamplingPlan, count: int, found: Found | None) -> Tensor:
        if plan.n > MAX_TABLE or plan.total + count < 1 << plan.n:
            outputs = len(found) if isinstance(found, list) else 1
            check_samples_fit("more: count", count, plan.n, outputs, before=plan.total)
        return super().propose(plan, count, found)


def gp_algorithm(
    where: str,
    preset: str,
    degree: int | None,
    terms: int | None,
    seed: int,
    *,
    together: int = 1,
    device: torch.device = CPU,
) -> Algorithm:
    """The fit of GPSPEX with checked options; so many neighbouring masks are alike."""
    check(preset in PRESETS, "{}: preset must be 'default' or 'pure', got {!r}", where, preset)
    degree = check_int(f"{where}: degree", DEGREE if degree is None else degree, 1, MAX_ORDER)
    terms = None if terms is None else check_int(f"{where}: terms", terms, 1)
    seed = check_int(f"{where}: seed", seed, 0, 2**64 - 1)

    def fit(masks: Tensor, values: Tensor, n: int) -> list[GpFit]:
        check_samples_fit(f"{where}: masks", len(masks), n, len(values), device=device)
        return fit_gp(
            masks,
            values,
            n,
            degree=degree,
            terms=terms,
            trees=preset == "default",
            seed=seed,
            together=together,
        )

    return Algorithm(where, "gpspex", preset, "anova_kernel", degree, seed, fit, device)
