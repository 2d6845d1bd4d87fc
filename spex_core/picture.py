"""An image with its regions, ready to be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .errors import check
from .regions import Regions, pixel_owners

LONGEST = 512  # pixels of the longer side of a picture that is shown


@dataclass(frozen=True)
class Picture:
    """An image as it is shown. rgb: uint8 (H, W, 3). owner: int64 (H, W), the feature of each
    pixel; n where it belongs to none."""

    rgb: np.ndarray
    owner: np.ndarray

    def fits(self, n: int) -> bool:
        """Whether it is as above, of n features."""
        return (
            self.rgb.dtype == np.uint8
            and self.owner.dtype == np.int64
            and self.rgb.shape == (*self.owner.shape, 3)
            and self.owner.ndim == 2
            and self.owner.size > 0
            and 0 <= self.owner.min() <= self.owner.max() <= n
        )


def picture(
    where: str, image: Any, regions: Regions, n: int, longest: int | None = None
) -> Picture:
    """An image and its regions, checked and ready to be shown.

    Args:    image: (H, W), (H, W, 3) or (3, H, W): integers from 0 to 255, or numbers of which the
             least is shown black and the largest white, unless all are within [0, 1].
             regions: as ImageRegions takes them, of n features.
             longest: pixels of the longer side; means of blocks of pixels make a larger one fit.
    Raises:  in the name of `where`, ValueError for another shape, a number that is not finite, or
             regions that are not n; TypeError for a map that is not of integers.
    """
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = np.moveaxis(array, 0, 2)
    array = array[:, :, None] if array.ndim == 2 else array
    check(
        array.ndim == 3 and array.shape[2] in (1, 3) and array.size > 0,
        "{}: image must have shape (H, W), (H, W, 3) or (3, H, W), got {}",
        *(where, array.shape),
    )
    check(array.dtype.kind in "uifb", "{}: image must be of numbers, got {}", where, array.dtype)
    check(bool(np.isfinite(array).all()), "{}: image must be finite, got NaN or infinity", where)
    owner, names = pixel_owners(where, regions, array.shape[:2])
    check(
        len(names) == n,
        "{}: regions must be as many as the {} features, got {}",
        *(where, n, len(names)),
    )
    step = 1 if longest is None else -(-max(owner.shape) // longest)
    down, across = owner.shape[0] // step, owner.shape[1] // step
    blocks = _bytes(array)[: down * step, : across * step].reshape(down, step, across, step, -1)
    rgb = np.repeat(blocks.mean((1, 3)).astype(np.uint8), 3 // array.shape[2], axis=2)
    return Picture(rgb, owner[step // 2 :: step, step // 2 :: step][:down, :across])


def _bytes(array: np.ndarray) -> np.ndarray:
    """Numbers -> uint8: as they are where they are integers of a byte, else scaled."""
    least, most = float(array.min()), float(array.max())
    if array.dtype.kind in "ui" and least >= 0 and most <= 255:
        return array.astype(np.uint8)
    if least >= 0 and most <= 1:
        least, most = 0.0, 1.0
    scaled = (array.astype(np.float64) - least) / ((most - least) or 1.0)
    return np.rint(255 * scaled).astype(np.uint8)
