"""boost: regression trees on mask bits."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spex_core import masks as bits
from spex_core import ops, reference_boost
from spex_core.backend import interpreted
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("boost")

# samples, features, watched masks: words of both that are full, and not
SIZES = [
    (1, 1, 0),
    (8, 3, 5),
    (63, 64, 1),
    (64, 65, 64),
    (100, 63, 0),
    (130, 200, 70),
    (600, 17, 3),
]
OPTIONS = [
    {},
    {"depth": 2, "leaves": 3, "min_leaf": 7},
    {"depth": 8, "leaves": 40, "min_leaf": 1, "l2": 0.7, "rate": 1.0},
    {"row_share": 0.6, "feature_share": 0.5, "min_leaf": 2, "seed": 2**64 - 1},
]

REAL = [
    *("digits_lgbm_n64_img3", "digits_mlp_n64_img7", "digits_knn5_datapoints_n200"),
    *("bc_rf_n30_row0", "bc_lgbm_n30_row20", "minilm_cc0_n64"),
]


def random_masks(rows, n, seed):
    return np.random.default_rng([seed, rows, n]).random((rows, n)) < 0.5


def problem(samples, n, watched, *, fits=1, seed=0, whole=True):
    """masks, values (fits, samples), watch: a function of a few terms, whole numbers or not."""
    rng = np.random.default_rng([seed, samples, n, fits])
    masks = random_masks(samples, n, seed)
    values = rng.integers(-2, 3, (fits, samples)).astype(float)
    for fit, term in itertools.product(range(fits), range(4)):
        members = rng.choice(n, min(n, 1 + term), replace=False)
        values[fit] += rng.integers(2, 6) * masks[:, members].all(1)
    if not whole:
        values += rng.standard_normal(values.shape)
    watch = bits.pack(random_masks(watched, n, seed + 1))
    return bits.pack(masks), torch.from_numpy(values), watch


@pytest.fixture
def boost(backend, device):
    """ops.boost by each backend, for tensors of the CPU, where the result comes back to."""

    def moved(*args, **options):
        there = [x.to(device) if isinstance(x, torch.Tensor) else x for x in args]
        named = {
            name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in options.items()
        }
        found = ops.boost(*there, **named, backend=backend)
        return ops.Boosted(*(x.cpu() for x in found))

    return moved


@pytest.fixture
def fewer(backend):
    """How many trees to take of so many: Triton's interpreter needs a quarter second each."""
    return lambda trees: min(trees, 3) if backend == "triton" else trees


@pytest.fixture
def compiled(backend):
    if backend == "triton" and interpreted():
        pytest.skip("takes minutes in Triton's interpreter")


def assert_same(got, expected):
    for name, a, b in zip(got._fields, got, expected, strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


def walk(found, fit, dense, trees=None):
    """The predictions of the first trees of one fit, node by node."""
    out = np.full(len(dense), found.bias[fit].item())
    for root in found.roots[found.group == fit][:trees].tolist():
        for i, mask in enumerate(dense):
            node = root
            while (feature := found.feature[node].item()) >= 0:
                node = (found.present if mask[feature] else found.absent)[node].item()
            out[i] += found.value[node].item()
    return out


def leaves_of(found, root, depth=0):
    """The (node, depth) of the leaves below a node."""
    if found.feature[root] < 0:
        return [(root, depth)]
    sides = found.absent[root].item(), found.present[root].item()
    return [leaf for side in sides for leaf in leaves_of(found, side, depth + 1)]


def r2(values, predicted):
    return 1 - ((values - predicted) ** 2).sum() / ((values - values.mean()) ** 2).sum()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda x: ",".join(x) or "defaults")
@pytest.mark.parametrize(("samples", "n", "watched"), SIZES)
@pytest.mark.parametrize("whole", [True, False], ids=["integers", "floats"])
def test_every_instruction_set_gives_the_bits_of_the_reference(
    isa, samples, n, watched, options, whole, monkeypatch
):
    from spex_core import native

    masks, values, watch = problem(samples, n, watched, fits=2, whole=whole)
    run = native.boost_cpu
    monkeypatch.setattr(native, "boost_cpu", lambda *args: run(*args, isa=isa))
    call = {"watch": watch, "trees": [9, 4], "stages": [0, 3, 9], **options}
    got = ops.boost(masks, values, n, **call, backend="cpu")
    expected = ops.boost(masks, values, n, **call, backend="reference")
    assert samples < 40 or len(expected.feature) > 2 * 13 + 10  # there is something to compare
    assert_same(got, expected)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda x: ",".join(x) or "defaults")
@pytest.mark.parametrize(("samples", "n", "watched"), [*SIZES[1:4], SIZES[5]])
def test_every_backend_gives_the_bits_of_the_reference(boost, samples, n, watched, options):
    masks, values, watch = problem(samples, n, watched, fits=2, seed=4, whole=False)
    bags = bits.pack(np.arange(2 * samples).reshape(2, -1) % 4 > 0)
    call = {"watch": watch, "bags": bags, "trees": [2, 1], "stages": [0, 1, 3], **options}
    got = boost(masks, values, n, **call)
    assert_same(got, ops.boost(masks, values, n, **call, backend="reference"))


def test_many_nodes_a_level_and_samples_in_several_spans(boost):
    """More nodes than one product takes, and more than one program for a block of features."""
    masks, values, _ = problem(2500, 20, 0, whole=False)
    call = {"trees": 1, "depth": 6, "leaves": 64, "min_leaf": 15}
    found = boost(masks, values, 20, **call)
    assert_same(found, ops.boost(masks, values, 20, **call, backend="reference"))
    assert (found.feature < 0).sum() > 2 * 17


@given(
    st.integers(1, 150),
    st.integers(1, 90),
    st.integers(1, 6),
    st.integers(2, 20),
    st.integers(1, 9),
)
def test_backends_agree_whatever_the_settings(samples, n, depth, leaves, min_leaf):
    masks, values, _ = problem(samples, n, 0, whole=False)
    call = {"trees": 4, "depth": depth, "leaves": leaves, "min_leaf": min_leaf, "rate": 0.5}
    got = ops.boost(masks, values, n, **call)
    assert_same(got, ops.boost(masks, values, n, **call, backend="reference"))


@pytest.mark.parametrize("l2", [0.0, 2.5])
@pytest.mark.parametrize("seed", range(5))
def test_root_is_the_best_split_by_enumeration(boost, seed, l2):
    """... of the penalised squared error, sum of r**2 - s**2 / (w + l2) over the sides."""
    masks, values, _ = problem(200, 20, 0, seed=seed, whole=False)
    dense, y = bits.unpack(masks, 20), values[0].numpy() - values[0].numpy().mean()
    fall = [
        sum(y[side].sum() ** 2 / (side.sum() + l2) for side in (dense[:, f], ~dense[:, f]))
        for f in range(20)
    ]
    best = int(np.argmax(fall))
    found = boost(masks, values, 20, trees=1, leaves=2, l2=l2, rate=0.5)
    assert found.feature.tolist() == [best, -1, -1]
    sides = [y[~dense[:, best]], y[dense[:, best]]]
    expected = [0.5 * side.sum() / (len(side) + l2) for side in sides]
    assert found.absent.tolist() == [1, -1, -1]
    assert found.value[1:].tolist() == pytest.approx(expected, abs=1e-3 * np.abs(y).max())


@pytest.mark.parametrize("l2", [0.0, 20.0])
def test_second_split_is_the_best_of_both_leaves(boost, l2):
    """Brute force over (leaf, feature), with sides of at least 30."""
    masks, values, _ = problem(300, 12, 0, seed=3, whole=False)
    dense, y = bits.unpack(masks, 12), values[0].numpy() - values[0].numpy().mean()
    call = {"trees": 1, "min_leaf": 30, "rate": 1.0, "l2": l2}
    first = boost(masks, values, 12, leaves=2, **call).feature[0].item()

    def fall(rows, f):
        sides = [y[rows & dense[:, f]], y[rows & ~dense[:, f]]]
        if min(map(len, sides)) < 30:
            return -np.inf
        parts = sum(x.sum() ** 2 / (len(x) + l2) for x in sides)
        return parts - y[rows].sum() ** 2 / (rows.sum() + l2)

    leaves = {0: ~dense[:, first], 1: dense[:, first]}
    leaf, feature = max(
        itertools.product(leaves, range(12)), key=lambda at: fall(leaves[at[0]], at[1])
    )
    found = boost(masks, values, 12, leaves=3, **call)
    assert found.feature[0] == first
    assert found.feature[(found.absent, found.present)[leaf][0]] == feature
    assert (found.feature >= 0).sum() == 2


def test_a_stump_by_hand(boost):
    """Values 0, 0, 3, 3, 6, 6: feature 1 splits them into 1 and 5 about their mean of 3."""
    dense = np.array([[1, 0], [0, 0], [1, 0], [0, 1], [1, 1], [0, 1]], np.bool_)
    values = torch.tensor([0.0, 0, 3, 3, 6, 6])
    call = {"trees": 1, "depth": 1, "min_leaf": 1, "rate": 1.0, "stages": [0, 1]}
    found = boost(bits.pack(dense), values, 2, **call)
    assert found.roots.tolist() == [0]
    assert found.feature.tolist() == [1, -1, -1]
    assert found.absent.tolist() == [1, -1, -1]
    assert found.present.tolist() == [2, -1, -1]
    assert found.bias.tolist() == [3.0]
    assert found.value.tolist() == pytest.approx([0.0, -2.0, 2.0], abs=1e-3)
    assert found.staged[0, 0].tolist() == [3.0] * 6
    assert found.staged[0, 1].tolist() == pytest.approx([1, 1, 1, 5, 5, 5], abs=1e-3)


def test_ties_go_to_the_lowest_feature(boost):
    dense = np.repeat(random_masks(60, 1, 0), 70, axis=1)
    values = torch.from_numpy(dense[:, 0] * 1.0)
    found = boost(bits.pack(dense), values, 70, trees=3)
    assert set(found.feature.tolist()) == {0, -1}


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_staged_predictions_are_those_of_the_trees(boost, compiled, share):
    masks, values, watch = problem(130, 70, 65, fits=2, whole=False)
    call = {"trees": [12, 5], "row_share": share, "min_leaf": 5, "stages": [0, 1, 5, 8, 12, 20]}
    found = boost(masks, values, 70, watch=watch, **call)
    assert found.staged.shape == (2, 6, 195)
    dense = np.concatenate([bits.unpack(masks, 70), bits.unpack(watch, 70)])
    for fit, (stage, trees) in itertools.product(range(2), enumerate(call["stages"])):
        expected = walk(found, fit, dense, trees)
        assert np.abs(found.staged[fit, stage].numpy() - expected).max() < 1e-12 * 20
    assert torch.equal(found.staged[1, 2], found.staged[1, 5])
    assert not torch.equal(found.staged[0, 2], found.staged[0, 4])


def test_training_error_falls_with_every_tree(boost, compiled):
    masks, values, _ = problem(300, 30, 0, whole=False)
    found = boost(masks, values, 30, trees=30, stages=range(31))
    errors = ((found.staged[0] - values) ** 2).sum(1)
    assert (errors[1:] < errors[:-1]).all()
    assert errors[-1] < 0.5 * errors[0]


def test_samples_outside_a_bag_have_no_part(boost):
    """A fit to a bag is the fit to its samples alone, and predicts the others as if watched."""
    masks, values, _ = problem(150, 40, 0, whole=False)
    inside = random_masks(1, 150, 7)
    other = torch.where(torch.from_numpy(inside), values, 1e9)
    keep, rest = (torch.from_numpy(np.flatnonzero(x)) for x in (inside, ~inside))
    call = {"trees": 6, "min_leaf": 4}
    bag = boost(masks, other, 40, bags=bits.pack(inside), **call)
    alone = boost(masks[keep], values[:, keep], 40, watch=masks[rest], **call)
    for name in ("roots", "feature", "absent", "present", "value", "bias"):
        assert torch.equal(getattr(bag, name), getattr(alone, name))
    assert torch.equal(bag.staged[:, :, torch.cat([keep, rest])], alone.staged)


def test_each_fit_is_as_if_alone(boost, compiled):
    """Values, bags and settings a row for each fit, against three calls."""
    masks, values, watch = problem(120, 33, 10, fits=3, whole=False)
    bags = bits.pack(random_masks(3, 120, 5))
    many = {"trees": [5, 7, 3], "depth": [2, 4, 3], "leaves": [3, 9, 5], "min_leaf": [5, 3, 9]}
    many |= {"rate": [0.1, 0.3, 1.0], "l2": [0.0, 1.0, 0.5]}
    call = {"watch": watch, "stages": [2, 7]}
    found = boost(masks, values, 33, bags=bags, **many, **call)
    assert found.group.tolist() == [0] * 5 + [1] * 7 + [2] * 3
    nodes = trees = 0
    for j in range(3):
        own = {name: setting[j] for name, setting in many.items()}
        alone = boost(masks, values[j], 33, bags=bags[j, None], **own, **call)
        at = slice(nodes, nodes + len(alone.value))
        for name in ("absent", "present"):
            links = getattr(alone, name)
            moved = torch.where(links >= 0, links + nodes, links)
            assert torch.equal(getattr(found, name)[at], moved)
        for name in ("feature", "value"):
            assert torch.equal(getattr(found, name)[at], getattr(alone, name))
        assert torch.equal(found.roots[trees : trees + own["trees"]], alone.roots + nodes)
        assert torch.equal(found.bias[j, None], alone.bias)
        assert torch.equal(found.staged[j, None], alone.staged)
        nodes, trees = at.stop, trees + own["trees"]
    assert nodes == len(found.value)


@pytest.mark.parametrize(("depth", "leaves", "min_leaf"), [(1, 9, 1), (3, 5, 2), (20, 12, 11)])
def test_limits_are_kept(boost, depth, leaves, min_leaf):
    masks, values, _ = problem(260, 70, 0, whole=False)
    limits = {"depth": depth, "leaves": leaves, "min_leaf": min_leaf}
    found = boost(masks, values, 70, trees=5, **limits)
    dense = bits.unpack(masks, 70)
    met = set()
    for root in found.roots.tolist():
        ends = leaves_of(found, root)
        assert len(ends) <= leaves
        assert max(d for _, d in ends) <= depth
        at = np.full(260, root)
        for _ in range(depth):
            feature = found.feature.numpy()[at]
            kept = dense[np.arange(260), feature]
            down = np.where(kept, found.present.numpy()[at], found.absent.numpy()[at])
            at = np.where(feature >= 0, down, at)
        nodes, counts = np.unique(at, return_counts=True)
        assert set(nodes.tolist()) == {node for node, _ in ends}
        assert counts.min() >= min_leaf
        met |= {("leaves", len(ends) == leaves), ("depth", max(d for _, d in ends) == depth)}
    assert ("leaves", True) in met or ("depth", True) in met


def test_any_depth_may_be_asked_for(boost):
    """No kernel takes as many steps as that."""
    masks, values, _ = problem(100, 20, 0, whole=False)
    call = {"trees": 2, "leaves": 40, "min_leaf": 1}
    assert_same(
        boost(masks, values, 20, depth=2**31 - 1, **call),
        boost(masks, values, 20, depth=40, **call),
    )


def test_draws_are_reproducible_and_of_the_stated_size(boost, compiled):
    masks, values, _ = problem(100, 40, 0, fits=2, whole=False)
    call = {"trees": 20, "min_leaf": 3, "feature_share": 0.1}
    one, same, other = (
        boost(masks, values[0], 40, row_share=0.5, seed=seed, **call) for seed in (5, 5, 6)
    )
    assert_same(one, same)
    assert not torch.equal(one.staged, other.staged)
    for root, end in zip(one.roots, [*one.roots[1:], len(one.feature)], strict=True):
        asked = set(one.feature[root:end].tolist()) - {-1}
        assert len(asked) <= 4  # a tenth of 40
    assert len(set(one.feature.tolist())) > 10
    alone = boost(masks, values[:1].expand(2, -1), 40, row_share=0.5, **call)
    assert not torch.equal(alone.staged[0], alone.staged[1])  # fits draw apart


def test_drawn_rows_are_those_of_the_least_words():
    drawn = reference_boost.draw(1000, 0.3, 7, reference_boost.ROWS, 2, 5)
    words = ops.uniform_masks(1, 64_000, seed=7, stream=3, start=(2 << 32) + 5)[0]
    unsigned = words.numpy().view(np.uint64)
    assert len(set(drawn.tolist())) == 300
    assert unsigned[drawn].max() < np.delete(unsigned, drawn).min()
    assert len(reference_boost.draw(5, 0.01, 0, 3, 0, 0)) == 1


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_any_scale(boost, fewer, scale):
    """A power of two changes nothing but the exponents; no scale is too small or large to fit."""
    masks, values, _ = problem(120, 30, 0, fits=2)
    call = {"trees": fewer(10)}
    plain = boost(masks, values, 30, **call)
    exact = 2.0 ** round(np.log2(scale))
    found = boost(masks, values * torch.tensor([[1.0], [exact]], dtype=torch.float64), 30, **call)
    assert torch.equal(found.feature, plain.feature)
    assert torch.equal(found.staged[0], plain.staged[0])
    assert torch.equal(found.staged[1], plain.staged[1] * exact)
    assert torch.equal(found.bias[1], plain.bias[1] * exact)
    odd = boost(masks, values * scale, 30, **call)
    error = (odd.staged[:, 0] / scale - plain.staged[:, 0]).abs().max()
    assert error < 0.1 * plain.staged.abs().max()


def test_a_large_term_does_not_hide_small_ones(boost, compiled):
    """What is a thousandth of the largest value is found once that value is explained."""
    masks, values, _ = problem(400, 20, 0, whole=False)
    dense, small = bits.unpack(masks, 20), values[0].numpy()
    large = dense[:, :2].all(1)
    both = torch.from_numpy(small + 1000 * np.abs(small).max() * large)
    found = boost(masks, both, 20, trees=100, rate=0.3, min_leaf=5)
    assert r2(small[~large], found.staged[0, 0].numpy()[~large]) > 0.9


@pytest.mark.parametrize("value", [0.0, 3.25, -1e300])
def test_constant_values(boost, fewer, value):
    masks, values, watch = problem(50, 9, 4)
    values, trees = torch.full_like(values, value), fewer(100)
    found = boost(masks, values, 9, watch=watch, trees=trees)
    assert found.feature.unique().tolist() == [-1]
    assert len(found.roots) == trees
    assert found.staged.flatten().tolist() == pytest.approx([value] * 54)


def test_nothing_to_split(boost, fewer):
    """No trees; a single sample; features that never vary."""
    masks, values, _ = problem(50, 9, 0)
    none = boost(masks, values, 9, trees=0)
    assert none.roots.numel() == none.value.numel() == 0
    assert none.staged.shape == (1, 1, 50)
    assert none.staged.flatten().tolist() == pytest.approx([values.mean().item()] * 50)
    one = boost(masks[:1], values[:, :1], 9, min_leaf=1, trees=fewer(100))
    assert one.staged.tolist() == [[[values[0, 0].item()]]]
    fixed = torch.zeros_like(masks)
    found = boost(fixed, values, 9, min_leaf=1, trees=fewer(100))
    assert found.feature.unique().tolist() == [-1]


def test_same_bits_for_any_number_of_threads(set_threads):
    masks, values, watch = problem(700, 300, 50, fits=5, whole=False)
    call = {"watch": watch, "trees": 8, "row_share": 0.7, "stages": [4, 8]}
    set_threads(1)
    alone = ops.boost(masks, values, 300, **call)
    for threads in (2, 3, 7):
        set_threads(threads)
        assert_same(ops.boost(masks, values, 300, **call), alone)


def test_sums_stay_in_32_bits(boost, compiled):
    """At 600,000 samples 8191 levels would not."""
    masks = bits.pack(random_masks(600_000, 2, 0))
    values = (masks[:, 0] & 1).double()
    found = boost(masks, values, 2, trees=1, rate=1.0)
    assert found.feature.tolist() == [0, -1, -1]
    assert (found.staged[0, 0] - values).abs().max() < 1e-3


def test_inputs_are_unchanged_and_may_be_strided(boost):
    masks, values, watch = problem(90, 130, 20, fits=2)
    bags = bits.pack(random_masks(2, 90, 1))
    given = (masks, values, watch, bags)
    copies = [x.clone() for x in given]
    call = {"trees": 3, "min_leaf": 3}
    plain = boost(masks, values, 130, watch=watch, bags=bags, **call)
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))
    wide = [torch.stack([x, x], dim=-1)[..., 0] for x in given]
    assert not any(x.is_contiguous() for x in wide)
    assert_same(boost(wide[0], wide[1], 130, watch=wide[2], bags=wide[3], **call), plain)
    single = boost(masks, values.float(), 130, watch=watch, bags=bags, **call)
    assert_same(single, plain)


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"n": 0}, ValueError, "boost: n must be an integer >= 1, got 0"),
        ({"n": 65}, ValueError, r"boost: masks must have ceil\(65 / 64\) = 2 words, got 1"),
        ({"n": 5}, ValueError, "boost: masks must have no bit set beyond the first 5"),
        ({"masks": torch.ones(9, 1)}, TypeError, "boost: masks must be a packed int64 tensor"),
        (
            {"masks": torch.zeros(0, 1).long()},
            ValueError,
            r"boost: masks must be 1 to 2",
        ),
        ({"watch": torch.zeros(3, 2).long()}, ValueError, "boost: watch must have as many words"),
        ({"watch": torch.full((3, 1), -1)}, ValueError, "boost: watch must have no bit set beyond"),
        ({"values": torch.zeros(9).long()}, TypeError, "boost: values must be a floating-point"),
        (
            {"values": torch.zeros(8)},
            ValueError,
            r"boost: values must have shape \(9,\)",
        ),
        ({"values": torch.full((9,), torch.inf)}, ValueError, "boost: values must be finite"),
        ({"bags": torch.zeros(1, 1).long()}, ValueError, "boost: bags must have a sample in each"),
        ({"bags": torch.full((1, 1), -1)}, ValueError, "boost: bags must have no bit set beyond"),
        ({"bags": torch.ones(1, 2).long()}, ValueError, "boost: bags must have ceil"),
        (
            {"trees": -1},
            ValueError,
            "boost: trees must be an integer >= 0 and",
        ),
        ({"trees": 1.5}, TypeError, "boost: trees must be an integer"),
        ({"trees": []}, ValueError, "boost: trees must not be empty"),
        ({"depth": 0}, ValueError, "boost: depth must be an integer >= 1"),
        ({"leaves": [5, 1]}, ValueError, "boost: leaves must be an integer >= 2"),
        ({"min_leaf": 0}, ValueError, "boost: min_leaf must be an integer >= 1"),
        ({"rate": 0.0}, ValueError, r"boost: rate must be in \(0, 1\], got 0.0"),
        ({"rate": [0.1, 1.1]}, ValueError, r"boost: rate must be in \(0, 1\], got 1.1"),
        ({"l2": -0.1}, ValueError, "boost: l2 must be finite and not negative, got -0.1"),
        ({"l2": torch.nan}, ValueError, "boost: l2 must be finite and not negative, got nan"),
        ({"row_share": 0}, ValueError, r"boost: row_share must be in \(0, 1\], got 0.0"),
        ({"feature_share": 2}, ValueError, r"boost: feature_share must be in \(0, 1\], got 2.0"),
        (
            {"depth": [1, 2], "trees": [3] * 3},
            ValueError,
            "boost: depth must be for 1 or 3 fits, got 2",
        ),
        ({"stages": []}, ValueError, r"boost: stages must be ascending, got \[\]"),
        ({"stages": [3, 3]}, ValueError, r"boost: stages must be ascending, got \[3, 3\]"),
        ({"stages": [-1]}, ValueError, "boost: stages must be an integer >= 0"),
        ({"seed": 2**64}, ValueError, "boost: seed must be an integer >= 0"),
        (
            {"values": torch.ones(9, device="meta")},
            ValueError,
            "values must be on the device of masks",
        ),
        (
            {"bags": torch.ones(1, 1, device="meta").long()},
            ValueError,
            "bags must be on the device",
        ),
        ({"backend": "cuda"}, BackendUnavailable, "boost: backend 'cuda' is not available"),
    ],
)
def test_contract(wrong, error, message):
    masks, values, _ = problem(9, 7, 0)
    with pytest.raises(error, match=message):
        ops.boost(**{"masks": masks, "values": values, "n": 7, **wrong})


def lightgbm_r2(dense, values, test, truth, trees):
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.train(
        {
            "max_depth": 5,
            "num_leaves": 31,
            "min_data_in_leaf": 20,
            "learning_rate": 0.1,
            "num_threads": 1,
            "verbose": -1,
        },
        lightgbm.Dataset(dense.astype(float), values),
        trees,
    )
    return r2(truth, model.predict(test.astype(float)))


def our_r2(dense, values, test, truth, trees):
    masks, watch = bits.pack(dense), bits.pack(test)
    found = ops.boost(masks, torch.from_numpy(values), dense.shape[1], watch=watch, trees=trees)
    return r2(truth, found.staged[0, 0, len(dense) :].numpy())


@pytest.mark.parametrize(("samples", "n"), [(500, 20), (1000, 64), (2000, 100), (1000, 256)])
def test_r2_of_lightgbm_at_its_settings(samples, n):
    dense = random_masks(samples + 3000, n, 3)
    rng = np.random.default_rng(n)
    values = sum(
        rng.standard_normal() * dense[:, rng.choice(n, 1 + term % 3, replace=False)].all(1)
        for term in range(30)
    )
    parts = dense[:samples], values[:samples], dense[samples:], values[samples:]
    ours, theirs = our_r2(*parts, 150), lightgbm_r2(*parts, 150)
    assert theirs > 0.5
    assert abs(ours - theirs) < 0.01


@pytest.mark.parametrize("name", REAL)
def test_r2_of_lightgbm_on_real_functions(games, name):
    with np.load(games / f"{name}.npz") as file:
        z = dict(file)
    dense, test = (
        np.unpackbits(z[part], axis=1, count=int(z["n"]), bitorder="little").view(np.bool_)
        for part in ("train_masks", "test_masks")
    )
    parts = dense[:1000], z["train_values"][:1000], test, z["test_values"]
    ours, theirs = our_r2(*parts, 150), lightgbm_r2(*parts, 150)
    assert theirs > 0.5
    assert abs(ours - theirs) < 0.01
