"""PaiNN: messages of scalars and vectors (Schütt, Unke, Gastegger, ICML 2021).

One step up the ladder of priors from SchNet: each atom carries vectors beside scalars, which
rotate with the molecule, so directions reach the network and not only distances.
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.models.base import Passes, Potential, widths
from chemscale.bench.nn.activations import silu
from chemscale.bench.nn.gates import lengths, updated
from chemscale.bench.nn.layers import MLP, linear
from chemscale.bench.nn.messages import Links
from chemscale.bench.nn.radial import Sines, cosine_cutoff
from chemscale.table.record import Record
from chemscale.table.records import Recipe


class PaiNN(Potential):
    """PaiNN as one number per atom."""

    class Config(Record):
        """Architecture of one size."""

        width: PositiveInt
        num_layers: PositiveInt = 3
        num_basis: PositiveInt = 20
        cutoff: PositiveFloat = 4.0  # Å

    revision = 1
    recordable = True
    ladder = widths(Config, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096,
                    8192)  # fmt: skip

    def __init__(self, config: Config):
        super().__init__(config)
        self.embedding = nn.Embedding(101, config.width)
        self.radial = Sines(config.num_basis, config.cutoff)
        self.messages = nn.ModuleList(Message(config) for _ in range(config.num_layers))
        self.updates = nn.ModuleList(Update(config) for _ in range(config.num_layers))
        self.readout = MLP((config.width, config.width // 2, 1), silu, last_zero=True)

    def atom_energies(self, graph: GraphBatch) -> Tensor:
        # A atoms, L links, K basis functions, F features
        links = graph.links()
        distances = links.distances()  # (L,)
        directions = links.vectors / distances[:, None]  # (L, 3)
        envelope = cosine_cutoff(distances, self.cutoff)[:, None]  # (L, 1)
        # The envelope multiplies the filters, bias and all: as one more basis function it does so
        # for every layer at once.
        basis = torch.cat((self.radial(distances) * envelope, envelope), dim=1)  # (L, K + 1)
        scalars = self.embedding(graph.atomic_numbers)  # (A, F)
        vectors = scalars.new_zeros(scalars.shape[0], 3, scalars.shape[1])  # (A, 3, F)
        for message, update in zip(self.messages, self.updates, strict=True):
            scalars, vectors = message(scalars, vectors, basis, directions, links)
            scalars, vectors = update(scalars, vectors)
        return self.readout(scalars).squeeze(-1)  # (A,)

    @classmethod
    def flops_formula(cls, config: Config, recipe: Recipe) -> dict[str, float]:
        width, basis, layers = config.width, config.num_basis, config.num_layers
        n = Passes(forces=recipe.learns_slopes)
        edge = layers * n.geometry * (basis + 1) * 3 * width
        atom = (n.embedded + (layers - 1) * n.inner) * 4 * width**2  # message context
        atom += layers * n.inner * (3 * 2 + 2 + 3) * width**2  # update: mix, context
        atom += n.inner * width * (width // 2) + n.last * (width // 2)
        return {"edges": 2.0 * edge, "atoms": 2.0 * atom}


class Message(nn.Module):
    """Each atom gathers scalars and vectors from its neighbours (equations 7 and 8)."""

    def __init__(self, config: PaiNN.Config):
        super().__init__()
        width = config.width
        self.context = MLP((width, width, 3 * width), silu)
        self.filter = linear(config.num_basis + 1, 3 * width, bias=False)

    def forward(
        self, scalars: Tensor, vectors: Tensor, basis: Tensor, directions: Tensor, links: Links
    ) -> tuple[Tensor, Tensor]:
        """Scalars (A, F) and vectors (A, 3, F), with the messages added."""
        width = scalars.shape[1]
        scalar, gate, along = self.context(scalars)[:, None].split(width, dim=2)  # (A, 1, F) each
        sent = torch.cat((scalar, along, vectors * gate), dim=1)  # (A, 5, F)
        filters = self.filter(basis).unflatten(1, (3, -1))  # (L, 3, F)
        gathered = links.exchange(sent, filters, directions)  # (A, 4, F)
        return scalars + gathered[:, 0], vectors + gathered[:, 1:]


class Update(nn.Module):
    """Scalars and vectors of one atom speak to each other (equations 9 and 10)."""

    def __init__(self, config: PaiNN.Config):
        super().__init__()
        width = config.width
        self.mix = linear(width, 2 * width, bias=False)
        self.context = MLP((2 * width, width, 3 * width), silu)

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (A, F) and vectors (A, 3, F), updated."""
        mixed = self.mix(vectors)  # (A, 3, 2F)
        gates = self.context(torch.cat((scalars, lengths(mixed)), dim=1))  # (A, 3F)
        return updated(scalars, vectors, mixed, gates)
