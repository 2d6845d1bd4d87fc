"""What the samples left over between two powers of two should buy: the bench behind plan_spex.

    SPEX_GAMES=shared/games python bench/bench_budget.py       # about seven minutes

Three groups of 2**b bins at all P delays of the code take 3 P 2**b masks; the next b takes twice
that. Each policy gets the same number of distinct masks, 1.33, 1.6 or 1.67 times that, and spends
it in the order of its name; whatever it has left over buys uniform masks, which only the refit can
use:

    uniform          nothing else
    delays           further uniform delays
    groups           a fourth and fifth group
    groups, delays   those, then further delays
    code             the delays of the code of the largest t that fits, though only sets of the
                     degree are looked for, then further uniform delays: what plan_spex does
    two groups       two groups of 2**(b + 1) bins instead of three, then further delays

On planted spectra, sparse and with a dense tail (2,000 terms, |F| falling as rank**-0.8), and on
real games where their folder is present (games.py). R2 on masks not in the plan, against the
values without noise; mean over seeds. `base` is the R2 of the 3 P 2**b masks alone.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator

import games
import numpy as np
import torch
from harness import Row, table, unseen_masks, write
from synthetic import planted

from spex_core import masks as bits
from spex_core import ops
from spex_core.budget import GROUPS, MAX_DELAYS, aliased_plan
from spex_core.codes import MAX_T, bch_code
from spex_core.evaluate import evaluate
from spex_core.plan import SamplingPlan
from spex_core.spex import fit_plan

DEGREE = 5
FACTORS = [4 / 3, 1.6, 5 / 3]
POLICIES = ["uniform", "delays", "groups", "groups, delays", "code", "two groups"]
SEEDS = 3
TEST = 4000  # masks

PLANTED = [(64, 6, 30), (256, 7, 60)]  # n, b, large terms
LEVELS = [None, 10.0, 0.0]  # dB
TAIL = 2000
GAMES = [  # name, b
    ("sentiment_distilbert_n14_01", 4),
    ("sentiment_distilbert_n14_07", 5),
    ("resnet18_superpixels_n14_01", 4),
    ("adult_featsel_rf_n14_01", 5),
    ("bike_datasetvaluation_dt_n14_01", 5),
    ("california_datavaluation_rf_n15_01", 5),
    ("realestate_tabpfn_n15_01", 5),
    ("vit_patches_n16_01", 5),
    ("vit_patches_n16_07", 6),
    ("bc_rf_n30_row0", 6),
    ("bc_lgbm_n30_row20", 6),
    ("digits_lgbm_n64_img3", 6),
    ("digits_mlp_n64_img3", 5),
    ("digits_knn5_datapoints_n200", 6),
    ("digits_ridge_datapoints_n256", 4),
    ("licence_types_lgbm_n500_gpl", 6),
    ("licence_types_lgbm_n717_gfdl", 7),
    ("licence_words_mlp_n1000_apache", 6),
]

Function = Callable[[np.ndarray], np.ndarray]
Case = tuple[str, int, int, Function, float]  # name, n, b, f, standard deviation of the noise


def cases() -> Iterator[Case]:
    for n, b, terms in PLANTED:
        sparse = planted(n, terms, DEGREE).terms
        tail = planted(n, TAIL, DEGREE, seed=1).terms
        scale = np.append(1.0, np.arange(1, TAIL + 1) ** -0.8)
        tail = dict(zip(tail, np.array(list(tail.values())) * scale, strict=True))
        for kind, spectrum in (("sparse", sparse), ("tail", tail)):
            coefs = np.array(list(spectrum.values()))
            spread = np.linalg.norm(coefs[1:])
            f = series(n, list(spectrum), coefs)
            for snr in LEVELS:
                sigma = 0.0 if snr is None else spread * 10 ** (-snr / 20)
                yield f"{kind} n={n} snr={snr}", n, b, f, sigma
    here = set(games.names())
    for name, b in GAMES:
        if name in here:
            n, f = games.load(name)
            yield name, n, b, f, 0.0


def series(n: int, sets: list[tuple[int, ...]], coefs: np.ndarray) -> Function:
    support, weights = bits.pack_sets(sets, n), torch.from_numpy(coefs)
    return lambda masks: ops.parity_predict(bits.pack(masks), support, weights).numpy()


def spend(policy: str, n: int, b: int, budget: int, seed: int) -> SamplingPlan:
    """A plan of `budget` distinct masks, none held out."""
    groups, corrects, further = GROUPS, DEGREE, 0
    if policy == "two groups":
        groups, b = 2, b + 1
    if policy == "code":
        fits = (
            t for t in range(DEGREE, MAX_T + 1) if groups * bch_code(n, t).delays << b <= budget
        )
        corrects = max(fits)
    shifts = bch_code(n, corrects).delays
    if policy.startswith("groups"):
        groups = min(budget // (shifts << b), 5)
    if policy in ("delays", "groups, delays", "code", "two groups"):
        further = min(budget // (groups << b), MAX_DELAYS) - shifts
    plan = aliased_plan(
        n, b, groups=groups, degree=DEGREE, seed=seed, corrects=corrects, further=further
    )
    left = budget - len(np.unique(plan.row_keys()))
    extra = unseen_masks(plan, left, seed=seed)
    return dataclasses.replace(plan, extra=extra, budget=budget)


def r2(plan: SamplingPlan, f: Function, sigma: float, seed: int) -> float:
    """Fit the plan's values; R2 on new masks."""
    noise = np.random.default_rng([seed, 99])
    values, _ = evaluate(
        lambda x: f(x) + sigma * noise.standard_normal(len(x)), plan, batch_size=1 << 14
    )
    test = unseen_masks(plan, TEST)
    return fit_plan(plan, values).score(test, f(bits.unpack(test, plan.n)))


def measure(case: Case) -> list[Row]:
    name, n, b, f, sigma = case
    least = GROUPS * bch_code(n, DEGREE).delays << b
    base = [r2(aliased_plan(n, b, degree=DEGREE, seed=s), f, sigma, s) for s in range(SEEDS)]
    rows = []
    for factor in FACTORS:
        row: Row = {"case": name, "b": b, "factor": round(factor, 2), "base": statistics.mean(base)}
        for policy in POLICIES:
            scores = [
                r2(spend(policy, n, b, round(factor * least), s), f, sigma, s) for s in range(SEEDS)
            ]
            row[policy] = statistics.mean(scores)
        rows.append(row)
    return rows


def summary(rows: list[Row]) -> list[Row]:
    """By factor: the mean R2 of each policy, R2 below 0 counted as 0, and how often it is within
    0.002 of the best."""
    found = []
    for factor in dict.fromkeys(row["factor"] for row in rows):
        chosen = [row for row in rows if row["factor"] == factor]
        means = {p: statistics.mean(max(row[p], 0) for row in chosen) for p in POLICIES}
        best = [max(row[p] for p in POLICIES) for row in chosen]
        wins = {
            p: sum(row[p] > top - 0.002 for row, top in zip(chosen, best, strict=True))
            for p in POLICIES
        }
        found.append({"factor": factor, "what": "mean R2"} | means)
        found.append({"factor": factor, "what": f"best in, of {len(chosen)}"} | wins)
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for case in cases():
        rows += measure(case)
        table(rows[-len(FACTORS) :])
    if not games.names():
        print(f"games skipped: no folder {games.FOLDER}; name it in SPEX_GAMES")
    table(rows, f"R2, mean of {SEEDS} seeds, by what the rest of the budget buys")
    found = summary(rows)
    table(found, "summary")
    ranked = sorted(
        POLICIES, key=lambda p: -sum(row[p] for row in found if row["what"] == "mean R2")
    )
    print("best first:", " > ".join(ranked))
    write("budget", rows, summary=found, best_first=ranked)


if __name__ == "__main__":
    main()
