"""`score_last` and `token_logprobs`: scores without the logits of a whole vocabulary, beside the
logits that a language model's head would make.

    python bench/bench_score_last.py    # half a minute; writes bench/results/score_last.json

Both rivals multiply the last hidden states with the whole head first. CPU seconds of one thread, in
turns; on a GPU, seconds of the clock.
"""

from __future__ import annotations

import statistics

import harness
import torch
from race import Calls, race, ratio

from spex_core import ops_inference

ROWS, TOKENS = 64, 4096  # masks that are scored, tokens of their pack
HEADS = [(384, 30_522), (512, 32_000), (1024, 128_256)]  # width, vocabulary


def case(width: int, vocabulary: int, device: str) -> list[harness.Row]:
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, width, device=device)
    head = torch.randn(vocabulary, width, device=device) / width**0.5
    rows = torch.arange(63, TOKENS, TOKENS // ROWS, device=device)
    two = head[[17, 42]]
    targets = torch.arange(ROWS, device=device)

    def both_logits():
        return done((hidden[rows] @ head.T)[:, [17, 42]])

    def score():
        return done(ops_inference.score_last(hidden, rows, two))

    def log_softmax():
        found = torch.log_softmax(hidden[rows] @ head.T, 1)
        return done(found.gather(1, targets[:, None])[:, 0])

    def logprobs():
        return done(ops_inference.token_logprobs(hidden, rows, head, targets))

    torch.testing.assert_close(score(), both_logits(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logprobs(), log_softmax(), rtol=1e-4, atol=1e-4)
    return [
        row("score_last", width, vocabulary, device, both_logits, score),
        row("token_logprobs", width, vocabulary, device, log_softmax, logprobs),
    ]


def done(result: torch.Tensor) -> torch.Tensor:
    if result.device.type == "cuda":
        torch.cuda.synchronize()
    return result


def row(name: str, width: int, vocabulary: int, device: str, plain, ours) -> harness.Row:
    calls: Calls = {"plain": plain, "ours": ours}
    times = race(calls, threads=1 if device == "cpu" else 2)
    return {
        "op": name,
        "device": device,
        "width": width,
        "vocabulary": vocabulary,
        "us": 1e6 * statistics.median(times["ours"]),
        "all logits us": 1e6 * statistics.median(times["plain"]),
        "x faster": ratio(times, "plain", "ours"),
    }


def main() -> None:
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    found = [row for device in devices for size in HEADS for row in case(*size, device)]
    harness.table(found, f"{ROWS} scores of a pack of {TOKENS:,} tokens")
    harness.write("score_last", found, scores=ROWS, tokens=TOKENS)


if __name__ == "__main__":
    main()
