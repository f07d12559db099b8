"""Polynomials of an atom's features that turn as they do (MACE: Batatia et al. 2022, equation 10).

A sum over ordered neighbours of any number of bodies is a product of one-neighbour sums with itself
(Drautz 2019); what remains is to couple the factors to a given l. Factors commute, so symmetric
polynomials are all there is, and they are stored as such: by monomials, most of which none has.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chemscale.bench.nn.messages import scatter_sum
from chemscale.bench.nn.multilinear import Constant, Form
from chemscale.bench.nn.spherical import coupling
from chemscale.bench.nn.tensors import num_components

Monomial = tuple[int, ...]  # components that are multiplied, ascending
Polynomial = dict[Monomial, NDArray[np.float64]]  # coefficient for each m: (2l + 1,)


@functools.cache
def basis(l_max: int, degree: int, target: int) -> tuple[Polynomial, ...]:
    """Polynomials of one degree, in components up to l_max, that turn as l = target.

    Independent of each other, complete up to degree 3. Of features whose components are independent
    and of unit variance, each has the mean square 2l + 1, but for repeated factors.
    """
    found: list[Polynomial] = []
    for degrees, group in itertools.groupby(_couplings(l_max, degree, target), lambda one: one[0]):
        rows: list[NDArray[np.float64]] = []  # orthonormal, of this combination of l
        for _, tensor in group:
            polynomial = _symmetrised(degrees, tensor)
            keys = sorted(polynomial)
            row = np.concatenate([polynomial[k] * _multiplicity(k) ** -0.5 for k in keys])
            for other in rows:
                row = row - (row @ other) * other
            for other in rows:  # again, against rounding
                row = row - (row @ other) * other
            norm = np.linalg.norm(row)
            if norm < 1e-8:
                continue  # a sum of those before
            rows.append(row / norm)
            scale = math.sqrt((2 * target + 1) / math.factorial(degree))
            values = (rows[-1] * scale).reshape(len(keys), -1)
            found.append(
                {
                    key: value * _multiplicity(key) ** 0.5
                    for key, value in zip(keys, values, strict=True)
                    if np.abs(value).max() > 1e-12
                }
            )
    return tuple(found)


def _couplings(
    l_max: int, degree: int, target: int
) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64]]]:
    """Ways to couple ascending l₁, l₂, …, one after the other, to the target."""
    for degrees in itertools.combinations_with_replacement(range(l_max + 1), degree):
        if (sum(degrees) + target) % 2:
            continue
        chains: list[tuple[int, NDArray[np.float64]]] = [(degrees[0], np.eye(2 * degrees[0] + 1))]
        for following in degrees[1:]:
            chains = [
                (three, np.tensordot(tensor, coupling(one, following, three), axes=1))
                for one, tensor in chains
                for three in range(abs(one - following), one + following + 1)
            ]
        for last, tensor in chains:
            if last == target:
                yield degrees, tensor


def _symmetrised(degrees: tuple[int, ...], tensor: NDArray[np.float64]) -> Polynomial:
    """A tensor as the polynomial it makes of features."""
    out: Polynomial = {}
    for index in np.ndindex(*tensor.shape[:-1]):
        components = (degree**2 + m for degree, m in zip(degrees, index, strict=True))
        key = tuple(sorted(components))
        out[key] = out.get(key, 0.0) + tensor[index]
    return out


def _multiplicity(monomial: Monomial) -> float:
    """Of how many entries of the symmetric tensor a monomial is the sum."""
    repeats = (len(list(same)) for _, same in itertools.groupby(monomial))
    return math.factorial(len(monomial)) / math.prod(map(math.factorial, repeats))


@dataclass(frozen=True)
class Terms:
    """All polynomials up to l = target and up to a degree, taken apart into T monomials."""

    factors: NDArray[np.int64]  # (3, T) components to multiply; one past the last is 1
    component: NDArray[np.int64]  # (T,) ascending, to which a monomial adds
    places: NDArray[np.int64]  # (2, N) monomial and polynomial of each coefficient
    values: NDArray[np.float64]  # (N,)
    sizes: dict[tuple[int, int], int]  # number of polynomials by (l, degree), in order


@functools.cache
def terms(l_max: int, degree: int, target: int) -> Terms:
    """The table of a contraction."""
    entries: list[tuple[tuple[int, Monomial], int, float]] = []
    sizes: dict[tuple[int, int], int] = {}
    number = 0
    for l_out, power in itertools.product(range(target + 1), range(1, degree + 1)):
        polynomials = basis(l_max, power, l_out)
        sizes[l_out, power] = len(polynomials)
        for polynomial in polynomials:
            for key, coefficients in polynomial.items():
                padded = key + (num_components(l_max),) * (3 - power)
                for m in np.flatnonzero(np.abs(coefficients) > 1e-12):
                    entries.append(((l_out**2 + int(m), padded), number, float(coefficients[m])))
            number += 1
    kept = sorted({term for term, _, _ in entries})
    rank = {term: place for place, term in enumerate(kept)}
    return Terms(
        factors=np.array([key for _, key in kept]).T.copy(),
        component=np.array([m for m, _ in kept]),
        places=np.array([(rank[term], number) for term, number, _ in entries]).T.copy(),
        values=np.array([value for _, _, value in entries]),
        sizes=sizes,
    )


class SymmetricContraction(nn.Module):
    """All such polynomials up to a degree, weighted by element and channel.

    Args:
        l_max: of the features.
        target: the largest l of what comes out.
        degree: the highest, at most 3, which makes messages of four bodies.
        num_elements: Z, each with weights of its own.
        width: F channels.
    """

    places: Tensor

    def __init__(self, l_max: int, target: int, degree: int, num_elements: int, width: int):
        super().__init__()
        self.terms = terms(l_max, degree, target)
        self.target = target
        places = torch.from_numpy(self.terms.places).to(torch.get_default_device())
        self.register_buffer("places", places, persistent=False)
        count = np.arange(len(self.terms.component))
        self.form = Form(np.array([self.terms.component, count, *self.terms.factors]))
        self.values = Constant(self.terms.values[:, None, None])
        totals = np.zeros(target + 1)
        for (l_out, _), size in self.terms.sizes.items():
            totals[l_out] += size
        spread = np.concatenate(
            [np.full(size, totals[l_out] ** -0.5) for (l_out, _), size in self.terms.sizes.items()]
        )
        weights = torch.randn(num_elements, len(spread), width)
        self.weights = nn.Parameter(weights * torch.tensor(spread[:, None], dtype=weights.dtype))

    def coefficients(self) -> Tensor:
        """Of every monomial, for each element and channel: (Z, T, F)."""
        weights = self.weights.transpose(0, 1)  # (polynomials, Z, F)
        entries = weights.index_select(0, self.places[1]) * self.values(weights)
        return scatter_sum(entries, self.places[0], self.form.num_terms).transpose(0, 1)

    def forward(self, features: Tensor, elements: Tensor) -> Tensor:
        """Features (A, components, F) of atoms whose elements are numbered (A,), to (A, …, F)."""
        padded = torch.cat((features, torch.ones_like(features[:, :1])), dim=1)
        shape = features.shape[0], num_components(self.target)
        rows = None, elements, None, None, None
        return self.form(shape, rows, self.coefficients(), padded, padded, padded)
