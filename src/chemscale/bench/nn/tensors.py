"""Features that turn with the molecule, and their products.

One layout for all families: (…, components, channels). Components are those of the harmonics of
`spherical`, l after l from 0 to l_max, in all (l_max + 1)²; l changes sign under inversion as (-1)^l.
Every channel has every l. Channels lie last, so that sums over them run through memory.

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
        rows = sum(2 * three + 1 for _, _, three in self.paths)
        table = np.zeros((num_components(second), rows, num_components(first)))
        start, path = 0, []
        for number, (one, two, three) in enumerate(self.paths):
            end = start + 2 * three + 1
            # Each component of a product has the mean square of the features'.
            values = math.sqrt(2 * three + 1) * coupling(one, two, three)
            table[place(two), start:end, place(one)] = values.transpose(1, 2, 0)
            path += [number] * (2 * three + 1)
            start = end
        self.shape = table.shape
        second_of, row, first_of = np.nonzero(table)
        self.form = Form(
            np.array([row, first_of, second_of, np.array(path)[row]]), table[second_of, row, first_of]
        )
        self.table = Constant(table.reshape(len(table), -1))
        self.register_buffer("path", torch.tensor(path), persistent=False)

    @property
    def rows(self) -> int:
        """R."""
        return self.shape[1]

    def gather(
        self, features: Tensor, harmonics: Tensor, weights: Tensor, senders: Tensor,
        receivers: Tensor
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
        if native.serves(features):
            rows = receivers, senders, None, None
            shape = len(features), self.rows
            return self.form(shape, rows, features, harmonics[:, :, None], weights)
        matrices = (harmonics @ self.table(harmonics)).unflatten(1, self.shape[1:])
        sent = torch.bmm(matrices, features.index_select(0, senders))  # (E, R, F)
        sent = sent * weights.index_select(1, self.path)
        return scatter_sum(sent, receivers, len(features))


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


def paths_to(product: Product) -> list[int]:
    """How many paths lead to each l."""
    ends = [three for _, _, three in product.paths]
    return [ends.count(degree) for degree in range(max(ends) + 1)]
