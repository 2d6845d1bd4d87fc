"""Pictures with matplotlib: that they show the values they are of, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_page import NASTY, explanation

from spex_core import Explanation, MissingExtra
from spex_core.plots import NEGATIVE, POSITIVE, Plots

matplotlib = pytest.importorskip("matplotlib", reason="needs pip install spex-core[plot]")
matplotlib.use("Agg")
from matplotlib import colors, pyplot  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture
def ex() -> Explanation:
    terms = {(): 0.5, (0,): -1.0, (1,): 0.25, (2, 3): -0.5, (0, 1, 4): 0.75, (5,): 1e-16}
    return explanation(6, terms, features=["the $5", "a $6", "not", "good\nor bad", "x_1", "same"])


def drawn(ax) -> None:
    ax.figure.canvas.draw()  # warnings are errors


def texts(ax) -> list[str]:
    return [text.get_text().replace(r"\$", "$") for text in ax.texts]


def test_bars_are_the_largest_interactions(ex: Explanation) -> None:
    ax = ex.plot.bars("BII", 3, top=3)
    drawn(ax)
    # BII is (-2)**|S| F[S].
    assert [bar.get_width() for bar in ax.patches] == [-6.0, 2.0, -2.0]
    names = [label.get_text().replace(r"\$", "$") for label in ax.get_yticklabels()]
    assert names == ["the $5 × a $6 × x_1", "the $5", "not × good or bad"]
    inks = [colors.to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert inks == [NEGATIVE, POSITIVE, NEGATIVE]
    assert len(ex.plot.bars("Fourier", 1).patches) == 2  # one is a rounding error
    assert ax.get_xlabel() == "BII"


def test_text_has_every_word_in_order_and_its_colour(ex: Explanation) -> None:
    ax = ex.plot.text("BII")
    drawn(ax)
    assert texts(ax) == ["the", "$5", "a", "$6", "not", "good", "or", "bad", "x_1", "same"]
    fills = [text.get_bbox_patch().get_facecolor() for text in ax.texts]
    assert fills[0] == fills[1]  # of one feature
    assert colors.to_hex(fills[0]) == POSITIVE  # the largest
    red, _, blue, _ = fills[2]
    assert blue > red  # negative
    red, green, blue, _ = fills[4]
    assert max(red, green, blue) - min(red, green, blue) < 0.02


def test_long_text_runs_over_lines_within_the_axes() -> None:
    names = [f"word{j}" * (1 + j % 3) for j in range(300)]
    ax = explanation(300, {(0,): 1.0}, features=names).plot.text()
    drawn(ax)
    frame = ax.figure.bbox
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len({round(box.y0) for box in boxes}) > 20
    assert all(box.x0 >= frame.x0 and box.x1 <= frame.x1 for box in boxes)
    for left, right in pairwise(boxes):
        assert right.x0 >= left.x1 or right.y1 <= left.y0


def test_network_draws_each_interaction(ex: Explanation) -> None:
    ax = ex.plot.network("BII", 3)
    drawn(ax)
    # Three lines for the set of three, -6; one curve for the pair, -2.
    looks = [(patch.get_linestyle(), patch.get_linewidth()) for patch in ax.patches]
    assert looks == [("dashed", 4.8)] * 3 + [("dashed", 0.8 + 4 / 3)]
    assert set(texts(ax)) == {"the $5", "a $6", "x_1", "not", "good or bad"}
    assert len(ex.plot.network("BII", 3, top=1).patches) == 3
    singles = ex.plot.network("BII", 1)
    assert not singles.patches
    assert len(singles.texts) == 2


def test_image_colours_regions_by_main_effect() -> None:
    ex = explanation(4, {(0,): -0.5, (3,): 0.25})
    labels = np.array([[0, 0, 1, 1], [2, 3, -1, -1]])
    ax = ex.plot.image(torch.rand(3, 2, 4), labels, "BII")
    drawn(ax)
    over = ax.images[1]
    np.testing.assert_array_equal(over.get_array(), [[1, 1, 0, 0], [0, -0.5, 0, 0]])
    assert over.get_clim() == (-1.0, 1.0)


def test_all_draw_on_given_axes_and_on_a_constant(ex: Explanation) -> None:
    nothing = explanation(4, {(): 1.0})
    for each in (ex, nothing):
        for name in ("bars", "text", "network"):
            ax = pyplot.figure().add_subplot()
            assert getattr(each.plot, name)(ax=ax) is ax
            drawn(ax)
    ax = pyplot.figure().add_subplot()
    assert nothing.plot.image(np.zeros((4, 4)), (2, 2), ax=ax) is ax


def test_markup_and_odd_names_are_drawn_as_they_are() -> None:
    ex = explanation(3, {(0, 1): 1.0, (2,): 1.0}, features=["$a$ <b>", "$$", r"\frac{\$"])
    for name in ("bars", "text", "network"):
        drawn(getattr(ex.plot, name)())
    assert NASTY[0] in texts(explanation(1, {(0,): 1.0}, features=NASTY[:1]).plot.text())


class Broken:
    """What no transform is: values that are not finite."""

    features = ("a", "b")

    def interactions(self, index: str = "FBII", order: int | None = None) -> dict:
        return {(0,): float("nan"), (0, 1): 1.0, (): 0.0}


@pytest.mark.parametrize("name", ["bars", "text", "network"])
def test_values_that_are_not_finite(name: str) -> None:
    with pytest.raises(ValueError, match=rf"plot.{name}: values must be finite, got nan at \(0,\)"):
        getattr(Plots(Broken()), name)()


def test_overflow_is_refused() -> None:
    ex = explanation(2, {(0, 1): 1e308})
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match=r"plot.bars: values must be finite, got inf at \(0, 1\)"),
    ):
        ex.plot.bars("BII", 2)


def test_bad_arguments(ex: Explanation) -> None:
    with pytest.raises(ValueError, match=r"plot.bars: top must be an integer >= 1, got 0"):
        ex.plot.bars(top=0)
    with pytest.raises(ValueError, match="index must be one of"):
        ex.plot.text("SVI")
    with pytest.raises(ValueError, match=r"plot.image: regions must be as many as the 6 features"):
        ex.plot.image(np.zeros((4, 4)), (2, 2))
    with pytest.raises(ValueError, match=r"plot.image: image must be finite"):
        ex.plot.image(np.full((4, 4), np.inf), (2, 3))
    with pytest.raises(ValueError, match=r"plot.image: image and regions must both be given"):
        ex.plot.image(np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"image must be given: the value function had none"):
        ex.plot.image()


def test_without_matplotlib_the_extra_is_named(
    ex: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.patches", "matplotlib.textpath"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (ex.plot.bars, ex.plot.text, ex.plot.network):
        with pytest.raises(MissingExtra, match=r"pip install spex-core\[plot\]"):
            call()
    with pytest.raises(MissingExtra, match=r"pip install spex-core\[plot\]"):
        ex.plot.image(np.zeros((4, 4)), np.array([[0, 1, 2, 3], [4, 5, 5, 5]] * 2))


def test_matplotlib_is_not_imported_before_a_picture_is_drawn() -> None:
    program = "import sys, spex_core.plots, spex_core.page; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
