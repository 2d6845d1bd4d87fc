"""Masked inference: MiniLM on real text, words removed, beside what people write by hand.

The rival joins the words that are left to a string, tokenises the strings and calls the model on a
padded batch of 32. Values are checked against plain calls, one mask at a time, before anything is
timed. They take turns of 512 masks in one process, on one thread, and CPU seconds are summed over
all masks.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import numpy as np
import torch
from harness import Row, Stopwatch, in_new_process, peak_mb, table, write

from spex_core import masks as bits
from spex_core import ops
from spex_core.budget import plan_uniform
from spex_core.evaluate import evaluate
from spex_core.values.text import EncoderText, Similarity, as_encoder, load_minilm

QUESTION = "Which needle was used to sample the breast mass?"
ROWS = 32  # of a padded batch
TURN = 512  # masks; a whole run is sorted by length in blocks of 16,384
NOISE = 256  # masks whose values in bfloat16 are compared
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
    f = EncoderText(encoder, text, Similarity(target))
    f.threads = None  # one thread for all
    f.tokens = tokens
    return f


def naive_batches(
    f: EncoderText, text: str, masks: np.ndarray
) -> Iterator[tuple[range, torch.Tensor]]:
    """Rows and their values: strings, tokenised, in padded batches."""
    words, tokenizer, model = text.split(), f.encoder.tokenizer, f.encoder.model
    for start in range(0, len(masks), ROWS):
        rows = range(start, min(start + ROWS, len(masks)))
        strings = [
            " ".join(word for word, there in zip(words, masks[row], strict=True) if there)
            for row in rows
        ]
        with torch.inference_mode():
            batch = tokenizer(strings, padding=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state
            keep = batch["attention_mask"][..., None]
            yield rows, f.scorer((hidden * keep).sum(1) / keep.sum(1))


def one_by_one(f: EncoderText, masks: np.ndarray) -> np.ndarray:
    """The plain model on the ids that a mask keeps."""
    values, layout = [], f.layout
    with torch.inference_mode():
        for mask in np.append(masks, np.ones((len(masks), 1), bool), axis=1):
            ids = torch.from_numpy(layout.ids[mask[layout.owner]])[None]
            hidden = f.encoder.model(input_ids=ids).last_hidden_state.float()
            values.append(f.scorer(hidden.mean(1)))
    return torch.cat(values).numpy()


def case(words: int, count: int, tokens: int) -> Row:
    text = passage(words)
    target = load_minilm().embed(QUESTION)
    full = ours(text, torch.float32, target, tokens)
    half = ours(text, torch.bfloat16, target, tokens)
    packed = ops.uniform_masks(count, words, seed=1)
    masks = bits.unpack(packed, words)

    exact, fast = full.evaluate(packed[:NOISE]), half.evaluate(packed[:NOISE])
    error = float(np.abs(exact[:64] - one_by_one(full, masks[:64])).max())
    assert error <= 1e-6, error
    noise = float((fast - exact).std() / exact.std())
    next(naive_batches(full, text, masks))  # warm

    ways = {
        "naive": lambda rows: list(naive_batches(full, text, masks[rows])),
        "float32": lambda rows: full.evaluate(packed[rows]),
        "bfloat16": lambda rows: half.evaluate(packed[rows]),
    }
    watch = Stopwatch()
    spent = watch.spent
    for start in range(0, count, TURN):
        for way, run in ways.items():
            with watch(way):
                run(slice(start, start + TURN))
    rate = {way: count / spent[way] for way in ways}
    return {
        "words": words,
        "tokens": full.layout.tokens,
        "masks": count,
        "backend": full.backend,
        **{f"{way}_per_s": rate[way] for way in ways},
        "float32_faster": rate["float32"] / rate["naive"],
        "bfloat16_faster": rate["bfloat16"] / rate["naive"],
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
    """The peak of a process that evaluates `count` masks of 64 words; the model is a random BERT of
    one narrow layer, so that what a mask costs beside the model would show."""
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = BertModel(BertConfig(**sizes, num_attention_heads=1)).eval()
    encoder = as_encoder(load_minilm().tokenizer, model)
    f = EncoderText(encoder, passage(64), Similarity(torch.ones(16)))
    f.threads = None
    f.tokens = 1 << 16
    evaluate(f, plan_uniform(f.n, 900, seed=1))
    before = peak_mb()
    evaluate(f, plan_uniform(f.n, count))
    return {"masks": count, "before_mb": before, "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--masks", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=2048, help="the budget of a pack")
    parser.add_argument("--most", type=int, default=100_000, help="masks of the memory run")
    parser.add_argument("--dry", action="store_true", help="write no result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [case(words, args.masks, args.tokens) for words in (64, 128, 256)]
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
