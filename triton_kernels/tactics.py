"""With which block sizes and warps a kernel is launched: the first of its tactics, or with
SPEX_TUNE=1 (backend.tuning) the fastest on this device at this size.

A tactic decides about speed only: no bit of a result depends on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import triton
from torch import Tensor

from ..backend import tuning
from . import on_device_of

Tactic = dict[str, int]  # BLOCK_* and num_warps, as a kernel takes them

_known: dict[str, int] = {}  # what tuned files and this process have measured


def launch(
    name: str,
    tactics: Sequence[Tactic],
    size: Sequence[int],
    run: Callable[[Tactic], object],
    x: Tensor,
) -> None:
    """run(tactic), on the device of x. `run` must give the same result however often it runs.

    Args: name: the kernel. size: what else decides about speed; rounded up to powers of two.
    """
    with on_device_of(x):
        run(tactics[0] if not tuning() else tactics[fastest(name, tactics, size, run, x)])


def fastest(
    name: str,
    tactics: Sequence[Tactic],
    size: Sequence[int],
    run: Callable[[Tactic], object],
    x: Tensor,
) -> int:
    """The place of the fastest tactic, from the cache or by trying them all."""
    where = torch.cuda.get_device_name(x.device) if x.is_cuda else "interpreter"
    rounded = [triton.next_power_of_2(extent) for extent in size]
    key = json.dumps([where, triton.__version__, name, tactics, rounded])
    if not _known and cache_file().exists():
        _known.update(json.loads(cache_file().read_text(encoding="utf-8")))
    if key not in _known:
        times = [milliseconds(lambda tactic=tactic: run(tactic)) for tactic in tactics]
        _known[key] = times.index(min(times))
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        part = cache_file().with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(_known, indent=1), encoding="utf-8")
        part.replace(cache_file())
    return _known[key]


def milliseconds(call: Callable[[], object]) -> float:
    return triton.testing.do_bench(call, warmup=5, rep=20, return_mode="median")


def cache_file() -> Path:
    """Where measured choices are kept, beside what Triton compiled."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        / "spex-core"
        / "tactics.json"
    )
