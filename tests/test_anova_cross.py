"""anova_cross: the covariance of Fourier coefficients with values under a prior."""

import numpy as np
import pytest
import torch
from test_anova_kernel import EPS, exact_polynomials

from spex_core import masks, ops, reference_gp
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("anova_cross")

# (S, T, n, orders): either side of a vector pair, of a word, of the terms and the pages of features
# that are together
SIZES = [
    (1, 1, 1, 1),
    (3, 4, 5, 2),
    (33, 15, 9, 5),
    (31, 65, 63, 4),
    (5, 17, 65, 8),
    (65, 16, 130, 3),
    (40, 9, 330, 5),
    (4097, 2, 70, 2),
]
BIASES = [0.0, 1.0, -0.3]


def problem(terms, samples, n, orders, seed=0):
    """Packed masks, terms of 0 to orders + 1 features, relevances over three decades with a zero,
    variances."""
    rng = np.random.default_rng(seed)
    packed = masks.pack(rng.random((samples, n)) < 0.5)
    support = np.zeros((terms, n), bool)
    for row, term in enumerate(support):
        term[rng.permutation(n)[: row % (orders + 2)]] = True
    relevances = torch.from_numpy(10 ** rng.uniform(-3, 0, n))
    if n > 1:
        relevances[rng.integers(n)] = 0.0
    variances = torch.from_numpy(rng.exponential(size=orders + 1))
    return packed, masks.pack(support), relevances, variances


def all_subsets(n):
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)  # (2**n, n)


@pytest.mark.parametrize("bias", [*BIASES, -1.0, 2.5])
@pytest.mark.parametrize("orders", [0, 1, 2, 5, 8])
def test_against_all_sets(call, orders, bias):
    """From the definition: the functions of every set and their variances, on all 2**n masks, and
    the Walsh-Hadamard transform of the covariance with a value."""
    n, rng = 7, np.random.default_rng(orders)
    sets = all_subsets(n)
    sizes = sets.sum(1)
    relevances = rng.uniform(0.1, 3.0, n)
    variances = rng.exponential(size=orders + 1)
    share = np.where(sets, relevances, 1.0).prod(1)
    known = [share[sizes == d].sum() for d in range(n + 1)]
    prior = [variances[d] / known[d] if d <= orders else 0.0 for d in range(n + 1)] * np.eye(n + 1)
    of_set = prior.sum(0)[sizes] * share  # (2**n,)
    shifted = (1 - 2.0 * sets + bias) / np.sqrt(1 + bias**2)  # masks too are all of the subsets
    functions = np.where(sets[None], shifted[:, None], 1.0).prod(-1)  # (masks, sets)
    asked = rng.permutation(2**n)[:9]
    covariance = functions * of_set @ functions[asked].T  # (masks, 9)
    walsh = 1 - 2.0 * (sets.astype(int) @ sets.T % 2)
    want = walsh @ covariance / 2**n
    got = call(
        *(ops.anova_cross, masks.pack(sets[asked]), masks.pack(sets)),
        *(torch.from_numpy(relevances), torch.from_numpy(variances)),
        bias=bias,
    )
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-13 * abs(covariance).max())
    assert abs(want).max() > 1e-3
    assert (got[sizes > orders] == 0).all()


@pytest.mark.parametrize("kind", ["one dominates", "decades"])
def test_against_exact_rationals(call, kind):
    """n = 1,000 at order 8 and bias 1: only features that a mask lacks count, each for one."""
    n, orders = 1000, 8
    rng = np.random.default_rng(1)
    numerators = {
        "one dominates": np.append(2**52, np.arange(1, n)),
        "decades": (10 ** rng.uniform(0, 15, n)).astype(np.int64),
    }[kind]
    dense = rng.random((3, n)) < 0.3
    dense[0, 0] = False
    support = np.zeros((10, n), bool)
    for size in range(10):
        support[size, rng.permutation(np.flatnonzero(~dense[0]))[:size]] = True
    support[5, 0] = True
    variances = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.25, 1.5, 1.0, 4.0, 8.0], dtype=torch.float64)
    got = call(
        *(ops.anova_cross, masks.pack(dense), masks.pack(support)),
        *(torch.from_numpy(numerators).double(), variances),
        bias=1.0,
    )
    values = [int(x) for x in numerators]
    largest = exact_polynomials(values, orders)
    for k, term in enumerate(support):
        order = int(term.sum())
        for t, mask in enumerate(dense):
            if (term & mask).any() or order > orders:
                assert got[k, t] == 0
                continue
            product = 1
            for i in np.flatnonzero(term):
                product *= values[i]
            e = exact_polynomials([values[i] for i in np.flatnonzero(~mask & ~term)], orders)
            want = sum(  # int / int is correctly rounded in Python, whatever the size
                variances[d].item() * (product * e[d - order] / largest[d])
                for d in range(order, orders + 1)
            )
            assert abs(got[k, t].item() - want) <= 4 * n * EPS * want
            assert want > 0


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("terms", "samples", "n", "orders"), SIZES)
def test_every_instruction_set_against_the_reference(isa, terms, samples, n, orders, bias):
    from spex_core import native

    given = problem(terms, samples, n, orders)
    want = reference_gp.anova_cross(*given, bias)
    got = native.anova_cross_cpu(*given, bias, isa=isa)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=4 * n * EPS * given[3].sum().item())
    assert want.abs().max() > 1e-6


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_every_backend_against_the_reference(call, bias):
    """Either side of a square of 32, two words, a term of no features, one of too many."""
    given = problem(35, 33, 70, 3, seed=2)
    want = reference_gp.anova_cross(*given, bias)
    got = call(ops.anova_cross, *given, bias=bias)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-13)
    assert want[4].abs().max() == 0 < want[3].abs().max()


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_sums_to_the_kernel(call, bias):
    """The coefficients of all terms make up the values, so their covariances do."""
    n = 6
    everything = masks.pack(all_subsets(n))
    relevances = torch.linspace(0.2, 3.0, n, dtype=torch.float64)
    variances = torch.tensor([0.3, 1.0, 0.5, 0.1], dtype=torch.float64)
    given = everything, everything, relevances, variances  # one tensor, for masks and terms
    cross = call(ops.anova_cross, *given, bias=bias)
    kernel = call(ops.anova_kernel, *given, bias=bias)
    torch.testing.assert_close(ops.fwht(cross.T.contiguous()).T, kernel, rtol=0, atol=1e-13)


def test_same_bits_for_any_number_of_threads(set_threads):
    given = problem(300, 500, 100, 4)
    results = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        results.append(ops.anova_cross(*given, bias=1.0))
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize(("terms", "samples"), [(0, 3), (3, 0), (0, 0)])
def test_empty(call, terms, samples, bias):
    found = call(ops.anova_cross, *problem(terms, samples, 10, 3), bias=bias)
    assert found.shape == (terms, samples)


def test_strided_input_and_input_unchanged(call, device):
    copies = problem(12, 10, 130, 3)
    packed, support, relevances, variances = (x.clone().to(device) for x in copies)
    got = call(
        *(ops.anova_cross, packed[::3, 1:2], support[::2, 1:2], relevances[1:129:2], variances),
        bias=0.4,
    )
    thin = copies[0][::3, 1:2], copies[1][::2, 1:2], copies[2][1:129:2], copies[3]
    want = reference_gp.anova_cross(*(x.contiguous() for x in thin), 0.4)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    for x, copy in zip((packed, support, relevances, variances), copies, strict=True):
        assert torch.equal(x.cpu(), copy)


def test_bits_beyond_the_features_are_not_read(call):
    packed, support, relevances, variances = problem(9, 7, 70, 3)
    beyond = torch.tensor([0, -1 << 6])
    got = call(ops.anova_cross, packed | beyond, support | beyond, relevances, variances, bias=1.0)
    assert torch.equal(got, call(ops.anova_cross, packed, support, relevances, variances, bias=1.0))


@pytest.mark.parametrize("scale", [0.0, 1e-320, 1e-200, 1e300])
def test_relevances_of_any_size(call, scale):
    """Only their ratios matter; where all are zero, only the constant is left."""
    packed, support, _, variances = problem(9, 8, 40, 4, seed=8)
    ones = torch.ones(40, dtype=torch.float64)
    got = call(ops.anova_cross, packed, support, ones * scale, variances, bias=1.0)
    want = ops.anova_cross(packed, support, ones, variances if scale else variances[:1], bias=1.0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


def test_a_bias_of_any_size(call):
    """Towards infinity the function is one number, all of it in the coefficient of the empty set;
    no square overflows."""
    packed, support, relevances, variances = problem(5, 4, 9, 3, seed=6)
    for bias in (1e200, -1e200):
        got = call(ops.anova_cross, packed, support, relevances, variances, bias=bias)
        torch.testing.assert_close(got[0], variances.sum().expand(4), rtol=1e-13, atol=0)
        assert got[1:].abs().max() < 1e-190


def test_contract(backend):
    packed, support, relevances, variances = problem(3, 4, 70, 2)

    def refused(error, match, *inputs, bias=0.0):
        with pytest.raises(error, match=f"anova_cross: {match}"):
            ops.anova_cross(*inputs, bias=bias, backend=backend)

    rest = relevances, variances
    refused(TypeError, "masks must be a packed int64", packed.float(), support, *rest)
    refused(TypeError, "support must be a packed int64", packed, support.double(), *rest)
    refused(ValueError, "support must have as many words", packed, support[:, :1], *rest)
    refused(ValueError, "support must have two axes", packed, support[0], *rest)
    refused(
        TypeError, "relevances must be a floating", packed, support, relevances.long(), variances
    )
    refused(ValueError, "relevances must be 1 to 128, got 0", packed, support, rest[0][:0], rest[1])
    refused(ValueError, "relevances must not be negative", packed, support, -relevances, variances)
    refused(ValueError, "variances must be finite", packed, support, relevances, variances / 0)
    refused(ValueError, "variances must be of 1 to 9", packed, support, relevances, torch.ones(10))
    for bias in (float("nan"), float("inf")):
        refused(ValueError, "bias must be a finite number", packed, support, *rest, bias=bias)
    for bias in (True, "1", None, torch.ones(())):
        refused(TypeError, "bias must be a finite number", packed, support, *rest, bias=bias)
    with pytest.raises(BackendUnavailable, match="anova_cross: backend 'cuda' is not available"):
        ops.anova_cross(packed, support, *rest, backend="cuda")
