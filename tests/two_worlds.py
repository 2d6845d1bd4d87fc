"""A host and a device where there is only a host: a mode of torch that remembers which tensors are
of the host, and refuses to bring them together with others but by `Transfers`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spex_core import ops, ops_decode, ops_gp, ops_trees
from spex_core.plan import SamplingPlan
from spex_core.transfers import Transfers

planning = importlib.import_module("spex_core.budget")


class Mixed(Exception):
    pass


class TwoWorlds(TorchFunctionMode):
    """Tensors made without `device=` are the host's, and so is what is made of them; all others are
    the device's, and of those nothing comes to the host but single numbers."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.arange, torch.zeros)
    MAKERS += (torch.ones, torch.empty, torch.full, torch.eye, torch.randn, torch.logspace)
    READS = (Tensor.numpy, Tensor.tolist, Tensor.item)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.moving = 0
        read = torch.from_numpy  # which no mode of torch sees
        monkeypatch.setattr(torch, "from_numpy", lambda x: of_the_host(read(x)))
        monkeypatch.setattr(Transfers, "up", self.moved(Transfers.up, False))
        monkeypatch.setattr(Transfers, "down", self.moved(Transfers.down, True))

    def moved(self, move: Callable, to_host: bool) -> Callable:
        def moved(transfers: Transfers, x: Tensor) -> Tensor:
            if on_host(x) == to_host:
                raise Mixed(f"{tuple(x.shape)} is there already")
            self.moving += 1
            try:
                out = move(transfers, x).clone()
            finally:
                self.moving -= 1
            out.on_host = to_host
            return out

        return moved

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.moving:
            return func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        of_host = [x for x in given if on_host(x)]
        numbers = all(x.ndim == 0 for x in of_host)  # which torch takes from anywhere
        if of_host and len(of_host) < len(given) and not numbers:
            raise Mixed(f"{func}: {[(tuple(x.shape), on_host(x)) for x in given]}")
        if func in self.READS and not of_host and given[0].numel() > 1:
            raise Mixed(f"{func}: {tuple(given[0].shape)} comes to the host")
        out = func(*args, **kwargs)
        made = func in self.MAKERS and kwargs.get("device") is None
        if made or (of_host and len(of_host) == len(given)):
            for x in tree_leaves(out):
                if isinstance(x, Tensor):
                    x.on_host = True
        return out


def on_host(x: Tensor) -> bool:
    return getattr(x, "on_host", False)


def of_the_host(x: Tensor) -> Tensor:
    x.on_host = True
    return x


def plans_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plan is begun with is made on the host, unseen, and its tensors are the host's."""
    for name in ("aliased_plan", "_full_table"):
        make = getattr(planning, name)

        def made(*args: object, make: Callable = make, **options: object) -> SamplingPlan:
            with torch._C.DisableTorchFunction():
                return make(*args, **options).moved(of_the_host)

        monkeypatch.setattr(planning, name, made)


DISPATCHED = (ops, ops_decode, ops_gp, ops_trees)  # modules that pick a backend for the kernels
KERNELS = {"spex_core.ops": ("uniform_masks", "affine_masks", "parity_bits")}


def kernels_unseen(
    monkeypatch: pytest.MonkeyPatch, names: Mapping[str, Sequence[str]] = KERNELS
) -> None:
    """Kernels of the CPU, module -> names, stand for those of a device: what they do is not looked
    at, and what they make is where their tensors are (the device's, where they are given none)."""
    for module in map(importlib.import_module, names):
        for name in names[module.__name__]:
            monkeypatch.setattr(module, name, unseen(getattr(module, name)))


def unseen(kernel: Callable) -> Callable:
    def called(*args: object, **options: object) -> object:
        given = [x for x in tree_leaves((args, options)) if isinstance(x, Tensor)]
        worlds = {on_host(x) for x in given}
        if len(worlds) == 2:
            raise Mixed(f"{kernel}: {[(tuple(x.shape), on_host(x)) for x in given]}")
        with torch._C.DisableTorchFunction():
            out = kernel(*args, **options)
        for x in tree_leaves(out):
            x.on_host = worlds == {True}
        return out

    return called
