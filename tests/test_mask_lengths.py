"""mask_lengths: tokens that each mask keeps."""

import layouts
import numpy as np
import pytest
import torch

from spex_core import masks as bits
from spex_core.errors import BackendUnavailable
from spex_core.ops_inference import mask_lengths

pytestmark = pytest.mark.op("mask_lengths")

SIZES = [(0, 5), (1, 1), (63, 63), (64, 64), (65, 65), (100, 100), (33, 1000), (1000, 7)]


@pytest.mark.parametrize(("rows", "n"), SIZES)
def test_equal_to_a_dense_product(backend, device, rows, n):
    packed = layouts.masks(rows, n)
    lengths = torch.from_numpy(np.random.default_rng(1).integers(0, 2**40, n))
    want = torch.from_numpy(bits.unpack(packed, n).astype(np.int64)) @ lengths + 3
    given = layouts.with_garbage(packed, n).to(device)
    got = mask_lengths(given, lengths.to(device), fixed=3, backend=backend)
    assert torch.equal(got.cpu(), want)
    assert rows == 0 or (got[0] == 3 and got.dtype == torch.int64)


def test_unit_lengths_count_features_and_lengths_add(backend, device):
    packed = layouts.masks(50, 130).to(device)
    lengths = torch.arange(130, device=device)
    count = mask_lengths(packed, torch.ones_like(lengths), backend=backend)
    assert count.tolist() == bits.orders(packed.cpu()).tolist()
    both = mask_lengths(packed, lengths + 1, backend=backend)
    assert torch.equal(both, count + mask_lengths(packed, lengths, backend=backend))


def test_same_for_any_number_of_threads(set_threads):
    packed, lengths = layouts.masks(60_000, 130), torch.arange(130)
    set_threads(1)
    alone = mask_lengths(packed, lengths)
    for threads in (2, 7):
        set_threads(threads)
        assert torch.equal(mask_lengths(packed, lengths), alone)


def test_strided_input_and_inputs_unchanged(backend, device):
    packed, lengths = layouts.masks(40, 200).to(device), torch.arange(140, device=device)
    before = packed.clone(), lengths.clone()
    got = mask_lengths(packed[::3, :2], lengths[12:].flip(0)[::1], backend=backend)
    want = mask_lengths(packed[::3, :2].contiguous(), lengths[12:].flip(0).contiguous())
    assert torch.equal(got.cpu(), want.cpu())
    assert torch.equal(packed, before[0])
    assert torch.equal(lengths, before[1])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"masks": torch.zeros(2, 1)}, TypeError, "masks must be a packed int64 tensor"),
        ({"masks": torch.zeros(2, 2).long()}, ValueError, r"ceil\(3 / 64\) = 1 words, got 2"),
        ({"lengths": torch.ones(3)}, TypeError, "lengths must be an int64 tensor, got torch.float"),
        ({"lengths": [1, 2, 3]}, TypeError, "lengths must be an int64 tensor, got list"),
        ({"lengths": torch.ones(0).long()}, ValueError, r"len\(lengths\) must be an integer >= 1"),
        ({"fixed": -1}, ValueError, "fixed must be an integer >= 0, got -1"),
        ({"backend": "cuda"}, BackendUnavailable, "backend 'cuda' is not available"),
    ],
)
def test_contract(wrong, error, message):
    good = {"masks": torch.zeros(2, 1).long(), "lengths": torch.ones(3).long()}
    with pytest.raises(error, match=f"mask_lengths: .*{message}"):
        mask_lengths(**good | wrong)
