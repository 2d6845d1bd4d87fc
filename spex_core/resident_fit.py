"""The default fit of ProxySPEX on a device: the stages of proxy.py, in torch.

The host reads numbers that say what comes next: errors by prior and level, and how long an index
became.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .hedge import CLIP, NO_WORSE
from .left_out import FOLDS, LEVELS, linear_covariance, shares_of
from .proxy import ALL_LINEAR, DEFAULT, ProxyFit, Recipe, described
from .resident import r_squared
from .resident_prior import TINY, Spectra, Terms, choose_support, prior_variances, terms_of
from .ridge import Fit, ridge, ridge_path, signs
from .sparse import added, strongest, without_dust
from .transfers import Transfers


def fit(
    masks: Tensor,
    values: Tensor,
    n: int,
    transfers: Transfers,
    *,
    degree: int,
    terms: int | None,
    seed: int,
    recipe: Recipe = DEFAULT,
) -> list[ProxyFit]:
    """proxy.fit_default: masks packed (T, W) and values (q, T) of the device."""
    mean = values.mean(1)
    y = values - mean[:, None]
    unit = y.abs().amax(1)
    y = y / unit[:, None]
    count = recipe.folds_of(len(masks))
    keys = ops.uniform_masks(1, 64 * len(masks), seed=seed, stream=FOLDS, device=masks.device)[0]
    fold = torch.empty_like(keys)
    fold[keys.argsort(stable=True)] = torch.arange(len(keys), device=keys.device) % count
    fits = []
    for i, spectra in enumerate(bag_spectra(masks, y, n, fold, count, degree, recipe)):
        support, row = choose_support(spectra, recipe.candidates)
        problem = Problem(masks, y[i], fold, count, spectra, support, row, recipe)
        fits.append(fit_problem(problem, terms, mean[i], unit[i], transfers))
    return fits


def bag_spectra(
    masks: Tensor,
    y: Tensor,
    n: int,
    fold: Tensor,
    count: int,
    degree: int,
    recipe: Recipe,
) -> list[Spectra]:
    """proxy.bag_spectra: of `count` folds int64 (T,)."""
    depths = [max(1, degree - less) for less in recipe.depths] * count
    left_out = torch.arange(count, device=fold.device).repeat_interleave(len(recipe.depths))
    forest = ops.boost(
        masks,
        y.repeat_interleave(len(depths), 0),
        n,
        bags=bits.pack_there(left_out[:, None] != fold).repeat(len(y), 1),
        depth=depths * len(y),
        trees=recipe.trees,
        rate=recipe.rate,
        leaves=recipe.leaves,
        min_leaf=recipe.min_leaf,
    )
    out = []
    for i in range(len(y)):
        own = forest.group // len(depths) == i
        sets, coefs = ops.tree_fourier(
            *(forest.roots[own], forest.feature, forest.absent, forest.present, forest.value, n),
            group=forest.group[own] % len(depths),
            groups=len(depths),
            limit=recipe.spectrum,
        )
        varying = (sets != 0).any(1)
        terms = terms_of(sets[varying], n, degree)
        out.append(Spectra(terms, coefs[varying], len(recipe.depths), recipe.exponent))
    return out


@dataclass(frozen=True, eq=False)
class Problem:
    """proxy.Problem on a device; `count` folds."""

    masks: Tensor
    values: Tensor
    fold: Tensor
    count: int
    spectra: Spectra
    support: Terms
    row: Tensor
    recipe: Recipe
    seen: dict[int | None, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def split(self, k: int, most: int | None = None) -> tuple[Tensor, Tensor]:
        parts = []
        for inside in (self.fold != k, self.fold == k):
            part = inside.nonzero()[:, 0]
            size = min(len(part), most or len(part))
            parts.append(part[torch.arange(size, device=part.device) * len(part) // size])
        return parts[0], parts[1]

    def priors(self, k: int | None = None) -> dict[str, Tensor]:
        if k not in self.seen:
            self.seen[k] = prior_variances(self.spectra, k, self.support, self.row)
        return self.seen[k]

    def blend(self, mixture: dict[str, float], k: int | None = None) -> Tensor:
        priors = self.priors(k)
        return torch.stack([share * priors[name] for name, share in mixture.items()]).sum(0)

    def folds(self, few: int) -> range:
        whole = len(self.values) <= self.recipe.compared
        return range(self.count if whole else min(few, self.count))


def fit_problem(
    problem: Problem, terms: int | None, mean: Tensor, unit: Tensor, transfers: Transfers
) -> ProxyFit:
    """proxy.fit_problem, its result on the host."""
    recipe, total = problem.recipe, len(problem.values)
    size = terms or min(max(int(recipe.share * total), recipe.candidates), recipe.most)
    mixture, level, linear_level = compare_priors(problem, transfers)
    linear = single_features(problem.support)
    few = terms is not None and terms < len(linear[1])
    fits = []
    for k in problem.folds(-(-recipe.scored * problem.count // total)):
        inside, outside = problem.split(k)
        chosen = largest(problem.blend(mixture, k), size)
        own = predict(problem, problem.support[chosen[0]], chosen[1], level, inside, outside)
        line = *linear, linear_level, inside, outside
        of_linear = predict(problem, *line)
        cut = predict(problem, *line, terms) if few else of_linear
        fits.append(torch.stack([problem.values[outside], own, of_linear, cut]))
    truth, fitted, of_linear, cut = torch.cat(fits, 1)
    errors = fitted - truth, cut - truth
    straight, explained, z = transfers.down(evidence_there(*errors, truth)).tolist()
    if recipe.hedge is None or terms is not None or len(linear[1]) > size:
        straight = float(straight > 0.0)
    else:
        straight = max(straight, recipe.hedge.share(explained, z, total))
    fitted = (1.0 - straight) * fitted + straight * cut
    scores = torch.stack([r_squared(truth, x) for x in (fitted, of_linear)])
    priors: list[tuple[float, Terms, Tensor, float]] = []
    if straight < 1.0:
        rows, variance = largest(problem.blend(mixture), size)
        priors.append((1.0 - straight, problem.support[rows], variance, level))
    if straight:
        priors.append((straight, *linear, linear_level))
    parts = [
        (share, *regression(problem, chosen, variance, noise, terms))
        for share, chosen, variance, noise in priors
    ]
    support, coefs = added(
        [
            (transfers.down(where), transfers.down(share * unit * found))
            for share, where, found, _ in parts
        ]
    )
    coefs[0] += float(transfers.down(mean))
    effective = sum(share * fit.effective for share, *_, fit in parts)
    score, score_linear = transfers.down(scores).tolist()
    return ProxyFit(
        *(support, coefs, score, score_linear, len(truth)),
        effective=min(effective, float(len(coefs))),
        note=described(
            problem.count, recipe, mixture, straight, max(f.residual for *_, f in parts)
        ),
    )


def evidence_there(terms: Tensor, line: Tensor, truth: Tensor) -> Tensor:
    """hedge.bound and hedge.evidence of errors of the device: float64 (3,)."""
    apart = terms - line
    most = -NO_WORSE * (line * apart).sum() / (apart * apart).sum().clamp(min=TINY)
    terms, line = terms**2, line**2
    limit = CLIP * torch.minimum(terms.mean(), line.mean())
    terms, line = terms.minimum(limit), line.minimum(limit)
    gain, lost = line - terms, terms.mean()
    z = gain.mean() / (gain.std(correction=0) / len(gain) ** 0.5).clamp(min=TINY)
    explained = 1.0 - lost / truth.var(correction=0).maximum(1e-9 * lost).clamp(min=TINY)
    return torch.stack([1.0 - most.clamp(0.0, 1.0), explained, z])


def regression(
    problem: Problem, terms: Terms, variance: Tensor, level: float, most: int | None
) -> tuple[Tensor, Tensor, Fit]:
    """proxy.regression."""
    support, variances = with_constant(terms, variance)
    fit = ridge(problem.masks, problem.values, support, variances, level)
    return *without_dust(*strongest(support, fit.coefs, most)), fit


def single_features(support: Terms) -> tuple[Terms, Tensor]:
    """proxy.single_features."""
    n, device = support.n, support.sets.device
    if n <= ALL_LINEAR:
        single = Terms(n, torch.arange(n, device=device)[:, None])
    else:
        single = support[(support.orders == 1).nonzero()[:, 0]]
    share = 1.0 / len(single.sets)
    return single, torch.full((len(single.sets),), share, dtype=torch.float64, device=device)


def compare_priors(problem: Problem, transfers: Transfers) -> tuple[dict[str, float], float, float]:
    """proxy.compare_priors: the host reads the errors of each prior, and of the mixture, at each of
    LEVELS."""
    n, recipe, support = problem.support.n, problem.recipe, problem.support.packed()
    levels = transfers.up(LEVELS)
    parts = []
    for k in problem.folds(recipe.compared_folds):
        inside, outside = problem.split(k, recipe.compared)
        rows = torch.cat([inside, outside])
        z = signs(ops.parity_bits(problem.masks[rows], support), len(rows))  # (S, rows)
        covariances = {
            name: linear_covariance(problem.masks[rows], len(inside), n)
            if name == "linear" and n <= ALL_LINEAR
            else prior_covariance(z, variance, len(inside), recipe.compared_terms)
            for name, variance in problem.priors(k).items()
        }
        parts.append((covariances, problem.values[inside], problem.values[outside]))

    def errors(shares: dict[str, float]) -> Tensor:
        """Of a mixture, on all samples left out, at each of LEVELS."""
        total = torch.zeros_like(levels)
        for covariances, inside, outside in parts:
            mixed = torch.stack([share * covariances[name] for name, share in shares.items()])
            total = total + path_errors(mixed.sum(0), inside, outside, levels).sum(0)
        return total

    names = list(parts[0][0])
    by_prior = transfers.down(torch.stack([errors({name: 1.0}) for name in names]))
    count = sum(len(outside) for *_, outside in parts)
    every = shares_of(dict(zip(names, by_prior, strict=True)), count, recipe.temperature)
    mixture = {name: share for name, share in every.items() if share}
    of_mixture = by_prior[names.index(next(iter(mixture)))]
    if len(mixture) > 1:
        of_mixture = transfers.down(errors(mixture))
    of_linear = by_prior[names.index("linear")]
    level, linear_level = (float(LEVELS[int(e.argmin())]) for e in (of_mixture, of_linear))
    return mixture, level, linear_level


def prior_covariance(z: Tensor, variance: Tensor, inside: int, most: int) -> Tensor:
    """left_out.prior_covariance."""
    top, share = largest(variance, most)
    scaled_signs = z[top] * share.sqrt()[:, None].float()
    return 1.0 + scaled_signs.T @ scaled_signs[:, :inside]


def path_errors(covariance: Tensor, inside: Tensor, outside: Tensor, levels: Tensor) -> Tensor:
    """left_out.path_errors."""
    mean = inside.mean()
    duals = ridge_path(covariance[: len(inside)], inside - mean, levels)
    fitted = (covariance[len(inside) :] @ duals).double() + mean
    return (fitted - outside[:, None]).square()


def largest(variance: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """left_out.largest."""
    top = (-variance).argsort(stable=True)[:size]
    top = top[variance[top] > 0]
    return top, variance[top] / variance[top].sum()


def with_constant(terms: Terms, variance: Tensor) -> tuple[Tensor, Tensor]:
    """proxy.with_constant."""
    support = terms.packed()
    one = variance.new_ones(1)
    return torch.cat([support.new_zeros(1, support.shape[1]), support]), torch.cat([one, variance])


def predict(
    problem: Problem,
    terms: Terms,
    variance: Tensor,
    level: float,
    inside: Tensor,
    outside: Tensor,
    most: int | None = None,
) -> Tensor:
    """proxy.predict."""
    support, variances = with_constant(terms, variance)
    mean = problem.values[inside].mean()
    y = problem.values[inside] - mean
    found = ridge(problem.masks[inside], y, support, variances, level, trace=False)
    kept = strongest(support, found.coefs, most)
    return ops.parity_predict(problem.masks[outside], *kept) + mean
