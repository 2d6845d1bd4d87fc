"""explain(): the algorithm that is asked for, or the one that does best on what can be afforded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from . import masks as bits
from . import run
from .auto import DEGREE, auto_recipe
from .budget import MAX_TABLE, least_budget
from .errors import check, check_int
from .evaluate import SetFunction, Shown
from .explanation import Explanation, with_picture
from .gpspex import gpspex
from .patience import Patience
from .proxyspex import proxyspex
from .recipe import Clock, Found, feature_names
from .run import Known, Run, Where
from .spex import spex, spex_recipe
from .store import Store
from .uniform import UniformRecipe, explain_values, least_masks
from .value_function import ValueFunction

NAMED: dict[str, Callable[..., Found]] = {"proxyspex": proxyspex, "gpspex": gpspex, "spex": spex}
PILOT, MOST_PILOT = 0.2, 2000  # share of the budget, and masks, that decide whether SPEX is tried
GOOD = 0.8  # R2 of the pilot from which it is not
SURE = 0.99  # R2 of SPEX from which nothing could be better by much
GAIN = 0.005  # of R2, on the pilot, for which it is preferred to the stack
BITS = 5  # a group, that the rest of the budget has to allow


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
    progress: Shown = None,
    known: Known | None = None,
    store: Where | None = None,
    patience: Patience | None = None,
) -> Found:
    """What drives f, from `budget` evaluations, by the algorithm that suits them.

    `algorithm="auto"` decides by these rules:

    1. A budget of 2**n evaluates every mask (n <= 24), and the result is exact.
    2. Else uniform masks are fitted by ridge regression on single features, by ProxySPEX and by
       GPSPEX, and the results added up in the shares that predict samples left out best, never
       worse there than the best of them by more than 0.005 of R2. Few samples say little, so shares
       are drawn to GPSPEX, as by 50 samples. bench/bench_gp.py has the stack beside each.
    3. GPSPEX is left out beyond 5,000 samples, where its matrices do not fit in memory, and where
       it would take more than about two minutes on one core (gp_memory.py; the CPU seconds are in
       bench/bench_gp.py).
    4. SPEX asks for masks of its own, and wants many: at 1,000 it beats ProxySPEX by 0.01 on one
       real function in twenty (`small` in bench/bench_explain.py). So it is tried only where f has
       one output, a fifth of the budget (at most 2,000 uniform masks) leaves enough for 32 bins a
       group, and the stack has an R2 below 0.8 on that fifth: as it has for functions of high
       order with nothing inside (bench/bench_explain.py). Scored on the fifth, which it has not
       seen, SPEX is the result if its R2 is 0.99, or beats the stack by 0.005, the stack then being
       fitted to all masks, those of SPEX included, so none is lost. So SPEX is among the members
       that the result is not worse than only where it is tried. The same call with the same `store`
       goes on where it was; resume() goes on with the uniform masks alone, without SPEX.

    Args:
        f, n, features, prefix_sharing, seed, batch_size, known, store, patience: as in
            proxyspex().
        budget: the most evaluations, at least 8 (2**n for n <= 2).
        algorithm: "auto", or the name of one: "proxyspex", "gpspex", "spex", with their defaults.
        degree: the largest order of a term, 1 to 8 for "auto".
        progress: as in proxyspex(); where a fifth of the budget comes first, for that and then for
            the rest.
    Returns: an Explanation; for q outputs a list of q. `report.algorithm` is "auto" or "spex", and
             `report.plan` has the shares and R2 of all. Where GPSPEX has a share,
             `transform.stderr` holds standard errors, and `process.predict(masks)` predicts what
             the stack does, with errors.
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
    asked: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "patience": patience}
    if algorithm != "auto":
        sharing = prefix_sharing or (None if algorithm == "spex" else False)
        options = {"budget": budget, "degree": degree, "seed": seed, "prefix_sharing": sharing}
        kept = {"known": known, "store": store}
        return NAMED[algorithm](f, n, features=features, **options, **asked, **kept)
    if not callable(f):
        raise TypeError(f"explain: f must be callable, got {type(f).__name__}")
    names = feature_names("explain", n, features, f)
    budget = check_int("explain: budget", budget, least_masks(len(names)))
    asked["batch_size"] = check_int("explain: batch_size", batch_size, 1)
    stack = auto_recipe(budget=budget, degree=degree, prefix_sharing=prefix_sharing, seed=seed)
    pilot = pilot_of(len(names), budget, stack.algorithm.degree)
    if pilot is None:
        return run.explain(stack, f, names, known=known, store=store, **asked)
    stored: dict[str, Any] = {
        "store": store,
        "fingerprint": getattr(f, "fingerprint", None),
        "part_of": stack,
    }
    return with_picture(with_pilot(stack, f, names, pilot, known, asked, stored), f)


def pilot_of(n: int, budget: int, degree: int) -> int | None:
    """Uniform masks to look at first; None where SPEX could not use the rest, or need not."""
    pilot = min(int(PILOT * budget), MOST_PILOT)
    if n <= MAX_TABLE and budget >= 1 << n:
        return None
    return pilot if budget - pilot >= least_budget(n, degree, BITS) else None


def with_pilot(
    stack: UniformRecipe,
    f: SetFunction,
    names: tuple[str, ...],
    pilot: int,
    known: Known | None,
    asked: dict[str, Any],
    kept: dict[str, Any],
) -> Found:
    """The stack on uniform masks, or SPEX where that does not explain the first of them.

    Args: known: as in explain(). asked: how f is: batch_size, progress, patience. kept: where its
          values are, as Run takes it.
    """
    with Run(dataclasses.replace(stack, budget=pilot), names, known=known, **kept) as first:
        first.evaluate(f, **asked)
        found = first.fit()
    if isinstance(found, list) or found.report.r2 >= GOOD:
        with Run(stack, names, known=joined(known, first), **kept) as whole:
            whole.evaluate(f, **asked)
            found = whole.fit()
        before = first.counts["evaluated"]  # which are known to the second run
        bounds = first.counts["censored"] if kept["store"] is None else 0  # a store tells of them
        more = [
            reported(
                ex,
                used=ex.report.used + before,
                cached=ex.report.cached - before,
                censored=ex.report.censored + bounds,
            )
            for ex in (found if isinstance(found, list) else [found])
        ]
        return more if isinstance(found, list) else more[0]
    return or_spex(stack, f, names, first, known, asked, kept)


def or_spex(
    stack: UniformRecipe,
    f: SetFunction,
    names: tuple[str, ...],
    first: Run,
    known: Known | None,
    asked: dict[str, Any],
    kept: dict[str, Any],
) -> Explanation:
    """SPEX on what the pilot leaves of the budget, or the stack on all masks of both."""
    masks, values = first.samples()
    shared = isinstance(f, ValueFunction) and f.order == "prefix"
    recipe = spex_recipe(
        budget=stack.budget - len(masks),
        degree=stack.algorithm.degree,
        prefix_sharing=stack.prefix_sharing or shared,
        seed=stack.seed ^ 1,  # the uniform masks of one seed are the pilot's
    )
    with Run(recipe, names, known=joined(known, first), **kept) as second:
        second.evaluate(f, **asked)
        ex, before = second.fit(), first.counts
    assert isinstance(ex, Explanation)  # f has one output
    cost = {
        "used": ex.report.used + before["evaluated"],
        "asked": ex.report.asked + before["asked"],
        "censored": ex.report.censored + before["censored"],
    }
    score = ex.transform.score(masks, values)
    why = f"SPEX tried, R2 {score:.3f} on {len(masks):,} uniform masks"
    if score < SURE:
        own = second.samples()
        rows, numbers = (torch.cat(pair) for pair in zip((masks, values), own, strict=True))
        how: dict[str, Any] = {"budget": stack.budget, "uniform": True}
        both = explain_values(stack.algorithm, rows, numbers, names, Clock(), **how)
        assert isinstance(both, Explanation)
        if both.report.r2 >= score - GAIN:
            plan = f"{both.report.plan}; {why}"
            return reported(both, plan=plan, **cost)
        why += f", where the stack has {both.report.r2:.3f}"
    return reported(ex, budget=stack.budget, plan=f"{ex.report.plan}; {why}", **cost)


def joined(known: Known | None, first: Run) -> Known:
    """What was known before, and what the first masks were told."""
    masks, values = first.samples()
    own = bits.unpack(masks, len(first.features)), values.numpy()
    if known is None:
        return own
    if not isinstance(known, tuple):
        known = (known if isinstance(known, Store) else Store.open(known)).known()
    before = np.asarray(known[0]), np.asarray(known[1])
    return np.concatenate([before[0], own[0]]), np.concatenate([before[1], own[1]])


def reported(ex: Explanation, **changes: Any) -> Explanation:
    return dataclasses.replace(ex, report=dataclasses.replace(ex.report, **changes))
