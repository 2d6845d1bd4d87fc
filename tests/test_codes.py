"""GF(2^m) tables and BCH parity checks, against polynomial arithmetic on Python integers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core.codes import (
    MAX_N,
    MAX_T,
    PRIMITIVE,
    BchCode,
    bch_code,
    dimensions,
    field,
    generator,
    roots,
)

FIELDS = st.sampled_from(sorted(PRIMITIVE))


def carryless(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), as integers."""
    out = 0
    while b:
        if b & 1:
            out ^= a
        a, b = a << 1, b >> 1
    return out


def remainder(a: int, modulus: int) -> int:
    while a.bit_length() >= modulus.bit_length():
        a ^= modulus << a.bit_length() - modulus.bit_length()
    return a


def power_of_x(exponent: int, modulus: int) -> int:
    """x**exponent mod modulus."""
    out = 1
    for bit in bin(exponent)[2:]:
        out = remainder(carryless(out, out), modulus)
        if bit == "1":
            out = remainder(out << 1, modulus)
    return out


def prime_factors(number: int) -> set[int]:
    found, p = set(), 2
    while number > 1:
        while number % p == 0:
            found.add(p)
            number //= p
        p += 1
    return found


def parities(code: BchCode, k: tuple[int, ...]) -> int:
    """The parities of a feature set by the code's columns; bit q is parity q."""
    packed = [int.from_bytes(row.tobytes(), "little") for row in code.columns[list(k)].numpy()]
    out = 0
    for column in packed:
        out ^= column
    assert out & 1 == 0  # the zero delay
    return out >> 1


def test_there_is_a_primitive_polynomial_for_every_m() -> None:
    assert sorted(PRIMITIVE) == list(range(2, 21))
    for m, poly in PRIMITIVE.items():
        assert poly.bit_length() == m + 1
        assert power_of_x(2**m - 1, poly) == 1
        assert all(power_of_x((2**m - 1) // p, poly) != 1 for p in prime_factors(2**m - 1))


@pytest.mark.parametrize("m", PRIMITIVE)
def test_field_tables_are_powers_of_a_generator(m: int) -> None:
    exp, log = field(m)
    order = 2**m - 1
    assert exp.dtype == log.dtype == np.int32
    assert exp.shape == (2 * order,)
    assert log.shape == (2**m,)
    np.testing.assert_array_equal(exp[:order], exp[order:])
    np.testing.assert_array_equal(np.sort(exp[:order]), np.arange(1, 2**m))
    np.testing.assert_array_equal(log[exp[:order]], np.arange(order))
    for e in (0, 1, m, order // 2, order - 1):
        assert exp[e] == power_of_x(e, PRIMITIVE[m])


@given(m=FIELDS, data=st.data())
def test_field_products_are_polynomial_products(m: int, data: st.DataObject) -> None:
    exp, log = field(m)
    a, b = (data.draw(st.integers(1, 2**m - 1)) for _ in range(2))
    assert exp[log[a] + log[b]] == remainder(carryless(a, b), PRIMITIVE[m])
    assert exp[log[a] + (2**m - 1 - log[a])] == 1  # the inverse


@pytest.mark.parametrize("m", PRIMITIVE)
def test_generator_divides_and_has_its_roots(m: int) -> None:
    exp, _ = field(m)
    order = 2**m - 1
    for t in range(1, MAX_T + 1):
        g = generator(m, t)
        assert g.bit_length() - 1 == len(roots(m, t))
        assert power_of_x(order, g) == 1 % g  # g divides x**order - 1
        powers = np.array([i for i in range(g.bit_length()) if g >> i & 1])
        for e in range(1, 2 * t + 1):
            assert np.bitwise_xor.reduce(exp[e * powers % order]) == 0


# Delays 1 + r of n = 32, 64, 128, 256, 512, 1024.
DELAYS = {
    2: (13, 15, 17, 19, 21, 23),
    3: (19, 22, 25, 28, 31, 34),
    4: (25, 29, 33, 37, 41, 45),
    5: (28, 36, 41, 46, 51, 56),
}


@pytest.mark.parametrize("t", DELAYS)
def test_delays_are_the_published_ones(t: int) -> None:
    assert tuple(bch_code(2**i, t).delays for i in range(5, 11)) == DELAYS[t]


@pytest.mark.parametrize("t", range(1, MAX_T + 1))
def test_dimensions_are_the_least_that_fit(t: int) -> None:
    for n in (1, 2, 10, 63, 64, 65, 100, 1000, 2**14, 50_000, MAX_N):
        m, r = dimensions(n, t)
        assert r <= m * t
        assert 2**m - 1 - r >= n
        if m > 2:
            assert 2 ** (m - 1) - 1 - len(roots(m - 1, t)) < n


@pytest.mark.parametrize(
    ("n", "t"), [(1, 1), (1, 10), (2, 3), (63, 2), (64, 5), (65, 10), (1000, 5), (MAX_N, 10)]
)
def test_columns_are_codewords_of_single_features(n: int, t: int) -> None:
    code = bch_code(n, t)
    g = generator(code.m, t)
    assert (code.n, code.t) == (n, t)
    assert code.columns.dtype == torch.int64
    assert code.columns.shape == (n, -(-code.delays // 64))
    for i in {0, 1, n // 2, n - 1} & set(range(n)):
        assert parities(code, (i,)) == power_of_x(code.parities + i, g)


def test_syndromes_are_odd_powers() -> None:
    code = bch_code(100, 4)
    exp, _ = field(code.m)
    for q in (0, 1, code.parities - 1):
        assert code.syndromes[q].tolist() == [exp[e * q % (2**code.m - 1)] for e in (1, 3, 5, 7)]


@pytest.mark.parametrize(("n", "t"), [(10, 1), (10, 2), (9, 3), (7, 4), (1, 1), (2, 2)])
def test_any_two_codewords_are_far_apart(n: int, t: int) -> None:
    """All 2**n sets of a small code: by linearity, every one but () has weight at least 2 t + 1."""
    code = bch_code(n, t)
    sets = [k for size in range(1, n + 1) for k in itertools.combinations(range(n), size)]
    assert min(len(k) + parities(code, k).bit_count() for k in sets) >= 2 * t + 1


@given(data=st.data(), n=st.sampled_from([10, 63, 64, 65, 100, 1000, 2**14]), t=st.integers(1, 10))
def test_sets_within_the_degree_have_distinct_parities(data: st.DataObject, n: int, t: int) -> None:
    code = bch_code(n, t)
    sets = st.lists(st.integers(0, n - 1), unique=True, max_size=t).map(sorted).map(tuple)
    a, b = data.draw(sets), data.draw(sets)
    if a != b:
        assert parities(code, a) != parities(code, b)
    differ = set(a) ^ set(b)
    wrong = (parities(code, a) ^ parities(code, b)).bit_count()
    assert not differ or len(differ) + wrong >= 2 * t + 1


def test_codes_are_made_once() -> None:
    assert bch_code(321, 3) is bch_code(321, 3)


@pytest.mark.parametrize(
    ("n", "t", "error", "message"),
    [
        (0, 5, ValueError, r"bch_code: n must be an integer >= 1 and <= 524288, got 0"),
        (MAX_N + 1, 5, ValueError, r"bch_code: n must be .* <= 524288, got 524289"),
        (10, 0, ValueError, r"bch_code: t must be an integer >= 1 and <= 10, got 0"),
        (10, 11, ValueError, r"bch_code: t must be an integer >= 1 and <= 10, got 11"),
        (10.0, 5, TypeError, r"bch_code: n must be an integer .*, got 10\.0"),
        (10, "5", TypeError, r"bch_code: t must be an integer .*, got '5'"),
        (True, 5, TypeError, r"bch_code: n must be an integer .*, got True"),
    ],
)
def test_bad_arguments(n: object, t: object, error: type[Exception], message: str) -> None:
    (
        bch_code(10, 5),
        bch_code(1, 5),
    )  # what is remembered for 10 and 1 must not answer for 10.0 and True
    with pytest.raises(error, match=message):
        bch_code(n, t)
