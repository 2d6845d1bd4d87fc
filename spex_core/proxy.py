"""Stage 3' of ProxySPEX, values -> terms and coefficients: boosted trees on parts of the samples,
their exact spectra, priors mixed as the samples left out of the trees decide, ridge regression.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .hedge import Hedge, bound
from .left_out import (
    LEVELS,
    LeftOut,
    folds,
    largest,
    linear_covariance,
    mean_of,
    path_errors,
    prior_covariance,
    shares_of,
)
from .prior import Spectra, Terms, choose_support, prior_variances, terms_of
from .ridge import Fit, one_thread, ridge, signs
from .sparse import added, strongest, without_dust
from .transform import r2


@dataclass(frozen=True)
class Recipe:
    """The choices of the default fit; bench/bench_refit.py measures the others.

    Attributes:
        folds: bags of trees, each with one part of the samples left out, fewest and most.
        boosted: samples of all bags together where the number of folds lies between those.
        depths: of the ensembles of a bag, below the degree asked for.
        trees, rate, leaves, min_leaf: of an ensemble.
        spectrum: terms of all trees together that are kept.
        candidates: terms that each prior may bring in, and the fewest that are fitted.
        share, most: terms fitted are this share of the samples, at most so many.
        exponent: prior variance of the trees ~ |coef|**exponent.
        compared, compared_terms: samples to fit and to predict, and terms, where the priors are
        compared, at most; the linear prior has all features. compared_folds: folds that are looked
        at then, where there are more samples than `compared`. scored: samples that score the fit
        and a linear one, at least.
        temperature: of the weights of the priors; 0 takes the best one alone.
        hedge: how large a share of the result is a linear fit, at least; None: the result is the
        one of the two that predicts samples left out better.
    """

    folds: tuple[int, int] = (4, 8)
    boosted: int = 4000
    depths: tuple[int, ...] = (2, 0)
    trees: int = 300
    rate: float = 0.1
    leaves: int = 12
    min_leaf: int = 4
    spectrum: int = 16_384
    candidates: int = 1024
    share: float = 0.5
    most: int = 8192
    exponent: float = 2.0
    compared: int = 600
    compared_terms: int = 512
    compared_folds: int = 3
    scored: int = 750
    temperature: float = 12.0
    hedge: Hedge | None = field(default=Hedge(level=0.22))

    def folds_of(self, samples: int) -> int:
        """How many parts so many samples are dealt into: the fewer samples, the more."""
        fewest, most = self.folds
        return min(max(self.boosted // samples, fewest), most)


DEFAULT = Recipe()
ALL_LINEAR = 65_536  # features that a linear fit takes in: as many sets of n bits, 512 MB


@dataclass(frozen=True)
class ProxyFit:
    """The terms and how they were found.

    Attributes:
        support: packed int64 (S, W). coefs: float64 (S,).
        r2, r2_linear: on samples left out of the fit, of this kind of fit and of a linear one.
        left_out: how many those are.
        effective: the free terms that the regression amounts to.
        note: how the terms were chosen, in words.
        predicted: the samples left out; None where there are none, or a recipe does not say.
    """

    support: Tensor
    coefs: Tensor
    r2: float
    r2_linear: float
    left_out: int
    effective: float
    note: str
    predicted: LeftOut | None = None


def fit_default(
    masks: Tensor,
    values: Tensor,
    n: int,
    *,
    degree: int,
    terms: int | None = None,
    seed: int = 0,
    together: int = 1,
    recipe: Recipe = DEFAULT,
) -> list[ProxyFit]:
    """Each output by itself; all share the masks, the folds and one call of the boosting kernel.

    Args: masks: packed int64 (T, W), T >= 8. values: float64 (q, T), no row all equal. degree: the
          largest order of a term. terms: to fit, at most; None as the recipe says.
          together: so many neighbours are in one fold, because their masks are alike.
    """
    mean = torch.tensor([mean_of(row) for row in values], dtype=torch.float64)
    y = values - mean[:, None]
    unit = y.abs().amax(1)
    y = y / unit[:, None]
    fold = folds(len(masks), recipe.folds_of(len(masks)), seed, together)
    fits = []
    for i, spectra in enumerate(bag_spectra(masks, y, n, fold, degree, recipe)):
        with one_thread():  # many small steps: a second thread costs more than it does
            support, row = choose_support(spectra, recipe.candidates)
            problem = Problem(masks, y[i], fold, spectra, support, row, recipe)
            fits.append(fit_problem(problem, terms, float(mean[i]), float(unit[i])))
    return fits


def bag_spectra(
    masks: Tensor, y: Tensor, n: int, fold: np.ndarray, degree: int, recipe: Recipe
) -> list[Spectra]:
    """For each output the spectra of the ensembles on the samples outside each fold, one depth
    after the other: with D depths columns D k to D k + D - 1 have not seen fold k."""
    count = int(fold.max()) + 1
    depths = [max(1, degree - less) for less in recipe.depths] * count
    bags = bits.pack(np.repeat(np.arange(count), len(recipe.depths))[:, None] != fold)
    forest = ops.boost(
        masks,
        y.repeat_interleave(len(depths), 0),
        n,
        bags=bags.repeat(len(y), 1),
        depth=depths * len(y),
        trees=recipe.trees,
        rate=recipe.rate,
        leaves=recipe.leaves,
        min_leaf=recipe.min_leaf,
    )
    out = []
    for i in range(len(y)):
        own = forest.group // len(depths) == i
        packed, coefs = ops.tree_fourier(
            *(forest.roots[own], forest.feature, forest.absent, forest.present, forest.value, n),
            group=forest.group[own] % len(depths),
            groups=len(depths),
            limit=recipe.spectrum,
        )
        varying = (packed != 0).any(1)
        terms = terms_of(packed[varying], n, degree)
        out.append(Spectra(terms, coefs[varying].numpy(), len(recipe.depths), recipe.exponent))
    return out


@dataclass(frozen=True, eq=False)
class Problem:
    """One output, its folds, and the terms that may be fitted.

    Attributes:
        masks: packed int64 (T, W). values: float64 (T,). fold: int64 (T,).
        spectra: of the bags. support: terms; row: their rows in spectra (choose_support).
    """

    masks: Tensor
    values: Tensor
    fold: np.ndarray
    spectra: Spectra
    support: Terms
    row: np.ndarray
    recipe: Recipe
    seen: dict[int | None, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    def split(self, k: int, most: int | None = None) -> tuple[Tensor, Tensor]:
        """Samples outside fold k and in it, at most so many of each, at even distances: they may
        have come in some order."""
        parts = np.flatnonzero(self.fold != k), np.flatnonzero(self.fold == k)
        sizes = (min(len(part), most or len(part)) for part in parts)
        return tuple(
            torch.from_numpy(part[np.arange(size) * len(part) // size])
            for part, size in zip(parts, sizes, strict=True)
        )

    def priors(self, k: int | None = None) -> dict[str, np.ndarray]:
        """The prior variances by name as the trees outside fold k see them, or all trees."""
        if k not in self.seen:
            self.seen[k] = prior_variances(self.spectra, k, self.support, self.row)
        return self.seen[k]

    def blend(self, mixture: dict[str, float], k: int | None = None) -> np.ndarray:
        """The mixture of the priors: float64 (S,)."""
        priors = self.priors(k)
        zero = np.zeros(())
        return sum((share * priors[name] for name, share in mixture.items() if share), zero)

    @property
    def count(self) -> int:
        """Of the folds."""
        return int(self.fold.max()) + 1

    def folds(self, few: int) -> range:
        """The folds to look at: all of a small problem, else a few."""
        return range(
            self.count if len(self.values) <= self.recipe.compared else min(few, self.count)
        )


def fit_problem(problem: Problem, terms: int | None, mean: float, unit: float) -> ProxyFit:
    """The mixture of priors with a share of a linear fit, enough to predict samples left out no
    worse than that fit does; the better one alone where `terms` are asked for, or there are more
    features than terms to fit."""
    recipe = problem.recipe
    half = int(recipe.share * len(problem.values))
    size = terms or min(max(half, recipe.candidates), recipe.most)
    mixture, level, linear_level = compare_priors(problem)
    left_out, cut = without_them(problem, mixture, level, linear_level, size, terms)
    truth = problem.values.numpy()[left_out.rows]
    errors = left_out.fitted - truth, cut - truth
    straight, line = bound(*errors), single_features(problem.support)
    if recipe.hedge is None or terms is not None or len(line[1]) > size:
        straight = float(straight > 0.0)
    else:
        squares = errors[0] ** 2, errors[1] ** 2
        doubt = recipe.hedge.share_of_line(*squares, truth.var(), len(problem.values))
        straight = max(straight, doubt)
    priors: list[tuple[float, Terms, np.ndarray, float]] = []
    if straight < 1.0:
        own = take(problem.support, problem.blend(mixture), size)
        priors.append((1.0 - straight, *own, level))
    if straight:
        priors.append((straight, *line, linear_level))
    parts = [
        (share, *regression(problem, chosen, variance, noise, terms))
        for share, chosen, variance, noise in priors
    ]
    support, coefs = added([(where, share * unit * found) for share, where, found, _ in parts])
    coefs[0] += mean
    effective = sum(share * fit.effective for share, *_, fit in parts)
    fitted = (1.0 - straight) * left_out.fitted + straight * cut
    return ProxyFit(
        *(support, coefs, r2(truth, fitted), r2(truth, left_out.linear), len(truth)),
        effective=min(effective, float(len(coefs))),  # none of it in the dust
        note=described(
            problem.count, recipe, mixture, straight, max(f.residual for *_, f in parts)
        ),
        predicted=dataclasses.replace(left_out, fitted=fitted).in_units(mean, unit),
    )


def regression(
    problem: Problem, terms: Terms, variance: np.ndarray, level: float, most: int | None
) -> tuple[Tensor, Tensor, Fit]:
    """Of all samples on those terms and a constant: the `most` strongest without dust, and the
    fit."""
    support, variances = with_constant(terms, variance)
    fit = ridge(problem.masks, problem.values, support, variances, level)
    return *without_dust(*strongest(support, fit.coefs, most)), fit


def described(
    folds: int, recipe: Recipe, mixture: dict[str, float], straight: float, residual: float
) -> str:
    """A result in words, for the report."""
    if straight == 1.0:
        note = "a linear fit: the samples left out speak for no more"
    else:
        prior = ", ".join(f"{name} {share:.0%}" for name, share in mixture.items() if share)
        note = f"{folds} bags of {len(recipe.depths)} x {recipe.trees} trees; prior {prior}"
        if straight:
            note += f"; with {straight:.0%} of a linear fit"
    if residual:
        note += f"; conjugate gradients stopped at a residual of {residual:.0e}"
    return note


def without_them(
    problem: Problem,
    mixture: dict[str, float],
    level: float,
    linear_level: float,
    size: int,
    terms: int | None,
) -> tuple[LeftOut, np.ndarray]:
    """What fits to the other folds make of some folds, and what the `terms` strongest of a linear
    one do."""
    recipe, linear = problem.recipe, single_features(problem.support)
    few = terms is not None and terms < len(linear[1])
    parts = []
    for k in problem.folds(-(-recipe.scored * problem.count // len(problem.values))):
        inside, outside = problem.split(k)
        chosen = take(problem.support, problem.blend(mixture, k), size)
        fitted = predict(problem, *chosen, level, inside, outside)
        straight = *linear, linear_level, inside, outside
        line = predict(problem, *straight)
        cut = predict(problem, *straight, terms) if few else line
        parts.append((outside.numpy(), fitted, line, cut))
    *three, cut = (np.concatenate(each) for each in zip(*parts, strict=True))
    return LeftOut(*three), cut


def single_features(support: Terms) -> tuple[Terms, np.ndarray]:
    """The terms of a linear function and their prior variances: all features, or up to ALL_LINEAR
    of them, those of a support."""
    n = support.n
    if n <= ALL_LINEAR:
        single = Terms(n, np.arange(n, dtype=np.int32)[:, None])
    else:
        single = support[support.orders == 1]
    return single, np.full(len(single.sets), 1.0 / len(single.sets))


def compare_priors(problem: Problem) -> tuple[dict[str, float], float, float]:
    """How far to trust each prior: name -> weight, by how well it predicts the samples left out;
    the best level of the mixture, and that of the linear prior alone."""
    recipe = problem.recipe
    n, packed = problem.support.n, problem.support.packed()
    parts = []
    for k in problem.folds(recipe.compared_folds):
        inside, outside = problem.split(k, recipe.compared)
        rows = torch.cat([inside, outside])
        z = signs(ops.parity_bits(problem.masks[rows], packed), len(rows))  # (S, rows)
        covariances = {
            name: linear_covariance(problem.masks[rows], len(inside), n)
            if name == "linear" and n <= ALL_LINEAR
            else prior_covariance(z, variance, len(inside), recipe.compared_terms)
            for name, variance in problem.priors(k).items()
        }
        parts.append((covariances, problem.values[inside], problem.values[outside]))

    def errors(of: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
        """Of one covariance of each part, on all samples left out, at each of LEVELS."""
        return sum(path_errors(of(covariances), *y).sum(0) for covariances, *y in parts)

    by_prior = {name: errors(itemgetter(name)) for name in parts[0][0]}
    count = sum(len(outside) for *_, outside in parts)
    mixture = shares_of(by_prior, count, recipe.temperature)
    mixed = {name: share for name, share in mixture.items() if share}
    if len(mixed) == 1:
        error = by_prior[next(iter(mixed))]
    else:
        error = errors(lambda cov: sum(share * cov[name] for name, share in mixed.items()))
    level, linear_level = (float(LEVELS[int(e.argmin())]) for e in (error, by_prior["linear"]))
    return mixture, level, linear_level


def take(support: Terms, variance: np.ndarray, size: int) -> tuple[Terms, np.ndarray]:
    """The terms of largest variance, with it."""
    top, share = largest(variance, size)
    return support[top], share


def with_constant(terms: Terms, variance: np.ndarray) -> tuple[Tensor, Tensor]:
    """Packed support and variances of the terms, after a constant of variance one."""
    packed = terms.packed()
    support = torch.cat([packed.new_zeros(1, packed.shape[1]), packed])
    return support, torch.from_numpy(np.append(1.0, variance))


def predict(
    problem: Problem,
    terms: Terms,
    variance: np.ndarray,
    level: float,
    inside: Tensor,
    outside: Tensor,
    most: int | None = None,
) -> np.ndarray:
    """The ridge regression on some samples, or its so many strongest terms, at others."""
    support, variances = with_constant(terms, variance)
    mean = mean_of(problem.values[inside])
    y = problem.values[inside] - mean
    fit = ridge(problem.masks[inside], y, support, variances, level, trace=False)
    kept = strongest(support, fit.coefs, most)
    return (ops.parity_predict(problem.masks[outside], *kept) + mean).numpy()
