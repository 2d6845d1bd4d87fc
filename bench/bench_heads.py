"""The 72 attention heads of MiniLM under 1,024 masks: many masks in one batch, against one
forward pass for each mask.

    python bench/bench_heads.py    # about two minutes; writes bench/results/heads.json

Each mask's value is the cosine of the embedding of a passage of 92 tokens under the mask and of the
whole model's. The rival is what one would write by hand: a hook before each output projection that
multiplies the heads by the mask, and a loop. Both see the same masks, in turns of 128. CPU seconds
of one thread; on a GPU, seconds of the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import harness
import numpy as np
import torch

from spex_core.demo import example_passage
from spex_core.values.components import Components
from spex_core.values.heads import mean_embedding
from spex_core.values.text import load_minilm

MASKS, TURN, TOKENS = 1024, 128, 92
ROWS = (1, 8, 22, 64)  # masks in a forward pass; 22 are the budget of a CPU


def rival(model: torch.nn.Module, ids: torch.Tensor) -> Callable[[np.ndarray], torch.Tensor]:
    """Embeddings (masks, d) by a loop over masks; hooks as one would write them by hand."""
    current = {}
    for number, layer in enumerate(model.encoder.layer):

        def hook(_, args, number=number):
            heads = args[0].unflatten(-1, (12, 32))
            return ((heads * current["mask"][12 * number : 12 * number + 12, None]).flatten(-2),)

        layer.attention.output.dense.register_forward_pre_hook(hook)

    @torch.inference_mode()
    def embed(masks: np.ndarray) -> torch.Tensor:
        rows = []
        for mask in torch.from_numpy(masks).float().to(ids.device):
            current["mask"] = mask
            rows.append(mean_embedding(model(input_ids=ids), None))
        return torch.cat(rows)

    return embed


def measure(device: str) -> list[harness.Row]:
    """A row for each number of masks in a forward pass."""
    clock = time.process_time if device == "cpu" else _seconds_on_gpu
    encoder = load_minilm(device)
    text = encoder.tokenizer(example_passage(), truncation=True, max_length=TOKENS)
    ids = torch.tensor([text["input_ids"]], device=device)
    one_by_one = rival(load_minilm(device).model, ids)
    whole = one_by_one(np.ones((1, 72), np.bool_))[0]
    fs = {
        rows: Components(
            *(encoder.model, {"input_ids": ids}, mean_embedding),
            combine=lambda e: e[:, 0] @ whole,
            tokens=rows * TOKENS,
        )
        for rows in ROWS
    }
    calls = {"one by one": lambda m: (one_by_one(m) @ whole).cpu().numpy(), **fs}
    masks = np.random.default_rng(0).random((MASKS, 72)) < 0.5
    spent, values = {name: [] for name in calls}, {name: [] for name in calls}
    for call in calls.values():
        call(masks[:TURN])  # warm
    for start in range(0, MASKS, TURN):
        for name, call in calls.items():
            began = clock()
            values[name].append(call(masks[start : start + TURN]))
            spent[name].append(clock() - began)
    want = np.concatenate(values.pop("one by one"))
    base = spent.pop("one by one")
    return [
        {
            "device": device,
            "masks in a pass": rows,
            "masks/s one by one": MASKS / sum(base),
            "masks/s": MASKS / sum(spent[rows]),
            "x faster": statistics.median(a / b for a, b in zip(base, spent[rows], strict=True)),
            "largest difference": float(np.abs(np.concatenate(values[rows]) - want).max()),
        }
        for rows in ROWS
    ]


def _seconds_on_gpu() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    torch.set_num_threads(1)
    rows = measure("cpu")
    if torch.cuda.is_available():
        rows += measure("cuda")
    harness.table(rows, f"72 heads of MiniLM, {MASKS} masks, {TOKENS} tokens")
    wrong = [row for row in rows if row["device"] == "cpu" and row["largest difference"] > 1e-6]
    if wrong:
        raise AssertionError(f"not one by one: {wrong}")
    harness.write("heads", rows, threads=1, tokens=TOKENS, masks=MASKS)


if __name__ == "__main__":
    main()
