"""Tensors of more than 2**31 elements: one program far from the first, on memory where only what
it touches exists. Runs in Triton's interpreter, whose addresses are plain integers."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from spex_core import reference
from spex_core.backend import interpreted, why_not

if why_not("triton") is not None or not interpreted():
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

from spex_core.triton_kernels import affine_masks, fwht, uniform_masks
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


def test_uniform_masks() -> None:
    words, tactic = 2, uniform_masks.TACTICS[0]
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
    b, words, tactic = 24, 3, affine_masks.TACTICS[0]
    size = 1 << tactic["LOG_LOW"] + tactic["LOG_HIGH"]
    p, block = 50, 77
    columns, offsets = torch.randint(-99, 99, (b, words)), torch.randint(-99, 99, (51, words))
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
