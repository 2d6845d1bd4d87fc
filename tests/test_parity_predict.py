"""parity_predict and parity_adjoint: a sparse Fourier series at many masks, and its transpose."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core import masks, ops
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("parity_predict")

EPS = np.finfo(np.float64).eps
SIZES = [  # (T, S, n)
    (1, 1, 1),
    (63, 5, 10),
    (65, 64, 64),
    (100, 30, 300),
    (513, 30, 130),
    (1030, 65, 100),
    (2000, 3, 65),
]


def random_masks(rows, n, seed):
    return masks.pack(np.random.default_rng(seed).random((rows, n)) < 0.5)


def problem(samples, terms, n, seed=0, integers=False):
    """Masks, supports half of which are sparse, coefficients and values."""
    rng = np.random.default_rng(seed)
    share = np.where(np.arange(terms)[:, None] % 2 == 0, 0.5, min(1.0, 2.5 / n))
    support = masks.pack(rng.random((terms, n)) < share)
    if integers:
        coefs, values = (rng.integers(-1000, 1000, size).astype(float) for size in (terms, samples))
    else:
        coefs, values = rng.normal(size=terms), rng.normal(size=samples)
    return random_masks(samples, n, seed + 1), support, torch.tensor(coefs), torch.tensor(values)


def signs(packed, support, n):
    """(-1)**<m, k> as a dense float64 (T, S) matrix: the oracle, by counting common features."""
    common = masks.unpack(packed, n).astype(np.int64) @ masks.unpack(support, n).T.astype(np.int64)
    return 1.0 - 2.0 * (common % 2)


@pytest.mark.parametrize(("samples", "terms", "n"), SIZES)
def test_exact_on_integers(call, samples, terms, n):
    packed, support, coefs, values = problem(samples, terms, n, integers=True)
    dense = signs(packed, support, n)
    predicted = call(ops.parity_predict, packed, support, coefs)
    summed = call(ops.parity_adjoint, packed, support, values)
    assert torch.equal(predicted, torch.from_numpy(dense @ coefs.numpy()))
    assert torch.equal(summed, torch.from_numpy(dense.T @ values.numpy()))


@pytest.mark.parametrize(("samples", "terms", "n"), SIZES)
def test_close_to_a_dense_product(call, samples, terms, n):
    """Within eps * additions * sum of magnitudes, which bounds the error of sums in any order."""
    packed, support, coefs, values = problem(samples, terms, n)
    dense = signs(packed, support, n)
    predicted = call(ops.parity_predict, packed, support, coefs).numpy()
    summed = call(ops.parity_adjoint, packed, support, values).numpy()
    assert predicted.dtype == summed.dtype == np.float64
    assert np.abs(predicted - dense @ coefs.numpy()).max() <= EPS * terms * coefs.abs().sum().item()
    bound = EPS * samples * values.abs().sum().item()
    assert np.abs(summed - dense.T @ values.numpy()).max() <= bound


@pytest.mark.parametrize(("samples", "terms", "n"), SIZES)
def test_every_instruction_set_gives_the_same_bits(isa, samples, terms, n):
    from spex_core import native

    packed, support, coefs, values = problem(samples, terms, n)
    for call, x in ((native.parity_predict_cpu, coefs), (native.parity_adjoint_cpu, values)):
        assert torch.equal(
            call(packed, support, x, isa=isa), call(packed, support, x, isa="portable")
        )


def test_predict_sums_in_the_order_of_the_terms(isa):
    """1e16 swallows the one before it and spares those after it has gone, so the order shows."""
    from spex_core import native

    coefs = torch.tensor([1.0, 1e16, -1e16, 1.0, 1.0], dtype=torch.float64)
    packed, support = torch.zeros(600, 1, dtype=torch.int64), torch.ones(5, 1, dtype=torch.int64)
    got = native.parity_predict_cpu(packed, support, coefs, isa=isa)
    assert torch.equal(got, torch.full((600,), 2.0, dtype=torch.float64))
    got = native.parity_predict_cpu(packed + 1, support, coefs, isa=isa)
    assert torch.equal(got, torch.full((600,), -2.0, dtype=torch.float64))


def test_triton_predicts_in_the_order_of_the_terms_too(backend, call):
    if backend != "triton":
        pytest.skip("of triton only")
    packed, support, coefs, _ = problem(700, 37, 100)
    want = ops.parity_predict(packed, support, coefs, backend="cpu")
    assert torch.equal(call(ops.parity_predict, packed, support, coefs), want)


def test_triton_in_blocks_of_masks(backend, call, monkeypatch):
    """Blocks change no bit; a span of 2,048 masks, so that there are several."""
    if backend != "triton":
        pytest.skip("of triton only")
    from spex_core.triton_kernels import parity_adjoint, parity_bits

    monkeypatch.setattr(parity_bits, "SPAN", 2048)
    monkeypatch.setattr(parity_adjoint, "SPAN", 2048)
    packed, support, coefs, values = problem(5000, 3, 70)
    want = [call(ops.parity_predict, packed, support, coefs)]
    want += [call(ops.parity_adjoint, packed, support, values)]
    monkeypatch.setattr(parity_bits, "BLOCK_BYTES", 1)
    assert torch.equal(call(ops.parity_predict, packed, support, coefs), want[0])
    assert torch.equal(call(ops.parity_adjoint, packed, support, values), want[1])
    dense = torch.from_numpy(signs(packed, support, 70))
    torch.testing.assert_close(want[0], dense @ coefs)
    torch.testing.assert_close(want[1], dense.T @ values)


@given(st.integers(1, 700), st.integers(1, 80), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_adjoint(samples, terms, n, seed):
    """<A x, y> = <x, A' y>, exact on integers."""
    packed, support, coefs, values = problem(samples, terms, n, seed, integers=True)
    predicted = ops.parity_predict(packed, support, coefs)
    summed = ops.parity_adjoint(packed, support, values)
    assert torch.dot(predicted, values) == torch.dot(coefs, summed)


@given(st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_all_masks_give_back_the_coefficients(n, seed):
    """A' A = 2**n I on the whole cube: the characters are orthogonal."""
    rng = np.random.default_rng(seed)
    cube = torch.arange(1 << n)[:, None]
    support = torch.from_numpy(rng.permutation(1 << n)[: 1 + rng.integers(20), None])
    coefs = torch.from_numpy(rng.integers(-99, 99, len(support)).astype(float))
    values = ops.parity_predict(cube, support, coefs)
    assert torch.equal(ops.parity_adjoint(cube, support, values), coefs * (1 << n))


def test_the_empty_set_is_a_constant(call):
    packed, constant = random_masks(70, 100, 3), torch.zeros(1, 2, dtype=torch.int64)
    got = call(ops.parity_predict, packed, constant, torch.tensor([2.5]))
    assert torch.equal(got, torch.full((70,), 2.5, dtype=torch.float64))


def test_same_bits_for_any_number_of_threads(set_threads):
    """Enough work for threads to be started."""
    packed, support, coefs, values = problem(40_000, 300, 200)
    set_threads(1)
    alone = (
        ops.parity_predict(packed, support, coefs, backend="cpu"),
        ops.parity_adjoint(packed, support, values, backend="cpu"),
    )
    for threads in (2, 3, 7):
        set_threads(threads)
        assert torch.equal(ops.parity_predict(packed, support, coefs), alone[0])
        assert torch.equal(ops.parity_adjoint(packed, support, values), alone[1])


@pytest.mark.parametrize(
    ("samples", "terms", "words"), [(0, 3, 2), (5, 0, 2), (0, 0, 1), (70, 3, 0)]
)
def test_empty(call, samples, terms, words):
    packed = torch.ones(samples, words, dtype=torch.int64)
    support = torch.ones(terms, words, dtype=torch.int64)
    ones = torch.ones(max(samples, terms), dtype=torch.float64)
    sign = 1.0 if words % 2 == 0 else -1.0  # each word has one feature in common
    predicted = call(ops.parity_predict, packed, support, ones[:terms])
    summed = call(ops.parity_adjoint, packed, support, ones[:samples])
    assert torch.equal(predicted, torch.full((samples,), sign * terms, dtype=torch.float64))
    assert torch.equal(summed, torch.full((terms,), sign * samples, dtype=torch.float64))


def test_strided_input_and_inputs_unchanged(call):
    packed, support, coefs, values = problem(200, 90, 300, integers=True)
    inputs = packed[::2, 1:4], support[1::3, 1:4], coefs[1::3], values[::2]
    before = [x.clone() for x in inputs]
    packed, support, coefs, values = inputs
    dense = torch.from_numpy(signs(packed.contiguous(), support.contiguous(), 192))
    assert torch.equal(call(ops.parity_predict, packed, support, coefs), dense @ coefs)
    assert torch.equal(call(ops.parity_adjoint, packed, support, values), dense.T @ values)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_other_dtypes_are_taken_as_float64(call):
    packed, support, coefs, values = problem(100, 20, 70, integers=True)
    for x, op in ((coefs, ops.parity_predict), (values, ops.parity_adjoint)):
        want = call(op, packed, support, x)
        assert torch.equal(call(op, packed, support, x.float()), want)


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize(
    ("op", "name", "length"), [("parity_predict", "coefs", 3), ("parity_adjoint", "values", 5)]
)
def test_contract(backend, op, name, length):
    call = getattr(ops, op)
    packed, support = torch.zeros(5, 2, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)
    good = torch.zeros(length, dtype=torch.float64)
    with pytest.raises(
        TypeError, match=f"{op}: masks must be a packed int64 tensor, got torch.bool"
    ):
        call(packed.bool(), support, good, backend=backend)
    with pytest.raises(
        ValueError, match=f"{op}: support must have as many words as masks, 2, got 1"
    ):
        call(packed, support[:, :1], good, backend=backend)
    with pytest.raises(
        TypeError, match=f"{op}: {name} must be a floating-point tensor, got torch.int64"
    ):
        call(packed, support, good.long(), backend=backend)
    with pytest.raises(
        ValueError, match=rf"{op}: {name} must have shape \({length},\), got \(4,\)"
    ):
        call(packed, support, torch.zeros(4), backend=backend)
    with pytest.raises(
        ValueError, match=f"{op}: {name} must be on the device of masks, cpu, got meta"
    ):
        call(packed, support, good.to("meta"), backend=backend)
    with pytest.raises(BackendUnavailable, match=f"{op}: backend 'cuda' is not available"):
        call(packed, support, good, backend="cuda")
