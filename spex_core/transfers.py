"""What a run moves between the host and a device, in bytes.

Kernels that read or send something on their way use `up` and `down`; the `Transfers` of the run
around them, if there is one, counts that too.
"""

from __future__ import annotations

from contextvars import ContextVar

import torch
from torch import Tensor


class Transfers:
    """The moves of tensors to a device and back. `with transfers:` counts those of the kernels."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.to_device, self.to_host = device, 0, 0

    def __enter__(self) -> Transfers:
        self._before = _counted.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _counted.reset(self._before)

    def up(self, x: Tensor) -> Tensor:
        self.to_device += x.nbytes
        return x.to(self.device)

    def down(self, x: Tensor) -> Tensor:
        self.to_host += x.nbytes
        return x.cpu()

    @property
    def moved(self) -> dict[str, int]:
        return {"to_device": self.to_device, "to_host": self.to_host}


_counted: ContextVar[Transfers | None] = ContextVar("transfers", default=None)


def up(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host, on a device."""
    counted = _counted.get()
    return x.to(device) if counted is None else counted.up(x)


def down(x: Tensor) -> Tensor:
    """A tensor of a device, on the host."""
    counted = _counted.get()
    return x.cpu() if counted is None else counted.down(x)
