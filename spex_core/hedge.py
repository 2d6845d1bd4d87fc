"""What share of a result is to be a linear fit: the less its terms explain of samples left out, the
more. With few samples many terms look better there than they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TINY = float(np.finfo(float).tiny)
NO_WORSE = 1.998  # two, less a thousandth, which outdoes rounding
CLIP = 16.0  # squared errors count up to so many times the lesser mean, lest one sample decide


@dataclass(frozen=True)
class Hedge:
    """The rule; bench/bench_gp.py measures what comes of it.

    Attributes:
        level: R2 of the terms at which they have half of the result, with 50 samples; it falls as
        the fourth root of their number. slope: of the rule there. weight: of z, the standard errors
        by which squared errors of the terms are below those of the linear fit.
        beaten, steep: at z = `beaten` the linear fit has at least half, by a rule of this slope.
        least: a share below that, of either, is none.
    """

    level: float
    slope: float = 8.0
    weight: float = 0.2
    beaten: float = -2.0
    steep: float = 2.5
    least: float = 0.01

    def share(self, explained: float, z: float, samples: int) -> float:
        """The share of the linear fit beside terms that explain so much of samples left out,
        max(1 / (1 + exp(slope (R2 - level) + weight z)), 1 / (1 + exp(steep (z - beaten))))."""
        level = self.level * (50 / samples) ** 0.25
        doubt = self.slope * (level - explained) - self.weight * z
        doubt = max(doubt, self.steep * (self.beaten - z))
        share = 1.0 / (1.0 + math.exp(-min(max(doubt, -50.0), 50.0)))
        return float(round(share)) if min(share, 1.0 - share) < self.least else share

    def share_of_line(
        self, terms: np.ndarray, line: np.ndarray, variance: float, samples: int
    ) -> float:
        """`share`, from the squared errors of the terms and of the linear fit on samples left out,
        float64 (R,) each, whose values have that variance."""
        explained, z = evidence(terms, line, variance)
        return self.share(explained, z, samples)


def evidence(terms: np.ndarray, line: np.ndarray, variance: float) -> tuple[float, float]:
    """R2 of the terms and z, from squared errors."""
    limit = CLIP * min(terms.mean(), line.mean())
    terms, line = np.minimum(terms, limit), np.minimum(line, limit)
    gain, lost = line - terms, float(terms.mean())
    z = gain.mean() / max(gain.std() / len(gain) ** 0.5, TINY)
    return 1.0 - lost / max(variance, 1e-9 * lost, TINY), float(z)


def bound(terms: np.ndarray, line: np.ndarray) -> float:
    """The least share of the linear fit with which the sum has less squared error than that fit
    alone, from the errors of both on samples left out, float64 (R,) each; 1 if none has.

    With d = terms - line a share of 1 - u has |line|**2 + 2 u <line, d> + u**2 |d|**2: that of the
    line at u = -2 <line, d> / |d|**2.
    """
    apart = terms - line
    most = -NO_WORSE * float((line * apart).sum()) / max(float((apart * apart).sum()), TINY)
    return 1.0 - min(max(most, 0.0), 1.0)
