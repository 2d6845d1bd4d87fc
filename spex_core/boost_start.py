"""What a fit of boost starts from on a device: the values of its bag in the unit of the largest,
and their mean. Of values and bags the host reads an exponent and a size for each fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .transfers import down


@dataclass(frozen=True)
class Start:
    """One fit, on the device.

    Attributes:
        values: float64 (T + E,), over 2**exponent, 0 outside the bag. bias: float64 (), their mean
        over the bag. inside: bool (T,), the bag; size: samples in it.
    """

    values: Tensor
    bias: Tensor
    inside: Tensor
    size: int
    exponent: int


def started(
    values: Tensor, bags: Tensor, watched: int, ordered_sums: Callable[[Tensor], Tensor]
) -> list[Start]:
    """The J fits.

    Args: values: float64 (J, T). bags: packed int64 (J, ceil(T / 64)). watched: E. ordered_sums:
          float64 (J, T + E) -> the sum of each row, from the left.
    """
    inside = unpacked(bags, values.shape[1])  # (J, T)
    values = torch.where(inside, values, 0.0)
    exponents = torch.frexp(values.abs().amax(1))[1].long()
    exponent, size = down(torch.stack([exponents, inside.sum(1)])).tolist()
    rows = torch.stack([scaled(row, -power) for row, power in zip(values, exponent, strict=True)])
    rows = torch.nn.functional.pad(rows, (0, watched))
    bias = ordered_sums(rows) / inside.sum(1)
    return [Start(*fit) for fit in zip(rows, bias, inside, size, exponent, strict=True)]


def unpacked(bags: Tensor, samples: int) -> Tensor:
    """Packed (J, words) -> bool (J, samples)."""
    bit = bags[..., None] >> torch.arange(64, device=bags.device) & 1
    return bit.flatten(1)[:, :samples].bool()


def scaled(x: Tensor, exponent: int) -> Tensor:
    """x 2**exponent, in two steps: one factor may be out of range."""
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)
