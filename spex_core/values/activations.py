"""The exact GELU of a model by the compiled kernel, which takes half the time of torch's."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import pick
from ..ops_inference import gelu

Place = tuple[torch.nn.Module, str]  # a module, and the name of one of its children


class Gelu(torch.nn.Module):
    """x Phi(x): by the kernel on a CPU without gradients, else by torch."""

    def forward(self, x: Tensor) -> Tensor:
        asked = torch.is_grad_enabled() and x.requires_grad
        if x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and not asked:
            return gelu(x)
        return torch.nn.functional.gelu(x)


def replace_gelus(model: torch.nn.Module) -> list[tuple[Place, torch.nn.Module]]:
    """Put a Gelu in place of each module that is an exact GELU, where that is faster; what stood
    where."""
    if not _faster():
        return []
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        if path and _is_exact(module):
            parent, _, name = path.rpartition(".")
            found.append(((model.get_submodule(parent), name), module))
    for (parent, name), _ in found:
        setattr(parent, name, Gelu())
    return found


def _is_exact(module: torch.nn.Module) -> bool:
    """Whether it computes the exact GELU and nothing beside it: modules with hooks do more."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if type(module) is torch.nn.GELU:
        return module.approximate == "none"
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    known = name == "transformers.activations.GELUActivation"
    return known and module.act is torch.nn.functional.gelu


def _faster() -> bool:
    """The kernel needs AVX-512 to be faster than torch's."""
    if pick("gelu", "auto", torch.device("cpu")) != "cpu":
        return False
    from .. import native

    return native.best_isa() in ("avx512", "gfni")
