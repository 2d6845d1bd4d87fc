"""The HTML page in Chromium: what it shows is what Python computes, and mouse, keyboard and screen
reader get at it. Its pictures are left in build/page/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import browser
import numpy as np
import pytest
from test_page import NASTY, explanation

from spex_core import Explanation

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

if (reason := browser.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

PICTURES = Path(__file__).resolve().parent.parent / "build" / "page"
WORDS = ["the", "plot", "is", "thin", "but", "the", "acting", "is", "not", "bad", "at", "all"]
GROUND = {"light": "rgb(246, 245, 242)", "dark": "rgb(20, 22, 26)"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.running() as opened:
        yield opened


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """show(ex, **options of to_html) opens the page; no error, no request may come of it."""
    troubles: list[str] = []
    contexts = []

    def opened(ex: Explanation, scheme: str = "light", **options: object) -> Page:
        ex.to_html(tmp_path / "page.html", **options)
        size = {"width": 1280, "height": 900}
        contexts.append(chromium.new_context(viewport=size, color_scheme=scheme, bypass_csp=True))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("dialog", lambda dialog: troubles.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda asked: troubles.append(asked.url))
        page.goto((tmp_path / "page.html").as_uri())
        first = troubles.pop(0)
        assert first.endswith("page.html")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [trouble for trouble in troubles if not trouble.startswith("data:image/png")] == []


@pytest.fixture(scope="module")
def ex() -> Explanation:
    terms = {(): 1.0, (3,): 0.5, (9,): 0.75, (8, 9): 0.625, (1, 3, 6): 0.1, (1, 3): -0.125}
    return explanation(12, terms, features=WORDS, warnings=["few <b>masks</b>"])


def feature(page: Page, number: int):
    return page.locator(".feature").nth(number)


def arcs(page: Page) -> int:
    return page.locator("#arcs path").count()


def rows(page: Page) -> list[list[str]]:
    lines = page.locator("#table tbody tr")
    return [line.split("\t") for line in lines.all_inner_texts()]


# What is shown.


def test_every_index_of_every_order_is_what_python_computes(show: Callable[..., Page]) -> None:
    rng = np.random.default_rng(0)
    sets = {tuple(sorted(rng.choice(30, d, replace=False).tolist())) for d in range(6)}
    sets |= {tuple(sorted(rng.choice(30, 1 + i % 5, replace=False).tolist())) for i in range(60)}
    ex = explanation(30, {set_: float(rng.normal()) for set_ in sorted(sets)})
    page = show(ex)
    found = page.evaluate(
        """() => {
          const {terms, weights} = JSON.parse(document.getElementById("data").textContent);
          return Object.fromEntries(Object.entries(weights).map(([index, orders]) => [
            index, orders.map((each) => interactions(terms, each, index === "Influence"))]));
        }"""
    )
    assert len(found) == 13
    for index, orders in found.items():
        assert len(orders) == (1 if index in ("SV", "BV") else 4)
        for order, shown in enumerate(orders, 1):
            values = ex.interactions(index, order)
            assert shown["baseline"] == pytest.approx(values.pop(()), rel=1e-12, abs=1e-12)
            got = {tuple(row["set"]): row["value"] for row in shown["rows"]}
            largest = max(map(abs, values.values()))
            for set_ in got.keys() | values.keys():
                assert abs(got.get(set_, 0.0) - values.get(set_, 0.0)) <= 2e-12 * largest, set_
            sizes = [abs(row["value"]) for row in shown["rows"]]
            assert all(a >= b for a, b in pairwise(sizes))


def test_words_are_coloured_by_main_effect(show: Callable[..., Page], ex: Explanation) -> None:
    page = show(ex, index="BII")  # BII is (-2)**|S| F[S]
    strengths = page.eval_on_selector_all(
        ".feature", "all => all.map((c) => Number(c.style.getPropertyValue('--strength')))"
    )
    assert strengths == pytest.approx([0, 0, 0, 2 / 3, 0, 0, 0, 0, 0, 1, 0, 0])
    assert page.locator(".feature").all_inner_texts() == WORDS
    colour = "cell => getComputedStyle(cell).backgroundColor"
    assert feature(page, 0).evaluate(colour) == feature(page, 1).evaluate(colour)
    assert feature(page, 3).evaluate(colour) != feature(page, 9).evaluate(colour)
    assert page.locator(".warning").all_inner_texts() == ["few <b>masks</b>"]
    assert page.locator("#report").inner_text().count("0.9000") == 1


def test_markup_in_names_is_text(show: Callable[..., Page]) -> None:
    page = show(explanation(6, {(0, 1, 2): 1.0, (5,): 1.0}, features=NASTY), title=NASTY[0])
    assert page.title() == page.locator("h1").inner_text() == NASTY[0]
    assert page.locator(".feature").all_text_contents() == [name.strip() for name in NASTY]
    feature(page, 0).hover()
    assert page.locator("#detail-title").inner_text() == NASTY[0]
    assert page.locator("script").count() == 2


def test_an_image_with_regions(show: Callable[..., Page]) -> None:
    rng = np.random.default_rng(0)
    ex = explanation(16, {(3,): 1.0, (7, 8): -1.0, (0, 5, 10): 0.5})
    page = show(ex, image=rng.random((64, 64, 3)), regions=(4, 4), order=3)
    assert page.locator("svg.picture path").count() == 16
    feature(page, 7).hover()
    assert arcs(page) == 1
    assert page.locator("#detail-title").inner_text() == "word7"
    feature(page, 7).focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.feature") == "11"
    page.screenshot(path=PICTURES / "image.png")


def test_what_is_left_out_is_said(show: Callable[..., Page]) -> None:
    page = show(explanation(2100, {(j,): 1.0 + j for j in range(2100)}))
    said = page.locator("#left-out").inner_text()
    assert said.startswith("This page has 2,000 of 2,100 features and 2,000 of 2,100 terms")


# What can be done with it.


def test_hover_shows_the_interactions_of_a_word(show: Callable[..., Page], ex: Explanation) -> None:
    page = show(ex, order=3)
    assert arcs(page) == 0
    assert page.locator("#detail-title").inner_text() == "Largest"
    feature(page, 9).hover()
    assert arcs(page) == 1
    assert feature(page, 8).get_attribute("class") == "feature partner"
    assert page.locator("#detail-list").inner_text().split() == ["not", "+2.5"]
    feature(page, 3).hover()
    joint = [set_ for set_ in ex.interactions("FBII", 3) if 3 in set_ and len(set_) > 1]
    told = [" × ".join(WORDS[j] for j in set_ if j != 3) for set_ in joint]
    assert page.locator("#detail-list .name").all_inner_texts() == told
    assert len(told) == 3
    page.locator("h1").hover()
    assert arcs(page) == 0
    feature(page, 9).click()
    page.locator("h1").hover()
    assert arcs(page) == 1
    feature(page, 9).click()
    page.locator("h1").hover()
    assert arcs(page) == 0


def test_arcs_begin_and_end_at_their_words(show: Callable[..., Page], ex: Explanation) -> None:
    page = show(ex)
    feature(page, 9).hover()
    ends = page.locator("#arcs path").evaluate(
        """path => [0, path.getTotalLength()].map((at) => {
          const {x, y} = path.getPointAtLength(at).matrixTransform(path.getScreenCTM());
          return [x, y];
        })"""
    )
    for (x, y), number in zip(sorted(ends), (8, 9), strict=True):
        word = feature(page, number).bounding_box()
        assert x == pytest.approx(word["x"] + word["width"] / 2, abs=0.1)
        assert abs(y - word["y"]) < 4


def test_the_keyboard_reaches_everything(show: Callable[..., Page], ex: Explanation) -> None:
    page = show(ex)
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        name = "(e => e.id || e.name || e.textContent.trim())(document.activeElement)"
        reached.append(page.evaluate(name))
    wanted = ["Skip to the table", "theme", "index", "order", "the", "filter"]
    assert reached[:6] == wanted
    assert reached[6:11] == ["Features", "Size", "Value", "Strength", "bad"]

    feature(page, 0).focus()
    for key, word in (("ArrowRight", 1), ("End", 11), ("Home", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.feature") == str(word)
    assert page.locator(".feature[tabindex='0']").count() == 1
    feature(page, 9).focus()
    assert arcs(page) == 1
    page.keyboard.press("Enter")
    assert feature(page, 9).get_attribute("aria-selected") == "true"
    page.keyboard.press("Escape")
    assert page.locator("[aria-selected='true']").count() == 0

    page.locator("#table tbody th").first.focus()
    assert arcs(page) == 1
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == rows(page)[1][0]


def test_the_table_sorts_and_filters(show: Callable[..., Page], ex: Explanation) -> None:
    page = show(ex, index="BII", order=3)
    first = [["not × bad", "2", "+2.5"], ["bad", "1", "−1.5"], ["thin", "1", "−1"]]
    assert [row[:3] for row in rows(page)[:3]] == first
    head = page.locator("#table thead th")
    button = page.locator("#table thead button")
    assert head.nth(3).get_attribute("aria-sort") == "descending"
    button.nth(2).click()
    assert head.nth(2).get_attribute("aria-sort") == "descending"
    assert [row[2] for row in rows(page)] == ["+2.5", "−0.5", "−0.8", "−1", "−1.5"]
    button.nth(2).click()
    assert [row[2] for row in rows(page)] == ["−1.5", "−1", "−0.8", "−0.5", "+2.5"]
    button.nth(0).click()
    names = [row[0] for row in rows(page)]
    assert names == ["bad", "not × bad", "plot × thin", "plot × thin × acting", "thin"]
    page.locator("#filter").fill("ACT")
    assert [row[0] for row in rows(page)] == ["plot × thin × acting"]
    assert page.locator("#caption").inner_text() == "BII: 1 interactions"


def test_index_and_order_switch(show: Callable[..., Page], ex: Explanation) -> None:
    page = show(ex)
    page.locator("#index").select_option("SV")
    order = page.locator("#order input")
    assert order.nth(0).is_checked()
    assert order.nth(1).is_disabled()
    values = ex.interactions("SV")
    assert len(rows(page)) == len(values) - 1
    assert "Shapley values" in page.locator("#meaning").inner_text()
    page.locator("#index").select_option("SII")
    assert order.nth(1).is_checked()
    order.nth(2).check()
    assert len(rows(page)) == len(ex.interactions("SII", 3)) - 1


def test_more_rows_on_demand(show: Callable[..., Page]) -> None:
    page = show(explanation(300, {(j,): 1.0 + j for j in range(300)}))
    assert len(rows(page)) == 25
    page.locator("#further").click()
    assert len(rows(page)) == 225
    page.locator("#further").click()
    assert len(rows(page)) == 300
    assert page.locator("#further").is_hidden()


# How it looks, and how it reads.


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_and_drawn(show: Callable[..., Page], ex: Explanation, scheme: str) -> None:
    """axe-core finds nothing to mend: roles, labels, names, contrast."""
    page = show(ex, scheme, order=3)
    PICTURES.mkdir(parents=True, exist_ok=True)
    feature(page, 3).hover()
    page.screenshot(path=PICTURES / f"{scheme}.png", full_page=True)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == (
        "rgb(246, 245, 242)" if scheme == "light" else "rgb(20, 22, 26)"
    )
    page.locator("#theme").select_option("dark" if scheme == "light" else "light")
    assert page.evaluate(ground) == (
        "rgb(246, 245, 242)" if scheme == "dark" else "rgb(20, 22, 26)"
    )
    page.locator("#theme").select_option("light dark")
    axe = browser.FOLDER / "axe.min.js"
    if not axe.exists():
        pytest.skip("no axe-core: run python tests/browser.py")
    page.evaluate(axe.read_text(encoding="utf-8"))
    page.add_style_tag(content="#arcs { display: none }")  # over which axe does not see contrast
    feature(page, 3).hover()
    found = page.evaluate("axe.run()")
    assert found["violations"] == []
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    unclear = {rule["id"] for rule in found["incomplete"]}
    assert unclear <= {"label-content-name-mismatch"}  # names of a letter
    label = feature(page, 9).get_attribute("aria-label")
    assert label == "bad: main effect −2.75; 1 interaction, not +2.5"


def test_a_phone_has_no_horizontal_scrolling(show: Callable[..., Page], ex: Explanation) -> None:
    page = show(ex)
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
