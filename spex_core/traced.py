"""Ops that torch.compile takes whole, and some of them with gradients: custom operators of torch.

Called as usual an op is a plain function, without the microseconds of torch's dispatcher. While it
is traced, or where a gradient is wanted, it goes through `torch.ops.spex_core.<op>`, which traces
as one node with a fake kernel (shapes only; fakes.py) and runs the same function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Op = TypeVar("Op", bound=Callable)


def as_given(*args: object, **options: object) -> tuple[tuple, dict]:
    return args, options


def custom_op(
    schema: str,
    fake: Callable,
    gradient: Callable[..., tuple] | None = None,
    *,
    flat: Callable[..., tuple[tuple, dict]] = as_given,
    whole: Callable[..., tuple[tuple, dict]] = as_given,
    loose: tuple[str, ...] = (),
    result: Callable[..., tuple] | None = None,
) -> Callable[[Op], Op]:
    """Registers an op as `spex_core::<name>`.

    Args: schema: as torch.library has it. fake: the operator's arguments -> an empty result.
          gradient: the arguments and the gradient of the result -> those of the positional
          arguments, None where there is none; in terms of torch.ops, since it is traced as well.
          flat, whole: from the arguments of the function to those of the operator, and back, where
          they differ. loose: the keyword-only tensors, which in the schema are the last of the
          positional arguments, since torch takes no others. result: the named tuple of its tensors.
    """

    def with_keywords(function: Callable) -> Callable:
        def call(*args: object, **options: object) -> object:
            first = len(args) - len(loose)
            options |= zip(loose, args[first:], strict=True)
            return function(*args[:first], **options)

        return call

    def register(function: Op) -> Op:
        @with_keywords
        def run(*args: object, **options: object) -> Tensor | tuple[Tensor, ...]:
            args = tuple(x.detach() if isinstance(x, Tensor) else x for x in args)
            args, options = whole(*args, **options)
            return _apart(function(*args, **options))

        name = f"spex_core::{function.__name__}"
        op = torch.library.custom_op(name, run, mutates_args=(), schema=schema)
        op.register_fake(with_keywords(fake))
        if gradient is not None:
            op.register_autograd(functools.partial(_backward, gradient), setup_context=_keep)

        @functools.wraps(function)
        def call(*args: object, **options: object) -> Tensor | tuple[Tensor, ...]:
            given = (*args, *options.values()) if gradient and torch.is_grad_enabled() else ()
            wanted = any(isinstance(x, Tensor) and x.requires_grad for x in given)
            if wanted or torch.compiler.is_compiling():
                args, options = flat(*args, **(dict.fromkeys(loose) | options))
                found = op(*args, **options)
                return result(*found) if result else found
            return function(*args, **options)

        return call  # type: ignore[return-value]

    return register


def _apart(found: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """Results as their fakes are: contiguous, each at the beginning of memory of its own."""
    if isinstance(found, Tensor):
        return found.contiguous()
    seen: set[int] = set()
    out = []
    for x in found:
        place = x.untyped_storage().data_ptr()
        whole = x.is_contiguous() and x.storage_offset() == 0 and place not in seen
        out.append(x if whole else x.clone(memory_format=torch.contiguous_format))
        seen.add(place)
    return tuple(out)


def _keep(ctx: Any, inputs: tuple, keyword_only_inputs: dict, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.options = keyword_only_inputs


def _backward(gradient: Callable[..., tuple], ctx: Any, grad: Tensor) -> tuple:
    return gradient(*ctx.saved_tensors, grad, **ctx.options)
