"""Trees: what they predict, and their spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forests import all_masks, chain, grow, join, values

from spex_core import SparseTransform, Trees, tree_fourier
from spex_core import masks as bits


@pytest.mark.parametrize(("trees", "depth", "n"), [(1, 1, 1), (30, 5, 65), (7, 9, 300), (0, 1, 3)])
def test_predict(trees: int, depth: int, n: int) -> None:
    forest = grow(trees, depth, n)
    model = Trees(n, *forest, bias=0.5)
    masks = np.random.default_rng(n).integers(0, 2, (40, n)).astype(bool)
    expected = 0.5 + values(forest, masks).sum(0)
    for form in (masks, torch.from_numpy(masks), bits.pack(masks)):
        found = model.predict(form)
        assert found.dtype == np.float64
        assert found.tolist() == expected.tolist()
    assert model.predict(masks[:0]).shape == (0,)
    assert len(model) == trees
    assert repr(model).startswith(f"Trees(n={n}, trees={trees}, leaves=")


def test_predict_takes_many_masks_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Trees(20, *grow(13, 4, 20))
    masks = all_masks(20)[:1000]
    whole = model.predict(masks)
    monkeypatch.setattr("spex_core.trees.WALK", 100)
    assert np.array_equal(model.predict(masks), whole)


def test_predict_checks_its_masks() -> None:
    model = Trees(9, *chain([4], [0.0, 1.0]))
    with pytest.raises(ValueError, match=r"predict: masks must be bool \(T, 9\)"):
        model.predict(np.zeros((2, 8), bool))
    with pytest.raises(TypeError, match="masks must be bool"):
        model.predict(np.zeros((2, 9)))


def test_bad_trees() -> None:
    roots, feature, *rest = chain([4, 2], [1.0, 2.0, 5.0])
    with pytest.raises(ValueError, match=r"Trees: feature must be in \[-1, 3\], got 4"):
        Trees(4, roots, feature, *rest)
    with pytest.raises(TypeError, match="Trees: feature must be an int32 tensor, got list"):
        Trees(5, roots, feature.tolist(), *rest)
    with pytest.raises(ValueError, match="Trees: bias must be finite"):
        Trees(5, roots, feature, *rest, bias=float("nan"))
    with pytest.raises(ValueError, match="Trees: n must be an integer >= 1"):
        Trees(0, roots, feature, *rest)


# Their spectrum.


def test_the_spectrum_of_trees() -> None:
    n = 10
    forest = grow(12, 5, n)
    found = tree_fourier(Trees(n, *forest, bias=-3.25))
    masks = all_masks(n)
    assert found.predict(masks).tolist() == (values(forest, masks).sum(0) - 3.25).tolist()
    again = SparseTransform(n, found.support, found.coefs)
    assert torch.equal(again.support, found.support)
    assert torch.equal(again.coefs, found.coefs)
    assert found.coefs.is_contiguous()


def test_limit_counts_the_constant() -> None:
    trees = Trees(9, *chain([4], [3.0, 1.0]), bias=5.0)
    assert tree_fourier(trees).to_dict() == {(): 7.0, (4,): 1.0}
    assert tree_fourier(trees, limit=1).to_dict() == {(): 7.0}
    without = Trees(9, *chain([4], [3.0, 1.0]), bias=-2.0)
    assert tree_fourier(without, limit=1).to_dict() == {(4,): 1.0}
    assert tree_fourier(without, backend="reference").to_dict() == {(4,): 1.0}


def test_no_trees_are_their_bias() -> None:
    empty = Trees(70, *grow(0, 1, 70), bias=1.5)
    assert tree_fourier(empty).to_dict() == {(): 1.5}
    assert len(tree_fourier(Trees(70, *grow(0, 1, 70)))) == 0


def test_n_is_that_of_the_trees() -> None:
    trees = Trees(9, *chain([4], [3.0, 1.0]))
    assert tree_fourier(trees, 9).n == 9
    with pytest.raises(ValueError, match="n must be that of the trees, 9, got 10"):
        tree_fourier(trees, 10)


def test_two_trees_that_share_no_feature() -> None:
    forest = join(chain([129, 64], [1.0, 2.0, 3.0]), chain([0, 63], [4.0, 8.0, 0.0]))
    assert tree_fourier(Trees(130, *forest)).to_dict() == {
        (): 5.75,
        (63,): 2.0,
        (64,): -0.25,
        (129,): -0.75,
        (0, 63): -2.0,
        (64, 129): 0.25,
    }
