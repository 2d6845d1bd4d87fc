"""Triton kernels, one file per op. Installed as `spex_core.triton_kernels`."""
