"""What masks that share their first features cost in accuracy and save in tokens.

    SPEX_GAMES=shared/games python bench/bench_prefix.py       # six CPU minutes

1. SPEX, the real decoder: independent hash columns against staircases, the same budget, on planted
   functions of 20, 10 and 5 dB whose terms lie anywhere, in the first or in the second half of the
   features (where the first columns of a staircase are zero, or all there is), at 0.4, 1 and 1.5
   terms a bin; and on real games.
2. ProxySPEX: branching samples against independent ones at the same number of masks, and at the
   same number of tokens, where branching affords more masks.

R2 is on new uniform masks against values without noise. `tokens` are the tokens that a decoder
computes where each feature has one and a prefix that masks share is computed once, all masks sorted
in one run; `saved` is their share of separate forward passes that falls away.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import games
import numpy as np
import torch
from harness import Row, mean, table, write
from synthetic import Planted, accuracy, hierarchical, planted

from spex_core import masks as bits
from spex_core import ops
from spex_core.budget import least_budget, plan_spex, plan_uniform
from spex_core.plan import SamplingPlan
from spex_core.planner import distinct
from spex_core.proxyspex import proxyspex
from spex_core.spex import spex

DEGREE = 5
PROFILES = {"none": False, "0.5": (0.5,), "0.5, 0.25": (0.5, 0.25), "0.75, 0.5": (0.75, 0.5)}
LOADS = [0.4, 1.0, 1.5]  # terms a bin
LEVELS = [20.0, 10.0, 5.0]  # dB
SEEDS = 5
TEST = 4000  # masks
SIZES = [(128, 8), (64, 6)]  # n, b
GAMES = {  # b for SPEX
    "sentiment_distilbert_n14_01": 4,
    "vit_patches_n16_07": 6,
    "realestate_tabpfn_n15_01": 5,
    "bc_rf_n30_row0": 6,
    "bc_lgbm_n30_row20": 6,
    "digits_lgbm_n64_img3": 7,
    "digits_mlp_n64_img3": 7,
    "digits_knn5_datapoints_n200": 7,
    "digits_ridge_datapoints_n256": 7,
    "licence_types_lgbm_n500_gpl": 7,
    "licence_words_mlp_n500_gpl": 7,
}
SAMPLES = {"planted": 2000, "game": 2000}  # of ProxySPEX, the fewer of two numbers

Function = Callable[[np.ndarray], np.ndarray]


def placed(n: int, terms: int, snr: float | None, where: str, seed: int) -> Planted:
    """planted(), its terms anywhere, or among the first or the second half of the features."""
    if where == "anywhere":
        return planted(n, terms, DEGREE, snr=snr, seed=seed)
    half = planted(n // 2, terms, DEGREE, snr=snr, seed=seed)
    first = 0 if where == "first half" else n - n // 2
    moved = {tuple(j + first for j in k): coef for k, coef in half.terms.items()}
    return Planted(n, moved, half.sigma, half.noise)


def tokens(plan: SamplingPlan) -> tuple[int, int]:
    """Feature tokens of all distinct masks, in separate passes and in one trie.

    A mask shares with the one before it in sorted order what both keep before they first differ.
    """
    masks = plan.masks(0, plan.total)
    first, _ = distinct(masks)
    dense = bits.unpack(masks[torch.from_numpy(first)], plan.n)
    differ = (dense[1:] != dense[:-1]).argmax(1)
    shared = (dense[1:] & (np.arange(plan.n) < differ[:, None])).sum()
    return int(dense.sum()), int(dense.sum() - shared)


def test_masks(n: int) -> tuple[torch.Tensor, np.ndarray]:
    packed = ops.uniform_masks(TEST, n, seed=2**41)
    return packed, bits.unpack(packed, n)


# ---- SPEX ----------------------------------------------------------------------------------------


def spex_planted(n: int, b: int) -> Iterator[Row]:
    budget = least_budget(n, DEGREE, b)
    for load in LOADS:
        for snr in LEVELS:
            for where in ("anywhere", "first half", "second half"):
                case = {"n": n, "b": b, "terms": int(load * 2**b), "snr": snr, "where": where}
                for name, profile in PROFILES.items():
                    runs = []
                    for seed in range(SEEDS):
                        f = placed(n, case["terms"], snr, where, seed)
                        found = spex(f, n, budget=budget, seed=seed, prefix_sharing=profile)
                        got = dict(found.transform.to_dict())
                        runs.append(accuracy(f.terms, got))
                    yield case | {"profile": name} | mean(runs)


def spex_games() -> Iterator[Row]:
    here = set(games.names())
    for game, b in GAMES.items():
        if game not in here:
            continue
        n, f = games.load(game)
        budget = least_budget(n, DEGREE, b)
        test, dense = test_masks(n)
        truth = f(dense)
        for name, profile in PROFILES.items():
            runs = []
            for seed in range(SEEDS):
                found = spex(f, n, budget=budget, seed=seed, prefix_sharing=profile)
                score = found.transform.score(test, truth)
                runs.append({"r2": score, "r2_reported": found.report.r2})
            yield {"game": game, "n": n, "b": b, "profile": name} | mean(runs)


def spex_tokens() -> Iterator[Row]:
    for n, b in [(64, 8), (128, 8), (256, 8), (1024, 6)]:
        for name, profile in PROFILES.items():
            plan = plan_spex(n, least_budget(n, DEGREE, b), prefix_sharing=profile)
            separate, trie = tokens(plan)
            yield {"n": n, "b": b, "profile": name, "masks": plan.total, "separate": separate} | {
                "trie": trie,
                "saved": 1 - trie / separate,
            }


def by_profile(rows: list[Row], keys: tuple[str, ...]) -> list[Row]:
    """The mean R2 of each profile over the rows that agree on `keys`, and the worst loss."""
    found = []
    plain = {case_of(row): row for row in rows if row["profile"] == "none"}
    for values in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
        out: Row = dict(zip(keys, values, strict=True))
        chosen = [row for row in rows if tuple(row[k] for k in keys) == values]
        for name in PROFILES:
            own = [row for row in chosen if row["profile"] == name]
            out[name] = statistics.mean(max(row["r2"], 0.0) for row in own)
            out[f"{name}: worst loss"] = max(
                max(plain[case_of(row)]["r2"], 0.0) - max(row["r2"], 0.0) for row in own
            )
        found.append(out)
    return found


def case_of(row: Row) -> tuple:
    return tuple(row.get(key) for key in ("game", "n", "b", "terms", "snr", "where"))


# ---- ProxySPEX -----------------------------------------------------------------------------------


def equal_tokens(n: int, fewest: int) -> int:
    """How many branching masks cost as many tokens in a trie as `fewest` independent ones."""
    _, least = tokens(plan_uniform(n, fewest))
    low, high = fewest, 4 * fewest
    while high - low > 8:
        middle = (low + high) // 2
        _, cost = tokens(plan_uniform(n, middle, prefix_sharing=True))
        low, high = (middle, high) if cost <= least else (low, middle)
    return low


def proxy_cases() -> Iterator[tuple[str, int, Callable[[int], tuple[Function, Function]]]]:
    """Name, n, seed -> the function with noise and without."""
    for n in (64, 128):
        for make in (planted, hierarchical):
            for snr in (None, 10.0):

                def build(seed: int, make=make, n=n, snr=snr) -> tuple[Function, Function]:
                    f = make(n, 60, DEGREE, snr=snr, seed=seed)
                    return f, f.clean

                yield f"{make.__name__} n={n} snr={snr}", n, build
    here = set(games.names())
    for game in GAMES:
        if game in here and (loaded := games.load(game))[0] >= 30:
            n, f = loaded
            yield game, n, partial(lambda f, seed: (f, f), f)


def proxy() -> Iterator[Row]:
    for name, n, build in proxy_cases():
        count = SAMPLES["planted" if "snr" in name else "game"]
        more = equal_tokens(n, count)
        test, dense = test_masks(n)
        runs = []
        for seed in range(SEEDS):
            noisy, clean = build(seed)
            truth = clean(dense)
            row: Row = {}
            for label, budget, branching in (
                ("independent", count, False),
                ("branching, as many masks", count, True),
                ("branching, as many tokens", more, True),
            ):
                found = proxyspex(noisy, n, budget=budget, seed=seed, prefix_sharing=branching)
                row[label] = found.transform.score(test, truth)
                row[f"{label}: reported"] = found.report.r2
            runs.append(row)
        yield {"case": name, "n": n, "masks": count, "more": more} | mean(runs)


def main() -> None:
    torch.set_num_threads(1)
    saved = list(spex_tokens())
    table(saved, "tokens of SPEX plans")
    rows = [row for n, b in SIZES for row in spex_planted(n, b)]
    places = by_profile(rows, ("n", "where", "snr"))
    table(places, f"SPEX on planted functions: R2, mean of {SEEDS} seeds and of the loads {LOADS}")
    loads = by_profile(rows, ("n", "where", "terms"))
    table(loads, "the same by load")
    real = list(spex_games())
    table(by_profile(real, ("game",)), f"SPEX on games: R2, mean of {SEEDS} seeds")
    branching = list(proxy())
    table(branching, f"ProxySPEX: R2, mean of {SEEDS} seeds")
    if not games.names():
        print(f"games skipped: no folder {games.FOLDER}; name it in SPEX_GAMES")
    write(
        *("prefix", rows),
        tokens=saved,
        by_place=places,
        by_load=loads,
        games=real,
        by_game=by_profile(real, ("game",)),
        proxyspex=branching,
    )


if __name__ == "__main__":
    main()
