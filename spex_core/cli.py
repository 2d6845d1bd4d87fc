"""The console command: `spex` prints the backends, `spex explain` explains a model's output, `spex
run` does so in a directory from which `spex resume` goes on, `spex report` shows a result again,
`spex demo` three kinds of input."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import backend
from .cli_options import (
    BUDGETS,
    Help,
    add_algorithm,
    add_input,
    add_model,
    add_quiet,
    add_shown,
)
from .errors import EvaluationError, SpexError, check, check_int

if TYPE_CHECKING:
    from .compare import Recorder
    from .explanation import Explanation
    from .value_function import ValueFunction

OWN = ("command", "run", "folder", "quiet")  # of one call of `spex run`, not of its run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit code: 0, 2 for bad input, 1 for a failed model, 130 for Ctrl-C."""
    args = _parser().parse_args(argv)
    if args.command is None:
        print(backend.table())
        print("\nspex explain: which words of a passage make a model's output (see --help)")
        return 0
    try:
        args.run(args)
    except KeyboardInterrupt as error:
        print("spex: interrupted", *str(error).split(), file=sys.stderr)
        return 130
    except (SpexError, ValueError, OSError) as error:
        print("spex: error:", " ".join(str(error).split()), file=sys.stderr)
        return 1 if isinstance(error, EvaluationError) else 2
    return 0


# ---- spex explain --------------------------------------------------------------------------------


def explain(args: argparse.Namespace) -> None:
    """`spex explain`: make the value function, ask the model, save the explanation, print it; then,
    unless told otherwise, what SPEX makes of the same."""
    check_int("--compare", args.compare, 0)
    check(args.out.suffix == ".npz", "--out must end in .npz, got {}", args.out)
    _check_writable("--out", args.out)
    from .compare import Recorder

    inner, lines = _value_function(args)
    print("\n".join([*lines, _ends_line(inner)]), flush=True)
    f = Recorder(inner)
    ex = _run(f, args)
    _show(ex, args)
    if args.algorithm == "proxyspex" and args.compare:
        print(_comparison_lines(f, ex, args))


def _value_function(args: argparse.Namespace) -> tuple[ValueFunction, list[str]]:
    """That of the options, all of them checked, and what to say of it."""
    check_int("--top", args.top, 0)
    _set_threads(args)
    from .inputs import value_function

    f, lines = value_function(args)
    if args.tokens is not None:
        f.tokens = check_int("--tokens", args.tokens, 1)
    _check_index(args, f.n)
    return f, lines


def _show(ex: Explanation, args: argparse.Namespace) -> None:
    ex.save(args.out)
    print(_top_lines(ex.interactions(args.index, order=args.order), ex.features, args))
    print(f"\n{ex.report}\n")
    print(_time_line(ex.report.seconds))
    print(f"result: {args.out}", flush=True)


def _run(
    f: ValueFunction, args: argparse.Namespace, score_every: float | None = None, **more: Any
) -> Explanation:
    """The algorithm asked for, on all it needs to know."""
    from .explain import explain as auto
    from .gpspex import gpspex
    from .progress import progress
    from .proxyspex import proxyspex
    from .spex import spex

    algorithm: Any
    own: dict[str, str]
    algorithm, own = {
        "spex": (spex, {"decoder": args.decoder}),
        "proxyspex": (proxyspex, {"preset": args.preset}),
        "gpspex": (gpspex, {"preset": args.preset}),
        "auto": (auto, {}),
    }[args.algorithm]
    with progress(f.unit, quiet=args.quiet, score_every=score_every) as show:
        found = algorithm(
            f,
            budget=BUDGETS[args.algorithm] if args.budget is None else args.budget,
            degree=args.degree,
            seed=args.seed,
            progress=show,
            **own,
            **more,
        )
    return cast("Explanation", found)  # one output


def _check_writable(option: str, out: Path) -> None:
    check(os.access(out.parent, os.W_OK), "{} must be in a writable folder: {}", option, out)


def _set_threads(args: argparse.Namespace) -> None:
    import torch

    if args.threads is not None:
        torch.set_num_threads(check_int("--threads", args.threads, 1))


def _check_index(args: argparse.Namespace, n: int) -> None:
    """Refuse a bad --index or --order before the model runs: ask them of an empty transform."""
    from .indices import interactions
    from .transform import SparseTransform

    interactions(SparseTransform.from_dict(n, {}), args.index, args.order)
    check(
        args.order is None or args.order <= args.degree,
        "--order must be at most --degree = {}, got {}",
        *(args.degree, args.order),
    )


def _ends_line(f: ValueFunction) -> str:
    import numpy as np

    nothing, everything = f(np.array([[False] * f.n, [True] * f.n]))
    return (
        f"output:   {everything:.4f} with all of it, {nothing:.4f} with none "
        "(two masks beside the budget)"
    )


def _top_lines(
    values: dict[tuple[int, ...], float], names: Sequence[str], args: argparse.Namespace
) -> str:
    """The largest interactions, in words; the numbers in brackets are the keys of the result."""
    top = [(key, value) for key, value in values.items() if key][: args.top]
    lines = [f"\n{args.index}, the {len(top)} largest; baseline {values.get((), 0.0):+.4f}"]
    for key, value in top:
        words = " × ".join(textwrap.shorten(names[j], 60, placeholder=" ...") for j in key)
        lines.append(f"  {value:+.4f}  {words}  [{', '.join(map(str, key))}]")
    return "\n".join(lines)


def _time_line(seconds: dict[str, float]) -> str:
    model, total = seconds["evaluate"], sum(seconds.values())
    share = 100 * model / total if total else 0.0
    rest = total - model
    return f"time:   model {model:.2f} s ({share:.1f} %), all else {rest:.2f} s"


def _comparison_lines(f: Recorder, ex: Explanation, args: argparse.Namespace) -> str:
    """SPEX beside `ex`, as a small table; or, where it cannot run at that budget, why."""
    from .compare import compare, rival_plan
    from .progress import progress

    try:
        plan = rival_plan(f, ex, args.compare, args.degree)
    except ValueError as error:
        return f"\nno comparison with SPEX: {error} (--compare {args.compare})"
    with progress(f.unit, quiet=args.quiet) as show:
        return f"\n{compare(f, ex, plan, decoder=args.decoder, progress=show)}"


# ---- spex run, resume, status, export ------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    """`spex run DIR`: as explain, but for the comparison, with every value kept in DIR."""
    check(args.text != "-", "--text must be a file, as `spex resume` reads it again")
    from . import cli_runs
    from .patience import Patience

    cli_runs.begin(args.folder, {name: vars(args)[name] for name in vars(args) if name not in OWN})
    args.out = args.folder / cli_runs.RESULT
    try:
        patience = Patience(retries=args.retries, wait=args.wait, timeout=args.timeout)
        f, lines = _value_function(args)
        print("\n".join([*lines, f"store:    {args.folder}"]), flush=True)
        store = args.folder / cli_runs.VALUES
        ex = _run(f, args, args.score_every, store=store, patience=patience)
    except EvaluationError:
        print(f"spex: to go on: spex resume {args.folder}", file=sys.stderr)
        raise
    _show(ex, args)


def resume(args: argparse.Namespace) -> None:
    """`spex resume DIR`: the same run again, which asks for what is missing."""
    from . import cli_runs

    folder = args.folder.resolve()
    options, directory = cli_runs.recorded(folder)
    again = _parser().parse_args(["run", str(folder), *(["--quiet"] if args.quiet else [])])
    os.chdir(directory)
    run(argparse.Namespace(**vars(again) | options))


def status(args: argparse.Namespace) -> None:
    """`spex status DIR`: how far it is."""
    from . import cli_runs

    print("\n".join(cli_runs.status_lines(args.folder, fit=args.fit)))


def export(args: argparse.Namespace) -> None:
    """`spex export DIR FILE.parquet`: its masks and values."""
    from . import cli_runs

    count = cli_runs.export(args.folder, args.file)
    print(f"{count:,} masks and values: {args.file}")


# ---- spex report ---------------------------------------------------------------------------------


def report(args: argparse.Namespace) -> None:
    """`spex report`: a saved explanation, printed, and written as an HTML page where asked for."""
    check_int("--top", args.top, 0)
    if args.html is not None:
        _check_writable("--html", args.html)
    from .explanation import load

    ex = load(args.file)
    print(_top_lines(ex.interactions(args.index, order=args.order), ex.features, args))
    print(f"\n{ex.report}")
    if args.html is not None:
        title = args.file.stem if args.title is None else args.title
        ex.to_html(args.html, title=title, index=args.index, order=args.order)
        print(f"\npage: {args.html}")


# ---- spex demo -----------------------------------------------------------------------------------


def demo(args: argparse.Namespace) -> None:
    """`spex demo`: three kinds of input, one after the other, printed and written to one file as
    soon as each is done."""
    _check_writable("--out", args.out)
    _set_threads(args)
    from . import demo as shows
    from .progress import progress

    report = [f"# Three explanations\n\nOn {platform.platform()}, by `spex demo`.\n"]
    for show, unit in ((shows.words, "tokens"), (shows.heads, "tokens"), (shows.training, "rows")):
        start = time.perf_counter()
        with progress(unit, quiet=args.quiet) as tell:
            shown = show(progress=tell)
        text = f"{shown.summary()}\n\n{time.perf_counter() - start:.0f} s in all"
        print(f"\n{text}", flush=True)
        title, _, body = text.partition("\n\n")
        report.append(f"## {title}\n\n```\n{body}\n```\n")
        args.out.write_text("\n".join(report), encoding="utf-8")
    print(f"\nreport: {args.out}")


# ---- Options -------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spex",
        description="SPEX: the interactions that drive a model. Alone, prints the backends here.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    command = commands.add_parser(
        "explain",
        help="explain a model's output on a text, by parts of the text or of the model",
        description="Which words of a text, or which attention heads of a model, alone and "
        "together, make the model's output. Without options: the similarity that the MiniLM "
        "sentence encoder sees between a question and an example passage.",
        formatter_class=Help,
    )
    command.set_defaults(run=explain)
    add_input(command.add_argument_group("what to explain"))
    add_model(command.add_argument_group("the model"))
    how, shown = (command.add_argument_group(title) for title in ("how", "what to show"))
    add_algorithm(how)
    how.add_argument(
        "--compare",
        type=int,
        metavar="BUDGET",
        default=BUDGETS["spex"],
        help="with proxyspex: masks for SPEX on the same input, shown beside it; 0 for none",
    )
    add_shown(shown)
    shown.add_argument(
        "--out", type=Path, metavar="FILE.npz", default="spex-result.npz", help="the result"
    )
    add_quiet(shown)
    _add_runs(commands)
    command = commands.add_parser(
        "report",
        help="show a saved result, and write it as an HTML page",
        description="Print a result of `spex explain` or Explanation.save again, with any index; "
        "with --html write one page that needs no network: features, interactions, the report.",
        formatter_class=Help,
    )
    command.set_defaults(run=report)
    add = command.add_argument
    add("file", type=Path, metavar="FILE.npz", help="the result")
    add("--html", type=Path, metavar="OUT.html", help="the page")
    add("--title", help="of the page; else the name of the file")
    add_shown(command)
    command = commands.add_parser(
        "demo",
        help="explain words, attention heads and training rows, and write a report",
        description="Three explanations of real data, each in a minute or two: the words of a "
        "passage, the attention heads of MiniLM, groups of training rows of a classifier.",
        formatter_class=Help,
    )
    command.set_defaults(run=demo)
    add = command.add_argument
    add("--threads", type=int, help="CPU threads; else as many as torch uses")
    add("--out", type=Path, metavar="FILE.md", default="demo.md", help="the report, in Markdown")
    add("--quiet", action="store_true", help="no progress")
    return parser


def _add_runs(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "run",
        help="as explain, in a directory from which it goes on after whatever stops it",
        description="As `spex explain`, without the comparison, with every value on disk in DIR: "
        "the same command, or `spex resume DIR`, goes on from there and asks for no mask twice.",
        formatter_class=Help,
    )
    command.set_defaults(run=run)
    command.add_argument("folder", type=Path, metavar="DIR", help="new, or of the same run")
    add_input(command.add_argument_group("what to explain"))
    add_model(command.add_argument_group("the model"))
    add_algorithm(command.add_argument_group("how"))
    shown = command.add_argument_group("what to show")
    add_shown(shown)
    add_quiet(shown)
    add = command.add_argument_group("failures and progress").add_argument
    add("--retries", type=int, default=2, help="further attempts of a pack that fails")
    add("--wait", type=float, default=1.0, help="seconds before the first, then doubled")
    add("--timeout", type=float, help="seconds that a pack may take; else any")
    add("--score-every", type=float, metavar="S", help="seconds between fits on the way, for R2")

    command = commands.add_parser("resume", help="go on with a run", formatter_class=Help)
    command.set_defaults(run=resume)
    command.add_argument("folder", type=Path, metavar="DIR", help="of `spex run`")
    add_quiet(command)

    command = commands.add_parser("status", help="how far a run is", formatter_class=Help)
    command.set_defaults(run=status)
    command.add_argument("folder", type=Path, metavar="DIR", help="of a run, or a store")
    command.add_argument("--fit", action="store_true", help="fit what is there, and report")

    command = commands.add_parser(
        "export", help="masks and values of a run, as Parquet", formatter_class=Help
    )
    command.set_defaults(run=export)
    command.add_argument("folder", type=Path, metavar="DIR", help="of a run, or a store")
    command.add_argument("file", type=Path, metavar="FILE.parquet", help="to write")
