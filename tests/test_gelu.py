"""gelu: the exact GELU. The oracle is x Phi(x) by the math module's erfc, in float64; instruction
sets of the cpu backend differ in what they put into a vector and in how they find Phi."""

import functools
import math

import pytest
import torch

from spex_core import reference_inference
from spex_core.backend import refusal
from spex_core.errors import BackendUnavailable
from spex_core.ops_inference import gelu

pytestmark = pytest.mark.op("gelu")

SIZES = [0, 1, 3, 4, 5, 15, 16, 17, 31, 33, 1000]
BOUND = 1.2e-7  # of the error over max(1, |x|), in float32
TAIL = [(-2, 1e-6), (-4, 2e-5), (-7.6, 5e-4)]  # from here on, the relative error on cpu


@pytest.fixture(params=["reference", "portable", "avx2", "avx512", "gfni"])
def op(request):
    """gelu by the reference and by each instruction set."""
    if request.param == "reference":
        return functools.partial(gelu, backend="reference")
    if (reason := refusal("gelu", "cpu", torch.device("cpu"))) is not None:
        pytest.skip(f"cpu: {reason}")
    from spex_core import native

    if native.ISAS[request.param] > native.ISAS[native.best_isa()]:
        pytest.skip(f"{request.param}: this CPU stops at {native.best_isa()}")
    return functools.partial(native.gelu_cpu, isa=request.param)


def exact(x):
    values = [v / 2 * math.erfc(-v / math.sqrt(2)) for v in x.double().flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64).view(x.shape)


def normal(size, dtype=torch.float32):
    return (2 * torch.randn(size, generator=torch.Generator().manual_seed(size))).to(dtype)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_close_to_float64(op, size):
    x = normal(size)
    before = x.clone()
    got = op(x)
    assert got.shape == x.shape
    assert ((got - exact(x)).abs() <= BOUND * x.abs().clamp(min=1)).all()
    assert torch.equal(x, before)


def test_everywhere_close_to_float64(op):
    x = torch.cat([torch.linspace(-15, 15, 60_001), torch.logspace(-38, 38, 5_001)])
    want = exact(x)
    assert ((op(x) - want).abs() <= BOUND * x.abs().clamp(min=1)).all()


@pytest.mark.parametrize(("least", "bound"), TAIL, ids=str)
def test_relative_error_in_the_tail(op, least, bound):
    if op.func is gelu:
        pytest.skip("reference: torch's float32 has no such tail")
    x = torch.cat(
        [torch.linspace(least, 20, 40_001), -torch.logspace(-37, math.log10(-least), 5_001)]
    )
    want = exact(x)
    assert ((op(x) - want).abs() <= bound * want.abs()).all()


@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_is_float32_rounded_once(op, size):
    x = normal(size, torch.bfloat16)
    got = op(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, op(x.float()).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", [0, 3, 40])
def test_edges(op, dtype, place):
    edges = {math.inf: math.inf, -math.inf: 0, 0: 0, -20: 0, -1e30: 0, 20: 20, 2.0**100: 2.0**100}
    for value, want in edges.items():
        x = torch.ones(41, dtype=dtype)
        x[place] = value
        assert op(x)[place].item() == want
    for nan in (math.nan, -math.nan):
        x = torch.ones(41, dtype=dtype)
        x[place] = nan
        assert op(x).isnan().nonzero().tolist() == [[place]]


def test_bits_do_not_depend_on_the_threads_or_the_place(op, set_threads):
    x = normal(1_000_003)
    set_threads(1)
    alone = op(x)
    for threads in (2, 7):
        set_threads(threads)
        assert torch.equal(op(x), alone)
    if op.func is not gelu:  # torch's own vectors end differently
        assert torch.equal(op(x[7:30]), alone[7:30])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shapes_and_strides(op, dtype):
    x = normal(60, dtype).view(3, 4, 5)
    want = op(x)
    torch.testing.assert_close(op(x.transpose(0, 2)), want.transpose(0, 2))
    assert op(x[0, 0, 0]).shape == ()


def test_backends_agree(backend):
    x = normal(1000)
    assert torch.allclose(gelu(x, backend=backend), torch.nn.functional.gelu(x), rtol=0, atol=1e-6)


def test_gradient():
    x = normal(20).double().requires_grad_()
    assert torch.autograd.gradcheck(reference_inference.gelu, x)


def test_cpu_refuses_what_requires_a_gradient(backend):
    x = torch.ones(3, requires_grad=True)
    if backend == "reference":
        assert gelu(x, backend=backend).requires_grad
        return
    with pytest.raises(ValueError, match="gelu: backend 'cpu' has no gradient"):
        gelu(x, backend=backend)
    with torch.no_grad():
        assert gelu(x, backend=backend).shape == (3,)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (None, {}, TypeError, "x must be a float32 or bfloat16 tensor"),
        ([1.0], {}, TypeError, "x must be a float32 or bfloat16 tensor"),
        (torch.ones(2, dtype=torch.int32), {}, TypeError, "x must be a float32 or bfloat16 tensor"),
        (torch.ones(2).double(), {}, TypeError, "x must be a float32 or bfloat16 tensor"),
        (torch.ones(2).half(), {}, TypeError, "x must be a float32 or bfloat16 tensor"),
        (torch.ones(2), {"backend": "triton"}, BackendUnavailable, "'triton' is not available"),
    ],
)
def test_contract(x, options, error, message):
    with pytest.raises(error, match=f"gelu: .*{message}"):
        gelu(x, **options)
