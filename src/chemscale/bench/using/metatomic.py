"""Potentials as files of metatomic, which LAMMPS, i-PI, ASE and other engines run.

The network is traced with PyTorch alone, as TorchScript knows no native kernels. Engines hand over
neighbours, and differentiate energies to forces and stress themselves.
"""

# Annotations are compared by metatomic as they stand, so they must not become text.

import warnings
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from metatensor import torch as mts
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.models.base import Potential
from chemscale.bench.nn import native
from chemscale.bench.using.neighbours import Neighbours
from chemscale.bench.using.trained import TrainedPotential
from chemscale.table.errors import ChemscaleError
from chemscale.table.files import writing
from chemscale.table.record import Record

SIZES = (6, 0, 1, 13)  # atoms of what is looked at, the first traced; a rank may have none
TRIES = 3  # TorchScript runs something else from the second time on
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}  # of the largest value, or of `scale`


class Agreement(Record):
    """How far what was written is off the potential, at most."""

    energy: float  # of an atom, eV
    forces: float  # eV/Å
    faults: tuple[str, ...] = ()  # none: what disagrees is not written

    def __str__(self) -> str:
        """A sentence."""
        return (
            f"energies of atoms as the potential has them to {self.energy:.1e} eV, their slopes "
            f"to {self.forces:.1e} eV/Å"
        )


def write(trained: TrainedPotential, path: Path, description: str) -> Agreement:
    """Write a potential, in its precision, for engines.

    Args:
        trained: the potential, on the CPU, of a family that is local and takes no charge.
        path: where; it must not be there yet.
        description: for people, kept in the file.

    Raises:
        ChemscaleError: what TorchScript made of it is not the same function.
    """
    model = trained.model.requires_grad_(False).eval()
    dtype = model.scale.dtype
    network = Network(model)
    examples = [_example(trained, size) for size in SIZES]
    with native.plain(), warnings.catch_warnings():
        # Tracing warns of every size that it takes for good, most of them rightly.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        for number, constant in enumerate(_constants(network, examples[0])):
            # A buffer moves to the GPU with the model; what a trace finds by itself does not.
            network.register_buffer(f"constant_{number}", constant)
        traced = torch.jit.trace(network, examples[0], check_trace=False)
        agreement = _compare(network, traced, examples, trained)
        capabilities = ModelCapabilities(
            outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")},
            atomic_types=torch.isfinite(model.references).nonzero().flatten().tolist(),
            interaction_range=model.reach,
            length_unit="angstrom",
            supported_devices=["cuda", "cpu"],
            dtype=str(dtype).removeprefix("torch."),
        )
        metadata = ModelMetadata(name=trained.name, description=description)
        called = Exported(traced, model, trained.cutoff).eval()
        exported = AtomisticModel(called, metadata, capabilities)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=path.parent) as aside:
                part = Path(aside) / path.name
                exported.save(part)
                part.replace(path)
    return agreement


class Network(nn.Module):
    """Energies of atoms in units of `scale`, from vectors along edges."""

    def __init__(self, model: Potential):
        super().__init__()
        self.model = model

    def forward(
        self, vectors: Tensor, atomic_numbers: Tensor, senders: Tensor, receivers: Tensor
    ) -> Tensor:
        """From vectors (E, 3) of receiver to sender, and elements (A,): (A,)."""
        one = vectors.new_zeros(1)
        graph = GraphBatch(
            # All of a vector is the offset of an image: engines know it better than positions.
            positions=vectors.new_zeros(atomic_numbers.shape[0], 3),
            offsets=vectors,
            atomic_numbers=atomic_numbers,
            structure=torch.zeros_like(atomic_numbers),
            senders=senders,
            receivers=receivers,
            atoms_per_structure=one,
            energy=one,
            forces=one,
        )
        return self.model.atom_energies(graph)


class Exported(nn.Module):
    """What engines call; all of it is TorchScript."""

    references: Tensor
    scale: Tensor

    def __init__(self, traced: nn.Module, model: Potential, cutoff: float):
        super().__init__()
        self.traced = traced
        self.cutoff = cutoff
        self.register_buffer("references", model.references)
        self.register_buffer("scale", model.scale)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """Edges in both directions."""
        return [NeighborListOptions(cutoff=self.cutoff, full_list=True, strict=True)]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        """Energies of systems or of their atoms, references included, summed in double."""
        found: Dict[str, TensorMap] = {}
        if "energy" not in outputs:
            return found
        neighbours = self.requested_neighbor_lists()[0]
        vectors: List[Tensor] = []
        senders: List[Tensor] = []
        receivers: List[Tensor] = []
        numbers: List[Tensor] = []
        samples: List[Tensor] = []
        start = 0
        for number, system in enumerate(systems):
            pairs = system.get_neighbor_list(neighbours)
            vectors.append(pairs.values.squeeze(2))
            receivers.append(start + pairs.samples.column("first_atom").long())
            senders.append(start + pairs.samples.column("second_atom").long())
            numbers.append(system.types.long())
            atoms = torch.arange(len(system), device=system.device)
            samples.append(torch.stack((torch.full_like(atoms, number), atoms), dim=1))
            start += len(system)
        elements = torch.cat(numbers)
        order = torch.argsort(torch.cat(receivers), stable=True)
        interaction = self.traced(
            torch.cat(vectors)[order],
            elements,
            torch.cat(senders)[order],
            torch.cat(receivers)[order],
        )
        energies = self.scale.double() * interaction.double() + self.references[elements]
        device = elements.device
        one = torch.zeros((1, 1), dtype=torch.int32, device=device)
        block = TensorBlock(
            values=energies[:, None],
            samples=Labels(["system", "atom"], torch.cat(samples).int()),
            components=torch.jit.annotate(List[Labels], []),
            properties=Labels(["energy"], one),
        )
        energy = TensorMap(Labels(["_"], one), [block])
        if selected_atoms is not None:
            energy = mts.slice(energy, "samples", selected_atoms)
        if outputs["energy"].sample_kind == "system":
            energy = mts.sum_over_samples(energy, ["atom"])
        found["energy"] = energy.to(interaction.dtype)
        return found


class _Foreign(TorchDispatchMode):
    """Collects tensors that a computation uses, and neither makes nor is given."""

    def __init__(self, given: Iterable[Tensor]):
        super().__init__()
        self.known = {id(tensor): tensor for tensor in given}  # kept, so that an id stays one
        self.found: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, Tensor) and id(one) not in self.known:
                self.found[id(one)] = one
        result = function(*args, **(kwargs or {}))
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        self.known.update({id(one): one for one in made})
        return result


def _constants(network: Network, example: tuple[Tensor, ...]) -> list[Tensor]:
    """Tensors that are neither parameters nor buffers, such as tables of couplings."""
    with torch.no_grad():
        network(*example)  # they are made at the first use
        with _Foreign([*example, *network.parameters(), *network.buffers()]) as seen:
            network(*example)
    return [constant for constant in seen.found.values() if constant.dim()]


def _example(trained: TrainedPotential, size: int) -> tuple[Tensor, ...]:
    """Input of the network: so many atoms, on jittered places of a lattice; the last in a cell."""
    generator = np.random.default_rng(size)
    known = torch.isfinite(trained.model.references).nonzero().flatten()
    numbers = known[torch.from_numpy(generator.integers(len(known), size=size))]
    places = np.stack(np.unravel_index(np.arange(size), (3, 3, 3)), axis=1)
    positions = 0.4 * trained.cutoff * (places + generator.uniform(-0.2, 0.2, (size, 3)))
    pbc = np.full(3, size == SIZES[-1])
    cell = 1.3 * trained.cutoff * np.eye(3)
    edges = Neighbours(trained.cutoff, 0.0).find(positions, cell, pbc)
    vectors = positions[edges.senders] - positions[edges.receivers]
    if edges.offsets is not None:
        vectors = vectors + edges.offsets
    return (
        torch.from_numpy(vectors).to(trained.model.scale.dtype),
        numbers,
        torch.from_numpy(edges.senders),
        torch.from_numpy(edges.receivers),
    )


def _compare(
    network: nn.Module,
    traced: nn.Module,
    examples: list[tuple[Tensor, ...]],
    trained: TrainedPotential,
) -> Agreement:
    """How far two networks are from each other, on other sizes than the traced one, too."""

    def told(one: nn.Module, example: tuple[Tensor, ...]) -> list[Tensor]:
        vectors = example[0].requires_grad_()
        energies = one(vectors, *example[1:])
        slopes = torch.autograd.grad(
            energies.sum(), vectors, allow_unused=True, materialize_grads=True
        )
        return [energies.detach(), *slopes]

    worst = [0.0, 0.0]
    for example in examples:
        sizes = f"atoms: {len(example[1])}, edges: {len(example[0])}"
        wanted = told(network, example)
        for _ in range(TRIES):
            try:
                found = told(traced, example)
            except RuntimeError as error:
                raise ChemscaleError(
                    f"{trained.name}: TorchScript cannot run {trained.family} ({sizes}), so it was "
                    f"not written. It says: {str(error).strip().splitlines()[-1]}"
                ) from error
            for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
                if not other.numel():
                    continue
                off = float((one - other).abs().max())
                if not off <= TOLERANCE[other.dtype] * max(1.0, float(other.abs().max())):
                    raise ChemscaleError(
                        f"{trained.name}: what TorchScript makes of {trained.family} is another "
                        f"function ({off:.1e} apart; {sizes}), so it was not written. A size of "
                        "its input may have become a constant, by len(tensor) in its code; "
                        "tensor.shape[0] is traced"
                    )
                worst[place] = max(worst[place], off)
    scale = float(trained.model.scale)
    return Agreement(energy=scale * worst[0], forces=scale * worst[1])
