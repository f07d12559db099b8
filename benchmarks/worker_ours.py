"""Our side of `speed.py`: what a training run does in a step, collating included."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from worker import Side, serve

from chemscale.bench.models.base import Potential
from chemscale.bench.nn import native
from chemscale.bench.nn.contraction import basis
from chemscale.bench.nn.layers import SILU_SCALE
from chemscale.bench.training.cuda_graphs import Stepper
from chemscale.bench.training.devices import DTYPES
from chemscale.bench.training.workbench import Workbench, start_model
from chemscale.bench.using.calculator import PotentialCalculator
from chemscale.bench.using.trained import TrainedPotential
from chemscale.table.records import Study


class Ours(Side):
    """A family of ours, through the dataset and the step of the training loop."""

    def __init__(self, job: dict[str, Any]):
        since = time.perf_counter()
        native.library()
        built = time.perf_counter() - since
        bench = Workbench(Study.model_validate(job["study"]), Path.cwd())
        self.device = torch.device(job["device"])
        self.recipe = bench.study.recipe.resolve()
        config = bench.family(job["family"]).fitted_config(job["size"], bench.dataset)
        file = np.load(job["file"])
        self.items = [file[f"{k}/items"] for k in range(job["num_batches"])]
        subset = np.unique(np.concatenate(self.items))
        self.model = start_model(bench, job["family"], config, self.recipe, subset, 0)
        self.model.to(self.device)
        self.take_step = Stepper(self.model, self.recipe)
        self.collate = bench.dataset.collate(config)
        self.facts = {
            "num_params": self.model.num_params_total,
            "path": native.path(next(self.model.parameters())),
            "kernels_seconds": built,  # a few milliseconds where they lie in the cache
        }
        if isinstance(self.model, Potential):
            self.facts["scale"] = float(self.model.scale)  # eV/Å, the peer's unit of forces
        first = self._batch(0)
        for name in ("tokens", "positions"):
            if f"0/{name}" in file:
                same = np.array_equal(getattr(first, name).cpu(), file[f"0/{name}"])
                assert same, "the dataset gives other batches than the peer got"

    def exchange(self, path: str) -> None:
        """Write the weights under the peer's names."""
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in self.model.parameters():  # what starts at zero would hide all behind it
                if weight.dim() > 1 and not weight.any():
                    weight.normal_(std=len(weight) ** -0.5)
        named = {"ChemGPT": _chemgpt, "MACE": _mace, "PaiNN": _painn, "SchNet": _schnet}
        if type(self.model).__name__ not in named:
            return  # the peer's is another function: it keeps its own
        weights = named[type(self.model).__name__](self.model)
        np.savez(path, **{name: w.detach().cpu().numpy() for name, w in weights.items()})

    def energies(self, batch: int) -> list[float] | None:
        """Of each structure, in units of the labels; None for molecules."""
        if not isinstance(self.model, Potential):
            return None
        found = self.model.interaction(self._batch(batch), training=False)
        return (found.energy / self.model.scale).tolist()

    def loss(self, batch: int) -> Tensor:
        """That of training."""
        return self.model.loss(self._batch(batch), self.recipe)

    def step(self, batch: int) -> None:
        """As `chemscale train` does it."""
        self.take_step(self.collate(self.items[batch]), self.recipe.learning_rate)

    def calculator(self) -> PotentialCalculator:
        """As `chemscale.calculator` makes it of a run."""
        family = type(self.model).__name__.lower()
        return PotentialCalculator([TrainedPotential("benchmark", family, self.model)])

    def _batch(self, batch: int) -> Any:
        made = self.collate(self.items[batch])
        return made.to(self.device, DTYPES[self.recipe.precision])


def _chemgpt(model: torch.nn.Module) -> dict[str, Tensor]:
    return model.counterpart.theirs(model.state_dict(), model.config.num_layers)


# --- the weights under schnetpack's names ---------------------------------------------------------


def _dense(there: str, mlp: torch.nn.Module) -> dict[str, Tensor]:
    """A multilayer perceptron."""
    return {
        f"{there}.{i}.{kind}": getattr(layer, kind)
        for i, layer in enumerate(mlp.layers)
        for kind in ("weight", "bias")
    }


def _ends(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        "representation.embedding.weight": model.embedding.weight[:100],
        **_dense("output_modules.0.outnet", model.readout),
    }


def _painn(model: torch.nn.Module) -> dict[str, Tensor]:
    """One filter layer for all interactions, and other orders of what a layer gives at once."""
    theirs = _ends(model)
    filters = [_ordered(message.filter.weight, (0, 2, 1)) for message in model.messages]
    theirs["representation.filter_net.weight"] = torch.cat(filters)[:, :-1]
    theirs["representation.filter_net.bias"] = torch.cat(filters)[:, -1]
    for i, (message, update) in enumerate(zip(model.messages, model.updates, strict=True)):
        inter = f"representation.interactions.{i}.interatomic_context_net"
        intra = f"representation.mixing.{i}.intraatomic_context_net"
        theirs |= _dense(inter, message.context) | _dense(intra, update.context)
        for name in (f"{inter}.1.weight", f"{inter}.1.bias"):
            theirs[name] = _ordered(theirs[name], (0, 2, 1))
        for name in (f"{intra}.1.weight", f"{intra}.1.bias"):
            theirs[name] = _ordered(theirs[name], (2, 0, 1))
        mix = f"representation.mixing.{i}.mu_channel_mix.weight"
        theirs[mix] = torch.cat(update.mix.weight.chunk(2)[::-1])
    return theirs


def _schnet(model: torch.nn.Module) -> dict[str, Tensor]:
    theirs = _ends(model)
    for i, block in enumerate(model.interactions):
        there = f"representation.interactions.{i}"
        theirs |= _dense(f"{there}.filter_network", block.filter)
        theirs |= _dense(f"{there}.f2out", block.leave)
        theirs[f"{there}.in2f.weight"] = block.enter.weight
    return theirs


# --- under mace-torch's names --------------------------------------------------------------------


def _mace(model: torch.nn.Module) -> dict[str, Tensor]:
    """Flat lists of weights, l after l; the contraction's with the tensors they multiply."""
    config = model.config
    theirs = {"node_embedding.linear.weight": model.embedding, "neighbours": model.neighbours}
    for k, layer in enumerate(model.layers):
        there = f"interactions.{k}"
        theirs |= _radial(f"{there}.conv_tp_weights.layer", layer.radial.weights)
        theirs[f"{there}.linear_up.weight"] = _flat(layer.enter.weights)
        theirs[f"{there}.linear.weight"] = _flat(layer.leave.weights)
        kept = [w.unflatten(0, (len(config.elements), -1)) for w in layer.kept.weights]
        theirs[f"{there}.skip_tp.weight"] = _flat(w.transpose(0, 1) for w in kept)
        theirs[f"products.{k}.linear.weight"] = _flat(layer.come.weights)
        theirs |= {f"contraction/{k}/{n}": t for n, t in _contraction(layer, config).items()}
    for k, readout in enumerate(model.linear_readouts):
        theirs[f"readouts.{k}.linear.weight"] = readout
    first, last = model.readout.weights
    there = f"readouts.{len(model.layers) - 1}"
    theirs[f"{there}.linear_1.weight"] = first
    theirs[f"silu/{there}.linear_2.weight"] = last.flatten() * SILU_SCALE
    return theirs


def _radial(there: str, weights: Iterable[Tensor]) -> dict[str, Tensor]:
    first, *rest = weights
    named = {f"silu/{there}{n}.weight": w * SILU_SCALE for n, w in enumerate(rest, start=1)}
    return {f"{there}0.weight": first} | named


def _contraction(layer: torch.nn.Module, config: Any) -> dict[str, Tensor]:
    """By l and degree: symmetric tensors (K, 2l + 1, M, …) of the polynomials, and weights."""
    found, start = {}, 0
    size = (config.l_edge + 1) ** 2
    for (degree, power), count in layer.contraction.terms.sizes.items():
        tensor = np.zeros((count, 2 * degree + 1, *[size] * power), dtype=np.float32)
        for number, polynomial in enumerate(basis(config.l_edge, power, degree)):
            for key, value in polynomial.items():
                places = set(itertools.permutations(key))
                for place in places:
                    tensor[number, :, *place] = value / len(places)
        found[f"{degree}/{power}/tensor"] = torch.from_numpy(tensor)
        weights = layer.contraction.weights[:, start : start + count]
        found[f"{degree}/{power}/weights"] = weights
        start += count
    return found


def _flat(weights: Iterable[Tensor]) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights])


def _ordered(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Thirds of the rows in another order."""
    parts = weight.chunk(3)
    return torch.cat([parts[i] for i in order])


if __name__ == "__main__":
    serve(Ours)
