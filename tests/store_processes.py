"""Runs that are killed, and many writers at once, in processes forked from this one, which has
imported everything once. Prints one line of JSON; test_stored.py starts it.

    python tests/store_processes.py killed|commands|writers FOLDER
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from stores import Toy, manifest, some_masks, some_values

from spex_core import cli, inputs, load, proxyspex
from spex_core.store import Store

BUDGET, N = 240, 12


class Counted(Toy):
    """A toy that takes its time, and counts where a killed process leaves the count. The batch
    that brings it above `hold` takes a minute."""

    def __init__(self, count: mmap.mmap, pause: float = 0.0005, hold: int = 10 * BUDGET):
        super().__init__(N)
        self.count, self.pause, self.hold = count, pause, hold

    def run(self, masks):
        begun = int.from_bytes(self.count[:8], "little") + len(masks)
        self.count[:8] = begun.to_bytes(8, "little")
        time.sleep(self.pause if begun <= self.hold else 60.0)
        return super().run(masks)


def explain(folder: Path, count: mmap.mmap):
    return proxyspex(Counted(count), budget=BUDGET, seed=0, store=folder)


def killed(folder: Path, times: int = 50) -> list[dict]:
    """kill -9 at random moments of a run, resume it here, compare it with one that was left
    alone."""
    count = mmap.mmap(-1, 8)
    whole = explain(folder / "whole", count)
    known = Store.open(folder / "whole").known()
    rng, rows = np.random.default_rng(0), []
    for i in range(times):
        count[:8] = bytes(8)
        child = os.fork()
        if not child:
            explain(folder / str(i), count)
            signal.pause()
        target = int(rng.integers(1, BUDGET))
        while int.from_bytes(count[:8], "little") < target:
            time.sleep(0.0001)
        time.sleep(rng.uniform(0, 0.002))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        begun = int.from_bytes(count[:8], "little")
        begun_store = (folder / str(i) / "manifest.json").exists()  # with the first values
        kept = len(Store.open(folder / str(i))) if begun_store else 0
        again = explain(folder / str(i), count)
        pairs = zip(Store.open(folder / str(i)).known(), known, strict=True)
        rows.append(
            {
                "begun": begun,
                "kept": kept,
                "evaluated": int.from_bytes(count[:8], "little"),
                "same values": all(np.array_equal(one, other) for one, other in pairs),
                "same result": torch.equal(again.transform.support, whole.transform.support)
                and torch.equal(again.transform.coefs, whole.transform.coefs)
                and again.report.r2 == whole.report.r2,
            }
        )
    return rows


def killed_commands(folder: Path, times: int = 5) -> list[dict]:
    """The same of `spex run`, which `spex resume` goes on with; every other one by Ctrl-C."""
    count = mmap.mmap(-1, 8)
    hold = [10 * BUDGET]
    inputs.value_function = lambda args: (Counted(count, 0.0, hold[0]), ["value:    a toy"])
    options = ["--budget", str(BUDGET), "--degree", "3", "--quiet"]
    rng, rows = np.random.default_rng(1), []
    for i in range(times + 1):
        run = folder / str(i)
        if not i:  # the one that is left alone
            cli.main(["run", str(run), *options])
            whole, known = load(run / "result.npz"), Store.open(run / "values").known()
            continue
        count[:8] = bytes(8)
        target = int(rng.integers(1, BUDGET // 2))
        child = os.fork()
        if not child:
            hold[0] = target
            os._exit(cli.main(["run", str(run), *options]))
        while int.from_bytes(count[:8], "little") <= target:
            time.sleep(0.0001)
        os.kill(child, signal.SIGINT if i % 2 else signal.SIGKILL)
        ended = os.waitpid(child, 0)[1]
        left = len(list((run / "values").glob("*.part")))
        code = cli.main(["resume", str(run), "--quiet"])
        again, pairs = load(run / "result.npz"), Store.open(run / "values").known()
        rows.append(
            {
                "ended": os.waitstatus_to_exitcode(ended),
                "left open": left,
                "code": code,
                "evaluated": int.from_bytes(count[:8], "little"),
                "same": torch.equal(again.transform.coefs, whole.transform.coefs)
                and all(np.array_equal(*pair) for pair in zip(pairs, known, strict=True)),
            }
        )
    return rows


def writers(folder: Path, count: int = 4) -> dict:
    """Processes that make one store at once, forked after it was written to, each with a part of
    the masks, and some in common."""
    masks, values = some_masks(70, 1000), some_values(1000)
    first = Store.open(folder / "run", manifest())
    first.append(masks[:100], values[:100])
    children = []
    for i in range(count):
        children.append(os.fork())
        if not children[-1]:
            store = first if i % 2 else Store.open(folder / "run", manifest())
            for start in range(0, 1000, 50):
                if start // 50 % count == i or start % 200 == 0:
                    store.append(masks[start : start + 50], values[start : start + 50])
            store.close()
            os._exit(0)
    ended = [os.waitpid(child, 0)[1] for child in children]
    first.append(masks[:3], values[:3])
    first.refresh()
    first.close()
    again = Store.open(folder / "run")
    found, read = first.lookup(masks)
    return {
        "ended": ended,
        "found": bool(found.all()),
        "same": bool((read == values).all()),
        "counts": [len(first), len(again)],
        "damaged": again.damaged,
        "shards": again.shards,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    modes = {"killed": killed, "commands": killed_commands, "writers": writers}
    print(json.dumps(modes[sys.argv[1]](Path(sys.argv[2]))))
