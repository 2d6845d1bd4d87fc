"""The one adaptor to the compiled CUDA kernels: tensors in, addresses and sizes down, tensors out.

Arguments are checked in ops.py. Kernels run on the tensors' device, in torch's current stream
there, and are not waited for. Inputs are never changed. Where csrc was built with
SPEX_CUDA=EMULATED the same kernels run on the host, on CPU tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from . import _cuda  # type: ignore[attr-defined]
from .codes import BchCode
from .errors import check
from .transfers import down

BLOCK_BYTES = 1 << 28  # of the parities of a block of masks, at most
MASKS_EACH = ((1 << 19, 32), (1 << 16, 8))  # from so many masks on, so many to a thread
DECODERS = 1 << 18  # threads that decode, at most, while a row can do with one
MOST_PAIRS = (1 << 31) - 1  # of a bin and a group, which peel numbers in 32 bits


def place(x: Tensor) -> tuple[int, int]:
    """Where kernels on x run: its device, and torch's current stream there."""
    if not x.is_cuda:
        return 0, 0
    return x.device.index, torch.cuda.current_stream(x.device).cuda_stream


def fwht_cuda(x: Tensor) -> Tensor:
    if x.dtype not in (torch.float32, torch.float64):  # float16, bfloat16: sums in float32
        return fwht_cuda(x.float()).to(x.dtype)
    shape, width, size = x.shape, x.shape[-1], x.numel()
    spare = -size % (16 // x.element_size())  # rows of one or two values
    x = torch.nn.functional.pad(x.reshape(-1), (0, spare)) if spare else x.contiguous()
    if x.data_ptr() % 16:
        x = x.clone()
    out = torch.empty_like(x)
    call = _cuda.fwht_f32 if x.dtype == torch.float32 else _cuda.fwht_f64
    call(x.data_ptr(), out.data_ptr(), x.numel() // width, width.bit_length() - 1, place(x))
    return out.view(-1)[:size].view(shape) if spare else out


def parity_bits_cuda(masks: Tensor, support: Tensor) -> Tensor:
    masks, support = masks.contiguous(), support.contiguous()
    (samples, width), terms = masks.shape, len(support)
    groups = -(-samples // 64)
    columns = masks.new_empty(64 * width, groups)
    out = masks.new_empty(terms, groups)
    where = masks.data_ptr(), support.data_ptr()
    _cuda.parity_bits(
        *(*where, samples, terms, width, columns.data_ptr(), out.data_ptr(), place(masks))
    )
    return out


def _parity_blocks(masks: Tensor, terms: int) -> Iterator[tuple[int, Tensor]]:
    """Spans of masks whose parities are at most BLOCK_BYTES, or 65,536 masks, and where each
    begins."""
    step = (1 << 16) * max(1, BLOCK_BYTES // (8192 * max(1, terms)))
    return ((first, masks[first : first + step]) for first in range(0, len(masks), step))


def parity_predict_cuda(masks: Tensor, support: Tensor, coefs: Tensor) -> Tensor:
    coefs, terms = coefs.contiguous(), len(support)
    out = torch.empty(len(masks), dtype=torch.float64, device=masks.device)
    for first, block in _parity_blocks(masks, terms):
        bits = parity_bits_cuda(block, support)
        each = next((each for least, each in MASKS_EACH if len(block) >= least), 1)
        where = bits.data_ptr(), coefs.data_ptr(), len(block), terms, each
        _cuda.sum_over_terms(*where, out[first:].data_ptr(), place(masks))
    return out


def parity_adjoint_cuda(masks: Tensor, support: Tensor, values: Tensor) -> Tensor:
    values, terms = values.contiguous(), len(support)
    spans = -(-len(masks) // _cuda.parity_span)
    sums = torch.empty(terms, spans, dtype=torch.float64, device=masks.device)
    for first, block in _parity_blocks(masks, terms):
        bits = parity_bits_cuda(block, support)
        where = bits.data_ptr(), values[first:].data_ptr()
        into = sums.data_ptr() + 8 * (first // _cuda.parity_span)
        _cuda.sum_over_spans(*where, len(block), terms, spans, into, place(masks))
    out = torch.empty(terms, dtype=torch.float64, device=masks.device)
    _cuda.sum_of_spans(sums.data_ptr(), terms, spans, out.data_ptr(), place(masks))
    return out


def parity_gram_cuda(columns: Tensor, samples: int) -> Tensor:
    columns, terms = columns.contiguous(), len(columns)
    out = torch.empty(terms, terms, dtype=torch.float64, device=columns.device)
    _cuda.parity_gram(columns.data_ptr(), terms, samples, out.data_ptr(), place(columns))
    return out


@functools.lru_cache(maxsize=32)
def _tables(code: BchCode, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the decoder reads of a code, on a device."""
    there = [x.to(device) for x in (code.exp, code.log, code.syndromes, code.columns)]
    return tuple(x.contiguous() for x in there)


def _code(code: BchCode, columns: Tensor, device: torch.device) -> tuple[int, ...]:
    """The compiled view of `code`, with `columns` for its delays, which must outlive it."""
    *tables, _ = _tables(code, device)
    addresses = (x.data_ptr() for x in (*tables, columns))
    return code.m, code.t, code.parities, code.n, *addresses, columns.shape[1]


def bch_decode_cuda(readings: Tensor, code: BchCode, chase: int) -> tuple[Tensor, Tensor]:
    readings = readings.contiguous()
    rows, device, flips = len(readings), readings.device, min(chase, code.parities)
    slices = 1  # threads a row: a power of two
    while slices < 1 << flips and 2 * slices * rows <= DECODERS:
        slices *= 2
    scores = torch.empty(rows * slices, dtype=torch.float64, device=device)
    slots = torch.empty(rows * slices, 1 + code.t, dtype=torch.int32, device=device)
    features = torch.empty(rows, code.t, dtype=torch.int32, device=device)
    counts = torch.empty(rows, dtype=torch.int32, device=device)
    _cuda.bch_decode(
        *(_code(code, _tables(code, device)[3], device), readings.data_ptr(), rows, flips, slices),
        *(scores.data_ptr(), slots.data_ptr(), slots.data_ptr() + 4 * rows * slices),
        *(features.data_ptr(), counts.data_ptr(), place(readings)),
    )
    return features, counts


def peel_many_cuda(
    bins: Tensor,
    code: BchCode,
    columns: Tensor,
    hashes: Tensor,
    degree: int,
    floors: list[float],
    chase: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One kernel an output, one after another in the same memory. Waits for the device once, for
    their numbers of terms."""
    outputs, groups, shifts, width = bins.shape
    check(
        groups * groups * width <= MOST_PAIRS,
        "peel: bins (C, P, B) must have C * C * B < 2**31 on cuda, got shape {}",
        tuple(bins.shape[1:]),
    )
    bins, device = bins.contiguous(), bins.device
    columns, hashes = columns.to(device).contiguous(), hashes.to(device).contiguous()
    shape = groups, shifts, width.bit_length() - 1, hashes.data_ptr()
    problems = [
        _cuda.PeelProblem(_code(code, columns, device), *shape, own.data_ptr(), degree, floor)
        for own, floor in zip(bins, floors, strict=True)
    ]
    most = problems[0].capacity()
    memory = torch.empty(problems[0].bytes(), dtype=torch.uint8, device=device)
    features = torch.empty(outputs, most, code.t, dtype=torch.int32, device=device)
    coefs = torch.empty(outputs, most, dtype=torch.float64, device=device)
    counts = torch.empty(outputs, dtype=torch.int64, device=device)
    for problem, *into in zip(problems, features, coefs, counts, strict=True):
        addresses = (x.data_ptr() for x in into)
        _cuda.peel(problem, chase, memory.data_ptr(), *addresses, place(bins))
    found = down(counts).tolist()
    parts = [
        _ordered(rows[:count], own[:count])
        for rows, own, count in zip(features, coefs, found, strict=True)
    ]
    features, coefs = (torch.cat(x) for x in zip(*parts, strict=True))
    return features, coefs, counts


def _ordered(features: Tensor, coefs: Tensor) -> tuple[Tensor, Tensor]:
    """By size, then by features."""
    order = torch.arange(len(coefs), device=coefs.device)
    for column in (*features.T.flip(0), (features >= 0).sum(1)):
        order = order[column[order].argsort(stable=True)]
    return features[order], coefs[order]
