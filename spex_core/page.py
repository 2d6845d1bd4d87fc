"""An explanation as one HTML page that needs no network: the data here, all that is seen in
`templates/`.

The page holds the Fourier terms and the weights of the indices (weights.py), and sums them itself
for the index and the order that its reader chooses.
"""

from __future__ import annotations

import base64
import html
import json
import math
import string
import struct
import zlib
from itertools import pairwise
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from .errors import check
from .masks import members, unpack_sets
from .picture import Picture
from .transform import SparseTransform
from .weights import INDICES

MOST_BYTES = 950_000  # of a page
MOST_FEATURES = 2000  # that it shows
MOST_SETS = 400_000  # that it sums over, which bounds the order
MOST_ORDER = 4
TEMPLATES = Path(__file__).with_name("templates")
SCRIPTS = ("spectrum.js", "features.js", "arcs.js", "table.js", "report.js", "page.js")

# What a value says, in a line under the choice of the index.
ABOUT = {
    "FBII": "Faith-Banzhaf: the coefficients of the best polynomial of this order, all masks alike",
    "Fourier": "the Fourier coefficients themselves, in the parity basis",
    "BV": "Banzhaf values: the effect of a feature, averaged over all masks",
    "BII": "Banzhaf interactions: the joint effect of a set, averaged over all masks",
    "SV": "Shapley values: the effect of a feature, averaged over random orders",
    "SII": "Shapley interactions: the joint effect of a set, averaged over random orders",
    "k-SII": "n-Shapley: Shapley interactions that add up to the output",
    "STII": "Shapley-Taylor: interactions that add up to the output",
    "FSII": "Faith-Shap: the best polynomial of this order under Shapley weights",
    "Moebius": "AND: what a set adds where nothing else is present",
    "Co-Moebius": "what a set adds where all else is present",
    "OR": "what is there as soon as one feature of the set is",
    "Influence": "the share of the variance that all terms with this set hold",
}


def page(
    transform: SparseTransform,
    features: tuple[str, ...],
    report: dict[str, Any],
    *,
    title: str,
    index: str,
    order: int,
    picture: Picture | None = None,
) -> str:
    """The page, as Explanation.to_html writes it; `report` is its report as a dict.

    Raises: ValueError for a number that is not finite.
    """
    _check_finite(report, "report")
    _check_sums(transform)
    shown = _shown(transform)
    data = {
        "title": title,
        "features": _short([features[j] for j in shown]),
        "report": report,
        "about": ABOUT,
        "index": index,
        "order": order,
        "picture": None if picture is None else _drawn(picture, shown),
    }
    spare = MOST_BYTES - len(_json(data).encode()) - _template_bytes()
    terms, kept = _terms(transform, shown, spare)
    most = max(order, _most_order(transform, report["degree"]))
    data |= {"weights": _weights(transform.degree, most), "terms": terms}
    data["all"] = {"features": transform.n, "terms": len(transform), "kept": kept}
    return string.Template(_template("page.html")).substitute(
        title=html.escape(title),
        style=_template("page.css"),
        script="\n".join(map(_template, SCRIPTS)),
        data=_json(data),
    )


# ---- The spectrum --------------------------------------------------------------------------------


def _shown(transform: SparseTransform) -> np.ndarray:
    """The features of the page, ascending: all, or those in whose terms the most variance is."""
    if transform.n <= MOST_FEATURES:
        return np.arange(transform.n)
    rows, features = members(transform.support)
    energy = np.bincount(features, transform.coefs.numpy()[rows] ** 2, transform.n)
    return np.sort(np.argsort(-energy, kind="stable")[:MOST_FEATURES])


def _terms(
    transform: SparseTransform, shown: np.ndarray, spare: int
) -> tuple[list[list[float]], float]:
    """The terms as [coefficient, *features shown], the largest that fit into `spare` bytes, in the
    order of the transform; and the share of the variance that they hold."""
    at = {feature: i for i, feature in enumerate(shown.tolist())}
    sets, coefs = unpack_sets(transform.support), transform.coefs.tolist()
    there = [row for row, set_ in enumerate(sets) if all(j in at for j in set_)]
    lines = {row: [coefs[row], *(at[j] for j in sets[row])] for row in there}
    kept, size = [], 0
    for row in sorted(there, key=lambda row: (len(sets[row]) > 0, -abs(coefs[row]))):
        size += len(_json(lines[row])) + 1
        if size > spare:
            break
        kept.append(row)
    energy = np.square(transform.coefs.numpy()) * (transform.orders > 0)
    share = energy[kept].sum() / energy.sum() if energy.any() else 1.0
    return [lines[row] for row in sorted(kept)], float(share)


def _most_order(transform: SparseTransform, degree: int) -> int:
    """The largest order whose sets a browser sums in a moment."""
    sizes, counts = np.unique(transform.orders, return_counts=True)
    sets, order = 0, 0
    while order < min(MOST_ORDER, degree, transform.n):
        sets += sum(comb(int(d), order + 1) * int(c) for d, c in zip(sizes, counts, strict=True))
        if sets > MOST_SETS:
            break
        order += 1
    return max(order, 1)


def _weights(degree: int, most: int) -> dict[str, list[list[list[float]]]]:
    """index -> for each order from 1 on -> w(s, d), for s from 0 to the order, d from 0."""
    return {
        name: [
            [
                [float(INDICES[name](s, d, order)) if d >= s else 0.0 for d in range(degree + 1)]
                for s in range(order + 1)
            ]
            for order in range(1, 1 + (1 if name in ("SV", "BV") else most))
        ]
        for name in ABOUT
    }


# ---- Names, numbers, pictures --------------------------------------------------------------------


def _short(names: list[str]) -> list[str]:
    """The names, each cut where together they would take too much of the page."""
    size = sum(len(name.encode(errors="replace")) for name in names)
    if size <= MOST_BYTES // 2:
        return names
    most = max(MOST_BYTES // (8 * len(names)), 8)  # a character takes up to 4 bytes
    return [name if len(name) <= most else name[: most - 1] + "…" for name in names]


def _json(data: Any) -> str:
    """JSON that can stand within <script>: no tag begins or ends in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _check_finite(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_finite(item, f"{where}.{key}")
    elif isinstance(value, float):
        check(math.isfinite(value), "to_html: {} must be finite, got {}", where, value)


def _check_sums(transform: SparseTransform) -> None:
    """No index of these coefficients overflows."""
    size = np.abs(transform.coefs.numpy())
    with np.errstate(over="ignore"):
        most = 2.0**MOST_ORDER * size.sum(), np.square(size).sum()
    check(
        bool(np.isfinite(most).all()),
        "to_html: values must be finite, got coefficients as large as {:g}",
        size.max(initial=0.0),
    )


def _drawn(picture: Picture, shown: np.ndarray) -> dict[str, Any]:
    """The picture as a data URL, and each region as the path of an SVG."""
    down, across = picture.owner.shape
    image = f"data:image/png;base64,{base64.b64encode(_png(picture.rgb)).decode()}"
    paths = _paths(picture.owner, shown)
    size = sum(map(len, paths))
    check(
        size <= MOST_BYTES // 4,
        "to_html: regions must have smoother edges: they take {:,} bytes of the page",
        size,
    )
    return {"width": across, "height": down, "image": image, "regions": paths}


def _png(rgb: np.ndarray) -> bytes:  # (H, W, 3)
    """A PNG file of 8-bit colours."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check_sum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check_sum)

    down, across, _ = rgb.shape
    lines = np.concatenate([np.zeros((down, 1), np.uint8), rgb.reshape(down, -1)], axis=1)
    head = struct.pack(">IIBBBBB", across, down, 8, 2, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 9)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", body), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _paths(owner: np.ndarray, shown: np.ndarray) -> list[str]:
    """Each feature's pixels as rectangles: a run in a row, and as many rows as have it too."""
    boxes: dict[int, list[str]] = {feature: [] for feature in shown.tolist()}
    open_: dict[tuple[int, int, int], int] = {}  # (feature, left, right) -> its first row
    for y in range(len(owner) + 1):
        runs = set(_runs(owner[y])) if y < len(owner) else set()
        for run in sorted(open_.keys() - runs):
            feature, left, right = run
            top = open_.pop(run)
            if feature in boxes:
                boxes[feature].append(f"M{left} {top}h{right - left}v{y - top}h{left - right}z")
        for run in runs - open_.keys():
            open_[run] = y
    return ["".join(parts) for parts in boxes.values()]


def _runs(row: np.ndarray) -> list[tuple[int, int, int]]:
    """The runs of equal values: (value, first, end)."""
    cuts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
    return [(int(row[a]), a, b) for a, b in pairwise(cuts)]


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _template_bytes() -> int:
    return sum(len(_template(name).encode()) for name in ("page.html", "page.css", *SCRIPTS))
