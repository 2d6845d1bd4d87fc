"""Ops as custom operators of torch: schemas, fake kernels, gradients, torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch._dynamo  # before a test patches what it looks up once
from conftest import EACH, device_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from spex_core import ops, ops_inference
from spex_core.backend import OPS, pick, refusal
from spex_core.codes import bch_code

CPU = torch.device("cpu")


def words(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)


def numbers(*shape: int, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=grad)


CALLS = {
    "fwht": lambda: (numbers(3, 16, grad=True),),
    "affine_masks": lambda: (words(4, 2), words(3, 2)),
    "parity_bits": lambda: (words(70, 2), words(5, 2)),
    "parity_predict": lambda: (words(70, 2), words(5, 2), numbers(5, grad=True)),
    "parity_adjoint": lambda: (words(70, 2), words(5, 2), numbers(70, grad=True)),
    "parity_gram": lambda: (words(5, 2), 128),
}
CODE = bch_code(10, 2)
OWNER = torch.tensor([3, 0, 0, 1, 2, 3])


def forest() -> Tensor:
    return ops.boost(words(40, 1) & 0xFF, numbers(40), 8, trees=2, min_leaf=2)


def norm(width: int) -> tuple:
    return "layer", numbers(width), numbers(width), 1e-5


FURTHER = {  # the ops without gradients: their arguments, and options
    "uniform_masks": lambda: ((3, 70), {"seed": 2**64 - 1, "stream": 2}),
    "bch_decode": lambda: ((numbers(4, CODE.delays), CODE), {"chase": 1}),
    "peel": lambda: (
        (numbers(2, CODE.delays, 2), CODE, CODE.columns, torch.arange(20).int().view(2, 10) % 2),
        {"floor": 1e-9, "chase": 0},
    ),
    "peel_many": lambda: (
        (numbers(2, 2, CODE.delays, 2), CODE, CODE.columns, torch.arange(20).int().view(2, 10) % 2),
        {"floors": [1e-9, 1e-6], "chase": 0},
    ),
    "boost": lambda: (
        (words(40, 1) & 0xFF, numbers(2, 40), 8),
        {"watch": words(3, 1) & 0xFF, "trees": [2, 1], "min_leaf": 2, "rate": 0.5},
    ),
    "tree_fourier": lambda: (
        (*forest()[:1], *forest()[2:6], 8),
        {"group": torch.tensor([0, 1], dtype=torch.int32), "groups": 2},
    ),
    "superset_sums": lambda: ((words(5, 1) & 0xFF, numbers(5), numbers(2, 9)), {}),
    "anova_kernel": lambda: (
        (words(4, 1), words(3, 1), numbers(9).abs(), numbers(3)),
        {"bias": 1.0},
    ),
    "anova_kernel_grad": lambda: (
        (words(4, 1), words(3, 1), numbers(9).abs(), numbers(3), numbers(4, 3)),
        {},
    ),
    "anova_cross": lambda: (
        (words(4, 1), words(3, 1) & 0x11, numbers(9).abs(), numbers(3)),
        {"bias": 0.5},
    ),
    "mask_lengths": lambda: ((words(70, 1), torch.arange(9)), {"fixed": 2}),
    "pack_tokens": lambda: ((words(5, 1), torch.arange(6), OWNER, 3), {}),
    "pack_trie": lambda: ((words(5, 1), torch.arange(6), OWNER, 3), {"original_positions": True}),
    "mask_embed": lambda: ((words(5, 1), numbers(6, 4), numbers(4), OWNER, 3), {}),
    "head_scale": lambda: (
        (numbers(4, 2, 3), words(2, 1), torch.tensor([0, 0, 1, 1])),
        {"scale": numbers(2)},
    ),
    "packed_attention": lambda: (
        (*(numbers(5, 2, 4).float() for _ in range(3)), torch.tensor([0, 2, 5])),
        {"causal": True},
    ),
    "gelu": lambda: ((numbers(3, 5).float(),), {}),
    "score_last": lambda: (
        (numbers(4, 6), torch.tensor([2, 0]), numbers(3, 6)),
        {"norm": norm(6), "bias": numbers(3)},
    ),
    "token_logprobs": lambda: (
        (numbers(4, 6).float(), torch.tensor([2, 0]), numbers(3, 6), torch.tensor([1, 2])),
        {},
    ),
}


def public(name: str) -> Callable:
    return getattr(ops, name, None) or getattr(ops_inference, name)


def problem(name: str, device: torch.device, grad: bool = False) -> tuple[tuple, dict]:
    """Arguments and options of a call, on a device."""

    def there(x: Tensor) -> Tensor:
        return x.detach().to(device).requires_grad_(grad and x.requires_grad)

    args, options = FURTHER[name]() if name in FURTHER else (CALLS[name](), {})
    if name == "uniform_masks":
        options["device"] = device
    return tree_map_only(Tensor, there, (args, options))


class Recorder(TorchDispatchMode):
    """Keeps the calls of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "spex_core":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


DIFFERENTIABLE = ("fwht", "parity_predict", "parity_adjoint")


@pytest.fixture(params=EACH)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that has the op `name`."""
    op, by = request.node.callspec.params["name"], request.param
    if (reason := refusal(op, by, device_of(by))) is not None:
        pytest.skip(f"{by}: {reason}")
    return by


@pytest.fixture
def device(backend: str) -> torch.device:
    return device_of(backend)


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str, backend: str, device: torch.device) -> None:
    operator = getattr(torch.ops.spex_core, name).default
    torch.library.opcheck(operator, problem(name, device, grad=True)[0], {"backend": backend})


@pytest.mark.parametrize("name", CALLS)
def test_compiles_as_one_graph(name: str, backend: str, device: torch.device) -> None:
    torch._dynamo.reset()  # the lambda below is one piece of code for all of them
    op, given = getattr(ops, name), problem(name, device)[0]
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    call = functools.partial(op, backend=backend)
    whole = torch.compile(lambda *args: call(*args) + 1, backend=keep, fullgraph=True)
    assert torch.equal(whole(*given), call(*given) + 1)
    assert len(graphs) == 1
    assert f"spex_core.{name}" in graphs[0].code


def test_every_op_is_here() -> None:
    assert CALLS.keys() | FURTHER.keys() == OPS.keys()


@pytest.mark.parametrize("name", FURTHER)
def test_opcheck_further(
    name: str, backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, options = problem(name, device)
    call = functools.partial(public(name), *args, **options, backend=backend)
    with Recorder() as recorder, monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        found = call()
    assert type(found) is type(call())
    ((operator, *given),) = recorder.calls
    assert operator.name() == f"spex_core::{name}"
    torch.library.opcheck(operator, *given)


@pytest.mark.parametrize("name", FURTHER)
def test_compiles_as_one_graph_further(name: str, backend: str, device: torch.device) -> None:
    """fullgraph: also where sizes depend on values."""
    torch._dynamo.reset()
    args, options = problem(name, device)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    op = functools.partial(public(name), **options, backend=backend)
    whole = torch.compile(lambda *args: op(*args), backend=keep, fullgraph=True)
    found, expected = whole(*args), op(*args)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(graphs) == 1
    assert f"spex_core.{name}" in graphs[0].code


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
def test_gradient(name: str, backend: str) -> None:
    *fixed, x = CALLS[name]()
    op = getattr(ops, name)
    assert torch.autograd.gradcheck(lambda x: op(*fixed, x, backend=backend), x)
    assert torch.autograd.gradgradcheck(lambda x: op(*fixed, x, backend=backend), x)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_backend_has_the_gradient_of_the_reference(
    name: str, backend: str, device: torch.device
) -> None:
    found = []
    for by, where in ((backend, device), ("reference", CPU)):
        *fixed, x = problem(name, where, grad=True)[0]
        out = getattr(ops, name)(*fixed, x, backend=by)
        found.append(torch.autograd.grad(out, x, numbers(*out.shape).to(where))[0].cpu())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_has_the_dtype_of_its_input(name: str) -> None:
    *fixed, x = CALLS[name]()
    narrow = x.detach().float().requires_grad_()
    getattr(ops, name)(*fixed, narrow).sum().backward()
    assert narrow.grad.dtype == torch.float32


def test_gradient_through_a_compiled_function() -> None:
    x = numbers(3, 16, grad=True)
    whole = torch.compile(lambda x: ops.fwht(x).square().sum(), backend="aot_eager", fullgraph=True)
    whole(x).backward()
    torch.testing.assert_close(x.grad, 2 * 16 * x.detach())


def test_no_gradient_is_recorded_where_none_is_wanted() -> None:
    x = numbers(2, 8, grad=True)
    with torch.no_grad():
        assert ops.fwht(x).grad_fn is None
    assert ops.fwht(x.detach()).grad_fn is None
    assert ops.fwht(x).grad_fn is not None
    assert ops.fwht(x=x).grad_fn is not None


def test_arguments_are_checked_on_the_way_too() -> None:
    with pytest.raises(ValueError, match="fwht: x must have a last axis"):
        ops.fwht(numbers(3, 3, grad=True))
    assert pick("fwht", "auto", CPU) in ("cpu", "reference")
