"""The one adaptor to the compiled CUDA kernels: tensors in, addresses and sizes down, tensors out.

Arguments are checked in ops.py. Kernels run on the tensors' device, in torch's current stream
there, and are not waited for. Inputs are never changed. Where csrc was built with
SPEX_CUDA=EMULATED the same kernels run on the host, on CPU tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _cuda  # type: ignore[attr-defined]


def _place(x: Tensor) -> tuple[int, int]:
    """Device and stream."""
    if not x.is_cuda:
        return 0, 0
    return x.device.index, torch.cuda.current_stream(x.device).cuda_stream


def fwht_cuda(x: Tensor) -> Tensor:
    if x.dtype not in (torch.float32, torch.float64):  # float16, bfloat16: sums in float32
        return fwht_cuda(x.float()).to(x.dtype)
    shape, width, size = x.shape, x.shape[-1], x.numel()
    spare = -size % (16 // x.element_size())  # rows of one or two values
    x = torch.nn.functional.pad(x.reshape(-1), (0, spare)) if spare else x.contiguous()
    if x.data_ptr() % 16:
        x = x.clone()
    out = torch.empty_like(x)
    call = _cuda.fwht_f32 if x.dtype == torch.float32 else _cuda.fwht_f64
    call(x.data_ptr(), out.data_ptr(), x.numel() // width, width.bit_length() - 1, _place(x))
    return out.view(-1)[:size].view(shape) if spare else out
