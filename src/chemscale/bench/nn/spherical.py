"""Real spherical harmonics, and the numbers that couple them.

Conventions are those of e3nn: the polar axis is y, so that l = 1 is (x, y, z); the squares of the
2l + 1 harmonics of an l sum to 2l + 1; a coupling has unit norm. `tensors` says how features lie.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def spherical_harmonics(directions: Tensor, l_max: int) -> Tensor:
    """Harmonics of unit vectors, l after l and m from -l to l: (E, 3) to (E, (l_max + 1)²).

    By recursion in l for each m, with (z + i x)^m for the azimuth: elementwise, so that any number
    of derivatives can be taken.
    """
    x, y, z = directions.unbind(1)
    found: dict[tuple[int, int], Tensor] = {}
    one = torch.ones_like(y)
    cosine, sine = z, x  # of the azimuth, times sin(polar angle)^m; from m = 1
    for m in range(l_max + 1):
        if m > 1:
            cosine, sine = z * cosine - x * sine, x * cosine + z * sine
        # Numbers while they are constant: of few edges every operation costs the same.
        before: Tensor | float = 0.0
        legendre: Tensor | float = float(math.prod(range(1, 2 * m, 2)))  # (2m - 1)!!
        for degree in range(m, l_max + 1):
            if degree > m:
                ahead = (2 * degree - 1) * y * legendre - (degree + m - 1) * before
                before, legendre = legendre, ahead / (degree - m)
            ratio = math.factorial(degree - m) / math.factorial(degree + m)
            scaled = math.sqrt((2 * degree + 1) * (2 if m else 1) * ratio) * legendre
            found[degree, m] = scaled * (cosine if m else one)
            if m:
                found[degree, -m] = scaled * sine
    columns = [found[degree, m] for degree in range(l_max + 1) for m in range(-degree, degree + 1)]
    return torch.stack(columns, dim=1)


@functools.cache
def coupling(first: int, second: int, third: int) -> NDArray[np.float64]:
    """The invariant of three real harmonics, Wigner's 3j symbol: (2l₁ + 1, 2l₂ + 1, 2l₃ + 1).

    Zero unless the three make a triangle. From Racah's formula for complex harmonics.
    """
    shape = (2 * first + 1, 2 * second + 1, 2 * third + 1)
    out = np.zeros(shape, dtype=complex)
    if not abs(first - second) <= third <= first + second:
        return np.zeros(shape)
    for m1 in range(-first, first + 1):
        for m2 in range(max(-second, -third - m1), min(second, third - m1) + 1):
            value = _clebsch_gordan(first, m1, second, m2, third, m1 + m2)
            out[first + m1, second + m2, third + m1 + m2] = value
    one, two, three = (_complex_of_real(degree) for degree in (first, second, third))
    real = np.einsum("abc,ai,bj,ck->ijk", out, one, two, three.conj())
    assert np.abs(real.imag).max() < 1e-12
    return np.asarray(real.real / np.linalg.norm(real.real))


def _complex_of_real(degree: int) -> NDArray[np.complex128]:
    """Columns are real harmonics in terms of complex ones; the phase makes all couplings real."""
    out = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    out[degree, degree] = 1
    for m in range(1, degree + 1):
        sign, root = (-1) ** m, math.sqrt(0.5)
        out[degree + m, degree + m], out[degree - m, degree + m] = sign * root, root
        out[degree + m, degree - m], out[degree - m, degree - m] = -1j * sign * root, 1j * root
    return 1j**degree * out


def _clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j: int, m: int) -> float:
    """⟨j₁ m₁ j₂ m₂ | j m⟩ (Racah 1942), summed in whole numbers."""
    fact = math.factorial
    square = (2 * j + 1) * fact(j + j1 - j2) * fact(j - j1 + j2) * fact(j1 + j2 - j)
    square *= fact(j + m) * fact(j - m) * fact(j1 + m1) * fact(j1 - m1)
    square *= fact(j2 + m2) * fact(j2 - m2)
    total = 0.0
    for k in range(j1 + j2 - j + 1):
        terms = (k, j1 + j2 - j - k, j1 - m1 - k, j2 + m2 - k, j - j2 + m1 + k, j - j1 - m2 + k)
        if min(terms) >= 0:
            total += (-1) ** k / math.prod(map(fact, terms))
    return total * math.sqrt(square / fact(j1 + j2 + j + 1))
