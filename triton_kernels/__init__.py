"""Triton kernels, one file per op: the kernel, and a launcher of the op's name that is called with
checked arguments. Installed as `spex_core.triton_kernels`.

They run on CUDA tensors, and on any tensors in Triton's interpreter (backend.py).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Makes the device of x the one that Triton launches on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
