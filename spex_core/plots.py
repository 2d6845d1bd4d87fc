"""Pictures of an explanation with matplotlib, which is imported when the first one is drawn.

Orange is positive, blue negative, the stronger the larger, here as in the HTML page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .errors import MissingExtra, check, check_int
from .picture import Picture, picture
from .regions import Regions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.path import Path

Set = tuple[int, ...]

POSITIVE, NEUTRAL, NEGATIVE = "#e8590c", "#f4f4f2", "#1c6fd6"
FONT = 11  # points


class Explained(Protocol):
    """What is drawn of an explanation."""

    @property
    def features(self) -> tuple[str, ...]: ...

    @property
    def picture(self) -> Picture | None: ...

    def interactions(self, index: str = ..., order: int | None = ...) -> dict[Set, float]: ...


@dataclass(frozen=True)
class Plots:
    """Pictures of one explanation, `ex.plot`.

    Each takes `index` and `order` as `interactions` does, and `ax`, the matplotlib axes to draw on
    (new ones by default), and returns the axes.

    Raises:  MissingExtra without matplotlib; ValueError for a value that is not finite; what
             `interactions` raises.
    Example: ex.plot.bars("SII").figure.savefig("bars.png")
    """

    ex: Explained

    def bars(
        self,
        index: str = "FBII",
        order: int | None = None,
        *,
        top: int = 15,
        ax: Axes | None = None,
    ) -> Axes:
        """The `top` largest interactions as bars, the largest above."""
        values = self._largest("bars", index, order, top)
        ax = _axes(ax, (7, 0.6 + 0.3 * max(len(values), 1)))
        names = [_plain(" × ".join(self.ex.features[j] for j in set_)) for set_ in values]
        heights = list(values.values())
        ax.barh(range(len(values)), heights, color=[_ink(value) for value in heights])
        ax.set_yticks(range(len(values)), names)
        ax.invert_yaxis()
        ax.axvline(0, color="black", linewidth=0.8)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(index)
        return ax

    def text(
        self, index: str = "FBII", order: int | None = None, *, ax: Axes | None = None
    ) -> Axes:
        """The features in their order, as running text, coloured by main effect."""
        effects = self._effects("text", index, order)
        given, ax = ax, _axes(ax, (8, 1))
        inches = ax.get_window_extent().width / ax.figure.dpi if given else 8.0
        placed = list(_flow(self.ex.features, 72 * inches))
        lines = 1 + max(line for *_, line in placed)
        height = 2.1 * FONT  # of a line, in points
        if not given:
            ax.figure.set_size_inches(inches, lines * height / 72)
        scale = _scale(effects)
        for word, feature, x, line in placed:
            share = effects[feature] / scale
            colour = _colours()(0.5 + 0.5 * share)
            ax.text(
                *(x, -height * (line + 0.5), word),
                fontsize=FONT,
                verticalalignment="center",
                color="white" if _luminance(colour) < 0.4 else "black",
                bbox={"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.25"},
            )
        ax.set(xlim=(0, 72 * inches), ylim=(-height * lines, 0))
        ax.set_axis_off()
        return ax

    def network(
        self,
        index: str = "FBII",
        order: int | None = None,
        *,
        top: int = 30,
        ax: Axes | None = None,
    ) -> Axes:
        """The features on a circle, coloured by main effect and as large as it is; between them the
        `top` largest interactions, as lines: dashed where negative, and from a point in the middle
        where they join three or more."""
        joined = self._largest("network", index, order, top, least=2)
        effects = self._effects("network", index, order)
        alone = self._largest("network", index, order, top) if not joined else {}
        nodes = sorted({j for set_ in (*joined, *alone) for j in set_})
        at = {j: _on_circle(i, len(nodes)) for i, j in enumerate(nodes)}
        ax = _axes(ax, (7, 7))
        from matplotlib.patches import PathPatch

        scale = _scale(joined.values())
        for set_, value in joined.items():
            look = {"edgecolor": _ink(value), "linewidth": 0.8 + 4 * abs(value) / scale}
            look["linestyle"] = "solid" if value > 0 else "dashed"
            for path in _curves([at[j] for j in set_]):
                ax.add_patch(PathPatch(path, facecolor="none", alpha=0.75, **look))
        largest = _scale(effects)
        for j, (x, y) in at.items():
            share = effects[j] / largest
            colour = _colours()(0.5 + 0.5 * share)
            ax.scatter(x, y, s=60 + 400 * abs(share), color=colour, edgecolor="#333", zorder=3)
            side = "left" if x > 0.01 else "right" if x < -0.01 else "center"
            name = _plain(self.ex.features[j])
            ax.text(1.12 * x, 1.12 * y, name, fontsize=FONT, ha=side, va="center")
        ax.set(xlim=(-1.6, 1.6), ylim=(-1.35, 1.35), aspect="equal")
        ax.set_axis_off()
        return ax

    def image(
        self,
        image: Any = None,
        regions: Regions | None = None,
        index: str = "FBII",
        order: int | None = None,
        *,
        ax: Axes | None = None,
    ) -> Axes:
        """An image, its regions coloured by main effect.

        Args:   image: (H, W), (H, W, 3) or (3, H, W), finite; as the model took it or as it was.
                regions: (down, across) or a map of segments, as ImageRegions takes them. By
                default both are those of the value function, if it had any.
        Raises: ValueError for another shape, for regions that are not the features, where there is
                no image, or one without regions.
        """
        both = (image is None) == (regions is None)
        check(both, "plot.image: image and regions must both be given")
        if image is None or regions is None:
            shown = self.ex.picture
        else:
            shown = picture("plot.image", image, regions, len(self.ex.features))
        if shown is None:
            raise ValueError("plot.image: image must be given: the value function had none")
        effects = self._effects("image", index, order)
        scale = _scale(effects)
        per_pixel = np.array([*effects, 0.0])[shown.owner]
        ax = _axes(ax, (6, 5))
        ax.imshow(shown.rgb.mean(2), cmap="gray", vmin=0, vmax=255)
        over = ax.imshow(
            per_pixel,
            cmap=_colours(),
            vmin=-scale,
            vmax=scale,
            alpha=0.25 + 0.6 * abs(per_pixel) / scale,
        )
        over.set_label(index)
        ax.figure.colorbar(over, ax=ax, label=f"{index}, main effect", shrink=0.8)
        ax.set_axis_off()
        return ax

    def _largest(
        self, where: str, index: str, order: int | None, top: int, least: int = 1
    ) -> dict[Set, float]:
        """The `top` largest interactions of `least` features or more."""
        check_int(f"plot.{where}: top", top, 1)
        values = self._values(where, index, order)
        rounding = 1e-12 * _scale(values.values())
        found = [
            (set_, value)
            for set_, value in values.items()
            if len(set_) >= least and abs(value) > rounding
        ]
        return dict(found[:top])

    def _effects(self, where: str, index: str, order: int | None) -> list[float]:
        """The main effect of each feature."""
        values = self._values(where, index, order)
        return [values.get((j,), 0.0) for j in range(len(self.ex.features))]

    def _values(self, where: str, index: str, order: int | None) -> dict[Set, float]:
        values = self.ex.interactions(index, order)
        for set_, value in values.items():
            check(
                math.isfinite(value),
                "plot.{}: values must be finite, got {} at {}",
                *(where, value, set_),
            )
        return values


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones of that size in inches."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtra(
            "plot: matplotlib is not installed; pip install spex-core[plot]"
        ) from error
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _colours() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("effect", [NEGATIVE, NEUTRAL, POSITIVE])


def _ink(value: float) -> str:
    return POSITIVE if value > 0 else NEGATIVE


def _scale(values: Iterable[float]) -> float:
    """The largest |value|; 1 where all are 0."""
    return max(map(abs, values), default=0.0) or 1.0


def _luminance(colour: tuple[float, ...]) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def _plain(name: str) -> str:
    """A name on one line, of which matplotlib takes nothing for a formula."""
    return " ".join(name.split()).replace("$", r"\$")


def _flow(names: Sequence[str], width: float) -> Iterator[tuple[str, int, float, int]]:
    """The words of all names in lines of `width` points: (word, feature, x, line)."""
    from matplotlib.textpath import TextPath

    x, line = 0.0, 0
    for feature, name in enumerate(names):
        for word in _plain(name).split() or [""]:
            wide = TextPath((0, 0), word, size=FONT).get_extents().width if word else 0.0
            if x and x + wide > width:
                x, line = 0.0, line + 1
            yield word, feature, x + 0.4 * FONT, line
            x += wide + 1.1 * FONT


def _on_circle(i: int, count: int) -> tuple[float, float]:
    """Clockwise from the top."""
    angle = math.pi / 2 - 2 * math.pi * i / count
    return math.cos(angle), math.sin(angle)


def _curves(points: Sequence[tuple[float, float]]) -> Iterator[Path]:
    """A curve that bends to the middle between two points; for more, a line from each to half their
    mean."""
    from matplotlib.path import Path

    if len(points) == 2:
        middle = tuple(0.35 * (a + b) / 2 for a, b in zip(*points, strict=True))
        yield Path([points[0], middle, points[1]], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        return
    hub = tuple(0.5 * sum(axis) / len(points) for axis in zip(*points, strict=True))
    for point in points:
        yield Path([point, hub])
