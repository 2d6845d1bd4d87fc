"""The bridge to shapiq: what its own tests of SPEX and ProxySPEX ask, of ours; values there and
back; its exact computer as the oracle of every index; its explainers and plots."""

from __future__ import annotations

import importlib.metadata
import inspect
import itertools
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from stores import Toy

import spex_core
from spex_core import MissingExtra, SparseTransform, shapiq_values
from spex_core.interop.games import to_forward, to_game

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its dependencies warn of is not ours
    shapiq = pytest.importorskip("shapiq")
    from spex_core.interop.shapiq import GPSPEX, SPEX, ProxySPEX, from_shapiq, to_shapiq

ALL = [SPEX, ProxySPEX, GPSPEX]


class Unanimity:
    """1/n for each player, and 1 more where all of `interaction` are there; counts its calls."""

    def __init__(self, n: int, interaction: tuple[int, ...]) -> None:
        self.n, self.interaction, self.asked = n, interaction, 0

    def __call__(self, coalitions: np.ndarray) -> np.ndarray:
        assert coalitions.dtype == np.bool_
        assert coalitions.shape[1] == self.n
        self.asked += len(coalitions)
        return coalitions.mean(1) + coalitions[:, list(self.interaction)].all(1)


def random_table(n: int, seed: int = 0) -> SparseTransform:
    return SparseTransform.from_table(np.random.default_rng([n, seed]).normal(size=2**n))


@pytest.mark.parametrize("ours", ALL)
def test_constructor_defaults_are_those_of_the_installed_shapiq(ours: type) -> None:
    theirs = inspect.signature(shapiq.SPEX).parameters
    made = ours(n=10)
    assert isinstance(made, shapiq.approximator.Approximator)
    assert made.index == theirs["index"].default
    assert made.max_order == theirs["max_order"].default or theirs["max_order"].default is None
    assert (made.n, made.min_order, made.top_order) == (10, 0, theirs["top_order"].default)
    assert made.transform_type == "fourier"
    assert "random_state=None" in repr(made)
    assert made == ours(n=10)
    assert made != ours(n=11)


@pytest.mark.parametrize("ours", ALL)
@pytest.mark.parametrize(
    ("n", "index", "max_order", "top_order"),
    [
        (7, "STII", 2, False),
        (7, "FBII", 3, True),
        (20, "FSII", None, False),
        (1100, "FBII", 2, False),
    ],
)
def test_constructor(ours: type, n: int, index: str, max_order: int, top_order: bool) -> None:
    made = ours(n=n, index=index, max_order=max_order, top_order=top_order, random_state=3)
    assert (made.n, made.index, made.top_order) == (n, index, top_order)
    assert made.max_order == (max_order or n)
    assert made.min_order == (max_order if top_order else 0)
    assert made.explanation is None


@pytest.mark.parametrize(
    ("ours", "options", "error", "message"),
    [
        *((ours, {"n": 7, "index": "wrong"}, ValueError, "Invalid index 'wrong'") for ours in ALL),
        *((ours, {"n": 0}, ValueError, "n must be an integer >= 1, got 0") for ours in ALL),
        *((ours, {"n": 4, "max_order": 5}, ValueError, "max_order must be an") for ours in ALL),
        (SPEX, {"n": 7, "decoder_type": "x"}, ValueError, "decoder_type must be 'soft' or 'hard'"),
        (ProxySPEX, {"n": 7, "preset": "x"}, ValueError, "preset must be 'default' or 'paper'"),
        (ProxySPEX, {"n": 7, "trees": 3}, TypeError, "there is no argument 'trees'"),
        (GPSPEX, {"n": 7, "preset": "paper"}, ValueError, "preset must be 'default' or 'pure'"),
    ],
)
def test_bad_constructor(ours: type, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        ours(**options)


def test_arguments_of_newer_versions() -> None:
    """What shapiq's ProxySPEX has beside ours may be given as it stands, and no other way."""
    theirs = inspect.signature(shapiq.ProxySPEX).parameters
    own = inspect.signature(ProxySPEX).parameters
    for name in theirs.keys() - own.keys():
        ProxySPEX(n=5, **{name: theirs[name].default})
        with pytest.raises(ValueError, match=f"ProxySPEX: {name} must be"):
            ProxySPEX(n=5, **{name: object()})


@pytest.mark.parametrize(
    ("ours", "n", "interaction", "budget"),
    [
        (SPEX, 10, (1, 2), 1000),
        (SPEX, 7, (0, 3, 5), 800),
        (SPEX, 10, (1, 2), 450),
        (SPEX, 7, (0, 3, 5), 300),
        (ProxySPEX, 10, (1, 2), 1000),
        (ProxySPEX, 7, (1, 2), 800),
        (GPSPEX, 10, (1, 2), 200),
    ],
)
def test_an_interaction_is_found_within_the_budget(
    ours: type, n: int, interaction: tuple[int, ...], budget: int
) -> None:
    game = Unanimity(n, interaction)
    made = ours(n=n, max_order=n, index="k-SII", random_state=42)
    found = made.approximate(budget, game)
    assert isinstance(found, shapiq.InteractionValues)
    assert (found.max_order, found.min_order, found.index) == (n, 0, "k-SII")
    assert found.estimated
    assert 0 < found.estimation_budget <= budget
    assert game.asked <= budget + 2
    assert interaction in found.interaction_lookup
    assert found[interaction] == pytest.approx(1.0, abs=0.02)
    assert made.interaction_lookup == found.interaction_lookup
    assert made.explanation.report.seed == 42


@pytest.mark.parametrize(
    ("index", "max_order", "budget", "decoder", "top_order", "interaction"),
    [
        ("STII", None, 1600, "soft", False, (1, 2)),
        ("FBII", None, 6400, "hard", False, (1, 2, 4, 5)),
        ("FSII", None, 1600, "soft", False, (0, 2)),
        ("STII", 2, 1600, "soft", True, (1, 2)),
        ("STII", 3, 3200, "soft", False, (1, 2, 3)),
        ("STII", 1, 3200, "soft", False, (1, 2, 3)),
    ],
)
def test_exactly_the_interactions_that_there_are(
    index: str,
    max_order: int | None,
    budget: int,
    decoder: str,
    top_order: bool,
    interaction: tuple[int, ...],
) -> None:
    n = 20
    made = SPEX(
        n=n,
        index=index,
        max_order=max_order,
        top_order=top_order,
        decoder_type=decoder,
        random_state=42,
    )
    game = Unanimity(n, interaction)
    found = made.approximate(budget, game)
    order = n if max_order is None else max_order
    assert found.max_order == order
    assert found.min_order == (order if top_order else 0)
    assert found.index == (index if order > 1 else "SV")
    assert game.asked <= budget
    expected = {} if top_order else {(i,): 1 / n for i in range(n)}
    if order > 1:
        expected[interaction] = 1.0
    else:
        expected |= {(i,): 1 / n + 1 / len(interaction) for i in interaction}
    large = {k: float(found[k]) for k in found.interaction_lookup if abs(found[k]) > 1e-2}
    assert large == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("n", "budget"), [(10, 100), (7, 20), (20, 100)])
def test_too_few_calls(n: int, budget: int) -> None:
    with pytest.raises(ValueError, match="budget must be at least"):
        SPEX(n=n, random_state=42).approximate(budget, Unanimity(n, (1, 2)))


def test_a_lower_degree_is_reported() -> None:
    made = SPEX(n=10, random_state=42)
    made.approximate(450, Unanimity(10, (1, 2)))
    assert made.degree_parameter == 3
    assert any("lowered from 5 to 3" in text for text in made.explanation.report.warnings)
    whole = SPEX(n=10, random_state=42)
    whole.approximate(1000, Unanimity(10, (1, 2)))
    assert whole.degree_parameter == 5
    assert not any("lowered" in text for text in whole.explanation.report.warnings)


def test_seeds() -> None:
    def game(masks: np.ndarray) -> np.ndarray:
        return np.sin(masks @ np.arange(30.0)) + masks[:, 0]

    def values(state: int | None, later: int | None = None) -> np.ndarray:
        made = SPEX(n=30, max_order=2, index="FBII", random_state=state)
        if later is not None:
            made.set_random_state(later)
        return made.approximate(1000, game).values

    assert np.array_equal(values(1), values(1))
    assert np.array_equal(values(2, later=1), values(1))
    assert not np.array_equal(values(None), values(1))


def test_a_game_that_returns_a_list_and_one_that_fails() -> None:
    def listed(masks: np.ndarray) -> list[int]:
        return [int(row[1]) + int(row[1] and row[2]) for row in masks]

    found = ProxySPEX(n=7, index="FBII", max_order=7, random_state=0).approximate(800, listed)
    assert {k: round(float(found[k]), 6) for k in [(1,), (1, 2)]} == {(1,): 1.0, (1, 2): 1.0}
    with pytest.raises(spex_core.EvaluationError, match="finite"):
        ProxySPEX(n=7).approximate(100, lambda masks: np.full(len(masks), np.nan))


@pytest.mark.parametrize(
    ("index", "order"),
    [
        ("SV", 1),
        *itertools.product(
            ["SII", "k-SII", "STII", "FBII", "FSII", "BII", "Moebius"], [1, 2, 3, 4]
        ),
    ],
)
def test_every_index_is_that_of_the_exact_computer(index: str, order: int) -> None:
    n = 6
    transform = random_table(n)
    exact = shapiq.ExactComputer(lambda masks: transform.predict(masks.astype(bool)), n)
    theirs = exact(index, order)
    ours = to_shapiq(transform, index, order)
    assert ours.index == theirs.index or index == "Moebius"
    sizes = range(1, order + 1)
    sets = [s for size in sizes for s in itertools.combinations(range(n), size)]
    assert max(abs(theirs[s]) for s in sets) > 0.1
    for s in sets:
        assert ours[s] == pytest.approx(theirs[s], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("index", ["k-SII", "STII", "FBII", "FSII", "Moebius", "BII"])
def test_there_and_back(index: str) -> None:
    transform = random_table(5)
    again = from_shapiq(to_shapiq(transform, index, 5))
    assert again.n == 5
    assert again.to_dict() == pytest.approx(transform.to_dict(), rel=1e-9, abs=1e-12)


def test_back_from_values_of_low_order() -> None:
    """FBII of order 2 is the closest polynomial of degree 2: the terms above are gone."""
    transform = random_table(5)
    again = from_shapiq(to_shapiq(transform, "FBII", 2))
    low = {k: v for k, v in transform.to_dict().items() if len(k) <= 2}
    assert again.to_dict() == pytest.approx(low, rel=1e-9, abs=1e-12)


def test_back_refuses() -> None:
    transform = random_table(4)
    with pytest.raises(ValueError, match=r"from_shapiq: index must be one of .* got 'SII'"):
        from_shapiq(to_shapiq(transform, "SII", 2))
    with pytest.raises(ValueError, match="must have all orders from 1 on, got 2 and above"):
        from_shapiq(to_shapiq(transform, "FBII", 2, top_order=True))
    with pytest.raises(TypeError, match="values must be InteractionValues, got dict"):
        from_shapiq({})
    bad = to_shapiq(transform, "FBII", 1)
    bad[(0,)] = np.nan
    with pytest.raises(ValueError, match="coefs must be finite"):
        from_shapiq(bad)


def test_explanations_go_there() -> None:
    ex = spex_core.fit(*sampled(), features=[f"word {i}" for i in range(8)], degree=3)
    values = ex.to_shapiq("FBII", 2)
    found = ex.interactions("FBII", 2)
    assert {k: values[k] for k in found} == pytest.approx(found)
    assert values.estimation_budget == ex.report.unique
    assert ex.to_shapiq().max_order == 2
    assert ex.to_shapiq("SV").max_order == 1
    for index, order, message in (
        ("nonsense", 2, "index must be one of Fourier"),
        ("Influence", 1, "to_shapiq: index must be one of SV"),
        ("FBII", 4, "order must be at most the degree of the run, 3, got 4"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            ex.to_shapiq(index, order)


def sampled() -> tuple[np.ndarray, np.ndarray]:
    masks = np.random.default_rng(0).random((150, 8)) < 0.5
    return masks, masks[:, 0] * 2.0 - (masks[:, 1] & masks[:, 2]) + 0.5 * masks[:, 5]


def test_explainers_take_our_approximators() -> None:
    game = Unanimity(8, (1, 2))
    ours = ProxySPEX(n=8, index="k-SII", max_order=2, random_state=0)
    explainer = shapiq.AgnosticExplainer(
        game, n_players=8, index="k-SII", max_order=2, approximator=ours
    )
    found = explainer.explain(budget=200, random_state=0)
    assert found[(1, 2)] == pytest.approx(1.0, abs=0.02)

    rng = np.random.default_rng(0)
    data = rng.normal(size=(50, 8))
    tabular = shapiq.TabularExplainer(
        lambda x: x[:, 0] + 2 * x[:, 1] * x[:, 2],
        data,
        imputer="baseline",
        index="k-SII",
        max_order=2,
        approximator=SPEX(n=8, index="k-SII", max_order=2, random_state=0),
    )
    theirs = tabular.explain(data[0], budget=256)
    assert abs(theirs[(1, 2)]) == pytest.approx(
        2 * abs((data[0, 1] - data[:, 1].mean()) * (data[0, 2] - data[:, 2].mean())), rel=1e-6
    )


def test_its_plots_draw_our_results() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    names = [f"w{i}" for i in range(8)]
    ex = spex_core.fit(*sampled(), features=names)
    pairs, single = ex.to_shapiq("k-SII", 2), ex.to_shapiq("SV", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib's and shapiq's own
        drawn = [
            shapiq.network_plot(pairs, show=False, feature_names=names)[0],
            shapiq.force_plot(pairs, feature_names=names, show=False),
            shapiq.upset_plot(pairs, feature_names=names, show=False),
            shapiq.sentence_plot(single, names, show=False)[0],
        ]
        for figure in drawn:
            figure.canvas.draw()
            assert np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 1
    pyplot.close("all")


def test_value_functions_as_games() -> None:
    f = Unanimity(6, (1, 2))
    game = to_game(f, 6)
    assert isinstance(game, shapiq.Game)
    masks = np.random.default_rng(0).random((9, 6)) < 0.5
    np.testing.assert_array_equal(game(masks), f(masks))
    assert shapiq.ExactComputer(game, 6)("k-SII", 2)[(1, 2)] == pytest.approx(1.0)
    shifted = to_game(lambda x: 3.0 + x.sum(1), features=["a", "b"], normalize=True)
    np.testing.assert_allclose(shifted(np.array([[0, 0], [1, 1]], bool)), [0.0, 2.0])
    assert shifted([("a",)]) == pytest.approx([1.0])
    tensors = to_game(lambda x: torch.from_numpy(x).sum(1).float(), 3)
    assert tensors(np.ones((1, 3), bool)) == pytest.approx([3.0])


def test_a_value_function_of_ours_knows_its_n() -> None:
    f = Toy(6)
    masks = np.random.default_rng(1).random((9, 6)) < 0.5
    np.testing.assert_array_equal(to_game(f)(masks), f(masks))
    forward = to_forward(f)
    np.testing.assert_array_equal(forward(torch.from_numpy(masks).float()).numpy(), f(masks))
    with pytest.raises(ValueError, match=re.escape("one number of features, got [6, 7]")):
        to_game(f, 7)


def test_games_refuse() -> None:
    f = Unanimity(6, (1, 2))
    for arguments, options, error, message in (
        ((3, 6), {}, TypeError, "to_game: f must be callable, got int"),
        ((f,), {}, ValueError, "n, features and f must give one number of features, got none"),
        ((f, 6), {"features": ["a"]}, ValueError, "one number of features, got [1, 6]"),
        ((f, 0), {}, ValueError, "to_game: n must be an integer >= 1, got 0"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            to_game(*arguments, **options)
    two = to_game(lambda masks: np.ones((len(masks), 2)), 3)
    with pytest.raises(ValueError, match=re.escape("f must return one number per mask, (1,), got")):
        two(np.ones((1, 3), bool))


def test_value_functions_as_forwards() -> None:
    """Called as feature ablation does: all ones, then one feature at a time set to the baseline."""
    f = Unanimity(5, (1, 2))
    forward = to_forward(f, 5)
    whole = torch.ones(1, 5)
    effects = [
        float(forward(whole)[0] - forward(whole - torch.eye(5)[i : i + 1])[0]) for i in range(5)
    ]
    assert effects == pytest.approx([0.2, 1.2, 1.2, 0.2, 0.2])
    out = forward(torch.ones(3, 5, dtype=torch.float64, requires_grad=True))
    assert (out.dtype, tuple(out.shape)) == (torch.float32, (3,))
    several = to_forward(lambda masks: np.stack([masks.sum(1), masks[:, 0]], axis=1), 4)
    assert several(torch.ones(2, 4)).tolist() == [[4.0, 1.0]] * 2
    with pytest.raises(ValueError, match=re.escape("inputs must have shape (batch, 5), got (5,)")):
        forward(torch.ones(5))
    with pytest.raises(ValueError, match="inputs must be zeros and ones"):
        forward(torch.full((1, 5), 0.5))
    with pytest.raises(TypeError, match="to_forward: f must be callable"):
        to_forward(None, 4)


@pytest.mark.parametrize("version", ["1.2.3", "0.9.0", "2.0.0"])
def test_another_version(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(
        MissingExtra, match=f"shapiq must be 1.4 or newer and below 2, got {version}"
    ):
        shapiq_values.import_shapiq()


def test_without_shapiq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapiq", None)
    message = re.escape("pip install 'spex-core[shapiq]'")
    for call in (
        lambda: to_shapiq(random_table(3), "FBII", 2),
        lambda: to_game(Unanimity(3, (0,)), 3),
        lambda: from_shapiq({}),
    ):
        with pytest.raises(MissingExtra, match=message):
            call()
    assert to_forward(Unanimity(3, (0,)), 3)(torch.ones(1, 3)).tolist() == [2.0]
