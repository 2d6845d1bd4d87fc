"""The HTML page of 500 features and 2,000 interactions in Chromium: how soon it is there, how soon
it answers a pointer.

    python bench/bench_page.py    # under a minute; writes bench/results/page.json

Times are of the browser's own clock. Opening: from the start of the navigation to the end of the
load event, and to the first paint. Hover: from the event of a real pointer entering a word to the
task after the frame that shows its arcs; "work" is the part of it in which the page computes and
lays out, without the wait for the next frame.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import harness
import numpy as np

import spex_core

sys.path.append(str(harness.HERE.parent / "tests"))
import browser
from playwright.sync_api import Browser
from test_page import explanation

FEATURES, INTERACTIONS, ROUNDS, WORDS = 500, 2000, 7, 60

LISTEN = """() => {
  window.took = [];
  addEventListener("pointerover", ({target}) => {
    if (!target.closest(".feature")) return;
    const start = performance.now();
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => took.push(performance.now() - start);
      channel.port2.postMessage(0);
    });
  }, true);
}"""

WORK = """() => [...document.querySelectorAll(".feature")].map((cell) => {
  const start = performance.now();
  cell.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  document.body.getBoundingClientRect();
  return performance.now() - start;
})"""

OPENED = """() => ({
  load: performance.getEntriesByType("navigation")[0].loadEventEnd,
  paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
})"""

MIDDLES = """() => [...document.querySelectorAll(".feature")].map((cell) => {
  const {x, y, width, height} = cell.getBoundingClientRect();
  return [x + width / 2, y + height / 2];
}).filter(([x, y]) => y < innerHeight)"""


def example() -> spex_core.Explanation:
    """Half a thousand words, each with an effect, and interactions of two and three of them."""
    rng = np.random.default_rng(0)
    terms = {(j,): float(rng.normal()) for j in range(FEATURES)}
    while len(terms) < FEATURES + INTERACTIONS:
        set_ = rng.choice(FEATURES, int(rng.choice([2, 2, 2, 3])), replace=False)
        terms[tuple(sorted(set_.tolist()))] = float(0.3 * rng.normal())
    return explanation(FEATURES, terms)


def measure(chromium: Browser, page: Path, order: int) -> harness.Row:
    opened, hovers, work = [], [], []
    for _ in range(ROUNDS):
        tab = chromium.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri())
        tab.wait_for_timeout(300)  # for the first paint
        opened.append(tab.evaluate(OPENED))
        tab.evaluate(LISTEN)
        for x, y in tab.evaluate(MIDDLES)[:WORDS]:
            tab.mouse.move(x, y)
            tab.wait_for_timeout(5)
        hovers += tab.evaluate("took")
        work += tab.evaluate(WORK)
        tab.close()
    return {
        "order": order,
        "kB": page.stat().st_size / 1000,
        "load ms": statistics.median(row["load"] for row in opened),
        "first paint ms": statistics.median(row["paint"] for row in opened),
        "hover ms, median": statistics.median(hovers),
        "hover ms, 95 %": float(np.quantile(hovers, 0.95)),
        "hover ms, most": max(hovers),
        "hover work ms, median": statistics.median(work),
        "hovers": len(hovers),
    }


def main() -> None:
    if (reason := browser.why_not()) is not None:
        sys.exit(f"bench_page: {reason}")
    ex, rows = example(), []
    with tempfile.TemporaryDirectory() as folder, browser.running() as chromium:
        for order in (2, 3):
            page = Path(folder) / f"{order}.html"
            ex.to_html(page, order=order)
            rows.append(measure(chromium, page, order))
        version = chromium.version
    harness.table(rows)
    shape = {"features": FEATURES, "interactions": INTERACTIONS}
    harness.write("page", rows, chromium=version, rounds=ROUNDS, **shape)


if __name__ == "__main__":
    main()
