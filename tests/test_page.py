"""The HTML page of an explanation as a file: what is in it, how large it is, what is refused.

tests/test_page_browser.py looks at it in a browser.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import spex_core
from spex_core import Explanation, Report, SparseTransform, cli
from spex_core.regions import pixel_owners

REPORT = Report(
    algorithm="proxyspex",
    backend="cpu",
    device="cpu",
    seed=0,
    n=4,
    degree=5,
    budget=100,
    used=100,
    unique=100,
    left_out=50,
    r2=0.9,
    r2_linear=0.5,
    terms=5,
    effective_terms=4.5,
    energy_by_order={1: 0.75, 2: 0.25},
    hierarchy={"staircase": 1.0},
    plan="masks",
    seconds={"plan": 0.1, "fit": 0.4},
    preset="default",
)
NASTY = [
    *("<script>alert(1)</script>", "</script>", "<!--"),
    *("\"'&amp;\\u003c\u2028", "日本語", "$data"),
]


def explanation(n: int, terms: dict[tuple[int, ...], float], **changes: object) -> Explanation:
    names = tuple(changes.pop("features", None) or (f"word{j}" for j in range(n)))
    report = dataclasses.replace(REPORT, n=n, **changes)
    return Explanation(SparseTransform.from_dict(n, terms), names, report)


def written(ex: Explanation, folder: Path, **options: object) -> str:
    ex.to_html(folder / "page.html", **options)
    return (folder / "page.html").read_text(encoding="utf-8")


def data(page: str) -> dict:
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(found)


def test_the_page_holds_names_terms_and_report(tmp_path: Path) -> None:
    terms = {(): 0.5, (1,): -1.25, (0, 3): 0.1, (0, 1, 2): 1e-3}
    ex = explanation(4, terms, warnings=["few masks"])
    found = data(written(ex, tmp_path, index="shapley", title="A title"))
    assert found["features"] == list(ex.features)
    assert {tuple(set_): value for value, *set_ in found["terms"]} == terms
    assert found["report"] == json.loads(json.dumps(dataclasses.asdict(ex.report)))
    assert (found["title"], found["index"], found["order"]) == ("A title", "SV", 1)
    assert found["all"] == {"features": 4, "terms": 4, "kept": 1.0}
    assert found["picture"] is None
    assert len(found["weights"]["SII"]) == 4
    assert len(found["weights"]["SV"]) == 1


def test_markup_in_names_and_title_stays_text(tmp_path: Path) -> None:
    ex = explanation(6, {(0, 1): 1.0}, features=NASTY)
    page = written(ex, tmp_path, title=NASTY[0])
    assert data(page)["features"] == NASTY
    assert "alert(1)</script>" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>" in page


def test_nothing_in_the_page_asks_for_another_file(tmp_path: Path) -> None:
    page = written(explanation(4, {(0,): 1.0}), tmp_path)
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"https?://[^\"'\s]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"<link|\bsrc=|@import|url\(", page)


@pytest.mark.parametrize("n", [500, 2000, 2001, 50_000])
def test_a_page_is_under_a_megabyte_and_says_what_it_leaves_out(n: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(n)
    drawn = rng.integers(n, size=(40_000 if n <= 2001 else 8000, 3)).tolist()
    sets = {tuple(sorted({*features[: 1 + i % 3]})) for i, features in enumerate(drawn)}
    terms = dict(zip(sets, rng.normal(size=len(sets)).tolist(), strict=True))
    ex = explanation(n, terms, features=[f"the long name of feature {j} " * 20 for j in range(n)])
    page = written(ex, tmp_path)
    assert len(page.encode()) < 1_000_000
    found = data(page)
    assert len(found["features"]) == min(n, 2000)
    assert found["all"]["terms"] == len(sets)
    # The largest terms on the features shown, and the share that they hold.
    held = [value**2 for value, *set_ in found["terms"]]
    share = sum(held) / sum(value**2 for value in terms.values())
    assert found["all"]["kept"] == pytest.approx(share, rel=1e-9)
    assert 0.01 < share < 1
    if n <= 2000:
        least = min(held)
        assert sum(value**2 > least * 1.001 for value in terms.values()) == pytest.approx(
            len(held), rel=0.01
        )


def test_500_features_and_2000_interactions_are_all_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = {tuple(sorted(rng.choice(500, 2, replace=False).tolist())) for _ in range(2100)}
    terms = {set_: float(rng.normal()) for set_ in [*((j,) for j in range(500)), *sorted(sets)]}
    found = data(written(explanation(500, terms), tmp_path))
    assert len(found["features"]) == 500
    assert len(found["terms"]) == len(terms) > 2500


def test_an_order_that_a_browser_could_not_sum_is_not_offered(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = {tuple(sorted(rng.choice(40, 20, replace=False).tolist())) for _ in range(400)}
    ex = explanation(40, dict.fromkeys(sets, 1.0), degree=20)
    assert len(data(written(ex, tmp_path))["weights"]["FSII"]) == 2


def test_a_constant_alone(tmp_path: Path) -> None:
    found = data(written(explanation(3, {(): 2.0}), tmp_path))
    assert (found["terms"], found["all"]["kept"]) == ([[2.0]], 1.0)


# Pictures.


def test_a_picture_and_its_regions(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    labels = np.array([[0] * 9, [0, 1, 1, 0, 0, 2, 2, 2, -1], *([[2] * 9] * 4)])
    found = data(written(explanation(3, {(0, 1): 1.0}), tmp_path, image=rgb, regions=labels))
    picture = found["picture"]
    assert (picture["width"], picture["height"]) == (9, 6)
    kind, content = picture["image"].split(",")
    assert kind == "data:image/png;base64"
    shown = np.asarray(image.open(io.BytesIO(base64.b64decode(content))))
    np.testing.assert_array_equal(shown, rgb)
    drawn = np.full((6, 9), -1)
    for feature, path in enumerate(picture["regions"]):
        for x, y, w, h in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)h-\d+z", path):
            box = drawn[int(y) : int(y) + int(h), int(x) : int(x) + int(w)]
            assert (box == -1).all()
            box[:] = feature
    np.testing.assert_array_equal(drawn, labels)
    assert picture["regions"][2].count("M") == 2  # equal rows are one rectangle


def test_a_large_picture_is_made_smaller(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(size=(3, 700, 900)).astype(np.float32))
    page = written(explanation(9, {(0,): 1.0}), tmp_path, image=noise, regions=(3, 3))
    assert len(page.encode()) < 1_000_000
    found = data(page)["picture"]
    assert max(found["width"], found["height"]) <= 256
    owner, _ = pixel_owners("", (3, 3), (700, 900))
    assert len(found["regions"]) == owner.max() + 1 == 9
    assert all(path.count("M") == 1 for path in found["regions"])


# What is refused.


@pytest.mark.parametrize(
    ("ex", "options", "message"),
    [
        (explanation(4, {(0,): 1.0}, r2=float("nan")), {}, "report.r2 must be finite, got nan"),
        (
            explanation(4, {(0,): 1.0}, seconds={"fit": float("inf")}),
            {},
            "report.seconds.fit must be finite, got inf",
        ),
        (explanation(4, {(0,): 1e200}), {}, "values must be finite, got coefficients .* 1e.200"),
        (explanation(4, {(0,): 1.0}), {"index": "SVI"}, "index must be one of .* mean SV?"),
        (explanation(4, {(0,): 1.0}), {"order": 0}, "order must be an integer >= 1, got 0"),
        (explanation(9, {(0,): 1.0}), {"order": 6}, "to_html: order must be at most the degree"),
        (explanation(4, {(0,): 1.0}), {"image": np.zeros((4, 4))}, "must come together"),
        (explanation(4, {(0,): 1.0}), {"regions": (2, 2)}, "must come together"),
    ],
)
def test_bad_input(ex: Explanation, options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ex.to_html(tmp_path / "page.html", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("image", "regions", "message"),
    [
        (np.zeros(4), (2, 2), r"image must have shape \(H, W\), .* got \(4,\)"),
        (np.zeros((4, 4, 2)), (2, 2), "image must have shape"),
        (np.full((4, 4), np.nan), (2, 2), "image must be finite, got NaN or infinity"),
        (np.zeros((4, 4)), (2, 3), "regions must be as many as the 4 features, got 6"),
        (np.zeros((4, 4)), (2, 5), "across must be an integer >= 1 and <= 4, got 5"),
        (np.zeros((4, 4)), np.zeros((3, 3), int), r"regions must have the image's shape \(4, 4\)"),
        (np.array([["a"]]), (1, 1), "image must be of numbers"),
    ],
)
def test_bad_pictures(image: np.ndarray, regions: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"to_html: {message}"):
        explanation(4, {(0,): 1.0}).to_html(tmp_path / "p.html", image=image, regions=regions)


def test_regions_with_too_many_edges(tmp_path: Path) -> None:
    chequers = np.indices((256, 256)).sum(0) % 2
    ex = explanation(2, {(0,): 1.0})
    with pytest.raises(ValueError, match="to_html: regions must have smoother edges"):
        ex.to_html(tmp_path / "page.html", image=np.zeros((256, 256)), regions=chequers)


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        explanation(4, {}).to_html(tmp_path / "missing" / "page.html")


# The command.


def test_spex_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ex = explanation(4, {(0, 2): 0.25, (1,): 1.0})
    ex.save(tmp_path / "run.npz")
    out = tmp_path / "out.html"
    command = ["report", str(tmp_path / "run.npz"), "--html", str(out), "--index", "BII"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "-2.0000  word1  [1]\n  +1.0000  word0 × word2  [0, 2]" in printed
    assert f"{ex.report}" in printed
    assert f"page: {out}" in printed
    assert data(out.read_text(encoding="utf-8"))["title"] == "run"
    assert cli.main(["report", str(tmp_path / "run.npz"), "--top", "1"]) == 0
    assert "word0" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.npz"], "No such file"),
        (["run.npz", "--index", "SVI"], "index must be one of"),
        (["run.npz", "--html", "/no/such/folder/page.html"], "--html must be in a writable folder"),
        (["run.npz", "--top", "-1"], "--top must be an integer >= 0"),
    ],
)
def test_spex_report_refuses(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    explanation(4, {}).save("run.npz")
    assert cli.main(["report", *options]) == 2
    assert re.fullmatch(f"spex: error: .*{message}.*\n", capsys.readouterr().err)


def test_a_page_of_a_real_run(tmp_path: Path) -> None:
    ex = spex_core.proxyspex(lambda x: x[:, 0] - 2.0 * (x[:, 1] & x[:, 4]), n=20, budget=300)
    found = data(written(ex, tmp_path))
    assert len(found["terms"]) == ex.report.terms
