"""Stage 8'' of GPSPEX, values -> terms, coefficients and standard errors: one Gaussian process
under the mixture of priors that the folds decide on, fitted to all samples."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import resident_fit
from .anova import Anova, linear
from .checks import readable
from .gp_folds import GP_DEFAULT, GpRecipe, Problem, Trial, compare, fit_tastes, spread_out, trial
from .gp_prior import Listed, mixture_of
from .gp_process import Process, missed_share, posterior, spectrum
from .gp_scores import score
from .left_out import folds, mean_of
from .prior import Spectra, choose_support
from .proxy import DEFAULT, ProxyFit, bag_spectra
from .ridge import one_thread
from .sparse import added, strongest
from .sums import errors_of, with_others
from .transfers import up
from .transform import r2

FEW = 1500  # samples whose steps are so small that a second thread costs more than it does


@dataclass(frozen=True)
class GpFit(ProxyFit):
    """What ProxyFit has, r2 being that of the terms kept, and beside it

    Attributes:
        stderr: float64 (S,), posterior standard deviations of coefs.
        r2_process: of what process.predict predicts, the result before small terms are left out, on
        the same samples as r2.
        missed: share of the variance of the posterior mean that the terms left out hold, at most
        (gp_process.missed_share).
        process: the posterior and what the result adds to it; for predictions with error bars.
        whole: float64 (R,), what such a result makes of the samples left out (see `predicted`)
        before small terms are left out.

    All None where there is no process: every mask there is was evaluated, or the stack has none.
    """

    stderr: Tensor | None = None
    r2_process: float | None = None
    missed: float | None = None
    process: Process | None = None
    whole: np.ndarray | None = None


def fit_gp(
    masks: Tensor,
    values: Tensor,
    n: int,
    *,
    degree: int,
    terms: int | None,
    trees: bool,
    seed: int,
    together: int = 1,
    recipe: GpRecipe = GP_DEFAULT,
) -> list[GpFit]:
    """Each output by itself; all share the masks, the folds and one call of the boosting kernel.

    Args: masks: packed int64 (T, W), T >= 8, of the host or a device, where trees and all matrices
          are made then. values: float64 (q, T) of the host, no row all equal.
          degree: the largest order of a term. terms: to keep, at most; None as the recipe says.
          trees: whether the spectrum of boosted trees is one of the priors.
          together: so many neighbours are in one fold, because their masks are alike.
    """
    mean = [mean_of(row) for row in values]
    unit = [float((row - m).numpy().std()) for row, m in zip(values, mean, strict=True)]
    y = torch.stack([(row - m) / u for row, m, u in zip(values, mean, unit, strict=True)])
    fold = folds(len(masks), recipe.folds_of(len(masks)), seed, together)
    known: list[tuple | None] = [None] * len(y)
    if trees:
        top = y.abs().amax(1, keepdim=True)  # as boosting is tuned for
        for i, spectra in enumerate(spectra_of(masks, y / top, n, fold, degree)):
            known[i] = (spectra, *choose_support(spectra, recipe.listed))
    fits = []
    for i, row in enumerate(y):
        problem = Problem(n, masks, row, fold, degree, known[i], recipe)
        with one_thread() if len(masks) <= FEW else nullcontext():
            fits.append(fit_problem(problem, terms, mean[i], unit[i]))
    return fits


def spectra_of(masks: Tensor, y: Tensor, n: int, fold: np.ndarray, degree: int) -> list[Spectra]:
    """The spectra of trees, grown where the masks are."""
    if readable(masks):
        return bag_spectra(masks, y, n, fold, degree, DEFAULT)
    y, there = up(y, masks.device), up(torch.from_numpy(fold), masks.device)
    count = int(fold.max()) + 1
    found = resident_fit.bag_spectra(masks, y, n, there, count, degree, DEFAULT)
    return [spectra.on_host() for spectra in found]


def fit_problem(problem: Problem, terms: int | None, mean: float, unit: float) -> GpFit:
    """The mixture of priors and a linear fit, in the shares that samples left out speak for."""
    recipe, values = problem.recipe, problem.values
    if terms is None:
        terms = recipe.terms_of(len(values), problem.n)
    trials = [trial(problem, k) for k in problem.looked_at()]
    shares, level, linear_level = compare(problem, trials)
    scored = score(problem, trials, shares, level, linear_level, terms)
    note = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share)
    if scored.straight == 1.0:
        shares, level = {"linear": 1.0}, linear_level
        note = "linear: the samples left out speak for no more"
    mixture = mixture_of(final_priors(problem, trials, shares), shares)
    process = posterior(problem.n, problem.masks, values, mixture, level, mean, unit)
    hidden = recipe.hidden * level / sum(math.comb(problem.n, d) for d in range(problem.degree + 1))
    scale = process.scale * scored.surprise
    process = dataclasses.replace(process, scale=scale, hidden=hidden)
    kept, coefs, prior = spectrum(process, terms, recipe.candidates)
    predicted, truth = scored.predicted, values.numpy()[scored.predicted.rows]
    fit = GpFit(
        support=kept.packed(),
        coefs=in_units(process, coefs),
        r2=r2(truth, predicted.fitted),
        r2_linear=r2(truth, predicted.linear),
        left_out=len(truth),
        effective=min(process.effective(), float(len(coefs))),
        note=f"{int(problem.fold.max()) + 1} folds; prior {note}",
        predicted=predicted.in_units(mean, unit),
        stderr=process.stderr(kept, prior),
        r2_process=r2(truth, scored.whole),
        missed=missed_share(process, kept, coefs),
        process=process,
        whole=scored.whole * unit + mean,
    )
    if 0.0 < scored.straight < 1.0:
        return hedged(fit, problem, scored.straight, linear_level, terms)
    return fit


def hedged(fit: GpFit, problem: Problem, share: float, linear_level: float, terms: int) -> GpFit:
    """The fit with a share of a linear one, as it has been scored: coefficients are added up;
    errors are those under the process, whose means are others then."""
    process = fit.process
    assert process is not None  # fit_problem has made it
    straight = mixture_of({"linear": linear(problem.n)}, {"linear": 1.0})
    line = posterior(problem.n, problem.masks, problem.values, straight, linear_level)
    line = dataclasses.replace(line, mean=process.mean, unit=process.unit)
    kept, coefs, _ = spectrum(line, problem.n, problem.recipe.candidates)
    of_line = kept.packed(), share * in_units(line, coefs)
    support, coefs = strongest(*added([(fit.support, (1.0 - share) * fit.coefs), of_line]), terms)
    stderr, missed = errors_of(process, support, coefs)
    effective = (1.0 - share) * fit.effective + share * line.effective()
    return dataclasses.replace(
        fit,
        support=support,
        coefs=coefs,
        effective=min(effective, float(len(coefs))),
        note=f"{fit.note}; with {share:.0%} of a linear fit",
        stderr=stderr,
        missed=missed,
        process=with_others(process, 1.0 - share, [of_line]),
    )


def in_units(process: Process, coefs: Tensor) -> Tensor:
    """Coefficients of a process, the constant first, as those of f."""
    coefs = coefs * process.unit
    coefs[0] += process.mean
    return coefs


def final_priors(
    problem: Problem, trials: list[Trial], shares: dict[str, float]
) -> dict[str, Anova | Listed]:
    """The priors that have a share, fitted to all samples, or to as many as the recipe allows,
    from the mean of what the folds found."""
    rows = spread_out(torch.arange(len(problem.values)), problem.recipe.fitted)
    starts = {
        name: torch.stack([one.thetas[name] for one in trials]).mean(0)
        for name in trials[0].thetas
        if shares.get(name)
    }
    thetas = {}
    if starts:
        y = problem.values[rows]
        thetas = fit_tastes(
            problem, problem.masks_at(rows), y - mean_of(y), starts, problem.recipe.steps[1]
        )
    priors = {"linear": linear(problem.n)} | problem.tree_priors(None)
    return priors | problem.kernels(thetas)
