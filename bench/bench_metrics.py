"""The measures of faithfulness against the same by plain calls and by Python sets.

    python bench/bench_metrics.py            # prints the table, writes bench/results/metrics.json

r2_by_sparsity against a truncate and a score for each sparsity; energy_split against a loop over
terms. Seconds are CPU seconds, the best of interleaved rounds. No time is kept of a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from harness import Row, Stopwatch, table, write
from synthetic import planted

import spex_core as spex
from spex_core.transform import SparseTransform

N, TERMS, SAMPLES, ROUNDS = 1000, 10_000, 5000, 3
SPARSITIES = [0, 10, 30, 100, 300, 1000, 3000, 10_000]
LAYERS = [j // 32 for j in range(N)]


def one_by_one(transform: SparseTransform, masks: np.ndarray, values: np.ndarray) -> dict:
    return {k: transform.truncate(k).score(masks, values) for k in SPARSITIES}


def split_by_loop(transform: SparseTransform) -> dict[str, float]:
    energy = {"linear": 0.0, "within": 0.0, "across": 0.0}
    for term, coef in transform.to_dict().items():
        labels = {LAYERS[j] for j in term}
        kind = "linear" if len(term) == 1 else "within" if len(labels) == 1 else "across"
        energy[kind] += coef**2 if term else 0.0
    total = sum(energy.values())
    return {kind: value / total for kind, value in energy.items()}


def race(name: str, ours: Callable[[], dict], rival: Callable[[], dict]) -> Row:
    best = {"ours": np.inf, "rival": np.inf}
    for _ in range(ROUNDS):
        for who, run in (("ours", ours), ("rival", rival)):
            watch = Stopwatch()
            with watch(who):
                answer = run()
            best[who] = min(best[who], watch.spent[who])
            if who == "ours":
                kept = answer
        error = max(abs(kept[key] - answer[key]) for key in answer)
        if not error < 1e-9:
            raise AssertionError(f"{name}: answers differ by {error}")
    return {
        "measure": name,
        "seconds": best["ours"],
        "times_faster": best["rival"] / best["ours"],
        "difference": error,
    }


def main() -> None:
    torch.set_num_threads(1)
    f = planted(N, TERMS, 5)
    transform = SparseTransform.from_dict(N, f.terms)
    rng = np.random.default_rng(0)
    masks = rng.random((SAMPLES, N)) < 0.5
    values = transform.predict(masks) + rng.normal(size=SAMPLES)
    rows = [
        race(
            f"r2_by_sparsity, {len(SPARSITIES)} of them",
            lambda: spex.r2_by_sparsity(transform, masks, values, SPARSITIES),
            lambda: one_by_one(transform, masks, values),
        ),
        race(
            "energy_split",
            lambda: spex.energy_split(transform, LAYERS),
            lambda: split_by_loop(transform),
        ),
    ]
    table(rows, f"n = {N}, {TERMS} terms, {SAMPLES} masks")
    write("metrics", rows, n=N, terms=TERMS, samples=SAMPLES)


if __name__ == "__main__":
    main()
