"""Allegro: many-body features of edges, strictly local (Musaelian et al., Nat. Commun. 2023).

Nothing is handed from atom to atom: features belong to ordered pairs, and a pair sees only what
lies around its centre, so the reach is one cutoff at any depth. A pair has an invariant latent and
tensors. Each layer multiplies the tensors with a weighted sum of the harmonics of all pairs of the
same centre, once for each atom because products are linear in it ("the density trick"); invariants
of the product enter the latent, the rest is mixed between channels (the paper's methods, "two-body
latent embedding", "tensor product layer" and "latent MLP").

Parity is kept: of the products, those of odd l₁ + l₂ + l₃ are left out (in nequip-allegro: `parity:
false`). The residual of latents has the fixed weight ½ with which theirs starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.models.base import Passes, Potential, widths
from chemscale.bench.nn.activations import silu
from chemscale.bench.nn.layers import SILU_SCALE, NormalMLP
from chemscale.bench.nn.messages import scatter_sum
from chemscale.bench.nn.radial import Sines, polynomial_cutoff
from chemscale.bench.nn.spherical import spherical_harmonics
from chemscale.bench.nn.tensors import ChannelProduct, Mix, Spread, paths_to
from chemscale.table.record import Record
from chemscale.table.records import Recipe

if TYPE_CHECKING:
    from chemscale.bench.data.base import Indices
    from chemscale.bench.data.graphs import Structures

KEPT = 0.5  # weight of what a layer adds to the latent


class Allegro(Potential):
    """Allegro as one number per pair."""

    class Config(Record):
        """Architecture of one size."""

        width: PositiveInt  # of latents, and channels of tensors
        num_layers: PositiveInt = 2
        l_max: NonNegativeInt = 2
        num_basis: PositiveInt = 8
        cutoff: PositiveFloat = 4.0  # Å

    revision = 1
    recordable = True
    ladder = {
        **widths(Config, 8, 16, 24, 32, 48),
        "w64-l1": Config(width=64, l_max=1),
        **widths(Config, 64),
        "w64-l3": Config(width=64, l_max=3),
        "w64-d3": Config(width=64, num_layers=3),
        **widths(Config, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192),
    }

    config: Config
    neighbours: Tensor  # (), mean number in the training subset

    def __init__(self, config: Config):
        super().__init__(config)
        width, last = config.width, config.num_layers - 1
        self.centre = nn.Embedding(101, width)
        self.neighbour = nn.Embedding(101, width)
        self.radial = Sines(config.num_basis, config.cutoff)
        self.start = NormalMLP((config.num_basis, width))
        self.latent = NormalMLP((width, width))
        self.spread = Spread(config.l_max)
        self.tensors = NormalMLP((width, (config.l_max + 1) * width))
        self.layers = nn.ModuleList(
            Layer(config, config.l_max if k < last else 0) for k in range(config.num_layers)
        )
        self.readout = NormalMLP((width, width, 1))
        nn.init.zeros_(self.readout.weights[-1])
        self.register_buffer("neighbours", torch.ones(()))

    @property
    def reach(self) -> float:
        """One cutoff, Å, at any depth."""
        return self.cutoff

    def calibrate(self, dataset: Structures, subset: Indices) -> None:
        """Take references, scale and mean number of neighbours from the training subset."""
        super().calibrate(dataset, subset)
        self.neighbours.fill_(dataset.mean_neighbours(subset, self.cutoff))

    def atom_energies(self, graph: GraphBatch) -> Tensor:
        # A atoms, E edges from centre (receiver) to neighbour (sender), K basis functions,
        # M components of harmonics, F features
        vectors = graph.vectors()  # (E, 3)
        distances = vectors.norm(dim=1)  # (E,)
        directions = vectors / distances[:, None]  # (E, 3)
        harmonics = spherical_harmonics(directions, self.config.l_max)  # (E, M)
        envelope = polynomial_cutoff(distances, self.cutoff)[:, None]  # (E, 1)
        basis = self.radial(distances) * (2.0 / self.cutoff) ** 0.5  # (E, K)
        centre = self.centre(graph.atomic_numbers).index_select(0, graph.receivers)  # (E, F)
        neighbour = self.neighbour(graph.atomic_numbers).index_select(0, graph.senders)
        # All three are what one layer makes of two one-hot vectors and the basis.
        pair = (self.start(basis) + centre + neighbour) * 3**-0.5  # (E, F)
        latent = envelope * self.latent(silu(pair) * SILU_SCALE)  # (E, F)
        weights = self.tensors(latent).unflatten(1, (-1, latent.shape[1]))  # (E, l, F)
        tensors = self.spread(weights, harmonics)  # (E, M, F)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            around = layer.around(latent, harmonics, graph) * self.neighbours**-0.5  # (A, M, F)
            latent, tensors = layer(latent, tensors, around, envelope, graph)
        energies = self.readout(latent) * self.neighbours**-0.5  # (E, 1)
        return scatter_sum(energies, graph.receivers, graph.num_atoms).squeeze(1)  # (A,)

    @classmethod
    def flops_formula(cls, config: Config, recipe: Recipe) -> dict[str, float]:
        """Matrix products; those of tensors are elementwise."""
        n = Passes(forces=recipe.learns_slopes)
        width, last = config.width, config.num_layers - 1
        edge = n.geometry * config.num_basis * width + n.inner * width**2  # two-body latent
        edge += n.inner * (config.l_max + 1) * width**2  # first tensors
        for number in range(config.num_layers):
            product = ChannelProduct(config.l_max, config.l_max, config.l_max)
            edge += n.inner * (config.l_max + 1) * width**2  # weights around the centre
            edge += n.inner * (1 + (config.l_max + 1) + 1) * width**2  # latent
            if number < last:
                ends = enumerate(paths_to(product))
                edge += n.inner * sum(count * (2 * one + 1) for one, count in ends) * width**2
        edge += n.inner * width**2 + n.last * width
        return {"edges": 2.0 * edge}


class Layer(nn.Module):
    """One product of every pair's tensors with what is around its centre."""

    def __init__(self, config: Allegro.Config, after: int):
        super().__init__()
        width = config.width
        self.spread = Spread(config.l_max)
        self.weights = NormalMLP((width, (config.l_max + 1) * width))
        self.product = ChannelProduct(config.l_max, config.l_max, after)
        self.num_scalars = paths_to(self.product)[0]
        self.latent = NormalMLP(((1 + self.num_scalars) * width, width, width))
        # In the last layer nothing but invariants is asked for.
        self.mix = Mix(paths_to(self.product), width, width) if after else None

    def around(self, latent: Tensor, harmonics: Tensor, graph: GraphBatch) -> Tensor:
        """Of each atom, harmonics of its edges, weighted by their latents: (A, components, F)."""
        weights = self.weights(latent).unflatten(1, (-1, latent.shape[1]))  # (E, l, F)
        return self.spread.gather(weights, harmonics, graph.receivers, graph.num_atoms)

    def forward(
        self, latent: Tensor, tensors: Tensor, around: Tensor, envelope: Tensor, graph: GraphBatch
    ) -> tuple[Tensor, Tensor]:
        """Latents (E, F) and tensors (E, components, F) of the layer that follows."""
        products = self.product(tensors, around, graph.receivers)  # (E, R, F)
        scalars = products[:, : self.num_scalars].flatten(1)
        added = envelope * self.latent(torch.cat((latent, scalars), dim=1))
        latent = (latent + KEPT * added) * (1 + KEPT**2) ** -0.5
        return latent, tensors if self.mix is None else self.mix(products)
