"""The recipe of ProxySPEX: uniform masks, boosted trees, their spectrum, a refit."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import resident, resident_proxy
from .errors import check, check_int
from .evaluate import SetFunction, Shown
from .explanation import Explanation, with_picture
from .patience import Patience
from .prefixes import BRANCHING
from .proxy import ProxyFit, fit_default
from .proxy_paper import fit_paper
from .recipe import feature_names
from .run import Known, Where, explain
from .uniform import Algorithm, UniformRecipe, explain_on_device

PRESETS = ("default", "paper")
MAX_DEGREE = 16
DEGREE = 5


def proxyspex(
    f: SetFunction,
    n: int | None = None,
    *,
    features: Sequence[str] | None = None,
    budget: int,
    preset: str = "default",
    degree: int = DEGREE,
    terms: int | None = None,
    prefix_sharing: bool = False,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Shown = None,
    known: Known | None = None,
    store: Where | None = None,
    patience: Patience | None = None,
    device: torch.device | str = "cpu",
) -> Explanation | list[Explanation]:
    """ProxySPEX: what drives f, from `budget` evaluations at uniform masks.

    Boosted trees are fitted to the values, and the largest terms of their exact Fourier spectrum
    are fitted again to all values. `preset="default"` does so by ridge regression under a prior
    that the trees and the samples left out of them decide on, with a share of a linear fit where
    few samples speak for more (hedge.py); `preset="paper"` is the published recipe. A budget of
    2**n evaluates every mask (n <= 24), and the result is then exact.

    Args:
        f: any callable, bool (batch, n) array -> (batch,) numbers, or (batch, q) for q outputs. Or
            a ValueFunction, which is asked in packs of its own and names its features.
        n: features; or `features`, their names, which results then use.
        budget: the most evaluations, at least 8 (2**n for n <= 2); all are distinct.
        preset: "default" or "paper".
        degree: the largest order of a term, 1 to 16, which is the depth of the trees.
        terms: Fourier terms to fit at most, beside the constant; by default half the samples, from
            1,024 to 8,192, and all features where a linear fit is better or a share of it is mixed
            in, as it is where those are no more. With `terms` it is either: of a linear fit the
            strongest are kept if they do better than as many chosen by trees. Not for the paper's
            recipe, which keeps 95 % of the energy.
        prefix_sharing: draw the masks in groups that agree on their first features, for a model
            that computes a shared prefix once; for the default preset. It saves such a model some
            55 % of the tokens of the features. At the same number of masks R2 is a little lower
            (by up to 0.04 in bench/bench_prefix.py), at the same number of tokens higher (by up to
            0.08): ask for twice the masks. Off, because a budget counts masks.
        seed: every random choice follows from it; same seed, same bits, on any number of threads.
        batch_size: masks in one call of f at the most.
        progress: called as progress(done, total) after each batch; or True for a bar or lines, or a
            logger, or a Watcher (progress.py), which may ask for R2 on the way.
        known: (masks bool (rows, n), values (rows,) or (rows, q)) that need not be asked for again;
            or the Store of another run on f, or its directory.
        store, patience: where values are kept as they come, and what is done about calls that fail,
            as in spex().
        device: where f takes its masks and leaves its values, as in spex(): masks are drawn there,
            and of them, of values, trees and the regression nothing comes back but the terms, their
            scores and what Report.moved counts beside those (resident_proxy.py). The default preset
            only, without prefix_sharing. The result is that of the CPU, to rounding.
    Returns: an Explanation; for q outputs a list of q.
    Raises:  TypeError, ValueError for bad arguments, before f is called; EvaluationError if f
             fails, holding what was paid for; MemoryError, before f is called, if the device has
             too little room.
    Cost:    f aside, about T n word operations a tree and S**3 / 3 products for S terms.
    Source:  Butler et al., ProxySPEX, NeurIPS 2025 (arXiv 2505.17495).
    Example: proxyspex(lambda x: x[:, 0] * 1.0 - 2 * (x[:, 1] & x[:, 4]), n=30, budget=500)
    """
    if not callable(f):
        raise TypeError(f"proxyspex: f must be callable, got {type(f).__name__}")
    names = feature_names("proxyspex", n, features, f)
    batch_size = check_int("proxyspex: batch_size", batch_size, 1)
    given: dict[str, Any] = {"known": known, "store": store, "patience": patience}
    device = resident.usable_device("proxyspex", device, f, given)
    recipe = proxy_recipe(
        budget=budget,
        preset=preset,
        degree=degree,
        terms=terms,
        prefix_sharing=prefix_sharing,
        seed=seed,
    )
    if device.type != "cpu":
        check(
            preset == "default",
            "proxyspex: preset must be 'default' on {}, got {!r}",
            *(device, preset),
        )
        run = functools.partial(resident_proxy.run, degree=recipe.algorithm.degree, terms=terms)
        shown: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
        return with_picture(explain_on_device(recipe, run, f, names, device, **shown), f)
    return explain(recipe, f, names, batch_size=batch_size, progress=progress, **given)


def proxy_recipe(
    *,
    budget: int,
    preset: str = "default",
    degree: int = DEGREE,
    terms: int | None = None,
    prefix_sharing: bool = False,
    seed: int = 0,
) -> UniformRecipe:
    """The options of proxyspex(), checked but for what depends on n."""
    check(
        preset == "default" or not prefix_sharing,
        "proxyspex: prefix_sharing must be False with preset={!r}, whose masks are independent",
        preset,
    )
    together = BRANCHING if prefix_sharing else 1
    algorithm = proxy_algorithm("proxyspex", preset, degree, terms, seed, together=together)
    options = {"preset": preset, "degree": algorithm.degree, "terms": terms}
    options["prefix_sharing"] = prefix_sharing
    return UniformRecipe(algorithm, budget, prefix_sharing, options)


def proxy_algorithm(
    where: str,
    preset: str,
    degree: int | None,
    terms: int | None,
    seed: int,
    *,
    together: int = 1,
) -> Algorithm:
    """The fit of ProxySPEX with checked options; so many neighbouring masks are alike."""
    check(preset in PRESETS, "{}: preset must be 'default' or 'paper', got {!r}", where, preset)
    check(
        terms is None or preset == "default",
        "{}: terms must be None with preset='paper', which chooses them, got {}",
        *(where, terms),
    )
    degree = check_int(f"{where}: degree", DEGREE if degree is None else degree, 1, MAX_DEGREE)
    terms = None if terms is None else check_int(f"{where}: terms", terms, 1)
    seed = check_int(f"{where}: seed", seed, 0, 2**64 - 1)

    def fit(masks: Tensor, values: Tensor, n: int) -> list[ProxyFit]:
        if preset == "paper":
            return fit_paper(masks, values, n, degree=degree)
        return fit_default(
            masks, values, n, degree=degree, terms=terms, seed=seed, together=together
        )

    return Algorithm(where, "proxyspex", preset, "boost", degree, seed, fit)
