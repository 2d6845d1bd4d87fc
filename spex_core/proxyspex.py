"""The recipe of ProxySPEX: uniform masks, boosted trees, their spectrum, a refit; and the same for
masks and values that are there already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .backend import pick
from .errors import check, check_int
from .evaluate import Progress, ValueFunction, check_samples, evaluate
from .explanation import Explanation, Report
from .hierarchy import hierarchy_rates
from .plan import plan_uniform
from .proxy import ProxyFit, fit_default
from .proxy_paper import fit_paper
from .spex import Clock, feature_names
from .transform import SparseTransform

LEAST = 8  # samples
PRESETS = ("default", "paper")
MAX_DEGREE = 16


def proxyspex(
    f: ValueFunction,
    n: int | None = None,
    *,
    features: Sequence[str] | None = None,
    budget: int,
    preset: str = "default",
    degree: int = 5,
    terms: int | None = None,
    seed: int = 0,
    batch_size: int = 1024,
    progress: Progress | None = None,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> Explanation | list[Explanation]:
    """ProxySPEX: what drives f, from `budget` evaluations at uniform masks.

    Boosted trees are fitted to the values, and the largest terms of their exact Fourier spectrum
    are fitted again to all values. `preset="default"` does so by ridge regression under a prior
    that the trees and the samples left out of them decide on; `preset="paper"` is the published
    recipe. A budget of 2**n evaluates every mask (n <= 24), and the result is then exact.

    Args:
        f: any callable, bool (batch, n) array -> (batch,) numbers, or (batch, q) for q outputs.
        n: features; or `features`, their names, which results then use.
        budget: the most evaluations, at least 8; all are distinct.
        preset: "default" or "paper".
        degree: the largest order of a term, 1 to 16, which is the depth of the trees.
        terms: Fourier terms to fit at most, beside the constant; by default half the samples, from
            1,024 to 8,192. Not for the paper's recipe, which keeps 95 % of the energy.
        seed: every random choice follows from it; same seed, same bits, on any number of threads.
        batch_size: masks in one call of f at the most.
        progress: called as progress(done, total) after each batch.
        known: (masks bool (rows, n), values (rows,) or (rows, q)) that need not be asked for again.
    Returns: an Explanation; for q outputs a list of q.
    Raises:  TypeError, ValueError for bad arguments, before f is called; EvaluationError if f
             fails, holding what was paid for.
    Cost:    f aside, about T n word operations a tree and S**3 / 3 products for S terms.
    Source:  Butler et al., ProxySPEX, NeurIPS 2025 (arXiv 2505.17495).
    Example: proxyspex(lambda x: x[:, 0] * 1.0 - 2 * (x[:, 1] & x[:, 4]), n=30, budget=500)
    """
    if not callable(f):
        raise TypeError(f"proxyspex: f must be callable, got {type(f).__name__}")
    names = feature_names("proxyspex", n, features)
    n = len(names)
    budget = check_int("proxyspex: budget", budget, min(LEAST, 1 << min(n, 3)))
    options = _check_options("proxyspex", preset, degree, terms, seed)
    batch_size = check_int("proxyspex: batch_size", batch_size, 1)
    clock = Clock()
    with clock("plan"):
        plan = plan_uniform(n, budget, seed=seed)
    with clock("evaluate"):
        values, used = evaluate(
            f, plan, batch_size=batch_size, progress=progress, known=known, many=True
        )
    masks = plan.masks(0, plan.total)
    return _explain(masks, values, names, clock, budget=budget, used=used, **options)


def fit(
    masks: np.ndarray | Tensor,
    values: Sequence[float] | np.ndarray | Tensor,
    *,
    algorithm: str = "proxyspex",
    features: Sequence[str] | None = None,
    preset: str = "default",
    degree: int = 5,
    terms: int | None = None,
    seed: int = 0,
) -> Explanation | list[Explanation]:
    """An explanation from masks and values that are there already.

    A mask that comes more than once counts once, with the mean of its values; where they differ the
    report says so. So it does where the masks are not uniform (then R2 is for masks of their kind)
    and where a feature never varies (then no term has it).

    Args:    masks: bool (T, n), T >= 8 distinct ones. values: (T,), or (T, q) for q outputs.
             algorithm: "proxyspex", the one for uniform masks. The others: as in proxyspex().
    Returns: an Explanation; for values (T, q) a list of q.
    Raises:  TypeError, ValueError.
    """
    check(
        algorithm == "proxyspex",
        "fit: algorithm must be 'proxyspex', the one for masks at random, got {!r}",
        algorithm,
    )
    options = _check_options("fit", preset, degree, terms, seed)
    dense, numbers = check_samples("fit", masks, values, many=True)
    names = feature_names("fit", dense.shape[1], features)
    clock = Clock()
    with clock("plan"):
        packed = bits.pack(dense)
    return _explain(
        packed, torch.from_numpy(numbers), names, clock, budget=len(packed), used=0, **options
    )


def _check_options(
    where: str, preset: str, degree: int, terms: int | None, seed: int
) -> dict[str, object]:
    check(preset in PRESETS, "{}: preset must be 'default' or 'paper', got {!r}", where, preset)
    check(
        terms is None or preset == "default",
        "{}: terms must be None with preset='paper', which chooses them, got {}",
        *(where, terms),
    )
    return {
        "where": where,
        "preset": preset,
        "degree": check_int(f"{where}: degree", degree, 1, MAX_DEGREE),
        "terms": None if terms is None else check_int(f"{where}: terms", terms, 1),
        "seed": check_int(f"{where}: seed", seed, 0, 2**64 - 1),
    }


def _explain(
    masks: Tensor,
    values: Tensor,
    names: tuple[str, ...],
    clock: Clock,
    *,
    where: str,
    preset: str,
    degree: int,
    terms: int | None,
    seed: int,
    budget: int,
    used: int,
) -> Explanation | list[Explanation]:
    """Masks packed int64 (T, W) and values float64 (T,) or (T, q) -> one explanation an output."""
    n, warnings = len(names), []
    with clock("plan"):
        masks, columns = _merge(masks, values if values.ndim == 2 else values[:, None], warnings)
    whole = n <= 24 and len(masks) == 1 << n
    check(
        whole or len(masks) >= LEAST,
        "{}: masks must be at least {} different ones, got {}",
        *(where, LEAST, len(masks)),
    )
    with clock("fit"):
        if whole:
            fits = [_whole_table(masks, y) for y in columns.T]
        else:
            warnings += _about_masks(masks, n)
            fits = _fit_outputs(masks, columns, n, preset, degree, terms, seed)
    out = []
    for found in fits:
        transform = SparseTransform(n, found.support, found.coefs)
        report = Report(
            algorithm="proxyspex",
            preset=preset,
            backend=pick("boost", "auto", torch.device("cpu")),
            device="cpu",
            seed=seed,
            n=n,
            degree=n if whole else degree,
            budget=budget,
            used=used,
            unique=len(masks),
            left_out=found.left_out,
            r2=found.r2,
            r2_linear=found.r2_linear,
            terms=len(transform),
            effective_terms=found.effective,
            energy_by_order=transform.energy_by_order(),
            hierarchy=hierarchy_rates(transform),
            plan=f"{len(masks):,} masks; {found.note}",
            seconds=dict(clock.seconds),
            warnings=list(warnings),
        )
        out.append(Explanation(transform, names, report))
    return out if values.ndim == 2 else out[0]


def _merge(masks: Tensor, values: Tensor, warnings: list[str]) -> tuple[Tensor, Tensor]:
    """Each distinct mask once, in the order of its first appearance, with the mean of its values
    (T, q)."""
    table = masks.numpy()
    _, first, slot, count = np.unique(
        table, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) == len(table):
        return masks, values
    slot = slot.reshape(-1)
    differ = np.abs(values.numpy() - values.numpy()[first[slot]]).max(1) > 0
    if differ.any():
        several = len(np.unique(slot[differ]))
        warnings.append(
            f"{several:,} masks come more than once with different values: their means are fitted"
        )
    order = np.argsort(first)
    sums = np.zeros((len(first), values.shape[1]))
    np.add.at(sums, slot, values.numpy() / count[slot][:, None])
    return masks[torch.from_numpy(first[order])], torch.from_numpy(sums[order])


def _about_masks(masks: Tensor, n: int) -> list[str]:
    """What the user should know of masks that are not uniform."""
    share = _shares(masks, n)
    out = []
    if len(never := np.flatnonzero((share == 0) | (share == 1))):
        few = ", ".join(map(str, never[:5])) + (", ..." if len(never) > 5 else "")
        out.append(f"{len(never):,} features never vary ({few}): what they do cannot be seen")
    varying = share[(share > 0) & (share < 1)]
    excess = float((4 * len(masks) * (varying - 0.5) ** 2).sum())  # about chi-squared
    if excess > len(varying) + 6 * np.sqrt(2 * max(len(varying), 1)):
        out.append(
            f"the masks are not uniform (features are kept with probability {varying.min():.2f} to "
            f"{varying.max():.2f}): R2 is for masks like them"
        )
    return out


def _shares(masks: Tensor, n: int) -> np.ndarray:
    """The share of the masks that have each feature: float64 (n,)."""
    rows = max(1, (1 << 24) // n)
    total = np.zeros(n)
    for start in range(0, len(masks), rows):
        total += bits.unpack(masks[start : start + rows], n).sum(0)
    return total / len(masks)


def _fit_outputs(
    masks: Tensor,
    columns: Tensor,
    n: int,
    preset: str,
    degree: int,
    terms: int | None,
    seed: int,
) -> list[ProxyFit]:
    """One fit a column of values (T, q); those that are all equal need none."""
    unit = columns.abs().amax(0)
    scaled = columns / torch.where(unit > 0, unit, 1.0)
    varies = (scaled != scaled[0]).any(0)
    if preset == "paper":
        fits = fit_paper(masks, scaled.T[varies], n, degree=degree)
    else:
        fits = fit_default(masks, scaled.T[varies], n, degree=degree, terms=terms, seed=seed)
    found = iter(fits)
    out = []
    for i in range(columns.shape[1]):
        one = next(found) if varies[i] else _constant(masks, scaled[0, i])
        out.append(one.scaled(float(unit[i])))
    return out


def _constant(masks: Tensor, value: Tensor) -> ProxyFit:
    support = torch.zeros(1, masks.shape[1], dtype=torch.int64)
    return ProxyFit(support, value.reshape(1), 1.0, 1.0, 0, 1.0, "all values are equal")


def _whole_table(masks: Tensor, y: Tensor) -> ProxyFit:
    """All 2**n masks: the exact spectrum, and what its linear part explains."""
    table = torch.empty_like(y)
    table[masks[:, 0]] = y
    exact = SparseTransform.from_table(table)
    energy = exact.energy_by_order()
    linear = energy.get(1, 0.0) if energy else 1.0
    size = float(len(exact))
    return ProxyFit(exact.support, exact.coefs, 1.0, linear, 0, size, "the whole table")
