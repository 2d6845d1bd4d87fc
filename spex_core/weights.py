"""The weights w(s, d) that turn Fourier terms into interaction indices.

All the indices here but OR and Influence are linear in the Moebius coefficients a(T), with a weight
mu(|S|, |T|) for each T >= S, and a(T) = (-2)**|T| sum over k >= T of F[k]. The two sums make one:

    value(S) = sum over k >= S of w(|S|, |k|) F[k],
    w(s, d)  = sum over j = s..d of C(d - s, j - s) (-2)**j mu(s, j).

A weight is a function of s = |S|, d = |k| >= s and the order l that was asked for, and it is exact,
an int or a Fraction: the sum over j alternates, and in floats nothing is left of it from d = 30 on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from math import comb

Weight = Callable[[int, int, int], Fraction | int]


def fourier(s: int, d: int, order: int) -> int:
    return int(d == s)


def moebius(s: int, d: int, order: int) -> int:
    """mu = [j = s]."""
    return (-2) ** s


def co_moebius(s: int, d: int, order: int) -> int:
    """mu = 1: the sum of a(T) over T >= S."""
    return (-1) ** d * 2**s


def or_(s: int, d: int, order: int) -> int:
    """f(m) = value(()) + the sum of value(S) over the S that have a feature present in m."""
    return -((-2) ** s) * (-1) ** d if s else 1


def bii(s: int, d: int, order: int) -> int:
    """mu = 2**-(j - s): all cancels but d = s."""
    return (-2) ** s if d == s else 0


def sii(s: int, d: int, order: int) -> Fraction | int:
    """mu = 1 / (j - s + 1): (-2)**s times the integral of (1 - 2 x)**(d - s) over [0, 1]."""
    return 0 if (d - s) % 2 else Fraction((-2) ** s, d - s + 1)


def sv(s: int, d: int, order: int) -> Fraction | int:
    """SII of single features, beside the value that they start from."""
    return sii(s, d, order) if s else 1


@functools.cache
def k_sii(s: int, d: int, order: int) -> Fraction | int:
    """The sum over i = 0..l-s of B_i times SII of every S + i features, C(d - s, i) within k."""
    if s == 0:
        return 1
    return sum(
        bernoulli(i) * comb(d - s, i) * sii(s + i, d, order) for i in range(min(order, d) - s + 1)
    )


@functools.cache
def stii(s: int, d: int, order: int) -> Fraction | int:
    """mu = [j = s] below l and 1 / C(j, l) at s = l."""
    if s < order:
        return (-2) ** s
    return through_moebius(s, d, s, lambda j: Fraction(1, comb(j, s)))


def fbii(s: int, d: int, order: int) -> int:
    """The Moebius coefficients of f without its terms above l: its best fit of degree l."""
    return (-2) ** s if d <= order else 0


@functools.cache
def fsii(s: int, d: int, order: int) -> Fraction | int:
    """mu = [j = s], and for j > l
    (-1)**(l - s) s / (l + s) C(l, s) C(j - 1, l) / C(j + l - 1, l + s)."""
    share = (-1) ** (order - s) * Fraction(s, order + s) * comb(order, s)
    above = through_moebius(
        s, d, order + 1, lambda j: Fraction(comb(j - 1, order), comb(j + order - 1, order + s))
    )
    return (-2) ** s + share * above


def influence(s: int, d: int, order: int) -> int:
    """Of F[k]**2."""
    return int(d > 0)


def through_moebius(s: int, d: int, least: int, mu: Callable[[int], Fraction]) -> Fraction:
    """The part of w(s, d) that goes through the Moebius coefficients of size j >= least >= s."""
    parts = (comb(d - s, j - s) * (-2) ** j * mu(j) for j in range(least, d + 1))
    return sum(parts, Fraction(0))


@functools.cache
def bernoulli(i: int) -> Fraction:
    """The Bernoulli numbers 1, -1/2, 1/6, 0, -1/30, ..."""
    lower = sum((comb(i + 1, j) * bernoulli(j) for j in range(i)), Fraction(0))
    return -lower / (i + 1) if i else Fraction(1)


INDICES: dict[str, Weight] = {
    "Fourier": fourier,
    "Moebius": moebius,
    "Co-Moebius": co_moebius,
    "OR": or_,
    "BV": bii,
    "SV": sv,
    "BII": bii,
    "SII": sii,
    "k-SII": k_sii,
    "STII": stii,
    "FBII": fbii,
    "FSII": fsii,
    "Influence": influence,
}
