"""Stage 7'' of GPSPEX: how well the mixture predicts samples left out, beside a linear fit, and
what share of the result that fit is to have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from . import ops
from .gp_folds import GpRecipe, Problem, Trial
from .gp_prior import Mixture, mixture_of
from .gp_process import Process, posterior, spectrum
from .left_out import LeftOut
from .proxy import strongest
from .sums import added
from .transfers import down, up

LEAST_STDERR = 1e-3  # of values whose standard deviation is 1: less is of folds without an outlier


@dataclass(frozen=True)
class Scores:
    """On samples left out.

    Attributes:
        straight: the share of a linear fit that the result is to have.
        surprise: of the result's process, the mean square of the errors over their standard
        deviations, one where those are right.
        predicted: the samples, and what the result and a linear fit make of them.
        whole: float64 (R,), what the result makes of them before small terms are left out.
    """

    straight: float
    surprise: float
    predicted: LeftOut
    whole: np.ndarray


def score(
    problem: Problem,
    trials: list[Trial],
    shares: dict[str, float],
    level: float,
    linear_level: float,
    terms: int,
) -> Scores:
    """How well the largest `terms` of the mixture's process, of a linear fit, or of both predict
    samples left out; of both only where a linear fit has no more."""
    folds = int(problem.fold.max()) + 1
    parts = [
        predictions(problem, one, mixture_of(one.priors, shares), level, linear_level, terms)
        for one in trials[: -(-problem.recipe.scored * folds // len(problem.values))]
    ]
    by = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    values = problem.values.numpy()[by["rows"]]
    squares = {name: (by[name] - values) ** 2 for name in ("process", "terms", "linear", "line")}
    straight = share_of_line(squares["terms"], squares["line"], problem.recipe)
    if straight < 1.0 and problem.n > terms:
        straight = 0.0
    process = "linear" if straight == 1.0 else "process"
    fitted = {0.0: by["terms"], 1.0: by["line"]}.get(straight, by["both"])
    stderr = np.maximum(by[f"{process} stderr"], LEAST_STDERR)
    return Scores(
        straight=straight,
        surprise=float((squares[process] / stderr**2).mean()),
        predicted=LeftOut(by["rows"], fitted, by["linear"]),
        whole=(1.0 - straight) * by["process"] + straight * by["linear"],
    )


def share_of_line(terms: np.ndarray, line: np.ndarray, recipe: GpRecipe) -> float:
    """The share of a linear fit, from its squared errors and those of the terms on samples left
    out, float64 (R,) each: all where it is better by more than the doubt, none where the terms
    clearly are."""
    limit = recipe.clip * min(terms.mean(), line.mean())
    gain = np.minimum(line, limit) - np.minimum(terms, limit)
    doubt = gain.std() / len(gain) ** 0.5
    if gain.mean() < -recipe.caution * doubt:
        return 1.0
    errors, ranks = recipe.clear
    clear = gain.mean() > errors * doubt or signed_ranks(np.sqrt(line) - np.sqrt(terms)) > ranks
    return 0.0 if clear else recipe.hedge


def signed_ranks(differences: np.ndarray) -> float:
    """Wilcoxon's statistic in standard deviations: float64 (R,) -> how much is above zero."""
    rank = np.argsort(np.argsort(np.abs(differences), kind="stable"), kind="stable") + 1.0
    return float(np.sign(differences) @ rank / np.linalg.norm(rank))


def predictions(
    problem: Problem, one: Trial, mixture: Mixture, level: float, linear_level: float, terms: int
) -> dict[str, np.ndarray]:
    """All samples in a fold, and what those outside it make of them: by the process and by a linear
    fit, with their standard errors, by the largest terms of either ("terms", "line") and of their
    sum ("both")."""
    inside, outside = problem.split(one.fold)
    masks, unseen = (problem.masks_at(rows) for rows in (inside, outside))
    y = problem.values[inside]
    fitted = posterior(problem.n, masks, y, mixture, level)
    mean, stderr = fitted.predict_there(unseen)
    kept = transform_of(fitted, terms, problem.recipe)
    from_terms = values_at(unseen, *kept)
    linear = mixture_of(one.priors, {"linear": 1.0})
    straight = posterior(problem.n, masks, y, linear, linear_level)
    line, line_stderr = straight.predict_there(unseen)
    kept_line, from_line = transform_of(straight, terms, problem.recipe), line
    if problem.n > terms:
        from_line = values_at(unseen, *kept_line)
    share = problem.recipe.hedge
    both = added([(kept[0], (1.0 - share) * kept[1]), (kept_line[0], share * kept_line[1])])
    from_both = (1.0 - share) * from_terms + share * from_line
    if len(both[1]) > terms + 1:
        from_both = values_at(unseen, *strongest(*both, terms))
    return {
        "rows": outside.numpy(),
        "process": mean,
        "process stderr": stderr,
        "terms": from_terms,
        "linear": line,
        "linear stderr": line_stderr,
        "line": from_line,
        "both": from_both,
    }


def transform_of(process: Process, terms: int, recipe: GpRecipe) -> tuple[Tensor, Tensor]:
    """The constant and the largest terms of a process whose unit is one, packed, and their
    coefficients."""
    kept, coefs, _ = spectrum(process, terms, recipe.candidates)
    coefs[0] += process.mean
    return kept.packed(), coefs


def values_at(masks: Tensor, support: Tensor, coefs: Tensor) -> np.ndarray:
    """What a transform of the host makes of masks of any device: float64 (rows,)."""
    there = up(support, masks.device), up(coefs, masks.device)
    return down(ops.parity_predict(masks, *there)).numpy()
