"""Our side of `speed.py`: what a training run does in a step, collating included."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from worker import serve

from chemscale.bench.nn import native
from chemscale.bench.training.measure import DTYPES, Workbench, start_model
from chemscale.bench.training.step import optimiser, train_step
from chemscale.table.records import Study


class Ours:
    """A family of ours, through the dataset and the step of the training loop."""

    def __init__(self, job: dict[str, Any]):
        since = time.perf_counter()
        native.library()
        built = time.perf_counter() - since
        bench = Workbench(Study.model_validate(job["study"]), Path.cwd())
        self.recipe = bench.study.recipe.resolve()
        config = bench.family(job["family"]).fitted_config(job["size"], bench.dataset)
        file = np.load(job["file"])
        self.items = [file[f"{k}/items"] for k in range(job["num_batches"])]
        subset = np.concatenate(self.items)
        self.model = start_model(bench, job["family"], config, self.recipe, subset, 0)
        self.optimizer = optimiser(self.model, self.recipe)
        self.collate = bench.dataset.collate(config)
        self.facts = {
            "num_params": self.model.num_params_total,
            "path": native.path(next(self.model.parameters())),
            "kernels_seconds": built,  # a few milliseconds where they lie in the cache
        }
        first = self._batch(0)
        for name in ("tokens", "positions"):
            if f"0/{name}" in file:
                same = np.array_equal(getattr(first, name), file[f"0/{name}"])
                assert same, "the dataset gives other batches than the peer got"

    def exchange(self, path: str) -> None:
        """Write the weights under the peer's names."""
        torch.manual_seed(0)
        if hasattr(self.model, "readout"):  # it starts at zero, which would hide all behind it
            torch.nn.init.xavier_uniform_(self.model.readout.layers[-1].weight)
        named = {"ChemGPT": _chemgpt, "PaiNN": _painn, "SchNet": _schnet}
        weights = named[type(self.model).__name__](self.model)
        np.savez(path, **{name: weight.detach().numpy() for name, weight in weights.items()})

    def loss(self, batch: int) -> Tensor:
        """That of training."""
        return self.model.loss(self._batch(batch), self.recipe)

    def step(self, batch: int) -> None:
        """As `chemscale train` does it."""
        rate = self.recipe.learning_rate
        train_step(self.model, self.optimizer, [self._batch(batch)], self.recipe, rate)

    def _batch(self, batch: int) -> Any:
        made = self.collate(self.items[batch])
        return made.to(torch.device("cpu"), DTYPES[self.recipe.precision])


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


def _ordered(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Thirds of the rows in another order."""
    parts = weight.chunk(3)
    return torch.cat([parts[i] for i in order])


if __name__ == "__main__":
    serve(Ours)
