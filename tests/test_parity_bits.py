"""parity_bits: the product of two bit matrices over GF(2), packed along the samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core import masks, ops, reference
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("parity_bits")

# (T, S, n): one word and many, sizes either side of a word, of a block of 512 samples and of a tile
# of 8 words; more than 24 and 32 terms, so that every group size of the GFNI kernel is met.
SIZES = [
    (1, 1, 1),
    (63, 5, 10),
    (64, 33, 64),
    (65, 30, 65),
    (100, 7, 1000),
    (511, 40, 130),
    (513, 25, 100),
    (1030, 70, 520),
    (1100, 9, 1000),
]
KINDS = ["sparse", "dense", "both", "full"]


def random_masks(rows, n, seed):
    return masks.pack(np.random.default_rng(seed).random((rows, n)) < 0.5)


def supports(kind, terms, n, seed=2):
    """Few features a term, half of them, terms of both kinds in turn, or all features."""
    rng = np.random.default_rng(seed)
    sparse, dense = rng.random((terms, n)) < min(1.0, 2.5 / n), rng.random((terms, n)) < 0.5
    even = np.arange(terms)[:, None] % 2 == 0
    full = np.ones((terms, n), bool)
    tables = {"sparse": sparse, "dense": dense, "both": np.where(even, dense, sparse), "full": full}
    return masks.pack(tables[kind])


def oracle(packed, support, n):
    """Counts of common features by an integer product of dense 0/1 matrices."""
    counts = masks.unpack(support, n).astype(np.int64) @ masks.unpack(packed, n).T.astype(np.int64)
    return masks.pack(counts % 2 == 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("samples", "terms", "n"), SIZES)
def test_bit_equal_to_a_dense_product(call, samples, terms, n, kind):
    packed, support = random_masks(samples, n, 1), supports(kind, terms, n)
    want = oracle(packed, support, n)
    got = call(ops.parity_bits, packed, support)
    assert torch.equal(got, want)
    assert n == 1 or want.any(), "the case must not be trivial"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("samples", "terms", "n"), SIZES)
def test_every_instruction_set_gives_the_bits_of_the_reference(isa, samples, terms, n, kind):
    from spex_core import native

    packed, support = random_masks(samples, n, 3), supports(kind, terms, n)
    got = native.parity_bits_cpu(packed, support, isa=isa)
    assert torch.equal(got, reference.parity_bits(packed, support))


@pytest.mark.parametrize("order", [7, 8, 9, 15, 16, 17])
def test_orders_either_side_of_the_choice_of_kernel(isa, order):
    """A term with more than 8 features a word goes to another kernel."""
    from spex_core import native

    rng = np.random.default_rng(order)
    for n in (64, 128):
        sets = [tuple(rng.choice(n, order, replace=False).tolist()) for _ in range(50)]
        packed, support = random_masks(600, n, 4), masks.pack_sets(sets, n)
        assert torch.equal(
            native.parity_bits_cpu(packed, support, isa=isa), oracle(packed, support, n)
        )


def test_features_in_few_words_of_many(call):
    """Words that no term uses are passed over."""
    n = 64 * 40
    packed = random_masks(200, n, 5)
    support = masks.pack_sets([(0,), (63, 64), (1300,), (n - 1,), (0, 1300, n - 1), ()], n)
    want = oracle(packed, support, n)
    assert torch.equal(call(ops.parity_bits, packed, support), want)


def test_same_bits_for_any_number_of_threads(set_threads):
    """Enough work for threads to be started."""
    packed, support = random_masks(20_000, 300, 6), supports("both", 400, 300)
    set_threads(1)
    alone = ops.parity_bits(packed, support)
    for threads in (2, 3, 7):
        set_threads(threads)
        assert torch.equal(ops.parity_bits(packed, support), alone)


@given(st.data())
def test_bilinear_over_gf2(data):
    """<x ^ y, k> = <x, k> ^ <y, k>, and the same in k; a mask on itself counts its own features."""
    n, seed = data.draw(st.integers(1, 200)), data.draw(st.integers(0, 2**32 - 1))
    samples, terms = data.draw(st.integers(1, 140)), data.draw(st.integers(1, 40))
    x, y = random_masks(samples, n, seed), random_masks(samples, n, seed + 1)
    k, q = supports("both", terms, n, seed), supports("dense", terms, n, seed + 1)
    bits = ops.parity_bits
    assert torch.equal(bits(x ^ y, k), bits(x, k) ^ bits(y, k))
    assert torch.equal(bits(x, k ^ q), bits(x, k) ^ bits(x, q))
    diagonal = masks.unpack(bits(x, x), samples).diagonal()
    assert np.array_equal(diagonal, masks.orders(x) % 2 == 1)


@given(st.integers(1, 130), st.integers(1, 130), st.integers(1, 130), st.integers(0, 2**32 - 1))
def test_transposed_arguments_give_the_transposed_product(samples, terms, n, seed):
    packed, support = random_masks(samples, n, seed), supports("both", terms, n, seed)
    one_way = masks.unpack(ops.parity_bits(packed, support), samples)
    assert np.array_equal(one_way.T, masks.unpack(ops.parity_bits(support, packed), terms))


@pytest.mark.parametrize(
    ("samples", "terms", "words"), [(0, 3, 2), (5, 0, 2), (0, 0, 1), (70, 3, 0)]
)
def test_empty(call, samples, terms, words):
    packed = torch.ones(samples, words, dtype=torch.int64)
    support = torch.ones(terms, words, dtype=torch.int64)
    got = call(ops.parity_bits, packed, support)
    assert got.shape == (terms, -(-samples // 64))
    assert got.dtype == torch.int64
    assert not got.any()


def test_strided_input_and_inputs_unchanged(call):
    packed, support = random_masks(200, 300, 7), supports("both", 40, 300)
    want = ops.parity_bits(packed[::2, 1:4].contiguous(), support[1::3, 1:4].contiguous())
    before = packed.clone(), support.clone()
    got = call(ops.parity_bits, packed[::2, 1:4], support[1::3, 1:4])
    assert torch.equal(got, want)
    assert torch.equal(packed, before[0])
    assert torch.equal(support, before[1])


def test_contract(backend):
    x = torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(
        TypeError, match=r"parity_bits: masks must be a packed int64 tensor, got torch.int32"
    ):
        ops.parity_bits(x.int(), x, backend=backend)
    with pytest.raises(
        TypeError, match="parity_bits: support must be a packed int64 tensor, got list"
    ):
        ops.parity_bits(x, [[1]], backend=backend)
    with pytest.raises(
        ValueError, match=r"parity_bits: masks must have two axes, got shape \(2,\)"
    ):
        ops.parity_bits(x[0], x, backend=backend)
    with pytest.raises(
        ValueError, match="parity_bits: support must have as many words as masks, 2, got 1"
    ):
        ops.parity_bits(x, x[:, :1], backend=backend)
    with pytest.raises(ValueError, match="backend must be one of"):
        ops.parity_bits(x, x, backend="fast")


@pytest.mark.usefixtures("without_cuda")
def test_a_backend_that_cannot_run_is_refused():
    x = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(BackendUnavailable, match="parity_bits: backend 'cuda' is not available"):
        ops.parity_bits(x, x, backend="cuda")


def test_an_instruction_set_that_is_not_there_is_refused(isa):
    from spex_core import _cpu

    with pytest.raises(ValueError, match="isa 4 is not on this CPU"):
        _cpu.parity_bits(0, 0, 0, 0, 0, 0, 4, 1)
