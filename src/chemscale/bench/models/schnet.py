"""SchNet: continuous-filter convolutions on distances (Schütt et al., NeurIPS 2017).

The weakest prior of the ladder: features are invariant scalars, and geometry enters through
distances alone. As in the paper, but the filters carry a cosine cutoff, so that energies and
forces are continuous where an atom leaves the neighbourhood.
"""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.models.base import Passes, Potential, widths
from chemscale.bench.nn.activations import shifted_softplus
from chemscale.bench.nn.layers import MLP, linear
from chemscale.bench.nn.messages import Links
from chemscale.bench.nn.radial import Gaussians, cosine_cutoff
from chemscale.table.record import Record
from chemscale.table.records import Recipe


class SchNet(Potential):
    """SchNet as one number per atom."""

    class Config(Record):
        """Architecture of one size."""

        width: PositiveInt
        num_layers: PositiveInt = 3
        num_basis: PositiveInt = 20
        cutoff: PositiveFloat = 4.0  # Å

    revision = 1
    recordable = True
    ladder = widths(Config, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096,
                    8192, 12288)  # fmt: skip

    def __init__(self, config: Config):
        super().__init__(config)
        self.embedding = nn.Embedding(101, config.width)
        self.radial = Gaussians(config.num_basis, config.cutoff)
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.num_layers))
        self.readout = MLP((config.width, config.width // 2, 1), shifted_softplus, last_zero=True)

    def atom_energies(self, graph: GraphBatch) -> Tensor:
        # A atoms, L links, K basis functions, F features
        links = graph.links()
        distances = links.distances()  # (L,)
        basis = self.radial(distances)  # (L, K)
        envelope = cosine_cutoff(distances, self.cutoff)[:, None]  # (L, 1)
        features = self.embedding(graph.atomic_numbers)  # (A, F)
        for interaction in self.interactions:
            features = features + interaction(features, basis, envelope, links)
        return self.readout(features).squeeze(-1)  # (A,)

    @classmethod
    def flops_formula(cls, config: Config, recipe: Recipe) -> dict[str, float]:
        width, basis, layers = config.width, config.num_basis, config.num_layers
        n = Passes(forces=recipe.learns_slopes)
        edge = layers * (n.geometry * basis * width + n.inner * width**2)
        atom = (n.embedded + (layers - 1) * n.inner) * width**2  # into the convolution
        atom += layers * n.inner * 2 * width**2  # out of it
        atom += n.inner * width * (width // 2) + n.last * (width // 2)
        return {"edges": 2.0 * edge, "atoms": 2.0 * atom}


class Interaction(nn.Module):
    """One convolution with a filter generated from distances, and the layers around it."""

    def __init__(self, config: SchNet.Config):
        super().__init__()
        width = config.width
        self.filter = MLP((config.num_basis, width, width), shifted_softplus)
        self.enter = linear(width, width, bias=False)
        self.leave = MLP((width, width, width), shifted_softplus)

    def forward(self, features: Tensor, basis: Tensor, envelope: Tensor, links: Links) -> Tensor:
        """Update (A, F) to add to the features."""
        filters = self.filter(basis) * envelope  # (L, F)
        return self.leave(links.convolve(self.enter(features), filters))  # (A, F)
