"""The side of nequip-allegro in `speed.py`: its Allegro of our widths, energies and forces."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor
from worker import Peer, huber, serve

warnings.filterwarnings("ignore")
from allegro.model import AllegroModel  # noqa: E402
from nequip.integrations.ase import NequIPCalculator  # noqa: E402
from nequip.integrations.utils import basic_transforms  # noqa: E402
from nequip.utils.global_state import set_global_state  # noqa: E402

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O"}


class NequIPAllegro(Peer):
    """`AllegroModel` with the batches built beforehand.

    Another function than ours, so it keeps its own weights. Eager: `nequip-compile` and
    `compile_mode: compile`, which its authors advise, are not timed.
    """

    def __init__(self, job: dict[str, Any]):
        config = job["config"]
        set_global_state()
        width = config["width"]
        self.cutoff = config["cutoff"]
        model = AllegroModel(
            seed=0,
            model_dtype="float32",
            r_max=self.cutoff,
            type_names=list(SYMBOLS.values()),
            l_max=config["l_max"],
            parity=False,
            radial_chemical_embed={
                "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
                "num_bessels": config["num_basis"],
            },
            scalar_embed_mlp_hidden_layers_width=width,
            num_layers=config["num_layers"],
            num_scalar_features=width,
            num_tensor_features=width,
            allegro_mlp_hidden_layers_width=width,
            readout_mlp_hidden_layers_width=width,
            avg_num_neighbors=10.0,
        )
        told = f"nequip-allegro {version('nequip-allegro')}"
        super().__init__(model, job, "eager", told)
        file = np.load(job["file"])
        self.batches = [self.here(self._batch(file, k)) for k in range(job["num_batches"])]

    @staticmethod
    def _batch(file: Any, k: int) -> dict[str, Tensor]:
        given = {
            name: torch.from_numpy(file[f"{k}/{name}"])
            for name in ("positions", "atomic_numbers", "structure", "senders", "receivers",
                         "atoms_per_structure", "energy", "forces")
        }  # fmt: skip
        types = {number: place for place, number in enumerate(SYMBOLS)}
        return {
            "pos": given["positions"].double(),
            "atom_types": torch.tensor([types[int(z)] for z in given["atomic_numbers"]]),
            "edge_index": torch.stack((given["receivers"], given["senders"])),  # centre first
            "batch": given["structure"],
            "num_atoms": given["atoms_per_structure"],
            "energy": given["energy"],
            "labels": given["forces"],
        }

    def exchange(self, path: str) -> None:
        """Keep the weights it has."""

    def loss(self, batch: int) -> Tensor:
        """Our loss: Huber of energy per atom and force components, labels in our unit."""
        given = dict(self.batches[batch])
        labels = {"energy": given.pop("energy"), "forces": given.pop("labels")}
        sizes = given["num_atoms"]
        told = self.model(given)
        return huber(told["total_energy"].squeeze(1), told["forces"], labels, sizes, self.recipe)

    def calculator(self) -> NequIPCalculator:
        """Theirs, which looks for neighbours in every step."""
        names = list(SYMBOLS.values())
        transforms = basic_transforms({}, self.cutoff, names, {name: name for name in names})
        return NequIPCalculator(self.model.eval(), self.device, transforms=transforms)


if __name__ == "__main__":
    serve(NequIPAllegro)
