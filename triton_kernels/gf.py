"""Polynomials over GF(2**m) for the BCH decoder, a lane each; lowest coefficient first, as tuples
of int32 blocks whose loops are unrolled. exp and log are the tables of codes.BchCode."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def times(exp_ptr, log_ptr, a, b):
    product = tl.load(exp_ptr + tl.load(log_ptr + a) + tl.load(log_ptr + b))
    return tl.where((a != 0) & (b != 0), product, 0)


@triton.jit
def over(exp_ptr, log_ptr, a, b, order):
    """a / b; b is not 0."""
    quotient = tl.load(exp_ptr + tl.load(log_ptr + a) + order - tl.load(log_ptr + b))
    return tl.where(a != 0, quotient, 0)


@triton.jit
def connection(exp_ptr, log_ptr, odd, order, T: tl.constexpr):
    """Berlekamp-Massey (Massey 1969) on the odd syndromes S_1, S_3, ... of a binary code: the
    connection polynomial (T + 1 coefficients) and its degree, -1 where more than T errors are.
    As csrc/bch.h, but the shorter polynomial is kept multiplied by its shift."""
    zero = tl.zeros_like(odd[0])
    s = (odd[0],)  # S_1, S_2, ...
    for k in tl.static_range(2, 2 * T + 1):
        if k % 2 == 1:
            s = s + (odd[k // 2],)
        else:
            s = s + (times(exp_ptr, log_ptr, s[k // 2 - 1], s[k // 2 - 1]),)
    past, future = (s[0],), s[1:] + (zero,)  # S_step, S_(step - 1), ...; S_(step + 1), ...
    c, shifted = (zero + 1,), (zero, zero + 1)
    for i in tl.static_range(T):
        past, c = past + (zero,), c + (zero,)
        if i < T - 1:
            shifted = shifted + (zero,)
    degree, last, step = zero, zero + 1, zero + 1
    for _ in range(T):
        d = zero
        for i in tl.static_range(T + 1):
            d ^= times(exp_ptr, log_ptr, c[i], past[i])
        grows = (d != 0) & (2 * degree < step)
        factor = over(exp_ptr, log_ptr, d, last, order)
        grown, longer = (c[0],), (zero, zero)
        for i in tl.static_range(1, T + 1):
            grown = grown + (c[i] ^ times(exp_ptr, log_ptr, factor, shifted[i]),)
        for i in tl.static_range(T - 1):
            longer = longer + (tl.where(grows, c[i], shifted[i]),)
        c, shifted = grown, longer
        degree = tl.where(grows, step - degree, degree)
        last = tl.where(grows, d, last)
        past = (future[1], future[0]) + past[: T - 1]
        future = future[2:] + (zero, zero)
        step += 2
    top = zero + 1  # the leading coefficient
    for i in tl.static_range(1, T + 1):
        top = tl.where(degree == i, c[i], top)
    return c, tl.where((degree <= T) & (top != 0), degree, -1)


@triton.jit
def splits(exp_ptr, log_ptr, c, m, T: tl.constexpr):
    """Whether f, x**degree c(1 / x), has as many different roots in the field as its degree: it
    divides x**(2**m) - x. Modulo F = x**e f with e = T - degree, the same for every lane, that is
    x**T (x**(2**m) - x) = 0, since 0 is no root of f."""
    zero = tl.zeros_like(c[0])
    power = (zero,)  # x**(T - 1)
    for i in tl.static_range(1, T):
        power = power + (zero + (1 if i == T - 1 else 0),)
    if T == 1:
        power = (zero + 1,)
    even = ()  # x**e mod F for the even e from T on
    for e in tl.static_range(T, 2 * T):
        power = times_x(exp_ptr, log_ptr, power, c, T)
        if e % 2 == 0:
            even = even + (power,)
    x = (c[1],)
    if T > 1:
        x = (zero, zero + 1)
    for _ in tl.static_range(T - 2):
        x = x + (zero,)
    y = x
    for _ in range(m):
        y = square(exp_ptr, log_ptr, y, even, T)
    rest = (y[0] ^ x[0],)
    for i in tl.static_range(1, T):
        rest = rest + (y[i] ^ x[i],)
    for _ in range(T):
        rest = times_x(exp_ptr, log_ptr, rest, c, T)
    left = zero
    for i in tl.static_range(T):
        left |= rest[i]
    return left == 0


@triton.jit
def times_x(exp_ptr, log_ptr, poly, c, T: tl.constexpr):
    """x poly modulo F = x**T c(1 / x), which is monic: its coefficient i is c[T - i]."""
    out = (times(exp_ptr, log_ptr, poly[T - 1], c[T]),)
    for i in tl.static_range(1, T):
        out = out + (poly[i - 1] ^ times(exp_ptr, log_ptr, poly[T - 1], c[T - i]),)
    return out


@triton.jit
def square(exp_ptr, log_ptr, y, even, T: tl.constexpr):
    """y**2 modulo F, sum_j y_j**2 x**(2 j); even has x**(2 j) modulo F for 2 j from T on."""
    squares = (times(exp_ptr, log_ptr, y[0], y[0]),)
    for j in tl.static_range(1, T):
        squares = squares + (times(exp_ptr, log_ptr, y[j], y[j]),)
    out = ()
    for i in tl.static_range(T):
        total = tl.zeros_like(y[0])
        if i % 2 == 0:
            total = squares[i // 2]
        for j in tl.static_range((T + 1) // 2, T):
            reduced = even[j - (T + 1) // 2][i]
            total ^= times(exp_ptr, log_ptr, squares[j], reduced)
        out = out + (total,)
    return out
