"""Interaction indices from Fourier terms: ours against the way of the public packages.

    python bench/bench_indices.py    # writes results/indices.json

`shapiq` is the public code, where it is importable: sparse_transform's fourier_to_mobius (2**|k|
subsets of every term) and shapiq's MoebiusConverter. The first has no limit of order, so a user of
it waits for all of them; the second lacks BII. `dict`, on few terms and where there is no public
one, is the same way written as plainly and quickly as Python allows, Moebius itself to the order
asked only.

Ours as `interactions` returns it, a dict sorted by magnitude, and as arrays. Everything runs on one
thread; seconds are of the CPU, the best of interleaved rounds. No time is kept of a wrong answer.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
from collections.abc import Callable
from math import comb

import numpy as np
import torch
from harness import Row, Stopwatch, table, write

from spex_core.indices import interaction_arrays, interactions
from spex_core.transform import SparseTransform

try:
    import shapiq
    from shapiq.game_theory.moebius_converter import MoebiusConverter
    from sparse_transform.qsft.utils.general import fourier_to_mobius
except ImportError:
    shapiq = None

NAMES = ("Moebius", "BII", "SII", "STII", "FBII", "FSII")
# n, terms, largest order of a term, order asked, rounds against the rivals
CASES = [
    (1024, 100, 5, 5, 5),
    (1024, 1000, 5, 2, 2),
    (1000, 10_000, 8, 3, 1),
]
ROUNDS = 9  # of ours alone

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


@functools.cache
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
    moebius = fourier_to_mobius(terms)
    if name == "Moebius":
        return moebius
    values = shapiq.InteractionValues(
        np.array(list(moebius.values())),
        index="Moebius",
        max_order=max(map(len, terms)),
        min_order=0,
        n_players=1 + max(max(t, default=0) for t in terms),
        interaction_lookup={key: i for i, key in enumerate(moebius)},
        baseline_value=moebius.get((), 0.0),
    )
    found = MoebiusConverter(values)(index=name, order=order)
    numbers = found.values.tolist()  # an array that is made when it is asked for
    return {s: numbers[i] for s, i in found.interaction_lookup.items()}


def worst_difference(ours: Terms, theirs: Terms, order: int) -> float:
    """The largest difference over the sets of one to `order` features in either."""
    keys = {s for s in ours.keys() | theirs.keys() if 0 < len(s) <= order}
    return max(abs(ours.get(s, 0.0) - theirs.get(s, 0.0)) for s in keys)


def measure(case: tuple[int, int, int, int, int], name: str) -> Row:
    n, count, degree, order, rounds = case
    terms = random_terms(n, count, degree)
    transform = SparseTransform.from_dict(n, terms)
    best: dict[str, float] = {}

    def timed(who: str, run: Callable) -> Terms:
        watch = Stopwatch()
        with watch(who):
            found = run()
        best[who] = min(best.get(who, np.inf), watch.spent[who])
        return found

    rivals = {"shapiq": by_shapiq} if shapiq and name != "BII" else {}
    if count <= 1000 or not rivals:
        rivals["dict"] = by_dict
    errors = {}
    for i in range(max(rounds, ROUNDS)):
        timed("arrays", lambda: interaction_arrays(transform, name, order))
        ours = timed("ours", lambda: interactions(transform, name, order))
        for who, rival in rivals.items() if i < rounds else ():
            theirs = timed(who, functools.partial(rival, terms, name, order))
            errors[who] = worst_difference(ours, theirs, order)
            if not errors[who] < 1e-8:  # a NaN fails too
                raise AssertionError(f"{name}, {who}: answers differ by {errors[who]}")
    row = {"n": n, "terms": count, "degree": degree, "order": order, "index": name}
    row |= {"sets": len(ours) - 1, "ms": 1e3 * best["ours"], "arrays ms": 1e3 * best["arrays"]}
    for who in rivals:
        row |= {f"{who} ms": 1e3 * best[who], f"over {who}": best[who] / best["ours"]}
        row |= {f"arrays over {who}": best[who] / best["arrays"]}
    return row | {"difference": max(errors.values())}


def main() -> None:
    torch.set_num_threads(1)
    rows = [measure(case, name) for case in CASES for name in NAMES]
    table(rows, "Fourier terms to index, one thread")
    write("indices", rows, shapiq=importlib.metadata.version("shapiq") if shapiq else None)


if __name__ == "__main__":
    main()
