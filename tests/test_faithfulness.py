"""The measures of faithfulness against their definitions written out, and their contract."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

import spex_core as spex
from spex_core import SparseTransform
from spex_core.masks import pack

Terms = dict[tuple[int, ...], float]


def random_terms(n: int, count: int, degree: int, seed: int) -> Terms:
    rng = np.random.default_rng([n, count, seed])
    sizes = rng.integers(0, min(n, degree) + 1, count)
    return {
        tuple(sorted(rng.choice(n, size, replace=False).tolist())): float(rng.normal())
        for size in sizes
    }


def by_hand(terms: Terms, masks: np.ndarray) -> np.ndarray:
    out = np.zeros(len(masks))
    for term, coef in terms.items():
        out += coef * (-1.0) ** masks[:, list(term)].sum(axis=1)
    return out


def largest(terms: Terms, k: int) -> Terms:
    order = sorted((t for t in terms if t), key=lambda t: -abs(terms[t]))
    return {t: terms[t] for t in order[:k]} | {t: v for t, v in terms.items() if not t}


def r2_by_hand(values: np.ndarray, fit: np.ndarray) -> float:
    return 1 - ((values - fit) ** 2).sum() / ((values - values.mean()) ** 2).sum()


def test_r2() -> None:
    rng = np.random.default_rng(0)
    values, fit = rng.normal(size=(2, 50))
    assert spex.r2(values, fit) == pytest.approx(r2_by_hand(values, fit), rel=1e-12)
    assert spex.r2(values, values) == 1.0
    assert spex.r2(values, np.full(50, values.mean())) == pytest.approx(0.0, abs=1e-12)
    assert spex.r2([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert spex.r2(torch.ones(2), torch.tensor([1.0, 2.0])) == 0.0
    for bad, message in (
        (([1.0], [1.0, 2.0]), "r2: fit must have the shape of values, (1,), got (2,)"),
        (([], []), "r2: values must be at least one number, got shape (0,)"),
        (([np.nan], [1.0]), "r2: values must be finite"),
        (([1.0], [np.inf]), "r2: fit must be finite"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            spex.r2(*bad)


@pytest.mark.parametrize("n", [5, 64, 100])
def test_r2_by_sparsity_is_the_score_of_each_cut(n: int) -> None:
    terms = random_terms(n, 60, 4, seed=1)
    transform = SparseTransform.from_dict(n, terms)
    rng = np.random.default_rng(n)
    masks = rng.random((80, n)) < 0.5
    values = by_hand(terms, masks) + 0.1 * rng.normal(size=80)
    asked = [30, 0, 5, 5, 1000]
    found = spex.r2_by_sparsity(transform, masks, values, asked)
    assert list(found) == [30, 0, 5, 1000]
    assert found[5] > found[0] + 0.01
    for k, score in found.items():
        expected = r2_by_hand(values, by_hand(largest(terms, k), masks))
        assert score == pytest.approx(expected, rel=1e-9)
    assert spex.r2_by_sparsity(transform, pack(masks), torch.from_numpy(values), asked) == found


def test_r2_by_sparsity_refuses() -> None:
    transform = SparseTransform.from_dict(3, {(0,): 1.0})
    masks = np.ones((2, 3), bool)
    for values, sparsities, message in (
        ([1.0], [1], "values must have one number per mask, (2,), got shape (1,)"),
        ([1.0, np.nan], [1], "values must be finite"),
        ([1.0, 2.0], [-1], "a sparsity must be an integer >= 0, got -1"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"r2_by_sparsity: {message}")):
            spex.r2_by_sparsity(transform, masks, values, sparsities)
    with pytest.raises(ValueError, match="masks must be bool"):
        spex.r2_by_sparsity(transform, masks[:, :2], [1.0, 2.0], [1])
    with pytest.raises(ValueError, match="one number per mask"):
        spex.r2_by_sparsity(transform, masks[:0], [], [1])


def test_top_removal_by_every_removal() -> None:
    """The set is the spectrum's, by looking at all of them; the change is the model's."""
    n = 7
    terms = random_terms(n, 25, 4, seed=2)
    transform = SparseTransform.from_dict(n, terms)

    def model(masks: np.ndarray) -> np.ndarray:
        assert masks.dtype == np.bool_
        return by_hand(terms, masks) * 2 + masks[:, 0]

    found = spex.top_removal(model, transform, [3, 1, 7])
    assert list(found) == [3, 1, 7]
    full = np.ones((1, n), bool)
    for r, result in found.items():
        masks = np.ones((len(list(itertools.combinations(range(n), r))), n), bool)
        for mask, gone in zip(masks, itertools.combinations(range(n), r), strict=True):
            mask[list(gone)] = False
        changes = np.abs(by_hand(terms, masks) - by_hand(terms, full))
        best = masks[changes.argmax()]
        whole = abs(model(full)[0])
        assert result.features == tuple(np.flatnonzero(~best).tolist())
        assert result.change == pytest.approx(abs(model(best[None])[0] - model(full)[0]) / whole)
        assert result.predicted == pytest.approx(changes.max() / whole)
        assert result.gap == 0
    searched = spex.top_removal(model, transform, [3], method="search")
    assert searched[3].features == found[3].features


def test_top_removal_refuses() -> None:
    transform = SparseTransform.from_dict(3, {(0,): 1.0})
    for f, removed, message in (
        (lambda m: np.ones(len(m)), [0], "removed must be an integer >= 1 and <= 3, got 0"),
        (lambda m: np.ones(len(m)), [4], "removed must be an integer >= 1 and <= 3, got 4"),
        (lambda m: np.zeros(len(m)), [1], "f of the full mask must not be 0, got 0.0"),
        (lambda m: np.ones((len(m), 2)), [1], "f must return one number per mask, (2,), got"),
        (lambda m: np.full(len(m), np.nan), [1], "values must be finite"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"top_removal: {message}")):
            spex.top_removal(f, transform, removed)


def test_recall_at_k() -> None:
    truth = {(): 9.0, (0,): 5.0, (1, 2): -4.0, (3,): 1.0, (4,): 0.0}
    assert spex.recall_at_k(truth, truth, 2) == 1.0
    assert spex.recall_at_k(truth, {(0,): 1.0, (3,): 0.9, (2, 1): 0.8}, 2) == 0.5
    assert spex.recall_at_k(truth, {(0,): 1.0, (3,): 0.9, (2, 1): 0.8}, 10) == 1.0
    assert spex.recall_at_k(truth, {(): 1.0, (4,): 1.0}, 3) == 0.0
    ties = {(1,): 1.0, (0,): -1.0, (0, 1): 1.0}
    assert spex.recall_at_k(ties, {(0,): 1.0}, 1) == 1.0
    with pytest.raises(ValueError, match="recall_at_k: k must be an integer >= 1, got 0"):
        spex.recall_at_k(truth, truth, 0)
    with pytest.raises(ValueError, match="truth must have a set of nonzero value, got none"):
        spex.recall_at_k({(): 1.0, (1,): 0.0}, truth, 1)


@pytest.mark.parametrize("unit", [1.0, 1e-200, 1e200])
def test_energy_split(unit: float) -> None:
    n = 66
    terms = {k: v * unit for k, v in random_terms(n, 200, 3, seed=3).items()}
    groups = [f"layer {j // 20}" for j in range(n)]
    energy = {"linear": 0.0, "within": 0.0, "across": 0.0}
    for term, coef in terms.items():
        labels = {groups[j] for j in term}
        kind = "linear" if len(term) == 1 else "within" if len(labels) == 1 else "across"
        energy[kind] += (coef / unit) ** 2 if term else 0.0
    found = spex.energy_split(SparseTransform.from_dict(n, terms), groups)
    assert min(energy.values()) > 1
    assert found == pytest.approx({k: v / sum(energy.values()) for k, v in energy.items()})
    assert list(found) == list(energy)


def test_energy_split_of_little() -> None:
    none = {"linear": 0.0, "within": 0.0, "across": 0.0}
    for terms in ({}, {(): 3.0}, {(0,): 0.0}):
        assert spex.energy_split(SparseTransform.from_dict(2, terms), "ab") == none
    pair = SparseTransform.from_dict(2, {(0, 1): 1.0})
    assert spex.energy_split(pair, "ab") == none | {"across": 1.0}
    assert spex.energy_split(pair, [7, 7]) == none | {"within": 1.0}
    with pytest.raises(ValueError, match="groups must have a label for each of 2 features, got 3"):
        spex.energy_split(pair, "abc")
