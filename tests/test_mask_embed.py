"""mask_embed: embeddings under every mask, the absent ones replaced or dropped."""

import layouts
import pytest
import torch

from spex_core.errors import BackendUnavailable
from spex_core.ops_inference import mask_embed, pack_tokens

pytestmark = pytest.mark.op("mask_embed")

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def problem(rows, n, kind, width, dtype=torch.float32):
    packed, (_, owner) = layouts.masks(rows, n), layouts.layout(n, kind)
    generator = torch.Generator().manual_seed(rows + n)
    embeddings, baseline = torch.randn(2, len(owner), width, generator=generator).to(dtype)
    return packed, embeddings, baseline, owner


def drop_starts(packed, owner, n):
    return pack_tokens(packed, torch.zeros_like(owner), owner, n).starts


CASES = [
    *((rows, 5, "gaps", 9) for rows in (0, 1, 5, 65)),
    *((4, n, "gaps", 1) for n in (1, 63, 64, 65)),
    *((3, 64, kind, 65) for kind in layouts.KINDS),
    (1, 1000, "words", 3),
]


@pytest.mark.parametrize(("rows", "n", "kind", "width"), CASES)
def test_bit_equal_to_one_row_at_a_time(backend, device, rows, n, kind, width):
    packed, embeddings, baseline, owner = problem(rows, n, kind, width)
    lists = layouts.kept(packed, owner, n)
    masked, one = baseline.expand(rows, -1, -1).clone(), baseline.new_full((width,), 7.0)
    for t, tokens in enumerate(lists):
        masked[t, tokens] = embeddings[tokens]
    a, e, b, o = (x.to(device) for x in (packed, embeddings, baseline, owner))
    assert torch.equal(mask_embed(a, e, b, o, n, backend=backend).cpu(), masked)

    same = mask_embed(a, e, one.to(device), o, n, backend=backend).cpu()
    absent = (masked == baseline).all(2)
    assert torch.equal(same[~absent], masked[~absent])
    assert (same[absent] == 7).all()

    starts = drop_starts(packed, owner, n).to(device)
    dropped = mask_embed(a, e, None, o, n, starts=starts, backend=backend)
    assert torch.equal(dropped.cpu(), embeddings[[at for tokens in lists for at in tokens]])
    assert min(rows, n) < 2 or kind == "none" or 0 < len(dropped) < rows * len(owner)


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_any_dtype_without_rounding(backend, device, dtype):
    packed, embeddings, baseline, owner = problem(5, 20, "gaps", 9, dtype)
    embeddings[2, 3], baseline[1, 1] = torch.inf, -torch.inf
    args = [x.to(device) for x in (packed, embeddings, baseline, owner)]
    got = mask_embed(*args, 20, backend=backend)
    want = mask_embed(packed, embeddings, baseline, owner, 20, backend="reference")
    assert torch.equal(got.cpu(), want)
    assert got.dtype == dtype


def test_rows_are_those_of_pack_tokens(backend, device):
    """An embedding looked up after packing is one packed after it was looked up."""
    n = 70
    packed, (_, owner) = layouts.masks(7, n), layouts.layout(n, "scattered")
    tokens = pack_tokens(packed, torch.arange(len(owner)), owner, n)
    table = torch.randn(len(owner), 8)
    args = [x.to(device) for x in (packed, table)]
    got = mask_embed(
        *args, None, owner.to(device), n, starts=tokens.starts.to(device), backend=backend
    )
    assert torch.equal(got.cpu(), table[tokens.input_ids])


def test_strided_input_and_inputs_unchanged(backend, device):
    packed, embeddings, baseline, owner = (
        x.to(device) for x in problem(6, 20, "words", 8, torch.float32)
    )
    wide = torch.stack([embeddings, baseline], 2)
    before = wide.clone()
    got = mask_embed(packed, wide[:, :, 0], wide[:, :, 1], owner, 20, backend=backend)
    want = mask_embed(packed, embeddings, baseline, owner, 20, backend="reference")
    assert torch.equal(got, want)
    assert torch.equal(wide, before)


def test_gradient():
    packed, embeddings, baseline, owner = problem(4, 6, "words", 2, torch.float64)
    leaves = embeddings.requires_grad_(), baseline.requires_grad_()
    assert torch.autograd.gradcheck(lambda e, b: mask_embed(packed, e, b, owner, 6), leaves)
    starts = drop_starts(packed, owner, 6)
    assert torch.autograd.gradcheck(
        lambda e: mask_embed(packed, e, None, owner, 6, starts=starts), leaves[:1]
    )


OWNER = torch.tensor([3, 0, 1, 2])
GOOD = {
    "masks": torch.tensor([[5], [2]]),
    "embeddings": torch.ones(4, 3),
    "baseline": torch.zeros(3),
    "owner": OWNER,
    "n": 3,
}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"masks": torch.zeros(2, 2).long()}, ValueError, "masks must have ceil"),
        ({"embeddings": torch.ones(4, 3).long()}, TypeError, "embeddings must be a floating-point"),
        ({"embeddings": torch.ones(5, 3)}, ValueError, r"embeddings must have shape \(4, \*\)"),
        ({"baseline": None}, TypeError, "baseline must be a floating-point tensor, got NoneType"),
        ({"baseline": torch.zeros(4)}, ValueError, r"baseline must have shape \(3\), got \(4,\)"),
        ({"baseline": torch.zeros(3, 3)}, ValueError, r"baseline must have shape \(4, 3\)"),
        ({"baseline": torch.zeros(3).double()}, ValueError, "baseline must have the dtype of emb"),
        ({"starts": torch.tensor([0, 3])}, ValueError, r"starts must have shape \(3,\)"),
        ({"starts": torch.tensor([0, 3, 6])}, ValueError, "starts must be that of pack_tokens"),
        ({"starts": torch.tensor([0, 3, 5]).int()}, TypeError, "starts must be an int64 tensor"),
        ({"backend": "cuda"}, BackendUnavailable, "backend 'cuda' is not available"),
    ],
)
def test_contract(wrong, error, message):
    with pytest.raises(error, match=f"mask_embed: .*{message}"):
        mask_embed(**GOOD | wrong)


def test_triton_refuses_what_requires_a_gradient(backend, call):
    if backend != "triton":
        pytest.skip("of triton only")
    leaf = GOOD["embeddings"].clone().requires_grad_()
    with pytest.raises(ValueError, match="mask_embed: backend 'triton' has no gradient"):
        call(mask_embed, **GOOD | {"embeddings": leaf})
    with torch.no_grad():
        assert call(mask_embed, **GOOD | {"embeddings": leaf}).shape == (2, 4, 3)
