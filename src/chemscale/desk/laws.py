"""The forms a loss may follow, each as its formula. Scalars and arrays broadcast alike."""

from __future__ import annotations

import numpy as np

from chemscale.table.results import Array

MAX_EXPONENT = 2.0  # of every form here; measured ones of chemical models lie between 0.1 and 1.5


def power(x: float | Array, coefficient: float | Array, exponent: float | Array) -> Array:
    """Power law, y = A·x^-a: a straight line on double-logarithmic paper (Hestness et al. 2017).

    Biased low at large x where there is a floor.
    """
    return np.asarray(np.asarray(coefficient) * np.asarray(x, float) ** -np.asarray(exponent))


def power_floor(
    x: float | Array,
    irreducible_loss: float | Array,
    coefficient: float | Array,
    exponent: float | Array,
) -> Array:
    """Power law with a floor, y = E + A·x^-a: down to a loss that nothing along x removes.

    M2 of Alabdulmohsin et al. 2022.
    """
    return np.asarray(irreducible_loss + power(x, coefficient, exponent))


def additive_surface(
    num_params: float | Array,
    num_train: float | Array,
    irreducible_loss: float | Array,
    size_coefficient: float | Array,
    size_exponent: float | Array,
    data_coefficient: float | Array,
    data_exponent: float | Array,
) -> Array:
    """L(N, D) = E + A·N^-a + B·D^-b (Hoffmann et al. 2022, approach 3).

    The two shortages add; a break in D, which graph networks on materials show, is not in it.
    """
    size_term = power(num_params, size_coefficient, size_exponent)
    data_term = power(num_train, data_coefficient, data_exponent)
    return np.asarray(irreducible_loss + size_term + data_term)
