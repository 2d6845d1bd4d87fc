"""fwht: the Walsh-Hadamard transform, in one pass to b = 14 and in two above.

A stage adds and subtracts the values of a pair and moves the bit that told them apart to the top,
so that all stages are the same and the compiler exchanges values between threads only every few
of them. Sums are made in the order of reference.fwht: the same bits, not only on integers.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import on_device_of
from .tactics import launch

ONE_PASS = 14  # the most bits of one pass
COLUMNS = 4  # at least 2**COLUMNS neighbouring columns in a tile of the second pass
TACTICS = [  # 2**LOG_TILE values a program, or a row where that is more; 2**LOG_THREAD a thread
    {"LOG_TILE": 12, "LOG_THREAD": 4},
    {"LOG_TILE": 11, "LOG_THREAD": 4},
    {"LOG_TILE": 13, "LOG_THREAD": 4},
    {"LOG_TILE": 12, "LOG_THREAD": 3},
]


@triton.jit
def stages(x, LOG_TILE: tl.constexpr, LOG_ROW: tl.constexpr):
    """Rows of 2**LOG_ROW in x (2**LOG_TILE,), transformed, as a flat (2**LOG_ROW, rows)."""
    for _ in tl.static_range(LOG_ROW):
        low, high = tl.split(tl.reshape(x, ((1 << LOG_TILE) // 2, 2)))
        x = tl.reshape(tl.trans(tl.join(low + high, low - high)), (1 << LOG_TILE,))
    return x


@triton.jit
def _fwht_rows_kernel(x_ptr, out_ptr, rows, LOG_TILE: tl.constexpr, LOG_ROW: tl.constexpr):
    """One program 2**LOG_TILE neighbouring values: some whole rows."""
    i = tl.program_id(0).to(tl.int64) * (1 << LOG_TILE) + tl.arange(0, 1 << LOG_TILE)
    inside = i < (tl.cast(rows, tl.int64) << LOG_ROW)  # (2**LOG_TILE,)
    x = tl.load(x_ptr + i, mask=inside, other=0.0)
    wide = tl.float64 if x.dtype == tl.float64 else tl.float32
    y = stages(x.to(wide), LOG_TILE, LOG_ROW)
    y = tl.trans(tl.reshape(y, (1 << LOG_ROW, 1 << (LOG_TILE - LOG_ROW))))
    y = tl.reshape(y, (1 << LOG_TILE,))
    tl.store(out_ptr + i, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _fwht_columns_kernel(
    x_ptr, out_ptr, LOG_STRIDE: tl.constexpr, LOG_TILE: tl.constexpr, LOG_ROW: tl.constexpr
):
    """x (rows, 2**LOG_ROW, 2**LOG_STRIDE), transformed along the middle axis; may be out. One
    program some neighbouring columns of a row."""
    LOG_COLUMNS: tl.constexpr = LOG_TILE - LOG_ROW
    place = tl.program_id(0).to(tl.int64) << LOG_COLUMNS
    row, column = place >> LOG_STRIDE, place & ((1 << LOG_STRIDE) - 1)
    first = (row << (LOG_STRIDE + LOG_ROW)) + column
    i, j = tl.arange(0, 1 << LOG_ROW), tl.arange(0, 1 << LOG_COLUMNS)
    at = first + (i << LOG_STRIDE)[:, None] + j[None, :]  # (2**LOG_ROW, 2**LOG_COLUMNS)
    x = tl.reshape(tl.trans(tl.load(x_ptr + at)), (1 << LOG_TILE,))
    y = tl.reshape(stages(x, LOG_TILE, LOG_ROW), (1 << LOG_ROW, 1 << LOG_COLUMNS))
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty))


def fwht(x: Tensor) -> Tensor:
    x = x.contiguous()
    if x.dtype == torch.bfloat16 and not x.is_cuda:  # the interpreter cuts where a GPU rounds
        return fwht(x.float()).to(x.dtype)
    b = x.shape[-1].bit_length() - 1
    out = torch.empty_like(x)
    if not x.numel():
        return out
    first = min(b, one_pass(x))
    if b == first:
        transform_rows(x, out, b)
        return out
    wide = torch.promote_types(x.dtype, torch.float32)
    between = out if x.dtype == wide else torch.empty_like(x, dtype=wide)
    transform_rows(x, between, first)
    transform_columns(between, out, b - first, first)
    return out


def one_pass(x: Tensor) -> int:
    """The most bits of one pass, whose values are in the memory that the threads of a block share.
    2**14 of float64 take 128 KiB; there are 227 on an H200, 163 on an A100, 99 on an L4, 64 on
    AMD's."""
    if not x.is_cuda:
        return ONE_PASS
    size = 8 if x.dtype == torch.float64 else 4
    return min(ONE_PASS, (shared_memory(x.device) // size).bit_length() - 1)


@functools.lru_cache
def shared_memory(device: torch.device) -> int:
    """Bytes that the threads of a block can share."""
    if torch.version.hip:
        return 64 * 1024
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def transform_rows(x: Tensor, out: Tensor, log_row: int) -> None:
    """x and out hold rows of 2**log_row values, one after another."""
    rows = x.numel() >> log_row

    def run(tactic: dict) -> None:
        log_tile = max(tactic["LOG_TILE"], log_row)
        _fwht_rows_kernel[(triton.cdiv(x.numel(), 1 << log_tile),)](
            *(x, out, rows),
            **shape(log_tile, log_row, tactic["LOG_THREAD"]),
        )

    launch(f"fwht {x.dtype}", TACTICS, (rows, 1 << log_row), run, x)


def transform_columns(x: Tensor, out: Tensor, log_row: int, log_stride: int) -> None:
    """x and out hold arrays (2**log_row, 2**log_stride), transformed along their first axis."""
    log_tile = min(log_stride, max(TACTICS[0]["LOG_TILE"], log_row + COLUMNS), one_pass(x))
    with on_device_of(x):
        _fwht_columns_kernel[(x.numel() >> log_tile,)](
            *(x, out),
            LOG_STRIDE=log_stride,
            **shape(log_tile, log_row, TACTICS[0]["LOG_THREAD"]),
        )


def shape(log_tile: int, log_row: int, log_thread: int) -> dict[str, int]:
    warps = min(max(1 << log_tile - log_thread - 5, 1), 16)
    return {"LOG_TILE": log_tile, "LOG_ROW": log_row, "num_warps": warps}
