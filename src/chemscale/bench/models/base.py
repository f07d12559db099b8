"""The family contract.

A family is a frozen `Config`, a ladder of sizes, and the mathematics. A potential answers one
question, the energy of each atom in a graph; a language model answers one, logits from tokens.
The half-built rooms here do the rest. A family never owns a training loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemscale.bench.models.decoding import Decoder, WholeDecoder
from chemscale.bench.models.flops import Passes as Passes
from chemscale.bench.models.flops import Seen as Seen
from chemscale.bench.models.interaction import Interaction, Prediction
from chemscale.bench.nn.messages import scatter_sum
from chemscale.table.errors import DataError
from chemscale.table.record import Record
from chemscale.table.records import Recipe

if TYPE_CHECKING:
    from chemscale.bench.data.base import Indices
    from chemscale.bench.data.graph_batch import GraphBatch
    from chemscale.bench.data.graphs import Structures
    from chemscale.bench.data.token_batch import TokenBatch
    from chemscale.bench.data.tokens import Molecules
    from chemscale.bench.models.counterpart import Counterpart


@dataclass(frozen=True)
class Scaling:
    """What μP multiplies a parameter's start and learning rate by (Yang et al. 2021)."""

    start: float
    rate: float


class Family(nn.Module, ABC):
    """What every model family declares."""

    Config: ClassVar[type[Record]]
    revision: ClassVar[int]  # raised when the same config gives other numbers
    unit: ClassVar[Literal["molecule", "structure"]]
    ladder: ClassVar[Mapping[str, Record]]  # size → config, up to over 10⁹ parameters
    layered: ClassVar[bool] = False  # layers of a ModuleList can be sharded, recomputed, compiled
    recordable: ClassVar[bool] = False  # sizes of what its loss computes follow from the batch's
    counterpart: ClassVar[Counterpart | None] = None  # the same network in transformers
    recompute = False  # set for a run: layers are computed again on the way back

    def __init__(self, config: Record):
        super().__init__()
        self.config = config

    @classmethod
    def fitted_config(cls, size: str, dataset: Any) -> Record:
        """The config of a size, completed with what the dataset decides."""
        return cls.ladder[size]

    @classmethod
    @abstractmethod
    def needs(cls, recipe: Recipe) -> tuple[str, ...]:
        """The labels that the loss needs."""

    @abstractmethod
    def calibrate(self, dataset: Any, subset: Indices) -> None:
        """Set what is computed from the training subset, once, before training."""

    @abstractmethod
    def loss(self, batch: Any, recipe: Recipe, whole: Seen | None = None) -> Tensor:
        """The training loss of a batch, a scalar; the mean over its items or tokens.

        With `whole` the batch is a part of one that holds so much: the losses of its parts add up
        to the loss of the whole.
        """

    @abstractmethod
    def measure(self, batch: Any, recipe: Recipe) -> dict[str, tuple[float, float]]:
        """Evaluate a batch: metric → (sum, weight), so that batches add."""

    @classmethod
    @abstractmethod
    def flops_formula(cls, config: Any, recipe: Recipe) -> dict[str, float]:
        """FLOPs of one training step per token, pair, atom or edge (a field of `Seen`).

        By closed form: matrix products and contractions, 2 per multiply-add; nothing elementwise.
        """

    @abstractmethod
    def seen(self, batch: Any) -> Seen:
        """Count what is in a batch."""

    def width_scalings(self, base_width: int) -> dict[str, Scaling]:
        """By parameter, what μP changes if all is right at another width (`mup_base_width`).

        Raises:
            DataError: this family does not say.
        """
        raise DataError(f"{type(self).__name__}: mup_base_width is for chemgpt and qwen3 so far")

    def padded(self, batch: Any) -> Any:
        """A batch on the CPU with what changes no loss behind it, so that few sizes occur.

        Only of families that are `recordable`.
        """
        raise NotImplementedError

    def flops(self, seen: Seen, recipe: Recipe) -> float:
        """Training FLOPs of one batch."""
        formula = type(self).flops_formula(self.config, recipe)
        return sum(value * getattr(seen, name) for name, value in formula.items())

    def stack(self) -> list[nn.Module]:
        """Its layers, of every `ModuleList` in order."""
        lists = [module for module in self.modules() if isinstance(module, nn.ModuleList)]
        return [layer for one in lists for layer in one]

    @property
    def num_params_total(self) -> int:
        """All trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def num_params(self) -> int:
        """Trainable parameters without embedding tables."""
        embeddings = [m for m in self.modules() if isinstance(m, nn.Embedding)]
        return self.num_params_total - sum(m.weight.numel() for m in embeddings)


class LanguageModel(Family):
    """Logits from tokens; the loss is the mean over tokens of the next-token cross-entropy."""

    unit = "molecule"
    layered = True
    by_symbol: ClassVar[tuple[str, ...]] = ("symbols.weight",)  # weights with a row for each symbol

    @classmethod
    def fitted_config(cls, size: str, dataset: Molecules) -> Record:
        """The config of a size, with the vocabulary and the longest molecule of a dataset."""
        fitted = {"vocab_size": len(dataset.vocabulary()), "max_length": dataset.spec.max_length}
        return cls.ladder[size].model_copy(update=fitted)

    @abstractmethod
    def logits(self, batch: TokenBatch) -> Tensor:
        """Unnormalised log probabilities of the next token: (tokens, vocabulary)."""

    def features(self, batch: TokenBatch, layer: int | None = None) -> Tensor:
        """Features of each token after so many layers, by default what the logits are made of.

        Raises:
            DataError: this family has none to show.
        """
        raise DataError(f"{type(self).__name__} does not show its features")

    @property
    def num_layers(self) -> int:
        """How many layers `features` can stop after."""
        return 0

    def decoder(self, num_slots: int) -> Decoder:
        """What samples sequences token by token, so many at once."""
        return WholeDecoder(self, num_slots)

    @classmethod
    def needs(cls, recipe: Recipe) -> tuple[str, ...]:
        return ()

    def calibrate(self, dataset: Molecules, subset: Indices) -> None:
        return None

    def seen(self, batch: TokenBatch) -> Seen:
        pairs = self.attended_pairs(batch)
        return Seen(items=batch.num_molecules, tokens=len(batch.tokens), pairs=pairs)

    @abstractmethod
    def attended_pairs(self, batch: TokenBatch) -> int:
        """Query-key pairs within molecules and windows, summed over layers."""

    def padded(self, batch: TokenBatch) -> TokenBatch:
        return batch.padded()

    def loss(self, batch: TokenBatch, recipe: Recipe, whole: Seen | None = None) -> Tensor:
        mean = F.cross_entropy(self.logits(batch).float(), batch.targets)
        return mean if whole is None else mean * (len(batch.tokens) / whole.tokens)

    @torch.no_grad()
    def measure(self, batch: TokenBatch, recipe: Recipe) -> dict[str, tuple[float, float]]:
        """Nats per token, molecule and heavy atom; molecules with unknown symbols left out."""
        nats = F.cross_entropy(self.logits(batch).float(), batch.targets, reduction="none")
        known = batch.known[batch.molecule]  # (tokens,)
        total = float(nats[known].double().sum())
        return {
            "loss": (float(nats.double().sum()), float(nats.numel())),
            "nats_per_token": (total, float(known.sum())),
            "nats_per_molecule": (total, float(batch.known.sum())),
            "nats_per_heavy_atom": (total, float(batch.heavy_atoms[batch.known].sum())),
        }


class Potential(Family):
    """Energy of each atom from a graph; forces are minus its gradient.

    The base sums the atoms, adds per-element reference energies and differentiates. Networks work
    in units of `scale`, the root mean square force of the training subset (eV/Å, and eV).
    """

    unit = "structure"
    local: ClassVar[bool] = True  # distant fragments do not see each other
    periodic: ClassVar[bool] = True
    charged: ClassVar[bool] = False

    references: Tensor  # (101,) eV by atomic number; NaN for elements not in the training set
    scale: Tensor  # ()
    cutoff: float  # Å, how far an atom sees in one step

    def __init__(self, config: Record):
        super().__init__(config)
        self.cutoff = float(config.cutoff)  # type: ignore[attr-defined]
        # The references stay in double precision: total energies are large, differences small.
        self.register_buffer("references", torch.full((101,), torch.nan, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(()))

    @abstractmethod
    def atom_energies(self, graph: GraphBatch) -> Tensor:
        """Energy of each atom in units of `scale`, without references: (atoms,)."""

    @property
    def reach(self) -> float:
        """How far an atom's energy sees, Å; messages carry it one cutoff a layer."""
        return self.cutoff * getattr(self.config, "num_layers", 1)

    @classmethod
    def needs(cls, recipe: Recipe) -> tuple[str, ...]:
        weights = {"forces": recipe.forces_weight, "stress": recipe.stress_weight}
        return ("energy", *(label for label, weight in weights.items() if weight > 0))

    def calibrate(self, dataset: Structures, subset: Indices) -> None:
        """Take references and scale from the training subset."""
        references, scale = dataset.references_and_scale(subset)
        self.references.copy_(torch.from_numpy(references))
        self.scale.fill_(scale)

    def seen(self, batch: GraphBatch) -> Seen:
        edges = len(batch.senders)
        return Seen(items=batch.num_structures, atoms=batch.num_atoms, edges=edges)

    def padded(self, batch: GraphBatch) -> GraphBatch:
        return batch.padded(2 * self.cutoff)

    def reference_energies(self, graph: GraphBatch) -> Tensor:
        """Sum of the reference energies of each structure, eV: (structures,), double precision."""
        atoms = self.references[graph.atomic_numbers]
        return scatter_sum(atoms, graph.structure, graph.num_structures)

    def interaction(
        self, graph: GraphBatch, *, training: bool, strained: bool = False
    ) -> Interaction:
        """What lies between the atoms, and its slopes.

        Args:
            graph: the structures.
            training: the slopes can be differentiated again.
            strained: the virial too.
        """
        with torch.enable_grad():
            strain: list[Tensor] = []
            if strained:
                graph, *strain = graph.strained()
            else:
                graph = graph.differentiable()
            atoms = self.atom_energies(graph)
            energy = self.scale * scatter_sum(atoms, graph.structure, graph.num_structures)
            slopes = torch.autograd.grad(
                energy.sum(),
                (graph.positions, *strain),
                create_graph=training,
                materialize_grads=True,  # of isolated atoms nothing depends on the positions
            )
        return Interaction(atoms, energy, -slopes[0], slopes[1] if strained else None)

    def forward(self, graph: GraphBatch) -> tuple[Tensor, Tensor]:
        """Energies (structures,) eV, double precision, and forces (atoms, 3) eV/Å."""
        found = self.interaction(graph, training=False)
        energy = found.energy.detach().double() + self.reference_energies(graph)
        return energy, found.forces.detach()

    def predict(self, graph: GraphBatch) -> Prediction:
        """Energies, atom by atom too, forces and, where there are cells, stress; no gradients.

        Stress is the virial, the slope of the energy under a symmetric strain, by the volume; as
        in ASE it is negative under pressure.
        """
        found = self.interaction(graph, training=False, strained=graph.cell is not None)
        atoms = (self.scale * found.atoms).detach().double()
        energies = atoms + self.references[graph.atomic_numbers]
        energy = scatter_sum(energies, graph.structure, graph.num_structures)
        return Prediction(energies, energy, found.forces, found.stress(graph))

    def loss(self, graph: GraphBatch, recipe: Recipe, whole: Seen | None = None) -> Tensor:
        """The recipe's loss of energy per atom, force components and virial per atom.

        All in units of `scale`. A structure without a cell has no stress and adds none.
        """
        if recipe.learns_slopes:
            strained = recipe.stress_weight > 0 and graph.stress is not None
            found = self.interaction(graph, training=True, strained=strained)
        else:
            atoms = self.atom_energies(graph)
            energy = self.scale * scatter_sum(atoms, graph.structure, graph.num_structures)
            found = Interaction(atoms, energy, graph.forces, None)  # forces are not asked for
        references = self.reference_energies(graph)
        return found.loss(graph, references, self.scale, recipe, whole or self._whole(graph))

    def _whole(self, graph: GraphBatch) -> Seen:
        """What a loss is the mean over; what a family counts beside would be fetched from a GPU."""
        if graph.real_atoms is None:
            return Potential.seen(self, graph)
        # As a tensor: recorded steps read it anew.
        return Seen(items=graph.num_structures - 1, atoms=graph.real_atoms)  # type: ignore[arg-type]

    def measure(self, graph: GraphBatch, recipe: Recipe) -> dict[str, tuple[float, float]]:
        """Loss and MAE of energy (meV/atom), forces (meV/Å) and stress (meV/Å³).

        Missing labels leave a metric out.
        """
        found = self.interaction(graph, training=False, strained=graph.stress is not None)
        found = found.detached()
        references = self.reference_energies(graph)
        sums = found.errors(graph, references)
        if found.is_labelled(graph, recipe):
            whole = Potential.seen(self, graph)
            loss = found.loss(graph, references, self.scale, recipe, whole)
            sums["loss"] = (float(loss) * graph.num_structures, float(graph.num_structures))
        return sums


def widths(config: Callable[..., Record], *values: int, **common: Any) -> dict[str, Record]:
    """Make a ladder of sizes that differ in width, named w16, w24 and so on."""
    return {f"w{value}": config(width=value, **common) for value in values}


def load_family(name: str) -> type[Family]:
    """The family of that name, from ours or anybody's package."""
    from chemscale.table.registry import families

    family: type[Family] = families.load(name)
    return family


def build(family: type[Family], config: Record, seed: int, dtype: torch.dtype) -> Family:
    """A freshly initialised model; the same seed gives the same weights, whatever came before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family(config)
    return model.to(dtype) if dtype != torch.float32 else model
