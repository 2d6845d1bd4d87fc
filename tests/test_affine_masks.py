"""affine_masks: every point of affine subspaces of GF(2)**n, packed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core import masks, ops, reference
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("affine_masks")

# (b, P, n): one word a mask to more than 32 vectors, tables that end before, at and after b.
SIZES = [
    (0, 3, 100),
    (1, 1, 1),
    (3, 5, 64),
    (4, 2, 65),
    (8, 3, 130),
    (6, 2, 1000),
    (12, 2, 64),
    (9, 3, 700),
    (7, 1, 20_000),
]


def random_problem(b, shifts, n, seed=0):
    rng = np.random.default_rng(seed)
    columns, offsets = rng.random((b, n)) < 0.5, rng.random((shifts, n)) < 0.5
    return columns, offsets, masks.pack(columns), masks.pack(offsets)


def oracle(columns, offsets):
    """M l + d for every l, by an integer product of dense 0/1 matrices."""
    b = len(columns)
    l_bits = np.arange(1 << b)[:, None] >> np.arange(b) & 1  # (2**b, b)
    points = l_bits @ columns.astype(np.int64)  # (2**b, n)
    return (points[None] + offsets[:, None]) % 2 == 1  # (P, 2**b, n)


@pytest.mark.parametrize(("b", "shifts", "n"), SIZES)
def test_equal_to_a_dense_product(backend, device, b, shifts, n):
    columns, offsets, *packed = random_problem(b, shifts, n)
    want = oracle(columns, offsets)
    got = ops.affine_masks(*(x.to(device) for x in packed), backend=backend).cpu()
    assert got.shape == (shifts, 1 << b, masks.words(n))
    assert torch.equal(got.flatten(0, 1), masks.pack(want.reshape(-1, n)))


@pytest.mark.parametrize(("b", "shifts", "n"), SIZES)
def test_every_instruction_set_gives_the_bits_of_the_reference(isa, b, shifts, n):
    from spex_core import native

    packed = random_problem(b, shifts, n, seed=1)[2:]
    assert torch.equal(native.affine_masks_cpu(*packed, isa=isa), reference.affine_masks(*packed))


@given(st.integers(0, 8), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_affine(b, n, seed):
    """point(l ^ m) = point(l) ^ point(m) ^ offset: the offset at 0, a column more at 2**i."""
    *_, columns, offsets = random_problem(b, 2, n, seed)
    points = ops.affine_masks(columns, offsets)
    one, other = torch.from_numpy(np.random.default_rng(seed).integers(1 << b, size=(2, 9)))
    assert torch.equal(points[:, one ^ other], points[:, one] ^ points[:, other] ^ offsets[:, None])
    assert torch.equal(points[:, 0], offsets)
    for i in range(b):
        assert torch.equal(points[:, 1 << i], offsets ^ columns[i])


@pytest.mark.parametrize("shifts", [1, 5])
def test_same_bits_for_any_number_of_threads(set_threads, shifts):
    """One shift is shared among threads too."""
    *_, columns, offsets = random_problem(16, shifts, 200)
    set_threads(1)
    alone = ops.affine_masks(columns, offsets)
    assert torch.equal(alone, ops.affine_masks(columns, offsets, backend="reference"))
    for threads in (2, 7):
        set_threads(threads)
        assert torch.equal(ops.affine_masks(columns, offsets), alone)


@pytest.mark.parametrize(("b", "shifts", "words"), [(3, 0, 2), (0, 0, 1), (3, 2, 0)])
def test_empty(backend, device, b, shifts, words):
    columns = torch.ones(b, words, dtype=torch.int64, device=device)
    offsets = torch.ones(shifts, words, dtype=torch.int64, device=device)
    assert ops.affine_masks(columns, offsets, backend=backend).shape == (shifts, 1 << b, words)


def test_strided_input_and_inputs_unchanged(backend, device):
    *_, columns, offsets = (x.to(device) for x in random_problem(10, 7, 300)[2:])
    before = columns.clone(), offsets.clone()
    inner = columns[::2, 1:4], offsets[::3, 1:4]
    want = reference.affine_masks(*(x.cpu().contiguous() for x in inner))
    assert torch.equal(ops.affine_masks(*inner, backend=backend).cpu(), want)
    assert torch.equal(columns, before[0])
    assert torch.equal(offsets, before[1])


def test_contract(backend, device):
    x = torch.zeros(3, 2, dtype=torch.int64, device=device)
    with pytest.raises(
        TypeError, match=r"affine_masks: columns must be a packed int64 tensor, got torch.bool"
    ):
        ops.affine_masks(x.bool(), x, backend=backend)
    with pytest.raises(
        ValueError, match="affine_masks: offsets must have as many words as columns, 2, got 1"
    ):
        ops.affine_masks(x, x[:, :1], backend=backend)
    with pytest.raises(ValueError, match="affine_masks: columns must be at most 24 rows, got 25"):
        ops.affine_masks(torch.zeros(25, 2, dtype=torch.int64, device=device), x, backend=backend)
    with pytest.raises(ValueError, match="affine_masks: offsets must be on the device of columns"):
        ops.affine_masks(x, torch.zeros(3, 2, dtype=torch.int64, device="meta"), backend=backend)
    with pytest.raises(BackendUnavailable, match="affine_masks: backend 'cuda' is not available"):
        ops.affine_masks(x, x, backend="cuda")
