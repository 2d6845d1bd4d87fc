"""The public kernels that decode bins, checked, dispatched and named as those of ops.py, which has
them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import fakes, reference_decode
from .backend import Backend, pick
from .checks import kind, readable
from .codes import BchCode
from .errors import check, check_int
from .traced import custom_op
from .transfers import up


@custom_op(
    "(Tensor readings, Tensor exp, Tensor log, Tensor syndromes, Tensor columns, SymInt n, *, "
    "int chase=0, str backend='auto') -> (Tensor, Tensor)",
    fake=fakes.bch_decode,
    flat=fakes.flat_code,
    whole=fakes.whole_code,
)
def bch_decode(
    readings: Tensor, code: BchCode, *, chase: int = 0, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """The feature set whose signs at the delays of a BCH code are closest to noisy readings.

    A reading is F (-1)**<d_p, k> plus noise; k is named by the signs of readings 1 .. r against
    reading 0, tried for both signs of reading 0, each by bounded-distance decoding: |k| plus the
    wrong signs at most t.

    Args:    readings: (rows, 1 + r), taken as float64. chase: 0 decodes hard; q > 0 (at most 16)
             also tries all 2**q flips of the q readings of smallest magnitude (soft; Chase 1972)
             and takes the set with the largest |sum_p (-1)**<d_p, k> reading_p|, the first tried on
             a tie.
    Returns: features int32 (rows, t), ascending, -1 beyond the last; counts int32 (rows,), |k|, or
             -1 where nothing decodes. On a device nothing is waited for: a row of readings that
             are not finite, which is a ValueError on the CPU, has a count of -1 there.
    Cost:    2**(q + 1) decodings a row, each O(t**2 m) field operations; on triton also t (n + r)
             for each that yields a set. A kernel of it takes some seconds to compile for each t.
    Source:  Kang et al. 2025 (SPEX), section 4.2; Berlekamp 1971 (root finding by traces).
    """
    _check_readings("bch_decode", readings, 2, may_wait=False)
    chase = check_int("bch_decode: chase", chase, 0, 16)
    check(
        readings.shape[1] == code.delays,
        "bch_decode: readings must have {} columns, got {}",
        code.delays,
        readings.shape[1],
    )
    match pick("bch_decode", backend, readings.device):
        case "cpu":
            from . import native

            return native.bch_decode_cpu(readings.double(), code, chase)
        case "triton":
            from .triton_kernels.bch_decode import bch_decode as impl

            return _blank(readings, *impl(readings.double(), code, chase))
        case "cuda":
            from . import native_cuda

            return _blank(readings, *native_cuda.bch_decode_cuda(readings.double(), code, chase))
        case _:
            found = reference_decode.bch_decode(readings.double().cpu(), code, chase)
            return found[0].to(readings.device), found[1].to(readings.device)


@custom_op(
    "(Tensor bins, Tensor exp, Tensor log, Tensor syndromes, Tensor columns, SymInt n, "
    "Tensor delay_columns, Tensor hashes, *, float floor, int chase, int? degree=None, "
    "str backend='auto') -> (Tensor, Tensor)",
    fake=fakes.peel,
    flat=fakes.flat_code,
    whole=fakes.whole_code,
)
def peel(
    bins: Tensor,
    code: BchCode,
    delay_columns: Tensor,
    hashes: Tensor,
    *,
    floor: float,
    chase: int,
    degree: int | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """The sparse spectrum that explains aliased bins, by repeated decode-and-subtract.

    Args:    bins: float64 (C, P, B), U[g, p, j] = sum over k with bin j in group g of F[k]
             (-1)**<d_p, k>, plus noise. code: the BCH code of delays 0 .. r, P >= 1 + r.
             delay_columns: int64 (n, ceil(P / 64)), bit p of row i is entry i of delay p. hashes:
             int32 (C, n), the bin of k is the XOR of its rows. floor: standard deviation of
             rounding in one bin, > 0. chase: as bch_decode. degree: the largest set to look for, at
             most code.t, which it is by default.
    Returns: features int32 (S, t), ascending, -1 beyond the last, rows in the order of size, then
             features; coefs float64 (S,), the least-squares fit to all bins. Terms within 4.5
             standard errors of zero are dropped.
    Raises:  TypeError, ValueError if the arguments are not as above, or on cuda if C * C * B >=
             2**31.
    Cost:    the decodings; C P products a term and step of the fits. A device is waited for several
             times a round, for some numbers that say what comes next; on cuda once, at the end.
    Source:  Kang et al. 2025 (SPEX), algorithm 1. What goes beyond it is in ARCHITECTURE.md,
             "Decoding".
    """
    _check_readings("peel", bins, 3)
    tables = code, delay_columns, hashes
    features, coefs, _ = _peeled("peel", bins[None], *tables, [floor], chase, degree, backend)
    return features, coefs


class Peeled(NamedTuple):
    """What ops.peel_many returns: the terms of each output, one output's after another's."""

    features: Tensor  # int32 (S, t)
    coefs: Tensor  # float64 (S,)
    counts: Tensor  # int64 (q,): how many are whose


@custom_op(
    "(Tensor bins, Tensor exp, Tensor log, Tensor syndromes, Tensor columns, SymInt n, "
    "Tensor delay_columns, Tensor hashes, *, float[] floors, int chase, int? degree=None, "
    "str backend='auto') -> (Tensor, Tensor, Tensor)",
    fake=fakes.peel_many,
    flat=fakes.flat_code,
    whole=fakes.whole_code,
    result=Peeled,
)
def peel_many(
    bins: Tensor,
    code: BchCode,
    delay_columns: Tensor,
    hashes: Tensor,
    *,
    floors: Sequence[float],
    chase: int,
    degree: int | None = None,
    backend: Backend = "auto",
) -> Peeled:
    """peel for q outputs on the same masks, bins (q, C, P, B), each with its floor: what peel finds
    of each alone, to the bit.

    Returns: Peeled.
    Cost:    that of each; on cpu threads share out the outputs. A device is waited for as often as
             for the output that takes most rounds: their decodings, their candidates and their
             fits are in the same launches (triton), or one kernel follows another and the host
             waits for the last (cuda).
    """
    _check_readings("peel_many", bins, 4)
    floors = [float(floor) for floor in floors]
    tables = code, delay_columns, hashes
    return Peeled(*_peeled("peel_many", bins, *tables, floors, chase, degree, backend))


def _peeled(
    op: str,
    bins: Tensor,
    code: BchCode,
    delay_columns: Tensor,
    hashes: Tensor,
    floors: list[float],
    chase: int,
    degree: int | None,
    backend: Backend,
) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of Peeled, in the name of `op`; bins (q, C, P, B)."""
    outputs, groups, shifts, width = bins.shape
    check(width & (width - 1) == 0, "{}: bins must have 2**b columns, got {}", op, width)
    check(
        1 <= groups <= 16 and code.delays <= shifts <= 448,
        "{}: bins must have 1 to 16 groups and {} to 448 delays, got shape {}",
        *(op, code.delays, tuple(bins.shape[-3:])),
    )
    check(
        tuple(delay_columns.shape) == (code.n, -(-shifts // 64)),
        "{}: delay_columns must have shape {}, got {}",
        *(op, (code.n, -(-shifts // 64)), tuple(delay_columns.shape)),
    )
    check(
        tuple(hashes.shape) == (groups, code.n) and hashes.dtype == torch.int32,
        "{}: hashes must be int32 of shape {}, got {} {}",
        *(op, (groups, code.n), hashes.dtype, tuple(hashes.shape)),
    )
    check(len(floors) == outputs, "{}: floors must be {}, got {}", op, outputs, len(floors))
    for floor in floors:
        check(floor > 0, "{}: floor must be positive, got {}", op, floor)
    chase = check_int(f"{op}: chase", chase, 0, 16)
    degree = check_int(f"{op}: degree", code.t if degree is None else degree, 1, code.t)
    tables = code, delay_columns, hashes
    picked = pick(op, backend, bins.device)
    if not outputs:
        return _one_after_another([], bins, code)
    match picked:
        case "cpu":
            from . import native

            return native.peel_many_cpu(bins.double(), *tables, degree, floors, chase)
        case "triton":
            from .triton_kernels.peel import peel_many as impl

            found = impl(bins.double(), *tables, degree, floors, chase)
            return _one_after_another(found, bins, code)
        case "cuda":
            from . import native_cuda

            return native_cuda.peel_many_cuda(bins.double(), *tables, degree, floors, chase)
        case _:
            there = code, delay_columns.cpu(), hashes.cpu()
            found = [
                reference_decode.peel(own, *there, degree, floor, chase)
                for own, floor in zip(bins.double().cpu(), floors, strict=True)
            ]
            return _one_after_another(found, bins, code)


def _one_after_another(
    found: list[tuple[Tensor, Tensor]], bins: Tensor, code: BchCode
) -> tuple[Tensor, Tensor, Tensor]:
    """Features and coefs of each output -> the fields of Peeled, on the device of the bins."""
    counts = torch.tensor([len(coefs) for _, coefs in found], dtype=torch.int64)
    none = (
        torch.empty(0, code.t, dtype=torch.int32, device=bins.device),
        torch.empty(0, dtype=torch.float64, device=bins.device),
    )
    features, coefs = (
        torch.cat([first, *(x.to(bins.device) for x in more)])
        for first, *more in zip(none, *found, strict=True)
    )
    return features, coefs, up(counts, bins.device)


def _blank(readings: Tensor, features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """What was decoded, and nothing where a reading is not finite."""
    bad = ~readings.isfinite().all(1)
    return features.masked_fill(bad[:, None], -1), counts.masked_fill(bad, -1)


def _check_readings(op: str, x: Tensor, axes: int, may_wait: bool = True) -> None:
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        raise TypeError(f"{op}: readings must be a floating-point tensor, got {kind(x)}")
    check(x.ndim == axes, "{}: readings must have {} axes, got shape {}", op, axes, tuple(x.shape))
    if may_wait or readable(x):
        check(bool(torch.isfinite(x).all()), "{}: readings must be finite", op)
