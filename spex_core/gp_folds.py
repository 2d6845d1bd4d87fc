"""Stage 5'' of GPSPEX: priors fitted on parts of the samples, how far each is to be trusted by the
samples left out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .anova import Anova, Taste, fit_anova, kernel_of, linear
from .gp_prior import Listed
from .hedge import CLIP, Hedge
from .left_out import LEVELS, largest, mean_of, path_errors, shares_of
from .prior import Spectra, Terms, prior_variances
from .proxy import ALL_LINEAR
from .transfers import up


@dataclass(frozen=True)
class GpRecipe:
    """The choices of the fit.

    Attributes:
        kernels: (order, spread, bias) of the ANOVA kernels; an order of 0 is the degree asked for.
        folds: parts that the samples are dealt into, fewest and most; dealt: samples of all folds
        together where the number lies between.
        compared: samples to fit and to predict where priors are compared, at most; compared_folds:
        folds looked at then. scored: samples that score the fit and a linear one, at least.
        fitted: samples that the hyperparameters are fitted to, at most.
        steps: of the optimiser, on a fold and for the last fit.
        temperature: of the shares of the priors, as in ProxySPEX. clip: squared errors count up to
        so many times their mean there, lest one sample decide. caution: standard errors that a
        larger level may cost.
        hedge: how large a share of the result is a linear fit.
        listed: terms of each prior that trees make. candidates: terms of each order looked at.
        hidden: share of the noise that is taken for terms up to the degree which the prior holds
        unlikely: all, since a function that gives one answer has no other noise than terms.
        least_terms, share, most_terms: terms kept are this share of the samples, within bounds.
        most_single: features up to which all of them have a place among the terms.
    """

    kernels: tuple[tuple[int, float, float], ...] = (
        (2, 0.7, 0.0),
        (0, 0.5, 1.0),
        (0, 0.5, 0.0),
        (0, 2.0, 0.0),
    )
    folds: tuple[int, int] = (4, 8)
    dealt: int = 1200
    compared: int = 600
    compared_folds: int = 3
    scored: int = 750
    fitted: int = 1500
    steps: tuple[int, int] = (10, 15)
    temperature: float = 12.0
    clip: float = CLIP
    caution: float = 0.25
    hedge: Hedge = field(default=Hedge(level=0.34))
    listed: int = 1024
    candidates: int = 2048
    hidden: float = 1.0
    least_terms: int = 1024
    share: float = 0.5
    most_terms: int = 8192
    most_single: int = ALL_LINEAR

    def tastes(self, degree: int) -> list[Taste]:
        """Without repetitions where the degree is small."""
        tastes = (Taste(min(order or degree, degree), *rest) for order, *rest in self.kernels)
        return [taste for taste in dict.fromkeys(tastes) if taste.orders > 1 or degree == 1]

    def folds_of(self, samples: int) -> int:
        fewest, most = self.folds
        return min(max(self.dealt // samples, fewest), most)

    def terms_of(self, samples: int, n: int) -> int:
        """Terms to keep where nobody says how many."""
        terms = min(max(int(self.share * samples), self.least_terms), self.most_terms)
        return max(terms, min(n, self.most_single))


GP_DEFAULT = GpRecipe()


@dataclass(frozen=True, eq=False)
class Problem:
    """One output of mean 0 and variance 1, its folds, and what trees say of it.

    Attributes:
        masks: packed int64 (T, W); where they are, on a device or the host, matrices of (T, T) are.
        values: float64 (T,) of the host. fold: int64 (T,).
        trees: the spectra of the bags, the terms of the trees' prior and their rows in the spectra;
        None without trees.
    """

    n: int
    masks: Tensor
    values: Tensor
    fold: np.ndarray
    degree: int
    trees: tuple[Spectra, Terms, np.ndarray] | None
    recipe: GpRecipe

    def split(self, k: int) -> tuple[Tensor, Tensor]:
        """Samples outside fold k and in it."""
        parts = np.flatnonzero(self.fold != k), np.flatnonzero(self.fold == k)
        return tuple(torch.from_numpy(part) for part in parts)

    def masks_at(self, rows: Tensor) -> Tensor:
        return self.masks[up(rows, self.masks.device)]

    def looked_at(self) -> range:
        """Folds: all of a small problem, else a few."""
        count = int(self.fold.max()) + 1
        small = len(self.values) <= self.recipe.compared
        return range(count if small else min(count, self.recipe.compared_folds))

    def kernels(self, thetas: dict[str, Tensor]) -> dict[str, Anova]:
        """The ANOVA kernels that have been fitted."""
        bias = {taste.name: taste.bias for taste in self.recipe.tastes(self.degree)}
        return {name: kernel_of(theta, self.n, bias[name]) for name, theta in thetas.items()}

    def tree_priors(self, k: int | None) -> dict[str, Listed]:
        """What the trees outside fold k say, or all trees: the priors of ProxySPEX but the linear
        one, each on its likeliest terms."""
        if self.trees is None:
            return {}
        out = {}
        for name, variance in prior_variances(self.trees[0], k, *self.trees[1:]).items():
            if name != "linear" and variance.any():
                top, share = largest(variance, self.recipe.listed)
                out[name] = Listed(self.trees[1][top], share)
        return out


@dataclass(frozen=True, eq=False)
class Trial:
    """One fold: priors that have not seen it, fitted to samples outside it, which are `inside` the
    fit, and the covariance of these and of some in it with the former, under each: float32, which
    only the comparison of priors sees; all fits are float64."""

    fold: int
    inside: Tensor
    outside: Tensor
    thetas: dict[str, Tensor]
    priors: dict[str, Anova | Listed]
    covariances: dict[str, Tensor]


def spread_out(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, at even distances."""
    size = min(len(rows), most)
    return rows[torch.arange(size) * len(rows) // size] if size else rows


def trial(problem: Problem, k: int) -> Trial:
    """The priors fitted outside fold k, each kernel from where the one before it ended."""
    inside, outside = (spread_out(part, problem.recipe.compared) for part in problem.split(k))
    masks, y = problem.masks_at(inside), problem.values[inside]
    y = y - mean_of(y)
    thetas = fit_tastes(problem, masks, y, {}, problem.recipe.steps[0])
    priors = {"linear": linear(problem.n)} | problem.tree_priors(k)
    priors |= problem.kernels(thetas)
    rows = problem.masks_at(torch.cat([inside, outside]))
    covariances = {
        name: prior.covariance(rows, masks).add_(1.0).float() for name, prior in priors.items()
    }
    return Trial(k, inside, outside, thetas, priors, covariances)


def fit_tastes(
    problem: Problem, masks: Tensor, values: Tensor, starts: dict[str, Tensor], steps: int
) -> dict[str, Tensor]:
    """theta of each kernel, or of those that have a start: from there, or from the kernel before it
    if that has as many orders."""
    out: dict[str, Tensor] = {}
    before: Tensor | None = None
    for taste in problem.recipe.tastes(problem.degree):
        if starts and taste.name not in starts:
            continue
        start = starts.get(taste.name)
        if start is None and before is not None and len(before) == problem.n + taste.orders + 1:
            start = before
        out[taste.name] = before = fit_anova(masks, values, problem.n, taste, start, steps)
    return out


def compare(problem: Problem, trials: list[Trial]) -> tuple[dict[str, float], float, float]:
    """How far to trust each prior: name -> share, by how well it predicts the samples left out; the
    best level of the mixture, and that of the linear prior alone."""

    def errors(shares: dict[str, float]) -> Tensor:
        """Of a mixture on all samples left out, at each of LEVELS: float64 (samples, levels)."""
        parts = [
            path_errors(blend(one, shares), problem.values[one.inside], problem.values[one.outside])
            for one in trials
        ]
        return torch.cat(parts)

    recipe = problem.recipe
    names = [name for name in trials[0].covariances if all(name in t.covariances for t in trials)]
    by_prior = {name: errors({name: 1.0}) for name in names}
    least = min(float(error.mean(0).min()) for error in by_prior.values())
    sums = {name: error.clamp(max=recipe.clip * least).sum(0) for name, error in by_prior.items()}
    shares = shares_of(sums, len(by_prior["linear"]), recipe.temperature)
    level = cautious(errors(shares), recipe.caution)
    return shares, level, float(LEVELS[int(by_prior["linear"].sum(0).argmin())])


def cautious(errors: Tensor, caution: float) -> float:
    """The largest of LEVELS whose error is not above the least by more than `caution` standard
    errors of the difference: float64 (samples, levels) -> a level."""
    over = errors - errors[:, int(errors.sum(0).argmin())][:, None]
    doubt = caution * over.std(0, correction=0) / len(over) ** 0.5
    return float(LEVELS[(over.mean(0) <= doubt).nonzero().max()])


def blend(one: Trial, shares: dict[str, float]) -> Tensor:
    """The covariance under a mixture."""
    return sum(share * one.covariances[name] for name, share in shares.items() if share)
