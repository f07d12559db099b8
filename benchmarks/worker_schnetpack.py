"""The side of SchNetPack in `speed.py`: its PaiNN or SchNet, energies and forces."""

from __future__ import annotations

import typing
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.data.dataloader
from torch import Tensor
from worker import Peer, huber, serve

# SchNetPack 2.1 imports this name, which newer torch no longer has there.
if not hasattr(torch.utils.data.dataloader, "T_co"):
    torch.utils.data.dataloader.T_co = typing.TypeVar("T_co", covariant=True)

import schnetpack as spk  # noqa: E402
import schnetpack.atomistic  # noqa: E402
import schnetpack.model  # noqa: E402
import schnetpack.nn  # noqa: E402
import schnetpack.representation  # noqa: E402
from schnetpack.interfaces.ase_interface import SpkCalculator  # noqa: E402
from schnetpack.transform import MatScipyNeighborList, SkinNeighborList  # noqa: E402


class SchNetPack(Peer):
    """The representation, `Atomwise` and `Forces`, with the batches collated beforehand."""

    def __init__(self, job: dict[str, Any]):
        config = job["config"]
        width, cutoff = config["width"], config["cutoff"]
        self.cutoff = cutoff
        kinds = {
            "painn": (spk.representation.PaiNN, spk.nn.BesselRBF, F.silu),
            "schnet": (spk.representation.SchNet, spk.nn.GaussianRBF, spk.nn.shifted_softplus),
        }
        representation, basis, activation = kinds[job["family"]]
        model = spk.model.NeuralNetworkPotential(
            representation=representation(
                n_atom_basis=width,
                n_interactions=config["num_layers"],
                radial_basis=basis(n_rbf=config["num_basis"], cutoff=cutoff),
                cutoff_fn=spk.nn.CosineCutoff(cutoff),
            ),
            input_modules=[spk.atomistic.PairwiseDistances()],
            output_modules=[
                spk.atomistic.Atomwise(n_in=width, output_key="energy", activation=activation),
                spk.atomistic.Forces(),
            ],
        )
        super().__init__(model, job, "eager", f"schnetpack {version('schnetpack')}")
        file = np.load(job["file"])
        names = {
            "positions": "_positions", "atomic_numbers": "_atomic_numbers", "structure": "_idx_m",
            "receivers": "_idx_i", "senders": "_idx_j", "offsets": "_offsets",
            "atoms_per_structure": "_n_atoms", "energy": "energy", "forces": "forces",
        }  # fmt: skip
        self.batches = [
            self.here({theirs: torch.from_numpy(file[f"{k}/{n}"]) for n, theirs in names.items()})
            for k in range(job["num_batches"])
        ]

    def energies(self, batch: int) -> list[float] | None:
        """Of each structure, in units of the labels."""
        given = dict(self.batches[batch])
        given["_positions"] = given["_positions"].detach()
        return self.model(given)["energy"].tolist()

    def calculator(self) -> SpkCalculator:
        """Theirs, with the list of neighbours of their dynamics: kept while atoms move little."""
        model = self.model

        class InMemory(SpkCalculator):
            def _load_model(self, model_file: str) -> torch.nn.Module:
                return model.eval()

        finder = MatScipyNeighborList(cutoff=self.cutoff)
        return InMemory("", SkinNeighborList(finder), energy_unit="eV", position_unit="Ang")

    def loss(self, batch: int) -> Tensor:
        """Our loss: Huber of energy per atom and force components, labels in our unit."""
        given = dict(self.batches[batch])
        energy, forces = given.pop("energy"), given.pop("forces")
        given["_positions"] = given["_positions"].detach()  # so that no gradient piles up on it
        told = self.model(given)
        labels = {"energy": energy, "forces": forces}
        return huber(told["energy"], told["forces"], labels, given["_n_atoms"], self.recipe)


if __name__ == "__main__":
    serve(SchNetPack)
