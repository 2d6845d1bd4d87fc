"""Stage 2 of ProxySPEX, masks and values -> Samples: each mask once, only features that vary,
numbers near one, and what the user should know of the masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import masks as bits
from .budget import MAX_TABLE
from .records import distinct_rows

SIGMAS = 6  # by which masks at random differ from uniform ones, before the report says so


@dataclass(frozen=True, eq=False)
class Samples:
    """Masks and values in the form that is fitted.

    Attributes:
        n: features of the user's masks. features: int64 (v,), those that vary, ascending.
        masks: packed int64 (T, ceil(v / 64)), distinct, of these features alone.
        values: float64 (q, T), those of output j divided by 2**powers[j], which is exact: the
        largest of an output is in [1/2, 1).
        powers: int (q,).
        warnings: what the user should know.
    """

    n: int
    features: np.ndarray
    masks: Tensor
    values: Tensor
    powers: np.ndarray
    warnings: list[str]

    @property
    def whole(self) -> bool:
        """Whether every mask there is of these features is among them."""
        return len(self.features) <= MAX_TABLE and len(self.masks) == 1 << len(self.features)

    def widened(self, support: Tensor) -> Tensor:
        """Packed sets of the features that vary, as sets of all n: int64 (S, ceil(n / 64))."""
        rows, features = bits.members(support)
        return bits.from_members(rows, self.features[features], len(support), self.n)


def distinct(masks: Tensor, values: Tensor, n: int) -> Samples:
    """Samples of all n features: each mask once, in the order of first appearance, with the mean of
    its values.

    Args: masks: packed int64 (T, W). values: float64 (T,) or (T, q).
    """
    table = values.numpy() if values.ndim == 2 else values.numpy()[:, None]
    powers = np.frexp(np.abs(table).max(0, initial=0.0))[1]
    table = np.ldexp(table, -powers)
    first, slot = distinct_rows(masks.numpy().view(np.uint64))
    over = table - table[first[slot]]  # over the value where the mask came first
    sums = np.zeros((len(first), table.shape[1]))
    np.add.at(sums, slot, over)
    means = table[first] + sums / np.bincount(slot, minlength=len(first))[:, None]
    several = len(np.unique(slot[over.any(1)]))
    warnings = [
        f"{several:,} masks come more than once with different values: their means are fitted"
    ]
    return Samples(
        n=n,
        features=np.arange(n),
        masks=masks[torch.from_numpy(first)],
        values=torch.from_numpy(means.T.copy()),
        powers=powers,
        warnings=warnings if several else [],
    )


def varying(samples: Samples, *, uniform: bool = False, chosen: int = 0) -> Samples:
    """The samples without the features that never vary, and with warnings of those and of masks
    that are not uniform: so many that a fit has chosen, or else, unless they are known to be
    `uniform`, what can be seen of them."""
    n, total = samples.n, len(samples.masks)
    count, sizes = np.zeros(n), []
    for dense in _unpacked(samples.masks, n):
        count += dense.sum(0)
        sizes.append(dense.sum(1))
    vary = (count > 0) & (count < total)
    warnings = list(samples.warnings)
    if len(never := np.flatnonzero(~vary)):
        warnings.append(never_vary(never))
        parts = [bits.pack(dense[:, vary]) for dense in _unpacked(samples.masks, n)]
        samples = dataclasses.replace(
            samples, masks=torch.cat(parts), features=np.flatnonzero(vary)
        )
    if chosen and not samples.whole:
        warnings.append(
            f"{chosen:,} of {total:,} masks were chosen by an earlier fit and are not uniform: R2 "
            "is for masks of their kind"
        )
    elif not (uniform or samples.whole):
        warnings += _unlike_uniform(count[vary], np.concatenate(sizes) - (count == total).sum())
    return dataclasses.replace(samples, warnings=warnings)


def never_vary(features: np.ndarray) -> str:
    """A warning of those features."""
    few = ", ".join(map(str, features[:5])) + (", ..." if len(features) > 5 else "")
    return f"{len(features):,} features never vary ({few}): what they do cannot be seen"


def _unlike_uniform(count: np.ndarray, sizes: np.ndarray) -> list[str]:
    """A warning unless the masks that have each feature, and the features of each mask, are as many
    as in uniform masks, which may come in pairs of complements."""
    n, total = len(count), len(sizes)
    shares = (4 * total * (count / total - 0.5) ** 2).mean()  # chi-squared / n
    spread = (4 / n * (sizes - n / 2) ** 2).mean()  # 1 for uniform masks, as the above
    if shares - 1 <= SIGMAS * np.sqrt(2 / n) and abs(spread - 1) <= SIGMAS * np.sqrt(4 / total):
        return []
    return [
        f"the masks are not uniform (they keep {sizes.mean():.1f} ± {sizes.std():.1f} of {n:,} "
        f"features, each feature is in {count.min() / total:.0%} to {count.max() / total:.0%} of "
        "them): R2 is for masks of their kind"
    ]


def _unpacked(masks: Tensor, n: int) -> Iterator[np.ndarray]:
    """The masks as bool (rows, n), at most 16 million features at a time."""
    rows = max(1, (1 << 24) // n)
    for start in range(0, len(masks), rows):
        yield bits.unpack(masks[start : start + rows], n)
