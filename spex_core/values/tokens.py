"""One tokenised input, and which feature each of its tokens belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of an input with every feature present, in the order in which the model sees them.

    Attributes:
        ids: int64 (L,), token ids.
        owner: int64 (L,), the feature of each token, ascending but for tokens that are always there
        (special tokens, prefix, suffix, text between the features), which have owner n.
        features: names, n of them.
    """

    ids: np.ndarray
    owner: np.ndarray
    features: tuple[str, ...]

    @property
    def n(self) -> int:
        return len(self.features)
