"""parity_gram: inner products of +-1 columns packed along the samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core import masks, ops
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("parity_gram")

# (S, T): either side of a word, of a group of 4 columns, of a tile of 32, and of 512 words.
SIZES = [(1, 1), (3, 63), (4, 64), (5, 65), (33, 1000), (31, 100), (70, 2050), (9, 33_000)]


def random_columns(terms, samples, seed=0):
    """Dense bool (S, T), and packed; the first two columns are equal, the third opposite."""
    dense = np.random.default_rng(seed).random((terms, samples)) < 0.5
    dense[1:2], dense[2:3] = dense[0], ~dense[0]
    return dense, masks.pack(dense)


def oracle(dense):
    """The product of dense integer +-1 matrices."""
    sign = 1 - 2 * dense.astype(np.int64)
    return torch.from_numpy((sign @ sign.T).astype(np.float64))


@pytest.mark.parametrize(("terms", "samples"), SIZES)
def test_exact(call, terms, samples):
    dense, columns = random_columns(terms, samples)
    got = call(ops.parity_gram, columns, samples)
    assert got.dtype == torch.float64
    assert torch.equal(got, oracle(dense))


@pytest.mark.parametrize(("terms", "samples"), SIZES)
def test_every_instruction_set_is_exact(isa, terms, samples):
    from spex_core import native

    dense, columns = random_columns(terms, samples, seed=1)
    assert torch.equal(native.parity_gram_cpu(columns, samples, isa=isa), oracle(dense))


def test_bits_that_all_differ(isa):
    """The largest counts: 16-bit fields of partial counts must not overflow."""
    from spex_core import native

    columns = torch.tensor([[0], [-1]], dtype=torch.int64).repeat(1, 1030)  # 512 words twice, and 6
    got = native.parity_gram_cpu(columns, 64 * 1030, isa=isa)
    assert got.tolist() == [[65_920.0, -65_920.0], [-65_920.0, 65_920.0]]


@given(st.integers(1, 40), st.integers(1, 700), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_is_the_adjoint_of_predict(terms, samples, n, seed):
    """G = A' A, column by column; symmetric, T on the diagonal."""
    rng = np.random.default_rng(seed)
    packed = masks.pack(rng.random((samples, n)) < 0.5)
    support = masks.pack(rng.random((terms, n)) < 0.3)
    gram = ops.parity_gram(ops.parity_bits(packed, support), samples)
    one = torch.eye(terms, dtype=torch.float64)[rng.integers(terms)]
    assert torch.equal(
        gram @ one, ops.parity_adjoint(packed, support, ops.parity_predict(packed, support, one))
    )
    assert torch.equal(gram, gram.T)
    assert torch.equal(gram.diagonal(), torch.full((terms,), float(samples), dtype=torch.float64))


def test_same_bits_for_any_number_of_threads(set_threads):
    _, columns = random_columns(300, 20_000)
    set_threads(1)
    alone = ops.parity_gram(columns, 20_000)
    for threads in (2, 3, 7):
        set_threads(threads)
        assert torch.equal(ops.parity_gram(columns, 20_000), alone)


@pytest.mark.parametrize(("terms", "samples"), [(0, 10), (3, 0), (0, 0)])
def test_empty(call, terms, samples):
    columns = torch.zeros(terms, -(-samples // 64), dtype=torch.int64)
    got = call(ops.parity_gram, columns, samples)
    assert torch.equal(got, torch.zeros(terms, terms, dtype=torch.float64))


def test_strided_input_and_input_unchanged(call):
    dense, columns = random_columns(40, 256)
    before, view = columns.clone(), columns[::3, 1:3]
    want = oracle(dense[::3, 64:192])
    assert torch.equal(call(ops.parity_gram, view, 128), want)
    assert torch.equal(columns, before)


@pytest.mark.usefixtures("without_cuda")
def test_contract(backend):
    columns = torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(
        TypeError, match=r"parity_gram: columns must be a packed int64 tensor, got torch.float"
    ):
        ops.parity_gram(columns.float(), 100, backend=backend)
    with pytest.raises(
        ValueError, match=r"columns must have ceil\(samples / 64\) = 3 words, got 2"
    ):
        ops.parity_gram(columns, 129, backend=backend)
    with pytest.raises(
        ValueError, match=r"parity_gram: columns must have two axes, got shape \(2,\)"
    ):
        ops.parity_gram(columns[0], 100, backend=backend)
    with pytest.raises(ValueError, match="parity_gram: samples must be an integer >= 0, got -1"):
        ops.parity_gram(columns, -1, backend=backend)
    with pytest.raises(TypeError, match=r"parity_gram: samples must be an integer >= 0, got 1\.5"):
        ops.parity_gram(columns, 1.5, backend=backend)
    with pytest.raises(BackendUnavailable, match="parity_gram: backend 'cuda' is not available"):
        ops.parity_gram(columns, 100, backend="cuda")
