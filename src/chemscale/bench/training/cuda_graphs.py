"""A training step recorded on a GPU and played again (CUDA graphs).

The step of a small model is a thousand kernels of some microseconds each, and to ask for them takes
longer than to run them. A recording asks once. Its shapes are fixed, so batches are padded to few
sizes; each size is recorded when it first comes, from a step that is not taken, and then played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chemscale.bench.data.moving import locked
from chemscale.bench.models.base import Family
from chemscale.bench.nn import native
from chemscale.bench.training.resources import ORDINARY, Resources
from chemscale.bench.training.step import optimiser, set_rate, train_step, update
from chemscale.table.records import Recipe

WARM = 3  # steps as usual before the first recording: libraries set themselves up in them


class Stepper:
    """Takes the training steps of a model, recorded where that can be done and pays.

    Args:
        model: on its device.
        recipe: of its training.
        resources: of its run.
    """

    def __init__(self, model: Family, recipe: Recipe, resources: Resources = ORDINARY):
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.model, self.recipe = model, recipe
        recorded = (
            self.device.type == "cuda"
            and model.recordable
            and native.on_gpu() is not None  # whose shapes do not depend on what is in a batch
            and recipe.precision != "float64"
            and recipe.stress_weight == 0
            and not (resources.compile or resources.recompute or resources.ranks > 1)
        )
        self.optimizer = optimiser(model, recipe, recorded=recorded)
        self._recorder = _Recorder(model, self.optimizer, recipe) if recorded else None

    def forget(self) -> None:
        """Recordings are void: the optimiser's state was replaced."""
        if self._recorder is not None:
            self._recorder = _Recorder(self.model, self.optimizer, self.recipe)

    def __call__(self, batch: Any, rate: float) -> Tensor:
        """One step on a batch as it was collated; its loss before it."""
        if self._recorder is not None:
            return self._recorder.step(batch, rate)
        moved = batch.to(self.device, self.dtype)
        return train_step(self.model, self.optimizer, [moved], self.recipe, rate)


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    batch: Any  # on the GPU, what the recorded step reads
    loss: Tensor  # where it is after a step

    def play(self, batch: Any) -> Tensor:
        for name, value in vars(self.batch).items():
            if value is not None and value.is_cuda:
                value.copy_(locked(getattr(batch, name)), non_blocking=True)
        self.graph.replay()
        return self.loss.clone()


class _Recorder:
    def __init__(self, model: Family, optimizer: torch.optim.Optimizer, recipe: Recipe):
        self.model, self.optimizer, self.recipe = model, optimizer, recipe
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self._recordings: dict[tuple[torch.Size, ...], _Recording] = {}
        self._steps = 0
        self._aside = torch.cuda.Stream(self.device)

    def step(self, batch: Any, rate: float) -> Tensor:
        set_rate(self.optimizer, rate)
        self._steps += 1
        if self._steps <= WARM:
            return self._as_usual(batch)
        batch = self.model.padded(batch).ready(self.device, self.dtype)
        sizes = tuple(value.shape for value in vars(batch).values() if value is not None)
        if sizes not in self._recordings:
            self._recordings[sizes] = self._recorded(batch)
        return self._recordings[sizes].play(batch)

    def _as_usual(self, batch: Any) -> Tensor:
        """On a stream of its own, as a recording will be."""
        now = torch.cuda.current_stream(self.device)
        self._aside.wait_stream(now)
        with torch.cuda.stream(self._aside):
            loss = self._update(batch.to(self.device, self.dtype))
        now.wait_stream(self._aside)
        return loss

    def _recorded(self, batch: Any) -> _Recording:
        moved, graph = batch.to(self.device, self.dtype), torch.cuda.CUDAGraph()
        others = next(iter(self._recordings.values()), None)
        # Only one plays at a time, so all may use the same memory.
        with torch.cuda.graph(graph, pool=None if others is None else others.graph.pool()):
            loss = self._update(moved)
        return _Recording(graph, moved, loss)

    def _update(self, batch: Any) -> Tensor:
        return update(self.model, self.optimizer, [batch], self.recipe).detach()
