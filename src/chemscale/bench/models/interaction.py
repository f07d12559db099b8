"""What a potential says of a graph, and how far that is from the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from chemscale.bench.models.flops import Seen
from chemscale.table.recipes import Recipe

if TYPE_CHECKING:
    from chemscale.bench.data.graph_batch import GraphBatch


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a graph of A atoms and S structures."""

    energies: Tensor  # (A,) eV, double precision: of each atom, its reference included
    energy: Tensor  # (S,) eV, double precision: their sums
    forces: Tensor  # (A, 3) eV/Å
    stress: Tensor | None  # (S, 3, 3) eV/Å³, NaN without a cell; None: no structure has one


@dataclass(frozen=True)
class Interaction:
    """What lies between the atoms of a graph of A atoms and S structures, references left out."""

    atoms: Tensor  # (A,) energies in units of the potential's scale
    energy: Tensor  # (S,) eV
    forces: Tensor  # (A, 3) eV/Å
    virial: Tensor | None  # (S, 3, 3) eV: slope under a symmetric strain; None: not asked for

    def stress(self, graph: GraphBatch) -> Tensor | None:
        """Of each structure, eV/Å³: (S, 3, 3), NaN without a cell; None without a virial."""
        return None if self.virial is None else self.virial / graph.volumes()[:, None, None]

    def detached(self) -> Interaction:
        """The same numbers, from which no gradient flows."""
        virial = None if self.virial is None else self.virial.detach()
        return Interaction(self.atoms.detach(), self.energy.detach(), self.forces.detach(), virial)

    def loss(
        self, graph: GraphBatch, references: Tensor, scale: Tensor, recipe: Recipe, whole: Seen
    ) -> Tensor:
        """The weighted sum of the means over energies per atom, force and virial components.

        Args:
            graph: with its labels.
            references: energies of its atoms on their own, eV: (S,), double precision.
            scale: what deviations are divided by, eV and eV/Å.
            recipe: weights, and what a deviation costs.
            whole: what the batch holds of which this is a part.
        """
        wanted = (graph.energy - references).to(self.energy.dtype)
        per_atom = scale * graph.atoms_per_structure
        # A part counts by its share of the structures, and of the atoms; of one part it is 1.
        share = graph.num_structures / whole.items
        total = share * recipe.energy_weight * _cost((self.energy - wanted) / per_atom, recipe)
        if recipe.forces_weight > 0:
            off = (self.forces - graph.forces) / scale
            share_of_atoms = graph.num_atoms / whole.atoms
            total = total + share_of_atoms * recipe.forces_weight * _cost(off, recipe)
        if recipe.stress_weight > 0 and self.virial is not None and graph.stress is not None:
            volumes = graph.volumes()[:, None, None]
            off = (self.virial - volumes * graph.stress) / per_atom[:, None, None]
            off = torch.where(volumes.isnan(), 0, off)  # what has no cell has no stress
            total = total + share * recipe.stress_weight * _cost(off, recipe)
        return total

    def is_labelled(self, graph: GraphBatch, recipe: Recipe) -> bool:
        """Whether all labels are there that the loss needs."""
        has = [torch.isfinite(graph.energy)]
        if recipe.forces_weight > 0:
            has.append(torch.isfinite(graph.forces))
        if recipe.stress_weight > 0 and graph.stress is not None:
            missing = graph.stress.isnan().any(dim=2).any(dim=1)
            has.append(~missing | graph.volumes().isnan())
        return all(bool(there.all()) for there in has)

    def errors(self, graph: GraphBatch, references: Tensor) -> dict[str, tuple[float, float]]:
        """Sum of absolute deviations (meV/atom, meV/Å, meV/Å³) and how many are labelled."""
        per_atom = self.energy.double() + references - graph.energy
        told = {
            "energy_mae": (per_atom / graph.atoms_per_structure, graph.energy),
            "force_mae": (self.forces - graph.forces, graph.forces),
        }
        stress = self.stress(graph)
        if stress is not None and graph.stress is not None:
            told["stress_mae"] = (stress - graph.stress, graph.stress)
        sums = {}
        for metric, (off, label) in told.items():
            labelled = off[torch.isfinite(label)].abs().double()
            if len(labelled):
                sums[metric] = (1e3 * float(labelled.sum()), float(len(labelled)))
        return sums


def _cost(off: Tensor, recipe: Recipe) -> Tensor:
    """Mean over all deviations of what the recipe lets them cost."""
    zero = torch.zeros_like(off)
    match recipe.loss:
        case "huber":
            return F.huber_loss(off, zero, delta=recipe.huber_delta)
        case "l1":
            return F.l1_loss(off, zero)
        case "l2":
            return F.mse_loss(off, zero)
