"""fwht: the six kinds of kernel test. What holds for every backend is asked of every backend; the
instruction sets of the cpu backend are held to the bits of the reference."""

import functools
import importlib
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from spex_core import ops, reference
from spex_core.backend import interpreted, pick, refusal, why_not
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("fwht")

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float64)
SIZES = range(15)  # b: one register, several, and every radix, with a stage more and a stage less
ROWS = (1, 2, 3, 63, 64, 65, 100)


@pytest.fixture
def fwht(backend, device):
    """CPU tensor -> its transform, back on the CPU, by each backend."""
    return lambda x: ops.fwht(x.to(device), backend=backend).cpu()


@pytest.fixture
def fwht_cpu(isa):
    """The cpu kernel on each instruction set."""
    from spex_core import native

    return functools.partial(native.fwht_cpu, isa=isa)


def gaussian(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def signs(*shape, dtype=torch.float32, seed=0):
    bits = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed))
    return (1 - 2 * bits).to(dtype)


def characters(b, k, dtype=torch.float64):
    """Row k of the transform's matrix, (-1)**<k, j> for j in [0, 2**b): a product over bits."""
    row = torch.ones(1, dtype=dtype)
    for i in range(b):
        row = torch.cat([row, row * (-1) ** (k >> i & 1)])
    return row


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


# 1. Bit-equal to the reference.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("b", SIZES)
def test_signs_give_the_bits_of_the_reference(fwht, b, dtype):
    for rows in ROWS if b < 10 else ROWS[:3]:
        x = signs(rows, 1 << b, dtype=dtype, seed=rows)
        want = reference.fwht(x)
        assert want.abs().max() > 1 or b == 0
        assert torch.equal(fwht(x), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("b", SIZES)
def test_cpu_gives_the_bits_of_the_reference_on_floats(fwht_cpu, b, dtype):
    """Not only on integers: every instruction set makes the same sums in the same order."""
    for rows in ROWS if b < 10 else ROWS[:3]:
        x = gaussian(rows, 1 << b, dtype=dtype, seed=rows)
        assert torch.equal(fwht_cpu(x), reference.fwht(x))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("b", "rows"), [(15, 3), (16, 1), (18, 1)])
def test_rows_that_take_two_passes(fwht, b, rows, dtype):
    """Sums in the order of the reference: the same bits on floats too."""
    x = gaussian(rows, 1 << b).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(fwht(x), reference.fwht(x.to(wide)).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("b", SIZES)
def test_floats_give_the_bits_of_the_reference_too(fwht, b, dtype):
    """Every backend makes the same sums in the same order."""
    for rows in ROWS if b < 8 else ROWS[:3]:
        x = gaussian(rows, 1 << b, dtype=dtype, seed=rows)
        assert torch.equal(fwht(x), reference.fwht(x))


@pytest.mark.parametrize("b", range(15, 22))
def test_cpu_gives_the_bits_of_the_reference_on_long_rows(fwht_cpu, b):
    x = gaussian(2, 1 << b, dtype=torch.float32)
    assert torch.equal(fwht_cpu(x), reference.fwht(x))


@pytest.fixture(scope="module")
def longest():
    """b = 24: four spikes, and their transform, a sum of four characters exact in float32."""
    b, spikes = 24, {1: 1.0, 0x654321: 2.0, 0xABCDEF: 4.0, (1 << 24) - 1: 8.0}
    x = torch.zeros(1 << b)
    want = torch.zeros(1 << b)
    for j, height in spikes.items():
        x[j] = height
        want += height * characters(b, j, torch.float32)
    assert want.min() == -15
    assert want.max() == 15
    return x, want


def test_the_longest_row(fwht_cpu, longest):
    x, want = longest
    assert torch.equal(fwht_cpu(x), want)


# 2. Close on floats.


@pytest.mark.parametrize("b", [4, 5, 8, 9, 12, 13, 16])
def test_float32_error_is_below_its_bound(fwht, b):
    x = gaussian(max(1, 4096 >> b), 1 << b, dtype=torch.float32)
    want = reference.fwht(x.double())
    assert relative(fwht(x), want) <= 0.25 * torch.finfo(torch.float32).eps * b


@pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double"
)
@pytest.mark.parametrize("b", [4, 7, 10])
def test_float64_error_is_below_its_bound(fwht, b):
    x = gaussian(3, 1 << b)
    matrix = np.stack([characters(b, k).numpy() for k in range(1 << b)]).astype(np.longdouble)
    want = x.numpy().astype(np.longdouble) @ matrix
    error = fwht(x).numpy() - want
    norm = np.sqrt((error**2).sum() / (want**2).sum())
    assert norm <= 0.25 * torch.finfo(torch.float64).eps * b


# 3. Identities.


@pytest.mark.parametrize("b", [0, 1, 3, 6, 9, 12])
def test_twice_is_a_scaling(fwht, b):
    x = signs(5, 1 << b)
    assert torch.equal(fwht(fwht(x)), (1 << b) * x)


@pytest.mark.parametrize("b", [1, 4, 7, 11])
def test_energy_and_sums_are_kept(fwht, b):
    x, y = gaussian(2, 3, 1 << b)
    torch.testing.assert_close((fwht(x) ** 2).sum(), (1 << b) * (x**2).sum())
    torch.testing.assert_close(fwht(2 * x - 3 * y), 2 * fwht(x) - 3 * fwht(y))


@pytest.mark.parametrize("b", [0, 1, 2, 5, 8, 11])
def test_a_spike_gives_a_row_of_signs(fwht, b):
    for j in {0, 1, (1 << b) // 2, (1 << b) - 1} - {1 << b}:
        x = torch.zeros(1 << b, dtype=torch.float64)
        x[j] = 1
        assert torch.equal(fwht(x), characters(b, j))


# 4. An oracle that shares no code.


@pytest.mark.parametrize("b", range(11))
def test_brute_force_over_all_pairs(fwht, b):
    matrix = torch.stack([characters(b, k) for k in range(1 << b)])  # (B, B)
    x = torch.randint(-99, 99, (3, 1 << b), generator=torch.Generator().manual_seed(b)).double()
    assert torch.equal(fwht(x), x @ matrix)


def test_signs_of_zero_infinity_and_nan(fwht):
    x = torch.tensor([[float("inf"), 1.0], [float("nan"), 1.0], [-0.0, 0.0]])
    got = fwht(x)
    assert got[0].tolist() == [float("inf")] * 2
    assert got[1].isnan().all()
    assert got[2].tolist() == [0.0, 0.0]


# 5. Contract.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_summed_in_float32(fwht, dtype):
    x = gaussian(3, 4096).to(dtype)
    got = fwht(x)
    assert got.dtype == dtype
    assert torch.equal(got, reference.fwht(x.float()).to(dtype))


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 16), (1,), (4, 1), (2, 3, 5, 32)])
def test_any_leading_shape(fwht, shape):
    x = signs(*shape)
    got = fwht(x)
    assert got.shape == x.shape
    assert torch.equal(got, reference.fwht(x))


def test_strided_and_shifted_input(fwht):
    wide = gaussian(64, 129, dtype=torch.float32)
    for x in (wide[:, 1:], wide[:, :128:2], wide[:, :128].T, wide[:1, :64].expand(7, 64)):
        assert torch.equal(fwht(x), reference.fwht(x.contiguous()))
    shifted = wide.flatten()[1:513]  # contiguous, not aligned to a vector
    assert torch.equal(fwht(shifted), reference.fwht(shifted.clone()))


def test_input_is_unchanged_and_output_is_new(backend, device):
    for b in (0, 2, 6, 12):
        x = gaussian(3, 1 << b).to(device)
        before = x.clone()
        got = ops.fwht(x, backend=backend)
        assert torch.equal(x, before)
        assert got.data_ptr() != x.data_ptr()
        assert (got.dtype, got.device) == (x.dtype, x.device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("b", [*SIZES, 18])
def test_in_place_and_into_a_given_output(fwht_cpu, b, dtype):
    x = gaussian(3, 1 << b, dtype=dtype)
    want = reference.fwht(x)
    out = torch.empty_like(x)
    assert fwht_cpu(x, out=out) is out
    assert torch.equal(out, want)
    assert fwht_cpu(x, out=x) is x
    assert torch.equal(x, want)


@pytest.mark.parametrize("b", range(6))
def test_nothing_is_written_past_the_end(fwht_cpu, b):
    for rows in (1, 3, 5, 17):
        guarded = torch.full((rows * (1 << b) + 64,), 7.0)
        x = guarded[: rows << b].view(rows, 1 << b)
        fwht_cpu(x, out=x)
        assert (guarded[rows << b :] == 7).all()


@pytest.mark.parametrize(
    ("rows", "b"),
    [(1, 22), (3, 20), (9, 17), (1 << 17, 3), (999, 11), ((1 << 20) + 1, 0)],
    ids=str,
)
def test_bits_do_not_depend_on_the_threads(fwht_cpu, set_threads, rows, b):
    x = gaussian(rows, 1 << b, dtype=torch.float32)
    set_threads(1)
    want = fwht_cpu(x)
    for count in (2, 3, 16):
        set_threads(count)
        assert torch.equal(fwht_cpu(x), want)


@pytest.mark.parametrize("x", [torch.arange(4), torch.ones(4, dtype=torch.bool), [1.0, 2.0], None])
def test_anything_but_a_float_tensor_is_refused(x):
    with pytest.raises(TypeError, match="fwht: x must be a floating-point tensor, got"):
        ops.fwht(x)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (8, 6), (3, 0), (1 << 25,)])
def test_a_last_axis_that_is_no_power_of_two_is_refused(shape):
    with pytest.raises(ValueError, match=r"b from 0 to 24, got shape"):
        ops.fwht(torch.zeros([]).expand(shape))


@pytest.mark.usefixtures("without_cuda")
def test_an_absent_backend_is_refused_by_name():
    with pytest.raises(BackendUnavailable, match="fwht: backend 'cuda' is not available"):
        ops.fwht(torch.ones(4), backend="cuda")
    with pytest.raises(ValueError, match="backend must be one of"):
        ops.fwht(torch.ones(4), backend="gpu")


def test_auto_takes_the_compiled_kernel_where_it_is_built():
    there = refusal("fwht", "cpu", CPU) is None
    assert pick("fwht", "auto", CPU) == ("cpu" if there else "reference")


@pytest.mark.parametrize("most", [9, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_less_shared_memory_gives_the_same_bits(most: int, dtype, monkeypatch) -> None:
    """No tile of either pass is larger than what is shared."""
    kernels = triton_fwht()
    tiles, shape = [], kernels.shape
    monkeypatch.setattr(kernels, "one_pass", lambda x: most)
    monkeypatch.setattr(kernels, "TACTICS", [{"LOG_TILE": most, "LOG_THREAD": 4}])
    monkeypatch.setattr(kernels, "shape", lambda *sizes: tiles.append(sizes[0]) or shape(*sizes))
    for b in (most, most + 1, most + 5):
        x = torch.randn(2, 1 << b, generator=torch.Generator().manual_seed(b), dtype=dtype)
        assert torch.equal(ops.fwht(x, backend="triton"), reference.fwht(x))
    assert max(tiles) == most
    assert len(tiles) == 5  # passes


@pytest.mark.parametrize(
    ("kib", "passes"), [(227, (14, 14)), (163, (14, 14)), (99, (14, 13)), (64, (14, 13))]
)
def test_one_pass_fits_in_shared_memory(kib: int, passes: tuple[int, int], monkeypatch) -> None:
    kernels = triton_fwht()
    monkeypatch.setattr(kernels, "shared_memory", lambda device: 1024 * kib)
    there = (SimpleNamespace(is_cuda=True, dtype=x, device=CPU) for x in (torch.half, torch.double))
    assert tuple(map(kernels.one_pass, there)) == passes


def triton_fwht() -> ModuleType:
    if why_not("triton") is not None or not interpreted():
        pytest.skip("needs Triton's interpreter")
    return importlib.import_module("spex_core.triton_kernels.fwht")
