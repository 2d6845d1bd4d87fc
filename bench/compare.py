"""The published comparison: ours and the public implementations on the same functions.

    SPEX_GAMES=... SPEX_PEERS_PYTHON=... python bench/compare.py --run   # what has no line yet
    python bench/compare.py                                              # compare.json, the plots

R2 on masks that nobody has asked for, against the budget, on real set functions of every kind; and
CPU seconds and memory against n, on planted hierarchical functions (100 terms, 20 dB).
ProxySPEX and GPSPEX get the same uniform masks as their peers; SPEX asks for masks of its own.

A run is one fit in a process of its own on one thread, one line of results/compare_runs.jsonl, so
--run can be stopped and goes on. Seconds leave out imports and the function; a peer's run of more
than LIMIT CPU seconds is ended, and its line says so. Memory is the peak of the process less what
its method's process has before the smallest fit, the imports: making the samples counts too, and
samples_mb is what that takes alone.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Iterator

import games
import torch
from harness import HERE, Peers, Row, in_new_process, peak_mb, table, write
from peers import Timed
from peers_proxy import function, samples

import spex_core
from spex_core.budget import least_budget

GAMES = (
    *("vit_patches_n16_01", "resnet18_superpixels_n14_01", "sentiment_distilbert_n14_01"),
    *("adult_gb_conditional_n14_01", "bike_rf_conditional_n12_01", "realestate_tabpfn_n15_01"),
    *("california_datavaluation_rf_n15_01", "bc_rf_n30_row0", "digits_mlp_n64_img3"),
    *("minilm_cc0_n64", "minilm_heads_n72_bank", "minilm_breastcancer_n128"),
    *("digits_knn5_datapoints_n200", "digits_ridge_datapoints_n256", "licence_words_mlp_n500_gpl"),
)
BUDGETS = (100, 300, 1000, 3000)
SIZES = (16, 64, 256, 1024, 4096)
FITTED, ASKED = 1000, 20_000  # samples of the planted functions: of the proxies, of SPEX
ON_SAMPLES = ("ProxySPEX", "GPSPEX", "shapiq ProxySPEX")
SLOW = "spectralexplain ProxySPEX"  # several times as slow: on the planted functions only
ASKING = ("SPEX", "shapiq SPEX")
MOST_GP = 1000  # samples, of GPSPEX here
LIMIT = 120
RUNS = HERE / "results" / "compare_runs.jsonl"
CASE = {"method", "game", "n", "samples", "seed"}  # the keys of a line that name its run


def cases() -> Iterator[Row]:
    """Every run of the comparison."""
    for name in GAMES:
        n, f = games.load(name)
        there = len(games.samples(name, 0)[1][0])
        for budget in (budget for budget in BUDGETS if budget <= there):
            case = {"game": name, "samples": budget, "seed": 0}
            for method in ON_SAMPLES:
                if method != "GPSPEX" or budget <= MOST_GP:
                    yield {"method": method} | case
            if f is not None and budget >= least_budget(n, 5):
                yield from ({"method": method} | case for method in ASKING)
    for n in SIZES:
        for method in (*ON_SAMPLES, SLOW):
            yield {"method": method, "n": n, "samples": FITTED, "seed": 0}
        yield from ({"method": m, "n": n, "samples": ASKED, "seed": 0} for m in ASKING)


def ours(method: str, **case: object) -> Row:
    """One fit of this package, in a process of its own."""
    torch.set_num_threads(1)
    n, f, test = function(**case)
    f = Timed(f)
    fit = None if method == "SPEX" else samples(**case)[0]
    start_mb, start = peak_mb(), time.process_time()
    if fit is None:
        ex = spex_core.spex(f, n, budget=case["samples"])
    else:
        ex = spex_core.fit(*fit, algorithm=method.lower())
    spent = time.process_time() - start - f.seconds
    found = {"r2": ex.transform.score(*test), "terms": len(ex.transform), "cpu": spent}
    return found | {"start_mb": start_mb, "peak_mb": peak_mb()}


def theirs(method: str, **case: object) -> Row:
    """One fit of a peer, which the kernel ends after LIMIT CPU seconds."""
    peers = Peers("peers_compare.py")
    try:
        return peers.run(method=method, most_cpu=LIMIT, **case)
    except RuntimeError as error:
        if peers.process.poll() is None:  # it answered: it cannot do this
            return {"refused": str(error)}
        return {"limit": LIMIT}
    finally:
        peers.close()


def lines() -> list[Row]:
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []


def run_missing() -> None:
    done = [{key: row[key] for key in row.keys() & CASE} for row in lines()]
    for case in cases():
        if case in done:
            continue
        row = theirs(**case) if " " in case["method"] else in_new_process(ours, **case)
        with RUNS.open("a") as file:
            file.write(json.dumps(case | row) + "\n")


def by_budget(rows: list[Row]) -> list[Row]:
    """R2 of each method at each budget: over the games that it has, and how many."""
    out = []
    for budget in BUDGETS:
        for method in (*ON_SAMPLES, *ASKING):
            runs = [r for r in rows if (r["method"], r["samples"]) == (method, budget)]
            if found := [r["r2"] for r in runs if "r2" in r]:
                spent = statistics.median(r["cpu"] for r in runs if "cpu" in r)
                row = {"samples": budget, "method": method, "games": len(found)}
                middle = {"median_r2": statistics.median(found), "least_r2": min(found)}
                out.append(row | middle | {"median_cpu": spent})
    return out


def against_n(rows: list[Row]) -> list[Row]:
    """Seconds, memory and R2 on the planted functions, a row a method and n."""
    out, starts = [], {}
    for row in rows:
        if "start_mb" in row:
            start = starts.get(row["method"], row["start_mb"])
            starts[row["method"]] = min(start, row["start_mb"])
    for row in rows:
        if "peak_mb" in row:
            row = row | {"added_mb": row["peak_mb"] - starts[row["method"]]}
        if " " not in row["method"]:  # the peers make their samples later than they begin to count
            row = row | {"samples_mb": row["start_mb"] - starts[row["method"]]}
        keys = ("method", "n", "samples", "r2", "cpu", "added_mb", "samples_mb", "limit", "refused")
        out.append({key: row[key] for key in keys if key in row})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="run what has no line yet")
    if parser.parse_args().run:
        run_missing()
        return
    rows = lines()
    on_games = [row for row in rows if "game" in row]
    budget, size = by_budget(on_games), against_n([row for row in rows if "game" not in row])
    table(budget, "R2 against budget, real set functions")
    table(size, "against n, planted functions")
    write("compare", on_games, by_budget=budget, against_n=size, limit=LIMIT)
    draw(on_games, size)


COLOURS = {
    "ProxySPEX": "#1b6ca8",
    "GPSPEX": "#2a9d6f",
    "SPEX": "#7b4fa3",
    "shapiq ProxySPEX": "#d1701f",
    "shapiq SPEX": "#c2475d",
    SLOW: "#8a8a8a",
}


def draw(on_games: list[Row], size: list[Row]) -> None:
    """The plots, results/compare_*.svg."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "compare", "font.size": 9, "axes.grid": True}
    matplotlib.rcParams |= {"grid.alpha": 0.3, "axes.spines.top": False}
    matplotlib.rcParams |= {"axes.spines.right": False}
    from matplotlib import pyplot as plt

    def save(figure, name: str, axes) -> None:
        entries = {}
        for ax in axes:
            handles, labels = ax.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
        order = [
            *(method for method in COLOURS if method in entries),
            *sorted(entries.keys() - COLOURS),
        ]
        figure.legend([entries[m] for m in order], order, loc="outside lower center", ncols=3)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        lines = [line.rstrip() + "\n" for line in drawn.getvalue().splitlines()]
        (HERE / "results" / f"compare_{name}.svg").write_text("".join(lines))
        plt.close(figure)

    def line(ax, rows: list[Row], method: str, x: str, y: str) -> None:
        rows = sorted((r for r in rows if r["method"] == method and y in r), key=lambda r: r[x])
        if rows:
            points = [r[x] for r in rows], [r[y] for r in rows]
            style = "--" if " " in method else "-"
            ax.plot(*points, style, marker="o", ms=3, color=COLOURS[method], label=method)

    figure, grid = plt.subplots(5, 3, figsize=(9, 11), sharex=True, layout="constrained")
    for ax, name in zip(grid.flat, GAMES, strict=True):
        rows = [row for row in on_games if row["game"] == name]
        for method in COLOURS:
            line(ax, rows, method, "samples", "r2")
        ax.set(xscale="log", xticks=BUDGETS, xticklabels=BUDGETS)
        ax.set_ylim(bottom=max(-0.2, ax.get_ylim()[0]), top=1.02)
        ax.set_title(name, fontsize=8)
        ax.minorticks_off()
    grid[-1, 1].set_xlabel("evaluations")
    figure.supylabel("R2 on unseen masks")
    save(figure, "r2", grid.flat)

    for name, key, label in (
        ("seconds", "cpu", "CPU seconds of a fit"),
        ("memory", "added_mb", "MB on top of the imports"),
    ):
        figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
        for method in COLOURS:
            line(ax, size, method, "n", key)
        for method in ("ProxySPEX", "SPEX") if name == "memory" else ():
            rows = [r for r in size if r["method"] == method and r["samples_mb"] > 0]
            points = [r["n"] for r in rows], [r["samples_mb"] for r in rows]
            ax.plot(*points, ":", label=f"making {rows[0]['samples']:,} samples")
        ax.set(xscale="log", yscale="log", xlabel="features n", ylabel=label)
        ax.set(xticks=SIZES, xticklabels=SIZES)
        ax.minorticks_off()
        save(figure, name, [ax])


if __name__ == "__main__":
    main()
