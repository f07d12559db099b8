"""Features that turn with the molecule, and their products.

One layout for all families: (…, components, channels). Components are those of the harmonics of
`spherical`, l after l from 0 to l_max, in all (l_max + 1)²; under inversion they change sign as
(-1)^l. Every channel has every l. Channels lie last, so that sums over them run through memory.

A product takes l₁ and l₂ to l₃; such a triple is a path. Parity keeps those of an even sum.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chemscale.bench.nn import native
from chemscale.bench.nn.messages import scatter_sum
from chemscale.bench.nn.multilinear import Constant, Form
from chemscale.bench.nn.spherical import coupling


def num_components(l_max: int) -> int:
    """Of features up to l_max: (l_max + 1)²."""
    return (l_max + 1) ** 2


def place(degree: int) -> slice:
    """Where the components of one l lie."""
    return slice(degree**2, (degree + 1) ** 2)


def paths(first: int, second: int, third: int) -> list[tuple[int, int, int]]:
    """Triples (l₁, l₂, l₃) up to the given l each that couple, in order of l₃, l₁, l₂."""
    return [
        (one, two, three)
        for three in range(third + 1)
        for one in range(first + 1)
        for two in range(abs(one - three), min(second, one + three) + 1)
        if (one + two + three) % 2 == 0
    ]


class Product(nn.Module):
    """Products of features with harmonics, each path weighted by itself.

    Attributes:
        paths: P triples, in order of l₃.
        path: (R,) of each of the R components that all paths have together, which path it is of.
    """

    path: Tensor

    def __init__(self, first: int, second: int, third: int):
        super().__init__()
        self.paths = paths(first, second, third)
        table, path = _table(self.paths, num_components(first), num_components(second))
        second_of, row, first_of = np.nonzero(table)
        values = table[second_of, row, first_of]
        self.form = Form(np.array([row, first_of, second_of, path[row]]), values)
        self.shape = table.shape
        self.table = Constant(table.reshape(len(table), -1))
        self.register_buffer("path", torch.tensor(path), persistent=False)

    @property
    def rows(self) -> int:
        """R."""
        return self.shape[1]

    def gather(
        self,
        features: Tensor,
        harmonics: Tensor,
        weights: Tensor,
        senders: Tensor,
        receivers: Tensor,
    ) -> Tensor:
        """Each atom sums the products that its neighbours' features make with their edges.

        Args:
            features: (A, components, F).
            harmonics: (E, components).
            weights: (E, P, F).
            senders: (E,).
            receivers: (E,).

        Returns:
            (A, R, F).
        """
        if native.serves(features) or native.serves_on_gpu(features):
            rows = receivers, senders, None, None
            shape = features.shape[0], self.rows
            return self.form(shape, rows, features, harmonics[:, :, None], weights)
        matrices = (harmonics @ self.table(harmonics)).unflatten(1, self.shape[1:])
        sent = torch.bmm(matrices, features.index_select(0, senders))  # (E, R, F)
        sent = sent * weights.index_select(1, self.path)
        return scatter_sum(sent, receivers, features.shape[0])


class ChannelProduct:
    """Products of features with features, channel by channel.

    Attributes:
        paths: P triples, in order of l₃, which together have R components.
    """

    def __init__(self, first: int, second: int, third: int):
        self.paths = paths(first, second, third)
        table, _ = _table(self.paths, num_components(first), num_components(second))
        second_of, row, first_of = np.nonzero(table)
        values = table[second_of, row, first_of]
        self.rows = table.shape[1]
        self.form = Form(np.array([row, first_of, second_of]), values)

    def __call__(self, features: Tensor, others: Tensor, owners: Tensor) -> Tensor:
        """Features (E, components, F) with those (A, components, F) of their owners (E,).

        Returns:
            (E, R, F).
        """
        return self.form((features.shape[0], self.rows), (None, None, owners), features, others)


class Spread:
    """Harmonics times a number for each l and channel."""

    def __init__(self, l_max: int):
        degrees = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
        place = np.arange(len(degrees))
        self.form = Form(np.array([place, degrees, place]))

    def __call__(self, weights: Tensor, harmonics: Tensor) -> Tensor:
        """Of each edge: (E, l_max + 1, F) and (E, components) to (E, components, F)."""
        shape = harmonics.shape[0], harmonics.shape[1]
        return self.form(shape, (None, None, None), weights, harmonics[:, :, None])

    def gather(
        self, weights: Tensor, harmonics: Tensor, receivers: Tensor, num_atoms: int
    ) -> Tensor:
        """Summed over the edges of each atom: (A, components, F)."""
        shape = num_atoms, harmonics.shape[1]
        return self.form(shape, (receivers, None, None), weights, harmonics[:, :, None])


class Mix(nn.Module):
    """Linear maps of channels, another for each l; several paths may lead to an l.

    Rows of one l come path after path, as a `Product` gives them. Weights are drawn from a normal
    distribution and scaled by the root of how many channels they sum.
    """

    def __init__(self, num_paths: list[int], inputs: int, outputs: int):
        super().__init__()
        self.num_paths = num_paths  # to each l from 0
        self.weights = nn.ParameterList(
            torch.randn(number * inputs, outputs) for number in num_paths
        )

    def forward(self, features: Tensor) -> Tensor:
        """(A, R, inputs) to (A, components, outputs)."""
        sizes = [number * (2 * degree + 1) for degree, number in enumerate(self.num_paths)]
        mixed = []
        for degree, part in enumerate(features.split(sizes, dim=1)):
            number, weight = self.num_paths[degree], self.weights[degree]
            if number > 1:
                part = part.unflatten(1, (number, -1)).transpose(1, 2).flatten(2)
            mixed.append(part @ (weight * len(weight) ** -0.5))
        return torch.cat(mixed, dim=1)


def paths_to(product: Product | ChannelProduct) -> list[int]:
    """How many paths lead to each l."""
    ends = [three for _, _, three in product.paths]
    return [ends.count(degree) for degree in range(max(ends) + 1)]


def _table(
    triples: list[tuple[int, int, int]], num_first: int, num_second: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Numbers (second, R, first) of a product, and which path (R,) a component is of.

    They are such that a product of independent features of unit variance has unit variance.
    """
    path = np.repeat(np.arange(len(triples)), [2 * three + 1 for _, _, three in triples])
    table = np.zeros((num_second, len(path), num_first))
    start = 0
    for one, two, three in triples:
        values = math.sqrt(2 * three + 1) * coupling(one, two, three)
        rows = slice(start, start + 2 * three + 1)
        table[place(two), rows, place(one)] = values.transpose(1, 2, 0)
        start = rows.stop
    return table, path
