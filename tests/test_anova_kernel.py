"""anova_kernel: the covariance under a prior on the spectrum, and its gradient."""

import functools
from itertools import combinations

import numpy as np
import pytest
import torch

from spex_core import masks, ops, reference_gp
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("anova_kernel")

EPS = np.finfo(np.float64).eps
# (T1, T2, n, orders): either side of a vector pair, of a tile of 32 rows, of a word
SIZES = [
    (1, 1, 1, 1),
    (3, 4, 5, 2),
    (33, 15, 3, 5),
    (31, 65, 63, 4),
    (5, 17, 65, 8),
    (40, 16, 130, 3),
    (7, 9, 64, 0),
]
BIASES = [0.0, 1.0, -0.3]


def problem(rows, columns, n, orders, seed=0):
    """Packed masks and others, relevances over five decades with a zero, variances."""
    rng = np.random.default_rng(seed)
    a, b = (masks.pack(rng.random((count, n)) < 0.5) for count in (rows, columns))
    relevances = torch.from_numpy(10 ** rng.uniform(-5, 0, n))
    if n > 1:
        relevances[rng.integers(n)] = 0.0
    return a, b, relevances, torch.from_numpy(rng.exponential(size=orders + 1))


def exact_polynomials(x, orders):
    """e_0 .. e_orders of integers of any size, with no rounding."""
    e = [1] + [0] * orders
    for value in x:
        for d in range(orders, 0, -1):
            e[d] += value * e[d - 1]
    return e


def agreement(a, b, bias):
    """u of rows of dense masks: (T1, n), (T2, n) -> (T1, T2, n)."""
    z, others = ((1 - 2.0 * x + bias) / np.sqrt(1 + bias**2) for x in (a, b))
    return z[:, None] * others


@pytest.mark.parametrize(
    ("kind", "bias"),
    [("equal", 0), ("one dominates", 0), ("decades", 0), ("one dominates", 1)],
)
def test_against_exact_rationals(call, kind, bias):
    """n = 1,000 at order 8, where power sums lose every digit if one relevance dominates. With a
    bias of one u is 2 where both masks lack a feature, and else 0."""
    n, orders = 1000, 8
    rng = np.random.default_rng(1)
    numerators = {
        "equal": np.full(n, 1),
        "one dominates": np.append(2**52, np.arange(1, n)),
        "decades": (10 ** rng.uniform(0, 15, n)).astype(np.int64),
    }[kind]
    dense = rng.random((4, n)) < 0.5
    dense[1] = dense[0]
    dense[1, :2] ^= True
    variances = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.25, 1.5, 1.0, 4.0, 8.0], dtype=torch.float64)
    packed = masks.pack(dense)
    relevances = torch.from_numpy(numerators).double()
    got = call(ops.anova_kernel, packed, packed, relevances, variances, bias=bias)
    values = [int(x) for x in numerators]
    largest = exact_polynomials(values, orders)
    for i in range(4):
        for j in range(4):
            u = 2 * ~(dense[i] | dense[j]) if bias else 1 - 2 * (dense[i] ^ dense[j])
            pair = exact_polynomials([v * int(x) for v, x in zip(values, u, strict=True)], orders)
            # int / int is correctly rounded in Python, whatever the size
            want = sum(
                s * (p / q) for s, p, q in zip(variances.tolist(), pair, largest, strict=True)
            )
            # all products are positive with a bias, so that the error is relative to the result
            size = abs(want) if bias else variances.sum().item()
            assert abs(got[i, j].item() - want) <= 4 * n * EPS * size
    assert got[0, 2] != got[0, 0]
    if not bias:
        assert got[0, 1] != got[0, 0]


def exact_gradient(values, agree, variances, orders):
    """Of one pair, by integers with one feature left out: (by relevance, by variance) as floats."""
    x = [v if same else -v for v, same in zip(values, agree, strict=True)]
    e, largest = exact_polynomials(x, orders), exact_polynomials(values, orders)
    by_relevance = []
    for i, same in enumerate(agree):
        less, rest = [1], [1]  # without feature i: e'_d = e_d - x_i e'_(d-1), exact in integers
        for d in range(1, orders):
            less.append(e[d] - x[i] * less[-1])
            rest.append(largest[d] - values[i] * rest[-1])
        sign = 1 if same else -1
        by_relevance.append(
            sum(
                s * ((sign * less[d] * largest[d + 1] - e[d + 1] * rest[d]) / largest[d + 1] ** 2)
                for d, s in enumerate(variances[1:])
            )
        )
    return by_relevance, [a / b for a, b in zip(e, largest, strict=True)]


@pytest.mark.parametrize("kind", ["one dominates", "decades"])
def test_gradient_against_exact_rationals(kind):
    """n = 1,000 at order 8, features between one and 10**15 times another."""
    n, orders, rng = 1000, 8, np.random.default_rng(1)
    numerators = {
        "one dominates": np.append(2**52, np.arange(1, n)),
        "decades": (10 ** rng.uniform(0, 15, n)).astype(np.int64),
    }[kind]
    dense = rng.random((2, n)) < 0.5
    variances = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.25, 1.5, 1.0, 4.0, 8.0], dtype=torch.float64)
    got = ops.anova_kernel_grad(
        *(masks.pack(dense[:1]), masks.pack(dense[1:])),
        *(torch.from_numpy(numerators).double(), variances, torch.ones(1, 1)),
    )
    values = [int(x) for x in numerators]
    want = exact_gradient(values, dense[0] == dense[1], variances.tolist(), orders)
    total = variances.sum().item()
    for x, exact, value in zip(got[0].tolist(), want[0], values, strict=True):
        assert abs(x - exact) * value <= 16 * n * EPS * total
    np.testing.assert_allclose(got[1].numpy(), want[1], rtol=0, atol=4 * n * EPS)
    assert max(abs(x * v) for x, v in zip(want[0], values, strict=True)) > 1e-3


@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("by", ["reference", "cpu"])
def test_autograd(by, bias):
    """relevances and variances that require a gradient have a graph, in float32 too."""
    a, b, _, variances = problem(5, 4, 6, 3, seed=4)
    relevances = torch.linspace(0.3, 4.0, 6, dtype=torch.float64, requires_grad=True)
    variances.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda r, v: ops.anova_kernel(a, b, r, v, bias=bias, backend=by), (relevances, variances)
    )
    narrow = relevances.detach().float().requires_grad_()
    ops.anova_kernel(a, b, narrow, variances.detach(), bias=bias, backend=by).sum().backward()
    assert narrow.grad.dtype == torch.float32
    assert narrow.grad.abs().max() > 1e-4


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("orders", range(9))
def test_is_a_sum_over_all_sets(call, orders, bias):
    """Each set k gives its variance times the product of u over k."""
    n = 10
    a, b, relevances, variances = problem(6, 5, n, orders)
    u = agreement(masks.unpack(a, n), masks.unpack(b, n), bias)  # (6, 5, n)
    want = np.zeros((6, 5))
    for d in range(orders + 1):
        sets = [list(k) for k in combinations(range(n), d)]
        share = np.array([relevances.numpy()[k].prod() for k in sets])
        share *= variances[d].item() / share.sum()
        want += sum(x * u[..., k].prod(-1) for x, k in zip(share, sets, strict=True))
    got = call(ops.anova_kernel, a, b, relevances, variances, bias=bias)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-13 * 2**orders)


@functools.cache
def differentiated(rows, columns, n, orders, bias):
    """Inputs, weights, and what the reference and automatic differentiation of it make of them, for
    others that differ from the masks, and for the masks themselves."""
    a, b, relevances, variances = problem(rows, columns, n, orders, seed=2)
    weights = torch.from_numpy(np.random.default_rng(3).normal(size=(rows, columns)))
    out = []
    for others, w in ((b, weights), (a, torch.from_numpy(np.ones((rows, rows)).cumsum(0)))):
        inputs = a, others, relevances, variances
        kernel = reference_gp.anova_kernel(*inputs, bias)
        out.append((inputs, w, kernel, reference_gp.anova_kernel_grad(*inputs, w, bias)))
    return out


@pytest.mark.parametrize(
    ("rows", "columns", "n", "orders", "bias"),
    [
        *((*size, 0.0) for size in SIZES),
        *((33, 15, 3, 5, 1.0), (6, 17, 11, 8, -0.3), (3, 4, 5, 1, 1.0), (40, 16, 130, 3, 1.0)),
    ],
)
def test_every_instruction_set_against_the_reference(isa, rows, columns, n, orders, bias):
    from spex_core import native

    for inputs, weights, kernel, gradient in differentiated(rows, columns, n, orders, bias):
        atol = 4 * n * EPS * inputs[3].sum().item() * 2.0 ** (orders if bias else 0)
        got = native.anova_kernel_cpu(*inputs, bias, isa=isa)
        torch.testing.assert_close(got, kernel, rtol=0, atol=atol)
        got = native.anova_kernel_grad_cpu(*inputs, weights, bias, isa=isa)
        for x, y in zip(got, gradient, strict=True):
            scale = (1.0 + y.abs().max()) * weights.abs().sum()
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-13 * scale.item())


@pytest.mark.parametrize("bias", BIASES)
def test_gradient_by_differences(call, bias):
    """Central differences of the kernel; relevances are far from one, so the scaling shows."""
    a, b, _, variances = problem(6, 5, 7, 4, seed=4)
    relevances = torch.linspace(3.0, 40.0, 7, dtype=torch.float64)
    weights = torch.from_numpy(np.random.default_rng(5).normal(size=(6, 5)))
    got = call(ops.anova_kernel_grad, a, b, relevances, variances, weights, bias=bias)
    for x, grad in ((relevances, got[0]), (variances, got[1])):
        for i in range(len(x)):
            step = 1e-5 * x[i].item()
            ends = []
            for sign in (1, -1):
                x[i] += sign * step
                found = ops.anova_kernel(a, b, relevances, variances, bias=bias)
                ends.append((found * weights).sum().item())
                x[i] -= sign * step
            assert grad[i].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
    assert got[0].abs().max() > 1e-4


@pytest.mark.parametrize("bias", [1.0, -1.0, 0.6])
def test_with_a_bias_is_a_covariance(call, bias):
    """Symmetric, no eigenvalue below zero; masks that have all features, and those that have none,
    are told apart by the sign of the bias."""
    a, _, relevances, variances = problem(60, 1, 70, 6, seed=6)
    a[0], a[1] = 0, -1
    got = call(ops.anova_kernel, a, a, relevances, variances, bias=bias)
    assert torch.equal(got, got.T)
    assert torch.linalg.eigvalsh(got).min() > -1e-12 * got.max()
    assert (got[0, 0] > got[1, 1]) == (bias > 0)
    torch.testing.assert_close(
        got,
        call(ops.anova_kernel, a, a.clone(), relevances, variances, bias=bias),
        rtol=1e-12,
        atol=0,
    )
    other = call(ops.anova_kernel, ~a, ~a, relevances, variances, bias=-bias)
    torch.testing.assert_close(got, other, rtol=1e-12, atol=1e-12)


def test_a_bias_of_any_size(call):
    """Towards infinity all masks are alike; no square overflows."""
    a, b, relevances, variances = problem(4, 5, 9, 3, seed=6)
    for bias in (1e200, -1e200, 1e-200):
        got = call(ops.anova_kernel, a, b, relevances, variances, bias=bias)
        want = (
            variances.sum().expand(4, 5)
            if abs(bias) > 1
            else call(ops.anova_kernel, a, b, relevances, variances)
        )
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


def test_is_a_covariance(backend, device):
    """Symmetric, the sum of the variances on the diagonal, no eigenvalue below zero; one tensor
    for both arguments gives what two equal ones give."""
    a, _, relevances, variances = (x.to(device) for x in problem(70, 1, 20, 6, seed=6))
    one = ops.anova_kernel(a, a, relevances, variances, backend=backend)
    two = ops.anova_kernel(a, a.clone(), relevances, variances, backend=backend)
    assert torch.equal(one, one.T)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-14)
    one, variances = one.cpu(), variances.cpu()
    torch.testing.assert_close(one.diagonal(), variances.sum().expand(70), rtol=0, atol=1e-13)
    assert torch.linalg.eigvalsh(one).min() > -1e-12


def test_orders_without_enough_features_add_nothing(call):
    a, b, _, variances = problem(9, 8, 3, 8, seed=7)
    got = call(ops.anova_kernel, a, b, torch.ones(3), variances)
    want = call(ops.anova_kernel, a, b, torch.ones(3), variances[:4])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-15)
    by_relevance, by_variance = call(
        ops.anova_kernel_grad, a, b, torch.ones(3), variances, torch.ones(9, 8)
    )
    assert by_relevance.isfinite().all()
    assert (by_variance[4:] == 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-320, 1e-200, 1e300])
def test_relevances_of_any_size(call, scale):
    """Only their ratios matter; where all are zero, only the constant is left."""
    a, b, _, variances = problem(9, 8, 40, 8, seed=8)
    relevances = torch.full((40,), 1.0, dtype=torch.float64)
    got = call(ops.anova_kernel, a, b, relevances * scale, variances)
    want = ops.anova_kernel(a, b, relevances, variances if scale else variances[:1])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    by_relevance, by_variance = call(
        ops.anova_kernel_grad, a, b, relevances * scale, variances, torch.ones(9, 8)
    )
    assert not by_relevance.isnan().any()
    assert by_variance.isfinite().all()


def test_same_bits_for_any_number_of_threads(set_threads):
    a, b, relevances, variances = problem(300, 200, 100, 4)
    weights = torch.from_numpy(np.random.default_rng(9).normal(size=(300, 200)))
    results = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        results.append(
            (
                ops.anova_kernel(a, b, relevances, variances, bias=1.0),
                *ops.anova_kernel_grad(a, b, relevances, variances, weights, bias=1.0),
            )
        )
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
def test_empty(call, rows, columns):
    a, b, relevances, variances = problem(rows, columns, 10, 3)
    assert call(ops.anova_kernel, a, b, relevances, variances).shape == (rows, columns)
    weights = torch.zeros(rows, columns)
    got = call(ops.anova_kernel_grad, a, b, relevances, variances, weights)
    assert torch.equal(got[0], torch.zeros(10, dtype=torch.float64))
    assert torch.equal(got[1], torch.zeros(4, dtype=torch.float64))


def test_strided_input_and_input_unchanged(call, device):
    copies = problem(12, 10, 130, 3)
    a, b, relevances, variances = (x.clone().to(device) for x in copies)
    got = call(ops.anova_kernel, a[::3, 1:2], b[::2, 1:2], relevances[1:129:2], variances, bias=0.4)
    want = ops.anova_kernel(
        *(x.contiguous() for x in (copies[0][::3, 1:2], copies[1][::2, 1:2], copies[2][1:129:2])),
        copies[3],
        bias=0.4,
    )
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)
    for x, copy in zip((a, b, relevances, variances), copies, strict=True):
        assert torch.equal(x.cpu(), copy)


def test_contract(backend):
    a, b, relevances, variances = problem(3, 4, 70, 2)

    def refused(error, match, *inputs):
        with pytest.raises(error, match=match):
            ops.anova_kernel(*inputs, backend=backend)

    refused(
        TypeError, "anova_kernel: masks must be a packed int64", a.float(), b, relevances, variances
    )
    refused(ValueError, "others must have as many words", a, b[:, :1], relevances, variances)
    refused(TypeError, "relevances must be a floating-point", a, b, relevances.long(), variances)
    refused(ValueError, "relevances must have one axis", a, b, relevances[None], variances)
    refused(ValueError, "relevances must be 1 to 128, got 0", a, b, relevances[:0], variances)
    refused(
        ValueError, "relevances must be 1 to 64, got 70", a[:, :1], b[:, :1], relevances, variances
    )
    refused(ValueError, "relevances must not be negative", a, b, -relevances, variances)
    refused(ValueError, "relevances must be finite", a, b, relevances / 0, variances)
    refused(ValueError, "variances must be finite", a, b, relevances, variances * np.nan)
    refused(
        ValueError,
        "variances must be of 1 to 9 orders, 0 included, got 10",
        a,
        b,
        relevances,
        torch.ones(10),
    )
    with pytest.raises(
        ValueError, match=r"anova_kernel_grad: weights must have shape \(3, 4\), got"
    ):
        ops.anova_kernel_grad(a, b, relevances, variances, torch.ones(4, 3), backend=backend)
    with pytest.raises(BackendUnavailable, match="anova_kernel: backend 'cuda' is not available"):
        ops.anova_kernel(a, b, relevances, variances, backend="cuda")


@pytest.mark.parametrize("op", ["anova_kernel", "anova_kernel_grad"])
@pytest.mark.parametrize(
    ("bias", "error"),
    [
        *((bad, ValueError) for bad in (float("nan"), float("inf"), -float("inf"))),
        *((bad, TypeError) for bad in (True, "1", None, 1j, torch.ones(()))),
    ],
)
def test_bad_bias(backend, op, bias, error):
    a, b, relevances, variances = problem(3, 4, 70, 2)
    given = a, b, relevances, variances, *([torch.ones(3, 4)] if op.endswith("grad") else [])
    with pytest.raises(error, match=f"{op}: bias must be a finite number, got"):
        getattr(ops, op)(*given, bias=bias, backend=backend)
