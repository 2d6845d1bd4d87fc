"""algorithm="auto": a linear fit, ProxySPEX and GPSPEX on the same samples, in the shares by which
they predict samples left out best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import check, check_int
from .gp import GpFit, fit_gp
from .gp_memory import affordable
from .left_out import LEVELS, LeftOut, mean_of
from .ops import MAX_ORDER
from .prefixes import BRANCHING
from .prior import Terms
from .proxy import ProxyFit, fit_default
from .ridge import leave_one_out
from .sparse import added
from .sums import errors_of, with_others
from .transform import r2
from .uniform import Algorithm, UniformRecipe

DEGREE = 5
MEMBERS = ("linear", "proxyspex", "gpspex")


@dataclass(frozen=True)
class AutoRecipe:
    """The choices of the stack; bench/bench_gp.py measures what comes of them.

    Attributes:
        parts: shares are multiples of 1 / parts.
        strength: samples left out that tell as much as the preference for the last member does.
        doubt: times that the square of a linear fit's share counts there: the other members have
        what they need of one, and rare large errors make a part of it look useful.
        worse: by how much R2 out of fold may be below that of the best member.
        clip: squared errors count up to so many times their mean, lest one sample decide.
        most_linear: features up to which a linear fit is a member of its own.
    """

    parts: int = 20
    strength: float = 50.0
    doubt: float = 20.0
    worse: float = 0.005
    clip: float = 9.0
    most_linear: int = 4096


AUTO = AutoRecipe()


def auto_algorithm(
    where: str,
    preset: str,
    degree: int | None,
    terms: int | None,
    seed: int,
    *,
    together: int = 1,
) -> Algorithm:
    """The stack with checked options; so many neighbouring masks are alike."""
    check(preset == "default", "{}: preset must be 'default', got {!r}", where, preset)
    degree = check_int(f"{where}: degree", DEGREE if degree is None else degree, 1, MAX_ORDER)
    terms = None if terms is None else check_int(f"{where}: terms", terms, 1)
    seed = check_int(f"{where}: seed", seed, 0, 2**64 - 1)

    def fit(masks: Tensor, values: Tensor, n: int) -> list[GpFit]:
        return fit_auto(masks, values, n, degree=degree, terms=terms, seed=seed, together=together)

    return Algorithm(where, "auto", preset, "anova_kernel", degree, seed, fit)


def auto_recipe(
    *, budget: int, degree: int = DEGREE, prefix_sharing: bool = False, seed: int = 0
) -> UniformRecipe:
    """The stack on uniform masks, checked but for what depends on n."""
    together = BRANCHING if prefix_sharing else 1
    algorithm = auto_algorithm("explain", "default", degree, None, seed, together=together)
    options = {"degree": algorithm.degree, "prefix_sharing": prefix_sharing}
    return UniformRecipe(algorithm, budget, prefix_sharing, options)


def fit_auto(
    masks: Tensor,
    values: Tensor,
    n: int,
    *,
    degree: int,
    terms: int | None,
    seed: int,
    together: int = 1,
    recipe: AutoRecipe = AUTO,
) -> list[GpFit]:
    """Each output by itself, from members fitted to all outputs at once. Arguments as in fit_gp;
    GPSPEX is a member where gp_memory.affordable says so."""
    options: dict[str, Any] = {"degree": degree, "terms": terms, "seed": seed}
    options["together"] = together
    proxies = fit_default(masks, values, n, **options)
    processes: Sequence[GpFit | None] = [None] * len(values)
    if affordable(len(masks), n, degree, len(values)):
        processes = fit_gp(masks, values, n, trees=True, **options)
    return [
        stack(masks, y, n, proxy, process, terms, recipe)
        for y, proxy, process in zip(values, proxies, processes, strict=True)
    ]


def stack(
    masks: Tensor,
    values: Tensor,
    n: int,
    proxy: ProxyFit,
    process: GpFit | None,
    terms: int | None,
    recipe: AutoRecipe,
) -> GpFit:
    """The members in their shares: coefficients are added up. One member alone where there is no
    place for the terms of all: that was scored with the terms it has, no sum was after a cut.

    Args: masks: packed int64 (T, W). values: float64 (T,). process: None where it is no member.
          terms: to keep, at most.
    """
    rows, fits, small = left_out(proxy, process)
    truth = values.numpy()[rows]
    if n > recipe.most_linear or (terms is not None and n > terms):
        del fits["linear"]
    single = [single_features(n)] * ("linear" in fits)
    supports = [one.support for one in (proxy, process) if one is not None] + single
    if terms is not None and len(torch.cat(supports).unique(dim=0)) > terms + 1:
        recipe = dataclasses.replace(recipe, parts=1)
    shares = shares_of(fits, truth, recipe)
    members: dict[str, ProxyFit] = {"proxyspex": proxy}
    if process is not None:
        members["gpspex"] = process
    if shares.get("linear"):
        members["linear"] = linear_fit(masks, values, n)
    used = [(members[name], share) for name, share in shares.items() if share]
    support, coefs = added([(one.support, one.coefs * share) for one, share in used])
    mixed = np.stack([share * fits[name] for name, share in shares.items()]).sum(0)
    scores = ", ".join(f"{name} {r2(truth, fit):.3f}" for name, fit in fits.items())
    note = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share)
    total = GpFit(
        support=support,
        coefs=coefs,
        r2=r2(truth, mixed),
        r2_linear=proxy.r2_linear,
        left_out=len(rows),
        effective=min(sum(share * one.effective for one, share in used), float(len(coefs))),
        note=f"{note}; R2 on samples left out: {scores}",
        predicted=LeftOut(rows, mixed, fits.get("linear", mixed)),
    )
    if process is None or not shares["gpspex"]:
        return total
    total = dataclasses.replace(total, r2_process=r2(truth, mixed + shares["gpspex"] * small))
    others = [(one.support, one.coefs * share) for one, share in used if one is not process]
    return with_process(total, process, shares["gpspex"], others)


def with_process(
    total: GpFit, process: GpFit, share: float, others: list[tuple[Tensor, Tensor]]
) -> GpFit:
    """The stack with the errors and the process of GPSPEX, which has a share beside others."""
    assert process.process is not None  # fit_gp has made it
    stderr, missed = errors_of(process.process, total.support, total.coefs)
    whole = with_others(process.process, share, others)
    return dataclasses.replace(total, stderr=stderr, missed=missed, process=whole)


def left_out(
    proxy: ProxyFit, process: GpFit | None
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Samples that both were scored on, what the members make of them, and what the small terms
    that GPSPEX leaves out would add."""
    ours, theirs = proxy.predicted, None if process is None else process.predicted
    assert ours is not None  # the default recipe says
    if process is None or theirs is None or process.whole is None:
        fits = {"linear": ours.linear, "proxyspex": ours.fitted}
        return ours.rows, fits, np.zeros(len(ours.rows))
    rows, own, other = np.intersect1d(ours.rows, theirs.rows, return_indices=True)
    fits = dict(
        zip(MEMBERS, (ours.linear[own], ours.fitted[own], theirs.fitted[other]), strict=True)
    )
    return rows, fits, (process.whole - theirs.fitted)[other]


def shares_of(
    fits: dict[str, np.ndarray], truth: np.ndarray, recipe: AutoRecipe
) -> dict[str, float]:
    """The share of each member, from what each makes of samples left out: float64 (R,).

    Of the shares that are allowed, the least mean square error, over that of the best member, plus
    strength / R times the squared distance to the last member alone, GPSPEX if it is one, in which
    the share of a linear fit counts `doubt` times.
    """
    grid, squares = allowed(fits, truth, recipe)
    single = squares[grid.max(1) == 1].mean(1).min()
    error = np.minimum(squares, recipe.clip * single).mean(1)
    weight = np.array([recipe.doubt if name == "linear" else 1.0 for name in fits])
    away = (grid - np.eye(len(fits))[-1]) ** 2 @ weight
    lost = error + single * recipe.strength / len(truth) * away
    return dict(zip(fits, grid[lost.argmin()].tolist(), strict=True))


def allowed(
    fits: dict[str, np.ndarray], truth: np.ndarray, recipe: AutoRecipe
) -> tuple[np.ndarray, np.ndarray]:
    """Shares in steps, float64 (G, members), and squared errors, float64 (G, R), of those sums
    whose error is not above the best member's by more than `worse` of the variance."""
    grid = simplex(len(fits), recipe.parts)
    squares = (grid @ (np.stack(list(fits.values())) - truth)) ** 2
    error = squares.mean(1)
    good = error <= error[grid.max(1) == 1].min() + recipe.worse * truth.var()
    return grid[good], squares[good]


def simplex(members: int, parts: int) -> np.ndarray:
    """All shares that are multiples of 1 / parts and add up to one: float64 (G, members)."""
    steps = np.indices((parts + 1,) * members).reshape(members, -1).T
    return steps[steps.sum(1) == parts] / parts


def single_features(n: int) -> Tensor:
    """The constant and all single features, packed."""
    single = Terms(n, np.arange(n, dtype=np.int32)[:, None]).packed()
    return torch.cat([single.new_zeros(1, single.shape[1]), single])


def linear_fit(masks: Tensor, values: Tensor, n: int) -> ProxyFit:
    """Ridge regression on single features and a constant, at the level of least leave-one-out
    error."""
    support = single_features(n)
    mean = mean_of(values)
    found = leave_one_out(masks, values - mean, support, LEVELS * n)
    coefs = found.coefs.clone()
    coefs[0] += mean
    return ProxyFit(support, coefs, 0.0, 0.0, 0, found.effective, "linear")
