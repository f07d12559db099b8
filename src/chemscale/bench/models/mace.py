"""MACE: messages of many bodies by symmetric contraction (Batatia et al., NeurIPS 2022).

Each atom sums what its neighbours send, features times harmonics of the edge (equations 8 and 9),
and takes all polynomials of that sum that turn as it does, up to a degree (10 and 11): messages of
degree + 1 bodies at the cost of two. The sum with the features before, by element, is the update
(12). Energies of every layer are added (13), by a linear map and in the last by a small network.

As in mace-torch with `RealAgnosticResidualInteractionBlock`, whose function this is, weight for
weight; only the polynomials are a basis, where theirs have sums of each other among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.models.base import Passes, Potential, widths
from chemscale.bench.nn.contraction import SymmetricContraction
from chemscale.bench.nn.layers import NormalMLP
from chemscale.bench.nn.radial import Sines, polynomial_cutoff
from chemscale.bench.nn.spherical import spherical_harmonics
from chemscale.bench.nn.tensors import Mix, Product, num_components, paths_to
from chemscale.table.record import Record
from chemscale.table.records import Recipe

if TYPE_CHECKING:
    from chemscale.bench.data.base import Indices
    from chemscale.bench.data.graphs import Structures


class MACE(Potential):
    """MACE as one number per atom."""

    class Config(Record):
        """Architecture of one size."""

        width: PositiveInt
        num_layers: PositiveInt = 2
        l_max: NonNegativeInt = 1  # of the features that layers hand on
        l_edge: NonNegativeInt = 3  # of harmonics and messages
        degree: PositiveInt = 3  # of the contraction
        num_basis: PositiveInt = 8
        radial_width: PositiveInt = 64
        readout_width: PositiveInt = 16
        elements: tuple[PositiveInt, ...] = (1, 6, 7, 8)
        cutoff: PositiveFloat = 4.0  # Å

    revision = 1
    recordable = True
    ladder = {
        **widths(Config, 8, 16, 24, 32, 48),
        "w64-l0": Config(width=64, l_max=0),
        **widths(Config, 64),
        "w64-l2": Config(width=64, l_max=2),
        "w64-d3": Config(width=64, num_layers=3),
        **widths(Config, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192),
    }

    config: Config
    neighbours: Tensor  # (), mean number in the training subset
    numbers: Tensor  # (101,) places of the elements among those of the config

    def __init__(self, config: Config):
        super().__init__(config)
        width, last = config.width, config.num_layers - 1
        self.embedding = nn.Parameter(torch.randn(len(config.elements), width))
        self.radial = Sines(config.num_basis, config.cutoff)
        self.layers = nn.ModuleList(
            Layer(config, config.l_max if k else 0, config.l_max if k < last else 0)
            for k in range(config.num_layers)
        )
        # Energies start as the zero function, so that sizes start alike.
        self.linear_readouts = nn.ParameterList(torch.zeros(width, 1) for _ in range(last))
        self.readout = NormalMLP((width, config.readout_width, 1))
        nn.init.zeros_(self.readout.weights[-1])
        self.register_buffer("neighbours", torch.ones(()))
        numbers = torch.zeros(101, dtype=torch.int64)
        for number, element in enumerate(config.elements):
            numbers[element] = number
        # An element that is not among them has no reference energy either: no number comes out.
        self.register_buffer("numbers", numbers, persistent=False)

    @classmethod
    def fitted_config(cls, size: str, dataset: Structures) -> Record:
        """The config of a size, with the elements of the dataset."""
        return cls.ladder[size].model_copy(update={"elements": dataset.elements()})

    def calibrate(self, dataset: Structures, subset: Indices) -> None:
        """Take references, scale and mean number of neighbours from the training subset."""
        super().calibrate(dataset, subset)
        self.neighbours.fill_(dataset.mean_neighbours(subset, self.cutoff))

    def atom_energies(self, graph: GraphBatch) -> Tensor:
        # A atoms, E edges, Z elements, K basis functions, M components of harmonics, F features
        config = self.config
        vectors = graph.vectors()  # (E, 3), from receiver to sender
        distances = vectors.norm(dim=1)  # (E,)
        directions = -vectors / distances[:, None]  # (E, 3), as messages flow
        harmonics = spherical_harmonics(directions, config.l_edge)  # (E, M)
        envelope = polynomial_cutoff(distances, self.cutoff) * (2.0 / self.cutoff) ** 0.5  # (E,)
        basis = self.radial(distances) * envelope[:, None]  # (E, K)
        elements = self.numbers[graph.atomic_numbers]  # (A,)
        chosen = nn.functional.one_hot(elements, len(config.elements)).to(basis.dtype)  # (A, Z)
        start = self.embedding.index_select(0, elements) * len(config.elements) ** -0.5  # (A, F)
        features, energy = start[:, None], torch.zeros_like(start[:, 0])  # (A, 1, F), (A,)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            gathered = layer.gather(features, basis, harmonics, graph) / self.neighbours
            features = layer.update(features, gathered, elements, chosen)  # (A, components, F)
            if number < len(self.linear_readouts):
                readout = self.linear_readouts[number] * config.width**-0.5  # (F, 1)
                energy = energy + (features[:, 0] @ readout).squeeze(1)
        return energy + self.readout(features[:, 0]).squeeze(1)  # (A,)

    @classmethod
    def flops_formula(cls, config: Config, recipe: Recipe) -> dict[str, float]:
        """Matrix products; the contraction and the sums over edges are elementwise."""
        forces = recipe.learns_slopes
        n = Passes(forces=forces)
        width, radial, last = config.width, config.radial_width, config.num_layers - 1
        size, elements = num_components, len(config.elements)
        edge = atom = 0.0
        for number in range(config.num_layers):
            before = config.l_max if number else 0
            after = config.l_max if number < last else 0
            felt = n.inner if number else n.embedded  # features that feel forces
            product = Product(before, config.l_edge, config.l_edge)
            edge += n.geometry * config.num_basis * radial + n.inner * 2 * radial**2
            edge += n.inner * radial * len(product.paths) * width
            edge += (3 if forces else 1) * product.table.values.size
            turned = (7 if number else 5) if forces else 2
            edge += turned * product.rows * size(before) * width
            atom += felt * size(before) * width**2  # before sending
            ends = enumerate(paths_to(product))
            atom += n.inner * sum(count * (2 * one + 1) for one, count in ends) * width**2
            atom += felt * size(min(before, after)) * elements * width**2  # what was before
            atom += n.inner * size(after) * width**2  # what has come
        atom += last * n.last * width
        atom += n.inner * width * config.readout_width + n.last * config.readout_width
        return {"edges": 2.0 * edge, "atoms": 2.0 * atom}


class Layer(nn.Module):
    """One interaction, and the product basis of what it gathers."""

    def __init__(self, config: MACE.Config, before: int, after: int):
        super().__init__()
        width, elements = config.width, len(config.elements)
        self.product = Product(before, config.l_edge, config.l_edge)
        radial = config.radial_width
        weights = len(self.product.paths) * width
        self.radial = NormalMLP((config.num_basis, radial, radial, radial, weights))
        self.enter = Mix([1] * (before + 1), width, width)
        self.leave = Mix(paths_to(self.product), width, width)
        self.kept = Mix([1] * (min(before, after) + 1), elements * width, width)
        self.contraction = SymmetricContraction(
            config.l_edge, after, config.degree, elements, width
        )
        self.come = Mix([1] * (after + 1), width, width)

    def gather(
        self, features: Tensor, basis: Tensor, harmonics: Tensor, graph: GraphBatch
    ) -> Tensor:
        """What an atom's neighbours send: features (A, components, F), of another l, alike."""
        weights = self.radial(basis).unflatten(1, (len(self.product.paths), -1))  # (E, P, F)
        sent = self.enter(features)
        ends = graph.senders, graph.receivers
        return self.leave(self.product.gather(sent, harmonics, weights, *ends))

    def update(
        self, features: Tensor, gathered: Tensor, elements: Tensor, chosen: Tensor
    ) -> Tensor:
        """Features (A, components, F) of the layer that follows."""
        come = self.come(self.contraction(gathered, elements))  # (A, components, F)
        shared = features[:, : come.shape[1]]
        by_element = (shared[:, :, None] * chosen[:, None, :, None]).flatten(2)  # (A, …, Z F)
        kept = self.kept(by_element)
        if kept.shape[1] == come.shape[1]:
            return come + kept
        return torch.cat((come[:, : kept.shape[1]] + kept, come[:, kept.shape[1] :]), dim=1)
