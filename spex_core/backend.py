"""Which backends exist on this machine, why the others do not, and what "auto" picks.

A named backend is obeyed or refused, never replaced. Nothing is probed before it is asked for.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Literal

import numpy as np
import torch

from .errors import BackendUnavailable

Backend = Literal["auto", "reference", "cpu", "triton", "cuda"]
BACKENDS = ("reference", "cpu", "triton", "cuda")

# op -> the backends that implement it. ops.py and ops_*.py hold one `match` per op with the same
# names.
OPS: dict[str, tuple[str, ...]] = {
    "fwht": ("reference", "cpu", "triton", "cuda"),
    "affine_masks": ("reference", "cpu", "triton"),
    "uniform_masks": ("reference", "cpu", "triton"),
    "parity_bits": ("reference", "cpu", "triton", "cuda"),
    "parity_predict": ("reference", "cpu", "triton", "cuda"),
    "parity_adjoint": ("reference", "cpu", "triton", "cuda"),
    "parity_gram": ("reference", "cpu", "triton", "cuda"),
    "anova_kernel": ("reference", "cpu", "triton"),
    "anova_kernel_grad": ("reference", "cpu", "triton"),
    "anova_cross": ("reference", "cpu", "triton"),
    "bch_decode": ("reference", "cpu", "triton", "cuda"),
    "peel": ("reference", "cpu", "triton", "cuda"),
    "peel_many": ("reference", "cpu", "triton", "cuda"),
    "boost": ("reference", "cpu", "triton", "cuda"),
    "superset_sums": ("reference", "cpu"),
    "tree_fourier": ("reference", "cpu", "triton"),
    "mask_lengths": ("reference", "cpu", "triton"),
    "pack_tokens": ("reference", "cpu", "triton"),
    "pack_trie": ("reference", "cpu", "triton"),
    "mask_embed": ("reference", "triton"),
    "head_scale": ("reference", "triton"),
    "packed_attention": ("reference", "cpu", "triton"),
    "gelu": ("reference", "cpu"),
    "score_last": ("reference", "triton"),
    "token_logprobs": ("reference", "triton"),
}


@functools.cache
def why_not(backend: str) -> str | None:
    """None where `backend` can run on this machine, else the reason it cannot."""
    match backend:
        case "reference":
            return None
        case "cpu":
            try:
                from . import _cpu  # type: ignore[attr-defined] # noqa: F401
            except ImportError as error:
                return f"import failed: {error}"
            return None
        case "triton":
            try:
                import triton
            except ImportError as error:
                return f"import failed: {error}"
            if importlib.util.find_spec(f"{__package__}.triton_kernels") is None:
                return f"{__package__}.triton_kernels is not installed"
            if interpreted():
                return _interpreter_fails(triton.__version__)
            if torch.cuda.is_available():
                return None
            return "no CUDA device, and TRITON_INTERPRET was not 1 when triton was imported"
        case "cuda":
            try:
                from . import _cuda  # type: ignore[attr-defined]
            except ModuleNotFoundError:
                return "not built"
            except ImportError as error:
                return f"import failed: {error}"
            return None if _cuda.emulated or torch.cuda.is_available() else "no CUDA device"
    raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {backend!r}")


def _interpreter_fails(version: str) -> str | None:
    """Before 3.7 Triton's interpreter takes int() of arrays of one element, to end loops; NumPy 2.4
    takes them no longer. Kernels on a GPU do not care."""
    if _release(version) >= (3, 7) or _release(np.__version__) < (2, 4):
        return None
    return f"the interpreter of Triton {version} needs NumPy below 2.4, got {np.__version__}"


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, in NumPy on the CPU: it decides when it is
    imported, by the environment variable TRITON_INTERPRET."""
    import triton

    return not isinstance(triton.language.sum, triton.runtime.JITFunction)


def emulated() -> bool:
    """Whether the CUDA kernels were compiled for the host, where they run on CPU tensors: a build
    for tests (SPEX_CUDA=EMULATED in csrc/CMakeLists.txt)."""
    from . import _cuda  # type: ignore[attr-defined]

    return _cuda.emulated


def tuning() -> bool:
    """Whether Triton kernels try all their tactics once for each size and keep the fastest: where
    the environment variable SPEX_TUNE is 1."""
    return os.environ.get("SPEX_TUNE") == "1"


def pick(op: str, backend: str, device: torch.device) -> str:
    """The backend that runs `op` on tensors of `device`.

    "auto" looks at the device only: CPU tensors go to "cpu", else "reference"; CUDA tensors to
    "cuda", else "triton", else "reference".

    Raises: BackendUnavailable if the named backend cannot run here, saying why and what can.
    """
    order = ("cuda", "triton", "reference") if device.type == "cuda" else ("cpu", "reference")
    if backend == "auto":
        return next(name for name in order if refusal(op, name, device) is None)
    if (reason := refusal(op, backend, device)) is not None:
        there = [name for name in BACKENDS if refusal(op, name, device) is None]
        raise BackendUnavailable(
            f"{op}: backend {backend!r} is not available ({reason}); available: {', '.join(there)}"
        )
    return backend


def refusal(op: str, backend: str, device: torch.device) -> str | None:
    """Why `backend` cannot run `op` on tensors of `device`; None where it can."""
    if (reason := why_not(backend)) is not None:
        return reason
    if backend not in OPS[op]:
        return "not implemented for this op"
    if backend == "cpu" and device.type != "cpu":
        return f"tensors are on {device}"
    if backend == "cuda" and device.type != ("cpu" if emulated() else "cuda"):
        return f"tensors are on {device}" + (", the kernels emulated" if emulated() else "")
    if backend == "triton" and device.type != "cuda" and not interpreted():
        return f"tensors are on {device}, and Triton's interpreter is off"
    return None


def table() -> str:
    """The backends of every op on this machine, as text: what `python -m spex_core` prints."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    lines = [f"{'op':19}" + "".join(f"{name:11}" for name in BACKENDS)]
    lines[0] += "".join(f"{f'auto on {device}':13}" for device in devices)
    for op, there in OPS.items():
        cells = [
            "-" if name not in there else "no" if why_not(name) else "yes" for name in BACKENDS
        ]
        picked = [pick(op, "auto", torch.device(device)) for device in devices]
        lines.append(f"{op:19}" + "".join(f"{c:11}" for c in cells))
        lines[-1] += "".join(f"{name:13}" for name in picked)
    lines += [f"{name}: {reason}" for name in BACKENDS if (reason := why_not(name))]
    if why_not("cuda") is None and emulated():
        lines.append("cuda: emulated on the host, for tests")
    return "\n".join(line.rstrip() for line in lines)
