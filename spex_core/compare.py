"""SPEX beside ProxySPEX on the same set function: what each costs, and how well each predicts masks
that it has not seen."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .budget import plan_spex
from .evaluate import evaluate
from .explanation import Explanation, Report
from .plan import SamplingPlan
from .progress import Progress
from .spex import spex
from .value_function import Answers, ValueFunction


class Recorder(ValueFunction):
    """f, that remembers what it was asked and what it answered, for another run to take over."""

    def __init__(self, f: ValueFunction):
        self.f, self.features, self.order, self.unit = f, f.features, f.order, f.unit
        self.calls: list[tuple[Tensor, np.ndarray]] = []

    @property
    def fingerprint(self) -> str:
        return self.f.fingerprint

    def cost(self, masks: Tensor) -> np.ndarray:
        return self.f.cost(masks)

    def stream(self, masks: Tensor) -> Answers:
        with contextlib.closing(self.f.stream(masks)) as packs:
            for rows, values in packs:
                self.calls.append((masks[torch.from_numpy(rows)], values))
                yield rows, values

    @property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Masks bool (rows, n) and values (rows,) of all calls so far, one at least."""
        masks, values = zip(*self.calls, strict=True)
        return bits.unpack(torch.cat(masks), self.n), np.concatenate(values)


@dataclass(frozen=True)
class Comparison:
    """Two explanations of one set function, by their reports and on the same masks.

    Attributes:
        proxyspex, spex: the reports.
        masks: how many masks scored both. new: whether ProxySPEX has not seen them; SPEX has only
        where it evaluated the whole table.
        r2, r2_spex: of each on those masks.
    """

    proxyspex: Report
    spex: Report
    masks: int
    new: bool
    r2: float
    r2_spex: float

    def __str__(self) -> str:
        who = "neither has seen" if self.spex.left_out else "ProxySPEX has not seen"
        rows = [
            f"side by side: R2 on {self.masks:,} masks that {who if self.new else 'both have seen'}"
            "; own R2 and linear fit as each reports them",
            f"{'':9}  {'masks':>7}  {'R2':>7}  {'own R2':>7}  {'linear':>7}  {'model s':>8}  "
            f"{'other s':>8}",
            _row("ProxySPEX", self.proxyspex, self.r2),
            _row("SPEX", self.spex, self.r2_spex),
        ]
        if shared := self.spex.unique - self.spex.used:
            rows.append(f"SPEX took {shared:,} of its masks over from ProxySPEX")
        return "\n".join(rows + [f"warning: SPEX: {text}" for text in self.spex.warnings])


def _row(name: str, report: Report, r2: float) -> str:
    model = report.seconds["evaluate"]
    other = sum(report.seconds.values()) - model
    return (
        f"{name:9}  {report.unique:7,}  {r2:7.4f}  {report.r2:7.4f}  {report.r2_linear:7.4f}  "
        f"{model:8.2f}  {other:8.2f}"
    )


def rival_plan(f: ValueFunction, found: Explanation, budget: int, degree: int) -> SamplingPlan:
    """The plan of SPEX for what another algorithm has explained. It has another seed: the uniform
    masks of one seed are the same for both, and those that SPEX holds out are to be new.

    Raises: ValueError as plan_spex does, with the least budget that works where this is too small.
    """
    sharing = f.order == "prefix"
    return plan_spex(f.n, budget, degree=degree, seed=found.report.seed ^ 1, prefix_sharing=sharing)


def compare(
    f: Recorder,
    found: Explanation,
    plan: SamplingPlan,
    *,
    decoder: str = "soft",
    progress: Progress | None = None,
) -> Comparison:
    """Run SPEX by the plan; score it and `found` on the masks it holds out (all, of a whole table)
    that are new to `found`. No mask is asked for twice.

    Args:   f: has answered what `found` was fitted to, nothing else. plan: of rival_plan(f, found).
            decoder, progress: as in spex().
    Raises: EvaluationError if f fails.
    """
    paid = f.known
    other = spex(
        f,
        features=found.features,
        budget=plan.budget,
        degree=plan.degree,
        decoder=decoder,
        prefix_sharing=plan.profile,
        seed=plan.seed,
        progress=progress,
        known=paid,
    )
    assert isinstance(other, Explanation)  # f has one output
    masks, values, new = _test_samples(f, plan, paid[0])
    scores = (ex.transform.score(masks, values) for ex in (found, other))
    return Comparison(found.report, other.report, len(masks), new, *scores)


def _test_samples(f: Recorder, plan: SamplingPlan, seen: np.ndarray) -> tuple[Tensor, Tensor, bool]:
    """Masks that SPEX held out (all, of a whole table) and values that f gave them, without those
    seen before unless nothing would be left; and whether something was."""
    first = plan.total - plan.holdout if plan.holdout else 0
    masks = plan.masks(first, plan.total)
    values, _ = evaluate(f, plan, known=f.known)
    new = torch.from_numpy(~np.isin(plan.keys(masks), plan.keys(bits.pack(seen))))
    rows = new if new.any() else ~new
    return masks[rows], values[first:][rows], bool(new.any())
