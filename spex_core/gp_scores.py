"""Stage 7'' of GPSPEX: how well the mixture predicts samples left out, beside a linear fit, and
what share of the result that fit is to have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from . import ops
from .gp_folds import Problem, Trial
from .gp_prior import Mixture, mixture_of
from .gp_process import posterior, spectrum
from .left_out import LeftOut
from .prior import Terms
from .sparse import added, strongest
from .transfers import down, up

LEAST_STDERR = 1e-3  # of values whose standard deviation is 1: less is of folds without an outlier


@dataclass(frozen=True)
class Scores:
    """On samples left out.

    Attributes:
        straight: the share of a linear fit that the result is to have.
        surprise: of the result's process, by how much squared errors are above their variances, one
        where those are right.
        predicted: the samples, and what the result and a linear fit make of them.
        whole: float64 (R,), what the result makes of them before small terms are left out.
    """

    straight: float
    surprise: float
    predicted: LeftOut
    whole: np.ndarray


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is made of a fold by fits that have not seen it.

    Attributes:
        rows: int64 (R,), the samples. masks: theirs, packed (R, W).
        process, linear: of the mixture and of a linear fit.
    """

    rows: np.ndarray
    masks: Tensor
    process: Prediction
    linear: Prediction

    def both(self, share: float, terms: int) -> np.ndarray:
        """What the result makes of them that has so much of the linear fit: float64 (R,)."""
        if share in (0.0, 1.0):
            return (self.linear if share else self.process).kept
        parts = [(1.0 - share, self.process), (share, self.linear)]
        support, coefs = added([(one.terms.packed(), part * one.coefs) for part, one in parts])
        if len(coefs) > terms + 1:
            return values_at(self.masks, *strongest(support, coefs, terms))
        return (1.0 - share) * self.process.kept + share * self.linear.kept


@dataclass(frozen=True, eq=False)
class Prediction:
    """By one process: values and their standard errors, float64 (R,), and the values by its largest
    terms, whose coefficients are float64 (S,)."""

    whole: np.ndarray
    stderr: np.ndarray
    kept: np.ndarray
    terms: Terms
    coefs: Tensor


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
    rows = np.concatenate([part.rows for part in parts])
    values = problem.values.numpy()[rows]
    kept = np.concatenate([part.process.kept for part in parts])
    line = np.concatenate([part.linear.kept for part in parts])
    squares = (kept - values) ** 2, (line - values) ** 2
    straight = problem.recipe.hedge.share_of_line(*squares, values.var(), len(problem.values))
    if problem.n > terms:
        straight = float(straight > 0.5)
    linear = np.concatenate([part.linear.whole for part in parts])
    both = np.concatenate([part.both(straight, terms) for part in parts])
    base = [part.linear if straight == 1.0 else part.process for part in parts]
    whole = np.concatenate([one.whole for one in base])
    variances = np.concatenate([np.maximum(one.stderr, LEAST_STDERR) ** 2 for one in base])
    return Scores(
        straight=straight,
        surprise=surprise((whole - values) ** 2, variances),
        predicted=LeftOut(rows, both, linear),
        whole=(1.0 - straight) * whole + straight * linear,
    )


def surprise(squares: np.ndarray, variances: np.ndarray) -> float:
    """By how much squared errors are above their variances, one where those are right: in the mean
    over samples, or of the means where that is more, since few samples may have nearly all."""
    return float(max((squares / variances).mean(), squares.mean() / variances.mean()))


def predictions(
    problem: Problem, one: Trial, mixture: Mixture, level: float, linear_level: float, terms: int
) -> Predictions:
    """All samples in a fold, by fits to those outside it."""
    inside, outside = problem.split(one.fold)
    masks, unseen = (problem.masks_at(rows) for rows in (inside, outside))
    y = problem.values[inside]
    found = []
    for prior, noise in ((mixture, level), (mixture_of(one.priors, {"linear": 1.0}), linear_level)):
        process = posterior(problem.n, masks, y, prior, noise)
        kept, coefs, _ = spectrum(process, terms, problem.recipe.candidates)
        coefs[0] += process.mean
        values, stderr = process.predict_there(unseen)
        assert stderr is not None  # they are asked for
        by_terms = values_at(unseen, kept.packed(), coefs)
        found.append(Prediction(values, stderr, by_terms, kept, coefs))
    return Predictions(outside.numpy(), unseen, *found)


def values_at(masks: Tensor, support: Tensor, coefs: Tensor) -> np.ndarray:
    """What a transform of the host makes of masks of any device: float64 (rows,)."""
    there = up(support, masks.device), up(coefs, masks.device)
    return down(ops.parity_predict(masks, *there)).numpy()
