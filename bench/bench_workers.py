"""One value function in two workers against one, on a machine of two cores.

    python bench/bench_workers.py       # two minutes on two cores that are otherwise idle

A randomly initialised Llama-like model (d = 256, 2 layers, float32) behind `CausalText`: 96
words, uniform masks, one torch thread for each worker. Evaluated in this process, by one worker and
by two, of Ray and as plain processes, one after the other in each round. Every value has to be the
same to the bit. The least seconds of the rounds: by the clock, and CPU seconds of the busiest
process, which say how evenly the work is dealt on a machine that has other work too. Ratios are one
worker over two; `start` is until a worker has answered for the first time, Ray's own included.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from harness import Row, table, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from spex_core import ops
from spex_core.values.causal_scorers import LogitDifference
from spex_core.values.distributed import Distributed
from spex_core.values.language import CausalText

WORDS, MASKS, ROUNDS = 96, 4000, 2
GOAL = 1.7  # one worker over two
TICKS = os.sysconf("SC_CLK_TCK")


def value_function() -> CausalText:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    words = {f"w{i}": i for i in range(WORDS + 3)} | {"<unk>": WORDS + 3}
    tokens = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return CausalText(
        LlamaForCausalLM(config).eval(),
        PreTrainedTokenizerFast(tokenizer_object=tokens),
        " ".join(f"w{i}" for i in range(WORDS)),
        LogitDifference("w97", "w98"),
        prefix="w96 ",
    )


def seconds(f: Any, masks: torch.Tensor) -> tuple[float, float, np.ndarray]:
    """By the clock, CPU seconds of the busiest process, values."""
    start, before = time.perf_counter(), cpu_seconds()
    values = f.evaluate(masks)
    clock, after = time.perf_counter() - start, cpu_seconds()
    return clock, max(after[pid] - before.get(pid, 0.0) for pid in after), values


def cpu_seconds() -> dict[int, float]:
    """Of this process and all that descend from it, by number."""
    parents, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            spent[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {pid: spent[pid] for pid in ours}


def main() -> None:
    f, masks, rows = value_function(), ops.uniform_masks(MASKS, WORDS, seed=0), []
    begin = time.perf_counter()
    # One core more than there is, for the one worker that is idle while the two work.
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray_start = time.perf_counter() - begin
    for executor in ("ray", "processes"):
        pools = [Distributed(value_function, executor=executor, workers=k) for k in (1, 2)]
        begin = time.perf_counter()
        for pool in pools:
            pool.evaluate(masks[:64])
        start = (time.perf_counter() - begin) / len(pools)
        rounds = []
        for _ in range(ROUNDS):
            timed = [seconds(each, masks) for each in (f, *pools)]
            assert all((values == timed[0][2]).all() for *_, values in timed), "other values"
            rounds.append([spent[:2] for spent in timed])
        (here, here_cpu), (one, one_cpu), (two, two_cpu) = np.min(rounds, axis=0).tolist()
        row: Row = {"executor": executor, "here": here, "one": one, "two": two, "ratio": one / two}
        row |= {"CPU here": here_cpu, "CPU one": one_cpu, "CPU two": two_cpu}
        row |= {"CPU ratio": one_cpu / two_cpu, "goal": GOAL}
        rows.append(row | {"start": start + ray_start * (executor == "ray")})
        for pool in pools:
            pool.close()
    ray.shutdown()
    table(rows, f"{MASKS} masks of {WORDS} words")
    write("workers", rows)


if __name__ == "__main__":
    main()
