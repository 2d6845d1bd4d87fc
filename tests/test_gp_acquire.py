"""gp_acquire.py: the masks proposed against dense algebra, and what they are worth."""

import numpy as np
import pytest
import torch
from planted import plant_products
from test_anova import all_terms, characters
from test_gp_prior import matrix_of

from spex_core import gpspex
from spex_core import masks as bits
from spex_core.anova import Anova
from spex_core.gp_acquire import propose
from spex_core.gp_prior import Mixture
from spex_core.gp_process import posterior

N = 6


def process(rows=20, level=0.1, bias=0.0, seed=0):
    """A process of 6 features under a prior on terms of up to 2, and its masks."""
    rng = np.random.default_rng(seed)
    dense = (rng.permutation(2**N)[:rows, None] >> np.arange(N) & 1).astype(bool)
    relevances = torch.from_numpy(rng.random(N))
    kernel = Anova(relevances, torch.tensor([0.0, 0.7, 0.3], dtype=torch.float64), bias)
    y = torch.from_numpy(rng.normal(size=rows))
    return posterior(N, bits.pack(dense), y, Mixture((kernel,), (1.0,)), level), dense


def variances(found, dense):
    """Posterior variances of all coefficients, as a linear model with a normal prior has them."""
    terms = all_terms(N, 2)
    prior = matrix_of(found.mixture, terms)
    x = characters(dense, terms)
    gain = np.linalg.solve(x @ prior @ x.T + found.level * np.eye(len(x)), x @ prior).T
    return terms.orders, (prior - gain @ x @ prior).diagonal()


@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize("quantity", ["function", "first"])
def test_each_mask_is_the_best_one_there_is(quantity, bias):
    """All masks are candidates, and each is tried by fitting with it."""
    found, dense = process(bias=bias)
    every = (np.arange(2**N)[:, None] >> np.arange(N) & 1).astype(bool)
    got = bits.unpack(propose(found, 3, quantity=quantity, candidates=every), N)
    seen = dense
    for mask in got:
        left = []
        for new in every:
            orders, v = variances(found, np.vstack([seen, new]))
            left.append(v[orders == 1].sum() if quantity == "first" else v.sum())
        unseen = ~(every[:, None] == seen).all(2).any(1)
        own = (every == mask).all(1)
        assert unseen[own].all()
        # probes are a sample of all masks
        slack = 1.0 if quantity == "first" else 1.02
        assert np.array(left)[own][0] <= slack * np.array(left)[unseen].min() + 1e-12
        seen = np.vstack([seen, mask])


def test_masks_are_new_and_the_same_for_a_seed():
    found, dense = process(rows=40)
    one, again, other = (propose(found, 20, quantity="function", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    both = np.concatenate([bits.unpack(one, N), dense])
    assert len(np.unique(both, axis=0)) == 60


def test_fewer_errors_than_candidates_at_random(set_threads):
    """The stated variance of the coefficients falls further than by as many uniform masks."""
    set_threads(1)
    f = plant_products(20, 5, 2, seed=0)
    found = gpspex(f, 20, budget=40, seed=0).process
    rng = np.random.default_rng(0)
    probes = rng.random((200, 20)) < 0.5
    totals = []
    old = bits.unpack(found.masks, 20)
    for new in (
        bits.unpack(propose(found, 20, quantity="function"), 20),
        rng.random((20, 20)) < 0.5,
    ):
        rows = bits.pack(np.concatenate([old, new]))
        y = torch.zeros(len(rows), dtype=torch.float64)
        y[0] = 1.0
        after = posterior(20, rows, y, found.mixture, found.level)
        totals.append((after.predict(probes)[1] ** 2 / after.scale).mean())
    assert totals[0] < 0.97 * totals[1]


def test_masks_of_features_that_do_not_vary_here():
    found, _ = process()
    wide = found.of_all(70, np.array([0, 3, 5, 40, 64, 69]), power=0)
    got = propose(wide, 5, candidates=None, seed=3)
    assert got.shape == (5, 2)
    narrow = bits.unpack(got, 70)[:, [0, 3, 5, 40, 64, 69]]
    assert len(np.unique(narrow, axis=0)) == 5
    with pytest.raises(ValueError, match=r"propose: masks must be bool \(T, 70\)"):
        propose(wide, 2, candidates=np.zeros((9, 6), bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "propose: count must be an integer >= 1, got 0"),
        (
            {"count": 45},
            "count must be at most the candidates not seen before, 44, got 45",
        ),
        ({"quantity": "second"}, "propose: quantity must be 'function' or 'first', got 'second'"),
        ({"seed": -1}, "propose: seed must be"),
    ],
)
def test_bad_arguments(change, message):
    found, _ = process()
    with pytest.raises(ValueError, match=message):
        propose(**{"process": found, "count": 3} | change)
