"""uniform_masks: counter-based uniform masks, the same bits everywhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core import masks, ops, reference
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("uniform_masks")

SIZES = [
    (1, 1),
    (3, 63),
    (100, 64),
    (37, 65),
    (50, 127),
    (64, 128),
    (65, 129),
    (9, 1000),
    (3, 20_000),
]
ENDS = [(0, 0, 0), (2**64 - 1, 2**32 - 1, 0), (5, 7, 2**32 - 2), (2**63, 1, 2**40)]

# Philox4x32-10 as published with Random123 (Salmon et al. 2011): counter, key, result.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words32(text):
    return [int(word, 16) for word in text.split()]


def philox(counter, key):
    """The generator again, in Python's own integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    low = 2**32 - 1
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = b >> 32 ^ c1 ^ k0, b & low, a >> 32 ^ c3 ^ k1, a & low
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
    return [c0, c1, c2, c3]


def oracle(rows, n, seed, stream, start):
    """Dense bool (rows, n), bit by bit as the docstring says."""
    key = [seed & 0xFFFFFFFF, seed >> 32]
    dense = np.zeros((rows, n), bool)
    for r in range(rows):
        row = start + r
        for j in range(0, n, 128):
            out = philox([j // 128, row & 0xFFFFFFFF, row >> 32, stream], key)
            number = sum(word << 32 * i for i, word in enumerate(out))
            for i in range(min(128, n - j)):
                dense[r, j + i] = number >> i & 1
    return dense


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, result):
    counter, key, result = words32(counter), words32(key), words32(result)
    got = reference.philox([torch.tensor([c]) for c in counter], *key)
    assert [word.item() for word in got] == result
    assert philox(counter, key) == result


def test_first_words_are_the_published_answer(backend, device):
    """Row 0 of (seed 0, stream 0) starts with the answer for counter 0 and key 0."""
    first = ops.uniform_masks(1, 128, seed=0, device=device, backend=backend)
    first = first.cpu().numpy().view(np.uint64)
    assert [f"{word:016x}" for word in first[0]] == ["e169c58d6627e8d5", "9b00dbd8bc57ac4c"]


@pytest.mark.parametrize(("seed", "stream", "start"), ENDS)
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (5, 63), (4, 64), (5, 65), (3, 200)])
def test_equal_to_the_generator_in_python_integers(backend, device, rows, n, seed, stream, start):
    where = {"seed": seed, "stream": stream, "start": start, "device": device}
    got = ops.uniform_masks(rows, n, **where, backend=backend)
    assert got.device.type == device.type
    assert torch.equal(got.cpu(), masks.pack(oracle(rows, n, seed, stream, start)))


@pytest.mark.parametrize(("seed", "stream", "start"), ENDS)
@pytest.mark.parametrize(("rows", "n"), SIZES)
def test_every_instruction_set_gives_the_bits_of_the_reference(isa, rows, n, seed, stream, start):
    from spex_core import native

    where = {"seed": seed, "stream": stream, "start": start}
    got = native.uniform_masks_cpu(rows, n, **where, isa=isa)
    assert torch.equal(got, reference.uniform_masks(rows, n, **where))


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_any_range_is_made_without_the_rows_before_it(start, rows, n, seed):
    table = ops.uniform_masks(start + rows, n, seed=seed)
    assert torch.equal(ops.uniform_masks(rows, n, seed=seed, start=start), table[start:])


@given(st.integers(1, 250), st.integers(0, 2**64 - 1))
def test_fewer_features_are_a_cut(n, seed):
    """Masks of n features are those of 256, cut, with spare bits zero."""
    wide = masks.unpack(ops.uniform_masks(20, 256, seed=seed), 256)
    assert torch.equal(ops.uniform_masks(20, n, seed=seed), masks.pack(wide[:, :n]))


def test_uniform_and_uncorrelated():
    """Means and pairwise correlations of 20,000 fair bits: within 5 standard errors."""
    sign = 1 - 2.0 * masks.unpack(ops.uniform_masks(20_000, 70, seed=11), 70)
    products = sign.T @ sign / 20_000
    assert np.abs(sign.mean(0)).max() < 5 / 20_000**0.5
    assert np.abs(products - np.eye(70)).max() < 5 / 20_000**0.5


def test_seeds_and_streams_differ():
    tables = [ops.uniform_masks(4, 64, seed=s, stream=t) for s in (0, 1, 2**32) for t in (0, 1)]
    assert len({tuple(table.flatten().tolist()) for table in tables}) == 6


def test_same_bits_for_any_number_of_threads(set_threads):
    set_threads(1)
    alone = ops.uniform_masks(60_000, 130, seed=3)
    for threads in (2, 3, 7):
        set_threads(threads)
        assert torch.equal(ops.uniform_masks(60_000, 130, seed=3), alone)


def test_empty(backend, device):
    assert ops.uniform_masks(0, 100, seed=0, device=device, backend=backend).shape == (0, 2)


def test_more_than_a_block_of_rows_and_words(backend, device):
    got = ops.uniform_masks(300, 700, seed=9, stream=2, device=device, backend=backend)
    assert torch.equal(got.cpu(), reference.uniform_masks(300, 700, seed=9, stream=2, start=0))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"rows": -1}, ValueError, "uniform_masks: rows must be an integer >= 0, got -1"),
        ({"rows": 1.0}, TypeError, "uniform_masks: rows must be an integer >= 0, got 1.0"),
        ({"n": 0}, ValueError, "uniform_masks: n must be an integer >= 1, got 0"),
        ({"n": True}, TypeError, "uniform_masks: n must be an integer >= 1, got True"),
        ({"seed": -1}, ValueError, "uniform_masks: seed must be an integer >= 0"),
        ({"seed": 2**64}, ValueError, "uniform_masks: seed must be an integer >= 0"),
        ({"stream": 2**32}, ValueError, "uniform_masks: stream must be an integer >= 0"),
        ({"start": -1}, ValueError, "uniform_masks: start must be an integer >= 0"),
        ({"device": "meta", "backend": "cpu"}, BackendUnavailable, "tensors are on meta"),
        ({"backend": "cuda"}, BackendUnavailable, "uniform_masks: backend 'cuda' is not available"),
    ],
)
def test_contract(wrong, error, message):
    with pytest.raises(error, match=message):
        ops.uniform_masks(**{"rows": 1, "n": 1, "seed": 0, **wrong})
