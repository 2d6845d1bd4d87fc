"""The public kernels of the Gaussian process, checked, dispatched and named as those of ops.py,
which has them too."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from . import fakes, reference_gp
from .backend import Backend, pick
from .checks import check_device, check_packed, kind, readable
from .errors import check
from .traced import custom_op

MAX_ORDER = 8


def _anova_gradient(
    masks: Tensor,
    others: Tensor,
    relevances: Tensor,
    variances: Tensor,
    grad: Tensor,
    bias: float,
    backend: str,
) -> tuple[None, None, Tensor, Tensor]:
    by_relevance, by_variance = torch.ops.spex_core.anova_kernel_grad(
        masks, others, relevances, variances, grad, bias=bias, backend=backend
    )
    return None, None, by_relevance.to(relevances.dtype), by_variance.to(variances.dtype)


@custom_op(
    "(Tensor masks, Tensor others, Tensor relevances, Tensor variances, *, "
    "float bias=0.0, str backend='auto') -> Tensor",
    fake=fakes.anova_kernel,
    gradient=_anova_gradient,
)
def anova_kernel(
    masks: Tensor,
    others: Tensor,
    relevances: Tensor,
    variances: Tensor,
    *,
    bias: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """The covariance of set functions with independent coefficients whose variances are known by
    order and feature:

        K[s, t] = sum over d of variances[d] e_d(relevances * u) / e_d(relevances)

    e_d is the elementary symmetric polynomial of degree d, and

        u_i = (z_i + bias) (z'_i + bias) / (1 + bias**2)

    for z_i = -1 where masks[s] has feature i and 1 where it has not, z' likewise of others[t]. So
    the function is the sum over sets k of G[k] prod_(i in k) (z_i + bias) / sqrt(1 + bias**2), and
    of a set of d features Var G[k] = variances[d] prod_(i in k) relevances[i] / e_d(relevances).
    With bias 0 G are its Fourier coefficients, and u is 1 where two masks agree and -1 where not;
    with bias 1 only features that both masks lack count, with -1 those that both have.

    Args:     masks: packed int64 (T1, W). others: packed (T2, W); where it is the same tensor, half
              of the work is saved. relevances: (n,), finite and >= 0, n <= 64 W; only their ratios
              matter. variances: (orders + 1,), finite, of the orders 0, 1, ..; up to 9 of them. An
              order that fewer than so many features are relevant for adds nothing. bias: finite.
    Returns:  float64 (T1, T2).
    Raises:   TypeError, ValueError if they are not as above; BackendUnavailable.
    Accuracy: error <= 4 n eps sum_d |variances[d]| m**d for the largest |u| there is, m = 1 for
              bias 0 and 2 at most: the recurrence e_d += x_i e_(d-1), feature by feature, has
              errors relative to e_d(|x|). Power sums and Newton's identities would lose all digits
              where one relevance dominates.
    Cost:     T1 T2 n orders products and sums, whatever the bias; gradients by relevances and
              variances, not by bias, are those of anova_kernel_grad, once differentiable.
    Source:   Rehman and Ipsen 2011 (the recurrence). Example:
              anova_kernel(masks, masks, torch.ones(n), torch.tensor([1.0, 0.5]), bias=1.0)
    """
    relevances, variances = _check_anova(
        "anova_kernel", masks, relevances, variances, others=others
    )
    bias = _check_bias("anova_kernel", bias)
    match pick("anova_kernel", backend, masks.device):
        case "cpu":
            from . import native

            return native.anova_kernel_cpu(masks, others, relevances, variances, bias)
        case "triton":
            from .triton_kernels.anova_kernel import anova_kernel as impl

            return impl(masks, others, relevances, variances, bias)
        case _:
            return reference_gp.anova_kernel(masks, others, relevances, variances, bias)


@custom_op(
    "(Tensor masks, Tensor others, Tensor relevances, Tensor variances, Tensor weights, *, "
    "float bias=0.0, str backend='auto') -> (Tensor, Tensor)",
    fake=fakes.anova_kernel_grad,
)
def anova_kernel_grad(
    masks: Tensor,
    others: Tensor,
    relevances: Tensor,
    variances: Tensor,
    weights: Tensor,
    *,
    bias: float = 0.0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """The gradient of sum(weights * anova_kernel(...)) with respect to relevances and variances,
    not bias.

    Args:     weights: (T1, T2), taken as float64. The others: as in anova_kernel.
    Returns:  float64 (n,), and (orders + 1,).
    Accuracy: on cpu the same bits for any number of threads. With respect to a relevance, relative
              to the sum of |weights * variances| over the relevance: as anova_kernel.
    Raises:   TypeError, ValueError as anova_kernel, or if weights have another shape or device;
              BackendUnavailable.
    Cost:     three times that of anova_kernel; 128 n (orders + 3) bytes a thread.
    Source:   e_d has the derivative e_(d-1) of the other features, by reverse differentiation of
              the recurrence, which divides by nothing. Example:
              anova_kernel_grad(m, m, torch.ones(n), torch.tensor([1.0, 0.5]), torch.ones(T, T))
    """
    given = relevances
    op = "anova_kernel_grad"
    relevances, variances = _check_anova(op, masks, relevances, variances, others=others)
    bias = _check_bias(op, bias)
    shape = len(masks), len(others)
    check(
        isinstance(weights, Tensor) and tuple(weights.shape) == shape,
        "anova_kernel_grad: weights must have shape {}, got {}",
        *(shape, tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__),
    )
    check_device("anova_kernel_grad", "weights", weights, "masks", masks)
    inputs = masks, others, relevances, variances, weights.double(), bias
    match pick("anova_kernel_grad", backend, masks.device):
        case "cpu":
            from . import native

            by_relevance, by_variance = native.anova_kernel_grad_cpu(*inputs)
        case "triton":
            from .triton_kernels.anova_kernel import anova_kernel_grad as impl

            by_relevance, by_variance = impl(*inputs)
        case _:
            by_relevance, by_variance = reference_gp.anova_kernel_grad(*inputs)
    return by_relevance * _unit(given.double()), by_variance


@custom_op(
    "(Tensor masks, Tensor support, Tensor relevances, Tensor variances, *, "
    "float bias=0.0, str backend='auto') -> Tensor",
    fake=fakes.anova_cross,
)
def anova_cross(
    masks: Tensor,
    support: Tensor,
    relevances: Tensor,
    variances: Tensor,
    *,
    bias: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """The covariance of Fourier coefficients with values of the functions of anova_kernel:

        C[k, t] = prod_(i in k) (relevances[i] w_i) * sum over d >= |k| of
                  variances[d] e_(d-|k|)(relevances[i] bias w_i, i not in k) / e_d(relevances)

    for w_i = (z_i + bias) / (1 + bias**2), z_i = -1 where masks[t] has feature i and 1 where it has
    not. F[k] is the sum over the sets S that contain k of G[S] bias**(|S| - |k|) /
    (1 + bias**2)**(|S| / 2), so with bias 0 a value's own share of it: C[k, t] = Var F[k]
    (-1)**<masks[t], k>. The mean of F[k] a posteriori is C times the inverse of the covariance of
    the values times the values.

    Args:     masks: packed int64 (T, W). support: packed (S, W), the terms k; one of more features
              than orders has no variance. relevances, variances, bias: as in anova_kernel. Bits
              beyond the n features are not read.
    Returns:  float64 (S, T). It has no gradient.
    Raises:   TypeError, ValueError as anova_kernel; BackendUnavailable.
    Accuracy: error <= 4 n eps times the same sum of absolute values; on cpu the same bits for any
              number of threads.
    Cost:     T n orders products and sums for 4,096 terms, and for each of them 64 T |k|
              (orders - |k|), and T (orders - |k|)**2 for each 64 features between its first and its
              last; with bias 0 S T |k|; on triton S T n orders. n (6 orders + 256) bytes a thread.
    Example:  anova_cross(masks, support, torch.ones(n), torch.tensor([1.0, 0.5]), bias=1.0)
    """
    op = "anova_cross"
    relevances, variances = _check_anova(op, masks, relevances, variances, support=support)
    bias = _check_bias(op, bias)
    match pick(op, backend, masks.device):
        case "cpu":
            from . import native

            return native.anova_cross_cpu(masks, support, relevances, variances, bias)
        case "triton":
            from .triton_kernels.anova_cross import anova_cross as impl

            return impl(masks, support, relevances, variances, bias)
        case _:
            return reference_gp.anova_cross(masks, support, relevances, variances, bias)


def _check_anova(
    op: str, masks: Tensor, relevances: Tensor, variances: Tensor, **others: Tensor
) -> tuple[Tensor, Tensor]:
    """Relevances, of which the largest is made about one, and variances, both float64."""
    check_packed(op, masks=masks, **others)
    most = 64 * masks.shape[1]
    for name, x in (("relevances", relevances), ("variances", variances)):
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            raise TypeError(f"{op}: {name} must be a floating-point tensor, got {kind(x)}")
        check(x.ndim == 1, "{}: {} must have one axis, got shape {}", op, name, tuple(x.shape))
        finite = not readable(x) or bool(x.isfinite().all())
        check(finite, "{}: {} must be finite, got NaN or infinity", op, name)
        check_device(op, name, x, "masks", masks)
    check(
        1 <= len(relevances) <= most,
        "{}: relevances must be 1 to {}, got {}",
        *(op, most, len(relevances)),
    )
    negative = readable(relevances) and bool((relevances < 0).any())
    check(not negative, "{}: relevances must not be negative", op)
    check(
        1 <= len(variances) <= MAX_ORDER + 1,
        "{}: variances must be of 1 to {} orders, 0 included, got {}",
        *(op, MAX_ORDER + 1, len(variances)),
    )
    return relevances.double() * _unit(relevances.double()), variances.double()


def _check_bias(op: str, bias: float) -> float:
    if isinstance(bias, bool) or not isinstance(bias, Real):
        raise TypeError(f"{op}: bias must be a finite number, got {bias!r}")
    check(math.isfinite(bias), "{}: bias must be a finite number, got {}", op, bias)
    return float(bias)


def _unit(relevances: Tensor) -> Tensor:
    """The power of two that takes the largest relevance into [1/2, 1); 1 where all are zero."""
    exponent = torch.frexp(relevances.max()).exponent.clamp(min=-1000)
    return torch.ldexp(torch.ones_like(relevances[0]), -exponent)
