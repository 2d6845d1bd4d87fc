"""score_last and token_logprobs: from hidden states to scores, without a vocabulary of logits."""

import pytest
import torch
from torch.nn import functional

from spex_core import ops_inference as ops
from spex_core import reference_inference as reference
from spex_core.errors import BackendUnavailable

pytestmark = pytest.mark.op("score_last")  # token_logprobs has the same backends

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NORMS = ["none", "rms", "rms bias", "layer", "layer bias"]
SIZES = [(1, 1, 1), (5, 7, 64), (33, 65, 9), (2, 513, 3), (3, 40, 100)]  # rows, d, outputs


def problem(rows, width, outputs, dtype=torch.float32, norm="none", seed=0):
    """Arguments of score_last; hidden has rows that are not asked for."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    args = {"hidden": draw(rows + 9, width), "weight": draw(outputs, width), "bias": draw(outputs)}
    args["rows"] = torch.randint(0, rows + 9, (rows,), generator=generator)
    if norm != "none":
        kind, *with_bias = norm.split()
        args["norm"] = (kind, draw(width), draw(width) if with_bias else None, 1e-5)
    return args


def moved(args, device):
    return {
        name: tuple(y.to(device) if torch.is_tensor(y) else y for y in x)
        if name == "norm"
        else x.to(device)
        for name, x in args.items()
    }


def normed64(hidden, rows, weight, bias=None, norm=None):
    """torch's own norms, in float64: (R, d)."""
    x = hidden.double()[rows]
    if norm is not None:
        kind, scale, shift, eps = norm
        if kind == "layer":
            x = functional.layer_norm(x, x.shape[1:], scale.double(), eps=eps)
        else:
            x = functional.rms_norm(x, x.shape[1:], scale.double(), eps=eps)
        x = x if shift is None else x + shift.double()
    return x


def oracle(**args):
    """float64 logits (R, q), and the bound on the error of each but for eps."""
    x, weight = normed64(**args), args["weight"].double()
    shift = args["norm"][2] if args.get("norm") else None
    size = x.abs() if shift is None else (x - shift.double()).abs() + shift.double().abs()
    bound = 2 * (x.shape[1] + 8) * (size @ weight.abs().T + args["bias"].double().abs())
    return x @ weight.T + args["bias"].double(), bound


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(5, 7, 64), (9, 65, 3), (2, 513, 9)], ids=str)
def test_scores_close_to_float64(backend, device, size, dtype, norm):
    args = problem(*size, dtype, norm)
    want, bound = oracle(**args)
    got = ops.score_last(**moved(args, device), backend=backend)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    error = (got.cpu().double() - want).abs()
    assert bool((error <= torch.finfo(got.dtype).eps * bound).all())
    assert want.std() > 0.1


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_scores_of_whole_numbers_are_exact(backend, device, size):
    args = problem(*size)
    for name in ("hidden", "weight", "bias"):
        args[name] = (3 * args[name]).round()
    want = args["hidden"].double()[args["rows"]] @ args["weight"].double().T + args["bias"].double()
    got = ops.score_last(**moved(args, device), backend=backend)
    assert torch.equal(got.cpu().double(), want)


@pytest.mark.parametrize("norm", ["none", "rms", "layer bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logprobs_close_to_log_softmax(backend, device, size, dtype, norm):
    args = problem(*size, dtype, norm)
    logits, bound = oracle(**args)
    targets = torch.randint(0, size[2], (size[0],), generator=torch.Generator().manual_seed(1))
    want = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    where = moved(args, device)
    got = ops.token_logprobs(**where, targets=targets.to(device), backend=backend)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Two logits and a log of a sum; on a GPU the normed rows are rounded to the dtype of weight.
    eps = torch.finfo(got.dtype).eps
    rounding = torch.finfo(dtype).eps if device.type == "cuda" and norm != "none" else 0
    width = 2 * (size[1] + 8)
    limit = 3 * (eps + rounding / width) * bound.amax(1) + 8 * eps * (1 + want.abs())
    assert bool(((got.cpu().double() - want).abs() <= limit).all())


def test_logprobs_over_several_tiles_sum_to_one(backend, device):
    """More tokens than a tile of the reference, and than a program of triton goes through."""
    vocabulary = reference.VOCABULARY_TILE + 77
    args = problem(3, 4, vocabulary, norm="rms")
    at = torch.tensor([0, 4095, 4096, vocabulary - 1])
    args["rows"] = args["rows"][:1].expand(4).contiguous()
    logits, _ = oracle(**args)
    want = logits.log_softmax(1)[0, at]
    got = ops.token_logprobs(**moved(args, device), targets=at.to(device), backend=backend)
    assert torch.allclose(got.cpu().double(), want, rtol=0, atol=1e-5)
    assert want.std() > 0.1


def test_logprobs_of_all_tokens_sum_to_one(backend, device):
    args = problem(1, 20, 50, torch.float64)
    args["rows"] = args["rows"].expand(50).contiguous()
    targets = torch.arange(50).to(device)
    got = ops.token_logprobs(**moved(args, device), targets=targets, backend=backend)
    assert abs(got.exp().sum().item() - 1) < 1e-13
    shifted = args | {"bias": args["bias"] + 1000}
    again = ops.token_logprobs(**moved(shifted, device), targets=targets, backend=backend)
    assert torch.allclose(again, got, rtol=0, atol=1e-11)


def test_empty_strided_and_unchanged(backend, device):
    args = moved(problem(6, 10, 4, norm="layer bias"), device)
    none = args["rows"][:0]
    assert ops.score_last(**args | {"rows": none}, backend=backend).shape == (0, 4)
    got = ops.token_logprobs(**args | {"rows": none}, targets=none, backend=backend)
    assert got.shape == (0,)
    want = ops.score_last(**args, backend=backend)
    strided = args | {
        "hidden": args["hidden"].repeat_interleave(2, 1)[:, ::2],
        "weight": args["weight"].T.contiguous().T,
        "rows": torch.stack([args["rows"]] * 2, 1)[:, 0],
    }
    before = [strided[name].clone() for name in ("hidden", "weight", "rows")]
    got = ops.score_last(**strided, backend=backend)
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-5)
    targets = torch.zeros_like(args["rows"])
    one, two = (ops.token_logprobs(**x, targets=targets, backend=backend) for x in (args, strided))
    assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)
    after = [strided[name] for name in ("hidden", "weight", "rows")]
    assert all(map(torch.equal, before, after))


def test_gradient():
    args = problem(3, 5, 4, torch.float64, "layer bias")
    leaves = [args.pop(name).requires_grad_() for name in ("hidden", "weight", "bias")]
    rest, targets = {x: args[x] for x in ("rows", "norm")}, torch.tensor([0, 3, 3])
    assert torch.autograd.gradcheck(
        lambda h, w, b: ops.score_last(hidden=h, weight=w, bias=b, **rest), leaves
    )
    assert torch.autograd.gradcheck(
        lambda h, w, b: ops.token_logprobs(hidden=h, weight=w, bias=b, targets=targets, **rest),
        leaves,
    )


def test_no_product_with_the_whole_vocabulary_is_kept(monkeypatch):
    """The reference makes logits of at most a tile."""
    made, logits = [], reference.logits
    monkeypatch.setattr(reference, "VOCABULARY_TILE", 64)
    monkeypatch.setattr(reference, "logits", lambda *a: made.append(logits(*a)) or made[-1])
    args = problem(5, 8, 200)
    ops.token_logprobs(**args, targets=torch.zeros(5).long(), backend="reference")
    assert [tuple(z.shape) for z in made] == [(5, 64)] * 3 + [(5, 8)]


BAD = [
    ({"hidden": torch.ones(4, 3).int()}, TypeError, "hidden must be a floating-point tensor"),
    ({"hidden": torch.ones(4)}, ValueError, r"hidden must have shape \(\*, \*\)"),
    ({"rows": torch.tensor([0.0])}, TypeError, "rows must be an int64 tensor"),
    ({"rows": torch.tensor([0, 4])}, ValueError, r"rows must be in \[0, 4\), got 0 to 4"),
    ({"rows": torch.tensor([-1, 2])}, ValueError, r"rows must be in \[0, 4\), got -1 to 2"),
    ({"hidden": torch.ones(0, 3)}, ValueError, "rows must be empty where it counts nothing"),
    ({"weight": torch.ones(5, 4)}, ValueError, r"weight must have shape \(\*, 3\)"),
    ({"bias": torch.ones(4)}, ValueError, r"bias must have shape \(5\)"),
    ({"norm": ("batch", torch.ones(3), None, 1e-5)}, ValueError, "norm must be"),
    ({"norm": ("rms", torch.ones(4), None, 1e-5)}, ValueError, r"norm weight must have shape"),
    ({"norm": ("rms", torch.ones(3), torch.ones(2), 1e-5)}, ValueError, "norm bias must have"),
    ({"norm": ("rms", torch.ones(3), None, 0.0)}, ValueError, "eps of norm must be positive"),
    ({"backend": "cpu"}, BackendUnavailable, "not implemented for this op"),
]
GOOD = {"hidden": torch.ones(4, 3), "rows": torch.tensor([0, 2]), "weight": torch.ones(5, 3)}


@pytest.mark.parametrize(("wrong", "error", "message"), BAD)
def test_contract(wrong, error, message):
    with pytest.raises(error, match=f"score_last: .*{message}"):
        ops.score_last(**GOOD | wrong)
    with pytest.raises(error, match=f"token_logprobs: .*{message}"):
        ops.token_logprobs(**GOOD | {"targets": torch.tensor([0, 4])} | wrong)


def test_contract_of_targets():
    for targets, message in (
        ([0, 5], r"targets must be in \[0, 5\), got 0 to 5"),
        ([0], r"targets must have shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.token_logprobs(**GOOD, targets=torch.tensor(targets))
    with pytest.raises(ValueError, match="weight must have a row for each of V >= 1 tokens"):
        ops.token_logprobs(**GOOD | {"weight": torch.ones(0, 3)}, targets=torch.tensor([0, 0]))


def test_triton_refuses_gradients_and_never_reads_out_of_range(backend, device):
    if backend != "triton":
        pytest.skip("of triton only")
    from spex_core.triton_kernels.score_last import score_last
    from spex_core.triton_kernels.token_logprobs import token_logprobs

    good = moved(GOOD, device)
    leaf = good | {"hidden": good["hidden"].clone().requires_grad_(), "backend": "triton"}
    with pytest.raises(ValueError, match="score_last: backend 'triton' has no gradient"):
        ops.score_last(**leaf)
    with pytest.raises(ValueError, match="token_logprobs: backend 'triton' has no gradient"):
        ops.token_logprobs(**leaf, targets=good["rows"])
    rows = torch.tensor([0, 9, -1], device=device)
    got = score_last(good["hidden"], rows, good["weight"], None, None)
    assert got.isnan().all(1).tolist() == [False, True, True]
    some = torch.tensor([0, 0, 0, 9], device=device)
    rows = torch.tensor([0, 9, -1, 0], device=device)
    got = token_logprobs(good["hidden"], rows, good["weight"], some, None, None)
    assert got.isnan().tolist() == [False, True, True, True]
