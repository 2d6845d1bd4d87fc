"""The recipe of ProxySPEX: uniform masks, boosted trees, their spectrum, a refit; and the same for
masks and values that are there already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from . import ops
from .backend import pick
from .errors import check, check_int
from .evaluate import Progress, SetFunction, check_samples, evaluate
from .explanation import Explanation, Report
from .hierarchy import hierarchy_rates
from .memory import freed_memory_kept
from .peel import beyond_rounding
from .plan import plan_uniform
from .prefixes import BRANCHING
from .proxy import ProxyFit, fit_default
from .proxy_paper import fit_paper
from .samples import Samples, distinct, varying
from .spex import Clock, feature_names, with_constant
from .transform import SparseTransform

LEAST = 8  # samples
PRESETS = ("default", "paper")
MAX_DEGREE = 16


def proxyspex(
    f: SetFunction,
    n: int | None = None,
    *,
    features: Sequence[str] | None = None,
    budget: int,
    preset: str = "default",
    degree: int = 5,
    terms: int | None = None,
    prefix_sharing: bool = False,
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
        f: any callable, bool (batch, n) array -> (batch,) numbers, or (batch, q) for q outputs. Or
            a ValueFunction, which is asked in packs of its own and names its features.
        n: features; or `features`, their names, which results then use.
        budget: the most evaluations, at least 8 (2**n for n <= 2); all are distinct.
        preset: "default" or "paper".
        degree: the largest order of a term, 1 to 16, which is the depth of the trees.
        terms: Fourier terms to fit at most, beside the constant; by default half the samples, from
            1,024 to 8,192. A linear fit, where that is better, has all features. Not for the
            paper's recipe, which keeps 95 % of the energy.
        prefix_sharing: draw the masks in groups that agree on their first features, for a model
            that computes a shared prefix once; for the default preset. It saves such a model some
            55 % of the tokens of the features. At the same number of masks R2 is a little lower
            (by up to 0.03 in bench/bench_prefix.py), at the same number of tokens higher (by up to
            0.09): ask for twice the masks. Off, because a budget counts masks.
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
    names = feature_names("proxyspex", n, features, f)
    n = len(names)
    budget = check_int("proxyspex: budget", budget, least_masks(n))
    options = _check_options("proxyspex", preset, degree, terms, seed)
    batch_size = check_int("proxyspex: batch_size", batch_size, 1)
    check(
        preset == "default" or not prefix_sharing,
        "proxyspex: prefix_sharing must be False with preset={!r}, whose masks are independent",
        preset,
    )
    clock = Clock()
    with clock("plan"):
        plan = plan_uniform(n, budget, seed=seed, prefix_sharing=prefix_sharing)
    with clock("evaluate"):
        values, used = evaluate(
            f, plan, batch_size=batch_size, progress=progress, known=known, many=True
        )
    masks = plan.masks(0, plan.total)
    return _explain(
        *(masks, values, names, clock),
        budget=budget,
        used=used,
        uniform=True,
        together=BRANCHING if prefix_sharing else 1,
        **options,
    )


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
    and where a feature never varies (then no term has it). All 2**n masks give the exact result.

    Args:    masks: bool (T, n), at least 8 distinct ones (2**n for n <= 2). values: (T,), or (T, q)
             for q outputs.
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
        *(packed, torch.from_numpy(numbers), names, clock),
        budget=len(packed),
        used=0,
        uniform=False,
        together=1,
        **options,
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
    uniform: bool,
    together: int,
) -> Explanation | list[Explanation]:
    """Masks packed int64 (T, W) and values float64 (T,) or (T, q) -> one explanation an output.
    uniform: whether the masks are known to be. together: so many neighbours are alike."""
    n = len(names)
    with clock("plan"):
        samples = distinct(masks, values, n)
        least = least_masks(n)
        check(
            len(samples.masks) >= least,
            "{}: masks must be at least {} different ones, got {}",
            *(where, least, len(samples.masks)),
        )
        samples = varying(samples, uniform=uniform)
    with clock("fit"), freed_memory_kept():
        fits = _fit_outputs(samples, preset, degree, terms, seed, together)
    out = []
    for found, power in zip(fits, samples.powers, strict=True):
        coefs = torch.from_numpy(np.ldexp(found.coefs.numpy(), power))
        transform = SparseTransform(n, samples.widened(found.support), coefs)
        report = Report(
            algorithm="proxyspex",
            preset=preset,
            backend=pick("boost", "auto", torch.device("cpu")),
            device="cpu",
            seed=seed,
            n=n,
            degree=len(samples.features) if samples.whole else degree,
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
        )
        out.append(Explanation(transform, names, report))
    return out if values.ndim == 2 else out[0]


def least_masks(n: int) -> int:
    """The fewest masks to fit, all of them where there are no more."""
    return min(LEAST, 1 << min(n, 3))


def _about_fit(found: ProxyFit) -> list[str]:
    """What the user should know of a result; the default preset takes the better fit by itself."""
    if found.r2_linear <= found.r2:
        return []
    return [
        f"a linear fit on the same samples does better (R2 {found.r2_linear:.3f} against "
        f"{found.r2:.3f}): ask for preset='default', or for more evaluations"
    ]


def _fit_outputs(
    samples: Samples, preset: str, degree: int, terms: int | None, seed: int, together: int
) -> list[ProxyFit]:
    """One fit an output; values that are all equal need none."""
    masks, values, n = samples.masks, samples.values, len(samples.features)
    if samples.whole:
        return [_whole_table(masks, y, n) for y in values]
    out = [_constant(masks, float(y[0])) for y in values]
    if len(varies := (values != values[:, :1]).any(1).nonzero()[:, 0]):
        if preset == "paper":
            fits = fit_paper(masks, values[varies], n, degree=degree)
        else:
            fits = fit_default(
                *(masks, values[varies], n),
                degree=degree,
                terms=terms,
                seed=seed,
                together=together,
            )
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
