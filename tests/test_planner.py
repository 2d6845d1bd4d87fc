"""The planner: distinct masks, useful orders, and packs that a budget of tokens bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spex_core import masks as bits
from spex_core.planner import arrange, cut, distinct, lexicographic


def some_masks(n: int, rows: int, seed: int = 0) -> np.ndarray:
    """Uniform masks with repeats, none and all by hand, and pairs that differ in one feature."""
    masks = np.random.default_rng(seed).random((rows, n)) < 0.5
    masks[: rows // 3] = masks[rows // 3 : 2 * (rows // 3)]
    masks[0], masks[1] = False, True
    masks[2] = masks[3]
    masks[2, n - 1] ^= True
    return masks


@pytest.mark.parametrize("n", [1, 2, 8, 63, 64, 65, 100, 129])
def test_order_is_that_of_tuples_of_bools(n: int) -> None:
    masks = some_masks(n, 200)
    rank = lexicographic(bits.pack(masks))
    expected = sorted(range(200), key=lambda row: (masks[row].tolist(), row))  # stable
    assert rank.tolist() == expected


@pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 200])
def test_distinct_masks_in_order_and_where_each_row_went(n: int) -> None:
    masks = some_masks(n, 90)
    first, slot = distinct(bits.pack(masks))
    rows = sorted(set(map(tuple, masks.tolist())))
    assert [tuple(row) for row in masks[first].tolist()] == rows
    assert len(rows) < 90
    np.testing.assert_array_equal(masks[first][slot], masks)


def test_no_masks() -> None:
    first, slot = distinct(torch.empty((0, 2), dtype=torch.int64))
    assert first.shape == slot.shape == (0,)
    assert list(cut(np.empty(0, np.int64), 10)) == []


def test_orders() -> None:
    cost = np.array([3, 9, 3, 1, 9])
    assert arrange(cost, "length").tolist() == [1, 4, 0, 2, 3]  # longest first, stable
    assert arrange(cost, "any").tolist() == arrange(cost, "prefix").tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"order must be one of .*, got 'random'"):
        arrange(cost, "random")


def plain_cut(cost: list[int], added: list[int], tokens: int) -> list[list[int]]:
    """Packs by walking along: the first mask of a pack costs all of its own."""
    packs, spent = [], tokens + 1
    for row in range(len(cost)):
        if spent + added[row] > tokens:
            packs.append([])
            spent = cost[row]
        else:
            spent += added[row]
        packs[-1].append(row)
    return packs


@pytest.mark.parametrize("tokens", [1, 2, 19, 20, 64, 1000, 10**12])
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "prefix"])
def test_cuts(tokens: int, shared: bool) -> None:
    rng = np.random.default_rng(tokens % 97)
    cost = rng.integers(1, 40, 500)
    added = rng.integers(0, cost + 1) if shared else None
    packs = [list(range(500))[pack] for pack in cut(cost, tokens, added)]
    assert packs == plain_cut(cost.tolist(), (cost if added is None else added).tolist(), tokens)
    assert sum(packs, []) == list(range(500))  # noqa: RUF017
    if not shared:
        assert all(len(pack) == 1 or cost[pack].sum() <= tokens for pack in packs)


@pytest.mark.parametrize(("tokens", "error"), [(0, ValueError), (2.5, TypeError)])
def test_bad_budgets(tokens: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="tokens must be an integer >= 1"):
        list(cut(np.array([1, 2]), tokens))
