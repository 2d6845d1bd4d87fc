"""Best subsets against all masks looked at one by one, and their contract."""

from __future__ import annotations

import builtins
import re
from math import inf

import numpy as np
import pytest
import torch

from spex_core import BestSubset, MissingExtra, SparseTransform
from spex_core.subset_tables import WIDEST, small_tables

Terms = dict[tuple[int, ...], float]


def random_terms(rng: np.random.Generator, n: int, count: int, degree: int) -> Terms:
    """Up to `count` terms of 0 to `degree` features."""
    sizes = rng.integers(0, min(n, degree) + 1, count)
    return {
        tuple(sorted(rng.choice(n, size, replace=False).tolist())): float(rng.normal())
        for size in sizes
    }


def hierarchical_terms(rng: np.random.Generator, n: int, products: int, degree: int) -> Terms:
    """A sum of ANDs of up to `degree` features: terms with all terms inside them, as trees give."""
    terms: Terms = {}
    for _ in range(products):
        features = np.sort(rng.choice(n, rng.integers(1, degree + 1), replace=False)).tolist()
        weight = float(rng.normal())
        for bits in range(1 << len(features)):
            k = tuple(j for i, j in enumerate(features) if bits >> i & 1)
            terms[k] = terms.get(k, 0.0) + weight * (-1) ** len(k) / 2 ** len(features)
    return terms


def all_masks(n: int) -> np.ndarray:
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def by_hand(terms: Terms, masks: np.ndarray) -> np.ndarray:
    out = np.zeros(len(masks))
    for term, coef in terms.items():
        out += coef * (-1.0) ** masks[:, list(term)].sum(axis=1)
    return out


def random_limits(rng: np.random.Generator, n: int) -> dict[str, object]:
    """Bounds and fixed features that some mask keeps to."""
    fixed = {int(j): bool(rng.integers(2)) for j in rng.choice(n, rng.integers(0, 3) % n)}
    present, dropped = sum(fixed.values()), len(fixed) - sum(fixed.values())
    least, most = sorted(rng.integers(present, n - dropped + 1, 2).tolist())
    if rng.random() < 0.3:
        return {"size": least, "fixed": fixed}
    return {"at_least": least, "at_most": most, "fixed": fixed}


def allowed(masks: np.ndarray, limits: dict[str, object]) -> np.ndarray:
    size = masks.sum(1)
    good = size >= limits.get("at_least", limits.get("size", 0))
    good &= size <= limits.get("at_most", limits.get("size", masks.shape[1]))
    for j, present in limits["fixed"].items():
        good &= masks[:, j] == present
    return good


def check_both(terms: Terms, n: int, limits: dict[str, object], method: str) -> None:
    transform, masks = SparseTransform.from_dict(n, terms), all_masks(n)
    good = allowed(masks, limits)
    values = by_hand(terms, masks)
    scale = sum(map(abs, terms.values())) + 1e-300
    for best, truth, sign in (
        (transform.maximize(**limits, method=method), values[good].max(), 1),
        (transform.minimize(**limits, method=method), values[good].min(), -1),
    ):
        assert good[best.mask @ (1 << np.arange(n))]
        assert best.value == transform.predict(best.mask[None])[0]
        assert abs(best.value - truth) <= 1e-9 * scale
        assert sign * (best.bound - truth) >= -1e-9 * scale
        if method != "search":
            assert abs(best.bound - truth) <= 1e-7 * scale


@pytest.mark.parametrize("kind", [random_terms, hierarchical_terms])
@pytest.mark.parametrize(("method", "cases"), [("auto", 100), ("milp", 6), ("search", 6)])
def test_equal_to_brute_force(kind, method: str, cases: int) -> None:
    rng = np.random.default_rng([1, cases])
    for _ in range(cases):
        n = int(rng.integers(1, 12))
        terms = kind(rng, n, int(rng.integers(1, 30)), min(n, 5))
        check_both(terms, n, random_limits(rng, n), method)


@pytest.mark.parametrize("method", ["auto", "milp", "search"])
def test_terms_longer_than_a_table(method: str) -> None:
    """They are cut: the parities of their parts are variables, some inside a larger set."""
    rng = np.random.default_rng(2)
    terms = random_terms(rng, 12, 12, 4) | {
        tuple(range(12)): 1.5,
        tuple(range(WIDEST + 1)): -1.0,
        tuple(range(1, 12)): 0.7,
        (0, 1, 2, 3, 4, 9): 0.5,  # has the first part of the longest inside it
    }
    check_both(terms, 12, {"at_least": 3, "at_most": 9, "fixed": {5: True}}, method)


def test_the_table_of_twenty_features() -> None:
    rng = np.random.default_rng(3)
    terms = random_terms(rng, 20, 200, 4)
    best = SparseTransform.from_dict(20, terms).maximize(size=8)
    masks = all_masks(20)
    values = by_hand(terms, masks[masks.sum(1) == 8])
    assert best.method == "table"
    assert best.value == pytest.approx(values.max(), rel=1e-12)
    assert best.gap == 0


@pytest.mark.parametrize("size", [None, 40])
def test_five_hundred_features_are_proven_best(size: int | None) -> None:
    rng = np.random.default_rng(4)
    terms = hierarchical_terms(rng, 500, 220, 3)
    transform = SparseTransform.from_dict(500, terms)
    best = transform.maximize(size=size, time_limit=30)
    assert best.method == "milp"
    assert best.gap < 1e-6
    assert size is None or best.mask.sum() == size
    searched = transform.maximize(size=size, method="search")
    assert best.value * 0.85 < searched.value <= best.value + 1e-9 <= searched.bound + 2e-9


def test_the_bound_stands_where_time_runs_out() -> None:
    """Random parities are as hard as a spin glass: the gap is stated, not hidden."""
    transform = SparseTransform.from_dict(300, random_terms(np.random.default_rng(5), 300, 1200, 3))
    best = transform.maximize(time_limit=0.2)
    assert best.value < best.bound <= float(transform.coefs.abs().sum())
    assert best.gap == (best.bound - best.value) / best.value > 0.01


@pytest.mark.parametrize("method", ["auto", "milp", "search", "table"])
def test_nothing_to_choose(method: str) -> None:
    for terms in ({}, {(): 2.0}):
        best = SparseTransform.from_dict(5, terms).maximize(size=3, fixed={0: False}, method=method)
        assert best.features == (1, 2, 3)
        assert best.value == best.bound == sum(terms.values())
        assert best.gap == 0
    whole = SparseTransform.from_dict(2, {(0,): 1.0, (0, 1): 2.0}).minimize(
        fixed={0: True, 1: False}, method=method
    )
    assert whole.features == (0,)
    assert whole.value == whole.bound == -3.0


def test_idle_features_fill_the_size() -> None:
    """Feature 70 alone is in a term; the others only count."""
    transform = SparseTransform.from_dict(100, {(70,): 1.0})
    for method in ("table", "milp", "search"):
        assert transform.maximize(at_least=3, method=method).features == (0, 1, 2)
        assert transform.minimize(size=3, method=method).features == (0, 1, 70)
        assert transform.maximize(size=100, method=method).value == -1.0


def test_a_seed_gives_the_same_mask_and_moves_nothing() -> None:
    transform = SparseTransform.from_dict(80, random_terms(np.random.default_rng(6), 80, 300, 3))
    before = torch.get_rng_state()
    found = [transform.maximize(size=30, method="search", seed=seed) for seed in (0, 0, 1)]
    assert (found[0].mask == found[1].mask).all()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["reference", "cpu", "triton"])
def test_every_backend_searches_alike(name: str) -> None:
    from spex_core.backend import why_not

    if (reason := why_not(name)) is not None:
        pytest.skip(reason)
    device = "cuda" if name == "triton" and torch.cuda.is_available() else "cpu"
    transform = SparseTransform.from_dict(40, random_terms(np.random.default_rng(7), 40, 60, 3))
    options = {"size": 12, "method": "search"}
    found = transform.maximize(**options, backend=name, device=device)
    assert found.value == pytest.approx(transform.maximize(**options).value, rel=1e-12)


def test_tables_add_up_to_the_terms() -> None:
    rng = np.random.default_rng(8)
    terms = {k: v for k, v in hierarchical_terms(rng, 9, 12, 5).items() if k}
    tables = small_tables(terms, 9)
    masks = all_masks(9)
    total = np.zeros(len(masks))
    for rows, values in tables.values.values():
        for row, table in zip(rows, values, strict=True):
            own = list(tables.sets[row])
            total += table[masks[:, own] @ (1 << np.arange(len(own)))]
    np.testing.assert_allclose(total, by_hand(terms, masks), rtol=0, atol=1e-12)
    assert tables.most() >= total.max()
    assert len(tables.sets) < len(terms)


def test_gap() -> None:
    def gap(value: float, bound: float) -> float:
        return BestSubset(np.zeros(1, bool), value, bound, "milp").gap

    assert gap(2.0, 3.0) == 0.5
    assert gap(-2.0, -1.0) == 0.5
    assert gap(0.0, 0.0) == 0.0
    assert gap(0.0, 1.0) == inf


TRANSFORM = SparseTransform.from_dict(30, {(j, j + 1): 1.0 for j in range(29)})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 31}, ValueError, "maximize: size must be an integer >= 0 and <= 30, got 31"),
        ({"size": -1}, ValueError, "maximize: size must be an integer >= 0 and <= 30, got -1"),
        ({"size": 2.0}, TypeError, "maximize: size must be an integer >= 0"),
        ({"at_least": 5, "at_most": 4}, ValueError, "at_least must be at most at_most, got 5 > 4"),
        ({"size": 3, "at_most": 2}, ValueError, "size must lie within at_least = 0 and at_most ="),
        ({"size": 3, "at_least": 4}, ValueError, "size must lie within at_least = 4 and at_most"),
        ({"fixed": {30: True}}, ValueError, "a fixed feature must be an integer >= 0 and <= 29"),
        ({"fixed": {"a": True}}, TypeError, "a fixed feature must be an integer"),
        ({"fixed": {1: 2}}, ValueError, "fixed must map to True or False, got 2 for 1"),
        ({"fixed": [1, 2]}, TypeError, "fixed must be a mapping of feature to present or not"),
        (
            {"fixed": {1: True, 2: True}, "at_most": 1},
            ValueError,
            "fixed must keep at most at_most = 1 features, got 2",
        ),
        (
            {"fixed": {1: False, 2: False}, "size": 29},
            ValueError,
            "fixed must leave at_least = 29 features that can be present, got 28",
        ),
        ({"method": "gurobi"}, ValueError, "method must be one of"),
        ({"method": "table"}, ValueError, "method 'table' takes at most 24 features"),
        ({"time_limit": 0}, ValueError, "time_limit must be a positive number of seconds, got 0"),
        ({"time_limit": float("nan")}, ValueError, "time_limit must be a positive number"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
    ],
)
def test_bad_options(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        TRANSFORM.maximize(**options)
    with pytest.raises(error, match="minimize: "):
        TRANSFORM.minimize(**options)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: object, **options: object) -> object:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'spex-core[optimize]'")):
        TRANSFORM.maximize()
    assert TRANSFORM.maximize(method="search").value == 29
    assert TRANSFORM.maximize(fixed=dict.fromkeys(range(10), True)).method == "table"
