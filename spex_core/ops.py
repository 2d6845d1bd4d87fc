"""The public kernels: check the arguments, pick a backend, call it. Same names in every backend.

All of them take `backend="auto|reference|cpu|triton|cuda"` (backend.py), leave their inputs
unchanged and return new tensors. Packed masks and supports are int64, laid out as masks.py says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import fakes, reference
from .backend import Backend, pick
from .checks import check_device, check_packed, kind
from .errors import check, check_int
from .ops_decode import Peeled as Peeled
from .ops_decode import bch_decode as bch_decode
from .ops_decode import peel as peel
from .ops_decode import peel_many as peel_many
from .ops_gp import MAX_ORDER as MAX_ORDER
from .ops_gp import anova_cross as anova_cross
from .ops_gp import anova_kernel as anova_kernel
from .ops_gp import anova_kernel_grad as anova_kernel_grad
from .ops_trees import Boosted as Boosted
from .ops_trees import boost as boost
from .ops_trees import tree_fourier as tree_fourier
from .traced import custom_op

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


def _check_vector(op: str, name: str, x: Tensor, length: int, masks: Tensor) -> None:
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        raise TypeError(f"{op}: {name} must be a floating-point tensor, got {kind(x)}")
    check(
        tuple(x.shape) == (length,),
        "{}: {} must have shape ({},), got {}",
        *(op, name, length, tuple(x.shape)),
    )
    check_device(op, name, x, "masks", masks)
