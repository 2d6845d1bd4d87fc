"""Triton kernels, one file per op. Installed as `spex_core.triton_kernels`.

None is here yet: `backend="triton"` is refused, with the reason, by every op.
"""
