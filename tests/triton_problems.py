"""A small problem for each Triton kernel of ops.py."""

from __future__ import annotations

import pytest
import torch
from forests import grow
from torch import Tensor

from spex_core import ops
from spex_core.codes import bch_code

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MARKS = [pytest.mark.gpu] if DEVICE.type == "cuda" else []  # of modules that test on DEVICE


def words(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator).to(DEVICE)


def uniform_masks() -> Tensor:
    return ops.uniform_masks(300, 700, seed=1, device=DEVICE, backend="triton")


def affine_masks() -> Tensor:
    return ops.affine_masks(words(11, 5), words(2, 5, seed=1), backend="triton")


def fwht() -> Tensor:
    x = torch.randn(70, 1 << 7, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    return ops.fwht(x, backend="triton")


def parity_bits() -> Tensor:
    return ops.parity_bits(words(1200, 3), words(40, 3, seed=1) & 0x1110, backend="triton")


def parity_predict() -> Tensor:
    coefs = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    given = words(600, 1), words(40, 1, seed=1) & 0x11, coefs.to(DEVICE)
    return ops.parity_predict(*given, backend="triton")


def parity_adjoint() -> Tensor:
    values = torch.randn(3000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    given = words(3000, 1), words(5, 1, seed=1) & 0x11, values.to(DEVICE)
    return ops.parity_adjoint(*given, backend="triton")


def parity_gram() -> Tensor:
    return ops.parity_gram(words(70, 9), 9 * 64, backend="triton")


def anova_kernel() -> Tensor:
    relevances = torch.linspace(0.1, 1.0, 70, dtype=torch.float64).to(DEVICE)
    variances = torch.tensor([0.1, 1.0, 0.5, 0.2], dtype=torch.float64).to(DEVICE)
    given = words(35, 2), words(20, 2, seed=1), relevances, variances
    return ops.anova_kernel(*given, backend="triton")


def anova_kernel_grad() -> Tensor:
    relevances = torch.linspace(0.1, 1.0, 10, dtype=torch.float64).to(DEVICE)
    variances = torch.tensor([0.1, 1.0, 0.5, 0.2], dtype=torch.float64).to(DEVICE)
    weights = torch.randn(20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    masks = words(20, 1)
    given = masks, masks, relevances, variances, weights.to(DEVICE)
    return torch.cat(ops.anova_kernel_grad(*given, backend="triton"))


def anova_cross() -> Tensor:
    relevances = torch.linspace(0.1, 1.0, 70, dtype=torch.float64).to(DEVICE)
    variances = torch.tensor([0.1, 1.0, 0.5, 0.2], dtype=torch.float64).to(DEVICE)
    given = words(35, 2), words(20, 2, seed=1) & 0x11, relevances, variances
    return ops.anova_cross(*given, bias=1.0, backend="triton")


def histogram() -> Tensor:
    values = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    call = {"trees": 1, "backend": "triton"}
    return ops.boost(words(300, 1), values.to(DEVICE), 64, **call).staged


def bch_decode() -> Tensor:
    code = bch_code(40, 2)
    generator = torch.Generator().manual_seed(5)
    readings = torch.randn(6, code.delays, dtype=torch.float64, generator=generator)
    features, counts = ops.bch_decode(readings.to(DEVICE), code, chase=1, backend="triton")
    return torch.cat([features, counts[:, None]], 1)


def peel() -> Tensor:
    code = bch_code(6, 1)
    generator = torch.Generator().manual_seed(6)
    bins = torch.randn(1, code.delays, 2, dtype=torch.float64, generator=generator)
    hashes = torch.tensor([[0, 1, 0, 1, 1, 0]], dtype=torch.int32)
    given = bins.to(DEVICE), code, code.columns, hashes
    return ops.peel(*given, floor=1e-9, chase=0, backend="triton")[1]


def tree_fourier() -> Tensor:
    forest = (x.to(DEVICE) for x in grow(3, 3, 9))
    return ops.tree_fourier(*forest, 9, backend="triton")[1]


def boost() -> Tensor:
    values = torch.arange(9, dtype=torch.float64, device=DEVICE)
    masks = values.long()[:, None]
    how = {"trees": 1, "depth": 1, "min_leaf": 1, "backend": "triton"}
    return ops.boost(masks, values, 4, **how).staged


PROBLEMS = [uniform_masks, affine_masks, fwht, histogram]
PROBLEMS += [parity_bits, parity_predict, parity_adjoint, parity_gram]
PROBLEMS += [anova_kernel, anova_cross]
