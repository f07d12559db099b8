"""SpookyNet: charge, spin, and what is not local (Unke et al., Nat. Commun. 2021).

Atoms begin with their element, and with the charge and the unpaired electrons of the whole
structure, shared out by attention ("atomic embeddings" in the paper's methods). Each module adds
what neighbours within the cutoff send, as scalars, vectors and l = 2 tensors ("local interaction"),
and what all atoms of the structure send by attention ("nonlocal interaction"). To the learnt energy
come terms that are known: repulsion of nuclei, electrostatics of predicted charges that sum to the
total, dispersion ("physically motivated corrections").

Other than theirs: attention is exact over all pairs, which theirs approximates by random features;
SiLU has no parameters of its own; the radial decay is fixed; dispersion is simpler than D4 (see
`physics`). Structures without a cell only: the terms over all pairs know no images.

Far away: fragments do not become independent. Their energy of interaction falls off as the charges
say, and attention and the shared charge tie them at any distance.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.models.base import Passes, Potential, Seen, widths
from chemscale.bench.nn.activations import silu
from chemscale.bench.nn.layers import linear
from chemscale.bench.nn.messages import scatter_sum
from chemscale.bench.nn.multilinear import Form
from chemscale.bench.nn.physics import Dispersion, Repulsion, electrostatics, free_atoms
from chemscale.bench.nn.radial import Bernsteins, bump_cutoff
from chemscale.bench.nn.spherical import spherical_harmonics
from chemscale.bench.nn.tensors import place
from chemscale.table.errors import DataError
from chemscale.table.record import Record
from chemscale.table.records import Recipe

if TYPE_CHECKING:
    from chemscale.bench.data.base import Indices
    from chemscale.bench.data.graphs import Structures

DEGREES = np.repeat(np.arange(3), (1, 3, 5))  # l of each component
SENT = Form(np.array([np.arange(9), DEGREES, DEGREES, np.arange(9)]))


class SpookyNet(Potential):
    """SpookyNet as one number per atom."""

    class Config(Record):
        """Architecture of one size."""

        width: PositiveInt
        num_layers: PositiveInt = 3
        num_basis: PositiveInt = 16
        repulsion: bool = True
        electrostatics: bool = True
        dispersion: bool = True
        cutoff: PositiveFloat = 4.0  # Å

    config: Config
    revision = 1
    local = False
    periodic = False
    charged = True
    ladder = {
        **widths(Config, 8, 16, 24, 32, 48, 64),
        "w64-d4": Config(width=64, num_layers=4),
        **widths(Config, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096),
    }

    def __init__(self, config: Config):
        super().__init__(config)
        width = config.width
        self.embedding = nn.Embedding(101, width)
        self.charge_embedding = ElectronEmbedding(width)
        self.spin_embedding = ElectronEmbedding(width)
        self.radial = Bernsteins(config.num_basis)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.readout = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.readout.weight)
        self.charges = None
        if config.electrostatics or config.dispersion:
            self.charges = nn.Linear(width, 1, bias=False)
            # Not from zero, where the energy of charges has no slope.
            nn.init.normal_(self.charges.weight, std=0.1 * width**-0.5)
        self.repulsion = Repulsion(config.cutoff) if config.repulsion else None
        self.dispersion = Dispersion() if config.dispersion else None

    def calibrate(self, dataset: Structures, subset: Indices) -> None:
        """Take references and scale from the training subset.

        Raises:
            DataError: dispersion is asked for, and an element has no free-atom values.
        """
        super().calibrate(dataset, subset)
        unknown = [z for z in dataset.elements() if math.isnan(free_atoms()[z][0])]
        if self.dispersion is not None and unknown:
            raise DataError(
                f"{dataset.where}: no dispersion coefficients for atomic numbers {unknown}; "
                "use a config with dispersion = false, or drop those structures"
            )

    def seen(self, batch: GraphBatch) -> Seen:
        pairs = int(batch.atoms_per_structure.double().square().sum())
        return dataclasses.replace(super().seen(batch), pairs=pairs)

    def atom_energies(self, graph: GraphBatch) -> Tensor:
        """Energy of each atom in units of `scale`, without references: (atoms,).

        Raises:
            DataError: a structure is periodic.
        """
        # A atoms, E edges, P pairs within structures and atoms with themselves, S structures,
        # K basis functions, F features
        if graph.offsets is not None:
            raise DataError("spookynet takes no periodic structures: it sums over all pairs")
        vectors = graph.vectors()  # (E, 3)
        distances = vectors.norm(dim=1)  # (E,)
        harmonics = spherical_harmonics(vectors / distances[:, None], 2)[:, :, None]  # (E, 9, 1)
        basis = self.radial(distances) * bump_cutoff(distances, self.cutoff)[:, None]  # (E, K)
        features = self.embedding(graph.atomic_numbers)  # (A, F)
        features = features + self._electrons(graph, features)
        ends = graph.all_pairs()
        output = torch.zeros_like(features)
        for layer in self.layers:
            features, given = layer(features, basis, harmonics, graph, ends)
            output = output + given
        energy = self.readout(output).squeeze(1)  # (A,)
        known = self._known(graph, output, distances, ends)
        return energy if known is None else energy + known / self.scale

    def _electrons(self, graph: GraphBatch, features: Tensor) -> Tensor:
        none = torch.zeros_like(graph.atoms_per_structure)
        charge = none if graph.charge is None else graph.charge  # (S,)
        unpaired = none if graph.unpaired is None else graph.unpaired  # (S,)
        of_charge = self.charge_embedding(features, charge, graph)  # (A, F)
        return of_charge + self.spin_embedding(features, unpaired, graph)

    def partial_charges(self, graph: GraphBatch, output: Tensor) -> Tensor:
        """Charges of atoms, which sum to that of their structure, e: (A,)."""
        assert self.charges is not None
        raw = self.charges(output).squeeze(1)
        total = scatter_sum(raw, graph.structure, graph.num_structures)
        wanted = torch.zeros_like(total) if graph.charge is None else graph.charge
        return raw + ((wanted - total) / graph.atoms_per_structure)[graph.structure]

    def _known(
        self, graph: GraphBatch, output: Tensor, near: Tensor, ends: tuple[Tensor, Tensor]
    ) -> Tensor | None:
        """Terms of physics, eV: (A,)."""
        numbers = graph.atomic_numbers
        parts = []
        if self.repulsion is not None:
            parts.append(self.repulsion(numbers, near, graph.senders, graph.receivers))
        if self.charges is not None:
            apart = (ends[0] != ends[1]).nonzero().squeeze(1)
            senders, receivers = (end.index_select(0, apart) for end in ends)
            there = graph.positions.index_select(0, senders)
            distances = (there - graph.positions.index_select(0, receivers)).norm(dim=1)
            charges = self.partial_charges(graph, output)
            if self.config.electrostatics:
                parts.append(electrostatics(charges, distances, senders, receivers, self.cutoff))
            if self.dispersion is not None:
                parts.append(self.dispersion(numbers, charges, distances, senders, receivers))
        return sum(parts[1:], parts[0]) if parts else None

    @classmethod
    def flops_formula(cls, config: Config, recipe: Recipe) -> dict[str, float]:
        """Matrix products and attention; sums over edges are elementwise."""
        forces = recipe.learns_slopes
        n = Passes(forces=forces)
        width, layers = config.width, config.num_layers
        atom = 2 * (n.embedded * (width**2 + 2 * width + 2 * width**2))  # charge and spin
        edge = pair = 0.0
        for number in range(layers):
            felt = n.inner if number else n.embedded
            atom += felt * (2 + 7 * 3) * width**2  # before the interactions
            atom += n.inner * (2 * 3 + 2 * 5) * width**2  # products of vectors, of tensors
            atom += n.inner * (3 + 2 + 2) * width**2
            edge += n.geometry * config.num_basis * 3 * width
            pair += 2 * ((9 if number else 3) if forces else 3) * width
        atom += n.last * width + (n.inner * width if config.electrostatics else 0)
        return {"edges": 2.0 * edge, "atoms": 2.0 * atom, "pairs": 2.0 * pair}


class Residual(nn.Module):
    """Two layers beside the identity, each after its activation; starts as the identity."""

    def __init__(self, width: int, *, bias: bool = True):
        super().__init__()
        self.first, self.second = (linear(width, width, bias=bias) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, features: Tensor) -> Tensor:
        """(…, F) to (…, F)."""
        return features + self.second(silu(self.first(silu(features))))


class ResidualMLP(nn.Module):
    """A residual block, an activation and a linear layer."""

    def __init__(self, width: int):
        super().__init__()
        self.residual = Residual(width)
        self.last = linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """(…, F) to (…, F)."""
        return self.last(silu(self.residual(features)))


class ElectronEmbedding(nn.Module):
    """Shares a number of the structure, its charge or unpaired electrons, among its atoms."""

    def __init__(self, width: int):
        super().__init__()
        self.query = linear(width, width)
        # One row for what is positive, one for what is negative.
        self.keys = nn.Parameter(torch.randn(2, width))
        self.values = nn.Parameter(torch.randn(2, width))
        self.mix = Residual(width, bias=False)

    def forward(self, features: Tensor, number: Tensor, graph: GraphBatch) -> Tensor:
        """Features (A, F) of elements and numbers (S,) to what is added, zero for zero: (A, F)."""
        scores = self.query(features) @ self.keys.T * features.shape[1] ** -0.5  # (A, 2)
        here = number[graph.structure]  # (A,)
        row = (here < 0).long()[:, None]
        weight = F.softplus(scores.gather(1, row)).squeeze(1)  # (A,)
        total = scatter_sum(weight, graph.structure, graph.num_structures)
        share = here * weight / total[graph.structure]
        return self.mix(share[:, None] * self.values.index_select(0, row.squeeze(1)))


class Layer(nn.Module):
    """A module of the paper: local and non-local interaction between residual blocks."""

    def __init__(self, config: SpookyNet.Config):
        super().__init__()
        width = config.width
        self.enter = Residual(width)
        self.centre, self.scalar, self.vector, self.tensor = (ResidualMLP(width) for _ in range(4))
        self.query, self.key, self.value = (ResidualMLP(width) for _ in range(3))
        self.filter = linear(config.num_basis, 3 * width, bias=False)
        self.mix_vectors, self.mix_tensors = (
            linear(width, 2 * width, bias=False) for _ in range(2)
        )
        self.local = ResidualMLP(width)
        self.leave, self.give = Residual(width), Residual(width)

    def forward(
        self,
        features: Tensor,
        basis: Tensor,
        harmonics: Tensor,
        graph: GraphBatch,
        ends: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Features (A, F) for the next module, and what this one gives to the output: (A, F)."""
        features = self.enter(features)
        near = self.local(self._gather(features, basis, harmonics, graph))
        features = self.leave(features + near + self._attend(features, ends))
        return features, self.give(features)

    def _gather(
        self, features: Tensor, basis: Tensor, harmonics: Tensor, graph: GraphBatch
    ) -> Tensor:
        by_degree = (self.scalar(features), self.vector(features), self.tensor(features))
        sent = torch.stack(by_degree, dim=1)  # (A, 3, F)
        filters = self.filter(basis).unflatten(1, (3, -1))  # (E, 3, F)
        rows = graph.receivers, graph.senders, None, None
        around = SENT((graph.num_atoms, 9), rows, sent, filters, harmonics)  # (A, 9, F)
        total = self.centre(features) + around[:, 0]  # (A, F)
        for degree, mix in ((1, self.mix_vectors), (2, self.mix_tensors)):
            left, right = mix(around[:, place(degree)]).chunk(2, dim=2)
            total = total + (left * right).sum(dim=1)
        return total

    def _attend(self, features: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
        """Softmax attention over the atoms of the structure."""
        senders, receivers = ends
        query = self.query(features).index_select(0, receivers)  # (P, F)
        key = self.key(features).index_select(0, senders)  # (P, F)
        scores = torch.bmm(query[:, None], key[:, :, None]).flatten() * query.shape[1] ** -0.5
        size = len(features)
        most = scores.detach().new_full((size,), -math.inf)
        most = most.scatter_reduce(0, receivers, scores.detach(), "amax")
        weights = torch.exp(scores - most.index_select(0, receivers))  # (P,)
        value = self.value(features).index_select(0, senders)
        weighted = torch.bmm(weights[:, None, None], value[:, None]).squeeze(1)
        total = scatter_sum(weights, receivers, size)
        return scatter_sum(weighted, receivers, size) / total[:, None]
