"""superset_sums: weighted sums over the terms that contain a set, against a loop over all sets."""

import itertools
import re

import numpy as np
import pytest
import torch

from spex_core import backend as backends
from spex_core import ops
from spex_core.errors import BackendUnavailable
from spex_core.masks import pack_sets, words

BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(backends.why_not(name) is not None, reason=f"{name} not here"),
    )
    for name in ("reference", "cpu")
]


def problem(n, terms, degree, order, *, pool=None, columns=None):
    """Whole numbers, so that sums are exact; terms over a pool of features, so that sets meet."""
    rng = np.random.default_rng([n, terms, degree])
    pool = np.arange(n) if pool is None else np.asarray(pool)
    sets = {tuple(range(min(n, degree)))}  # one term of the full degree
    most = min(degree, len(pool))
    for _ in range(terms):
        term = rng.choice(pool, rng.integers(0, most + 1), replace=False)
        sets.add(tuple(sorted(term.tolist())))
    coefs = rng.integers(-4, 5, len(sets)).astype(float)
    weights = rng.integers(-2, 3, (order, degree + 1 if columns is None else columns)).astype(float)
    return list(sets), coefs, weights


def by_all_sets(sets, coefs, weights):
    """{s: sum}, from every s of at most `order` features in use and all terms that contain it."""
    used = sorted(set(itertools.chain(*sets)))
    out = {}
    for size, row in enumerate(weights, 1):
        for s in itertools.combinations(used, size):
            above = [(len(k), c) for k, c in zip(sets, coefs, strict=True) if set(s) <= set(k)]
            out[s] = sum(row[d] * c for d, c in above if d < len(row))
    return {s: value for s, value in out.items() if value}


def run(n, sets, coefs, weights, backend):
    found, sums = ops.superset_sums(
        pack_sets(sets, n), torch.tensor(coefs), torch.tensor(weights), backend=backend
    )
    assert found.dtype == torch.int32
    assert sums.dtype == torch.float64
    assert found.shape == (len(sums), len(weights))
    return found, sums


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("n", "terms", "degree", "order", "pool"),
    [
        (1, 3, 1, 1, None),
        (2, 5, 2, 3, None),  # an order that no term has
        (9, 40, 9, 4, None),
        (63, 30, 5, 2, range(50, 63)),
        (64, 30, 5, 3, range(52, 64)),
        (65, 30, 6, 5, [0, 1, 62, 63, 64]),
        (1000, 25, 4, 2, [0, 1, 511, 512, 998, 999]),
        (2**17, 20, 7, 6, [0, 1, 2, 65_535, 65_536, 2**17 - 2, 2**17 - 1]),
    ],
)
def test_every_sum_and_their_order(n, terms, degree, order, pool, backend):
    sets, coefs, weights = problem(n, terms, degree, order, pool=pool)
    expected = by_all_sets(sets, coefs, weights)
    found, sums = run(n, sets, coefs, weights, backend)
    got = [tuple(j for j in row if j >= 0) for row in found.tolist()]
    assert expected  # not a trivial case
    assert got == sorted(expected, key=lambda s: (-abs(expected[s]), len(s), s))
    assert sums.tolist() == [expected[s] for s in got]
    for row, s in zip(found.tolist(), got, strict=True):
        assert row == [*s, *[-1] * (order - len(s))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_terms_beyond_the_columns_count_nothing(backend):
    sets, coefs, weights = problem(8, 30, 6, 2, columns=4)
    expected = by_all_sets(sets, coefs, weights)
    found, sums = run(8, sets, coefs, weights, backend)
    assert len(found) == len(expected)
    assert sums.abs().sum() == sum(map(abs, expected.values()))
    none, _ = run(8, sets, coefs, np.ones((2, 1)), backend)
    assert none.shape == (0, 2)


def test_backends_agree_to_the_bit():
    rng = np.random.default_rng(0)
    sets, _, _ = problem(70, 300, 6, 3)
    coefs = rng.normal(size=len(sets)) * 10.0 ** rng.integers(-200, 200, len(sets))
    weights = rng.normal(size=(3, 7))
    ours, reference = (run(70, sets, coefs, weights, name) for name in ("auto", "reference"))
    assert len(ours[0]) > 1000
    assert torch.equal(ours[0], reference[0])
    assert torch.equal(ours[1], reference[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_in_nothing_out(backend):
    for sets in ([], [()]):
        found, sums = run(100, sets, np.ones(len(sets)), np.ones((3, 4)), backend)
        assert found.shape == (0, 3)
        assert sums.shape == (0,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_input_stays_as_it_is(backend):
    sets, coefs, weights = problem(9, 20, 5, 2)
    plain = ops.superset_sums(pack_sets(sets, 9), torch.tensor(coefs), torch.tensor(weights))
    support = pack_sets(sets, 9).repeat(1, 3)[:, 1:2]
    wide = torch.tensor(coefs)[:, None].repeat(1, 2)
    across = torch.tensor(weights).T.contiguous().T
    before = support.clone(), wide.clone(), across.clone()
    found = ops.superset_sums(support, wide[:, 0], across, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((support, wide, across), before, strict=True))


@pytest.mark.skipif(backends.why_not("cpu") is not None, reason="no compiled kernels here")
def test_too_many_subsets_are_refused_before_they_are_made():
    support = torch.full((1, words(200)), -1)  # 256 features: 4e11 sets of 6
    weights = torch.zeros(6, 300).double()
    weights[5] = 1.0
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 subsets"):
        ops.superset_sums(support, torch.ones(1).double(), weights, backend="cpu")


GOOD = {
    "support": torch.tensor([[3], [1]]),
    "coefs": torch.ones(2).double(),
    "weights": torch.ones(1, 3).double(),
}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"support": torch.ones(2, 1)}, TypeError, "support must be a packed int64 tensor"),
        ({"support": torch.tensor([3, 1])}, ValueError, "support must have two axes"),
        ({"coefs": torch.ones(2)}, TypeError, "coefs must be a float64 tensor, got torch.float32"),
        ({"coefs": torch.ones(3).double()}, ValueError, "one number per term, 2, got 3"),
        (
            {"coefs": torch.ones(2, 1).double()},
            ValueError,
            "coefs must have shape (S,), got (2, 1)",
        ),
        ({"weights": [[1.0]]}, TypeError, "weights must be a float64 tensor, got list"),
        ({"weights": torch.ones(3).double()}, ValueError, "weights must have shape (order, D)"),
        ({"weights": torch.ones(0, 3).double()}, ValueError, "neither 0, got (0, 3)"),
        ({"backend": "triton"}, BackendUnavailable, "not implemented for this op"),
        ({"backend": "gpu"}, (ValueError, KeyError), "gpu"),
    ],
)
def test_bad_input(wrong, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ops.superset_sums(**(GOOD | wrong))
