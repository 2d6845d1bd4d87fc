"""Masks and values as users and value functions give them, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .errors import check


class WrongAnswer(ValueError):
    """An answer of the wrong shape, which the same call would get again."""


def numbers_of(answer: object, count: int, many: bool) -> tuple[np.ndarray, np.ndarray]:
    """A value function's answer as float64 (count,) or, if many, (count, q), and bool (count,):
    which are finite.

    Raises: WrongAnswer, TypeError, ValueError that say what is wrong with it.
    """
    values = _array(answer)
    if not _is_per_mask(values.shape, count, many):
        raise WrongAnswer(
            f"it must return one number per mask, shape ({count},)"
            f"{f' or ({count}, outputs)' if many else ''}, got shape {values.shape}"
        )
    if values.dtype.kind == "c":
        raise TypeError(f"it must return real numbers, got {values.dtype}")
    values = np.array(values, np.float64, order="C")  # a copy
    finite = np.isfinite(values)
    return values, finite if finite.ndim == 1 else finite.all(1)


def not_finite(values: np.ndarray, finite: np.ndarray) -> ValueError:
    """What to raise of values that are not all finite, as numbers_of says of them."""
    first = finite.argmin()
    return ValueError(
        f"it must return finite numbers, got {values[first]} for mask {first} of the batch "
        f"({(~finite).sum()} of {len(values)} are not finite)"
    )


def _array(numbers: Any) -> np.ndarray:
    """A tensor of any kind and device, or what NumPy can make an array of."""
    if isinstance(numbers, Tensor):
        numbers = numbers.detach().cpu()
        numbers = numbers.numpy() if numbers.is_complex() else numbers.double().numpy()
    return np.asarray(numbers)


def _is_per_mask(shape: tuple[int, ...], count: int, many: bool) -> bool:
    return shape == (count,) or (many and len(shape) == 2 and shape[0] == count and shape[1] > 0)


def check_samples(
    name: str, masks: object, values: object, *, many: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """bool (T, n) masks and float64 (T,) values or, if many, (T, q); or an error that names what is
    wrong."""
    dense = masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    if dense.dtype != np.bool_:
        raise TypeError(f"{name}: masks must be bool, got {dense.dtype}")
    check(dense.ndim == 2, "{}: masks must have shape (T, n), got {}", name, dense.shape)
    check(dense.shape[1] > 0, "{}: masks must have a feature, got shape {}", name, dense.shape)
    try:
        numbers = _array(values)
        if numbers.dtype.kind not in "biufO":
            raise TypeError(f"got {numbers.dtype}")
        numbers = numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: values must be real numbers, {error}") from None
    check(
        _is_per_mask(numbers.shape, len(dense), many),
        "{}: values must have shape ({},), one per mask{}, got {}",
        *(name, len(dense), f", or ({len(dense)}, outputs)" if many else "", numbers.shape),
    )
    check(bool(np.isfinite(numbers).all()), "{}: values must be finite", name)
    return dense, numbers
