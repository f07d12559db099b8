"""Polynomials of an atom's features that turn as they do (MACE: Batatia et al. 2022, equation 10).

A sum over ordered neighbours of any number of bodies is a product of one-neighbour sums with itself
(Drautz 2019); what remains is to couple the factors to a given l. Since factors commute, a symmetric
polynomial is all there is, and it is stored as such: by its monomials, most of which no path has.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chemscale.bench.nn.messages import scatter_sum
from chemscale.bench.nn.spherical import coupling
from chemscale.bench.nn.tensors import Constant, num_components

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


class SymmetricContraction(nn.Module):
    """All such polynomials up to a degree, weighted by element and channel.

    Args:
        l_max: of the features.
        target: the largest l of what comes out.
        degree: the highest; 3 makes messages of four bodies.
        num_elements: Z, each with weights of its own.
        width: F channels.

    Attributes:
        sizes: number of polynomials by (l, degree), in the order of the weights.
    """

    factors: Tensor  # (3, T) components to multiply; one past the last is 1
    component: Tensor  # (T,) to which a term adds
    places: Tensor  # (2, N) term and polynomial of each entry

    def __init__(self, l_max: int, target: int, degree: int, num_elements: int, width: int):
        super().__init__()
        self.sizes: dict[tuple[int, int], int] = {}
        self.target = target
        terms: dict[tuple[int, Monomial], int] = {}
        entries: list[tuple[int, int]] = []
        values: list[float] = []
        spreads: list[float] = []
        one, start = num_components(l_max), 0
        for l_out in range(target + 1):
            total = sum(len(basis(l_max, n, l_out)) for n in range(1, degree + 1))
            for n in range(1, degree + 1):
                polynomials = basis(l_max, n, l_out)
                self.sizes[l_out, n] = len(polynomials)
                for number, polynomial in enumerate(polynomials, start=start):
                    for key, coefficients in polynomial.items():
                        padded = key + (one,) * (3 - n)
                        for m in np.flatnonzero(np.abs(coefficients) > 1e-12):
                            term = terms.setdefault((l_out**2 + int(m), padded), len(terms))
                            entries.append((term, number))
                            values.append(float(coefficients[m]))
                start += len(polynomials)
                spreads += [total**-0.5] * len(polynomials)
        order = sorted(range(len(terms)), key=list(terms).__getitem__)
        rank = {term: place for place, term in enumerate(order)}
        kept = sorted(terms)
        self.register_buffer("factors", torch.tensor([k for _, k in kept]).T, persistent=False)
        self.register_buffer("component", torch.tensor([m for m, _ in kept]), persistent=False)
        places = torch.tensor([(rank[term], number) for term, number in entries]).T
        self.register_buffer("places", places, persistent=False)
        self.values = Constant(np.array(values)[:, None])
        weights = torch.randn(num_elements, start, width) * torch.tensor(spreads)[:, None]
        self.weights = nn.Parameter(weights)

    def coefficients(self) -> Tensor:
        """Of every monomial, for each element and channel: (Z, T, F)."""
        weights = self.weights.transpose(0, 1)  # (polynomials, Z, F)
        entries = weights.index_select(0, self.places[1]) * self.values(weights)[:, None]
        terms = scatter_sum(entries, self.places[0], len(self.component))
        return terms.transpose(0, 1)

    def forward(self, features: Tensor, elements: Tensor) -> Tensor:
        """Features (A, components, F) of atoms whose elements are numbered (A,), to (A, …, F)."""
        ones = torch.ones_like(features[:, :1])
        padded = torch.cat((features, ones), dim=1)
        first, second, third = (padded.index_select(1, factor) for factor in self.factors)
        monomials = first * second * third  # (A, T, F)
        terms = monomials * self.coefficients().index_select(0, elements)
        out = features.new_zeros(len(features), num_components(self.target), features.shape[2])
        return out.index_add(1, self.component, terms)
