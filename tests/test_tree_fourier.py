"""ops.tree_fourier: exact spectra, against the definition and against the trees themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from forests import Forest, all_masks, chain, grow, join, signs, values
from torch import Tensor

from spex_core import BackendUnavailable, SparseTransform, ops
from spex_core import masks as bits

pytestmark = pytest.mark.op("tree_fourier")

# trees, depth, n, features in use (0: all)
CASES = [
    *((1, 1, 1, 0), (3, 4, 1, 0), (2, 3, 2, 0), (40, 5, 63, 0), (7, 6, 64, 9), (30, 5, 65, 20)),
    *((100, 5, 100, 0), (10, 7, 1000, 30), (5, 3, 50_000, 0), (3, 9, 300, 12)),
]


def sets_of(support: Tensor) -> list[tuple[int, ...]]:
    return bits.unpack_sets(support)


def columns(trees: int, groups: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, groups, trees).astype(np.int32))


# The same bits as the reference.


@pytest.mark.parametrize("limit", [None, 0, 1, 37, 10**9])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bit_equal_to_the_reference(case: tuple, limit: int | None, call: Callable) -> None:
    trees, depth, n, pool = case
    forest = grow(trees, depth, n, pool=pool)
    how = {"group": columns(trees, 3), "groups": 3, "limit": limit}
    support, coefs = call(ops.tree_fourier, *forest, n, **how)
    expected = ops.tree_fourier(*forest, n, **how, backend="reference")
    assert torch.equal(support, expected[0])
    assert torch.equal(coefs, expected[1])
    assert coefs.shape == (len(support), 3)
    assert len(support) > 0 or limit == 0
    assert limit is None or len(support) <= limit


@pytest.mark.parametrize("case", CASES, ids=str)
def test_close_on_floats(case: tuple, call: Callable) -> None:
    """One addition for each level and tree, and halves are exact."""
    trees, depth, n, pool = case
    forest = grow(trees, depth, n, pool=pool, floats=True)
    support, coefs = call(ops.tree_fourier, *forest, n)
    expected = ops.tree_fourier(*forest, n, backend="reference")
    assert torch.equal(support, expected[0])
    bound = torch.finfo(torch.float64).eps * (depth + trees)
    assert (coefs - expected[1]).norm() <= bound * expected[1].norm()


# Oracles that share no code.


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 10])
def test_brute_force(n: int, call: Callable) -> None:
    """F[k] = 2**-n sum over m of f(m) (-1)**<k, m>, by the definition; exact on whole numbers."""
    forest = grow(6, 7, n)
    masks = all_masks(n)
    f = values(forest, masks).sum(0)
    sets = [tuple(np.flatnonzero(mask).tolist()) for mask in masks]
    full = dict(zip(sets, (f @ signs(masks, sets) / 2**n).tolist(), strict=True))
    support, coefs = call(ops.tree_fourier, *forest, n)
    found = dict(zip(sets_of(support), coefs[:, 0].tolist(), strict=True))
    assert found == {k: coef for k, coef in full.items() if coef != 0}
    assert len(found) > n


@pytest.mark.parametrize(("n", "pool"), [(64, 0), (100, 10), (1000, 40), (50_000, 0)])
def test_the_spectrum_evaluates_to_the_trees(n: int, pool: int, call: Callable) -> None:
    forest = grow(20, 5, n, pool=pool, floats=True)
    masks = np.random.default_rng(n).integers(0, 2, (50, n)).astype(bool)
    support, coefs = call(ops.tree_fourier, *forest, n)
    expected = values(forest, masks).sum(0)
    assert np.ptp(expected) > 1
    found = signs(masks, sets_of(support)) @ coefs[:, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# Identities.


@pytest.mark.parametrize("n", [3, 10])
def test_parseval(n: int, call: Callable) -> None:
    forest = grow(5, 6, n)
    _, coefs = call(ops.tree_fourier, *forest, n)
    f = values(forest, all_masks(n)).sum(0)
    assert (coefs**2).sum().item() == pytest.approx(np.mean(f**2), rel=1e-14)


def test_one_split(call: Callable) -> None:
    forest = chain([70], [3.0, -1.0])
    support, coefs = call(ops.tree_fourier, *forest, 100)
    assert sets_of(support) == [(), (70,)]
    assert coefs[:, 0].tolist() == [1.0, 2.0]


def test_a_conjunction_has_all_subsets(call: Callable) -> None:
    features = [99, 3, 64, 63, 0, 17]
    forest = chain(features, [0.0] * 6 + [64.0])
    support, coefs = call(ops.tree_fourier, *forest, 100)
    sets = sets_of(support)
    assert len(set(sets)) == 64
    assert set().union(*sets) == set(features)
    assert coefs[:, 0].tolist() == [(-1.0) ** len(k) for k in sets]


def test_groups_are_spectra_of_their_trees(call: Callable) -> None:
    n, groups = 30, 4
    forest = grow(25, 4, n)
    group = columns(25, groups)
    support, coefs = call(ops.tree_fourier, *forest, n, group=group, groups=groups)
    together = dict(zip(sets_of(support), coefs.tolist(), strict=True))
    for g in range(groups):
        roots = forest[0][group == g]
        alone = call(ops.tree_fourier, roots, *forest[1:], n)
        expected = dict(zip(sets_of(alone[0]), alone[1][:, 0].tolist(), strict=True))
        assert {k: row[g] for k, row in together.items() if row[g] != 0} == expected


def test_a_root_given_twice_counts_twice(call: Callable) -> None:
    forest = grow(4, 4, 20)
    twice = torch.cat([forest[0], forest[0]])
    once = call(ops.tree_fourier, *forest, 20)
    double = call(ops.tree_fourier, twice, *forest[1:], 20)
    assert torch.equal(once[0], double[0])
    assert torch.equal(2 * once[1], double[1])


def test_terms_that_cancel_are_left_out(call: Callable) -> None:
    forest = join(chain([4, 2], [1.0, 2.0, 5.0]), chain([4, 2], [-1.0, -2.0, -5.0]))
    assert len(call(ops.tree_fourier, *forest, 9)[0]) == 0
    group = torch.tensor([0, 1], dtype=torch.int32)
    _, apart = call(ops.tree_fourier, *forest, 9, group=group, groups=2)
    assert torch.equal(apart[:, 0], -apart[:, 1])
    assert len(apart) == 4


# The order, and the limit.


def test_canonical_order(call: Callable) -> None:
    support, coefs = call(ops.tree_fourier, *grow(60, 5, 200), 200)
    sets = sets_of(support)
    assert sets == sorted(sets, key=lambda k: (len(k), k))
    assert len(set(sets)) == len(sets) > 1000
    sorted_again = SparseTransform(200, support, coefs[:, 0])
    assert torch.equal(sorted_again.support, support)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 2.0**600, 2.0**-600])
def test_limit_keeps_the_largest(groups: int, scale: float, call: Callable) -> None:
    """By the norm over the groups, also where its square is no float."""
    trees, n = 30, 40
    *nodes, value = grow(trees, 4, n, floats=True)
    how = {"group": columns(trees, groups), "groups": groups}
    support, coefs = call(ops.tree_fourier, *nodes, value, n, **how)
    for limit in (1, 2, 100, len(coefs) - 1):
        some, kept = call(ops.tree_fourier, *nodes, value * scale, n, **how, limit=limit)
        norm = (coefs**2).sum(1)  # many are equal: those of one pair of leaves
        largest = norm.argsort(descending=True, stable=True)[:limit].sort().values
        assert torch.equal(some, support[largest])
        assert torch.equal(kept, coefs[largest] * scale)


def test_limit_takes_equals_in_order(call: Callable) -> None:
    forest = chain([9, 5, 70], [0.0, 0.0, 0.0, 8.0])  # all eight coefficients are +-1
    for limit in range(10):
        support, _ = call(ops.tree_fourier, *forest, 80, limit=limit)
        canonical = [(), (5,), (9,), (70,), (5, 9), (5, 70), (9, 70), (5, 9, 70)]
        assert sets_of(support) == canonical[:limit]


# Shapes of trees.


def test_single_leaves(call: Callable) -> None:
    leaf = torch.tensor([-1], dtype=torch.int32)
    value = torch.tensor([2.5], dtype=torch.float64)
    roots = torch.zeros(3, dtype=torch.int32)
    support, coefs = call(ops.tree_fourier, roots, leaf, leaf, leaf, value, 65)
    assert support.tolist() == [[0, 0]]
    assert coefs.tolist() == [[7.5]]


@pytest.mark.parametrize("nodes", [0, 5])
def test_no_trees(nodes: int, call: Callable) -> None:
    roots = torch.zeros(0, dtype=torch.int32)
    leaf, value = torch.full((nodes,), -1, dtype=torch.int32), torch.zeros(nodes).double()
    forest = roots, leaf, leaf, leaf, value
    support, coefs = call(ops.tree_fourier, *forest, 130, groups=4, limit=3)
    assert support.shape == (0, 3)
    assert coefs.shape == (0, 4)


def test_a_repeated_feature_is_followed_to_its_known_side(call: Callable) -> None:
    once = call(ops.tree_fourier, *chain([2, 1], [1.0, 4.0, 9.0]), 3)
    again = chain([2, 1, 2, 2, 1], [1.0, 4.0, -7.0, -7.0, -7.0, 9.0])
    support, coefs = call(ops.tree_fourier, *again, 3)
    assert torch.equal(support, once[0])
    assert torch.equal(coefs, once[1])


def test_depth_64_of_few_features(call: Callable) -> None:
    rng = np.random.default_rng(0)
    forest = chain([i % 8 for i in range(64)], rng.integers(-9, 10, 65).tolist())
    support, coefs = call(ops.tree_fourier, *forest, 10)
    found = signs(all_masks(10), sets_of(support)) @ coefs[:, 0].numpy()
    assert found.tolist() == values(forest, all_masks(10)).sum(0).tolist()
    assert 200 < len(support) <= 256


def test_depth_20_of_different_features() -> None:
    """A conjunction of 20: 2**20 terms, all of one size, in more words than one."""
    n, features = 130, [(37 * i + 11) % 130 for i in range(20)]
    forest = chain(features, [0.0] * 20 + [2.0**20])
    support, coefs = ops.tree_fourier(*forest, n)
    sizes = bits.orders(support)
    assert np.bincount(sizes).tolist() == [
        *(1, 20, 190, 1140, 4845, 15504, 38760, 77520, 125970, 167960, 184756),
        *(167960, 125970, 77520, 38760, 15504, 4845, 1140, 190, 20, 1),
    ]
    assert (np.diff(sizes) >= 0).all()
    assert np.array_equal(coefs[:, 0].numpy(), 1.0 - 2.0 * (sizes % 2))
    some, _ = ops.tree_fourier(*forest, n, limit=211)
    assert torch.equal(some, support[:211])


def test_paths_of_64_features_whose_leaves_agree(call: Callable) -> None:
    """Nothing depends on what they ask, so there is one term and not 2**64."""
    n = 50_000
    forest = chain([700 * i + 1 for i in range(64)], [3.0] * 65)
    support, coefs = call(ops.tree_fourier, *forest, n)
    assert sets_of(support) == [()]
    assert coefs.tolist() == [[3.0]]


@pytest.mark.parametrize("path", [12, 20, 64])
def test_wide_keys(path: int, backend: str, call: Callable) -> None:
    """16 bits a feature: one split on each of 33,000 (on every 33rd where that takes long), and a
    conjunction of twelve of them. A path whose leaves agree makes room for more."""
    n = 33_000
    asked = torch.arange(0, n, 1 if backend == "cpu" else 33, dtype=torch.int32)
    start = 3 * torch.arange(len(asked), dtype=torch.int32)
    none = torch.full_like(start, -1)
    links = [torch.stack([start + side, none, none], 1).flatten() for side in (1, 2)]
    nodes = torch.stack([asked, none, none], 1).flatten()
    splits = start, nodes, *links, torch.tensor([0.0, 2.0, 0.0]).double().repeat(len(asked))
    features = [3003 * i for i in range(6)] + [2999 * i + 7 for i in range(6)]
    both = chain(features, [0.0] * 12 + [4.0 * 2**12])
    forest = join(splits, both, chain(list(range(path)), [0.0] * (path + 1)))
    found = call(ops.tree_fourier, *forest, n, limit=2**12)
    single = {(i,) for i in asked.tolist()}
    assert 0 < len(single & {(i,) for i in features}) <= 12
    expected = {
        k: 4.0 * (-1) ** len(k) + (k in single) + len(asked) * (k == ())
        for size in range(13)
        for k in itertools.combinations(sorted(features), size)
    }
    assert list(zip(sets_of(found[0]), found[1][:, 0].tolist(), strict=True)) == [*expected.items()]


# Determinism.


@pytest.mark.parametrize("limit", [None, 500])
def test_the_same_bits_for_any_number_of_threads(
    limit: int | None, set_threads: Callable[[int], None]
) -> None:
    n, trees = 256, 1500  # several blocks, parts and rounds
    forest = grow(trees, 6, n, pool=60, floats=True)
    how = {"group": columns(trees, 5), "groups": 5, "limit": limit}
    found = []
    for threads in (1, 2, 7):
        set_threads(threads)
        found.append(ops.tree_fourier(*forest, n, **how))
    for support, coefs in found[1:]:
        assert torch.equal(support, found[0][0])
        assert torch.equal(coefs, found[0][1])


def test_the_sums_are_in_the_order_of_the_trees() -> None:
    """So that any way of sharing out the work gives the same bits, also of many rounds."""
    n, trees = 100, 4000
    forest = grow(trees, 6, n, pool=8, floats=True)
    support, coefs = ops.tree_fourier(*forest, n)
    every = torch.arange(trees, dtype=torch.int32)
    same, apart = ops.tree_fourier(*forest, n, group=every, groups=trees)
    assert torch.equal(support, same)
    assert len(support) > 200
    assert coefs[:, 0].tolist() == np.cumsum(apart.numpy(), axis=1)[:, -1].tolist()


# The contract.


def test_inputs_are_unchanged_and_may_be_strided(call: Callable, device: torch.device) -> None:
    n = 65
    forest = grow(9, 4, n)
    group = columns(9, 2)
    expected = call(ops.tree_fourier, *forest, n, group=group, groups=2)
    strided = [torch.stack([x, x], 1).to(device)[:, 0] for x in (*forest, group)]
    assert not strided[0].is_contiguous()
    found = call(ops.tree_fourier, *strided[:5], n, group=strided[5], groups=2)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(x.cpu(), y) for x, y in zip(strided, (*forest, group), strict=True))


def replaced(position: int, index: int, value: float) -> Forest:
    forest = [x.clone() for x in chain([4, 2], [1.0, 2.0, 5.0])]
    forest[position][index] = value
    return tuple(forest)


def shapeless(position: int, shape: tuple[int, ...]) -> Forest:
    forest = list(chain([4, 2], [1.0, 2.0, 5.0]))
    forest[position] = forest[position].new_zeros(shape)
    return tuple(forest)


@pytest.mark.parametrize(
    ("forest", "message"),
    [
        (replaced(0, 0, 5), r"roots must be in \[0, 4\], got 5"),
        (replaced(0, 0, -1), r"roots must be in \[0, 4\], got -1"),
        (replaced(1, 1, 9), r"feature must be in \[-1, 8\], got 9"),
        (replaced(1, 1, -2), r"feature must be in \[-1, 8\], got -2"),
        (replaced(2, 1, 5), r"absent and present must be in \[0, 4\], got 5"),
        (replaced(3, 0, -1), r"absent and present must be in \[0, 4\], got -1"),
        (replaced(3, 1, 3), "a node must be the child of one node, got 3 twice"),
        (replaced(3, 1, 0), "a root must be no node's child, got 0"),
        (replaced(4, 2, float("nan")), "value must be finite at the leaves"),
        (replaced(4, 3, float("-inf")), "value must be finite at the leaves"),
        (shapeless(4, (6,)), r"value must have shape \(5,\), got \(6,\)"),
        (shapeless(3, (4,)), r"present must have shape \(5,\), got \(4,\)"),
        (shapeless(2, (5, 1)), r"absent must have shape \(5,\), got \(5, 1\)"),
        (shapeless(0, ()), r"roots must have shape \(trees,\), got \(\)"),
        (chain(list(range(65)), [0.0] * 66), "feature must be in"),
    ],
)  # fmt: skip
def test_bad_trees(forest: Forest, message: str, call: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        call(ops.tree_fourier, *forest, 9)


def test_the_value_of_an_inner_node_does_not_count(call: Callable) -> None:
    expected = call(ops.tree_fourier, *chain([4, 2], [1.0, 2.0, 5.0]), 9)
    found = call(ops.tree_fourier, *replaced(4, 0, float("nan")), 9)
    assert torch.equal(found[1], expected[1])


def test_sums_beyond_the_range_of_numbers(call: Callable) -> None:
    roots, *nodes, value = chain([1], [1e308, -1e308])
    call(ops.tree_fourier, roots, *nodes, value, 9)
    with pytest.raises(ValueError, match="value must be finite at the leaves, as their sum"):
        call(ops.tree_fourier, roots.expand(2), *nodes, value, 9)


@pytest.mark.parametrize("position", range(5))
def test_wrong_dtypes(position: int, call: Callable) -> None:
    forest = list(chain([4, 2], [1.0, 2.0, 5.0]))
    forest[position] = forest[position].to(torch.int64 if position < 4 else torch.float32)
    with pytest.raises(TypeError, match=r"tree_fourier: .* must be an? (int32|float64) tensor"):
        call(ops.tree_fourier, *forest, 9)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be an integer >= 1"),
        ({"n": 9.0}, TypeError, "n must be an integer"),
        ({"groups": 0}, ValueError, "groups must be an integer >= 1"),
        ({"limit": -1}, ValueError, "limit must be an integer >= 0"),
        ({"group": torch.zeros(1)}, TypeError, "group must be an int32 tensor"),
        (
            {"group": torch.zeros(1, dtype=torch.int32, device="meta")},
            *(ValueError, r"group must be on the device of roots, (cpu|cuda:0), got meta"),
        ),
        ({"group": torch.zeros(2).int()}, ValueError, r"group must be 1 numbers in \[0, 1\)"),
        ({"group": torch.ones(1).int()}, ValueError, r"group must be 1 numbers in \[0, 1\)"),
    ],
)
def test_bad_arguments(how: dict, error: type, message: str, call: Callable) -> None:
    forest = chain([4, 2], [1.0, 2.0, 5.0])
    with pytest.raises(error, match=f"tree_fourier: {message}"):
        call(ops.tree_fourier, *forest, **({"n": 9} | how))


def test_more_terms_than_memory_is_for() -> None:
    with pytest.raises(ValueError, match=r"at most 2\*\*24 terms each"):
        ops.tree_fourier(*chain(list(range(30)), [0.0] * 30 + [1.0]), 30)
    with pytest.raises(ValueError, match="at most 64 features on a path"):
        ops.tree_fourier(*chain(list(range(65)), [0.0] * 65 + [1.0]), 65)


def test_unknown_backend() -> None:
    with pytest.raises(BackendUnavailable, match=r"not implemented for this op|no CUDA|import"):
        ops.tree_fourier(*chain([0], [0.0, 1.0]), 1, backend="cuda")
