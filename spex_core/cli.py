"""The console command: `spex` prints the backends, `spex explain` explains a model's output."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import backend
from .errors import EvaluationError, MissingExtra, SpexError, check, check_int

if TYPE_CHECKING:
    from .compare import Recorder
    from .explanation import Explanation
    from .values.text import TextSimilarity

QUESTION = "Which needle was used to sample the breast mass?"
BUDGETS = {"proxyspex": 2000, "spex": 5000}  # unless --budget or --compare says otherwise
Progress = Callable[[int, int], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit code: 0, 2 for bad input, 1 for a failed model, 130 for Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        print(backend.table())
        print("\nspex explain: which words of a passage make a model's output (see --help)")
        return 0
    try:
        explain(args)
    except KeyboardInterrupt as error:
        print("spex: interrupted", *str(error).split(), file=sys.stderr)
        return 130
    except (SpexError, ValueError, OSError) as error:
        print("spex: error:", " ".join(str(error).split()), file=sys.stderr)
        return 1 if isinstance(error, EvaluationError) else 2
    return 0


def explain(args: argparse.Namespace) -> None:
    """`spex explain`: read the passage, ask the model, save the explanation, print it; then, unless
    told otherwise, what SPEX makes of the same passage."""
    check_int("--top", args.top, 0)
    check_int("--compare", args.compare, 0)
    check(args.out.suffix == ".npz", "--out must end in .npz, got {}", args.out)
    check(os.access(args.out.parent, os.W_OK), "--out must be in a writable folder: {}", args.out)
    text = _value_function(args)
    _check_index(args, text.n)
    print(_passage_lines(text, args), flush=True)
    from .compare import Recorder

    f = Recorder(text)
    ex = _run(f, text.features, args)
    ex.save(args.out)
    print(_top_lines(ex.interactions(args.index, order=args.order), text.features, args))
    print(f"\n{ex.report}\n")
    print(_time_line(ex.report.seconds))
    print(f"result: {args.out}", flush=True)
    if args.algorithm == "proxyspex" and args.compare:
        print(_comparison_lines(f, ex, args))


def _run(f: Recorder, features: Sequence[str], args: argparse.Namespace) -> Explanation:
    """The algorithm asked for, on all it needs to know."""
    from .proxyspex import proxyspex
    from .spex import spex

    algorithm, own = (
        (spex, {"decoder": args.decoder})
        if args.algorithm == "spex"
        else (proxyspex, {"preset": args.preset})
    )
    with _progress(args.quiet) as progress:
        return algorithm(
            f,
            features=features,
            budget=BUDGETS[args.algorithm] if args.budget is None else args.budget,
            degree=args.degree,
            seed=args.seed,
            batch_size=args.batch_size,
            progress=progress,
            **own,
        )


# ---- Input ---------------------------------------------------------------------------------------


def _value_function(args: argparse.Namespace) -> TextSimilarity:
    """The passage and the question of the command line, as a set function."""
    import torch

    from .values.text import TextSimilarity, load_minilm

    check(
        args.text is None or args.question is not None,
        "--question must be given with --text: what should the passage answer?",
    )
    args.question = QUESTION if args.question is None else args.question
    if args.threads is not None:
        check_int("--threads", args.threads, 1)
        torch.set_num_threads(args.threads)
    return TextSimilarity(
        example_passage() if args.text is None else _read(args.text),
        args.question,
        unit=args.unit,
        mask=None if args.mask == "remove" else args.mask,
        truncate=args.truncate,
        encoder=load_minilm(dtype=getattr(torch, args.dtype)),
    )


def _read(path: str) -> str:
    """A UTF-8 file, or standard input for "-"."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--text must be UTF-8, got {path}: {error}") from None


def example_passage() -> str:
    """What scikit-learn says of its breast cancer data, in prose: no lists, tables or citations.

    Raises: MissingExtra without scikit-learn.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise MissingExtra(
            "explain: the example passage needs scikit-learn; pip install spex-core[text]"
        ) from error
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", load_breast_cancer().DESCR)]
    prose = [p for p in paragraphs if re.match("[A-Z]", p) and p[-1] == "." and p.count(" ") >= 20]
    return re.sub(r":? \[[^\]]*\]", "", " ".join(prose))


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


# ---- Output --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Progress | None]:
    """What to call as progress(done, total): a bar on a terminal, else a line for every tenth."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield _line_progress()
    else:
        from tqdm import tqdm

        with tqdm(desc="model", unit=" masks") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show


def _line_progress() -> Progress:
    start, tenths = time.perf_counter(), 0

    def show(done: int, total: int) -> None:
        nonlocal tenths
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            rate = done / (time.perf_counter() - start)
            print(f"spex: {done} of {total} masks, {rate:.0f} a second", file=sys.stderr)

    return show


def _passage_lines(f: TextSimilarity, args: argparse.Namespace) -> str:
    import numpy as np

    nothing, everything = f(np.array([[False] * f.n, [True] * f.n]))
    lines = [
        f"question: {args.question}",
        f"passage:  {f.n} {f.units}, {f.layout.tokens} tokens, "
        + ("the example from scikit-learn" if args.text is None else f"from {args.text}"),
        f"output:   similarity {everything:.4f} with all of it, {nothing:.4f} with none "
        "(two masks beside the budget)",
    ]
    if f.inert:
        lines.append(f"warning:  {len(f.inert)} {f.units} have no token and no effect: {f.inert}")
    return "\n".join(lines)


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

    try:
        plan = rival_plan(ex, args.compare, args.degree)
    except ValueError as error:
        return f"\nno comparison with SPEX: {error} (--compare {args.compare})"
    with _progress(args.quiet) as progress:
        options = {"decoder": args.decoder, "batch_size": args.batch_size, "progress": progress}
        return f"\n{compare(f, ex, plan, **options)}"


# ---- Options -------------------------------------------------------------------------------------


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each default but None and False, which the help text explains."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spex",
        description="SPEX: the interactions that drive a model. Alone, prints the backends here.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    command = commands.add_parser(
        "explain",
        help="explain how close a sentence encoder finds a question and a passage",
        description="Which words of a passage, alone and together, make the similarity that the "
        "MiniLM sentence encoder sees between a question and the passage.",
        formatter_class=_Help,
    )
    _add_input(command.add_argument_group("what to explain"))
    _add_algorithm(command.add_argument_group("how"))
    _add_output(command.add_argument_group("what to show"))
    return parser


def _add_input(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--text", metavar="FILE", help="UTF-8 passage, or - for standard input; else an example")
    add("--question", help="what to compare the passage with; the example has one")
    add("--unit", choices=["words", "sentences"], default="words", help="what a feature is")
    add(
        "--mask", metavar="TOKEN", default="remove", help="token in place of absent ones, as [MASK]"
    )
    add("--truncate", action="store_true", help="cut a passage that is too long for the model")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the model")


def _add_algorithm(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--algorithm", choices=list(BUDGETS), default="proxyspex", help="finds the interactions")
    add(
        "--budget",
        type=int,
        help="masks that the model may be asked at most; else "
        + ", ".join(f"{budget} for {name}" for name, budget in BUDGETS.items()),
    )
    add(
        "--compare",
        type=int,
        metavar="BUDGET",
        default=BUDGETS["spex"],
        help="with proxyspex: masks for SPEX on the same text, shown beside it; 0 for none",
    )
    add("--preset", choices=["default", "paper"], default="default", help="of proxyspex")
    add("--decoder", choices=["soft", "hard"], default="soft", help="of spex, for its BCH code")
    add("--degree", type=int, default=5, help="most features in one Fourier term")
    add("--seed", type=int, default=0, help="of the masks; same seed, same result")
    add("--batch-size", type=int, default=512, help="masks between two steps of progress")
    add("--threads", type=int, help="CPU threads; else as many as torch uses")


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--index", default="FBII", help="interaction index, such as Fourier, SV, SII, FSII")
    add("--order", type=int, help="most features in one interaction; else what the index means")
    add("--top", type=int, default=20, help="interactions to print")
    add("--out", type=Path, metavar="FILE.npz", default="spex-result.npz", help="the result")
    add("--quiet", action="store_true", help="no progress")
