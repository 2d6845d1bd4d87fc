"""Stage 6'' of GPSPEX: the posterior of a set function given its values at some masks, and its
spectrum in closed form, F[k] = sum_t dual[t] cov(F[k], f(m_t))."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .gp_prior import BLOCK, Mixture, likely_terms
from .left_out import mean_of
from .prior import Terms
from .ridge import one_thread
from .sparse import DUST
from .transfers import down, up

PROBES, PROBE = 1024, 34  # masks at which a result is held against its process, and their stream
DOUBT = 2.0  # standard errors of what is found there
ROUNDING = 1e-24  # a variance of a mean that is none, where that of the values is 1


@dataclass(frozen=True, eq=False)
class Process:
    """The posterior of a set function given its values at some masks, and the result that is made
    of its mean: share * mean + rest, before small terms are left out.

    Attributes:
        n: features. masks: packed int64 (T, W). mixture: the prior, but for its scale.
        dual: float64 (T,). factor: float64 (T, T), Cholesky, of covariance + level. Masks, dual and
        factor are where the fit was, on a device or the host; all that is asked of a process is
        taken and given on the host.
        level: the variance of the noise of one sample. mean, unit: of the values. scale: of the
        prior and the noise, in units of unit**2.
        hidden: variance of each coefficient that the noise may stand for, in units of that scale.
        share, rest: of the result: one and None where that is the posterior mean. rest is a
        transform, packed int64 (S, W) and float64 (S,), in the unit of f.
        wide, features: the features that masks to predict have, and which of them are the n here;
        None where they are the same.
    """

    n: int
    masks: Tensor
    mixture: Mixture
    dual: Tensor
    factor: Tensor
    level: float
    mean: float
    unit: float
    scale: float
    hidden: float = 0.0
    share: float = 1.0
    rest: tuple[Tensor, Tensor] | None = None
    wide: int | None = None
    features: np.ndarray | None = None

    def of_all(self, n: int, features: np.ndarray, power: int) -> Process:
        """The same for masks of n features, of which `features` are those here, and values times
        2**power."""
        mean, unit = np.ldexp([self.mean, self.unit], power).tolist()
        process = dataclasses.replace(self, mean=mean, unit=unit)
        if self.rest is not None:
            coefs = torch.from_numpy(np.ldexp(self.rest[1].numpy(), power))
            process = dataclasses.replace(process, rest=(self.rest[0], coefs))
        if len(features) == n:
            return process
        return dataclasses.replace(process, wide=n, features=features)

    def predict(
        self, masks: np.ndarray | Tensor, *, stderr: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """f at each mask as the result has it, before small terms are left out, and the standard
        deviation of what is off, the noise included: float64 (T,) each. Where the result is not the
        posterior mean, its distance from that counts as off too.

        Args:   masks: bool (T, n), NumPy or torch; or a packed int64 tensor (T, W).
                stderr: None instead of the deviations if False, for speed.
        Raises: TypeError, ValueError as SparseTransform.predict.
        Cost:   a kernel of the masks with the T samples, and for errors T**2 products a mask; 1,024
                masks at a time, so memory does not grow with them.
        Source: Rasmussen and Williams 2006, algorithm 2.1.
        Example: mean, stderr = gpspex(f, n=30, budget=100).process.predict(masks)
        """
        rows = self.narrow(bits.pack_batch("predict", masks, self.wide or self.n))
        return self.predict_there(self.there(rows), stderr=stderr)

    def predict_there(
        self, rows: Tensor, *, stderr: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The same of packed masks of the n features, where the process is."""
        out = [self._predicted(part, stderr) for part in rows.split(BLOCK)]
        mean = np.concatenate([np.zeros(0), *(part[0] for part in out)])
        return mean, np.concatenate([np.zeros(0), *(part[1] for part in out)]) if stderr else None

    def _predicted(self, rows: Tensor, stderr: bool) -> tuple[np.ndarray, np.ndarray]:
        """As predict_there; without stderr, of no length."""
        cross = self.mixture.covariance(rows, self.masks)
        with one_thread():
            own = down(cross @ self.dual).numpy() * self.unit + self.mean
            mean = self.share * own
            if self.rest is not None:
                rest = ops.parity_predict(rows, *map(self.there, self.rest))
                mean += down(rest).numpy()
            if not stderr:
                return mean, np.zeros(0)
            known = torch.linalg.solve_triangular(self.factor, cross.T, upper=False)
            variance = down(self.mixture.diagonal(rows) - known.square().sum(0))
        variance = self.scale * (variance.clamp(min=0.0) + self.level).numpy()
        return mean, self.unit * np.sqrt(variance + ((mean - own) / self.unit) ** 2)

    def there(self, x: Tensor) -> Tensor:
        """A tensor of any device, where the process is."""
        return x if x.device == self.masks.device else up(x, self.masks.device)

    def narrow(self, masks: Tensor) -> Tensor:
        """Packed masks of all features -> of the n here."""
        if self.features is None or self.wide is None:
            return masks
        return bits.pack(bits.unpack(masks, self.wide)[:, self.features])

    def coefs(self, terms: Terms) -> tuple[Tensor, np.ndarray]:
        """The posterior mean of F[k] over `unit`, the mean of the values left out, and the prior
        variances: float64 (S,) each."""
        return self.mixture.coefs(self.masks, terms, self.dual), self.mixture.variance(terms)

    def stderr(self, terms: Terms, prior: np.ndarray) -> Tensor:
        """The root mean square error of F[k]: its posterior variance, what is hidden, and what
        shrinking takes off, as seen on the process's own mean: float64 (S,)."""
        out = torch.from_numpy(prior).clone()
        with one_thread():  # the mean of a process that is given what this one leaves
            again = torch.cholesky_solve(self.level * self.dual[:, None], self.factor)[:, 0]
        shrunk = self.mixture.coefs(self.masks, terms, again)
        for start in range(0, len(out), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(out)))
            cross = self.mixture.cross(self.masks, terms[rows])
            with one_thread():
                known = torch.linalg.solve_triangular(self.factor, cross.T, upper=False)
                out[rows] -= down(known.square().sum(0))
        out = out.clamp(min=0.0) + self.hidden
        return (self.scale * out + shrunk.square()).sqrt() * self.unit

    def effective(self) -> float:
        """The free terms that the fit amounts to, the trace of K (K + level)**-1."""
        total, size = len(self.dual), min(256, len(self.dual))
        column = torch.arange(size, device=self.dual.device)
        units = self.dual.new_zeros(total, size)
        units[column * total // size, column] = 1.0
        with one_thread():
            half = torch.linalg.solve_triangular(self.factor, units, upper=False)
        return total * (1.0 - self.level * float(half.square().sum(0).mean()))


def posterior(
    n: int,
    masks: Tensor,
    values: Tensor,
    mixture: Mixture,
    level: float,
    mean: float = 0.0,
    unit: float = 1.0,
) -> Process:
    """The process given values of the host, which are (f - mean) / unit, where the masks are."""
    offset = mean_of(values)
    y = up(values - offset, masks.device)
    covariance = mixture.covariance(masks, masks)
    with one_thread():
        covariance.diagonal().add_(level)
        factor = torch.linalg.cholesky(covariance)
        dual = torch.cholesky_solve(y[:, None], factor)[:, 0]
        scale = float(y @ dual) / len(y)
    return Process(n, masks, mixture, dual, factor, level, mean + unit * offset, unit, scale)


def spectrum(process: Process, terms: int, candidates: int) -> tuple[Terms, Tensor, np.ndarray]:
    """The constant and the terms of largest coefficient, largest first: terms, coefficients over
    `unit`, prior variances. Terms that hold next to nothing together are left out."""
    found = likely_terms(process.mixture, process.masks, process.dual, process.n, candidates)
    coefs, prior = process.coefs(found)
    energy = np.where(found.orders == 0, np.inf, coefs.square().numpy())
    top = np.argsort(-energy, kind="stable")[: terms + 1]
    held = np.cumsum(energy[top][:0:-1])[::-1]  # by a term and all smaller ones, but the constant
    top = top[: 1 + int((held > DUST * held[:1]).sum())]
    return found[top], coefs[top], prior[top]


def missed_share(process: Process, terms: Terms, coefs: Tensor) -> float:
    """The share of the variance of the process's mean that is not in these coefficients, which are
    over `unit`, as seen at uniform masks, and two standard errors more; in [0, 1]."""
    rows = process.there(ops.uniform_masks(PROBES, process.n, seed=0, stream=PROBE))
    alone = dataclasses.replace(process, mean=0.0, unit=1.0, share=1.0, rest=None)
    mean, _ = alone.predict_there(rows, stderr=False)
    given = process.there(terms.packed()), process.there(coefs)
    left = (mean - down(ops.parity_predict(rows, *given)).numpy()) ** 2
    missed, total = left.mean() + DOUBT * left.std() / len(left) ** 0.5, mean.var()
    return min(1.0, float(missed / total)) if total > ROUNDING else 0.0
