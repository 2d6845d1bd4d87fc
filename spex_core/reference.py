"""Every kernel in plain torch: the specification, readable in one sitting.

Written for clarity at small sizes; ops.py says what the arguments are and checks them.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor


def fwht(x: Tensor) -> Tensor:  # (..., B) -> (..., B)
    shape, width = x.shape, x.shape[-1]
    half = 1
    while half < width:
        pair = x.reshape(*shape[:-1], width // (2 * half), 2, half)
        low, high = pair[..., 0, :], pair[..., 1, :]
        x = torch.stack([low + high, low - high], dim=-2).reshape(shape)
        half *= 2
    return x.clone()


def affine_masks(columns: Tensor, offsets: Tensor) -> Tensor:  # (b, W), (P, W) -> (P, 2**b, W)
    masks = offsets[:, None, :]  # (P, 1, W)
    for column in columns:
        masks = torch.cat([masks, masks ^ column], dim=1)
    return masks.clone()


def uniform_masks(rows: int, n: int, *, seed: int, stream: int, start: int) -> Tensor:  # (rows, W)
    width = -(-n // 64)
    low32 = 0xFFFFFFFF
    row = torch.arange(start, start + rows)[:, None]  # (rows, 1)
    block = torch.arange(-(-width // 2))[None, :]  # (1, blocks)
    counter = [c + 0 * (row + block) for c in (block, row & low32, row >> 32, torch.tensor(stream))]
    out = philox(counter, seed & low32, seed >> 32)  # four of (rows, blocks)
    pairs = torch.stack([out[0] | out[1] << 32, out[2] | out[3] << 32], dim=-1)
    masks = pairs.flatten(1)[:, :width].clone()  # (rows, W)
    if n % 64:
        masks[:, -1] &= (1 << (n % 64)) - 1
    return masks


def philox(counter: list[Tensor], k0: int, k1: int) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011) on 32-bit values held in int64 tensors."""
    low32 = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    for _ in range(10):
        hi0, lo0 = mul32(c0, 0xD2511F53)
        hi1, lo1 = mul32(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & low32, (k1 + 0xBB67AE85) & low32
    return [c0, c1, c2, c3]


def mul32(x: Tensor, y: int) -> tuple[Tensor, Tensor]:
    """High and low halves of the 64-bit product of 32-bit numbers, without leaving int64."""
    low = (x & 0xFFFF) * y  # < 2**48
    high = (x >> 16) * y + (low >> 16)  # < 2**49
    return high >> 16, (high & 0xFFFF) << 16 | low & 0xFFFF


def parity(masks: Tensor, support: Tensor) -> Tensor:  # (T, W), (S, W) -> (T, S) of 0 and 1
    word = masks.new_zeros(len(masks), len(support))
    for w in range(masks.shape[1]):
        word ^= masks[:, w, None] & support[None, :, w]
    for shift in (32, 16, 8, 4, 2, 1):
        word = word ^ word >> shift
    return word & 1


def parity_bits(masks: Tensor, support: Tensor) -> Tensor:  # (T, W), (S, W) -> (S, ceil(T / 64))
    bits = parity(masks, support).T  # (S, T)
    bits = torch.nn.functional.pad(bits, (0, -len(masks) % 64)).unflatten(1, (-1, 64))
    return (bits << torch.arange(64, device=masks.device)).sum(
        -1
    )  # bit 63 wraps to the sign, as it should


def parity_predict(masks: Tensor, support: Tensor, coefs: Tensor) -> Tensor:  # -> (T,)
    return (1 - 2 * parity(masks, support)).to(coefs.dtype) @ coefs


def parity_adjoint(masks: Tensor, support: Tensor, values: Tensor) -> Tensor:  # -> (S,)
    return (1 - 2 * parity(masks, support)).to(values.dtype).T @ values


def parity_gram(columns: Tensor, samples: int) -> Tensor:  # (S, ceil(T / 64)) -> (S, S)
    bits = columns[..., None] >> torch.arange(64, device=columns.device) & 1  # (S, words, 64)
    sign = (1 - 2 * bits).flatten(1)[:, :samples].double()
    return sign @ sign.T


def tree_fourier(
    roots: Tensor,
    feature: Tensor,
    absent: Tensor,
    present: Tensor,
    value: Tensor,
    n: int,
    group: Tensor | None,
    groups: int,
    limit: int | None,
) -> tuple[Tensor, Tensor]:  # -> (S, W), (S, groups)
    nodes = list(zip(*(x.tolist() for x in (feature, absent, present, value)), strict=True))

    def spectrum(node: int, known: dict[int, int]) -> dict[int, float]:
        """{set of features, as the bits of an int: coefficient} of the tree below `node`."""
        j, *sides, leaf = nodes[node]
        while j in known:
            j, *sides, leaf = nodes[sides[known[j]]]
        if j < 0:
            return {0: leaf}
        a, b = (spectrum(side, known | {j: bit}) for bit, side in enumerate(sides))
        out = {}
        for k in a.keys() | b.keys():
            out[k] = 0.5 * a.get(k, 0.0) + 0.5 * b.get(k, 0.0)
            out[k | 1 << j] = 0.5 * a.get(k, 0.0) - 0.5 * b.get(k, 0.0)
        return {k: coef for k, coef in out.items() if coef}

    total: dict[int, list[float]] = {}
    columns = [0] * len(roots) if group is None else group.tolist()
    for root, column in zip(roots.tolist(), columns, strict=True):
        for k, coef in spectrum(root, {}).items():
            total.setdefault(k, [0.0] * groups)[column] += coef

    def canonical(k: int) -> tuple[int, list[int]]:
        features = []
        while k:
            features.append((k & -k).bit_length() - 1)
            k &= k - 1
        return len(features), features

    terms = sorted((k for k in total if any(total[k])), key=canonical)
    if limit is not None and limit < len(terms):
        most = max(abs(coef) for k in terms for coef in total[k])
        scale = 2.0 ** -max(math.frexp(most)[1] - 1, -1000)  # keeps the squares in range
        terms = sorted(terms, key=lambda k: -sum((coef * scale) ** 2 for coef in total[k]))
        terms = sorted(terms[:limit], key=canonical)
    width = -(-n // 64)
    packed = np.frombuffer(b"".join(k.to_bytes(8 * width, "little") for k in terms), "<i8")
    support = torch.tensor(packed, device=roots.device).reshape(-1, width)
    rows = [total[k] for k in terms]
    return support, support.new_tensor(rows, dtype=torch.float64).reshape(-1, groups)


def superset_sums(support: Tensor, coefs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    order, columns = weights.shape
    bits = (support[..., None] >> torch.arange(64, device=support.device) & 1).flatten(
        1
    )  # (S, 64 W)
    total: dict[tuple[int, ...], float] = {}
    for row, coef in zip(bits, coefs.tolist(), strict=True):
        k = row.nonzero().flatten().tolist()
        for size in range(1, order + 1):
            if len(k) < columns and (weight := float(weights[size - 1, len(k)])):
                for s in itertools.combinations(k, size):
                    total[s] = total.get(s, 0.0) + weight * coef
    found = [(-abs(value), len(s), s) for s, value in total.items() if value]
    sets = [s for *_, s in sorted(found)]
    rows = [[*s, *[-1] * (order - len(s))] for s in sets]
    sums = coefs.new_tensor([total[s] for s in sets])
    found_sets = support.new_tensor(rows, dtype=torch.int32).reshape(-1, order)
    return found_sets, sums  # (M, order), (M,)
