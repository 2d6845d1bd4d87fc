"""Binary BCH codes: the field tables and parity checks that delays and decoding share.

A code of length 2**m - 1 that corrects t errors, in systematic form and shortened to n features:
bit i of a feature set k sits at position r + i of its codeword, and its r parities, the
coefficients of k(x) x**r mod g(x), at positions 0 .. r - 1. Two different sets of at most t
features never have the same parities, which is what lets SPEX name a set from the signs of its bin
at r delays.
Source: Kang et al. 2025 (SPEX, arXiv 2502.13870); MacWilliams and Sloane, chapter 7, section 6.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .errors import check, check_int

MAX_N = 2**19
MAX_T = 10

# Primitive polynomials over GF(2), one for each m; bit i is the coefficient of x**i.
PRIMITIVE = {
    2: 0x7, 3: 0xB, 4: 0x13, 5: 0x25, 6: 0x43, 7: 0x83, 8: 0x11D, 9: 0x211, 10: 0x409, 11: 0x805,
    12: 0x1053, 13: 0x201B, 14: 0x4443, 15: 0x8003, 16: 0x1100B, 17: 0x20009, 18: 0x40081,
    19: 0x80027, 20: 0x100009,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class BchCode:
    """A shortened systematic BCH code and the tables its decoder reads.

    Attributes:
        n: features, 1 to 2**19.
        t: errors corrected, 1 to 10.
        m: the field is GF(2**m).
        parities: r, at most m t.
        exp: int32 (2 (2**m - 1),), alpha**i.
        log: int32 (2**m,), log[0] unused.
        syndromes: int32 (r, t), alpha**((2 j + 1) q): what parity q adds to syndrome 2 j + 1.
        columns: int64 (n, ceil((1 + r) / 64)), bits: row i has entry i of every delay; bit 0, the
            zero delay, is 0 and bit 1 + q is parity q.
    """

    n: int
    t: int
    m: int
    parities: int
    exp: Tensor
    log: Tensor
    syndromes: Tensor
    columns: Tensor

    @property
    def delays(self) -> int:
        """1 + r: the zero delay and one for each parity."""
        return 1 + self.parities

    @functools.lru_cache(maxsize=16)  # noqa: B019 - as many as bch_code remembers
    def on(self, device: torch.device) -> BchCode:
        """The code with its tables on a device, copied there once."""
        names = "exp", "log", "syndromes", "columns"
        tables = {name: getattr(self, name).to(device) for name in names}
        return dataclasses.replace(self, **tables)


@functools.lru_cache(maxsize=16, typed=True)  # True and 1.0 are refused even after 1
def bch_code(n: int, t: int) -> BchCode:
    """The shortest BCH code with room for n features that corrects t errors.

    Args:    n: 1 to 2**19. t: 1 to 10.
    Cost:    O(2**m + n) once, then remembered; about a second at n = 2**19.
    Example: bch_code(128, 5).delays  # 41
    """
    n = check_int("bch_code: n", n, 1, MAX_N)
    t = check_int("bch_code: t", t, 1, MAX_T)
    m, parities = dimensions(n, t)
    exp, log = field(m)
    exponents = np.outer(np.arange(parities), 2 * np.arange(t) + 1) % (2**m - 1)
    columns = remainders(generator(m, t), parities, n) << 1  # Python integers: any width
    return BchCode(
        n=n,
        t=t,
        m=m,
        parities=parities,
        exp=torch.from_numpy(exp),
        log=torch.from_numpy(log),
        syndromes=torch.from_numpy(exp[exponents]),
        columns=_pack_integers(columns, parities + 1),
    )


def dimensions(n: int, t: int) -> tuple[int, int]:
    """(m, r) of the shortest code with 2**m - 1 - r >= n, without building it."""
    for m in PRIMITIVE:
        parities = len(roots(m, t))
        if 2**m - 1 - parities >= n:
            return m, parities
    check(False, "bch_code: n must be at most {} for t = {}, got {}", MAX_N, t, n)
    raise AssertionError


@functools.cache
def roots(m: int, t: int) -> frozenset[int]:
    """Exponents of the roots of the generator: the cyclotomic cosets of 1, 3, ..., 2 t - 1."""
    order = 2**m - 1
    found: set[int] = set()
    for first in range(1, 2 * t, 2):
        e = first % order
        while e not in found:
            found.add(e)
            e = 2 * e % order
    return frozenset(found)


@functools.cache
def field(m: int) -> tuple[np.ndarray, np.ndarray]:
    """exp int32 (2 (2**m - 1),) and log int32 (2**m,) of GF(2**m) to the base of a primitive
    element."""
    order = 2**m - 1
    exp = np.empty(order, np.int32)
    element = 1
    for i in range(order):
        exp[i] = element
        element <<= 1
        if element >> m:
            element ^= PRIMITIVE[m]
    log = np.zeros(2**m, np.int32)
    log[exp] = np.arange(order)
    return np.concatenate([exp, exp]), log


@functools.cache
def generator(m: int, t: int) -> int:
    """The generator polynomial over GF(2), as an integer: the product of x - alpha**e over the
    roots."""
    exp, log = field(m)
    poly: np.ndarray = np.array([1], np.int32)  # highest degree first
    for e in roots(m, t):
        times = np.where(poly > 0, exp[log[poly] + e], 0)
        poly = np.append(poly, 0) ^ np.append(0, times).astype(np.int32)
    return int("".join(map(str, poly)), 2)


def remainders(g: int, degree: int, n: int) -> _Integers:
    """x**(degree + i) mod g for i in 0 .. n - 1."""
    out, rest, top = [], g ^ 1 << degree, 1 << degree
    for _ in range(n):
        out.append(rest)
        rest <<= 1
        if rest & top:
            rest ^= g
    return np.array(out, dtype=object)


_Integers = np.ndarray  # of Python integers


def _pack_integers(integers: _Integers, bits: int) -> Tensor:
    """Integers of up to `bits` bits -> packed int64 (len, ceil(bits / 64))."""
    size = 8 * (-(-bits // 64))
    data = b"".join(x.to_bytes(size, "little") for x in integers)
    return torch.from_numpy(np.frombuffer(data, "<i8").reshape(len(integers), -1).copy())
