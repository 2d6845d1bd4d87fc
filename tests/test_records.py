"""Records of a store: the compiled kernels against their reference, damage, and bytes that old
stores have."""

from __future__ import annotations

import numpy as np
import pytest

from spex_core import records
from spex_core.backend import why_not
from spex_core.records import REFERENCE, Layout, kernels
from spex_core.reference_records import DAMAGED, MARK, MARKED, WHOLE

IDENTITY = 0xFEDCBA9876543210  # above 2**63


@pytest.fixture(params=["reference", "cpu"])
def both(request, monkeypatch):
    """The kernels of one backend, in use."""
    if (reason := why_not(request.param)) is not None:
        pytest.skip(reason)
    used = REFERENCE if request.param == "reference" else kernels()
    monkeypatch.setattr(records, "kernels", lambda: used)
    return used


def some(rows: int, words: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    masks = rng.integers(0, 2**64, (rows, words), np.uint64)
    return masks, rng.normal(size=(rows, count)), rng.random(rows) < 0.3


@pytest.mark.parametrize("rows", [0, 1, 2, 63, 1000])
@pytest.mark.parametrize(("words", "count"), [(1, 1), (2, 1), (3, 5), (17, 2)])
def test_equal_to_the_reference(rows, words, count) -> None:
    masks, values, marks = some(rows, words, count)
    filled = [
        way.fill_records(masks, values.view(np.uint64), marks, IDENTITY)
        for way in (kernels(), REFERENCE)
    ]
    for ours, theirs in zip(*filled, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    broken = filled[0][0].copy()
    broken[::3, -1] ^= np.uint64(1 << 40)
    checked = [way.check_records(broken, words, IDENTITY) for way in (kernels(), REFERENCE)]
    for ours, theirs in zip(*checked, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(kernels().mask_keys(masks), REFERENCE.mask_keys(masks))


@pytest.mark.parametrize("words", [1, 2, 17])
def test_distinct_rows_in_the_order_in_which_they_come(both, words) -> None:
    rows = some(20, words, 1)[0][np.random.default_rng(0).integers(0, 20, 90)]
    first, slot = records.distinct_rows(rows)
    np.testing.assert_array_equal(rows[first][slot], rows)
    assert (np.diff(first) > 0).all()
    assert len(first) == len(np.unique(rows, axis=0)) < 20 + 1
    assert [len(x) for x in records.distinct_rows(rows[:0])] == [0, 0]


def test_distinct_rows_may_share_a_key(monkeypatch) -> None:
    rows = some(20, 3, 1)[0][np.random.default_rng(0).integers(0, 20, 90)]
    first, slot = records.distinct_rows(rows)
    monkeypatch.setattr(records, "keys_of", lambda rows: rows[:, 0] % np.uint64(3))
    again = records.distinct_rows(rows)
    np.testing.assert_array_equal(again[0], first)
    np.testing.assert_array_equal(again[1], slot)


def test_there_and_back(both) -> None:
    masks, values, marks = some(50, 3, 2)
    layout = Layout(3, 2, IDENTITY)
    made, keys = layout.records(masks, values, marks)
    found, whole, marked = layout.check(made)
    assert whole.all()
    np.testing.assert_array_equal(marked, marks)
    assert 0 < marks.sum() < 50
    np.testing.assert_array_equal(found, keys)
    np.testing.assert_array_equal(keys, records.keys_of(masks))
    np.testing.assert_array_equal(made[:, :3], masks)
    np.testing.assert_array_equal(layout.values_of(made), values)
    assert not Layout(3, 2, IDENTITY + 1).check(made).whole.any()


@pytest.mark.parametrize("bit", [0, 1, 31, 63])
def test_every_flipped_bit_of_a_record_is_seen(both, bit) -> None:
    """And takes no mark for a value, nor the other way round."""
    layout = Layout(3, 2, IDENTITY)
    made, _ = layout.records(*some(50, 3, 2))
    for word in range(layout.width):
        broken = made.copy()
        broken[:, word] ^= np.uint64(1 << bit)
        assert not layout.check(broken).whole.any()
    assert not layout.check(np.zeros((1, layout.width), np.uint64)).whole.any()


def test_a_mark_is_half_of_the_bits_of_the_check(both) -> None:
    """A record that was made without marks is read as before."""
    assert bin(MARK).count("1") == 32
    masks, values, _ = some(4, 2, 1)
    words = values.view(np.uint64)
    plain, _ = both.fill_records(masks, words, np.zeros(4, np.bool_), IDENTITY)
    marked, _ = both.fill_records(masks, words, np.ones(4, np.bool_), IDENTITY)
    np.testing.assert_array_equal(plain[:, :-1], marked[:, :-1])
    assert (plain[:, -1] ^ marked[:, -1] == MARK).all()
    assert both.check_records(plain, 2, IDENTITY)[1].tolist() == [WHOLE] * 4
    assert both.check_records(marked, 2, IDENTITY)[1].tolist() == [MARKED] * 4
    marked[:, 0] += np.uint64(1)
    assert both.check_records(marked, 2, IDENTITY)[1].tolist() == [DAMAGED] * 4


def test_checks_are_those_of_stores_that_exist(both) -> None:
    """By arithmetic on Python's integers, and numbers written down when the format was made."""

    def mix(state: int, word: int) -> int:
        state = (state ^ word) * 0x9E3779B97F4A7C15 % 2**64
        state = (state ^ state >> 32) * 0xD6E8FEB86659FD93 % 2**64
        return state ^ state >> 29

    masks = np.array([[5, 2**63 + 1]], np.uint64)
    values = np.array([[1.5]])
    made, keys = both.fill_records(masks, values.view(np.uint64), np.array([False]), IDENTITY)
    key = mix(mix(0x243F6A8885A308D3, 5), 2**63 + 1)
    assert int(keys[0]) == key == 0x8C90399BA58D2AEF
    check = mix(key ^ IDENTITY, 0x3FF8000000000000)
    assert made.tolist() == [[5, 2**63 + 1, 0x3FF8000000000000, check]]
    assert check == 0xD431A791B3F8DBAD
