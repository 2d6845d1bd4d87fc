"""masks.py: packing, and the bit order that everything else relies on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core import masks

SIZES = st.tuples(st.integers(0, 40), st.integers(0, 200), st.integers(0, 2**32 - 1))


def random_dense(rows, n, seed):
    return np.random.default_rng(seed).random((rows, n)) < 0.5


@pytest.mark.parametrize(
    ("n", "words"), [(0, 0), (1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)]
)
def test_words(n, words):
    assert masks.words(n) == words


@pytest.mark.parametrize("feature", [0, 1, 31, 32, 62, 63, 64, 65, 127, 128, 199])
def test_bit_order(feature):
    """Feature j is bit j % 64 of word j // 64; bit 63 is the sign."""
    dense = np.zeros((1, 200), bool)
    dense[0, feature] = True
    words = masks.pack(dense).numpy().view(np.uint64)[0].tolist()
    want = [0] * 4
    want[feature // 64] = 1 << feature % 64
    assert words == want
    assert masks.pack_sets([(feature,)], 200).numpy().view(np.uint64)[0].tolist() == want


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 100, 128, 129, 1000])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_unpack_is_the_reference(isa, n, rows):
    """Whatever stands in the bits beyond n, and on every instruction set."""
    from spex_core.native import unpack_masks_cpu

    words = np.random.default_rng(n).integers(-(2**63), 2**63, (rows, masks.words(n)))
    expected = masks.unpack_reference(words, n)
    got = unpack_masks_cpu(words, n, isa=isa)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype == np.bool_
    np.testing.assert_array_equal(masks.unpack_words(words, n), expected)


@given(SIZES)
def test_unpack_undoes_pack(size):
    rows, n, seed = size
    dense = random_dense(rows, n, seed)
    packed = masks.pack(dense)
    assert packed.dtype == torch.int64
    assert packed.shape == (rows, masks.words(n))
    assert np.array_equal(masks.unpack(packed, n), dense)
    assert torch.equal(masks.pack(torch.from_numpy(dense)), packed)


@given(SIZES)
def test_spare_bits_are_zero(size):
    rows, n, seed = size
    packed = masks.pack(random_dense(rows, n, seed))
    assert not masks.unpack(packed, 64 * masks.words(n))[:, n:].any()


@given(st.integers(1, 300), st.data())
def test_sets(n, data):
    """pack_sets agrees with pack, and unpack_sets, members and orders with the sets themselves."""
    features = st.lists(st.integers(0, n - 1), unique=True, max_size=12)
    sets = data.draw(st.lists(features, max_size=10))
    dense = np.zeros((len(sets), n), bool)
    for row, features in enumerate(sets):
        dense[row, features] = True
    packed = masks.pack_sets(sets, n)
    assert torch.equal(packed, masks.pack(dense))
    assert masks.unpack_sets(packed) == [tuple(sorted(features)) for features in sets]
    rows, columns = masks.members(packed)
    assert rows.dtype == columns.dtype == np.int64
    assert np.array_equal(np.stack([rows, columns]), np.stack(np.nonzero(dense)))
    assert torch.equal(masks.from_members(rows[::-1], columns[::-1], len(sets), n), packed)
    assert masks.orders(packed).tolist() == [len(features) for features in sets]


@pytest.mark.parametrize(("rows", "n"), [(0, 5), (3, 0), (0, 0)])
def test_empty(rows, n):
    packed = masks.pack(np.zeros((rows, n), bool))
    assert packed.shape == (rows, masks.words(n))
    assert masks.unpack(packed, n).shape == (rows, n)
    assert masks.unpack_sets(packed) == [()] * rows
    assert masks.orders(packed).tolist() == [0] * rows


def test_strided_input_and_input_unchanged():
    dense = random_dense(20, 300, 0)
    before, view = dense.copy(), dense[::2, 7:290:3]
    packed = masks.pack(view)
    assert np.array_equal(masks.unpack(packed, view.shape[1]), view)
    assert np.array_equal(dense, before)
    wide = masks.pack(dense)
    assert np.array_equal(masks.unpack(wide[::3, 1:3], 128), dense[::3, 64:192])
    assert masks.unpack_sets(wide[::3, 1:3]) == masks.unpack_sets(wide[::3, 1:3].contiguous())


def test_the_same_feature_twice_is_in_the_set_once():
    assert masks.unpack_sets(masks.pack_sets([(3, 3, 1)], 5)) == [(1, 3)]


def test_contract():
    with pytest.raises(TypeError, match="pack: masks must be bool, got uint8"):
        masks.pack(np.zeros((2, 3), np.uint8))
    with pytest.raises(TypeError, match="pack: masks must be bool, got int64"):
        masks.pack(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"pack: masks must have shape \(T, n\), got \(3,\)"):
        masks.pack(np.zeros(3, bool))
    for feature in (-1, 5):
        with pytest.raises(ValueError, match=rf"features must be in \[0, 5\), got {feature}"):
            masks.pack_sets([(0,), (feature,)], 5)
