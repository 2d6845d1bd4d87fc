"""Places by keys, against a dict; keys of few values, so that masks share them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spex_core.records import keys_of
from spex_core.store_index import Index


@pytest.mark.parametrize("keys_there_are", [1, 7, 1 << 20])
@pytest.mark.parametrize("masks_there_are", [3, 400])
def test_against_a_dict(keys_there_are, masks_there_are) -> None:
    rng = np.random.default_rng(keys_there_are)
    key = rng.integers(0, keys_there_are, masks_there_are).astype(np.uint64)  # of each mask
    mask_at = rng.integers(0, masks_there_are, 3000)  # of each place
    index = Index(lambda one, other: mask_at[one] == mask_at[other])
    truth: dict[int, int] = {}
    start = 0
    while start < 3000:
        places = np.arange(start, min(start + rng.integers(1, 200), 3000))
        index.add(key[mask_at[places]], places)
        for place in places:
            truth.setdefault(mask_at[place], place)
        start = places[-1] + 1
        sizes = [len(keys) for keys, _ in index.runs]
        assert all(2 * short <= long for long, short in itertools.pairwise(sizes))
        found: dict[int, int] = {}
        for asked, at in index.find(key):
            for mask, place in zip(asked, at, strict=True):
                if mask_at[place] == mask:
                    found.setdefault(mask, place)
        assert found == truth
    assert sorted(index.places()) == sorted(truth.values())
    assert len(index.runs) == 1


def test_keys_tell_masks_apart_that_differ_in_few_bits() -> None:
    """All masks of up to three features of 130."""
    sets = [s for size in range(4) for s in itertools.combinations(range(130), size)]
    masks = np.zeros((len(sets), 3), np.uint64)
    for row, members in enumerate(sets[:40_000]):
        for j in members:
            masks[row, j // 64] |= np.uint64(1 << (j % 64))
    assert len(np.unique(keys_of(masks[:40_000]))) == 40_000
