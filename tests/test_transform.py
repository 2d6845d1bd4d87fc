"""SparseTransform against sums over features and masks written out, and its contract."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spex_core.masks import pack, pack_sets, words
from spex_core.transform import SparseTransform

SIZES = [1, 2, 63, 64, 65, 100, 1000]


def random_terms(n: int, count: int, seed: int) -> dict[tuple[int, ...], float]:
    """Up to `count` terms of order 0 to 6, the first and last features among them."""
    rng = np.random.default_rng([n, count, seed])
    sets = {(), (n - 1,), tuple(sorted({0, n - 1}))}
    for _ in range(count):
        sets.add(
            tuple(sorted(rng.choice(n, rng.integers(0, min(n, 6) + 1), replace=False).tolist()))
        )
    return {term: float(rng.normal()) for term in sets}


def by_hand(terms: dict[tuple[int, ...], float], masks: np.ndarray) -> np.ndarray:
    """sum_k F[k] (-1)**|k and m|, one term at a time."""
    out = np.zeros(len(masks))
    for term, coef in terms.items():
        out += coef * (-1.0) ** masks[:, list(term)].sum(axis=1)
    return out


@pytest.mark.parametrize("n", SIZES)
def test_predict_is_the_sum_over_terms(n):
    terms = random_terms(n, 40, seed=1)
    masks = np.random.default_rng(n).random((65, n)) < 0.5
    expected = by_hand(terms, masks)
    assert np.ptp(expected) > 0.1
    transform = SparseTransform.from_dict(n, terms)
    for given_masks in (masks, torch.from_numpy(masks), pack(masks)):
        got = transform.predict(given_masks)
        assert isinstance(got, np.ndarray)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_from_table_is_the_transform_by_definition(n):
    table = np.random.default_rng(n).normal(size=2**n)
    masks = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    transform = SparseTransform.from_table(table)
    coefs = transform.to_dict()
    assert len(coefs) == 2**n
    for term in itertools.chain.from_iterable(
        itertools.combinations(range(n), d) for d in range(n + 1)
    ):
        sign = (-1.0) ** masks[:, list(term)].sum(axis=1)
        assert coefs[term] == pytest.approx((sign * table).mean(), abs=1e-13)
    np.testing.assert_allclose(transform.predict(masks), table, rtol=0, atol=1e-12)
    assert transform.score(masks, table) == pytest.approx(1.0)
    assert transform.baseline == pytest.approx(table[0])
    assert transform.mean == pytest.approx(table.mean())
    energy = sum(c**2 for term, c in coefs.items() if term)  # Parseval
    assert energy == pytest.approx(table.var())


def test_from_table_leaves_zeros_out_and_takes_any_kind_of_numbers():
    table = [3.0, 1.0, 3.0, 1.0]  # 2 + (-1)**m_0
    frozen = np.array(table)
    frozen.flags.writeable = False
    for values in (table, frozen, torch.tensor(table), torch.tensor(table, dtype=torch.bfloat16)):
        assert SparseTransform.from_table(values).to_dict() == {(): 2.0, (0,): 1.0}


@pytest.mark.parametrize("size", [0, 1, 3, 6])
def test_from_table_refuses_other_sizes(size):
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"from_table: values must be 2**n numbers, n from 1 to 24, got shape ({size},)"
        ),
    ):
        SparseTransform.from_table(np.ones(size))
    with pytest.raises(ValueError, match=r"got shape \(2, 2\)"):
        SparseTransform.from_table(np.ones((2, 2)))


@pytest.mark.parametrize("n", SIZES)
def test_terms_stand_in_canonical_order(n):
    terms = random_terms(n, 60, seed=2)
    expected = sorted(terms, key=lambda term: (len(term), term))
    transform = SparseTransform.from_dict(n, terms)
    assert list(transform.to_dict()) == expected
    assert transform.to_dict() == terms
    assert transform.orders.tolist() == [len(term) for term in expected]
    assert transform.degree == len(expected[-1])
    assert len(transform) == len(terms)

    shuffled = list(terms.items())
    np.random.default_rng(3).shuffle(shuffled)
    again = SparseTransform.from_dict(n, dict(shuffled))
    assert torch.equal(again.support, transform.support)
    assert torch.equal(again.coefs, transform.coefs)


def test_by_order_gives_every_term_once():
    terms = random_terms(70, 50, seed=4)
    found = {}
    for d, features, coefs in SparseTransform.from_dict(70, terms).by_order():
        assert features.shape == (len(coefs), d)
        found.update(zip(map(tuple, features.tolist()), coefs.tolist(), strict=True))
    assert found == terms


def test_inputs_are_copied_and_unchanged():
    support, coefs = pack_sets([(1, 2), (0,)], 3), torch.tensor([1.0, 2.0], dtype=torch.float64)
    before = support.clone(), coefs.clone()
    transform = SparseTransform(3, support, coefs)
    assert torch.equal(support, before[0])
    assert torch.equal(coefs, before[1])
    support[0, 0], coefs[0] = 0, 9.0
    assert transform.to_dict() == {(0,): 2.0, (1, 2): 1.0}


def test_strided_tensors_and_gradients_are_taken():
    support = pack_sets([(0,), (5,), (1,), (7,)], 65)[::2]
    coefs = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    transform = SparseTransform(65, support, coefs)
    assert transform.top(2) == {(1,): 2.0, (0,): 1.0}
    values = torch.tensor([-1.0, 3.0], requires_grad=True)
    masks = np.zeros((2, 65), bool)
    masks[0, [0, 1]] = True
    assert transform.predict(masks).tolist() == [-3.0, 3.0]
    assert transform.score(masks, values) == 0.5


# score


def test_score_is_r2():
    transform = SparseTransform.from_dict(2, {(): 1.0, (0,): 0.5})
    masks = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], bool)  # predictions 1.5, 0.5, 1.5, 0.5
    values = [1.0, 0.0, 2.0, 1.0]  # mean 1, spread 2; residuals of 0.5: 4 * 0.25 = 1
    assert transform.score(masks, values) == pytest.approx(0.5)
    assert transform.score(masks, [1.5, 0.5, 1.5, 0.5]) == 1.0
    assert transform.score(masks, torch.tensor([1.5, 0.5, 1.5, 0.6])) < 1.0


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_score_has_no_range(size):
    masks = np.array([[0], [1]], bool)
    transform = SparseTransform.from_dict(1, {(0,): size})
    assert transform.score(masks, [size, -size]) == 1.0
    assert transform.score(masks, [size, 0.0]) == pytest.approx(-1.0)


def test_score_of_equal_values_is_one_or_zero():
    masks = np.array([[0], [1]], bool)
    third = SparseTransform.from_dict(1, {(): 0.1 + 0.2})
    assert third.score(masks, [0.3, 0.3]) == 1.0
    assert third.score(masks[:1], [0.3]) == 1.0
    assert third.score(masks, [0.31, 0.31]) == 0.0
    zero = SparseTransform.from_dict(1, {})
    assert zero.score(masks, [0.0, 0.0]) == 1.0
    assert zero.score(masks, [1.0, 1.0]) == 0.0


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], 1.0])
def test_score_refuses_other_shapes(values):
    transform = SparseTransform.from_dict(1, {(): 1.0})
    with pytest.raises(ValueError, match=r"score: values must have one number per mask, \(2,\)"):
        transform.score(np.ones((2, 1), bool), values)


def test_score_refuses_nothing_and_nan():
    transform = SparseTransform.from_dict(1, {(): 1.0})
    with pytest.raises(ValueError, match="one number per mask"):
        transform.score(np.ones((0, 1), bool), [])
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="score: values must be finite"):
            transform.score(np.ones((2, 1), bool), [1.0, bad])


# The largest terms, and energy


def test_top_and_truncate():
    terms = {(): 9.0, (0,): -3.0, (1,): 2.0, (0, 2): -2.0, (2,): 0.5}
    transform = SparseTransform.from_dict(3, terms)
    assert list(transform.top(3).items()) == [((0,), -3.0), ((1,), 2.0), ((0, 2), -2.0)]
    assert transform.top(0) == {}
    assert list(transform.top(99)) == [(0,), (1,), (0, 2), (2,)]
    assert transform.truncate(2).to_dict() == {(): 9.0, (0,): -3.0, (1,): 2.0}
    assert transform.truncate(0).to_dict() == {(): 9.0}
    assert transform.truncate(99).to_dict() == terms
    for call in (transform.top, transform.truncate):
        with pytest.raises(ValueError, match="k must be an integer >= 0"):
            call(-1)
        with pytest.raises(TypeError, match="k must be an integer"):
            call(1.0)


@pytest.mark.parametrize("size", [1.0, 1e-200, 1e200])
def test_energy_by_order_is_the_share_of_variance(size):
    terms = {(): 7.0, (0,): 1.0, (1,): -1.0, (0, 1): 2.0, (0, 1, 2, 3): 1.0, (2,): 0.0}
    transform = SparseTransform.from_dict(4, {term: size * coef for term, coef in terms.items()})
    assert transform.energy_by_order() == pytest.approx({1: 2 / 7, 2: 4 / 7, 4: 1 / 7})
    assert list(transform.energy_by_order()) == [1, 2, 4]


@pytest.mark.parametrize(
    ("terms", "mean"), [({}, 0.0), ({(): 2.0}, 2.0), ({(): 2.0, (0,): 0.0}, 2.0)]
)
def test_constant_functions(terms, mean):
    transform = SparseTransform.from_dict(65, terms)
    assert len(transform) == len(terms)
    assert transform.energy_by_order() == {}
    assert transform.mean == transform.baseline == mean
    assert transform.predict(np.ones((3, 65), bool)).tolist() == [mean] * 3
    assert transform.predict(np.ones((0, 65), bool)).shape == (0,)
    assert transform.to_dict() == terms
    assert transform.truncate(5).to_dict() == terms


def test_repr_says_how_large():
    transform = SparseTransform.from_dict(9, {(): 1.0, (2, 3): 1.0})
    assert repr(transform) == "SparseTransform(n=9, terms=2, degree=2)"
    assert repr(SparseTransform.from_dict(1, {})) == "SparseTransform(n=1, terms=0, degree=0)"


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 130).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.dictionaries(
                st.frozensets(st.integers(0, n - 1), max_size=5).map(lambda s: tuple(sorted(s))),
                st.floats(-1e6, 1e6),
                max_size=20,
            ),
        )
    )
)
def test_dicts_round_trip(case):
    n, terms = case
    assert SparseTransform.from_dict(n, terms).to_dict() == terms


# Bad input

ONE = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("n", "support", "coefs", "error", "message"),
    [
        (0, pack_sets([()], 1), ONE, ValueError, "n must be an integer >= 1, got 0"),
        (2.0, pack_sets([()], 2), ONE, TypeError, "n must be an integer >= 1, got 2.0"),
        (3, [[1]], ONE, TypeError, "support must be a packed int64 tensor, got list"),
        (3, torch.ones(1, 1), ONE, TypeError, "a packed int64 tensor, got torch.float32"),
        (65, pack_sets([()], 3), ONE, ValueError, "shape (S, 2) for n=65, got (1, 1)"),
        (3, torch.tensor([1]), ONE, ValueError, "support must have shape (S, 1) for n=3, got (1,)"),
        (3, torch.tensor([[8]]), ONE, ValueError, "support must have no bits past n=3"),
        (63, torch.tensor([[-1]]), ONE, ValueError, "support must have no bits past n=63"),
        (65, torch.tensor([[0, 2]]), ONE, ValueError, "support must have no bits past n=65"),
        (
            3,
            torch.tensor([[5], [5]]),
            torch.ones(2).double(),
            ValueError,
            "distinct rows, got (0, 2)",
        ),
        (3, torch.tensor([[1]]), [1.0], TypeError, "coefs must be a float64 tensor, got list"),
        (3, torch.tensor([[1]]), ONE.float(), TypeError, "a float64 tensor, got torch.float32"),
        (3, torch.tensor([[1]]), ONE[:, None], ValueError, "shape (1,), got (1, 1)"),
        (3, torch.tensor([[1]]), ONE * torch.nan, ValueError, "coefs must be finite"),
        (3, torch.tensor([[1]]), ONE / 0, ValueError, "coefs must be finite"),
    ],
)
def test_constructor_refuses(n, support, coefs, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SparseTransform(n, support, coefs)


def test_full_words_are_not_spare_bits():
    transform = SparseTransform(64, torch.tensor([[-1]]), ONE)
    assert transform.to_dict() == {tuple(range(64)): 1.0}


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({(3,): 1.0}, ValueError, "a feature must be an integer >= 0 and <= 2, got 3"),
        ({(-1,): 1.0}, ValueError, "a feature must be an integer >= 0 and <= 2, got -1"),
        ({(0.5,): 1.0}, TypeError, "a feature must be an integer >= 0 and <= 2, got 0.5"),
        ({(1, 1): 1.0}, ValueError, "a term must be a set, got (1, 1)"),
        ({(0, 1): 1.0, (1, 0): 2.0}, ValueError, "distinct rows, got (0, 1) twice"),
        ({(0,): np.nan}, ValueError, "coefs must be finite"),
    ],
)
def test_from_dict_refuses(terms, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SparseTransform.from_dict(3, terms)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (np.ones((2, 66), bool), ValueError, "must be bool (T, 65) or packed int64 (T, 2), got"),
        (torch.ones(2, 3, dtype=torch.int64), ValueError, "packed int64 (T, 2), got shape (2, 3)"),
        (torch.ones(2, dtype=torch.int64), ValueError, "packed int64 (T, 2), got shape (2,)"),
        (np.ones(65, bool), ValueError, "masks must have shape (T, n), got (65,)"),
        (np.ones((2, 65)), TypeError, "masks must be bool, got float64"),
        (np.ones((2, 2), np.int64), TypeError, "masks must be bool, got int64"),
    ],
)
def test_predict_refuses(masks, error, message):
    assert words(65) == 2
    with pytest.raises(error, match=re.escape(message)):
        SparseTransform.from_dict(65, {(): 1.0}).predict(masks)
