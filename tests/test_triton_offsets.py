"""Tensors of more than 2**31 elements: one program far from the first, on memory where only what
it touches exists. Runs in Triton's interpreter, whose addresses are plain integers."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from spex_core import reference, reference_gp
from spex_core.backend import interpreted, why_not

if why_not("triton") is not None or not interpreted():
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

from spex_core.triton_kernels import (
    affine_masks,
    anova_cross,
    anova_kernel,
    fwht,
    histogram,
    parity_bits,
    parity_gram,
    peel_bins,
    peel_squares,
    tree_fourier,
    uniform_masks,
)
from triton.runtime.interpreter import _implicit_cvt, _patch_lang, interpreter_builder


class Far:
    """A tensor whose first element is element `first` of the one that the kernel is shown."""

    def __init__(self, x: Tensor, first: int) -> None:
        self.dtype, self.address = x.dtype, x.data_ptr() - first * x.element_size()

    def data_ptr(self) -> int:
        return self.address


def run_program(kernel, index: tuple[int, ...], *args: object, **constants: int) -> None:
    """Program `index` of the kernel, alone."""
    constants.pop("num_warps", None)
    restore = _patch_lang(kernel.fn)
    try:
        interpreter_builder.set_grid_dim(2**31 - 1, 2**16 - 1, 2**16 - 1)
        interpreter_builder.set_grid_idx(*index, *(3 - len(index)) * [0])
        names = list(inspect.signature(kernel.fn).parameters)
        given = {name: _implicit_cvt(arg) for name, arg in zip(names, args, strict=False)}
        kernel.fn(**given, **constants)
    finally:
        restore.restore()


def random_words(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)


def test_uniform_masks() -> None:
    words, tactic = 2, uniform_masks.shape(2, **uniform_masks.TACTICS[0])
    block = 2**31 // words // tactic["BLOCK_R"] + 3  # the first row is past 2**31 elements
    row = block * tactic["BLOCK_R"]
    out = torch.zeros(tactic["BLOCK_R"], words, dtype=torch.int64)
    run_program(
        uniform_masks._uniform_masks_kernel,
        (block, 0),
        *(Far(out, row * words), row + 10, 128, words, 5, 0, 0),
        **tactic,
    )
    want = reference.uniform_masks(10, 128, seed=5, stream=0, start=row)
    assert torch.equal(out[:10], want)
    assert not out[10:].any()


def test_affine_masks() -> None:
    b, words, tactic = 24, 3, affine_masks.shape(3, **affine_masks.TACTICS[0])
    size = 1 << tactic["LOG_LOW"] + tactic["LOG_HIGH"]
    p, block = 50, 77
    columns, offsets = random_words(b, words), random_words(51, words)
    out = torch.zeros(size, words, dtype=torch.int64)
    blocks, first = (1 << b) // size, ((p << b) + block * size) * words
    assert first > 2**31
    run_program(
        affine_masks._affine_masks_kernel,
        (p * blocks + block, 0),
        *(columns, offsets, Far(out, first), blocks, b, words),
        **tactic,
    )
    low = size.bit_length() - 1
    start = reference.affine_masks(columns[low:], offsets[50:])[:, block]
    assert torch.equal(out, reference.affine_masks(columns[:low], start)[0])


def test_fwht_of_rows() -> None:
    how = fwht.shape(12, 5, 4)
    block, x, out = 2**20 + 5, torch.randn(128, 32), torch.zeros(128, 32)
    rows = (block << 7) + 100  # a program has 128 of them
    run_program(
        *(fwht._fwht_rows_kernel, (block,), Far(x, block << 12), Far(out, block << 12), rows),
        **how,
    )
    assert block << 12 > 2**31
    assert torch.equal(out[:100], reference.fwht(x[:100]))
    assert not out[100:].any()


def test_fwht_of_columns() -> None:
    """b = 24, the longest row there is: its last tile of 16 columns, in row 200."""
    b, stride, row = 10, 14, 200
    tile, columns = torch.randn(1 << b, 16), (1 << stride) // 16
    first = ((row + 1) << (b + stride)) - 16  # where the last row of the tile starts
    wide = torch.zeros((1 << b) - 1, 1 << stride)
    x, out = (torch.cat([wide.flatten(), torch.zeros(16)]) for _ in range(2))
    x.as_strided(tile.shape, (1 << stride, 1)).copy_(tile)
    far = [Far(y, first - ((1 << b) - 1 << stride)) for y in (x, out)]
    assert first > 2**31
    program = (row + 1) * columns - 1
    how = {"LOG_STRIDE": stride, **fwht.shape(b + 4, b, 4)}
    run_program(fwht._fwht_columns_kernel, (program,), *far, **how)
    assert torch.equal(out.as_strided(tile.shape, (1 << stride, 1)), reference.fwht(tile.T).T)


STRIDE = 1 << 20  # words of 64 masks in a row


def wide(rows: int) -> Tensor:
    """Zeros (rows, STRIDE) that take no memory before they are written."""
    return torch.from_numpy(np.zeros((rows, STRIDE), np.int64))


def test_bit_columns() -> None:
    """The last 64 masks of 2**26 with 64 words: the last word of each, its bits 64 rows of out."""
    tactic, words = {"BLOCK_W": 1, "BLOCK_G": 16}, 64
    first = (STRIDE // tactic["BLOCK_G"] - 1) * tactic["BLOCK_G"]
    samples = 64 * (first + 1)  # the other groups of the block are missing
    masks, out = random_words(64, words), wide(64)
    start = 64 * first * words
    run_program(
        *(parity_bits._bit_columns_kernel, (first // tactic["BLOCK_G"], words - 1)),
        *(Far(masks, start), Far(out, 64 * (words - 1) * STRIDE), samples, words, STRIDE),
        **tactic,
    )
    assert min(start, 64 * (words - 1) * STRIDE) > 2**31
    want = reference.parity_bits(masks[:, -1:], 1 << torch.arange(64)[:, None])[:, 0]
    assert torch.equal(out[:, first], want)
    assert not out[:, first + 1 :].any()


def test_parity_bits() -> None:
    """Terms 4,096 and on, each of the features 4,032 and 4,095."""
    tactic, words, s = parity_bits.TACTICS[0], 64, 4096
    columns, out = wide(64), wide(32)
    columns[:, -32:] = random_words(64, 32)
    support = torch.zeros(32, words, dtype=torch.int64)
    support[:, -1] = torch.tensor(-(2**63) | 1)
    run_program(
        *(parity_bits._parity_bits_kernel, ((s // 32 + 1) * (STRIDE // 32) - 1,)),
        *(Far(columns, 64 * (words - 1) * STRIDE), Far(support, s * words), Far(out, s * STRIDE)),
        *(s + 20, words, STRIDE),
        **tactic,
    )
    assert min(64 * (words - 1) * STRIDE, s * STRIDE) > 2**31
    assert torch.equal(out[:20, -32:], (columns[0, -32:] ^ columns[63, -32:]).expand(20, 32))
    assert not out[20:, -32:].any()


def test_parity_gram() -> None:
    """Terms 2**15 and on of 2**16, against themselves."""
    terms, samples, tactic = 2**16, 100, parity_gram.TACTICS[0]
    block = 2**15 // tactic["BLOCK_S"]
    s, size = block * tactic["BLOCK_S"], tactic["BLOCK_S"]
    columns = random_words(size, 2) & torch.tensor([-1, (1 << 36) - 1])
    out = torch.zeros(size, terms, dtype=torch.float64)
    run_program(
        *(parity_gram._parity_gram_kernel, (block, block), Far(columns.view(torch.int32), s * 4)),
        *(Far(out, s * terms), terms, 4, samples),
        **tactic,
    )
    assert s * terms >= 2**31
    assert torch.equal(out[:, s : s + size], reference.parity_gram(columns, samples))


def test_anova_kernel() -> None:
    """Masks 2**15 and on of 2**16, against themselves."""
    masks, n, tactic = 2**16, 10, anova_kernel.TACTICS[0]
    size = tactic["BLOCK"]
    block = 2**15 // size
    rows = random_words(size, 1) & 0x3FF
    relevances = torch.linspace(0.1, 1.0, n, dtype=torch.float64)
    variances = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    norms = anova_kernel.norms_of(relevances, 2)
    out = torch.zeros(size, masks, dtype=torch.float64)
    far = Far(rows, 2**15)
    run_program(
        *(anova_kernel._anova_kernel_kernel, (block * (masks // size) + block,), far, far),
        *(relevances, variances, norms, Far(out, 2**15 * masks), masks, masks, 1, n),
        *anova_kernel.units(0.5),
        **{"SAME": 1, "ORDERS": 2, **tactic},
    )
    assert 2**15 * masks >= 2**31
    want = reference_gp.anova_kernel(rows, rows, relevances, variances, 0.5)
    torch.testing.assert_close(out[:, 2**15 : 2**15 + size], want, rtol=0, atol=1e-13)


def test_anova_cross() -> None:
    """Terms and masks 2**15 and on of 2**16."""
    count, n, tactic = 2**16, 10, anova_cross.TACTICS[0]
    size = tactic["BLOCK"]
    block = 2**15 // size
    rows, support = random_words(size, 1) & 0x3FF, random_words(size, 1) & 0x111
    relevances = torch.linspace(0.1, 1.0, n, dtype=torch.float64)
    variances = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    out = torch.zeros(size, count, dtype=torch.float64)
    run_program(
        *(anova_cross._anova_cross_kernel, (block * (count // size) + block,)),
        *(Far(support, 2**15), Far(rows, 2**15), relevances, variances),
        *(anova_kernel.norms_of(relevances, 3), Far(out, 2**15 * count), count, count, 1, n),
        *anova_cross.weights(0.5),
        **{"ORDERS": 3, "HIGHER": 3, **tactic},
    )
    assert 2**15 * count >= 2**31
    want = reference_gp.anova_cross(rows, support, relevances, variances, 0.5)
    torch.testing.assert_close(out[:, 2**15 : 2**15 + size], want, rtol=0, atol=1e-13)


def test_histogram() -> None:
    """The last 64 of 2**20 features, whose bits are 2**12 words of 32 samples apart."""
    tactic, features, halves, samples = histogram.TACTICS[0], 2**20, 2**12, 100
    size = tactic["BLOCK_F"]
    first = features - size
    bits = random_words(size, halves // 2).view(torch.int32)
    weights = torch.randint(-64, 64, (3, samples), generator=torch.Generator().manual_seed(2))
    out = torch.from_numpy(np.zeros((3, 2, features), np.int32))
    run_program(
        *(histogram._histogram_kernel, (first // size, 0, 0), Far(bits, first * halves)),
        *(weights.to(torch.int8), torch.arange(samples, dtype=torch.int32) % 3, out),
        *(samples, halves, features, 3, samples),
        **{"SLOTS": histogram.SLOTS, **tactic},
    )
    assert first * halves > 2**31
    dense = bits[:, : samples // 32 + 1, None] >> torch.arange(32) & 1
    dense = dense.flatten(1)[:, :samples].long()
    for slot in range(3):
        one, low, high = weights * (torch.arange(samples) % 3 == slot)
        assert torch.equal(out[slot, 0, first:].long(), dense @ one)
        assert torch.equal(out[slot, 1, first:].long(), dense @ (low + 128 * high))
    assert not out[..., :first:4096].any()


def test_sums_of_rows_and_of_runs() -> None:
    block, width = 2**31 // (32 * 5) + 7, 5
    x, out = torch.randn(32, width, dtype=torch.float64), torch.zeros(32, dtype=torch.float64)
    run_program(
        *(histogram._ordered_sums_kernel, (block,), Far(x, 32 * block * width)),
        *(Far(out, 32 * block), 32 * block + 30, width),
        BLOCK=32,
    )
    want = x[:, 0].clone()
    for column in x.T[1:]:
        want += column
    assert torch.equal(out[:30], want[:30])
    assert not out[30:].any()

    start, counts = 2**31 + 5, torch.tensor([3, 0, 1, 4])
    first = start + torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    block, values, sums = 2**31 // 4 + 1, x.flatten(), torch.zeros(4, dtype=torch.float64)
    run_program(
        *(tree_fourier._sum_runs_kernel, (block,), Far(values, start), Far(first, 4 * block)),
        *(Far(sums, 4 * block), 4 * block + 4),
        BLOCK=4,
    )
    parts = values[: counts.sum()].split(counts.tolist())
    assert sums.tolist() == [sum(part.tolist(), 0.0) for part in parts]


def test_peel() -> None:
    """16 groups of 2**20 bins of 300 readings: what a bin of the last group says of a set, the set
    taken out of it, and spread over it again."""
    shifts, rows = 300, {"WORDS": 8, "BLOCK": 2, "BLOCK_P": 512}
    first = (15 << 20) + 2
    readings = torch.randn(2, shifts, dtype=torch.float64)
    bits, delay = random_words(1, 8), torch.arange(shifts)
    signs = 1.0 - 2.0 * (bits[0, delay // 64] >> delay % 64 & 1).double()
    bins, none = torch.full((1, 1), first, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    ratio, residual = torch.zeros(1, dtype=torch.float64), readings.clone()
    far = Far(residual, first * shifts)
    assert first * shifts > 2**31
    run_program(
        *(peel_bins._ratios_kernel, (0,), far, bins, bits, none, ratio, 1, shifts, 1, 1e-9),
        **rows,
    )
    mean = readings[0] @ signs / shifts
    variance = (readings[0].square().sum() - shifts * mean**2) / (shifts - 1)
    assert torch.allclose(ratio, shifts * mean**2 / variance / 2)

    energy, stale = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int8)
    bound, slot, coefs = ratio - 1, torch.zeros(1, dtype=torch.int64), torch.zeros_like(ratio)
    known, fresh, state = (torch.zeros(2, dtype=torch.int32) for _ in range(3))
    run_program(
        *(peel_bins._take_kernel, (0,), far, Far(energy, first), Far(stale, first), bins, bits),
        *(none, bound, slot, known, coefs, fresh, state, torch.tensor([0, 1])),
        *(torch.tensor([1e-9], dtype=torch.float64), shifts, 1, 5),
        **{"WORDS": 8, **peel_bins.take_shape(1, 512)},
    )
    assert torch.allclose(coefs, mean)
    assert torch.allclose(residual[0], readings[0] - mean * signs)
    assert torch.equal(residual[1], readings[1])
    assert state.tolist() == [1, 1]
    assert stale.tolist() == [1, 0]

    image, ends = torch.full((2, shifts), 7.0, dtype=torch.float64), torch.tensor([0, 1, 1])
    run_program(
        *(peel_squares._spread_kernel, (first // 2, 0), coefs, bits, slot, Far(ends, first)),
        *(far, Far(image, first * shifts), Far(energy, first), 0 * slot, first + 2, shifts),
        **{"RESIDUAL": False, **rows},
    )
    assert torch.allclose(image[0], mean * signs)
    assert not image[1].any()


def test_the_second_axis_of_a_grid_has_no_room_for_millions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """65,535 programs; terms and masks are therefore along the first."""
    grids = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable:
            grids.append(grid)
            return lambda *args, **constants: None

    monkeypatch.setattr(parity_bits, "_parity_bits_kernel", Kernel())
    monkeypatch.setattr(anova_kernel, "_anova_kernel_kernel", Kernel())
    monkeypatch.setattr(anova_cross, "_anova_cross_kernel", Kernel())
    one, many = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(2**22, 1, dtype=torch.int64)
    parity_bits.parities(torch.zeros(64, 1, dtype=torch.int64), many)
    ones = torch.ones(2, dtype=torch.float64)
    for sides in ((one, many), (many, one)):
        anova_kernel.anova_kernel(*sides, ones, ones)
        anova_cross.anova_cross(*sides, ones, ones, 1.0)
    assert [grid[0] for grid in grids] == [2**17] * 5
    assert all(extent < 2**16 for grid in grids for extent in grid[1:])
