"""plan() and resume(): runs whose loop belongs to the caller."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

from .auto import auto_recipe
from .errors import check
from .gpspex import gp_recipe
from .proxyspex import proxy_recipe
from .recipe import Recipe, feature_names
from .run import Known, Run, Where
from .spex import spex_recipe
from .store import Store

RECIPES: dict[str, Callable[..., Recipe]] = {
    "spex": spex_recipe,
    "proxyspex": proxy_recipe,
    "gpspex": gp_recipe,
    "auto": auto_recipe,
}


def plan(
    algorithm: str,
    n: int | None = None,
    *,
    features: Sequence[str] | None = None,
    budget: int,
    seed: int = 0,
    store: Where | None = None,
    fingerprint: str | None = None,
    known: Known | None = None,
    **options: Any,
) -> Run:
    """A run for callers that own the loop: a served model, a cluster, a retraining job.

    Values are told at once or later, in any order and portions (`run.tell(values, masks)`), and
    `run.fit()` may be called at any time.

    Args:
        algorithm: "spex", "proxyspex", "gpspex", or "auto", the stack of explain().
        n, features, budget, seed, known: as in the function of that name.
        store: where values are kept as they are told: a directory, new or of the same plan, or a
            Store. A run that is made again on it asks for what is missing.
        fingerprint: with a directory, names all that the values depend on (model, version, input,
            ...). Equal strings mean equal values.
        options: further ones of the function of that name: degree, decoder, preset, terms, ...
    Returns: a Run.
    Raises:  TypeError, ValueError, as that function; FormatError for a directory that is not a
             store; ValueError for a store of another function or plan, with what differs; OSError.
    Example: run = plan("proxyspex", n=30, budget=500)
             for masks in run.batches(64):
                 run.tell(f(masks))
             ex = run.fit()
    """
    check(
        algorithm in RECIPES,
        "plan: algorithm must be one of {}, got {!r}",
        *(", ".join(map(repr, RECIPES)), algorithm),
    )
    make = RECIPES[algorithm]
    allowed = set(inspect.signature(make).parameters) - {"budget", "seed"}
    if unknown := sorted(set(options) - allowed):
        raise TypeError(
            f"plan: {algorithm} takes the options {', '.join(sorted(allowed))}, got "
            f"{', '.join(unknown)}"
        )
    names = feature_names("plan", n, features)
    recipe = make(budget=budget, seed=seed, **options)
    return Run(recipe, names, store=store, fingerprint=fingerprint, known=known)


def resume(folder: str | os.PathLike[str], *, fingerprint: str | None = None) -> Run:
    """The run whose store is in a directory, with all that was told, to be gone on with: the
    directory is told the rest too.

    Args:   fingerprint: of whatever is asked from now on; None if it is known to be the same.
    Raises: FileNotFoundError, FormatError, OSError as Store.open; ValueError for a store without a
            plan, or with another fingerprint.
    """
    there = Store.open(folder).manifest
    check(
        there.algorithm in RECIPES and there.seed is not None and there.budget is not None,
        "resume: {} must be the store of a run, got one of values without a plan",
        folder,
    )
    recipe = RECIPES[str(there.algorithm)](budget=there.budget, seed=there.seed, **there.options)
    fingerprint = there.fingerprint if fingerprint is None else fingerprint
    return Run(recipe, tuple(there.features), store=folder, fingerprint=fingerprint)
