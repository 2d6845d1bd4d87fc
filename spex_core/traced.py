"""Ops that torch.compile takes whole, and that have gradients: custom operators of torch.

Called as usual an op is a plain function, without the microseconds of torch's dispatcher. While it
is traced, or where a gradient is wanted, it goes through `torch.ops.spex_core.<op>`, which traces
as one node with a fake kernel (shapes only) and runs the same function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Op = TypeVar("Op", bound=Callable)


def custom_op(
    schema: str, fake: Callable, gradient: Callable[..., tuple] | None = None
) -> Callable[[Op], Op]:
    """Registers an op as `spex_core::<name>`.

    Args: schema: as torch.library has it. fake: the arguments -> an empty result. gradient: the
          arguments and the gradient of the result -> those of the positional arguments, None where
          there is none; in terms of torch.ops, since it is traced as well.
    """

    def register(function: Op) -> Op:
        def run(*args: object, **options: object) -> Tensor:
            return function(*(x.detach() if isinstance(x, Tensor) else x for x in args), **options)

        name = f"spex_core::{function.__name__}"
        op = torch.library.custom_op(name, run, mutates_args=(), schema=schema)
        op.register_fake(fake)
        if gradient is not None:
            op.register_autograd(functools.partial(_backward, gradient), setup_context=_keep)

        @functools.wraps(function)
        def call(*args: object, **options: object) -> Tensor:
            given = (*args, *options.values()) if gradient and torch.is_grad_enabled() else ()
            wanted = any(isinstance(x, Tensor) and x.requires_grad for x in given)
            if wanted or torch.compiler.is_compiling():
                return op(*args, **options)
            return function(*args, **options)

        return call  # type: ignore[return-value]

    return register


def _keep(ctx, inputs: tuple, keyword_only_inputs: dict, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.options = keyword_only_inputs


def _backward(gradient: Callable[..., tuple], ctx, grad: Tensor) -> tuple:
    return gradient(*ctx.saved_tensors, grad, **ctx.options)
