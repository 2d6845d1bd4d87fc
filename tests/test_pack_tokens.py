"""pack_tokens: the kept tokens of every mask, without padding."""

import layouts
import pytest
import torch

from spex_core import ops_inference as ops
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("pack_tokens")


@pytest.mark.parametrize("original", [False, True], ids=["closed up", "original"])
@pytest.mark.parametrize(("rows", "n", "kind"), layouts.CASES)
def test_equal_to_one_token_at_a_time(backend, device, rows, n, kind, original):
    layouts.skip_if_slow(backend, rows)
    packed, (ids, owner) = layouts.masks(rows, n), layouts.layout(n, kind)
    lists = layouts.kept(packed, owner, n)
    given = [x.to(device) for x in (layouts.with_garbage(packed, n), ids, owner)]
    got = ops.pack_tokens(*given, n, original_positions=original, backend=backend)
    flat = [(t, k, at) for t, tokens in enumerate(lists) for k, at in enumerate(tokens)]
    assert got.input_ids.tolist() == [ids[at].item() for _, _, at in flat]
    assert got.position_ids.tolist() == [at if original else k for _, k, at in flat]
    assert got.sequence.tolist() == [t for t, _, _ in flat]
    assert got.starts.diff().tolist() == [len(tokens) for tokens in lists]
    assert got.starts[0] == 0
    dtypes = [x.dtype for x in got]
    assert dtypes == [torch.int64, torch.int64, torch.int32, torch.int64]
    assert flat or rows == 0 or kind == "none", "the case must not be trivial"


def test_starts_are_the_sums_of_mask_lengths(backend, device):
    n = 70
    packed, (ids, owner) = layouts.masks(20, n), layouts.layout(n, "gaps")
    got = ops.pack_tokens(*(x.to(device) for x in (packed, ids, owner)), n, backend=backend)
    counts = torch.bincount(owner, minlength=n + 1)
    lengths = ops.mask_lengths(packed, counts[:n], fixed=int(counts[n]))
    assert torch.equal(got.starts.cpu().diff(), lengths)
    assert lengths[0] == counts[n] > 0, "all features removed: what is always kept stays"


def test_a_mask_that_keeps_nothing_has_no_token(backend, device):
    packed = torch.tensor([[0], [1], [0], [2], [0]], device=device)
    ids, owner = torch.tensor([8, 9], device=device), torch.tensor([0, 1], device=device)
    got = ops.pack_tokens(packed, ids, owner, 2, backend=backend)
    assert got.starts.tolist() == [0, 0, 1, 1, 2, 2]
    assert got.input_ids.tolist() == [8, 9]
    assert got.position_ids.tolist() == [0, 0]


def test_same_for_any_number_of_threads(set_threads):
    n = 200
    packed, (ids, owner) = layouts.masks(5000, n), layouts.layout(n, "gaps")
    set_threads(1)
    alone = ops.pack_tokens(packed, ids, owner, n)
    for threads in (2, 7):
        set_threads(threads)
        again = ops.pack_tokens(packed, ids, owner, n)
        assert all(map(torch.equal, again, alone))


def test_strided_input_and_inputs_unchanged(backend, device):
    n = 130
    ids, owner = (x.to(device) for x in layouts.layout(n, "words"))
    wide = layouts.masks(20, 64 * 4).to(device)
    wide[:, 2] &= 3
    pair = torch.stack([ids, owner], 1)
    before = wide.clone(), pair.clone()
    got = ops.pack_tokens(wide[::2, :3], pair[:, 0], pair[:, 1], n, backend=backend)
    want = ops.pack_tokens(wide[::2, :3].contiguous(), ids, owner, n, backend="reference")
    assert all(map(torch.equal, got, want))
    assert torch.equal(wide, before[0])
    assert torch.equal(pair, before[1])


@pytest.mark.parametrize("op", [ops.pack_tokens, ops.pack_trie])
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"masks": torch.zeros(2, 1).int()}, TypeError, "masks must be a packed int64 tensor"),
        ({"masks": torch.zeros(2, 2).long()}, ValueError, r"ceil\(3 / 64\) = 1 words, got 2"),
        ({"masks": torch.zeros(2).long()}, ValueError, "masks must have two axes"),
        ({"ids": torch.ones(4)}, TypeError, "ids must be an int64 tensor"),
        ({"ids": torch.ones(5).long()}, ValueError, r"ids must have shape \(4,\), got \(5,\)"),
        ({"owner": torch.ones(4, 1).long()}, ValueError, r"owner must have shape \(L,\), got"),
        ({"owner": torch.tensor([0, 1, 2, 4])}, ValueError, r"owner must be in \[0, 3\], 3 for"),
        ({"owner": torch.tensor([0, -1, 2, 3])}, ValueError, r"owner must be in \[0, 3\]"),
        ({"n": 0}, ValueError, "n must be an integer >= 1, got 0"),
        ({"n": 3.0}, TypeError, "n must be an integer >= 1, got 3.0"),
        ({"ids": torch.ones(4, device="meta").long()}, ValueError, "ids must be on the device of"),
        ({"backend": "cuda"}, BackendUnavailable, "backend 'cuda' is not available"),
        ({"backend": "fast"}, ValueError, ""),
    ],
)
def test_contract(op, wrong, error, message):
    owner = torch.tensor([3, 0, 1, 2])
    good = {"masks": torch.zeros(2, 1).long(), "ids": torch.arange(4), "owner": owner, "n": 3}
    name = "backend must be one of" if wrong.get("backend") == "fast" else f"{op.__name__}: "
    with pytest.raises(error, match=f"{name}.*{message}"):
        op(**good | wrong)
