"""test_triton_offsets.py for the kernels of ops_inference.py, and the walk down a tree."""

from __future__ import annotations

import math

import pytest
import torch
from test_triton_offsets import Far, random_words, run_program

from spex_core import reference_inference as reference
from spex_core.backend import interpreted, why_not

if why_not("triton") is not None or not interpreted():
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

from spex_core.triton_kernels import (
    head_scale,
    histogram,
    mask_embed,
    mask_lengths,
    pack_tokens,
    pack_trie,
    packed_attention,
    score_last,
    token_logprobs,
)

FAR = 2**31


def test_mask_lengths() -> None:
    words, n, block = 5, 300, FAR // (5 * mask_lengths.ROWS) + 3
    first = block * mask_lengths.ROWS
    masks, lengths = random_words(mask_lengths.ROWS, words), torch.arange(n)
    masks[:, -1] &= (1 << n % 64) - 1
    out = torch.zeros(mask_lengths.ROWS, dtype=torch.int64)
    run_program(
        *(mask_lengths._mask_lengths_kernel, (block,), Far(masks, first * words), lengths),
        *(Far(out, first), first + 20, n, words, 7),
        BLOCK_T=mask_lengths.ROWS,
    )
    assert torch.equal(out[:20], reference.mask_lengths(masks[:20], lengths, 7))
    assert not out[20:].any()


OWNER = torch.tensor([3, 0, 0, 1, 2, 3])  # three features, and tokens that are always kept


def test_packed_tokens() -> None:
    """The last mask of a pack of more than 2**31 tokens, its words past 2**31 too."""
    t, ids, length = FAR // 2, torch.arange(10, 16), len(OWNER)
    mask, start = torch.tensor([[0b101, 0, 0]]), FAR + 70
    starts = torch.tensor([start])
    input_ids, positions = torch.zeros(2, 8, dtype=torch.int64)
    sequence = torch.zeros(8, dtype=torch.int32)
    run_program(
        *(pack_tokens._pack_tokens_kernel, (t,), Far(mask, 3 * t), ids, OWNER),
        *(Far(starts, t), starts, starts, Far(input_ids, start), Far(positions, start)),
        *(Far(sequence, start), length, 3, 3),
        TRIE=False,
        ORIGINAL=True,
        BLOCK_L=4,
    )
    assert input_ids.tolist() == [10, 11, 12, 14, 15, 0, 0, 0]
    assert positions.tolist() == [0, 1, 2, 4, 5, 0, 0, 0]
    assert sequence.tolist() == [*5 * [t], 0, 0, 0]


def test_nodes_of_a_trie() -> None:
    """Two late masks with words past 2**31, and where the subtrees of late nodes end."""
    t = FAR // 2
    masks = torch.tensor([[0b101, 0, 0], [0b111, 0, 0]])
    first, shared, added = torch.zeros(3, 1, dtype=torch.int64)
    run_program(
        *(pack_trie._trie_prefixes_kernel, (t,), Far(masks, 3 * t - 3), OWNER),
        *(Far(first, t), Far(shared, t), Far(added, t), len(OWNER), 3, 3),
        BLOCK_L=4,
    )
    assert [int(x) for x in (first, shared, added)] == [3, 3, 3]

    samples, nodes, start = 3, 4, FAR + 4  # nodes 4 .. 7 of the last block
    starts, shared = torch.tensor([start, start + 2, start + 3, start + 4]), torch.tensor([0, 1, 2])
    mask, end = torch.tensor([0, 0, 1, 2], dtype=torch.int32), torch.zeros(nodes, dtype=torch.int64)
    minima = pack_trie.range_minima(shared)
    run_program(
        *(pack_trie._subtree_end_kernel, (start // nodes,), minima, Far(mask, start)),
        *(starts, shared, Far(end, start), start + nodes, samples),
        LEVELS=len(minima),
        BLOCK_N=nodes,
    )
    assert (end - start).tolist() == [4, 2, 4, 4]


def test_embeddings() -> None:
    t, width = FAR // (6 * 5) + 3, 5
    embeddings, baseline = torch.randn(6, width), torch.randn(width)
    mask = torch.tensor([[0b010]])
    out = torch.zeros(6, width)
    assert t * 6 * width > FAR
    run_program(
        *(mask_embed._mask_embed_kernel, (t, 0), Far(mask, t), embeddings, baseline, OWNER, mask),
        *(Far(out, t * 6 * width), 6, 3, 1, width, 0),
        DROP=False,
        BLOCK_L=4,
        BLOCK_D=8,
    )
    assert torch.equal(
        out, reference.mask_embed(mask, embeddings, baseline, OWNER, 3, drop=False)[0]
    )


def test_gates_of_heads() -> None:
    i, t, heads, dim = FAR // 12 + 5, FAR // 2 + 3, 3, 4
    x, mask = torch.randn(1, heads, dim), torch.tensor([[0, 0b101]])
    out, where = torch.zeros_like(x), torch.tensor([t])
    run_program(
        *(head_scale._head_scale_kernel, (i, 0), Far(x, i * 12), Far(mask, 2 * t), Far(where, i)),
        *(x, x, Far(out, i * 12), t + 1, 2, 12, dim, 64),
        MEAN=False,
        SCALE=False,
        BLOCK=16,
    )
    assert min(i * 12, 2 * t) > FAR
    assert torch.equal(out[0, ::2], x[0, ::2])
    assert not out[0, 1].any()


def test_attention_of_late_rows() -> None:
    """The last block of more than 2**31 rows: of three sequences, the first from before it."""
    before, rows, heads, width = 5, 40, 4, 16
    shape = packed_attention.shape(width, torch.float32)
    block = FAR // shape["BLOCK_Q"] + 1
    first = block * shape["BLOCK_Q"]
    states = torch.randn(before + rows, 3, heads, width)  # query, key and value side by side
    starts, row = torch.tensor([0, before + 2, before + 9, before + rows]), 3 * heads * width
    out = torch.zeros(rows, heads, width)
    run_program(
        *(packed_attention._packed_attention_kernel, (block * heads + 3,)),
        *(Far(x, (first - before) * row) for x in states.unbind(1)),
        *(starts + first - before, Far(out, first * heads * width)),
        *(first + rows, 3, heads, 1, *3 * (row, width), 0.3),
        CAUSAL=True,
        DIM=width,
        **shape,
    )
    want = reference.packed_attention(*states.unbind(1), starts, True, 0.3 * math.log(2))
    torch.testing.assert_close(out[:, 3], want[before:, 3])
    assert not out[:, :3].any()


def test_scores_of_a_late_row() -> None:
    width, outputs, rows = 9, 3, FAR // 9 + 4
    r = FAR // outputs + 1
    hidden, weight, out = torch.randn(1, width), torch.randn(outputs, width), torch.zeros(outputs)
    where = torch.tensor([rows - 1])
    run_program(
        *(score_last._score_last_kernel, (r, 0), Far(hidden, (rows - 1) * width)),
        *(Far(where, r), weight, weight, weight, weight),
        *(Far(out, r * outputs), rows, width, outputs),
        EPS=0.0,
        CENTRE=False,
        NORM=False,
        NORM_BIAS=False,
        BIAS=False,
        BLOCK_D=16,
        BLOCK_Q=4,
    )
    assert min((rows - 1) * width, r * outputs) > FAR
    torch.testing.assert_close(out, weight @ hidden[0])


def test_logits_of_late_tokens_and_rows() -> None:
    width, block, span, tokens = 64, 4, token_logprobs.RANGE, 8
    r, part = FAR // (width * block) + 1, FAR // (width * span) + 1
    x, weight = torch.randn(block, width), torch.randn(tokens, width)
    rows, vocabulary = (r + 1) * block, part * span + tokens
    most, total = torch.zeros(2, block)
    at = part * rows + r * block
    run_program(
        *(token_logprobs._token_logprobs_kernel, (r, part), Far(x, r * block * width)),
        *(Far(weight, part * span * width), weight, Far(most, at), Far(total, at)),
        *(rows, vocabulary, width),
        BIAS=False,
        SPAN=span,
        BLOCK_R=block,
        BLOCK_V=4,
        BLOCK_D=16,
    )
    assert min(r * block * width, part * span * width) > FAR
    torch.testing.assert_close(most + total.log(), (x @ weight.T).logsumexp(1))


def test_the_walk_down_a_tree() -> None:
    words, block = 5, FAR // (5 * 16) + 3
    first, masks = 16 * block, random_words(16, 5)
    links = torch.tensor([[300, 1, 2], [-1, -1, -1], [-1, -1, -1]], dtype=torch.int32)
    out = torch.zeros(16, dtype=torch.int32)
    run_program(
        *(histogram._walk_kernel, (block,), Far(masks, first * words), links, Far(out, first)),
        *(first + 10, words, 2),
        BLOCK_T=16,
    )
    assert torch.equal(out[:10].long(), 1 + (masks[:10, 4] >> 300 % 64 & 1))
    assert not out[10:].any()
