"""The directory of a run that `spex run` makes: how it was begun, its values, its result."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from .asktell import resume
from .errors import FormatError, check
from .explanation import load
from .store import Store
from .store_manifest import NAME

COMMAND, VALUES, RESULT = "command.json", "values", "result.npz"
EFFORT = {  # how the values are come by, which may change from one call to the next
    *("threads", "tokens", "retries", "wait", "timeout"),
    *("key", "concurrency", "most_requests", "most_tokens"),
}


def begin(folder: Path, options: dict[str, Any]) -> None:
    """Record the options of a run in its directory, new or of the same run.

    Raises: FormatError for a directory of something else; ValueError for one of another run.
    """
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"spex run: {folder} is not a directory")
    if (folder / COMMAND).exists():
        there, _ = recorded(folder)
        wrong = [
            f"{name} {there.get(name)!r} there, {value!r} asked"
            for name, value in options.items()
            if name not in EFFORT and there.get(name) != value
        ]
        check(
            not wrong,
            "spex run: DIR must be new, or of the same run; {} has another: {}",
            *(folder, "; ".join(wrong)),
        )
        return
    if folder.exists() and any(folder.iterdir()):
        raise FormatError(f"spex run: {folder} is not empty and has no {COMMAND}")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{COMMAND}.{os.getpid()}.tmp"
    command = {"directory": os.getcwd(), "options": options}
    try:
        unfinished.write_text(json.dumps(command, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, folder / COMMAND)
    finally:
        unfinished.unlink(missing_ok=True)


def recorded(folder: Path) -> tuple[dict[str, Any], str]:
    """How the run in a directory was begun: its options, and the directory that paths are from."""
    path = folder / COMMAND
    if not path.exists():
        check(
            values_of(folder) is None,
            "spex resume: {} was begun from Python: make the same call again, or go on with "
            "spex_core.resume",
            folder,
        )
        raise FileNotFoundError(f"no run in {folder}: it has no {COMMAND}")
    try:
        command = json.loads(path.read_text(encoding="utf-8"))
        return dict(command["options"]), str(command["directory"])
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"spex: {path} is damaged ({error})") from error


def values_of(folder: Path) -> Path | None:
    """The store of the run in a directory, or of a call from Python; None if it has none yet."""
    for path in (folder / VALUES, folder):
        if (path / NAME).exists():
            return path
    return None


def status_lines(folder: Path, *, fit: bool = False) -> list[str]:
    """What there is; with `fit`, the report of a fit of it."""
    values = values_of(folder)
    if values is None:
        recorded(folder)  # or an error
        return ["values    none yet"]
    run, store = resume(values), Store.open(values)
    recipe, counts = run.recipe, run.counts
    options = ", ".join(f"{name} {value}" for name, value in recipe.options.items())
    size = sum(path.stat().st_size for path in values.iterdir())
    further = len(store) - counts["cached"]
    lines = [
        f"run       {recipe.name} on {len(run.features):,} features, budget {recipe.budget:,}, "
        f"seed {recipe.seed}",
        f"options   {options}",
        f"function  {run.fingerprint}",
        f"values    {counts['cached']:,} of {counts['unique']:,} masks "
        f"({counts['cached'] / counts['unique']:.1%}), {counts['missing']:,} missing"
        + (f", {further:,} others" if further else "")
        + (f", {counts['censored']:,} only bounds" if counts["censored"] else ""),
        f"files     {store.shards:,} shards, {size / 1e6:,.1f} MB, {store.damaged:,} damaged "
        "records",
    ]
    result = folder / RESULT
    if result.exists():
        with contextlib.suppress(FormatError):
            lines.append(f"result    {result}, R2 {load(result).report.r2:.4f}")
    elif (folder / COMMAND).exists():
        lines.append(f"result    none yet: spex resume {folder}")
    if fit:
        found = run.fit()
        for ex in found if isinstance(found, list) else [found]:
            lines += ["", str(ex.report)]
    return lines


def export(folder: Path, out: Path) -> int:
    """The values of a run as Parquet; how many."""
    from .store_parquet import export_parquet

    values = values_of(folder)
    if values is None:
        recorded(folder)  # or an error
    if values is None:
        raise ValueError(f"spex export: {folder} has no values yet")
    return export_parquet(Store.open(values), out)
