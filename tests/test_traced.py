"""Ops as custom operators of torch: schemas, fake kernels, gradients, torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spex_core import ops
from spex_core.backend import pick

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
DIFFERENTIABLE = ("fwht", "parity_predict", "parity_adjoint")


@pytest.fixture(params=["reference", "cpu", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    from spex_core.backend import refusal

    if (reason := refusal("fwht", request.param, CPU)) is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str, backend: str) -> None:
    operator = getattr(torch.ops.spex_core, name).default
    torch.library.opcheck(operator, CALLS[name](), {"backend": backend})


@pytest.mark.parametrize("name", CALLS)
def test_compiles_as_one_graph(name: str, backend: str) -> None:
    torch._dynamo.reset()  # the lambda below is one piece of code for all of them
    op, given = (
        getattr(ops, name),
        [x.detach() if isinstance(x, Tensor) else x for x in CALLS[name]()],
    )
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    call = functools.partial(op, backend=backend)
    whole = torch.compile(lambda *args: call(*args) + 1, backend=keep, fullgraph=True)
    assert torch.equal(whole(*given), call(*given) + 1)
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
def test_every_backend_has_the_gradient_of_the_reference(name: str, backend: str) -> None:
    *fixed, x = CALLS[name]()
    found = []
    for by in (backend, "reference"):
        out = getattr(ops, name)(*fixed, x, backend=by)
        found.append(torch.autograd.grad(out, x, numbers(*out.shape))[0])
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
