"""What a value function asks of the model and of the scorer that somebody else wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import check


def check_rows(where: str, answer: object, rows: int) -> Tensor:
    """A tensor or array with a first axis of `rows` and finite numbers, as a tensor.

    Raises: in the name of `where`, TypeError for what is no array; ValueError for another number of
    rows, for no number a row, and for NaN and infinities, with the first row that has one.
    """
    try:
        values = answer if isinstance(answer, Tensor) else torch.from_numpy(np.array(answer))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{where} must return numbers, one or one array a row, got {type(answer).__name__}"
        ) from None
    check(
        values.ndim >= 1 and len(values) == rows and values[:1].numel() > 0,
        "{} must return one value or one array for each of {} rows, got shape {}",
        *(where, rows, tuple(values.shape)),
    )
    bad = ~torch.isfinite(values).reshape(rows, -1).all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        got = values[first].reshape(-1)
        got = got[~torch.isfinite(got)][0].item()
        raise ValueError(
            f"{where} must return finite numbers, got {got} in row {first} "
            f"({int(bad.sum())} of {rows} rows)"
        )
    return values


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode; modules that were in training mode are put back into it."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lives; the CPU for a model that has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
