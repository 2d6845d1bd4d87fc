"""Interaction indices from Fourier terms: ours against the way of the public packages.

    python bench/bench_indices.py            # prints the table, writes bench/results/indices.json

The rivals go from Fourier to Moebius coefficients (2**|k| subsets of every term) and from those to
the index, in dictionaries of tuples: `dict`, written here as plainly and quickly as Python allows,
and, where it is importable, shapiq's MoebiusConverter, on up to 1,000 terms (on 10,000 it takes
minutes) and not for BII, which it lacks. No time is kept of a wrong
answer. Each round runs ours and a rival in turn; a ratio is the median over the rounds, our seconds
the best. All run on one thread, and seconds are of the CPU.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import torch

from spex_core.indices import interactions
from spex_core.transform import SparseTransform

try:
    import shapiq
except ImportError:
    shapiq = None

RESULTS = Path(__file__).parent / "results" / "indices.json"
NAMES = ("Moebius", "BII", "SII", "STII", "FBII", "FSII")
# n, terms, largest order of a term, order asked, rounds against the rivals
CASES = [
    (1024, 100, 5, 5, 25),
    (1024, 1000, 5, 2, 3),
    (1000, 5000, 5, 5, 2),
    (1000, 10_000, 8, 3, 1),
]
ROUNDS = 9  # of ours alone, for its own seconds

Terms = dict[tuple[int, ...], float]


def random_terms(n: int, count: int, degree: int) -> Terms:
    """`count` distinct terms of orders 1 to degree, equally often, with Gaussian coefficients."""
    rng = np.random.default_rng([n, count, degree])
    terms: Terms = {}
    while len(terms) < count:
        term = rng.choice(n, rng.integers(1, degree + 1), replace=False)
        terms[tuple(sorted(term.tolist()))] = float(rng.normal())
    return terms


def add(out: Terms, key: tuple[int, ...], value: float) -> None:
    out[key] = out.get(key, 0.0) + value


def subsets(term: tuple[int, ...], most: int) -> itertools.chain[tuple[int, ...]]:
    sizes = range(min(len(term), most) + 1)
    return itertools.chain.from_iterable(itertools.combinations(term, s) for s in sizes)


def by_dict(terms: Terms, name: str, order: int) -> Terms:
    """Fourier -> Moebius -> index, one subset at a time; largest first, as ours."""
    moebius: Terms = {}
    most = order if name == "Moebius" else max(map(len, terms))
    for term, coef in terms.items():
        for s in subsets(term, most):
            add(moebius, s, coef * (-2.0) ** len(s))
    out: Terms = moebius if name == "Moebius" else {}
    for t, a in moebius.items() if name != "Moebius" else ():
        for s in subsets(t, order):
            if weight := share(name, len(s), len(t), order):
                add(out, s, a * weight)
    return dict(sorted(out.items(), key=lambda item: -abs(item[1])))


def share(name: str, s: int, t: int, order: int) -> float:
    """The share of a Moebius coefficient of size t that a subset of size s gets."""
    if name == "BII":
        return 2.0 ** (s - t)
    if name == "SII":
        return 1 / (t - s + 1)
    if s == t <= order:
        return 1.0
    if name == "STII":
        return 1 / comb(t, order) if s == order else 0.0
    if t <= order:
        return 0.0
    if name == "FBII":
        return (-1) ** (order - s) * 2.0 ** (s - t) * comb(t - s - 1, order - s)
    scale = (-1) ** (order - s) * s / (order + s) * comb(order, s)
    return scale * comb(t - 1, order) / comb(t + order - 1, order + s)


def by_shapiq(terms: Terms, name: str, order: int) -> Terms:
    """shapiq's own conversion, with the Moebius step of its SPEX."""
    from shapiq.game_theory.moebius_converter import MoebiusConverter
    from sparse_transform.qsft.utils.general import fourier_to_mobius

    moebius = fourier_to_mobius(terms)
    values = shapiq.InteractionValues(
        np.array(list(moebius.values())),
        index="Moebius",
        max_order=max(map(len, terms)),
        min_order=0,
        n_players=1 + max(max(t, default=0) for t in terms),
        interaction_lookup={key: i for i, key in enumerate(moebius)},
        baseline_value=moebius.get((), 0.0),
    )
    found = values if name == "Moebius" else MoebiusConverter(values)(index=name, order=order)
    lookup = found.interaction_lookup.items()
    return {s: float(found.values[i]) for s, i in lookup if len(s) <= order}


def worst_difference(ours: Terms, theirs: Terms) -> float:
    """The largest difference over the sets of one feature and more in either."""
    keys = (ours.keys() | theirs.keys()) - {()}
    return max(abs(ours.get(s, 0.0) - theirs.get(s, 0.0)) for s in keys)


def seconds(run: Callable[[], Terms]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(case: tuple[int, int, int, int, int], name: str) -> dict[str, object]:
    n, count, degree, order, rounds = case
    terms = random_terms(n, count, degree)
    transform = SparseTransform.from_dict(n, terms)
    rivals = {"dict": by_dict}
    if shapiq and name != "BII" and count <= 1000:
        rivals["shapiq"] = by_shapiq
    answer = interactions(transform, name, order)
    times: dict[str, list[float]] = {who: [] for who in rivals}
    mine, errors = [], {}
    for _ in range(rounds):
        for who, rival in rivals.items():
            mine.append(seconds(lambda: interactions(transform, name, order)))
            start = time.process_time()
            theirs = rival(terms, name, order)
            times[who].append((time.process_time() - start) / mine[-1])
            errors[who] = worst_difference(answer, theirs)
            if not errors[who] < 1e-8:  # a NaN fails too
                raise AssertionError(f"{name}, {who}: answers differ by {errors[who]}")
    mine += [seconds(lambda: interactions(transform, name, order)) for _ in range(ROUNDS)]
    return {
        "n": n,
        "terms": count,
        "term_orders": f"1..{degree}",
        "order": order,
        "index": name,
        "sets": len(answer) - 1,
        "best_seconds": round(min(mine), 5),
    } | {
        f"{key}_{who}": value
        for who in rivals
        for key, value in (
            ("times_faster_than", round(statistics.median(times[who]), 1)),
            ("max_difference_to", errors[who]),
        )
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        for name in NAMES:
            rows.append(measure(case, name))
            print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    about = {
        "what": "Fourier terms to index, one thread; times_faster_than = rival / ours",
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "shapiq": importlib.metadata.version("shapiq") if shapiq else None,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
