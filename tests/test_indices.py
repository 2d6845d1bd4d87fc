"""Every index against its textbook definition over the 2**n values, and against published numbers.

The oracle works on the value table as an n-dimensional array and shares nothing with the package:
it takes discrete derivatives along axes, sums over masks, and solves least squares where an index
is defined by one.
"""

import itertools
import json
import math
import os
import re
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from spex_core.indices import INDICES, index_name, interactions
from spex_core.transform import SparseTransform

GAMES = Path(os.environ.get("SPEX_GAMES", Path(__file__).parents[2] / "shared" / "games"))
SINGLE = ("SV", "BV")
BERNOULLI = [Fraction(1), Fraction(-1, 2), Fraction(1, 6), Fraction(0), Fraction(-1, 30)]


def subsets(items, sizes):
    return [s for size in sizes for s in itertools.combinations(items, size)]


# The oracle


def cube(table):
    """(2**n,) -> (2, ..., 2) with axis j = feature j."""
    n = len(table).bit_length() - 1
    return table.reshape((2,) * n).transpose()


def derivative(v, s):
    """The discrete derivative of v in the features s, at every set T of the others (axes stay)."""
    for axis in s:
        v = np.diff(v, axis=axis)
    return v


def sizes_of(v):
    """|T| of each entry: its coordinates' sum."""
    return np.indices(v.shape).sum(axis=0)


def sii(v, s):
    n, delta = v.ndim, derivative(v, s)
    f = math.factorial
    weight = [f(n - t - len(s)) * f(t) / f(n - len(s) + 1) for t in range(n - len(s) + 1)]
    return (np.take(weight, sizes_of(delta)) * delta).sum()


def k_sii(v, s, order):
    """n-Shapley values: raise the order step by step and correct the smaller sets each time."""
    value = sii(v, s)
    others = [j for j in range(v.ndim) if j not in s]
    for level in range(len(s) + 1, order + 1):
        above = sum(
            sii(v, (*s, *extra)) for extra in itertools.combinations(others, level - len(s))
        )
        value += float(BERNOULLI[level - len(s)]) * above
    return value


def stii(v, s, order):
    n, delta = v.ndim, derivative(v, s)
    if len(s) < order:
        return delta.flat[0]  # at T = ()
    weight = [order / n / math.comb(n - 1, t) for t in range(n - order + 1)]
    return (np.take(weight, sizes_of(delta)) * delta).sum()


def from_full(v, s):
    """sum over L <= S of (-1)**|L| f(all but L)."""
    n = v.ndim
    absent = [tuple(int(j not in out) for j in range(n)) for out in subsets(s, range(len(s) + 1))]
    return sum((-1) ** (n - sum(mask)) * v[mask] for mask in absent)


def polynomial(v, order):
    """The masks (2**n, n), the P sets S of at most `order` features, and the ANDs (2**n, P)."""
    masks = np.indices(v.shape).reshape(v.ndim, -1).T
    sets = subsets(range(v.ndim), range(order + 1))
    return masks, sets, np.stack([masks[:, list(s)].all(axis=1) for s in sets], axis=1) * 1.0


def fbii(v, order):
    _, sets, monomials = polynomial(v, order)
    return dict(zip(sets, np.linalg.lstsq(monomials, v.ravel(), rcond=None)[0], strict=True))


def fsii(v, order):
    """Least squares under the Shapley kernel, exact on the empty and on the full mask."""
    n = v.ndim
    masks, sets, monomials = polynomial(v, order)
    size, y = masks.sum(axis=1), v.ravel()
    ends = (size == 0) | (size == n)
    kernel = [0 if t in (0, n) else (n - 1) / (math.comb(n, t) * t * (n - t)) for t in range(n + 1)]
    root = np.sqrt(np.take(kernel, size))
    start = np.linalg.lstsq(monomials[ends], y[ends], rcond=None)[0]
    free = np.linalg.svd(monomials[ends])[2][2:].T  # the directions that leave both ends alone
    left = root * (y - monomials @ start)
    step = np.linalg.lstsq(root[:, None] * (monomials @ free), left, rcond=None)[0]
    return dict(zip(sets, start + free @ step, strict=True))


def textbook(table, name, order):
    """{set: value} for all sets of at most `order` features, () included."""
    v = cube(table)
    sets = subsets(range(v.ndim), range(1, order + 1))
    nothing, everything = table[0], table[-1]

    def every(value, baseline):
        return {(): baseline} | {s: value(s) for s in sets}

    def fourier(s):
        return (v * (-1.0) ** np.indices(v.shape)[list(s)].sum(axis=0)).mean()

    match name:
        case "Fourier":
            return every(fourier, v.mean())
        case "Moebius":
            return every(lambda s: derivative(v, s).flat[0], nothing)
        case "Co-Moebius":
            return every(lambda s: from_full(v, s), everything)
        case "OR":
            return every(lambda s: (-1) ** (len(s) + 1) * from_full(v, s), nothing)
        case "BV" | "BII":
            return every(lambda s: derivative(v, s).mean(), v.mean())
        case "SV":
            return every(lambda s: sii(v, s), nothing)
        case "SII":
            return every(lambda s: sii(v, s), sii(v, ()))
        case "k-SII":
            return every(lambda s: k_sii(v, s, order), nothing)
        case "STII":
            return every(lambda s: stii(v, s, order), nothing)
        case "FBII":
            return fbii(v, order)
        case "FSII":
            return fsii(v, order)
        case "Influence":
            return every(lambda s: (derivative(v, s) ** 2).mean() / 4 ** len(s), v.var())


def assert_same(got, expected, atol):
    assert set(got) <= set(expected)
    for s, value in expected.items():
        assert got.get(s, 0.0) == pytest.approx(value, rel=0, abs=atol), s
    assert max(abs(value) for s, value in expected.items() if s) > 1e-3  # not a trivial case


CASES = [
    (name, n, order)
    for name in INDICES
    for n in (1, 2, 3, 5, 8)
    for order in range(1, (1 if name in SINGLE else min(n, 4)) + 1)
]


@pytest.mark.parametrize(("name", "n", "order"), CASES)
def test_textbook_definition_on_a_full_table(name, n, order):
    table = np.random.default_rng([n, order]).normal(size=2**n)
    got = interactions(SparseTransform.from_table(table), name, order)
    assert_same(got, textbook(table, name, order), atol=1e-10)


@pytest.mark.parametrize("name", INDICES)
def test_textbook_definition_on_sparse_terms_of_high_order(name):
    n, order = 10, 1 if name in SINGLE else 3
    rng = np.random.default_rng(10)
    terms = {(): 0.5, tuple(range(n)): 0.3, (9,): 1.0, (0, 9): -0.7}
    while len(terms) < 12:
        term = np.flatnonzero(rng.random(n) < 0.5)
        terms[tuple(term.tolist())] = rng.normal()
    masks = np.arange(2**n)[:, None] >> np.arange(n) & 1
    table = sum(c * (-1.0) ** masks[:, list(term)].sum(axis=1) for term, c in terms.items())
    got = interactions(SparseTransform.from_dict(n, terms), name, order)
    assert_same(got, textbook(table, name, order), atol=1e-10)


@pytest.mark.parametrize("name", ["Moebius", "OR"])
def test_all_orders_rebuild_the_function(name):
    """Moebius and OR coefficients are the coordinates of f in the bases of ANDs and of ORs."""
    n = 6
    table = np.random.default_rng(6).normal(size=2**n)
    values = interactions(SparseTransform.from_table(table), name, n)
    meets = {"Moebius": all, "OR": any}[name]
    for i, expected in enumerate(table):
        got = sum(value for s, value in values.items() if s == () or meets(i >> j & 1 for j in s))
        assert got == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("name", ["SV", "k-SII", "STII", "FSII"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_efficiency(name, order):
    """Baseline and interactions add up to f(all present), on terms far above the order too."""
    order = 1 if name in SINGLE else order
    rng = np.random.default_rng(order)
    terms = {tuple(range(d)): rng.normal() for d in (0, 1, 3, 6, 7, 17, 20)}
    transform = SparseTransform.from_dict(20, terms)
    (full,) = transform.predict(np.ones((1, 20), bool))
    values = interactions(transform, name, order)
    assert abs(full - transform.baseline) > 0.1
    assert values[()] == pytest.approx(transform.baseline)
    assert math.fsum(values.values()) == pytest.approx(full, abs=1e-9)


# Terms too large for a table: the parity of d features is a symmetric game


@pytest.mark.parametrize("d", [40, 41, 200])
@pytest.mark.parametrize("s", [1, 2])
def test_parity_of_many_features(d, s):
    """With f(T) = (-1)**|T| a derivative at T is (-2)**s (-1)**|T|; its sums are exact."""
    transform = SparseTransform.from_dict(d, {tuple(range(d)): 1.0})
    edge = [Fraction((-2) ** s * (-1) ** t) for t in range(d - s + 1)]
    share = [Fraction(s * math.comb(d - s, t), d * math.comb(d - 1, t)) for t in range(d - s + 1)]
    expected = {
        "Moebius": edge[0],
        "SII": sum(edge) / (d - s + 1),
        "STII": sum(e * w for e, w in zip(edge, share, strict=True)),
        "FSII": faithful_parity(d, s),
    }
    for name, value in expected.items():
        got = interactions(transform, name, s)
        of_size = [got.get(t, 0.0) for t in subsets(range(0, d, 13), [s])]
        assert of_size == pytest.approx([float(value)] * len(of_size), rel=1e-12, abs=1e-14), name


def faithful_parity(d, order):
    """FSII at the top order, where f and the fit depend on t = |T| only: sum_s c_s C(t, s).

    Lagrange's equations for c under the Shapley kernel, solved exactly.
    """
    f = math.comb
    size = range(order + 1)
    weight = {t: Fraction(1, t * (d - t)) for t in range(1, d)}
    rows = [
        [sum(w * f(t, a) * f(t, b) for t, w in weight.items()) for b in size]
        + [Fraction(a == 0), Fraction(f(d, a))]
        + [sum(w * f(t, a) * (-1) ** t for t, w in weight.items())]
        for a in size
    ]
    for end in (0, d):
        rows.append(
            [Fraction(f(end, b)) for b in size] + [Fraction(0)] * 2 + [Fraction((-1) ** end)]
        )
    for i in range(len(rows)):  # Gauss and Jordan
        pivot = next(r for r in range(i, len(rows)) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for r in range(len(rows)):
            if r != i:
                rows[r] = [x - rows[r][i] * y for x, y in zip(rows[r], rows[i], strict=True)]
    return rows[order][-1]


@pytest.mark.parametrize("n", [64, 65, 1000, 2**16])
def test_sums_over_supersets_at_any_width(n):
    """Moebius to order 5 by a dictionary.

    At n = 2**16 the key of 5 features takes 80 bits, and its low 64 would lose the first feature.
    """
    rng = np.random.default_rng(n)
    pool = np.concatenate([np.arange(6), n - 1 - np.arange(6)])  # few features, so that sets meet
    terms = {(): 1.0}
    for _ in range(60):
        term = rng.choice(pool, rng.integers(1, 8), replace=False)
        terms[tuple(sorted(term.tolist()))] = rng.normal()
    expected = {}
    for term, coef in terms.items():
        for s in subsets(term, range(6)):
            expected[s] = expected.get(s, 0.0) + (-2) ** len(s) * coef
    assert len(expected) > 500
    assert_same(
        interactions(SparseTransform.from_dict(n, terms), "Moebius", 5), expected, atol=1e-9
    )


# Published numbers


@pytest.mark.parametrize(
    "game", ["vit_patches_n9_01", "bike_ensemble_n10_01", "california_nn_marginal_n8_01"]
)
def test_published_values_of_real_games(game):
    """Against shapiq's exact computer, but for the empty set, where it has its own conventions."""
    if not (GAMES / "reference_indices.json").exists():
        pytest.skip(f"no shared games in {GAMES} (set SPEX_GAMES)")
    published = json.loads((GAMES / "reference_indices.json").read_text())[game]
    with np.load(GAMES / f"{game}.npz") as file:
        transform = SparseTransform.from_table(file["values"])
    assert set(published["indices"]) >= {"SV", "BV", "SII", "BII", "STII", "FSII", "FBII", "k-SII"}
    for name, values in published["indices"].items():
        expected = {tuple(map(int, key.split(","))): x for key, x in values.items() if key}
        got = interactions(transform, name, max(map(len, expected)))
        del got[()]
        assert_same(got, expected, atol=1e-8 if name == "FSII" else 1e-11)


# The result


def test_largest_first_then_the_baseline():
    terms = {(): 4.0, (3,): 1.0, (0, 2): -0.5, (0, 1): 0.5, (1,): -2.0, (2,): 1.0, (4,): 0.0}
    got = interactions(SparseTransform.from_dict(5, terms), "fourier", 2)
    order = [((1,), -2.0), ((2,), 1.0), ((3,), 1.0), ((0, 1), 0.5), ((0, 2), -0.5), ((), 4.0)]
    assert list(got.items()) == order
    assert all(type(j) is int for s in got for j in s)
    assert all(type(value) is float for value in got.values())


def test_values_that_cancel_are_left_out():
    """AND of two features: only the pair has a Moebius coefficient."""
    terms = {(): 0.25, (0,): -0.25, (1,): -0.25, (0, 1): 0.25}
    assert interactions(SparseTransform.from_dict(2, terms), "Moebius") == {(0, 1): 1.0, (): 0.0}


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("value", [None, 0.0, 2.5])
def test_constant_functions(name, value):
    terms = {} if value is None else {(): value}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = interactions(SparseTransform.from_dict(3, terms), name)
    assert got == {(): 0.0 if name == "Influence" else value or 0.0}
    assert type(got[()]) is float


def test_default_orders():
    transform = SparseTransform.from_dict(3, {(0, 1, 2): 1.0, (1,): 1.0, (0, 1): 1.0})
    for name in INDICES:
        largest = max(len(s) for s in interactions(transform, name))
        assert largest == (1 if name in ("SV", "BV", "Influence") else 2), name
    assert interactions(transform) == interactions(transform, "FBII", 2)
    assert interactions(SparseTransform.from_dict(1, {(0,): 1.0})) == {(0,): -2.0, (): 1.0}


def test_the_transform_is_unchanged():
    transform = SparseTransform.from_dict(3, {(0, 1): 2.0, (2,): 3.0})
    for name in INDICES:
        interactions(transform, name)
    assert transform.to_dict() == {(2,): 3.0, (0, 1): 2.0}


# Names and bad input


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("mobius", "Moebius"),
        ("Möbius", "Moebius"),
        ("Mo\u0308bius", "Moebius"),
        ("AND", "Moebius"),
        ("co-möbius", "Co-Moebius"),
        ("or", "OR"),
        ("kSII", "k-SII"),
        ("K_SII", "k-SII"),
        ("n-Shapley", "k-SII"),
        ("shapley values", "SV"),
        ("Banzhaf", "BV"),
        ("Faith-Shap", "FSII"),
        ("Faith-Banzhaf", "FBII"),
        ("Shapley-Taylor", "STII"),
        ("influence", "Influence"),
    ],
)
def test_names(said, meant):
    assert index_name(said) == meant


@pytest.mark.parametrize("name", INDICES)
def test_every_name_in_any_case(name):
    assert {index_name(name), index_name(name.upper()), index_name(name.lower())} == {name}


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("FBI", "got 'FBI'; did you mean FBII?"),
        ("Shaply", "got 'Shaply'; did you mean SV?"),
        ("moebus", "got 'moebus'; did you mean Moebius?"),
        ("xyz", "got 'xyz'"),
        ("", "got ''"),
    ],
)
def test_unknown_index_lists_and_suggests(said, hint):
    transform = SparseTransform.from_dict(2, {(): 1.0})
    with pytest.raises(ValueError, match=re.escape("must be one of " + ", ".join(INDICES))) as told:
        interactions(transform, said)
    assert str(told.value).endswith(hint)


def test_index_must_be_a_string():
    with pytest.raises(TypeError, match="index must be a string, got 3"):
        interactions(SparseTransform.from_dict(2, {(): 1.0}), 3)


@pytest.mark.parametrize(
    ("name", "order", "error", "message"),
    [
        ("FBII", 0, ValueError, "order must be an integer >= 1, got 0"),
        ("FBII", 2.0, TypeError, "order must be an integer >= 1, got 2.0"),
        ("FBII", True, TypeError, "order must be an integer >= 1, got True"),
        ("FBII", 4, ValueError, "order must be at most n = 3, got 4"),
        ("SV", 2, ValueError, "order must be 1 for SV, got 2; ask for SII, k-SII, STII or FSII"),
        ("Banzhaf", 2, ValueError, "order must be 1 for BV, got 2; ask for BII or FBII"),
    ],
)
def test_orders_out_of_range(name, order, error, message):
    with pytest.raises(error, match=message):
        interactions(SparseTransform.from_dict(3, {(0, 1): 1.0}), name, order)
