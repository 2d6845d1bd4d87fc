"""What ProxySPEX and GPSPEX share: masks at random and their values -> explanations, one for each
output, by a fit that each brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops, resident
from .backend import pick
from .budget import further_masks, plan_uniform
from .errors import check, check_int
from .evaluate import Shown
from .explanation import Explanation, Report
from .given import check_samples
from .gp import GpFit
from .gp_acquire import CANDIDATES, FEWEST, propose
from .hierarchy import hierarchy_rates
from .memory import freed_memory_kept
from .peel import beyond_rounding, with_constant
from .plan import SamplingPlan
from .proxy import ProxyFit
from .recipe import Answered, Clock, Found, Recipe, feature_names
from .resident_uniform import Run
from .samples import Samples, distinct, varying
from .transfers import up
from .transform import SparseTransform

LEAST = 8  # samples
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Algorithm:
    """A fit to masks at random, and how reports name it.

    Attributes:
        where: the public function, for errors. name, preset: as reports have them.
        kernel: the op whose backend is reported. degree: the largest order of a term.
        fit: (masks packed int64 (T, W), values float64 (q, T), n) -> one fit an output.
        device: where fit takes its masks.
    """

    where: str
    name: str
    preset: str
    kernel: str
    degree: int
    seed: int
    fit: Callable[[Tensor, Tensor, int], Sequence[ProxyFit]]
    device: torch.device = CPU


@dataclass(frozen=True)
class UniformRecipe(Recipe):
    """An algorithm on masks at random.

    Attributes:
        options: as Recipe has them.
        acquire: the quantity, as gp_acquire.propose has it, that a fit with a process chooses
        further masks for; None if they are uniform.
    """

    algorithm: Algorithm
    budget: int
    prefix_sharing: bool
    options: Mapping[str, object]
    acquire: str | None = "first"

    @property
    def name(self) -> str:
        return self.algorithm.name

    @property
    def seed(self) -> int:
        return self.algorithm.seed

    def plan(self, n: int) -> SamplingPlan:
        budget = check_int(f"{self.algorithm.where}: budget", self.budget, least_masks(n))
        return plan_uniform(n, budget, seed=self.seed, prefix_sharing=self.prefix_sharing)

    def fit(self, answered: Answered, clock: Clock) -> Found:
        return explain_values(
            self.algorithm,
            *(*answered.samples(), answered.names, clock),
            budget=self.budget,
            uniform=answered.whole,
            chosen=answered.chosen,
        )

    def propose(self, plan: SamplingPlan, count: int, found: Found | None) -> Tensor:
        """Where the last fit has a process: the masks that would tell it most about `acquire`.
        Uniform ones for several outputs, and while a feature has not varied yet."""
        process = None if found is None or isinstance(found, list) else found.process
        if self.acquire is None or process is None or process.features is not None:
            return super().propose(plan, count, found)
        candidates = further_masks(plan, max(FEWEST, CANDIDATES * count))
        few = min(count, len(candidates))
        return propose(process, few, quantity=self.acquire, candidates=candidates)


def explain_samples(
    algorithm: Algorithm, masks: object, values: object, features: Sequence[str] | None
) -> Explanation | list[Explanation]:
    """Fit masks and values that are there already."""
    dense, numbers = check_samples(algorithm.where, masks, values, many=True)
    names = feature_names(algorithm.where, dense.shape[1], features)
    clock = Clock()
    with clock("plan"):
        packed = bits.pack(dense)
    values = torch.from_numpy(numbers)
    return explain_values(
        algorithm, packed, values, names, clock, budget=len(packed), uniform=False
    )


def explain_values(
    algorithm: Algorithm,
    masks: Tensor,
    values: Tensor,
    names: tuple[str, ...],
    clock: Clock,
    *,
    budget: int,
    uniform: bool,
    chosen: int = 0,
) -> Explanation | list[Explanation]:
    """Masks packed int64 (T, W) and values float64 (T,) or (T, q) -> one explanation an output.
    uniform: whether the masks are known to be, but for those that a fit has chosen."""
    n = len(names)
    with clock("plan"):
        samples = distinct(masks, values, n)
        least = least_masks(n)
        check(
            len(samples.masks) >= least,
            "{}: masks must be at least {} different ones, got {}",
            *(algorithm.where, least, len(samples.masks)),
        )
        samples = varying(samples, uniform=uniform, chosen=chosen)
    with clock("fit"), freed_memory_kept():
        fits = _fit_outputs(algorithm, samples)
    out = explained(algorithm, samples, fits, names, clock, budget=budget, device=algorithm.device)
    return out if values.ndim == 2 else out[0]


def explain_on_device(
    recipe: UniformRecipe,
    run: Callable[..., Run],
    f: resident.DeviceFunction,
    names: tuple[str, ...],
    device: torch.device,
    *,
    batch_size: int,
    progress: Shown,
) -> Explanation | list[Explanation]:
    """A whole run on a device. run: (f, n, device, clock, budget=, seed=, batch_size=, progress=),
    as resident_uniform.run."""
    algorithm, clock = recipe.algorithm, Clock()
    resident.check_progress(algorithm.where, progress, device)
    check(
        not recipe.prefix_sharing,
        "{}: prefix_sharing must be False on {}, got True",
        *(algorithm.where, device),
    )
    budget = check_int(f"{algorithm.where}: budget", recipe.budget, least_masks(len(names)))
    how: dict[str, Any] = {"seed": algorithm.seed, "batch_size": batch_size, "progress": progress}
    found = run(f, len(names), device, clock, budget=budget, **how)
    counts: dict[str, Any] = {"used": found.used, "asked": found.plan.total, "moved": found.moved}
    how = {"budget": budget, "device": device} | counts
    out = explained(algorithm, found.samples, found.fits, names, clock, **how)
    return out if found.several else out[0]


def explained(
    algorithm: Algorithm,
    samples: Samples,
    fits: Sequence[ProxyFit],
    names: tuple[str, ...],
    clock: Clock,
    *,
    budget: int,
    device: torch.device = CPU,
    used: int = 0,
    **counts: Any,
) -> list[Explanation]:
    """One explanation an output, from its fit to the samples."""
    n = len(names)
    out = []
    for found, power in zip(fits, samples.powers.tolist(), strict=True):
        transform = _transform(samples, found, power)
        report = Report(
            algorithm=algorithm.name,
            preset=algorithm.preset,
            backend=pick(algorithm.kernel, "auto", device),
            device=str(device),
            seed=algorithm.seed,
            n=n,
            degree=len(samples.features) if samples.whole else algorithm.degree,
            budget=budget,
            used=used,
            unique=len(samples.masks),
            left_out=found.left_out,
            r2=found.r2,
            r2_linear=found.r2_linear,
            terms=len(transform),
            effective_terms=found.effective,
            energy_by_order=transform.energy_by_order(),
            hierarchy=hierarchy_rates(transform),
            plan=f"{len(samples.masks):,} masks; {found.note}",
            seconds=dict(clock.seconds),
            warnings=samples.warnings + _about_fit(found),
            r2_process=found.r2_process if isinstance(found, GpFit) else None,
            missed=found.missed if isinstance(found, GpFit) else None,
            **counts,
        )
        process = None
        if isinstance(found, GpFit) and found.process is not None:
            process = found.process.of_all(n, samples.features, power)
        out.append(Explanation(transform, names, report, process))
    return out


def _transform(samples: Samples, found: ProxyFit, power: int) -> SparseTransform:
    """Of the user's features, in the unit of the user's values."""
    coefs = torch.from_numpy(np.ldexp(found.coefs.numpy(), power))
    stderr = found.stderr if isinstance(found, GpFit) else None
    if stderr is not None:
        stderr = torch.from_numpy(np.ldexp(stderr.numpy(), power))
    return SparseTransform(samples.n, samples.widened(found.support), coefs, stderr)


def least_masks(n: int) -> int:
    """The fewest masks to fit, all of them where there are no more."""
    return min(LEAST, 1 << min(n, 3))


def _about_fit(found: ProxyFit) -> list[str]:
    """What the user should know of a result. The paper's recipe takes no linear fit itself, and the
    other may be asked for fewer terms than one has."""
    if found.r2_linear <= found.r2 or isinstance(found, GpFit):
        return []
    return [
        f"a linear fit on the same samples does better (R2 {found.r2_linear:.3f} against "
        f"{found.r2:.3f}): ask for more evaluations or terms, or for preset='default'"
    ]


def _fit_outputs(algorithm: Algorithm, samples: Samples) -> list[ProxyFit]:
    """One fit an output; values that are all equal need none."""
    masks, values, n = samples.masks, samples.values, len(samples.features)
    if samples.whole:
        return [_whole_table(masks, y, n) for y in values]
    out = [_constant(masks, float(y[0])) for y in values]
    if len(varies := (values != values[:, :1]).any(1).nonzero()[:, 0]):
        fits = algorithm.fit(up(masks, algorithm.device), values[varies], n)
        for i, found in zip(varies.tolist(), fits, strict=True):
            out[i] = found
    return out


def _constant(masks: Tensor, value: float) -> ProxyFit:
    """Any mask left out, the others predict it."""
    support = torch.zeros(1, masks.shape[1], dtype=torch.int64)
    coefs = torch.tensor([value], dtype=torch.float64)
    return ProxyFit(support, coefs, 1.0, 1.0, len(masks), 1.0, "all values are equal")


def _whole_table(masks: Tensor, y: Tensor, n: int) -> ProxyFit:
    """All 2**n masks: the exact spectrum but for rounding, and what its linear part explains."""
    table = torch.empty_like(y)
    table[masks[:, 0]] = y
    single = bool((table == table.float()).all())  # f answered in float32
    spectrum = ops.fwht(table) / len(table)
    support, coefs = beyond_rounding(spectrum, torch.float32 if single else torch.float64)
    support, coefs = with_constant(support, coefs, n)
    energy = SparseTransform(n, support, coefs).energy_by_order()
    linear = energy.get(1, 0.0) if energy else 1.0
    return ProxyFit(support, coefs, 1.0, linear, 0, float(len(coefs)), "the whole table")
