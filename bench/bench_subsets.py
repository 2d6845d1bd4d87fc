"""Best subsets: HiGHS on three formulations, tabu search, and brute force where it can be.

    python bench/bench_subsets.py            # prints the tables, writes bench/results/subsets.json

Spectra are recovered by ProxySPEX from real set functions; or planted, sums of products of 1 to 4
random features; or, the hard case, random parities without others inside them. `rows` has each
beside the bounds of three linear programmes: with one variable for each term's product (AND basis),
with one for each term's parity, and with the small tables that maximize uses; `bound` is what HiGHS
then proves. All are relative to the value found: 1.0 is proven best.
`brute_force` counts how often each method equals the best of all 2**n masks.
"""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import games
import numpy as np
from harness import Row, Stopwatch, in_new_process, table, write

import spex_core as spex
from spex_core.subset_milp import programme
from spex_core.subset_problem import SubsetProblem, reduce_problem
from spex_core.subset_tables import small_tables
from spex_core.transform import SparseTransform

SMALL, SPECTRA = 16, {"auto": 200, "search": 60, "milp": 8}  # features; spectra for each method
LARGE = [  # game, samples, terms
    ("bc_lgbm_n30_row0", 1000, None),
    ("minilm_cc0_n64", 1000, None),
    ("minilm_breastcancer_n128", 1500, None),
    ("digits_knn5_datapoints_n200", 2000, None),
    ("licence_types_lgbm_n500_gpl", 3000, 2000),
    ("licence_words_mlp_n500_gpl", 3000, 2000),
]
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0  # for HiGHS, each


def recovered(name: str, count: int, terms: int | None = None, seed: int = 0) -> SparseTransform:
    _, (masks, values), _ = games.samples(name, seed)
    return spex.fit(masks[:count], values[:count], terms=terms, seed=seed).transform


def random(n: int, count: int, degree: int, decay: float) -> SparseTransform:
    """Random sets, Gaussian coefficients that fall by `decay` with each order."""
    rng = np.random.default_rng([n, count, degree])
    terms: dict[tuple[int, ...], float] = {}
    while len(terms) < count:
        k = tuple(sorted(rng.choice(n, rng.integers(1, degree + 1), replace=False).tolist()))
        terms[k] = float(rng.normal()) * decay ** (len(k) - 1)
    return SparseTransform.from_dict(n, terms)


def planted(n: int, products: int, degree: int = 4) -> SparseTransform:
    """A sum of products of 1 to `degree` random features with Gaussian weights."""
    rng = np.random.default_rng([n, products, degree])
    terms: dict[tuple[int, ...], float] = {}
    for _ in range(products):
        features = sorted(rng.choice(n, rng.integers(1, degree + 1), replace=False).tolist())
        weight = float(rng.normal())
        for size in range(len(features) + 1):  # the product of all (1 - (-1)**m_i) / 2
            for k in itertools.combinations(features, size):
                terms[k] = terms.get(k, 0.0) + weight * (-1) ** size / 2 ** len(features)
    return SparseTransform.from_dict(n, terms)


def relaxed(problem: SubsetProblem, kind: str) -> float:
    """The bound of a linear programme with one variable for each term."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    terms = dict(problem.terms)
    constant = problem.constant
    if kind == "products":  # f in the AND basis
        terms = {}
        for k, coef in problem.terms.items():
            for k_ in itertools.chain.from_iterable(
                itertools.combinations(k, r) for r in range(len(k) + 1)
            ):
                terms[k_] = terms.get(k_, 0.0) + coef * (-2.0) ** len(k_)
        constant += terms.pop((), 0.0)
    cost, entries, right = [0.0] * len(problem.live), [], []

    def at_most(variables: list[int], signs: list[int], most: float) -> None:
        entries.extend((len(right), j, sign) for j, sign in zip(variables, signs, strict=True))
        right.append(most)

    for k, coef in terms.items():
        if len(k) == 1:
            cost[k[0]] += coef if kind == "products" else -2 * coef
            constant += 0.0 if kind == "products" else coef
            continue
        y = len(cost)
        if kind == "products":
            cost.append(coef)
            if coef < 0:
                at_most([*k, y], [1] * len(k) + [-1], len(k) - 1)
            for j in k if coef > 0 else ():
                at_most([y, j], [1, -1], 0)
            continue
        cost.append(-2 * coef)
        constant += coef
        for there in itertools.product((0, 1), repeat=len(k)):  # facets of the parity polytope
            if sum(there) % 2 == (coef > 0):
                own = -1 if coef > 0 else 1
                most = sum(there) - 1 if coef > 0 else sum(there)
                at_most([*k, y], [2 * x - 1 for x in there] + [own], most)
    at_most(list(range(len(problem.live))), [1] * len(problem.live), problem.most)
    row, column, sign = zip(*entries, strict=True)
    matrix = coo_array((sign, (row, column)), shape=(len(right), len(cost))).tocsr()
    found = linprog(-np.array(cost), A_ub=matrix, b_ub=right, bounds=(0, 1), method="highs")
    return constant - found.fun


def relaxed_tables(problem: SubsetProblem) -> float:
    """The bound of the programme that maximize gives to HiGHS, features free in [0, 1]."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    tables = small_tables(problem.terms, len(problem.live))
    objective, matrix, lower, upper, constant = programme(tables, problem)
    constraints = LinearConstraint(matrix, lower, upper)
    found = milp(-objective, bounds=Bounds(0, 1), constraints=constraints)
    return problem.constant + constant - found.fun


def against_bounds(name: str, transform: SparseTransform, size: int | None) -> Row:
    watch = Stopwatch()
    problem = reduce_problem(
        "bench", transform.n, transform.support, transform.coefs, (size, None, None), None
    )
    with watch("search"):
        searched = transform.maximize(size=size, method="search")
    with watch("milp"):
        best = transform.maximize(size=size, method="milp", time_limit=SECONDS)
    found = max(best.value, searched.value)
    return {
        "spectrum": name,
        "n": transform.n,
        "terms": len(transform),
        "size": size or "any",
        "value": found,
        "search": searched.value / found,
        "sum_of_tables": searched.bound / found,
        "products": relaxed(problem, "products") / found,
        "parities": relaxed(problem, "parities") / found,
        "tables": relaxed_tables(problem) / found,
        "bound": best.bound / found,
        "gap": best.gap,
        "search_s": watch.spent["search"],
        "milp_s": watch.spent["milp"] - watch.spent["search"],
    }


def against_brute_force() -> Row:
    """How often each method's value is the best of all masks, over recovered spectra."""
    small = [name for name in games.names() if games.load(name)[0] <= SMALL]
    equal, watch = dict.fromkeys(SPECTRA, 0), Stopwatch()
    for i in range(max(SPECTRA.values())):
        transform = recovered(small[i % len(small)], 150, seed=i)
        n = transform.n
        masks = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
        size = None if i % 2 else i % (n + 1)
        truth = transform.predict(masks if size is None else masks[masks.sum(1) == size]).max()
        for method, spectra in SPECTRA.items():
            if i < spectra:
                with watch(method):
                    value = transform.maximize(size=size, method=method).value
                equal[method] += bool(abs(value - truth) <= 1e-9 * abs(truth))
    return {
        method: {
            "spectra": spectra,
            "equal": equal[method],
            "seconds_each": watch.spent[method] / spectra,
        }
        for method, spectra in SPECTRA.items()
    }


def main() -> None:
    pool = ThreadPoolExecutor(1)
    counts = pool.submit(in_new_process, against_brute_force)  # on the other core
    rows = [
        against_bounds(name, transform, size)
        for name, count, terms in LARGE
        for transform in [recovered(name, count, terms)]
        for size in (None, transform.n // 4)
    ]
    rows.append(against_bounds("planted products", planted(500, 430), None))
    rows.append(against_bounds("random, decay 0.1", random(500, 2000, 4, 0.1), None))
    rows.append(against_bounds("random, decay 0.4", random(500, 2000, 4, 0.4), None))
    rows.append(against_bounds("random, no decay", random(500, 2000, 3, 1.0), None))
    brute = counts.result()
    table([{"method": method} | row for method, row in brute.items()], "equal to brute force")
    table(rows, "bounds relative to the value found; seconds of CPU")
    write("subsets", rows, brute_force=brute, seconds_allowed=SECONDS)


if __name__ == "__main__":
    main()
