"""What `spex explain` explains: a value function, made from the options of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from .demo import QUESTION, example_passage, sentence_pairs
from .errors import check
from .value_function import ValueFunction

if TYPE_CHECKING:
    from .values.encoders import Encoder, Output
    from .values.language import CausalText
    from .values.served import Scored, ServedText
    from .values.text import EncoderText

TASKS = {  # the options that each needs, and those that it takes beside
    "similarity": (("question",), ()),
    "classify": ((), ("target", "against")),
    "label": (("target", "against"), ()),
    "answer": (("target",), ()),
}


def value_function(args: argparse.Namespace) -> tuple[ValueFunction, list[str]]:
    """The value function asked for, and lines that say what it is.

    Raises: ValueError for options that contradict each other, the text or the model; OSError for a
            file or a model that is not there; MissingExtra.
    """
    check(
        args.server is None or (args.task in ("label", "answer") and not args.heads),
        "--server must come with --task label or answer and without --heads",
    )
    if args.heads and args.text is None:
        return _heads_on_pairs(args)
    check(args.pairs is None, "--pairs must come with --heads and without --text")
    _check_task(args)
    f, asked = _similarity(args) if args.task == "similarity" else _model_output(args)
    where = "the example from scikit-learn" if args.text is None else f"from {args.text}"
    lines = [
        f"value:    {asked}",
        f"text:     {f.n} {args.units}, {f.layout.tokens} tokens, {where}",
    ]
    if f.inert:
        lines.append(
            f"warning:  {len(f.inert)} {args.units} have no token and no effect: {f.inert}"
        )
    if not args.heads:
        return f, lines
    from .values.heads import text_heads

    parts = text_heads(cast("EncoderText | CausalText", f), threads=torch.get_num_threads())
    return parts, [*lines, f"features: {parts.n} attention heads; the text is whole"]


def _check_task(args: argparse.Namespace) -> None:
    needed, taken = TASKS[args.task]
    if args.task == "similarity" and args.text is None and args.question is None:
        args.question = QUESTION  # of the example
    check(
        args.model is not None or args.task == "similarity",
        "--model must be given with --task {}",
        args.task,
    )
    for name in ("question", "target", "against"):
        given = getattr(args, name) is not None
        check(given or name not in needed, "--{} must be given with --task {}", name, args.task)
        check(
            not given or name in needed + taken,
            "--{} must not be given with --task {}",
            *(name, args.task),
        )


# ---- Text ----------------------------------------------------------------------------------------


def _similarity(args: argparse.Namespace) -> tuple[EncoderText, str]:
    from .values.text import EncoderText, Similarity

    check(bool(args.question.strip()), "--question must not be blank")
    encoder = _encoder(args, "mean")
    target = Similarity(encoder.embed(args.question, "question"))
    f = EncoderText(encoder, _passage(args), target, **_text_options(args))
    return f, f"similarity to “{args.question}”"


def _model_output(args: argparse.Namespace) -> tuple[EncoderText | CausalText | ServedText, str]:
    from .values.loading import is_decoder

    if args.task != "classify":
        return _causal(args)
    return _causal_class(args) if is_decoder(args.model) else _encoder_class(args)


def _causal(args: argparse.Namespace) -> tuple[CausalText | ServedText, str]:
    from .values.causal_scorers import AnswerLogprob, LogitDifference
    from .values.language import CausalText, load_causal

    if args.task == "label":
        scorer: LogitDifference | AnswerLogprob = LogitDifference(args.target, args.against)
        asked = f"logit of “{args.target}” minus that of “{args.against}”, next"
    else:
        scorer = AnswerLogprob(args.target)
        asked = f"log-probability of “{args.target}” after the text"
    if args.server is not None:
        return _served(args, scorer), asked
    model = load_causal(args.model, **_where(args))
    return CausalText(*model, _passage(args), scorer, **_text_options(args)), asked


def _served(args: argparse.Namespace, scorer: Scored) -> ServedText:
    from .values.loading import load_tokenizer
    from .values.served import ServedText
    from .values.server import Server

    names = ("api", "key", "concurrency", "most_requests", "most_tokens")
    options = {name: getattr(args, name) for name in names}
    server = Server(args.server, args.model, top=args.logprobs, **options)
    tokenizer = load_tokenizer(args.model if args.tokenizer is None else args.tokenizer)
    return ServedText(server, tokenizer, _passage(args), scorer, **_text_options(args))


def _causal_class(args: argparse.Namespace) -> tuple[CausalText, str]:
    from .values.causal_scorers import ClassLogit, ClassMargin, class_number
    from .values.language import CausalText, load_causal

    model, tokenizer = load_causal(args.model, classifier=True, **_where(args))
    text, options = _passage(args), _text_options(args)
    classes = _classes(model)
    if args.target is None:
        logits = CausalText(model, tokenizer, text, ClassLogit(), **options)
        label = int(logits(np.ones((1, logits.n), np.bool_)).argmax())
    else:
        label = class_number(_label(args.target, classes), classes)
    if args.against is None:
        scorer: ClassMargin | ClassLogit = ClassMargin(label)
    else:
        scorer = ClassLogit(label, _label(args.against, classes))
    f = CausalText(model, tokenizer, text, scorer, **options)
    return f, _margin(classes, label, args.against)


def _encoder_class(args: argparse.Namespace) -> tuple[EncoderText, str]:
    from .values.causal_scorers import class_number
    from .values.text import EncoderText, Margin

    encoder = _encoder(args, "logits")
    text, options = _passage(args), _text_options(args)
    classes = _classes(encoder.model)
    if args.target is None:
        logits = EncoderText(encoder, text, _as_they_are, **options)
        label = int(logits(np.ones((1, logits.n), np.bool_)).argmax())
    else:
        label = class_number(_label(args.target, classes), classes)
    other = None if args.against is None else class_number(_label(args.against, classes), classes)
    f = EncoderText(encoder, text, Margin(label, other), **options)
    return f, _margin(classes, label, args.against)


def _as_they_are(logits: torch.Tensor) -> torch.Tensor:
    return logits


def _classes(model: Any) -> tuple[str, ...]:
    return tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))


def _label(given: str, classes: tuple[str, ...]) -> str | int:
    """A class by its name, else by its number."""
    return int(given) if given not in classes and given.isdecimal() else given


def _margin(classes: tuple[str, ...], label: int, against: str | None) -> str:
    rest = "the largest other" if against is None else f"that of “{against}”"
    return f"logit of the class “{classes[label]}” minus {rest}"


def _encoder(args: argparse.Namespace, output: Output) -> Encoder:
    from .values.text import load_encoder, load_minilm

    if args.model is None:
        return load_minilm(**_where(args))
    return load_encoder(args.model, output=output, **_where(args))


def _where(args: argparse.Namespace) -> dict[str, Any]:
    return {"device": args.device, "dtype": getattr(torch, args.dtype)}


def _text_options(args: argparse.Namespace) -> dict[str, Any]:
    from .values.masking import MASKINGS

    own_token = args.mask not in MASKINGS
    return {
        "units": args.units,
        "masking": "replace" if own_token else args.mask,
        "mask_token": args.mask if own_token else None,
        "prefix": args.prefix,
        "suffix": args.suffix,
        "truncate": args.truncate,
    }


def _passage(args: argparse.Namespace) -> str:
    return example_passage() if args.text is None else _read("--text", args.text)


def _read(option: str, path: str) -> str:
    """A UTF-8 file, or standard input for "-"."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} must be UTF-8, got {path}: {error}") from None


# ---- Pairs of sentences --------------------------------------------------------------------------


def _heads_on_pairs(args: argparse.Namespace) -> tuple[ValueFunction, list[str]]:
    from .values.heads import sentence_heads

    check(
        args.task == "similarity" and args.question is None,
        "--text must be given with --heads and --question or --task {}",
        args.task,
    )
    pairs, related = sentence_pairs() if args.pairs is None else _pairs(args.pairs)
    encoder = _encoder(args, "mean")
    f = sentence_heads(pairs, related, encoder=encoder, threads=torch.get_num_threads())
    told = (
        "correlation of the pairs' cosines with those of the whole model"
        if related is None
        else "mean cosine of the related pairs minus that of the others"
    )
    where = "the example from scikit-learn" if args.pairs is None else f"from {args.pairs}"
    return f, [
        f"value:    {told}",
        f"pairs:    {len(pairs)}, {where}",
        f"features: {f.n} attention heads",
    ]


def _pairs(path: str) -> tuple[list[tuple[str, str]], list[bool] | None]:
    """Lines of two sentences, and of 1 for a related pair and 0 for another or no third column."""
    rows = [line.split("\t") for line in _read("--pairs", path).splitlines() if line.strip()]
    columns = {len(row) for row in rows}
    check(
        columns in ({2}, {3}) and all(row[2].strip() in ("0", "1") for row in rows if row[2:]),
        "--pairs must hold lines of two sentences, tab-separated, all with a third column 0 or 1 "
        "or all without, got {}",
        path,
    )
    related = [row[2].strip() == "1" for row in rows] if columns == {3} else None
    return [(row[0], row[1]) for row in rows], related
