"""Images: what a model's answer owes to the patches or segments of an image."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import masks as bits
from ..errors import check, check_int
from ..picture import Picture, picture
from ..regions import KEPT, pixel_owners
from ..transfers import up
from ..value_function import ValueFunction
from .answers import check_rows, device_of, evaluation_mode
from .fingerprint import digest

SCORES = ("logit", "margin", "probability")


class ImageRegions(ValueFunction):
    """f(m) = the score of an image of which only the regions of m are shown.

    Args:
        model: any nn.Module on images (rows, C, H, W). It runs in evaluation mode.
        image: (C, H, W), as the model takes it: normalised, of the model's dtype.
        regions: (down, across), a grid of so many patches; or a map of segments, integers (H, W):
            pixels that share a label are one feature, and those of label -1 are always shown.
        absent: what stands in for the pixels of absent regions: "baseline"; "mean", the mean of
            each channel; or "blur", the image under a Gaussian.
        baseline: a number or one for each channel, for absent="baseline".
        blur: the standard deviation of the Gaussian in pixels; by default a tenth of the shorter
            side.
        score: "logit" of the target class, its "margin" over the best other, its "probability"; or
            a callable, (output of the model, for `rows` images) -> (rows,) or (rows, q). The three
            want an output (rows, classes), or an object with such `logits`.
        target: the class; by default the one that the model sees in the whole image, found at the
            first evaluation.
        pixels: the budget of a forward pass.
        threads: forward passes at a time, each on one torch thread.
    Raises:   ValueError for an image or a map of another shape, a grid finer than the pixels, a map
              without a segment, a class that the model does not have, a score that is NaN or of the
              wrong shape; TypeError for a map that is not of integers.
    Accuracy: one image at a time, to the rounding of batched products: 1e-6 in float32.
    Cost:     a forward pass for each mask.
    Example:  model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
              f = ImageRegions(model, torch.rand(3, 8, 8), (4, 4), score="logit", target=1)
              spex_core.proxyspex(f, features=f.features, budget=500)
    """

    order = "any"
    unit = "pixels"

    def __init__(
        self,
        model: torch.nn.Module,
        image: Tensor | np.ndarray,
        regions: tuple[int, int] | np.ndarray | Tensor,
        *,
        absent: Literal["baseline", "mean", "blur"] = "baseline",
        baseline: float | Sequence[float] = 0.0,
        blur: float | None = None,
        score: str | Callable[[Any], Tensor] = "logit",
        target: int | None = None,
        pixels: int = 1 << 21,
        threads: int = 1,
    ):
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"ImageRegions: model must be an nn.Module, got {type(model).__name__}")
        check(
            callable(score) or score in SCORES,
            "ImageRegions: score must be one of {} or a callable, got {!r}",
            *(SCORES, score),
        )
        image = torch.as_tensor(image)
        check(
            image.ndim == 3 and image.numel() > 0 and image.is_floating_point(),
            "ImageRegions: image must be floating point (C, H, W), got {} of shape {}",
            *(image.dtype, tuple(image.shape)),
        )
        check(bool(torch.isfinite(image).all()), "ImageRegions: image must be finite")
        self.model, self.score = model, score
        self.target = None if target is None else check_int("ImageRegions: target", target, 0)
        self.tokens = check_int("ImageRegions: pixels", pixels, 1)
        self.threads = check_int("ImageRegions: threads", threads, 1)
        self.owner, self.features = pixel_owners("ImageRegions", regions, tuple(image.shape[1:]))
        self.image = image.to(device_of(model))
        self.fill = _stand_in(self.image, absent, baseline, blur)

    @property
    def device(self) -> torch.device:
        return self.image.device

    @functools.cached_property
    def picture(self) -> Picture | None:
        """The image, small, and its regions; None unless it has one channel or three."""
        if len(self.image) not in (1, 3):
            return None
        labels = np.where(self.owner == self.n, KEPT, self.owner)
        return picture("ImageRegions", self.image.float(), labels, self.n, longest=256)

    @property
    def fingerprint(self) -> str:
        """Model, image, regions, what stands in, score and target; hashes the model's weights."""
        parts = self.image, self.owner, self.features, self.fill, self.score, self._class()
        return "image-" + digest(self.model, parts)

    def cost(self, masks: Tensor) -> np.ndarray:
        return np.full(len(masks), self.owner.size, np.int64)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._class()
        with evaluation_mode(self.model):
            yield

    def images(self, masks: Tensor | np.ndarray) -> Tensor:
        """What the model is shown: masks bool (T, n) or packed -> (T, C, H, W)."""
        packed = bits.pack_batch("ImageRegions", masks, self.n).to(self.device)
        keep = torch.nn.functional.pad(bits.unpack_there(packed, self.n), (0, 1), value=True)
        shown = keep[:, self._owner]  # (T, H, W)
        return torch.where(shown[:, None], self.image, self.fill)

    @functools.cached_property
    def _owner(self) -> Tensor:
        return up(torch.from_numpy(self.owner), self.device)

    @torch.inference_mode()
    def run(self, masks: Tensor) -> Tensor:
        output = self.model(self.images(masks))
        if callable(self.score):
            return check_rows("ImageRegions: score", self.score(output), len(masks))
        return class_score(_logits(output, len(masks)), self._class(), self.score)

    def _class(self) -> Any:
        """The target class; where it was not given, what the model sees in the whole image."""
        if self.target is None and not callable(self.score):
            with evaluation_mode(self.model), torch.inference_mode():
                self.target = int(_logits(self.model(self.image[None]), 1)[0].argmax())
        return self.target


def class_score(logits: Tensor, target: int, score: str) -> Tensor:
    """Logits (rows, classes) -> (rows,): the logit of the target class, its margin over the best
    other class, or its probability."""
    check(
        target < logits.shape[1],
        "class_score: target must be one of {} classes, got {}",
        *(logits.shape[1], target),
    )
    logits = logits.float()
    if score == "probability":
        return logits.softmax(1)[:, target]
    if score == "logit":
        return logits[:, target]
    check(logits.shape[1] > 1, "class_score: margin must have 2 or more classes, got 1")
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], 1)
    return logits[:, target] - others.max(1).values


def _logits(output: Any, rows: int) -> Tensor:
    logits = check_rows("ImageRegions: model", getattr(output, "logits", output), rows)
    check(
        logits.ndim == 2,
        "ImageRegions: model must return logits (rows, classes), got shape {}; or give a score",
        tuple(logits.shape),
    )
    return logits


# ---- What stands in for absent regions -----------------------------------------------------------


def _stand_in(
    image: Tensor, absent: str, baseline: float | Sequence[float], blur: float | None
) -> Tensor:
    """What is shown where a region is absent, (C, H, W)."""
    match absent:
        case "baseline":
            values = torch.as_tensor(baseline, dtype=image.dtype, device=image.device)
            check(
                tuple(values.shape) in ((), image.shape[:1]) and bool(values.isfinite().all()),
                "ImageRegions: baseline must be one finite number, or one for each of {} channels, "
                "got {}",
                *(len(image), baseline),
            )
            return values.reshape(-1, 1, 1).expand(image.shape)
        case "mean":
            return image.mean((1, 2), keepdim=True).expand(image.shape)
        case "blur":
            sigma = min(image.shape[1:]) / 10 if blur is None else blur
            check(
                isinstance(sigma, int | float) and 0 < sigma < math.inf,
                "ImageRegions: blur must be a number > 0, got {!r}",
                blur,
            )
            return _blurred(image, sigma)
        case _:
            raise ValueError(f"ImageRegions: absent must be baseline, mean or blur, got {absent!r}")


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """The image under a Gaussian cut at three sigma; beyond the edges its last pixels go on."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(image.dtype)
    wide = functional.pad(image[None], (radius, radius, radius, radius), mode="replicate")[0]
    wide = functional.conv2d(wide[:, None], kernel.view(1, 1, 1, -1))
    return functional.conv2d(wide, kernel.view(1, 1, -1, 1))[:, 0]
