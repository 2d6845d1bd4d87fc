"""How far a long evaluation is: a bar on a terminal, else a line for every tenth."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from .evaluate import Progress


@contextlib.contextmanager
def progress(unit: str, *, quiet: bool = False) -> Iterator[Progress | None]:
    """What to call as show(done, total), in `unit`; None if quiet. Both show the time that is left.

    Without tqdm there are lines on a terminal too.
    """
    if quiet:
        yield None
        return
    tqdm = _tqdm() if sys.stderr.isatty() else None
    if tqdm is None:
        yield lines(unit)
        return
    with tqdm(desc="model", unit=f" {unit}", unit_scale=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def lines(unit: str) -> Progress:
    start, tenths = time.perf_counter(), 0

    def show(done: int, total: int) -> None:
        nonlocal tenths
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            spent = time.perf_counter() - start
            print(
                f"spex: {done:,} of {total:,} {unit}, {done / spent:,.0f} a second, "
                f"{spent * (total / done - 1):.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return show


def _tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
