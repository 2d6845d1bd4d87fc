"""head_scale: gates on the outputs of attention heads."""

import layouts
import pytest
import torch

from spex_core import masks as bits
from spex_core.errors import BackendUnavailable
from spex_core.ops_inference import head_scale

pytestmark = pytest.mark.op("head_scale")

# rows of x, heads, their width, masks, the feature of head 0: around words, one head, wide heads.
SIZES = [(0, 2, 3, 1, 0), (1, 1, 1, 1, 0), (63, 3, 5, 2, 62), (65, 12, 32, 9, 60)]
SIZES += [(20, 2, 1000, 3, 63), (33, 72, 4, 7, 0), (10, 0, 4, 2, 0), (10, 2, 0, 2, 0)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def problem(rows, heads, width, count, first, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, heads, width, generator=generator).to(dtype)
    mean = torch.randn(heads, width, generator=generator).to(dtype)
    sequence = torch.randint(0, count, (rows,), generator=generator, dtype=torch.int32)
    masks = layouts.masks(count + 4, max(first + heads, 1), seed=5)[4:]
    return x, masks, sequence, mean, torch.rand(count, generator=generator) + 0.5


@pytest.mark.parametrize("with_mean", [False, True], ids=["zero", "mean"])
@pytest.mark.parametrize("with_scale", [False, True], ids=["kept", "scaled"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bit_equal_to_one_head_at_a_time(backend, device, size, with_scale, with_mean):
    rows, heads, _, _, first = size
    x, masks, sequence, mean, scale = problem(*size)
    dense = bits.unpack(masks, first + heads)
    want = mean.expand_as(x).clone() if with_mean else torch.zeros_like(x)
    gates = 0
    for i in range(rows):
        for h in range(heads):
            t = sequence[i].item()
            if dense[t, first + h]:
                want[i, h] = x[i, h] * scale[t] if with_scale else x[i, h]
                gates += 1
    x, masks, sequence, mean, scale = (y.to(device) for y in (x, masks, sequence, mean, scale))
    more = {"mean": mean if with_mean else None, "scale": scale if with_scale else None}
    got = head_scale(x, masks, sequence, first=first, **more, backend=backend)
    assert torch.equal(got.cpu(), want)
    assert rows * heads < 100 or 0 < gates < rows * heads
    again = head_scale(x, masks, sequence.long(), first=first, **more, backend=backend)
    assert torch.equal(again, got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_within_one_rounding(backend, device, dtype):
    """Triton's interpreter cuts a product to bfloat16 where a GPU rounds it: one eps, not half."""
    x, masks, sequence, mean, scale = problem(30, 4, 9, 5, 3, dtype)
    exact = head_scale(x.double(), masks, sequence, first=3, mean=mean.double(), scale=scale)
    args = [y.to(device) for y in (x, masks, sequence)]
    more = {"mean": mean.to(device), "scale": scale.to(device)}
    got = head_scale(*args, first=3, **more, backend=backend)
    assert got.dtype == dtype
    error = (got.cpu().double() - exact).abs() / exact.abs()
    assert error.max() <= torch.finfo(dtype).eps
    kept = head_scale(*args, first=3, backend=backend)
    assert torch.equal(kept.cpu(), head_scale(x, masks, sequence, first=3, backend="reference"))


def test_all_and_none(backend, device):
    x = torch.randn(6, 3, 4, device=device)
    masks = torch.tensor([[0], [7]], device=device)
    zero, one = (torch.full((6,), t, dtype=torch.int32, device=device) for t in (0, 1))
    assert torch.equal(head_scale(x, masks, one, backend=backend), x)
    assert not head_scale(x, masks, zero, backend=backend).any()


def test_strided_input_and_inputs_unchanged(backend, device):
    x, masks, sequence, mean, _ = (y.to(device) for y in problem(30, 4, 8, 5, 0))
    swapped = x.transpose(0, 1).contiguous()
    before = swapped.clone(), sequence.clone()
    got = head_scale(swapped.transpose(0, 1), masks, sequence, mean=mean, backend=backend)
    want = head_scale(x, masks, sequence, mean=mean, backend="reference")
    assert torch.equal(got, want)
    assert torch.equal(swapped, before[0])
    assert torch.equal(sequence, before[1])


def test_gradient():
    x, masks, sequence, mean, scale = problem(5, 3, 2, 4, 0, torch.float64)
    leaves = [y.requires_grad_() for y in (x, mean, scale.double())]
    assert torch.autograd.gradcheck(
        lambda x, m, s: head_scale(x, masks, sequence, mean=m, scale=s), leaves
    )


GOOD = {
    "x": torch.ones(4, 3, 2),
    "masks": torch.tensor([[5], [2]]),
    "sequence": torch.tensor([0, 1, 1, 0]),
}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"x": torch.ones(4, 3, 2).int()}, TypeError, "x must be a floating-point tensor"),
        ({"x": torch.ones(4, 6)}, ValueError, r"x must have shape \(\*, \*, \*\), got \(4, 6\)"),
        ({"masks": torch.ones(2, 1)}, TypeError, "masks must be a packed int64 tensor"),
        ({"first": 62}, ValueError, "masks must have words for the 65 features to head 2, got 1"),
        ({"first": -1}, ValueError, "first must be an integer >= 0, got -1"),
        ({"sequence": torch.ones(4)}, TypeError, "sequence must be an int32 or int64 tensor"),
        ({"sequence": torch.ones(3).int()}, ValueError, r"sequence must have shape \(4,\)"),
        (
            {"sequence": torch.tensor([0, 1, 2, 0])},
            *(ValueError, r"sequence must be in \[0, 2\), got 0 to 2"),
        ),
        ({"sequence": torch.tensor([0, -1, 1, 0])}, ValueError, r"sequence must be in \[0, 2\)"),
        ({"mean": torch.ones(3)}, ValueError, r"mean must have shape \(3, 2\)"),
        ({"mean": torch.ones(3, 2).double()}, ValueError, "mean must have the dtype of x"),
        ({"scale": torch.ones(4)}, ValueError, r"scale must have shape \(2\)"),
        ({"backend": "cpu"}, BackendUnavailable, "not implemented for this op"),
    ],
)
def test_contract(wrong, error, message):
    with pytest.raises(error, match=f"head_scale: .*{message}"):
        head_scale(**GOOD | wrong)


def test_triton_refuses_what_requires_a_gradient(backend, call):
    if backend != "triton":
        pytest.skip("of triton only")
    leaf = torch.ones(4, 3, 2, requires_grad=True)
    with pytest.raises(ValueError, match="head_scale: backend 'triton' has no gradient"):
        call(head_scale, **GOOD | {"x": leaf})


def test_the_launcher_never_reads_out_of_range(backend, device):
    """What the host does not check on CUDA: the row is NaN."""
    if backend != "triton":
        pytest.skip("of triton only")
    from spex_core.triton_kernels.head_scale import head_scale as launch

    x, masks = (GOOD[name].to(device) for name in ("x", "masks"))
    got = launch(x, masks, torch.tensor([1, -1, 2, 0], device=device), 0, None, None)
    assert got.isnan().all(dim=(1, 2)).tolist() == [False, True, True, False]
