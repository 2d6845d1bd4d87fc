"""explain(): the algorithm that is asked for, or the one that does best on what can be afforded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .auto import DEGREE, auto_algorithm
from .errors import check
from .evaluate import Progress, SetFunction, evaluate
from .explanation import Explanation
from .gpspex import gpspex
from .plan import MAX_TABLE, least_budget, plan_spex, plan_uniform
from .prefixes import BRANCHING
from .proxyspex import proxyspex
from .spex import Clock, explain_plan, spex
from .uniform import Algorithm, check_run, explain_function, explain_values
from .value_function import ValueFunction

NAMED = {"proxyspex": proxyspex, "gpspex": gpspex, "spex": spex}
PILOT, MOST_PILOT = 0.2, 2000  # share of the budget, and masks, that decide whether SPEX is tried
GOOD = 0.8  # R2 of the pilot from which it is not
GAIN = 0.02  # of R2, on the pilot, for which it is preferred to the stack
BITS = 5  # a group, that the rest of the budget has to allow

Known = tuple[np.ndarray, np.ndarray]


def explain(
    f: SetFunction,
    n: int | None = None,
    *,
    features: Sequence[str] | None = None,
    budget: int,
    algorithm: str = "auto",
    degree: int = DEGREE,
    prefix_sharing: bool = False,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Progress | None = None,
    known: Known | None = None,
) -> Explanation | list[Explanation]:
    """What drives f, from `budget` evaluations, by the algorithm that suits them.

    `algorithm="auto"` decides by these rules:

    1. A budget of 2**n evaluates every mask (n <= 24), and the result is exact.
    2. Else uniform masks are fitted by ridge regression on single features, by ProxySPEX and by
       GPSPEX, and the results added up in the shares that predict samples left out best, never
       worse there than the best of them by more than 0.005 of R2. Where the difference is within a
       standard error: 20 % ProxySPEX, 80 % GPSPEX. bench/bench_gp.py has the stack beside each.
    3. GPSPEX is left out beyond 5,000 samples, where its matrices do not fit in memory, and where
       it would take more than about two minutes on one core (gp_memory.py; the CPU seconds are in
       bench/bench_gp.py).
    4. SPEX asks for masks of its own, and wants many: at 1,000 it beats ProxySPEX by 0.01 on one
       real function in twenty (`small` in bench/bench_explain.py). So it is tried only where f has
       one output, a fifth of the budget (at most 2,000 uniform masks) leaves enough for 32 bins a
       group, and the stack has an R2 below 0.8 on that fifth: as it has for functions of high
       order with nothing inside (bench/bench_explain.py). Scored on the fifth, which it has not
       seen, SPEX is the result if it beats the stack by 0.02. That is then fitted to all masks,
       those of SPEX included, so none is lost.

    Args:
        f, n, features, prefix_sharing, seed, batch_size, known: as in proxyspex().
        budget: the most evaluations, at least 8 (2**n for n <= 2).
        algorithm: "auto", or the name of one: "proxyspex", "gpspex", "spex", with their defaults.
        degree: the largest order of a term, 1 to 8 for "auto".
        progress: called as progress(done, total) after each batch; where a fifth of the budget
            comes first, for that and then for the rest.
    Returns: an Explanation; for q outputs a list of q. `report.algorithm` is "auto" or "spex", and
             `report.plan` has the shares and R2 of all. Where GPSPEX has a share,
             `transform.stderr` holds standard errors and `process` GPSPEX's own posterior.
    Raises:  TypeError, ValueError for bad arguments, before f is called; EvaluationError if f
             fails, holding what was paid for.
    Cost:    f aside, that of ProxySPEX and of GPSPEX together.
    Example: explain(lambda x: x[:, 0] * 1.0 - 2 * (x[:, 1] & x[:, 4]), n=30, budget=200)
    """
    check(
        algorithm == "auto" or algorithm in NAMED,
        "explain: algorithm must be 'auto', 'proxyspex', 'gpspex' or 'spex', got {!r}",
        algorithm,
    )
    options = {"batch_size": batch_size, "progress": progress, "known": known}
    if algorithm != "auto":
        sharing = prefix_sharing or (None if algorithm == "spex" else False)
        options |= {"budget": budget, "degree": degree, "seed": seed, "prefix_sharing": sharing}
        return NAMED[algorithm](f, n, features=features, **options)
    names, budget, batch_size = check_run("explain", f, n, features, budget, batch_size)
    together = BRANCHING if prefix_sharing else 1
    stack = auto_algorithm("explain", "default", degree, None, seed, together=together)
    pilot = pilot_of(len(names), budget, stack.degree)
    if pilot is None:
        return explain_function(
            stack, f, names, budget=budget, prefix_sharing=prefix_sharing, **options
        )
    return with_pilot(stack, f, names, pilot, budget, prefix_sharing, options)


def pilot_of(n: int, budget: int, degree: int) -> int | None:
    """Uniform masks to look at first; None where SPEX could not use the rest, or need not."""
    pilot = min(int(PILOT * budget), MOST_PILOT)
    if n <= MAX_TABLE and budget >= 1 << n:
        return None
    return pilot if budget - pilot >= least_budget(n, degree, BITS) else None


def with_pilot(
    stack: Algorithm,
    f: SetFunction,
    names: tuple[str, ...],
    pilot: int,
    budget: int,
    prefix_sharing: bool,
    options: dict,
) -> Explanation | list[Explanation]:
    """The stack on uniform masks, or SPEX where that does not explain the first of them."""
    clock, asked = Clock(), dict(options)
    plan = plan_uniform(len(names), pilot, seed=stack.seed, prefix_sharing=prefix_sharing)
    with clock("evaluate"):
        values, used = evaluate(f, plan, many=True, **asked)
    masks = plan.masks(0, plan.total)
    first = explain_values(
        *(stack, masks, values, names, clock), budget=pilot, used=used, uniform=True
    )
    asked["known"] = joined(options["known"], bits.unpack(masks, len(names)), values.numpy())
    if isinstance(first, list) or first.report.r2 >= GOOD:
        found = explain_function(
            stack, f, names, budget=budget, prefix_sharing=prefix_sharing, **asked
        )
        more = found if isinstance(found, list) else [found]
        more = [reported(ex, used=ex.report.used + used) for ex in more]
        return more if isinstance(found, list) else more[0]
    return or_spex(stack, f, names, budget, (masks, values, used), prefix_sharing, asked)


def or_spex(
    stack: Algorithm,
    f: SetFunction,
    names: tuple[str, ...],
    budget: int,
    first: tuple[Tensor, Tensor, int],
    prefix_sharing: bool,
    asked: dict,
) -> Explanation:
    """SPEX on what the pilot leaves of the budget, or the stack on all masks of both.

    Args: first: packed masks and values of the pilot, and how many f was asked for.
    """
    masks, values, used = first
    clock = Clock()
    sharing = prefix_sharing or (isinstance(f, ValueFunction) and f.order == "prefix")
    plan = plan_spex(
        *(len(names), budget - len(masks)),
        degree=stack.degree,
        seed=stack.seed ^ 1,  # the uniform masks of one seed are the pilot's
        prefix_sharing=sharing,
    )
    with clock("evaluate"):
        own, more = evaluate(f, plan, **asked)
    used += more
    ex = explain_plan(plan, own, used, names, clock)
    score = ex.transform.score(masks, values)
    why = f"SPEX tried, R2 {score:.3f} on {len(masks):,} uniform masks"
    if score < GOOD:
        rows = torch.cat([masks, plan.masks(0, plan.total)])
        both = explain_values(
            *(stack, rows, torch.cat([values, own]), names, clock),
            budget=budget,
            used=used,
            uniform=True,
        )
        if both.report.r2 >= score - GAIN:
            return reported(both, plan=f"{both.report.plan}; {why}")
        why += f", where the stack has {both.report.r2:.3f}"
    return reported(ex, budget=budget, plan=f"{ex.report.plan}; {why}")


def joined(known: Known | None, masks: np.ndarray, values: np.ndarray) -> Known:
    if known is None:
        return masks, values
    return np.concatenate([known[0], masks]), np.concatenate([np.asarray(known[1]), values])


def reported(ex: Explanation, **changes: object) -> Explanation:
    return dataclasses.replace(ex, report=dataclasses.replace(ex.report, **changes))
