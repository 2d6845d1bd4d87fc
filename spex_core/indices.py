"""Stage 7: every interaction index of a set function, straight from its Fourier terms.

Each value is one weighted sum over the terms k that contain S (weights.py), so an index up to order
l needs the subsets of at most l features of each term (ops.superset_sums), and nothing of size
2**|k| is ever made.
"""

from __future__ import annotations

import contextlib
import difflib
import gc
import unicodedata
from collections.abc import Iterator

import numpy as np
import torch

from . import ops
from .errors import check, check_int
from .transform import SparseTransform
from .weights import INDICES


def interactions(
    transform: SparseTransform, index: str = "FBII", order: int | None = None
) -> dict[tuple[int, ...], float]:
    """The interactions of at most `order` features, largest |value| first, then the baseline at ().

    With "sum" over all terms k >= S, s = |S|, d = |k|, l = order:

    | index      | value(S)                                      | baseline ()        | source |
    | ---------- | --------------------------------------------- | ------------------ | ------ |
    | Fourier    | F[S]                                          | mean of f          | 1      |
    | Moebius    | (-2)**s sum F[k]: AND interactions            | f(nothing present) | 2      |
    | Co-Moebius | 2**s sum (-1)**d F[k]                         | f(all present)     | 2      |
    | OR         | -(-2)**s sum (-1)**d F[k]                     | f(nothing present) | 1      |
    | BV         | BII of single features: the Banzhaf values    | mean of f          | 2      |
    | SV         | SII of single features: the Shapley values    | f(nothing present) | 2      |
    | BII        | (-2)**s F[S]                                  | mean of f          | 2      |
    | SII        | (-2)**s sum of F[k] / (d - s + 1), d - s even | the same at S = () | 2      |
    | k-SII      | SII made efficient, k = l                     | f(nothing present) | 3      |
    | STII       | Moebius for s < l; all else shared at s = l   | f(nothing present) | 4      |
    | FBII       | (-2)**s sum of F[k], d <= l                   | the same at S = () | 5      |
    | FSII       | Moebius, plus its share of all a(T), |T| > l  | f(nothing present) | 5      |
    | Influence  | sum F[k]**2; for s >= 2 superset importance   | variance of f      | 1, 6   |

    FBII and FSII with their baselines are the coefficients of the polynomial of degree l closest to
    f, under uniform weights and under Shapley weights. SV, k-SII, STII and FSII add up, with their
    baseline, to f(all present). The baseline of SII is the mean of f over a uniformly random number
    of features present.

    Args:     index: a name above in any case, with or without hyphens, or a usual alias ("Möbius",
              "AND", "Shapley", "Banzhaf", "n-Shapley", "Shapley-Taylor", "Faith-Shap", ...).
              order: from 1 to n. By default 1 for SV, BV and Influence, else 2 (or n, if less). SV
              and BV have no other.
    Returns:  {sorted tuple of features: value}. A set that is not there has the value 0. Of equal
              |value| the smaller set comes first, then the one with the lower features.
    Raises:   ValueError for an unknown index (naming the closest) and for an order out of range.
    Accuracy: float64 sums in the order of the terms; each weight is correctly rounded.
    Cost:     C(|k|, 1) + ... + C(|k|, order) sets for each term, sorted and merged; sets of weight
              zero (for BII, all but k itself) are not made. interaction_arrays without the dict.
    Source:   1 Butler et al. 2025 (ProxySPEX), table A.1; 2 Grabisch, Marichal and Roubens 2000;
              3 Lundberg et al. 2020, Bordt and von Luxburg 2023; 4 Sundararajan, Dhamdhere and
              Agarwal 2020; 5 Tsai, Yeh and Ravikumar 2023; 6 Liu and Owen 2006.
    Example:  interactions(SparseTransform.from_dict(2, {(): 1.0, (0, 1): 0.25}), "BII")
              # {(0, 1): 1.0, (): 1.0}
    """
    sets, values, baseline = interaction_arrays(transform, index, order)
    ints = np.arange(transform.n).astype(object)  # one int per feature, shared by all the keys
    sizes = (sets >= 0).sum(axis=1)
    with _no_collection():
        tuples = {
            size: zip(*ints[sets[sizes == size, :size].T].tolist(), strict=True)
            for size in range(1, sets.shape[1] + 1)
        }
        keys = map(next, map(tuples.__getitem__, sizes.tolist()))
        out = dict(zip(keys, values.tolist(), strict=True))
    out[()] = baseline
    return out


def interaction_arrays(
    transform: SparseTransform, index: str = "FBII", order: int | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """The same as arrays, for many interactions: without one Python object for each.

    Args:     as for interactions, and the same errors.
    Returns:  sets int32 (M, order), the features of each ascending and then -1; values float64
              (M,), in the order of interactions; the baseline.
    Cost:     ops.superset_sums. 270,000 tuples and their dict take several times as long.
    Example:  interaction_arrays(SparseTransform.from_dict(2, {(): 1.0, (0, 1): 0.25}), "BII")
              # (array([[0, 1]]), array([1.]), 1.0)
    """
    name = index_name(index)
    order = check_order(name, order, transform.n)
    coefs = transform.coefs**2 if name == "Influence" else transform.coefs
    weights = np.zeros((order, transform.degree + 1))
    there, start = np.unique(transform.orders, return_index=True)
    for d in there.tolist():
        for size in range(1, min(order, d) + 1):
            weights[size - 1, d] = INDICES[name](size, d, order)
    sets, values = ops.superset_sums(transform.support, coefs, torch.from_numpy(weights))
    shares = [float(INDICES[name](0, d, order)) for d in there.tolist()]
    baseline = np.dot(shares, np.add.reduceat(coefs.numpy(), start)) if len(there) else 0.0
    return sets.numpy(), values.numpy(), float(baseline)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which would walk all tuples so far again and again: a tenth of
    the time for 270,000 sets."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def index_name(index: str) -> str:
    """The name in INDICES that `index` means; ValueError, naming the closest, if it means none."""
    if not isinstance(index, str):
        raise TypeError(f"interactions: index must be a string, got {index!r}")
    plain = _plain(index)
    if plain in _NAMES:
        return _NAMES[plain]
    close = difflib.get_close_matches(plain, _NAMES, n=1)
    hint = f"; did you mean {_NAMES[close[0]]}?" if close else ""
    known = ", ".join(INDICES)
    raise ValueError(f"interactions: index must be one of {known}, got {index!r}{hint}")


def check_order(name: str, order: int | None, n: int) -> int:
    """The order meant for an index of n features; ValueError for one that it does not have."""
    if order is None:
        return 1 if name in ("SV", "BV", "Influence") else min(2, n)
    order = check_int("interactions: order", order, 1)
    if name in ("SV", "BV"):
        instead = {"SV": "SII, k-SII, STII or FSII", "BV": "BII or FBII"}[name]
        check(
            order == 1,
            "interactions: order must be 1 for {}, got {}; ask for {} to have larger sets",
            *(name, order, instead),
        )
    check(order <= n, "interactions: order must be at most n = {}, got {}", n, order)
    return order


def _plain(name: str) -> str:
    """The letters and digits of a name, in lower case and without accents."""
    apart = unicodedata.normalize("NFKD", name)
    return "".join(c for c in apart if c.isalnum()).casefold()


_NAMES = {_plain(name): name for name in INDICES} | {
    "walsh": "Fourier",
    "mobius": "Moebius",
    "and": "Moebius",
    "comobius": "Co-Moebius",
    "banzhaf": "BV",
    "banzhafvalue": "BV",
    "banzhafvalues": "BV",
    "shapley": "SV",
    "shapleyvalue": "SV",
    "shapleyvalues": "SV",
    "banzhafinteraction": "BII",
    "shapleyinteraction": "SII",
    "nshapley": "k-SII",
    "shapleytaylor": "STII",
    "faithbanzhaf": "FBII",
    "faithshap": "FSII",
    "faithshapley": "FSII",
}
