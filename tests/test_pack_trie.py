"""pack_trie: the kept tokens of every mask as one trie."""

import itertools

import layouts
import numpy as np
import pytest
import torch

from spex_core import masks as bits
from spex_core import ops_inference as ops
from spex_core.planner import distinct

pytestmark = pytest.mark.op("pack_trie")


def lexicographic(packed):
    return packed[torch.from_numpy(distinct(packed)[0])]


def check_trie(got, lists, ids, original):
    """By what a causal model would see: node q attends to p where p <= q < subtree_end[p]."""
    input_ids, position_ids, ends, last, starts, shared = (x.tolist() for x in got)
    for t, tokens in enumerate(lists):
        path = [p for p in range(last[t] + 1) if last[t] < ends[p]]
        assert [input_ids[p] for p in path] == [ids[at].item() for at in tokens]
        assert [position_ids[p] for p in path] == (tokens if original else list(range(len(path))))
        own = range(starts[t], starts[t + 1])
        assert path[shared[t] :] == list(own)
        for p, below in itertools.pairwise(path):  # each sees the same nodes as the last does
            assert ends[p] >= ends[below]
    assert (starts[0], starts[-1]) == (0, len(input_ids))
    assert [x.dtype for x in got] == [torch.int64] * 6


@pytest.mark.parametrize("original", [False, True], ids=["closed up", "original"])
@pytest.mark.parametrize("order", ["lexicographic", "any"])
@pytest.mark.parametrize(("rows", "n", "kind"), layouts.CASES)
def test_paths_are_the_kept_tokens(backend, device, rows, n, kind, order, original):
    layouts.skip_if_slow(backend, rows)
    packed, (ids, owner) = layouts.masks(rows, n), layouts.layout(n, kind)
    packed = lexicographic(packed) if order == "lexicographic" else packed
    given = [x.to(device) for x in (layouts.with_garbage(packed, n), ids, owner)]
    got = ops.pack_trie(*given, n, original_positions=original, backend=backend)
    lists = layouts.kept(packed, owner, n)
    check_trie([x.cpu() for x in got], lists, ids, original)
    want = ops.pack_trie(packed, ids, owner, n, original_positions=original, backend="reference")
    assert all(map(torch.equal, [x.cpu() for x in got], want))


@pytest.mark.parametrize("kind", ["words", "bare"])
def test_every_common_prefix_is_shared(backend, device, kind):
    """In lexicographic order there are as many nodes as distinct prefixes."""
    n = 12
    rng = np.random.default_rng(3)
    packed = lexicographic(bits.pack(rng.random((60, n)) < 0.5))
    ids, owner = layouts.layout(n, kind)
    got = ops.pack_trie(*(x.to(device) for x in (packed, ids, owner)), n, backend=backend)
    lists = layouts.kept(packed, owner, n)
    prefixes = {tuple(tokens[:k]) for tokens in lists for k in range(1, len(tokens) + 1)}
    assert len(got.input_ids) == len(prefixes) < sum(map(len, lists))


def test_all_masks_of_a_few_features(backend, device):
    n = 4
    packed = torch.arange(2**n)[:, None]
    packed = lexicographic(packed)
    ids, owner = torch.arange(n), torch.arange(n)
    got = ops.pack_trie(*(x.to(device) for x in (packed, ids, owner)), n, backend=backend)
    assert len(got.input_ids) == 2**n - 1, "one node for each set that is not empty"
    assert got.last[0] == -1, "the empty mask has no node"
    assert sorted(got.last.tolist()) == list(range(-1, 2**n - 1))


def test_masks_that_differ_in_features_without_tokens(backend, device):
    """They keep the same tokens: the second one ends where the first does and adds nothing."""
    packed = torch.tensor([[0b001], [0b011], [0b101], [0b111]], device=device)
    ids, owner = torch.tensor([7, 8], device=device), torch.tensor([0, 2], device=device)
    got = ops.pack_trie(packed, ids, owner, 3, backend=backend)
    assert got.starts.tolist() == [0, 1, 1, 2, 2]
    assert got.last.tolist() == [0, 0, 1, 1]
    assert got.shared.tolist() == [0, 1, 1, 2]
    assert got.subtree_end.tolist() == [2, 2]


def test_a_mask_whose_tokens_are_the_beginning_of_those_before(backend, device):
    packed = torch.tensor([[0b111], [0b001], [0b000], [0b011]], device=device)
    ids = torch.tensor([5, 6, 7], device=device)
    got = ops.pack_trie(packed, ids, torch.arange(3, device=device), 3, backend=backend)
    assert got.input_ids.tolist() == [5, 6, 7, 5, 6]
    assert got.last.tolist() == [2, 0, -1, 4]
    assert got.subtree_end.tolist() == [3, 3, 3, 5, 5]


def test_same_for_any_number_of_threads(set_threads):
    n = 200
    packed, (ids, owner) = lexicographic(layouts.masks(5000, n)), layouts.layout(n, "gaps")
    set_threads(1)
    alone = ops.pack_trie(packed, ids, owner, n)
    for threads in (2, 7):
        set_threads(threads)
        assert all(map(torch.equal, ops.pack_trie(packed, ids, owner, n), alone))


def test_strided_input_and_inputs_unchanged(backend, device):
    n = 64
    ids, owner = (x.to(device) for x in layouts.layout(n, "words"))
    wide, pair = layouts.masks(20, 128).to(device), torch.stack([ids, owner], 1)
    before = wide.clone(), pair.clone()
    got = ops.pack_trie(wide[::2, :1], pair[:, 0], pair[:, 1], n, backend=backend)
    want = ops.pack_trie(wide[::2, :1].contiguous(), ids, owner, n, backend="reference")
    assert all(map(torch.equal, got, want))
    assert torch.equal(wide, before[0])
    assert torch.equal(pair, before[1])
