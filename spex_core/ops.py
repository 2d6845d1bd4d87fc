"""The public kernels: check the arguments, pick a backend, call it. Same names in every backend.

All of them take `backend="auto|reference|cpu|triton|cuda"` (backend.py), leave their inputs
unchanged and return new tensors. Packed masks and supports are int64, laid out as masks.py says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import fakes, reference, reference_boost, reference_decode
from .backend import Backend, pick
from .checks import check_device, check_packed, kind, readable
from .codes import BchCode
from .errors import check, check_int
from .forest import check_forest
from .ops_gp import MAX_ORDER as MAX_ORDER
from .ops_gp import anova_cross as anova_cross
from .ops_gp import anova_kernel as anova_kernel
from .ops_gp import anova_kernel_grad as anova_kernel_grad
from .traced import custom_op
from .transfers import up

MAX_LOG_WIDTH = 24


@custom_op(
    "(Tensor x, *, str backend='auto') -> Tensor",
    fake=lambda x, backend="auto": x.new_empty(x.shape),
    gradient=lambda x, grad, backend: (torch.ops.spex_core.fwht(grad, backend=backend),),
)
def fwht(x: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Walsh-Hadamard transform of the last axis, unnormalised: y[k] = sum_j (-1)**<k, j> x[j].

    Args:     x: (..., B) floating point, any device; B = 2**b a power of two, b from 0 to 24.
    Returns:  (..., B), same dtype and device. float16 and bfloat16 are summed in float32.
    Raises:   TypeError, ValueError if x is not as above; BackendUnavailable.
    Accuracy: exact while every partial sum is an integer below 2**24 (float32) or 2**53 (float64);
              else relative l2 error <= 0.25 eps b for b >= 4.
    Cost:     B b additions a row; one read and one write of x while a row fits in cache, on triton
              to b = 14, on cuda to b = 15 (14 in float64), and two of each above.
    Example:  fwht(torch.tensor([1., 0., 0., 0.]))  # tensor([1., 1., 1., 1.])
    """
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        raise TypeError(f"fwht: x must be a floating-point tensor, got {kind(x)}")
    width = x.shape[-1] if x.ndim else 0
    check(
        width >= 1 and width & (width - 1) == 0 and width <= 1 << MAX_LOG_WIDTH,
        "fwht: x must have a last axis of 2**b values, b from 0 to 24, got shape {}",
        tuple(x.shape),
    )
    match pick("fwht", backend, x.device):
        case "cpu":
            from . import native

            return native.fwht_cpu(x)
        case "triton":
            from .triton_kernels.fwht import fwht as impl

            return impl(x)
        case "cuda":
            from . import native_cuda

            return native_cuda.fwht_cuda(x)
        case _:
            narrow = x.dtype in (torch.float16, torch.bfloat16)
            return reference.fwht(x.float() if narrow else x).to(x.dtype)


@custom_op(
    "(Tensor columns, Tensor offsets, *, str backend='auto') -> Tensor",
    fake=lambda columns, offsets, backend="auto": columns.new_empty(
        offsets.shape[0], 2 ** columns.shape[0], columns.shape[1]
    ),
)
def affine_masks(columns: Tensor, offsets: Tensor, *, backend: Backend = "auto") -> Tensor:
    """All points of affine subspaces: out[p, l] = offsets[p] XOR (XOR of columns[i] over bits i of
    l).

    Args:     columns: packed int64 (b, W), the columns of the n x b matrix M. offsets: packed (P,
              W).
    Returns:  packed int64 (P, 2**b, W): the masks M l + d_p.
    Cost:     one XOR and one write a word; no dense intermediate.
    Source:   Kang et al. 2025 (SPEX), the aliased subsampling pattern.
    """
    check_packed("affine_masks", columns=columns, offsets=offsets)
    check(
        len(columns) <= MAX_LOG_WIDTH,
        "affine_masks: columns must be at most 24 rows, got {}",
        len(columns),
    )
    match pick("affine_masks", backend, columns.device):
        case "cpu":
            from . import native

            return native.affine_masks_cpu(columns, offsets)
        case "triton":
            from .triton_kernels.affine_masks import affine_masks as impl

            return impl(columns, offsets)
        case _:
            return reference.affine_masks(columns, offsets)


@custom_op(
    "(SymInt rows, SymInt n, *, int seed, int stream=0, SymInt start=0, Device device, "
    "str backend='auto') -> Tensor",
    fake=fakes.uniform_masks,
    flat=fakes.flat_uniform_masks,
    whole=fakes.whole_uniform_masks,
)
def uniform_masks(
    rows: int,
    n: int,
    *,
    seed: int,
    stream: int = 0,
    start: int = 0,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
) -> Tensor:
    """Rows [start, start + rows) of the endless table of uniform masks that (seed, stream) names.

    Args:     rows >= 0; n >= 1 features; seed in [0, 2**64); stream in [0, 2**32): independent
              tables of one seed; start >= 0: any range is made without the rows before it. device:
              where they are made.
    Returns:  packed int64 (rows, W). Same bits on every backend and machine.
    Source:   Philox4x32-10, Salmon et al. 2011; counter (word pair, row low, row high, stream).
    """
    rows = check_int("uniform_masks: rows", rows, 0)
    n = check_int("uniform_masks: n", n, 1)
    seed = check_int("uniform_masks: seed", seed, 0, 2**64 - 1)
    stream = check_int("uniform_masks: stream", stream, 0, 2**32 - 1)
    start = check_int("uniform_masks: start", start, 0, 2**62)
    device = torch.device(device)
    match pick("uniform_masks", backend, device):
        case "cpu":
            from . import native

            return native.uniform_masks_cpu(rows, n, seed=seed, stream=stream, start=start)
        case "triton":
            from .triton_kernels.uniform_masks import uniform_masks as impl

            return impl(rows, n, seed, stream, start, device)
        case _:
            found = reference.uniform_masks(rows, n, seed=seed, stream=stream, start=start)
            return found.to(device)


@custom_op(
    "(Tensor masks, Tensor support, *, str backend='auto') -> Tensor",
    fake=lambda masks, support, backend="auto": masks.new_empty(
        support.shape[0], (masks.shape[0] + 63) // 64
    ),
)
def parity_bits(masks: Tensor, support: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Bit matrix product over GF(2): bit i of out[s] is <masks[i], support[s]> mod 2.

    Args:     masks: packed int64 (T, W). support: packed (S, W).
    Returns:  packed int64 (S, ceil(T / 64)), packed along the samples; spare bits are zero.
    Cost:     T S n bit products; T |k| on cpu for a support of at most 8 features a word, and on
              triton. Memory beyond the result: on cpu 64 bytes a term for each thread and a copy of
              the supports, on triton a copy of the masks.
    """
    check_packed("parity_bits", masks=masks, support=support)
    match pick("parity_bits", backend, masks.device):
        case "cpu":
            from . import native

            return native.parity_bits_cpu(masks, support)
        case "triton":
            from .triton_kernels.parity_bits import parity_bits as impl

            return impl(masks, support)
        case "cuda":
            from . import native_cuda

            return native_cuda.parity_bits_cuda(masks, support)
        case _:
            return reference.parity_bits(masks, support)


@custom_op(
    "(Tensor masks, Tensor support, Tensor coefs, *, str backend='auto') -> Tensor",
    fake=lambda masks, support, coefs, backend="auto": masks.new_empty(
        masks.shape[0], dtype=torch.float64
    ),
    gradient=lambda masks, support, coefs, grad, backend: (
        *(None, None),
        torch.ops.spex_core.parity_adjoint(masks, support, grad, backend=backend).to(coefs.dtype),
    ),
)
def parity_predict(
    masks: Tensor, support: Tensor, coefs: Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """A sparse Fourier series at packed masks: y[t] = sum_s coefs[s] (-1)**<masks[t], support[s]>.

    Args:     masks: packed int64 (T, W). support: packed (S, W). coefs: (S,), taken as float64.
    Returns:  float64 (T,). No (T, S) matrix is built.
    Accuracy: float64 sums; on cpu and triton in the order of s, the same bits for any number of
              threads.
    Cost:     parity_bits, and T S additions; on triton in blocks of masks whose parities fill
              256 MB at most, or 8 KB a term.
    """
    check_packed("parity_predict", masks=masks, support=support)
    _check_vector("parity_predict", "coefs", coefs, len(support), masks)
    match pick("parity_predict", backend, masks.device):
        case "cpu":
            from . import native

            return native.parity_predict_cpu(masks, support, coefs.double())
        case "triton":
            from .triton_kernels.parity_predict import parity_predict as impl

            return impl(masks, support, coefs.double())
        case "cuda":
            from . import native_cuda

            return native_cuda.parity_predict_cuda(masks, support, coefs.double())
        case _:
            return reference.parity_predict(masks, support, coefs.double())


@custom_op(
    "(Tensor masks, Tensor support, Tensor values, *, str backend='auto') -> Tensor",
    fake=lambda masks, support, values, backend="auto": masks.new_empty(
        support.shape[0], dtype=torch.float64
    ),
    gradient=lambda masks, support, values, grad, backend: (
        *(None, None),
        torch.ops.spex_core.parity_predict(masks, support, grad, backend=backend).to(values.dtype),
    ),
)
def parity_adjoint(
    masks: Tensor, support: Tensor, values: Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """The transpose of parity_predict: g[s] = sum_t values[t] (-1)**<masks[t], support[s]>.

    Args:     masks: packed int64 (T, W). support: packed (S, W). values: (T,), taken as float64.
    Returns:  float64 (S,). No (T, S) matrix is built.
    Accuracy: float64 sums; on cpu in fixed blocks of t, the same bits for any number of threads, on
              triton in other blocks.
    Cost:     as parity_predict.
    """
    check_packed("parity_adjoint", masks=masks, support=support)
    _check_vector("parity_adjoint", "values", values, len(masks), masks)
    match pick("parity_adjoint", backend, masks.device):
        case "cpu":
            from . import native

            return native.parity_adjoint_cpu(masks, support, values.double())
        case "triton":
            from .triton_kernels.parity_adjoint import parity_adjoint as impl

            return impl(masks, support, values.double())
        case "cuda":
            from . import native_cuda

            return native_cuda.parity_adjoint_cuda(masks, support, values.double())
        case _:
            return reference.parity_adjoint(masks, support, values.double())


@custom_op(
    "(Tensor columns, SymInt samples, *, str backend='auto') -> Tensor",
    fake=lambda columns, samples, backend="auto": columns.new_empty(
        columns.shape[0], columns.shape[0], dtype=torch.float64
    ),
)
def parity_gram(columns: Tensor, samples: int, *, backend: Backend = "auto") -> Tensor:
    """Inner products of +-1 columns packed along samples: G[s, u] = T - 2 popcount(z_s XOR z_u).

    Args:     columns: packed int64 (S, ceil(T / 64)) with zero spare bits, as parity_bits makes
              them.
              samples: T.
    Returns:  float64 (S, S), exact integers.
    Cost:     S**2 T / 128 word operations.
    """
    samples = check_int("parity_gram: samples", samples, 0)
    check_packed("parity_gram", columns=columns)
    check(
        columns.shape[1] == -(-samples // 64),
        "parity_gram: columns must have ceil(samples / 64) = {} words, got {}",
        -(-samples // 64),
        columns.shape[1],
    )
    match pick("parity_gram", backend, columns.device):
        case "cpu":
            from . import native

            return native.parity_gram_cpu(columns, samples)
        case "triton":
            from .triton_kernels.parity_gram import parity_gram as impl

            return impl(columns, samples)
        case "cuda":
            from . import native_cuda

            return native_cuda.parity_gram_cuda(columns, samples)
        case _:
            return reference.parity_gram(columns, samples)


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


class Boosted(NamedTuple):
    """What ops.boost returns: the trees of J fits, and what they predict.

    A tree goes from its root to a leaf, at each node to `present` where the mask has the feature
    and else to `absent`; the prediction of fit j is bias[j] plus the values of the leaves reached.
    Nodes are numbered through, a fit's before the next one's; ops.tree_fourier takes the first six
    fields as they are.
    """

    roots: Tensor  # int32 (trees,), over all fits
    group: Tensor  # int32 (trees,): the fit of each tree, ascending
    feature: Tensor  # int32 (nodes,), -1 at a leaf
    absent: Tensor  # int32 (nodes,): the node without the feature, -1 at a leaf
    present: Tensor  # int32 (nodes,): the node with it, -1 at a leaf
    value: Tensor  # float64 (nodes,), 0 at what is not a leaf
    bias: Tensor  # float64 (J,)
    staged: Tensor  # float64 (J, stages, T + E)


@custom_op(
    "(Tensor masks, Tensor values, SymInt n, Tensor? bags, Tensor? watch, *, "
    "int[] trees, int[] depth, int[] leaves, int[] min_leaf, float[] rate, float[] l2, "
    "float[] row_share, float[] feature_share, int[] stages, int seed=0, str backend='auto') "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=fakes.boost,
    flat=fakes.flat_boost,
    result=Boosted,
    loose=("bags", "watch"),
)
def boost(
    masks: Tensor,
    values: Tensor,
    n: int,
    *,
    bags: Tensor | None = None,
    watch: Tensor | None = None,
    trees: int | Sequence[int] = 100,
    depth: int | Sequence[int] = 5,
    leaves: int | Sequence[int] = 31,
    min_leaf: int | Sequence[int] = 20,
    rate: float | Sequence[float] = 0.1,
    l2: float | Sequence[float] = 0.0,
    row_share: float | Sequence[float] = 1.0,
    feature_share: float | Sequence[float] = 1.0,
    stages: Sequence[int] | None = None,
    seed: int = 0,
    backend: Backend = "auto",
) -> Boosted:
    """Gradient boosting of regression trees on mask bits, squared loss, J fits at once.

    Every tree is grown on the residuals r of those before it. The leaf whose split lowers the error
    most is split next: by the feature of largest s1**2 / w1 + s0**2 / w0 - s**2 / w, where s sums r
    over the samples of a side (1: with the feature, 0: without, s: both) and w is their number plus
    l2. A leaf predicts rate s / w.

    Args:    masks: packed int64 (T, W), 1 <= T <= 2**24, spare bits zero. values: (T,), or (J, T),
             a row for each fit; taken as float64. n: features. bags: packed int64
             (J, ceil(T / 64)), spare bits zero: bit i of row j is set where fit j sees sample i;
             None: all samples. watch: further masks, packed (E, W), that are only predicted.
             trees: how many. depth, leaves: of a tree, at most. min_leaf: samples in a leaf, at
             least. rate: in (0, 1]. l2 >= 0. row_share, feature_share: in (0, 1]: the share of the
             bag and of the features, rounded, at least one, that each tree draws anew. From `trees`
             on each is a number, or one for each fit. stages: ascending numbers of trees after
             which predictions are kept; for a fit that has fewer its last; (max(trees),) by
             default. seed: of the draws, in [0, 2**64).
    Returns: Boosted. The same bits on every backend and machine, for any number of threads.
    Raises:  TypeError, ValueError if an argument is not as above; BackendUnavailable.
    Accuracy: for each tree the residuals are rounded to 1 / 8191 of the largest (above T = 262,144
             to T / 2**31 of it), which makes sums exact in any order; predictions are float64.
             Ties go to the lowest feature and to the older leaf.
    Cost:    a fit: at most trees * (depth + 1) * T * n / 2 masked additions, on cpu 16 in an
             instruction; threads share out the fits. A device is waited for at each level of a
             tree. Memory beyond the result: the masks two or,
             with watch, three times, and leaves * (8 n + T / 8) bytes for each thread.
    Source:  Friedman 2001 (gradient boosting); Ke et al. 2017 (LightGBM: the best leaf first).
    """
    n = check_int("boost: n", n, 1)
    watch = masks[:0] if watch is None else watch
    check_packed("boost", masks=masks, watch=watch)
    _check_bits("boost", n, masks=masks, watch=watch)
    samples = len(masks)
    check(1 <= samples <= 1 << 24, "boost: masks must be 1 to 2**24 rows, got {}", samples)
    if not (isinstance(values, Tensor) and values.is_floating_point()):
        raise TypeError(f"boost: values must be a floating-point tensor, got {kind(values)}")
    check(
        values.ndim in (1, 2) and values.shape[-1] == samples,
        "boost: values must have shape ({0},) or (J, {0}), got {1}",
        *(samples, tuple(values.shape)),
    )
    check_device("boost", "values", values, "masks", masks)
    check(bool(torch.isfinite(values).all()), "boost: values must be finite")
    values = torch.atleast_2d(values.double())
    if bags is None:
        bags = masks.new_full((1, -(-samples // 64)), -1)
        bags[:, -1] = _low_bits(samples)
    check_packed("boost", bags=bags)
    check_device("boost", "bags", bags, "masks", masks)
    _check_bits("boost", samples, bags=bags)
    check(bool((bags != 0).any(1).all()), "boost: bags must have a sample in each row")
    counts = {"trees": trees, "depth": depth, "leaves": leaves, "min_leaf": min_leaf}
    shares = {"rate": rate, "l2": l2, "row_share": row_share, "feature_share": feature_share}
    each = _boost_settings(counts, shares)
    lengths = {name: len(x) for name, x in {"values": values, "bags": bags, **each}.items()}
    fits = next((length for length in lengths.values() if length != 1), 1)
    for name, length in lengths.items():
        check(length in (1, fits), "boost: {} must be for 1 or {} fits, got {}", name, fits, length)
    stages = [max(each["trees"])] if stages is None else list(stages)
    stages = [check_int("boost: stages", stage, 0, 2**31 - 1) for stage in stages]
    ascending = bool(stages) and all(a < b for a, b in pairwise(stages))
    check(ascending, "boost: stages must be ascending, got {}", stages)
    seed = check_int("boost: seed", seed, 0, 2**64 - 1)

    values, bags = values.expand(fits, -1), bags.expand(fits, -1)
    settings = list(zip(*(x * (fits // len(x)) for x in each.values()), strict=True))
    match pick("boost", backend, masks.device):
        case "cpu":
            from . import native

            found = native.boost_cpu(masks, values, n, bags, watch, settings, stages, seed)
        case "triton":
            from .triton_kernels.boost import boost as impl

            found = impl(masks, values, n, bags, watch, settings, stages, seed)
        case "cuda":
            from .boost_cuda import boost_cuda

            found = boost_cuda(masks, values, n, bags, watch, settings, stages, seed)
        case _:
            given = masks.cpu(), values.cpu(), n, bags.cpu(), watch.cpu()
            made = reference_boost.boost(*given, settings, stages, seed)
            found = tuple(x.to(masks.device) for x in made)
    return Boosted(*found)


def _listed(given: Any) -> list[Any]:
    """A setting for each fit, or one for all."""
    return list(given) if hasattr(given, "__len__") else [given]


def _boost_settings(
    counts: dict[str, int | Sequence[int]], shares: dict[str, float | Sequence[float]]
) -> dict[str, list]:
    """The settings of boost as lists, one entry a fit or one for all, checked."""
    least = {"trees": 0, "leaves": 2}
    each: dict[str, list] = {}
    for name, given in counts.items():
        low = least.get(name, 1)
        each[name] = [check_int(f"boost: {name}", x, low, 2**31 - 1) for x in _listed(given)]
    for name, share in shares.items():
        each[name] = [float(x) for x in _listed(share)]
        for x in each[name]:
            if name == "l2":
                check(0 <= x < math.inf, "boost: l2 must be finite and not negative, got {}", x)
            else:
                check(0 < x <= 1, "boost: {} must be in (0, 1], got {}", name, x)
    for name, listed in each.items():
        check(len(listed) > 0, "boost: {} must not be empty", name)
    return each


@custom_op(
    "(Tensor roots, Tensor feature, Tensor absent, Tensor present, Tensor value, SymInt n, "
    "Tensor? group, *, SymInt groups=1, int? limit=None, str backend='auto') "
    "-> (Tensor, Tensor)",
    fake=fakes.tree_fourier,
    loose=("group",),
)
def tree_fourier(
    roots: Tensor,
    feature: Tensor,
    absent: Tensor,
    present: Tensor,
    value: Tensor,
    n: int,
    *,
    group: Tensor | None = None,
    groups: int = 1,
    limit: int | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """The exact Fourier spectrum of a sum of regression trees on mask bits.

    At a node that asks for feature j, F = (F0 + F1) / 2, and (F0 - F1) / 2 with j joined to each
    set, of the spectra F0 and F1 below its two sides.

    Args:    roots int32 (trees,), feature, absent, present int32 (nodes,), value float64 (nodes,):
             the trees, as forest.py says. n: features, at least 1. group: int32 (trees,), the
             column in [0, groups) that each tree is added to; None is column 0 for all. limit: at
             most so many terms, those of largest Euclidean norm over the groups; of equals the
             first in the order below.
    Returns: support packed int64 (S, W), ordered by |k|, then by features; coefs float64 (S,
             groups). Terms whose coefficients are exactly 0 in all groups are left out.
    Raises:  TypeError, ValueError if the arguments are not as above, a path asks more than 64
             different features, or one tree has more than 2**24 terms; BackendUnavailable.
    Accuracy: float64 sums, those of a column in the order of its trees; the same bits for any
             number of threads.
    Cost:    a tree with d different features on each path has at most 4**d terms and in general far
             fewer (342 where d = 5); time is linear in their sum over the trees, on cpu some 20 ns
             each. Memory: some 60 + 16 groups bytes for each distinct term before the limit, and
             the result, 8 (W + groups) bytes for each after it. On triton some 150 bytes for each
             term of each tree, and the device is waited for at each level.
    Source:  Gorji, Amrollahi and Krause 2024 (arXiv 2410.06300), the recursion.
    """
    n = check_int("tree_fourier: n", n, 1, 2**31 - 1)
    groups = check_int("tree_fourier: groups", groups, 1, 2**31 - 1)
    limit = None if limit is None else check_int("tree_fourier: limit", limit, 0)
    check_forest("tree_fourier", roots, feature, absent, present, value, n)
    if group is not None:
        if not (isinstance(group, Tensor) and group.dtype == torch.int32):
            raise TypeError(f"tree_fourier: group must be an int32 tensor, got {kind(group)}")
        check_device("tree_fourier", "group", group, "roots", roots)
        check(
            group.shape == roots.shape and bool(((group >= 0) & (group < groups)).all()),
            "tree_fourier: group must be {} numbers in [0, {}), got shape {}",
            *(len(roots), groups, tuple(group.shape)),
        )
    trees = roots, feature, absent, present, value
    match pick("tree_fourier", backend, roots.device):
        case "cpu":
            from . import native

            return native.tree_fourier_cpu(*trees, n, group, groups, limit)
        case "triton":
            from .triton_kernels.tree_fourier import tree_fourier as impl

            return impl(*trees, n, group, groups, limit)
        case _:
            return reference.tree_fourier(*trees, n, group, groups, limit)


@custom_op(
    "(Tensor support, Tensor coefs, Tensor weights, *, str backend='auto') -> (Tensor, Tensor)",
    fake=fakes.superset_sums,
)
def superset_sums(
    support: Tensor, coefs: Tensor, weights: Tensor, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """The weighted sums over supersets, sum over k >= s of w(|s|, |k|) F[k], for all sets s of 1 to
    `order` features in a term of nonzero weight.

    Args:    support: packed int64 (S, W), sets k. coefs: float64 (S,), their F[k]. weights: float64
             (order, D), w(s, d) at [s - 1, d]; terms of D features and more count nothing.
    Returns: sets int32 (M, order), features ascending and then -1; sums float64 (M,). Those that
             are 0 are left out, the largest |sum| is first; of equals the smaller set, then the one
             with the lower features.
    Raises:  TypeError, ValueError if the arguments are not as above, or on cpu if there are 2**31
             subsets or more, each counted in every term it lies in; BackendUnavailable.
    Accuracy: float64 sums in the order of the terms.
    Cost:    on cpu some 50 ns for each subset of a term, and 8 (order + 3) bytes.
    Example: one = torch.ones(1, 3, dtype=torch.float64)
             superset_sums(pack_sets([(0, 2)], 3), one[0, :1], one)
             # (tensor([[0], [2]]), tensor([1., 1.]))
    """
    check_packed("superset_sums", support=support)
    for name, x, axes in (("coefs", coefs, 1), ("weights", weights, 2)):
        if not (isinstance(x, Tensor) and x.dtype == torch.float64):
            raise TypeError(f"superset_sums: {name} must be a float64 tensor, got {kind(x)}")
        check(
            x.ndim == axes and (x.numel() > 0 or axes == 1),
            "superset_sums: {} must have shape {}, got {}",
            *(name, ("(S,)", "(order, D), neither 0")[axes - 1], tuple(x.shape)),
        )
        check_device("superset_sums", name, x, "support", support)
    check(
        len(coefs) == len(support),
        "superset_sums: coefs must have one number per term, {}, got {}",
        *(len(support), len(coefs)),
    )
    match pick("superset_sums", backend, support.device):
        case "cpu":
            from . import native

            return native.superset_sums_cpu(support, coefs, weights)
        case _:
            return reference.superset_sums(support, coefs, weights)


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


def _check_bits(op: str, bits: int, **tensors: Tensor) -> None:
    """Each has the words of `bits` bits, and no bit beyond."""
    width = -(-bits // 64)
    for name, x in tensors.items():
        check(
            x.shape[1] == width,
            "{}: {} must have ceil({} / 64) = {} words, got {}",
            *(op, name, bits, width, x.shape[1]),
        )
        spare = bool((x[:, -1] & ~_low_bits(bits)).any())
        check(not spare, "{}: {} must have no bit set beyond the first {}", op, name, bits)


def _low_bits(bits: int) -> int:
    """The last of the words that hold `bits` bits, all set, as an int64."""
    return (1 << bits % 64) - 1 if bits % 64 else -1


def _check_vector(op: str, name: str, x: Tensor, length: int, masks: Tensor) -> None:
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        raise TypeError(f"{op}: {name} must be a floating-point tensor, got {kind(x)}")
    check(
        tuple(x.shape) == (length,),
        "{}: {} must have shape ({},), got {}",
        *(op, name, length, tuple(x.shape)),
    )
    check_device(op, name, x, "masks", masks)
