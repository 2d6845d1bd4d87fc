"""The figures of the site, drawn when it is built: from bench/results/, or of the example of the
pages. None is drawn by hand.

A page shows `![...](drawn/NAME.svg)`; CHARTS says which there are and from which results.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

import spex_core as spex

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "bench" / "results"
DRAWN = HERE / "drawn"
CALLS, SPEX_CALLS = (100, 300, 600, 1000, 3000), (1000, 2000, 5000)  # model calls of the benches
INKS = {"ours": "#e8590c", "second": "#5a3fc0", "theirs": "#1c6fd6", "plain": "#8a8f98"}


def draw_all() -> None:
    DRAWN.mkdir(exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "spex"  # equal figures are equal files
    for name in CHARTS:
        save(chart(name), name)
    ex = example()
    ex.to_html(DRAWN / "example.html", title="A review")
    save(ex.plot.text(), "text")
    save(ex.plot.network(order=3), "network")


def save(ax: Axes, name: str) -> None:
    options = {"bbox_inches": "tight", "metadata": {"Date": None}, "facecolor": "white"}
    ax.figure.savefig(DRAWN / f"{name}.svg", **options)
    pyplot.close(ax.figure)


def chart(name: str) -> Axes:
    draw, sources = CHARTS[name]
    figure, ax = pyplot.subplots(figsize=(7, 3.8), layout="constrained")
    draw(ax, *(json.loads((RESULTS / f"{source}.json").read_text()) for source in sources))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.5)
    ax.legend(frameon=False)
    benches = ", ".join(f"bench/bench_{source}.py" for source in sources)
    figure.text(1, -0.04, benches, ha="right", fontsize=8, color=INKS["plain"])
    return ax


def example() -> spex.Explanation:
    """The review of the pages."""
    text = "the plot is thin but the acting is not bad at all and the score is a joy to hear"
    words = text.split()
    at = {word: i for i, word in enumerate(words)}

    def sentiment(kept):
        thin, acting, bad, negated, score, joy = (
            kept[:, at[word]] for word in ("thin", "acting", "bad", "not", "score", "joy")
        )
        alone = 2.0 * joy - 1.0 * thin - 1.5 * bad
        return alone + 2.5 * (bad & negated) + 0.8 * (score & joy) - 0.7 * (thin & acting & bad)

    return spex.proxyspex(sentiment, features=words, budget=500, seed=0)


def budget(ax: Axes, faithful: dict[str, Any], games: dict[str, Any]) -> None:
    """Both algorithms on the same real set functions, against the model calls."""
    ours, theirs = (
        faithful["rows"],
        [row for row in games["rows"] if 2 ** row["n"] > max(SPEX_CALLS)],
    )
    both = with_all(ours, "samples", CALLS) & with_all(theirs, "budget", SPEX_CALLS)
    lines = [
        ("ProxySPEX", "ours", medians(ours, "samples", CALLS, "r2", both)),
        ("SPEX", "second", medians(theirs, "budget", SPEX_CALLS, "r2", both)),
        ("a linear fit", "plain", medians(theirs, "budget", SPEX_CALLS, "linear", both)),
    ]
    for name, ink, found in lines:
        calls = CALLS if name == "ProxySPEX" else SPEX_CALLS
        ax.plot(calls, found, marker="o", color=INKS[ink], label=name)
    calls_axis(ax, f"R² on unseen masks, median of {len(both)}")


def peers(ax: Axes, faithful: dict[str, Any]) -> None:
    """ProxySPEX and the public one on the same samples."""
    rows = [row for row in faithful["rows"] if row.get("theirs") is not None]
    whole = with_all(rows, "samples", CALLS)
    for name, ink, key in (("here", "ours", "ours"), ("shapiq's ProxySPEX", "theirs", "theirs")):
        found = medians(rows, "samples", CALLS, key, whole)
        ax.plot(CALLS, found, marker="o", color=INKS[ink], label=name)
    calls_axis(ax, f"R² on unseen masks, median of {len(whole)}")


def calls_axis(ax: Axes, label: str) -> None:
    ax.set(xscale="log", xlabel="model calls", ylabel=label)
    ax.set_xticks([100, 300, 1000, 3000], ["100", "300", "1,000", "3,000"])
    ax.minorticks_off()


def noise(ax: Axes, spex: dict[str, Any]) -> None:
    """SPEX on planted spectra, n = 256: how it stands noise, beside the public decoders."""
    rows = [row for row in spex["rows"] if row["n"] == 256 and row["snr"] is not None]
    soft = [row for row in rows if row["peer"] == "shapiq soft"]
    for name, ink, key in (("here", "ours", "our_r2"), ("shapiq's SPEX", "theirs", "its_r2")):
        points = sorted((row["snr"], row[key]) for row in soft)
        ax.plot(*zip(*points, strict=True), marker="o", color=INKS[ink], label=name)
    ax.set(xlabel="signal to noise, dB", ylabel="R² on the values without noise")


def with_all(rows: list[dict[str, Any]], x: str, wanted: Sequence[int]) -> set[str]:
    """The games that have a row for each x wanted."""
    there: dict[str, set[int]] = {}
    for row in rows:
        there.setdefault(row["game"], set()).add(row[x])
    return {game for game, values in there.items() if values.issuperset(wanted)}


def medians(
    rows: list[dict[str, Any]], x: str, wanted: Sequence[int], y: str, games: set[str]
) -> list[float]:
    """The median of y over these games, at each x wanted."""
    return [
        statistics.median(row[y] for row in rows if row[x] == at and row["game"] in games)
        for at in wanted
    ]


CHARTS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "budget": (budget, ("faithful", "games")),
    "peers": (peers, ("faithful",)),
    "noise": (noise, ("spex",)),
}
