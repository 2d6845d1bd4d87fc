"""Writes the figures of bench/results/ into README and docs/measurements.md, between two markers.

python bench/readme.py          # rewrite both
python bench/readme.py --check  # exit 1 if one is not what the results say
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->"


def decoding(found: dict) -> Iterator[str]:
    """SPEX against the public implementations, on the same functions and numbers of samples; the
    file has the other levels of noise."""
    yield "| SPEX, n, noise | peer | R2 theirs / ours | recall theirs / ours | times faster |"
    yield "|---|---|---|---|---|"
    for row in found["rows"]:
        if row["snr"] not in (20, 5, 0):
            continue
        yield (
            f"| {row['n']}, {row['snr']:g} dB | {row['peer']} | "
            f"{row['its_r2']:.4f} / {row['our_r2']:.4f} | "
            f"{row['its_recall']:.2f} / {row['our_recall']:.2f} | {row['faster']:,.0f} |"
        )


def transforms(found: dict) -> Iterator[str]:
    yield "| fwht, one thread, against fht-cpu | times faster: least, median | relative error |"
    yield "|---|---|---|"
    for dtype in ("float32", "float64"):
        for isa in ("avx2", "avx512"):
            rows = [
                row
                for row in found["rows"]
                if row["dtype"] == dtype
                and row["threads"] == 1
                and isa in row.get("times_faster_than_fht_cpu", {})
            ]
            ratios = [row["times_faster_than_fht_cpu"][isa] for row in rows]
            error = max(row["error"][isa] for row in rows)
            yield (
                f"| {dtype}, {isa}, b = 3..22, on chip and in RAM | {min(ratios):.2f}, "
                f"{statistics.median(ratios):.2f} | {error:.1e} |"
            )


def parities(found: dict) -> Iterator[str]:
    yield "| kernel, one thread | T, S, n | ms | times faster than a dense torch product |"
    yield "|---|---|---|---|"
    for row in found["rows"]:
        best = row[f"{found['isa']} ms"]
        rival = next(value for key, value in row.items() if key.startswith("x faster than torch"))
        size = f"{row['T']:,}, {row['S']:,}, {row['n']:,}"
        yield f"| {row['op']}, {row['supports']} supports | {size} | {best:.2f} | {rival:,.1f} |"


def scale(found: dict) -> Iterator[str]:
    yield "| scale | samples | plan + alias + peel | R2 | peak memory |"
    yield "|---|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| n = {row['n']:,}, 1,000 terms, b = 12 | {row['samples']:,} | "
            f"{row['plan_alias_peel_s']:.1f} s | {row['r2']:.4f} | {row['peak_mb']:,} MB |"
        )


def games(found: dict) -> Iterator[str]:
    """Real models, beside what the public implementations reach with as many evaluations."""
    yield "| real set function | evaluations | SPEX here | linear fit | peer, R2 |"
    yield "|---|---|---|---|---|"
    for row in found["peers"]:
        if row["peer"].startswith("sklearn"):  # the linear fit is a column
            continue
        yield (
            f"| {row['game']} | {row['budget']:,} | {row['r2']:.3f} | {row['linear']:.3f} | "
            f"{row['peer']} {row['its_r2']:.3f} |"
        )


def faithful(found: dict) -> Iterator[str]:
    """ProxySPEX against shapiq's on the same samples of real set functions."""
    yield "| ProxySPEX, samples | games | R2 gained on shapiq's, mean / median | least |"
    yield "|---|---|---|---|"
    for row in found["summary"]:
        yield (
            f"| {row['samples']:,} | {row['games']} | {row['mean_gain_capped_at_1']:.3f} / "
            f"{row['median_gain']:.3f} | {row['least_gain']:+.4f} |"
        )
    yield ""
    yield (
        f"It reaches shapiq's R2 at 1,000 samples with {found['median_matched']:.0f} (median of "
        f"{len(found['matched'])} games)."
    )


def gp(found: dict) -> Iterator[str]:
    """GPSPEX and the stack beside the others on the same samples; means over games. How often the
    stack is behind is beside what choosing by the game's other seeds would do."""
    behind = "games over 0.01 below the best: auto / the member best on the other seeds"
    head = f"R2 linear / ProxySPEX / GPSPEX / auto | {behind}"
    tail = "GPSPEX's gain on shapiq's ProxySPEX | coefficients covered | CPU s"
    yield f"| samples | games, runs | {head} | {tail} |"
    yield "|---|---|---|---|---|---|---|"
    for row in found["summary"]:
        gain = row["mean gain capped at 1"]
        scores = " / ".join(f"{row[key]:.3f}" for key in ("linear", "ours", "gp", "auto"))
        yield (
            f"| {row['samples']:,} | {row['games']}, {row['runs']} | {scores} | "
            f"{row['auto below by over 0.01']} / "
            f"{row['told below by over 0.01'] if row['told games'] else '-'} | "
            f"{f'{gain:+.3f}' if gain != '' else '-'} | {row['gp covered']:.0%} | "
            f"{row['gp cpu']:.1f} |"
        )


def acquire(found: dict) -> Iterator[str]:
    """Masks that a fit chose against uniform ones; the error is that of the coefficients of single
    features, where they are known."""
    gain = "R2 gained on uniform ones, mean ± s.e. / median"
    yield f"| masks, then chosen for | games, runs | {gain} | better | error, median ratio | less |"
    yield "|---|---|---|---|---|---|"
    for row in found["summary"]:
        what = {"first": "single features", "function": "f at uniform masks"}[row["quantity"]]
        yield (
            f"| {row['algorithm']}, {row['start']} + {row['start']}, {what} | {row['games']}, "
            f"{row['runs']} | {row['mean gain of R2']:+.3f} ± {row['standard error']:.3f} / "
            f"{row['median gain of R2']:+.3f} | {row['better R2']:.0%} | "
            f"{row['median ratio of errors']:.2f} | {row['smaller error']:.0%} |"
        )


def gp_speed(found: dict) -> Iterator[str]:
    yield "| GPSPEX, a fit | largest order | seconds | CPU s / stated | MB / stated | R2 |"
    yield "|---|---|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| {row['samples']:,} samples, n = {row['n']:,} | {row['degree']} | "
            f"{row['wall']:.1f} | "
            f"{row['cpu']:.1f} / {row['stated_cpu']:.1f} | {row['mb']:.0f} / "
            f"{row['stated_mb']:.0f} | {row['r2']:.3f} |"
        )


def proxyspex(found: dict) -> Iterator[str]:
    yield "| ProxySPEX, one thread | samples | preset | R2 shapiq / here | CPU s | times faster |"
    yield "|---|---|---|---|---|---|"
    for row in found["rows"]:
        for preset in ("default", "paper") if "shapiq_cpu" in row else ():
            yield (
                f"| {row['function']} | {row['samples']:,} | {preset} | {row['shapiq_r2']:.3f} / "
                f"{row[f'{preset}_r2']:.3f} | {row['shapiq_cpu']:.1f} / {row[f'{preset}_cpu']:.2f} "
                f"| {row[f'{preset}_faster']:.0f} |"
            )


def boosting(found: dict) -> Iterator[str]:
    yield "| boost, 200 trees of depth 5 | threads | R2 LightGBM / here | times faster |"
    yield "|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| {row['samples']:,} x {row['n']:,} | {row['threads']} | "
            f"{row['lightgbm_r2']:.3f} / {row['r2']:.3f} | {row['faster']:.0f} |"
        )


def large(found: dict) -> Iterator[str]:
    yield "| ProxySPEX, whole fit, all threads | samples | seconds | R2 | peak memory |"
    yield "|---|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| n = {row['n']:,} | {row['samples']:,} | {row['seconds']:.0f} | {row['r2']:.3f} | "
            f"{row['peak_mb']:,.0f} MB, {row['start_mb']:,.0f} before it |"
        )


def inference(found: dict) -> Iterator[str]:
    """MiniLM under masks, against strings in padded batches of 32."""
    head = "masks/s naive / float32 / bfloat16 | times faster | error | bfloat16 noise"
    yield f"| MiniLM, words removed, one thread | {head} |"
    yield "|---|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| {row['words']} words, {row['tokens']} tokens | {row['naive_per_s']:.1f} / "
            f"{row['float32_per_s']:.1f} / {row['bfloat16_per_s']:.1f} | "
            f"{row['float32_faster']:.2f} / {row['bfloat16_faster']:.2f} | {row['error']:.0e} | "
            f"{100 * row['bfloat16_noise']:.1f} % of std |"
        )


def heads(found: dict) -> Iterator[str]:
    """Attention heads under masks, many masks in a batch, against one forward pass for each."""
    yield "| 72 heads of MiniLM, masks in a pass | masks/s one by one / here | times faster |"
    yield "|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| {row['masks in a pass']}, {row['device']} | {row['masks/s one by one']:.1f} / "
            f"{row['masks/s']:.1f} | {row['x faster']:.2f} |"
        )


def tries(found: dict) -> Iterator[str]:
    """A decoder that computes shared beginnings once, against packs and padded calls."""
    head = "prefix | tokens padded / packed / trie | times faster than packed / padded"
    yield f"| Llama-like decoder, one pack of masks | {head} |"
    yield "|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| {row['masks']} | {row['prefix']} | {row['padded tokens']:,} / "
            f"{row['packed tokens']:,} / {row['trie tokens']:,} | {row['over packed']:.2f} / "
            f"{row['over padded']:.2f} |"
        )


def attention(found: dict) -> Iterator[str]:
    yield "| packed_attention, tokens of a sequence | dtype | GFLOP/s torch / here | times faster |"
    yield "|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| {row['length']} | {row['dtype']} | {row['torch GFLOP/s']:.0f} / "
            f"{row['auto GFLOP/s']:.0f} | {row['x']:.2f} |"
        )


def subsets(found: dict) -> Iterator[str]:
    """Bounds over the best value found: 1 is proven best. Seconds are those of the whole call."""
    yield (
        "| maximize, spectrum | n, terms | size | bound by products / parities / tables | "
        "bound proven | CPU seconds |"
    )
    yield "|---|---|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| {row['spectrum']} | {row['n']}, {row['terms']:,} | {row['size']} | "
            f"{row['products']:.2f} / {row['parities']:.2f} / {row['tables']:.2f} | "
            f"{row['bound']:.3f} | {row['search_s'] + row['milp_s']:.1f} |"
        )


def indices(found: dict) -> Iterator[str]:
    """The public way goes through all Moebius coefficients, and makes a dict."""
    head = "ms public / dict here / arrays here | times faster, dict / arrays"
    yield f"| Fourier to index, one thread | sets | {head} |"
    yield "|---|---|---|---|"
    for row in found["rows"]:
        if row["terms"] < 10_000 or "shapiq ms" not in row:
            continue
        what = f"{row['terms']:,} terms to order {row['degree']}, {row['index']} to {row['order']}"
        spent = f"{row['shapiq ms']:,.0f} / {row['ms']:.1f} / {row['arrays ms']:.1f}"
        faster = f"{row['over shapiq']:,.0f} / {row['arrays over shapiq']:,.0f}"
        yield f"| {what} | {row['sets']:,} | {spent} | {faster} |"


def compare(found: dict) -> Iterator[str]:
    """The published comparison: medians by budget, then planted functions against n."""
    rows = found["by_budget"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    yield f"| real set functions, median R2 (games): evaluations | {' | '.join(methods)} |"
    yield "|---|" + "---|" * len(methods)
    for samples in sorted({row["samples"] for row in rows}):
        at = {row["method"]: row for row in rows if row["samples"] == samples}
        cells = [
            f"{at[m]['median_r2']:.3f} ({at[m]['games']})" if m in at else "-" for m in methods
        ]
        yield f"| {samples:,} | {' | '.join(cells)} |"
    yield "\n![R2 against the budget, 15 real set functions](bench/results/compare_r2.svg)\n"
    rows = found["against_n"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    yield f"| planted functions, R2 / CPU s / MB: n | {' | '.join(methods)} |"
    yield "|---|" + "---|" * len(methods)
    for n in sorted({row["n"] for row in rows}):
        at = {row["method"]: row for row in rows if row["n"] == n}
        yield f"| {n:,} | {' | '.join(_of_run(at.get(m), found['limit']) for m in methods)} |"
    yield ""
    samples = {row["method"]: row["samples"] for row in rows}
    yield f"Samples: {', '.join(f'{method} {count:,}' for method, count in samples.items())}.\n"
    yield "![CPU seconds of a fit against n](bench/results/compare_seconds.svg)"
    yield "![Memory of a fit against n](bench/results/compare_memory.svg)"


def _of_run(row: dict | None, limit: float) -> str:
    if row is None:
        return "-"
    if "limit" in row:
        return f"over {limit:.0f} s"
    if "refused" in row:
        return "refused"
    return f"{row['r2']:.3f} / {row['cpu']:.1f} / {row['added_mb']:,.0f}"


Table = Callable[[dict], Iterator[str]]
README: dict[str, Table] = {
    "compare": compare,
    "faithful": faithful,
    "gp": gp,
    "proxyspex": proxyspex,
    "proxy_scale": large,
    "spex": decoding,
    "scale": scale,
    "inference": inference,
}
MEASUREMENTS: dict[str, Table] = {
    "games": games,
    "gp_speed": gp_speed,
    "acquire": acquire,
    "subsets": subsets,
    "indices": indices,
    "boost": boosting,
    "fwht": transforms,
    "parity": parities,
    "trie": tries,
    "heads": heads,
    "attention": attention,
}
PAGES = {"README.md": README, "docs/measurements.md": MEASUREMENTS}


def figures(tables: dict[str, Table]) -> str:
    parts = []
    for name, table in tables.items():
        found = json.loads((HERE / "results" / f"{name}.json").read_text())
        where = f"{found['cpu']}, {found['cores']} cores, torch {found['torch']}, {found['date']}"
        script = f"bench_{name}.py" if name != "compare" else "compare.py"
        source = f"*`bench/{script}`, {where}*"
        parts.append("\n".join([*table(found), "", source]))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    stale = False
    for name, tables in PAGES.items():
        page = HERE.parent / name
        old = page.read_text(encoding="utf-8")
        before, _, rest = old.partition(BEGIN)
        _, _, after = rest.partition(END)
        new = before + BEGIN + figures(tables) + END + after
        stale |= new != old
        if "--check" not in sys.argv:
            page.write_text(new, encoding="utf-8")
    return int(stale and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
