"""Several structures as one graph: what potentials read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from chemscale.bench.data.moving import grain, onto
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
    pairs: Tensor | None = None  # (E / 2,) one edge of each two that join a pair; None: to be found
    real_atoms: Tensor | None = None  # () how many are not there to pad the batch; None: all are

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
        both_ways = native.serves(self.positions) or native.serves_on_gpu(self.positions)
        graph = self._halved() if both_ways else self
        return Links(graph.vectors(), graph.senders, graph.receivers, self.num_atoms, both_ways)

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """Senders and receivers of all pairs of a structure's atoms, each with itself too."""
        receivers, senders = (self.structure[:, None] == self.structure).nonzero().unbind(1)
        return senders, receivers

    def find_pairs(self) -> Tensor:
        """One of the two edges that join two atoms, or an atom and its own image: (E / 2,)."""
        kept = self.senders > self.receivers
        if self.offsets is not None:
            ahead = self.offsets.sign() @ self.offsets.new_tensor([4, 2, 1]) > 0
            kept = kept | ((self.senders == self.receivers) & ahead)
        return kept.nonzero().squeeze(1)

    def _halved(self) -> GraphBatch:
        edges = self.find_pairs() if self.pairs is None else self.pairs
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

    def padded(self, apart: float) -> GraphBatch:
        """With one more structure, so that batches come in few sizes: at most an eighth larger.

        Its atoms lie in a row, out of each other's sight, so that none of them feels a force. It
        counts as one of infinitely many atoms, so that its energy per atom is right, and nothing is
        learnt from it. The loss is that of the batch, to rounding.

        Args:
            apart: Å, further than any atom sees in one step.
        """
        here, there = self.num_atoms, _rounded(self.num_atoms + 2)
        pairs = _rounded(len(self.senders) // 2) - len(self.senders) // 2
        atoms = there - here
        places = self.positions.new_zeros(atoms, 3)
        places[:, 0] = torch.arange(atoms) * apart
        one = torch.arange(pairs) * atoms // max(pairs, 1)  # each atom has as many
        other = (one + 1) % atoms
        ends = torch.stack((torch.cat((one, other)), torch.cat((other, one))))
        receivers, senders = here + ends[:, ends[0].argsort(stable=True)]
        more = {
            "positions": places,
            "atomic_numbers": self.atomic_numbers[:1].expand(atoms),
            "structure": self.structure.new_full((atoms,), self.num_structures),
            "senders": senders,
            "receivers": receivers,
            "offsets": places.new_zeros(2 * pairs, 3),
            "atoms_per_structure": self.atoms_per_structure.new_full((1,), torch.inf),
            "energy": self.energy.new_zeros(1),
            "forces": self.forces.new_zeros(atoms, 3),
            "charge": places.new_zeros(1),
            "unpaired": places.new_zeros(1),
            "cell": places.new_zeros(1, 3, 3),
            "stress": places.new_zeros(1, 3, 3),
        }
        whole = {
            name: torch.cat((value, more[name].to(value.dtype)))
            for name, value in vars(self).items()
            if name in more and value is not None
        }
        real = self.positions.new_tensor(here)
        return dataclasses.replace(self, **whole, pairs=None, real_atoms=real)

    def ready(self, device: torch.device, dtype: torch.dtype) -> GraphBatch:
        """All numbers but the energies cast; for a GPU with its pairs, or it would have to tell."""
        cast = {
            name: value.to(dtype)
            for name, value in vars(self).items()
            if value is not None and value.is_floating_point() and name != "energy"
        }
        away = device.type == "cuda" and self.positions.device.type == "cpu"
        pairs = self.find_pairs() if away and self.pairs is None else self.pairs
        return dataclasses.replace(self, **cast, pairs=pairs)

    def to(self, device: torch.device, dtype: torch.dtype) -> GraphBatch:
        """Cast all numbers but the energies, and move."""
        ready = self.ready(device, dtype)
        moved = {n: onto(device, value) for n, value in vars(ready).items() if value is not None}
        return dataclasses.replace(ready, **moved)


def _rounded(count: int) -> int:
    """Up to one of eight numbers between powers of two."""
    return count + -count % grain(count, 4)


def _deformed(vectors: Tensor, strain: Tensor, structure: Tensor) -> Tensor:
    """By how much strains (S, 3, 3) move the vectors (n, 3) of their structures."""
    return torch.bmm(vectors[:, None], strain.index_select(0, structure)).squeeze(1)
