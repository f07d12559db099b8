"""The side of mace-torch in `speed.py`: its MACE, energies and forces."""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from worker import Peer, huber, serve

warnings.filterwarnings("ignore")
# e3nn 0.4, which mace-torch asks for, reads its tables with a loader that newer torch restricts.
torch.serialization.add_safe_globals([slice])

with contextlib.redirect_stdout(sys.stderr):  # it tells what accelerators it lacks
    from e3nn import o3
    from e3nn.math import normalize2mom
    from mace.calculators.mace import MACECalculator
    from mace.modules import interaction_classes
    from mace.modules.models import MACE


class MACETorch(Peer):
    """`MACE` with `RealAgnosticResidualInteractionBlock`, with the batches built beforehand."""

    def __init__(self, job: dict[str, Any]):
        config = job["config"]
        width, elements = config["width"], config["elements"]
        hidden = "+".join(f"{width}x{n}{'eo'[n % 2]}" for n in range(config["l_max"] + 1))
        block = interaction_classes["RealAgnosticResidualInteractionBlock"]
        model = MACE(
            r_max=config["cutoff"],
            num_bessel=config["num_basis"],
            num_polynomial_cutoff=5,
            max_ell=config["l_edge"],
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=config["num_layers"],
            num_elements=len(elements),
            hidden_irreps=o3.Irreps(hidden),
            MLP_irreps=o3.Irreps(f"{config['readout_width']}x0e"),
            atomic_energies=np.zeros(len(elements)),
            avg_num_neighbors=1.0,  # ours comes with the weights
            atomic_numbers=list(elements),
            correlation=config["degree"],
            gate=F.silu,
            radial_MLP=[config["radial_width"]] * 3,
        )
        super().__init__(model, job, "eager", f"mace-torch {version('mace-torch')}")
        self.degree = config["degree"]
        file = np.load(job["file"])
        self.batches = [
            self.here(self._batch(file, k, elements)) for k in range(job["num_batches"])
        ]

    @staticmethod
    def _batch(file: Any, k: int, elements: list[int]) -> dict[str, Tensor]:
        given = {
            name: torch.from_numpy(file[f"{k}/{name}"])
            for name in ("positions", "atomic_numbers", "structure", "senders", "receivers",
                         "offsets", "atoms_per_structure", "energy", "forces")
        }  # fmt: skip
        sizes = given["atoms_per_structure"]
        index = {element: n for n, element in enumerate(elements)}
        chosen = torch.tensor([index[int(z)] for z in given["atomic_numbers"]])
        return {
            "positions": given["positions"],
            "node_attrs": F.one_hot(chosen, len(elements)).to(given["positions"].dtype),
            "edge_index": torch.stack((given["senders"], given["receivers"])),
            # Theirs points from the sender's home to the receiver's image.
            "shifts": -given["offsets"],
            "unit_shifts": torch.zeros_like(given["offsets"]),
            "cell": torch.zeros(3 * len(sizes), 3),
            "batch": given["structure"],
            "ptr": torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0))),
            "sizes": sizes,
            "energy": given["energy"],
            "forces": given["forces"],
        }

    def exchange(self, path: str) -> None:
        """Load our weights; those of the contraction in terms of the peer's polynomials."""
        given = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
        for block in self.model.interactions:
            block.avg_num_neighbors = float(given["neighbours"])
        state = {name: value.cpu() for name, value in self.model.state_dict().items()}
        silu = normalize2mom(F.silu)
        for name, value in given.items():
            if name.startswith("silu/"):  # our weights after an activation hold its scale
                state[name.removeprefix("silu/")] = value / silu.cst
            elif "contraction" not in name and name != "neighbours":
                state[name] = value.reshape(state[name].shape)
        for k, product in enumerate(self.model.products):
            for degree, power in itertools.product(
                range(len(product.symmetric_contractions.contractions)), range(1, self.degree + 1)
            ):
                there = f"products.{k}.symmetric_contractions.contractions.{degree}"
                theirs = state[f"{there}.U_matrix_{power}"]
                if degree == 0:
                    theirs = theirs[None]
                tensor = given[f"contraction/{k}/{degree}/{power}/tensor"]  # (K, 2l + 1, M, …)
                weights = given[f"contraction/{k}/{degree}/{power}/weights"]  # (Z, K, F)
                place = "weights_max" if power == self.degree else (
                    f"weights.{self.degree - 1 - power}"
                )  # fmt: skip
                state[f"{there}.{place}"] = _translated(theirs, tensor, weights)
        self.model.load_state_dict(state)

    def energies(self, batch: int) -> list[float] | None:
        """Of each structure, in units of the labels."""
        given = dict(self.batches[batch])
        return self.model(given, compute_force=False)["energy"].tolist()

    def calculator(self) -> MACECalculator:
        """Theirs, which looks for neighbours in every step."""
        return MACECalculator(
            models=self.model.eval(), device=self.device.type, default_dtype="float32"
        )

    def loss(self, batch: int) -> Tensor:
        """Our loss: Huber of energy per atom and force components, labels in our unit."""
        given = dict(self.batches[batch])
        given["positions"] = given["positions"].detach().clone()
        told = self.model(given, training=True)
        return huber(told["energy"], told["forces"], given, given["sizes"], self.recipe)


def _translated(theirs: Tensor, ours: Tensor, weights: Tensor) -> Tensor:
    """Weights (Z, K', F) of their tensors (2l + 1, M, …, K') that make the same polynomials."""
    orders = list(itertools.permutations(range(1, theirs.dim() - 1)))
    symmetric = sum(theirs.permute(0, *order, theirs.dim() - 1) for order in orders) / len(orders)
    columns = symmetric.flatten(0, -2).double()  # (…, K')
    wanted = ours.flatten(1).T.double()  # (…, K)
    mixed = torch.linalg.lstsq(columns, wanted, driver="gelsd").solution  # (K', K)
    assert torch.allclose(columns @ mixed, wanted, atol=1e-5), "not in their span"
    return torch.einsum("ab,zbf->zaf", mixed, weights.double()).float()


if __name__ == "__main__":
    serve(MACETorch)
