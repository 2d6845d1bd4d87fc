"""How hierarchical a spectrum is: whether large terms come with large terms inside them, which is
why trees find them."""

from __future__ import annotations

import numpy as np

from .transform import SparseTransform

ENERGY, MOST = 0.95, 1000  # the terms looked at


def hierarchy_rates(transform: SparseTransform, k: int | None = None) -> dict[str, float]:
    """Two rates over the k largest terms, the constant apart; the empty set counts as one of them.

    "direct subset": the share of the sets k minus one feature that are among them, mean over terms.
    "staircase": the share of the terms that are reached from the empty set by adding one feature at
    a time, every set on the way being among them.

    Args:    k: by default as many as hold 95 % of the variance, at most 1,000.
    Returns: {"direct subset": ..., "staircase": ...}; 1.0 both for a constant.
    Cost:    a look-up for each feature of each term.
    Source:  Butler et al. 2025 (ProxySPEX, arXiv 2505.17495), section 3.
    """
    if k is None:
        k = _holding_most(transform)
    there = set(transform.top(k)) | {()}
    climbed: set[tuple[int, ...]] = {()}
    direct = 0.0
    for term in sorted(there, key=len)[1:]:
        below = [term[:i] + term[i + 1 :] for i in range(len(term))]
        direct += sum(set_ in there for set_ in below) / len(below)
        if any(set_ in climbed for set_ in below):
            climbed.add(term)
    terms = len(there) - 1
    if not terms:
        return {"direct subset": 1.0, "staircase": 1.0}
    return {"direct subset": direct / terms, "staircase": (len(climbed) - 1) / terms}


def _holding_most(transform: SparseTransform) -> int:
    """How many of the largest terms hold ENERGY of the variance; MOST at the most."""
    size = np.sort(np.abs(transform.coefs.numpy()[transform.orders > 0]))[::-1]
    if not size.any():
        return 0
    held = np.cumsum((size / size[0]) ** 2)
    return min(int(np.searchsorted(held, ENERGY * held[-1])) + 1, MOST)
