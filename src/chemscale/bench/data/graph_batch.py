"""Several structures as one graph: what potentials read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from chemscale.bench.nn import native
from chemscale.bench.nn.messages import Links


@dataclass(frozen=True)
class GraphBatch:
    """Several structures as one graph. A atoms, E edges, S structures; Å, eV, eV/Å, eV/Å³.

    Messages flow from senders to receivers; every edge is there in both directions.
    """

    positions: Tensor  # (A, 3)
    atomic_numbers: Tensor  # (A,)
    structure: Tensor  # (A,)
    senders: Tensor  # (E,)
    receivers: Tensor  # (E,), ascending
    offsets: Tensor | None  # (E, 3) of the sender's periodic image; None without any
    atoms_per_structure: Tensor  # (S,)
    energy: Tensor  # (S,) double precision; NaN where missing
    forces: Tensor  # (A, 3); NaN where missing
    charge: Tensor | None = None  # (S,) e; None: all are neutral
    unpaired: Tensor | None = None  # (S,) electrons; None: all closed shells, or not told
    cell: Tensor | None = None  # (S, 3, 3), zero where not periodic; None: none is
    stress: Tensor | None = None  # (S, 3, 3), NaN where missing; None: nowhere known

    @property
    def num_atoms(self) -> int:
        """A."""
        return self.positions.shape[0]

    @property
    def num_structures(self) -> int:
        """S."""
        return len(self.energy)

    def vectors(self) -> Tensor:
        """From receiver to sender, the nearest image that the edge stands for: (E, 3)."""
        senders = self.positions.index_select(0, self.senders)
        vectors = senders - self.positions.index_select(0, self.receivers)
        return vectors if self.offsets is None else vectors + self.offsets

    def links(self) -> Links:
        """What carries messages: all edges, or each pair once where native kernels serve."""
        both_ways = native.serves(self.positions)
        graph = self._pairs() if both_ways else self
        return Links(graph.vectors(), graph.senders, graph.receivers, self.num_atoms, both_ways)

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """Senders and receivers of all pairs of a structure's atoms, each with itself too."""
        receivers, senders = (self.structure[:, None] == self.structure).nonzero().unbind(1)
        return senders, receivers

    def _pairs(self) -> GraphBatch:
        """With one of the two edges that join a pair of atoms, or an atom and its own image."""
        kept = self.senders > self.receivers
        if self.offsets is not None:
            ahead = self.offsets.sign() @ self.offsets.new_tensor([4, 2, 1]) > 0
            kept = kept | ((self.senders == self.receivers) & ahead)
        edges = kept.nonzero().squeeze(1)
        return dataclasses.replace(
            self,
            senders=self.senders.index_select(0, edges),
            receivers=self.receivers.index_select(0, edges),
            offsets=None if self.offsets is None else self.offsets.index_select(0, edges),
        )

    def differentiable(self) -> GraphBatch:
        """The same graph with positions that gradients can be taken for."""
        return dataclasses.replace(self, positions=self.positions.detach().requires_grad_())

    def strained(self) -> tuple[GraphBatch, Tensor]:
        """The same graph under a strain of zero, and that strain: (S, 3, 3).

        Gradients can be taken for both, the positions of the graph and the strain; that of the
        strain is symmetric, as turning a structure changes no energy.
        """
        strain = self.positions.new_zeros(self.num_structures, 3, 3).requires_grad_()
        symmetric = 0.5 * (strain + strain.mT)
        positions = self.positions.detach().requires_grad_()
        offsets = self.offsets
        positions = positions + _deformed(positions, symmetric, self.structure)
        if offsets is not None:
            edges = self.structure.index_select(0, self.receivers)
            offsets = offsets + _deformed(offsets, symmetric, edges)
        return dataclasses.replace(self, positions=positions, offsets=offsets), strain

    def volumes(self) -> Tensor:
        """Volume of each cell, Å³: (S,); NaN where there is none."""
        if self.cell is None:
            return self.positions.new_full((self.num_structures,), torch.nan)
        volumes = torch.linalg.det(self.cell).abs()
        return torch.where(volumes > 0, volumes, torch.nan)

    def to(self, device: torch.device, dtype: torch.dtype) -> GraphBatch:
        """Move, and cast all numbers but the energies.

        To a GPU from locked pages, for which the processor need not wait.
        """
        moved = {}
        for name, value in vars(self).items():
            if value is not None:
                if value.is_floating_point() and name != "energy":
                    value = value.to(dtype)
                if device.type == "cuda" and value.device.type == "cpu":
                    value = value.pin_memory()
                moved[name] = value.to(device, non_blocking=device.type == "cuda")
        return dataclasses.replace(self, **moved)


def _deformed(vectors: Tensor, strain: Tensor, structure: Tensor) -> Tensor:
    """By how much strains (S, 3, 3) move the vectors (n, 3) of their structures."""
    return torch.bmm(vectors[:, None], strain.index_select(0, structure)).squeeze(1)
