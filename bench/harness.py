"""What every bench shares: who measured, CPU seconds, tables, result files, the peers' process."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spex_core import native, ops
from spex_core.plan import SamplingPlan

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]


def about() -> Row:
    """Machine, versions, commit, load and command: what a figure means nothing without."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE
    )
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "isa": native.best_isa(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def write(name: str, rows: Sequence[Row], **more: Any) -> None:
    """bench/results/<name>.json: about(), what else there is to say, the rows."""
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    head = json.dumps(about() | more, indent=1).removesuffix("\n}")
    path.write_text(f'{head},\n "rows": [\n  {lines}\n ]\n}}\n')
    print(f"wrote {os.path.relpath(path)}")


def table(rows: Sequence[Row], title: str = "") -> None:
    """The rows as a table, one column for each key that occurs in them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[text(row.get(key, "")) for key in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print(f"\n{title}" if title else "")
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    sys.stdout.flush()


def text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def mean(rows: Sequence[Row]) -> Row:
    """Column means of rows that have the same keys; what is no number is taken from the first."""
    number = (int, float)
    return {
        key: sum(row[key] for row in rows) / len(rows) if isinstance(value, number) else value
        for key, value in rows[0].items()
    }


class Stopwatch:
    """CPU seconds of this process, all its threads, by stage: `with watch("plan"): ...`."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.clock, self.spent = clock, {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self.clock()
        yield
        self.spent[stage] = self.spent.get(stage, 0.0) + self.clock() - start


def peak_mb() -> float:
    """The most memory this process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_new_process(function: Callable[..., Row], **arguments: Any) -> Row:
    """function(**arguments), of a bench script, in a fresh interpreter: peak memory never falls."""
    script = Path(function.__code__.co_filename)
    code = (
        f"import json, sys; sys.path.insert(0, {str(HERE)!r}); import {script.stem} as bench; "
        f"print(json.dumps(bench.{function.__name__}(**{arguments!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{function.__name__}({arguments}) failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def unseen_masks(plan: SamplingPlan, count: int, *, seed: int = 2**40) -> Tensor:
    """Up to `count` distinct uniform masks that are not rows of the plan, packed."""
    draw = ops.uniform_masks(8 * count, plan.n, seed=seed)
    keys, first = np.unique(plan.keys(draw), return_index=True)
    return draw[torch.from_numpy(np.sort(first[~np.isin(keys, plan.row_keys())])[:count])]


class Peers:
    """The public implementations, in a process of their own: `script`, as peers.py.

    `why_not` is None, or says why there are none.
    """

    def __init__(self, script: str = "peers.py") -> None:
        self.why_not = None
        python = os.environ.get("SPEX_PEERS_PYTHON")
        if not python:
            self.why_not = "SPEX_PEERS_PYTHON names no interpreter that has the peers installed"
            return
        # The peers' best setting: their parallel kernels share out a single codeword.
        limits = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [python, str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | limits,
        )
        self.versions = self.answer()

    def run(self, **case: Any) -> Row:
        """One case of the script; its answer, or RuntimeError with the peer's."""
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Ends the process, which would otherwise wait for cases as long as this one lives."""
        self.process.stdin.close()
        self.process.wait()

    def answer(self) -> Row:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peers' process ended with status {self.process.wait()}")
        row = json.loads(line)
        if "error" in row:
            raise RuntimeError(row["error"])
        return row
