"""Masked inference: MiniLM on real text, words removed, beside what people write by hand.

The rival joins the words that are left to a string, tokenises the strings and calls the model on a
padded batch of 32. Values are checked against plain calls, one mask at a time, before anything is
timed. All variants take turns in one process, on one thread, in CPU seconds.
"""

from __future__ import annotations

import argparse
import re
import statistics

import numpy as np
import torch
from harness import Row, Stopwatch, in_new_process, peak_mb, table, write

from spex_core import masks as bits
from spex_core import ops
from spex_core.evaluate import evaluate
from spex_core.plan import plan_uniform
from spex_core.values.text import EncoderText, Similarity, as_encoder, load_minilm

QUESTION = "Which measurements does the data set describe?"
ROWS = 32  # of a padded batch
NEED = {64: 1.3, 128: 1.25, 256: 1.4, "bfloat16": 2.3}


def passage(words: int) -> str:
    """The first words of what scikit-learn says of its data sets, tables and citations left out."""
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

    texts = [load().DESCR for load in (load_breast_cancer, load_wine, load_diabetes)]
    parts = [" ".join(p.split()) for text in texts for p in re.split(r"\n\s*\n", text)]
    prose = [p for p in parts if re.match("[A-Z]", p) and p[-1] in ".:" and p.count(" ") >= 12]
    found = " ".join(prose).split()
    assert len(found) >= words, len(found)
    return " ".join(found[:words])


def ours(text: str, dtype: torch.dtype, target: torch.Tensor, tokens: int) -> EncoderText:
    minilm = load_minilm(dtype=dtype)
    encoder = as_encoder(minilm.tokenizer, minilm.model, max_tokens=512)  # 349 at 256 words
    f = EncoderText(encoder, text, Similarity(target), threads=1)
    f.tokens = tokens
    return f


def naive(f: EncoderText, text: str, masks: np.ndarray) -> np.ndarray:
    """Strings, tokenised, in padded batches."""
    words, tokenizer, model = text.split(), f.encoder.tokenizer, f.encoder.model
    values = []
    with torch.inference_mode():
        for start in range(0, len(masks), ROWS):
            strings = [
                " ".join(word for word, there in zip(words, mask, strict=True) if there)
                for mask in masks[start : start + ROWS]
            ]
            batch = tokenizer(strings, padding=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state.float()
            keep = batch["attention_mask"][..., None]
            values.append(f.scorer((hidden * keep).sum(1) / keep.sum(1)))
    return torch.cat(values).numpy()


def one_by_one(f: EncoderText, masks: np.ndarray) -> np.ndarray:
    """The plain model on the ids that a mask keeps."""
    values, layout = [], f.layout
    with torch.inference_mode():
        for mask in np.append(masks, np.ones((len(masks), 1), bool), axis=1):
            ids = torch.from_numpy(layout.ids[mask[layout.owner]])[None]
            hidden = f.encoder.model(input_ids=ids).last_hidden_state.float()
            values.append(f.scorer(hidden.mean(1)))
    return torch.cat(values).numpy()


def case(words: int, count: int, rounds: int, tokens: int) -> Row:
    text = passage(words)
    target = load_minilm().embed(QUESTION)
    full = ours(text, torch.float32, target, tokens)
    half = ours(text, torch.bfloat16, target, tokens)
    packed = ops.uniform_masks(count, words, seed=1)
    masks = bits.unpack(packed, words)

    some = slice(0, 64)
    truth = one_by_one(full, masks[some])
    error = float(np.abs(full.evaluate(packed)[some] - truth).max())
    assert error <= 1e-6, error
    spread = full.evaluate(packed).std()
    noise = float((half.evaluate(packed) - full.evaluate(packed)).std() / spread)
    naive(full, text, masks[some])

    ways = {
        "naive": lambda: naive(full, text, masks),
        "float32": lambda: full.evaluate(packed),
        "naive bfloat16": lambda: naive(half, text, masks),
        "bfloat16": lambda: half.evaluate(packed),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            watch = Stopwatch()
            with watch(way):
                run()
            seconds[way].append(watch.spent[way])
    least = {way: min(spent) for way, spent in seconds.items()}
    ratio = {
        way: statistics.median(
            slow / fast for slow, fast in zip(seconds["naive"], seconds[way], strict=True)
        )
        for way in ways
    }
    return {
        "words": words,
        "tokens": full.layout.tokens,
        "masks": count,
        "backend": full.backend,
        "naive_per_s": count / least["naive"],
        "float32_per_s": count / least["float32"],
        "bfloat16_per_s": count / least["bfloat16"],
        "float32_faster": ratio["float32"],
        "bfloat16_faster": ratio["bfloat16"],
        "naive_bfloat16_faster": ratio["naive bfloat16"],
        "error": error,
        "bfloat16_noise": noise,
        "host_us": host_microseconds(full, words),
    }


def host_microseconds(f: EncoderText, words: int) -> float:
    """From bits to ids, a mask: the least of ten."""
    packed = ops.uniform_masks(4096, words, seed=2)
    watches = [Stopwatch() for _ in range(10)]
    for watch in watches:
        with watch("host"):
            f.cost(packed)
            f.masker.pack(packed)
    return 1e6 * min(watch.spent["host"] for watch in watches) / len(packed)


def memory(count: int) -> Row:
    """The peak of a process that evaluates `count` masks of a text of 32 words."""
    torch.set_num_threads(1)
    f = ours(passage(32), torch.float32, torch.ones(384), 1024)
    everything = np.ones((1, f.n), bool)
    f(everything)
    before = peak_mb()
    evaluate(f, plan_uniform(f.n, count))
    return {"masks": count, "before_mb": before, "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--masks", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1024, help="the budget of a pack")
    parser.add_argument("--most", type=int, default=100_000, help="masks of the memory run")
    parser.add_argument("--dry", action="store_true", help="write no result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [case(words, args.masks, args.rounds, args.tokens) for words in (64, 128, 256)]
    for row in rows:
        row["reached"] = (
            row["float32_faster"] >= NEED[row["words"]]
            and row["bfloat16_faster"] >= NEED["bfloat16"]
            and row["bfloat16_noise"] < 0.01
        )
    table(rows, "MiniLM, words removed: masks per CPU second, one thread")
    peaks = (
        [in_new_process(memory, count=count) for count in (1000, args.most)] if args.most else []
    )
    table(peaks, "memory")
    if not args.dry:
        write("inference", rows, need={str(k): v for k, v in NEED.items()}, memory=peaks)


if __name__ == "__main__":
    main()
