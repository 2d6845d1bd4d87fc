"""What the public kernels check of their tensors, in the words of their errors."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import check


def check_packed(op: str, **tensors: Tensor) -> None:
    """Each is int64 with two axes; all have the same words and device."""
    first_name, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not (isinstance(x, Tensor) and x.dtype == torch.int64):
            raise TypeError(f"{op}: {name} must be a packed int64 tensor, got {kind(x)}")
        check(x.ndim == 2, "{}: {} must have two axes, got shape {}", op, name, tuple(x.shape))
        check(
            x.shape[1] == first.shape[1],
            "{}: {} must have as many words as {}, {}, got {}",
            *(op, name, first_name, first.shape[1], x.shape[1]),
        )
        check_device(op, name, x, first_name, first)


def check_device(op: str, name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    check(
        x.device == other.device,
        "{}: {} must be on the device of {}, {}, got {}",
        *(op, name, other_name, other.device, x.device),
    )


def readable(x: Tensor) -> bool:
    """Whether the values of x can be looked at without waiting for a device: those on the CPU. What
    an op makes of bad values on a device it says itself."""
    return x.device.type == "cpu"


def kind(x: object) -> str:
    """What an argument is, for an error."""
    return f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
