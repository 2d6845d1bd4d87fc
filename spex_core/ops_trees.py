"""The public kernels of boosted trees and their spectra, checked, dispatched and named as those of
ops.py, which has them too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import fakes, reference, reference_boost
from .backend import Backend, pick
from .checks import check_device, check_packed, kind
from .errors import check, check_int
from .forest import check_forest
from .traced import custom_op


class Boosted(NamedTuple):
    """What ops.boost returns: the trees of J fits, and what they predict.

    A tree goes from its root to a leaf, at each node to `present` where the mask has the feature
    and else to `absent`; the prediction of fit j is bias[j] plus the values of the leaves reached.
    Nodes are numbered through, a fit's before the next one's; ops.tree_fourier takes the first six
    fields as they are.
    """

    roots: Tensor  # int32 (trees,), over all fits
    group: Tensor  # int32 (trees,): the fit of each tree, ascending
    feature: Tensor  # int32 (nodes,), -1 at a leaf
    absent: Tensor  # int32 (nodes,): the node without the feature, -1 at a leaf
    present: Tensor  # int32 (nodes,): the node with it, -1 at a leaf
    value: Tensor  # float64 (nodes,), 0 at what is not a leaf
    bias: Tensor  # float64 (J,)
    staged: Tensor  # float64 (J, stages, T + E)


@custom_op(
    "(Tensor masks, Tensor values, SymInt n, Tensor? bags, Tensor? watch, *, "
    "int[] trees, int[] depth, int[] leaves, int[] min_leaf, float[] rate, float[] l2, "
    "float[] row_share, float[] feature_share, int[] stages, int seed=0, str backend='auto') "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=fakes.boost,
    flat=fakes.flat_boost,
    result=Boosted,
    loose=("bags", "watch"),
)
def boost(
    masks: Tensor,
    values: Tensor,
    n: int,
    *,
    bags: Tensor | None = None,
    watch: Tensor | None = None,
    trees: int | Sequence[int] = 100,
    depth: int | Sequence[int] = 5,
    leaves: int | Sequence[int] = 31,
    min_leaf: int | Sequence[int] = 20,
    rate: float | Sequence[float] = 0.1,
    l2: float | Sequence[float] = 0.0,
    row_share: float | Sequence[float] = 1.0,
    feature_share: float | Sequence[float] = 1.0,
    stages: Sequence[int] | None = None,
    seed: int = 0,
    backend: Backend = "auto",
) -> Boosted:
    """Gradient boosting of regression trees on mask bits, squared loss, J fits at once.

    Every tree is grown on the residuals r of those before it. The leaf whose split lowers the error
    most is split next: by the feature of largest s1**2 / w1 + s0**2 / w0 - s**2 / w, where s sums r
    over the samples of a side (1: with the feature, 0: without, s: both) and w is their number plus
    l2. A leaf predicts rate s / w.

    Args:    masks: packed int64 (T, W), 1 <= T <= 2**24, spare bits zero. values: (T,), or (J, T),
             a row for each fit; taken as float64. n: features. bags: packed int64
             (J, ceil(T / 64)), spare bits zero: bit i of row j is set where fit j sees sample i;
             None: all samples. watch: further masks, packed (E, W), that are only predicted.
             trees: how many. depth, leaves: of a tree, at most. min_leaf: samples in a leaf, at
             least. rate: in (0, 1]. l2 >= 0. row_share, feature_share: in (0, 1]: the share of the
             bag and of the features, rounded, at least one, that each tree draws anew. From `trees`
             on each is a number, or one for each fit. stages: ascending numbers of trees after
             which predictions are kept; for a fit that has fewer its last; (max(trees),) by
             default. seed: of the draws, in [0, 2**64).
    Returns: Boosted. The same bits on every backend and machine, for any number of threads.
    Raises:  TypeError, ValueError if an argument is not as above; BackendUnavailable.
    Accuracy: for each tree the residuals are rounded to 1 / 8191 of the largest (above T = 262,144
             to T / 2**31 of it), which makes sums exact in any order; predictions are float64.
             Ties go to the lowest feature and to the older leaf.
    Cost:    a fit: at most trees * (depth + 1) * T * n / 2 masked additions, on cpu 16 in an
             instruction; threads share out the fits. A device is waited for at each level of a
             tree. Memory beyond the result: the masks two or,
             with watch, three times, and leaves * (8 n + T / 8) bytes for each thread.
    Source:  Friedman 2001 (gradient boosting); Ke et al. 2017 (LightGBM: the best leaf first).
    """
    n = check_int("boost: n", n, 1)
    watch = masks[:0] if watch is None else watch
    check_packed("boost", masks=masks, watch=watch)
    _check_bits("boost", n, masks=masks, watch=watch)
    samples = len(masks)
    check(1 <= samples <= 1 << 24, "boost: masks must be 1 to 2**24 rows, got {}", samples)
    if not (isinstance(values, Tensor) and values.is_floating_point()):
        raise TypeError(f"boost: values must be a floating-point tensor, got {kind(values)}")
    check(
        values.ndim in (1, 2) and values.shape[-1] == samples,
        "boost: values must have shape ({0},) or (J, {0}), got {1}",
        *(samples, tuple(values.shape)),
    )
    check_device("boost", "values", values, "masks", masks)
    check(bool(torch.isfinite(values).all()), "boost: values must be finite")
    values = torch.atleast_2d(values.double())
    if bags is None:
        bags = masks.new_full((1, -(-samples // 64)), -1)
        bags[:, -1] = _low_bits(samples)
    check_packed("boost", bags=bags)
    check_device("boost", "bags", bags, "masks", masks)
    _check_bits("boost", samples, bags=bags)
    check(bool((bags != 0).any(1).all()), "boost: bags must have a sample in each row")
    counts = {"trees": trees, "depth": depth, "leaves": leaves, "min_leaf": min_leaf}
    shares = {"rate": rate, "l2": l2, "row_share": row_share, "feature_share": feature_share}
    each = _boost_settings(counts, shares)
    lengths = {name: len(x) for name, x in {"values": values, "bags": bags, **each}.items()}
    fits = next((length for length in lengths.values() if length != 1), 1)
    for name, length in lengths.items():
        check(length in (1, fits), "boost: {} must be for 1 or {} fits, got {}", name, fits, length)
    stages = [max(each["trees"])] if stages is None else list(stages)
    stages = [check_int("boost: stages", stage, 0, 2**31 - 1) for stage in stages]
    ascending = bool(stages) and all(a < b for a, b in pairwise(stages))
    check(ascending, "boost: stages must be ascending, got {}", stages)
    seed = check_int("boost: seed", seed, 0, 2**64 - 1)

    values, bags = values.expand(fits, -1), bags.expand(fits, -1)
    settings = list(zip(*(x * (fits // len(x)) for x in each.values()), strict=True))
    match pick("boost", backend, masks.device):
        case "cpu":
            from . import native

            found = native.boost_cpu(masks, values, n, bags, watch, settings, stages, seed)
        case "triton":
            from .triton_kernels.boost import boost as impl

            found = impl(masks, values, n, bags, watch, settings, stages, seed)
        case "cuda":
            from .boost_cuda import boost_cuda

            found = boost_cuda(masks, values, n, bags, watch, settings, stages, seed)
        case _:
            given = masks.cpu(), values.cpu(), n, bags.cpu(), watch.cpu()
            made = reference_boost.boost(*given, settings, stages, seed)
            found = tuple(x.to(masks.device) for x in made)
    return Boosted(*found)


def _listed(given: Any) -> list[Any]:
    """A setting for each fit, or one for all."""
    return list(given) if hasattr(given, "__len__") else [given]


def _boost_settings(
    counts: dict[str, int | Sequence[int]], shares: dict[str, float | Sequence[float]]
) -> dict[str, list]:
    """The settings of boost as lists, one entry a fit or one for all, checked."""
    least = {"trees": 0, "leaves": 2}
    each: dict[str, list] = {}
    for name, given in counts.items():
        low = least.get(name, 1)
        each[name] = [check_int(f"boost: {name}", x, low, 2**31 - 1) for x in _listed(given)]
    for name, share in shares.items():
        each[name] = [float(x) for x in _listed(share)]
        for x in each[name]:
            if name == "l2":
                check(0 <= x < math.inf, "boost: l2 must be finite and not negative, got {}", x)
            else:
                check(0 < x <= 1, "boost: {} must be in (0, 1], got {}", name, x)
    for name, listed in each.items():
        check(len(listed) > 0, "boost: {} must not be empty", name)
    return each


def _check_bits(op: str, bits: int, **tensors: Tensor) -> None:
    """Each has the words of `bits` bits, and no bit beyond."""
    width = -(-bits // 64)
    for name, x in tensors.items():
        check(
            x.shape[1] == width,
            "{}: {} must have ceil({} / 64) = {} words, got {}",
            *(op, name, bits, width, x.shape[1]),
        )
        spare = bool((x[:, -1] & ~_low_bits(bits)).any())
        check(not spare, "{}: {} must have no bit set beyond the first {}", op, name, bits)


def _low_bits(bits: int) -> int:
    """The last of the words that hold `bits` bits, all set, as an int64."""
    return (1 << bits % 64) - 1 if bits % 64 else -1


@custom_op(
    "(Tensor roots, Tensor feature, Tensor absent, Tensor present, Tensor value, SymInt n, "
    "Tensor? group, *, SymInt groups=1, int? limit=None, str backend='auto') "
    "-> (Tensor, Tensor)",
    fake=fakes.tree_fourier,
    loose=("group",),
)
def tree_fourier(
    roots: Tensor,
    feature: Tensor,
    absent: Tensor,
    present: Tensor,
    value: Tensor,
    n: int,
    *,
    group: Tensor | None = None,
    groups: int = 1,
    limit: int | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """The exact Fourier spectrum of a sum of regression trees on mask bits.

    At a node that asks for feature j, F = (F0 + F1) / 2, and (F0 - F1) / 2 with j joined to each
    set, of the spectra F0 and F1 below its two sides.

    Args:    roots int32 (trees,), feature, absent, present int32 (nodes,), value float64 (nodes,):
             the trees, as forest.py says. n: features, at least 1. group: int32 (trees,), the
             column in [0, groups) that each tree is added to; None is column 0 for all. limit: at
             most so many terms, those of largest Euclidean norm over the groups; of equals the
             first in the order below.
    Returns: support packed int64 (S, W), ordered by |k|, then by features; coefs float64 (S,
             groups). Terms whose coefficients are exactly 0 in all groups are left out.
    Raises:  TypeError, ValueError if the arguments are not as above, a path asks more than 64
             different features, or one tree has more than 2**24 terms; BackendUnavailable.
    Accuracy: float64 sums, those of a column in the order of its trees; the same bits for any
             number of threads.
    Cost:    a tree with d different features on each path has at most 4**d terms and in general far
             fewer (342 where d = 5); time is linear in their sum over the trees, on cpu some 20 ns
             each. Memory: some 60 + 16 groups bytes for each distinct term before the limit, and
             the result, 8 (W + groups) bytes for each after it. On triton some 150 bytes for each
             term of each tree, and the device is waited for at each level.
    Source:  Gorji, Amrollahi and Krause 2024 (arXiv 2410.06300), the recursion.
    """
    n = check_int("tree_fourier: n", n, 1, 2**31 - 1)
    groups = check_int("tree_fourier: groups", groups, 1, 2**31 - 1)
    limit = None if limit is None else check_int("tree_fourier: limit", limit, 0)
    check_forest("tree_fourier", roots, feature, absent, present, value, n)
    if group is not None:
        if not (isinstance(group, Tensor) and group.dtype == torch.int32):
            raise TypeError(f"tree_fourier: group must be an int32 tensor, got {kind(group)}")
        check_device("tree_fourier", "group", group, "roots", roots)
        check(
            group.shape == roots.shape and bool(((group >= 0) & (group < groups)).all()),
            "tree_fourier: group must be {} numbers in [0, {}), got shape {}",
            *(len(roots), groups, tuple(group.shape)),
        )
    trees = roots, feature, absent, present, value
    match pick("tree_fourier", backend, roots.device):
        case "cpu":
            from . import native

            return native.tree_fourier_cpu(*trees, n, group, groups, limit)
        case "triton":
            from .triton_kernels.tree_fourier import tree_fourier as impl

            return impl(*trees, n, group, groups, limit)
        case _:
            return reference.tree_fourier(*trees, n, group, groups, limit)
