"""packed_attention: attention within each sequence. The oracle is torch's own attention in float64,
a sequence at a time; instruction sets of the cpu backend differ in what they put into a vector, so
lengths and widths stand around 4, 8 and 16, and around 12, 24 and 48 queries; Triton has blocks of
64 queries, 32 keys and 64 columns."""

import functools
import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from spex_core import ops_inference, reference_inference
from spex_core.backend import interpreted, refusal, why_not
from spex_core.errors import BackendUnavailable
from spex_core.ops_inference import packed_attention

pytestmark = pytest.mark.op("packed_attention")

LENGTHS = [
    [1],
    [2],
    [31],
    [33],
    [257],
    [1, 2, 0, 31, 33, 64, 3, 3],
    [12, 13, 24, 25, 48, 49],
    [600],
]
HEADS = [(1, 1), (3, 3), (4, 2), (6, 1)]  # of queries, of keys
WIDTHS = [1, 5, 8, 15, 17, 31, 32, 40, 64, 100, 128]
MIXED = [7, 1, 50, 16, 30]
BOUND = 1e-6  # relative l2 error in float32


def by_triton(*given, **options):
    """On a GPU, or on the CPU in the interpreter."""
    there = given if interpreted() else [x.cuda() for x in given]
    return packed_attention(*there, **options, backend="triton").cpu()


@pytest.fixture(params=["reference", "portable", "avx2", "avx512", "gfni", "triton"])
def attention(request):
    """packed_attention by the reference, by each instruction set and by Triton."""
    if request.param == "reference":
        return functools.partial(packed_attention, backend="reference")
    if request.param == "triton":
        if (reason := why_not("triton")) is not None:
            pytest.skip(f"triton: {reason}")
        return by_triton
    if (reason := refusal("packed_attention", "cpu", torch.device("cpu"))) is not None:
        pytest.skip(f"cpu: {reason}")
    from spex_core import native

    if native.ISAS[request.param] > native.ISAS[native.best_isa()]:
        pytest.skip(f"{request.param}: this CPU stops at {native.best_isa()}")

    def call(query, key, value, starts, *, causal=False, scale=None):
        scale = query.shape[2] ** -0.5 if scale is None else scale
        return native.packed_attention_cpu(
            query, key, value, starts, causal, scale, isa=request.param
        )

    return call


def problem(lengths, heads=(2, 2), width=32, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *itertools.accumulate(lengths)])
    shapes = [(int(starts[-1]), count, width) for count in (heads[0], heads[1], heads[1])]
    states = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return *states, starts


def one_by_one(query, key, value, starts, causal=False, scale=None):
    out = torch.zeros(query.shape, dtype=torch.float64)
    for start, stop in itertools.pairwise(starts.tolist()):
        if start < stop:
            q, k, v = (x[start:stop].transpose(0, 1).double() for x in (query, key, value))
            out[start:stop] = scaled_dot_product_attention(
                q[None], k[None], v[None], is_causal=causal, scale=scale, enable_gqa=True
            )[0].transpose(0, 1)
    return out


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_lengths_close_to_float64(attention, lengths, causal):
    given = problem(lengths)
    got = attention(*given, causal=causal)
    assert relative(got, one_by_one(*given, causal=causal)) <= BOUND
    other = one_by_one(*given, causal=not causal)
    assert lengths == [1] or relative(got, other) > 0.1, "causal must matter"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_heads_and_widths_close_to_float64(attention, heads, width):
    given = problem(MIXED, heads, width, seed=width)
    assert relative(attention(*given, scale=0.3), one_by_one(*given, scale=0.3)) <= BOUND


@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
@pytest.mark.parametrize("width", [5, 8, 32, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_are_float32_rounded_once(attention, dtype, width, causal):
    *states, starts = problem(MIXED, (4, 2), width, dtype)
    got = attention(*states, starts, causal=causal)
    assert got.dtype == dtype
    exact = one_by_one(*states, starts, causal=causal)
    assert relative(got, exact) <= 1.02 * relative(exact.to(dtype), exact)
    if attention is not by_triton:  # whose weights have more bits than their values, but not all
        wide = attention(*(x.float() for x in states), starts, causal=causal)
        assert torch.equal(got, wide.to(dtype))


def test_one_token_gives_its_value(attention):
    *states, starts = problem([1] * 70)
    assert torch.equal(attention(*states, starts), states[2])


def test_one_key_that_outweighs_all_gives_its_value(attention):
    """Scores that lie farther apart than float32 has powers of two."""
    lengths = [61, 300]
    _, key, value, starts = problem(lengths, (1, 1))
    key /= key.norm(dim=2, keepdim=True)
    chosen = torch.cat([torch.arange(n).flip(0) + s for n, s in zip(lengths, starts, strict=False)])
    got = attention(key[chosen], key, value, starts, scale=1e4)
    assert torch.equal(got, value[chosen])


def test_scores_far_below_zero(attention):
    """What fills up a tile of keys has the score 0 and must not count."""
    query, key, value, starts = problem([5, 61, 258, 13], width=8)
    key[..., 0] = 60.0
    query[..., 0] = -60.0
    got = attention(query, key, value, starts, scale=1.0)
    exact = one_by_one(query, key, value, starts, scale=1.0)
    assert relative(got, exact) <= 3600 * torch.finfo(torch.float32).eps  # of the scores
    assert relative(torch.zeros_like(got), exact) > 0.5


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of Triton's interpreter
def test_nan_and_infinity_stay_in_their_sequence_and_head(attention):
    query, key, value, starts = problem([9, 50, 70])
    clean = attention(query, key, value, starts)
    key[20, 1, 3] = torch.nan
    value[70, 0, 2] = torch.inf
    got = attention(query, key, value, starts)
    assert got[9:59, 1].isnan().all()
    assert got[59:, 0, 2].isinf().all()
    got[9:59, 1] = clean[9:59, 1]
    got[59:, 0, 2] = clean[59:, 0, 2]
    assert torch.equal(got, clean)


def test_later_tokens_do_not_matter_where_causal(attention):
    query, key, value, starts = problem([600])
    before = attention(query, key, value, starts, causal=True)
    for last in (0, 11, 300):
        changed = [x.clone() for x in (key, value)]
        for x in changed:
            x[last + 1 :] = 50.0
        after = attention(query, *changed, starts, causal=True)
        assert torch.equal(after[: last + 1], before[: last + 1])
        assert not torch.equal(after, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_the_threads(attention, set_threads, dtype):
    if attention is by_triton:
        pytest.skip("has no threads of the CPU")
    given = problem([200, 1, 64, 300, 2], (6, 3), dtype=dtype)
    set_threads(1)
    alone = attention(*given)
    for threads in (2, 7):
        set_threads(threads)
        assert torch.equal(attention(*given), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_views_of_a_fused_projection(attention, dtype):
    *states, starts = problem(MIXED, (3, 3), 8, dtype)
    want = attention(*states, starts)
    rows = torch.cat([x.flatten(1) for x in states], 1)  # (N, 3 H D)
    before = rows.clone()
    views = [x.unflatten(1, (3, 8)) for x in rows.chunk(3, 1)]
    assert torch.equal(attention(*views, starts), want)
    by_head = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in states]
    assert torch.equal(attention(*by_head, starts), want)
    last_strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in states]
    got = attention(*last_strided, starts)
    assert torch.equal(got, want)
    assert got.is_contiguous()
    assert torch.equal(rows, before)


def test_nothing_at_all(attention):
    for lengths in ([], [0], [0, 0, 0]):
        *states, starts = problem(lengths)
        assert attention(*states, starts).shape == (0, 2, 32)


def test_int32_starts(attention):
    *states, starts = problem(MIXED)
    assert torch.equal(attention(*states, starts.int()), attention(*states, starts))


def test_views_are_read_where_they_are():
    """By Triton without a copy, where its reads can be of vectors."""
    from spex_core.triton_kernels.packed_attention import aligned

    rows = torch.zeros(5, 3, 2, 32)
    assert aligned(rows[:, 1], 32).data_ptr() == rows[:, 1].data_ptr()
    by_head = rows[:, 1].transpose(0, 1).contiguous().transpose(0, 1)
    assert aligned(by_head, 32) is by_head
    for x, width in (
        *((rows[:, 1, :, :24], 32), (rows.flatten(1)[:, 1:65].unflatten(1, (2, 32)), 32)),
        *((rows[:, 0].mT.contiguous().mT, 32), (rows[:, 1, :, :5], 16)),
    ):
        copy = aligned(x, width)
        assert copy.is_contiguous()
        assert copy.shape == (5, 2, width)


BAD_STARTS = {  # on 8 rows, and which of them no sequence has
    (1, 5, 8): [0],
    (0, 3, 9): range(3, 8),
    (-2, 3, 8): range(3),
    (0, 3, 5): range(5, 8),
    (9, 9, 9): range(8),
    (0, 2**40, 8): range(8),
    (-(2**62), 2**62, 2**62): range(8),
}


@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
@pytest.mark.parametrize("starts", BAD_STARTS, ids=str)
def test_bad_starts_on_a_device(starts, causal, monkeypatch):
    """Where they are not looked at: rows of no sequence are NaN, and nothing outside is read."""
    if why_not("triton") is not None:
        pytest.skip(f"triton: {why_not('triton')}")
    monkeypatch.setattr(ops_inference, "readable", lambda x: False)
    *states, _ = problem([8], (2, 1), 16)
    got = by_triton(*states, torch.tensor(starts), causal=causal)
    lost = torch.tensor([i in BAD_STARTS[starts] for i in range(8)])
    assert torch.equal(got.isnan().all(2).all(1), lost)
    assert torch.equal(got.isnan().any(2).any(1), lost)
    for begin, end in itertools.pairwise(starts):
        if 0 <= begin < end <= 8 and not lost[begin]:
            own = [x[begin:end] for x in states]
            want = by_triton(*own, torch.tensor([0, end - begin]), causal=causal)
            torch.testing.assert_close(got[begin:end], want)  # products are those of a BLAS


def test_gradient():
    *states, starts = problem([3, 0, 4], (2, 1), 3, torch.float64)
    leaves = [x.requires_grad_() for x in states]
    assert torch.autograd.gradcheck(
        lambda q, k, v: reference_inference.packed_attention(q, k, v, starts, True, 0.7), leaves
    )


def test_gradients_are_refused(backend, device):
    *states, starts = (x.to(device) for x in problem([3]))
    states[1].requires_grad_()
    if backend == "reference":
        assert packed_attention(*states, starts, backend=backend).requires_grad
        return
    with pytest.raises(ValueError, match=f"packed_attention: backend '{backend}' has no gradient"):
        packed_attention(*states, starts, backend=backend)
    with torch.no_grad():
        assert packed_attention(*states, starts, backend=backend).shape == (3, 2, 32)


ONES = torch.ones(5, 4, 8)
HALF = torch.ones(5, 4, 8, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"query": ONES.int()}, TypeError, "query must be a floating-point tensor"),
        ({"value": None}, TypeError, "value must be a floating-point tensor"),
        ({"query": ONES.double()}, TypeError, "query must be float32, float16 or bfloat16"),
        ({"key": ONES.half()}, ValueError, "key must have the dtype of query"),
        ({"key": HALF}, ValueError, "key must have the dtype of query"),
        ({"query": torch.ones(5, 32)}, ValueError, r"query must have shape \(\*, \*, \*\)"),
        ({"value": torch.ones(4, 4, 8)}, ValueError, r"must have shape \(5, K, 8\), got"),
        ({"value": torch.ones(5, 4, 7)}, ValueError, r"must have shape \(5, K, 8\), got"),
        ({"value": torch.ones(5, 2, 8)}, ValueError, r"must have shape \(5, K, 8\), got"),
        (
            {"key": torch.ones(5, 3, 8), "value": torch.ones(5, 3, 8)},
            *(ValueError, "must be a multiple of those of key, got 4 and 3"),
        ),
        (
            {name: torch.ones(5, 4, 0) for name in ("query", "key", "value")},
            *(ValueError, "query must have D >= 1"),
        ),
        ({"key": torch.ones(5, 4, 8, device="meta")}, ValueError, "key must be on the device of"),
        ({"starts": torch.ones(2)}, TypeError, "starts must be an int32 or int64 tensor"),
        ({"starts": torch.ones(1, 2).int()}, ValueError, r"starts must have shape \(L,\)"),
        ({"starts": torch.tensor([]).long()}, ValueError, "starts must ascend from 0 to 5"),
        ({"starts": torch.tensor([0])}, ValueError, "starts must ascend from 0 to 5"),
        ({"starts": torch.tensor([0, 4])}, ValueError, "starts must ascend from 0 to 5"),
        ({"starts": torch.tensor([1, 5])}, ValueError, "starts must ascend from 0 to 5"),
        ({"starts": torch.tensor([0, 6, 5])}, ValueError, "starts must ascend from 0 to 5"),
        ({"scale": 0.0}, ValueError, r"scale must be in \(0, inf\), got 0.0"),
        ({"scale": -1}, ValueError, r"scale must be in \(0, inf\), got -1.0"),
        ({"scale": torch.inf}, ValueError, r"scale must be in \(0, inf\), got inf"),
        ({"scale": torch.nan}, ValueError, r"scale must be in \(0, inf\), got nan"),
        ({"backend": "cuda"}, BackendUnavailable, "backend 'cuda' is not available"),
    ],
)
def test_contract(wrong, error, message):
    good = {"query": ONES, "key": ONES, "value": ONES, "starts": torch.tensor([0, 2, 5])}
    with pytest.raises(error, match=f"packed_attention: .*{message}"):
        packed_attention(**good | wrong)
