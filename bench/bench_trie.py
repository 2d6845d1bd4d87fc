"""Masks of a text before a causal language model: one trie against packed and padded sequences.

    python bench/bench_trie.py       # four CPU minutes

A randomly initialised Llama-like model (d = 512, 4 layers, 8 heads on 4 keys, a vocabulary of
8,000, float32), 48 features of two tokens, 4 tokens after them, with and without 97 tokens before
them. A run of neighbours in the sorted masks of a SPEX plan (staircase hash or independent columns)
or of uniform and branching samples goes through the model

    trie      as one trie (values/trie.py), the difference of two logits at each last token
    packed    end to end without padding (values/packing.py), the same
    padded    as transformers does it by default: padded on the right, all logits

one after the other in each round, on one thread. First all three must agree: `error` is relative
to the largest value. CPU seconds, the least
of the rounds; `over` is masks per second against the other two, beside the ratio of the tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from harness import Row, table, write
from transformers import LlamaConfig, LlamaForCausalLM

from spex_core import ops_inference as ops
from spex_core.budget import least_budget, plan_spex, plan_uniform
from spex_core.plan import SamplingPlan
from spex_core.planner import distinct
from spex_core.values.choices import Choices
from spex_core.values.decoders import Decoder
from spex_core.values.tokens import TokenLayout

N, EACH, SUFFIX = 48, 2, 4
RUN = 36  # masks that go through the model together
ROUNDS = 7
GOALS = {0: (1.4, 2.0), 97: (3.0, 4.5)}  # prefix -> trie over packed and padded, staircase masks
B = 7  # bits a group of the SPEX plans


def plans() -> dict[str, SamplingPlan]:
    budget = least_budget(N, 5, B)
    return {
        "SPEX, staircase": plan_spex(N, budget, prefix_sharing=True),
        "SPEX, independent": plan_spex(N, budget, prefix_sharing=False),
        "uniform": plan_uniform(N, 4000),
        "branching": plan_uniform(N, 4000, prefix_sharing=True),
    }


def run_of(plan: SamplingPlan) -> torch.Tensor:
    """Neighbours from the middle of the plan's distinct masks: packed (RUN, W)."""
    masks = plan.masks(0, plan.total)
    first, _ = distinct(masks)
    start = (len(first) - RUN) // 2
    return masks[torch.from_numpy(first[start : start + RUN])].contiguous()


def choices(prefix: int, vocabulary: int) -> Choices:
    owner = [N] * prefix + [j for j in range(N) for _ in range(EACH)] + [N] * SUFFIX
    ids = np.random.default_rng(0).integers(3, vocabulary, len(owner))
    return Choices(TokenLayout(ids, np.array(owner), tuple(map(str, range(N)))), None, False)


def padded_batch(masks: torch.Tensor, tokens: Choices) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and attention_mask, both (T, longest), padded on the right."""
    packed = ops.pack_tokens(masks, *tokens.tokens(torch.device("cpu")), N)
    rows = packed.input_ids.split(packed.starts.diff().tolist())
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    longest = torch.arange(ids.shape[1])
    return ids, (longest < packed.starts.diff()[:, None]).long()


def ways(
    model: LlamaForCausalLM, masks: torch.Tensor, tokens: Choices
) -> tuple[dict[str, Callable[[], torch.Tensor]], dict[str, int]]:
    """The three ways, each from packed masks to values float32 (T,), and their tokens."""
    weight = (model.lm_head.weight[5] - model.lm_head.weight[6])[None].detach()

    def through(decoder: Decoder) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            hidden, rows = decoder.states(masks, tokens)
            return ops.score_last(hidden, rows[:, 0].contiguous(), weight)[:, 0]

        return run

    @torch.inference_mode()
    def padded() -> torch.Tensor:
        ids, attended = padded_batch(masks, tokens)
        logits = model(input_ids=ids, attention_mask=attended).logits
        last = logits[torch.arange(len(ids)), attended.sum(1) - 1]
        return last[:, 5] - last[:, 6]

    packed = ops.pack_tokens(masks, *tokens.tokens(torch.device("cpu")), N)
    trie = ops.pack_trie(masks, *tokens.tokens(torch.device("cpu")), N)
    sizes = {
        "trie": len(trie.input_ids),
        "packed": len(packed.input_ids),
        "padded": padded_batch(masks, tokens)[0].numel(),
    }
    made = {how: through(Decoder(model, how)) for how in ("trie", "packed")}
    return made | {"padded": padded}, sizes


def measure(model: LlamaForCausalLM, name: str, plan: SamplingPlan, prefix: int) -> Row:
    masks, tokens = run_of(plan), choices(prefix, model.config.vocab_size)
    run, sizes = ways(model, masks, tokens)
    values = {way: call() for way, call in run.items()}
    largest = float(values["trie"].abs().max())
    error = max(float((values[way] - values["trie"]).abs().max()) for way in run) / largest
    if not error < 1e-5 or not values["trie"].std() > 0.1 * largest:
        raise AssertionError(f"the ways differ by {error} of the largest value")
    seconds = dict.fromkeys(run, float("inf"))
    for _ in range(ROUNDS):
        for way, call in run.items():
            start = time.thread_time()
            call()
            seconds[way] = min(seconds[way], time.thread_time() - start)
    row: Row = {"masks": name, "prefix": prefix, "rows": len(masks), "error": error}
    row |= {f"{way} tokens": size for way, size in sizes.items()}
    row |= {f"{way} masks/s": len(masks) / spent for way, spent in seconds.items()}
    for way in ("packed", "padded"):
        row[f"over {way}"] = seconds[way] / seconds["trie"]
        row[f"tokens of {way}"] = sizes[way] / sizes["trie"]
    return row


def exactness() -> Row:
    """The largest difference of hidden states from separate passes in float64, and their size."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(settings()).double().eval()
    masks, tokens = run_of(plans()["SPEX, staircase"]), choices(97, 8000)
    trie, separate = (Decoder(model, how).states(masks, tokens) for how in ("trie", "separate"))
    ours, theirs = trie.hidden[trie.rows[:, 0]], separate.hidden[separate.rows[:, 0]]
    return {"error": float((ours - theirs).abs().max()), "largest": float(theirs.abs().max())}


def settings() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=8000,
        max_position_embeddings=512,
        initializer_range=0.1,
    )


def main() -> None:
    torch.set_num_threads(1)
    exact = exactness()
    print(f"float64, trie against separate passes: {exact['error']:.1e} of {exact['largest']:.1f}")
    torch.manual_seed(0)
    model = LlamaForCausalLM(settings()).eval()
    rows = [
        measure(model, name, plan, prefix) for name, plan in plans().items() for prefix in GOALS
    ]
    table(rows, f"{RUN} masks in one forward pass, CPU seconds, one thread, least of {ROUNDS}")
    verdicts = []
    for prefix, goals in GOALS.items():
        (row,) = [r for r in rows if (r["masks"], r["prefix"]) == ("SPEX, staircase", prefix)]
        for way, goal in zip(("packed", "padded"), goals, strict=True):
            ratio = row[f"over {way}"]
            met = "met" if ratio >= goal else "MISSED"
            verdicts.append(f"prefix {prefix}: {ratio:.2f} times {way}, target {goal}: {met}")
    print("\n".join(verdicts))
    write("trie", rows, float64=exact, verdicts=verdicts)


if __name__ == "__main__":
    main()
