"""Attention that follows a trie, against each path by itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `text`")

from spex_core import masks as bits
from spex_core.ops_inference import pack_trie
from spex_core.planner import distinct
from spex_core.values import trie
from spex_core.values.trie import BLOCK, Trie, _all_at_once, _block_by_block

CAUSAL = SimpleNamespace(is_causal=True)


def random_trie(features: int, rows: int, each: int = 3) -> Trie:
    packed = bits.pack(np.random.default_rng(features).random((rows, features)) < 0.5)
    first, _ = distinct(packed)
    owner = torch.arange(features).repeat_interleave(each)
    owner = torch.cat([torch.tensor([features]), owner, torch.tensor([features] * 2)])
    found = pack_trie(packed[torch.from_numpy(first)], torch.arange(len(owner)), owner, features)
    return Trie(found.input_ids, found.position_ids, found.subtree_end)


def states(nodes: int, heads: int, keys: int, dim: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(nodes)
    return tuple(torch.randn(1, h, nodes, dim, dtype=torch.float64) for h in (heads, keys, keys))


def by_definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tree: Trie, scale: float):
    """One node at a time, over its ancestors and itself: (1, N, H, D)."""
    group = q.shape[1] // k.shape[1]
    k, v = (x[0].repeat_interleave(group, 0) for x in (k, v))
    out = torch.empty(q.shape[2], q.shape[1], q.shape[3], dtype=q.dtype)
    end = tree.subtree_end.tolist()
    for node in range(q.shape[2]):
        path = [p for p in range(node + 1) if end[p] > node]
        weight = torch.einsum("hd,hpd->hp", q[0, :, node], k[:, path]).mul(scale).softmax(-1)
        out[node] = torch.einsum("hp,hpd->hd", weight, v[:, path])
    return out[None]


@pytest.mark.parametrize(("heads", "keys"), [(1, 1), (4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize(("features", "rows"), [(1, 1), (3, 8), (12, 15), (9, 60)])
def test_nodes_see_their_ancestors(features: int, rows: int, heads: int, keys: int) -> None:
    tree = random_trie(features, rows)
    nodes = len(tree.input_ids)
    q, k, v = states(nodes, heads, keys, 5)
    truth = by_definition(q, k, v, tree, 0.3)
    found, weights = trie.attend(CAUSAL, q, k, v, None, spex_trie=tree, scaling=0.3)
    assert weights is None
    torch.testing.assert_close(found, truth, atol=1e-13, rtol=0)
    at_once = _all_at_once(q[0].unflatten(0, (keys, -1)), k[0], v[0], tree, 0.3)
    torch.testing.assert_close(at_once[None], truth, atol=1e-13, rtol=0)


def test_the_large_case_has_several_blocks_and_a_rest() -> None:
    tree = random_trie(9, 60)
    assert len(tree.blocks) > 2
    assert len(tree.input_ids) % BLOCK
    assert {len(block.keys) - (block.stop - block.start) for block in tree.blocks} != {0}
    keys, seen = tree.batch
    assert seen.any(2).all()  # no row that sees nothing, whose softmax would be NaN
    assert keys.shape[1] % 16 == 0


def test_the_two_ways_agree_in_float32_and_half() -> None:
    tree = random_trie(9, 60)
    q, k, v = states(len(tree.input_ids), 4, 2, 8)
    for dtype, error in ((torch.float32, 1e-6), (torch.bfloat16, 0.05)):
        args = (q[0].unflatten(0, (2, 2)).to(dtype), k[0].to(dtype), v[0].to(dtype), tree, None)
        one, two = _block_by_block(*args), _all_at_once(*args)
        assert one.dtype == two.dtype == dtype
        torch.testing.assert_close(one, two, atol=error, rtol=error)


@pytest.mark.parametrize(
    ("module", "given", "message"),
    [
        (SimpleNamespace(is_causal=False), {}, "a trie needs causal attention"),
        (CAUSAL, {"is_causal": False}, "a trie needs causal attention"),
        (CAUSAL, {"sliding_window": 8}, "does not support sliding_window"),
        (CAUSAL, {"softcap": 30.0}, "does not support softcap"),
        (CAUSAL, {"s_aux": torch.zeros(4)}, "does not support s_aux"),
        (CAUSAL, {"attention_mask": torch.ones(1)}, "does not support attention_mask"),
    ],
)
def test_what_it_cannot_do_is_refused(module: object, given: dict, message: str) -> None:
    tree = random_trie(3, 8)
    q, k, v = states(len(tree.input_ids), 4, 2, 8)
    given = {"attention_mask": None} | given
    with pytest.raises(NotImplementedError, match=message):
        trie.attend(module, q, k, v, spex_trie=tree, **given)
