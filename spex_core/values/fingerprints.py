"""Names for models, inputs and scorers: equal names mean equal values, so that a store of values
can be shared between runs."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from .tokens import TokenLayout

SAMPLED = 64  # numbers looked at of each weight: a model of any size has its name in no time


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits of strings, numbers, bytes, arrays and tensors."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().float().numpy()
        if isinstance(part, np.ndarray):
            state.update(f"{part.dtype}{part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        data = part if isinstance(part, bytes) else repr(part).encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:16]


def name_model(model: Any) -> str:
    """Class, where it is from, revision, dtype, and a digest of its configuration and of a sample
    of every weight (two models that were never saved have the same configuration)."""
    weights = model.state_dict()
    seen = [name for name in weights if torch.is_floating_point(weights[name])]
    sample = [weights[name].flatten()[:: max(1, weights[name].numel() // SAMPLED)] for name in seen]
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}
    parts = (
        type(model).__name__,
        getattr(model.config, "_name_or_path", "") or "local",
        getattr(model.config, "_commit_hash", None) or "no-revision",
        str(model.dtype).removeprefix("torch."),
        digest(sorted(config.items(), key=str), *seen, *sample),
    )
    return " ".join(parts)


def name_layout(layout: TokenLayout) -> str:
    types = () if layout.types is None else (layout.types,)
    return f"tokens {digest(layout.ids, layout.owner, layout.n, *types)}"


def name_callable(function: Any) -> str:
    """Its `fingerprint` where it has one; else a name that is never used again, since nobody can
    tell whether two functions are the same."""
    return getattr(function, "fingerprint", None) or f"{type(function).__name__} {uuid4().hex}"
