"""`head_scale` and `mask_embed`: what a mask does inside a forward pass, beside plain torch.

    python bench/bench_head_scale.py    # seconds; writes bench/results/head_scale.json

The rival of `head_scale` gathers a gate for every row and multiplies; that of `mask_embed` fills or
joins the embeddings one mask at a time. On a CPU both ops are their reference; on a GPU they are
Triton kernels. CPU seconds of one thread, in turns; on a GPU, seconds of the clock.
"""

from __future__ import annotations

import statistics

import harness
import numpy as np
import torch
from race import Calls, race, ratio

from spex_core import masks as bits
from spex_core import ops, ops_inference

SHAPES = [(12, 32), (32, 64), (32, 128)]  # heads and their width: MiniLM, small and large decoders
ROWS, MASKS, TOKENS, WIDTH = 2048, 16, 128, 384


def heads(device: str) -> list[harness.Row]:
    rows = []
    for count, width in SHAPES:
        x = torch.randn(ROWS, count, width, device=device)
        masks = ops.uniform_masks(MASKS, count, seed=0).to(device)
        keep = torch.from_numpy(bits.unpack(masks.cpu(), count)).to(device)
        sequence = torch.arange(MASKS, dtype=torch.int32, device=device)
        sequence = sequence.repeat_interleave(ROWS // MASKS)

        def gather(x=x, keep=keep, sequence=sequence):
            return done(x * keep[sequence.long()].to(x.dtype)[:, :, None])

        def ours(x=x, masks=masks, sequence=sequence):
            return done(ops_inference.head_scale(x, masks, sequence))

        assert torch.equal(ours(), gather())
        rows.append(row(f"head_scale, {count} heads of {width}", device, x, gather, ours))
    return rows


def embeddings(device: str) -> list[harness.Row]:
    table = torch.randn(TOKENS, WIDTH, device=device)
    baseline = torch.zeros(WIDTH, device=device)
    owner = torch.arange(TOKENS, device=device)
    masks = ops.uniform_masks(MASKS, TOKENS, seed=0).to(device)
    keep = torch.from_numpy(bits.unpack(masks.cpu(), TOKENS)).to(device)
    kept = torch.from_numpy(np.append(0, keep.sum(1).cpu().numpy().cumsum())).to(device)
    asked = masks, table, baseline, owner, TOKENS

    def fill():
        return done(torch.stack([torch.where(mask[:, None], table, baseline) for mask in keep]))

    def replaced():
        return done(ops_inference.mask_embed(*asked))

    def join():
        return done(torch.cat([table[mask] for mask in keep]))

    def dropped():
        return done(ops_inference.mask_embed(masks, table, None, owner, TOKENS, starts=kept))

    assert torch.equal(fill(), replaced())
    assert torch.equal(join(), dropped())
    size = torch.empty(MASKS, TOKENS, WIDTH)
    return [
        row(f"mask_embed, replaced, {TOKENS} tokens of {WIDTH}", device, size, fill, replaced),
        row(f"mask_embed, dropped, {TOKENS} tokens of {WIDTH}", device, size, join, dropped),
    ]


def done(result: torch.Tensor) -> torch.Tensor:
    if result.device.type == "cuda":
        torch.cuda.synchronize()
    return result


def row(name: str, device: str, output: torch.Tensor, plain, ours) -> harness.Row:
    copy = output.to(device)
    calls: Calls = {"plain": plain, "ours": ours, "copy": lambda: done(copy.clone())}
    times = race(calls, threads=1 if device == "cpu" else 2)
    return {
        "op": name,
        "device": device,
        "us": 1e6 * statistics.median(times["ours"]),
        "plain us": 1e6 * statistics.median(times["plain"]),
        "copy us": 1e6 * statistics.median(times["copy"]),
        "x faster": ratio(times, "plain", "ours"),
    }


def main() -> None:
    found = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        found += heads(device) + embeddings(device)
    harness.table(found, "What a mask does inside a forward pass")
    harness.write("head_scale", found, rows_of_a_pack=ROWS, masks=MASKS)


if __name__ == "__main__":
    main()
