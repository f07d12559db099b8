"""Evaluation: the metrics of a split, batch by batch, shared among the ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from chemscale.bench.models.base import Family
from chemscale.bench.training.devices import DTYPES
from chemscale.bench.training.ranks import Ranks
from chemscale.bench.training.workbench import Workbench
from chemscale.table.records import Recipe


class Judge:
    """Measures a model on the items that are kept for it."""

    def __init__(self, bench: Workbench, model: Family, recipe: Recipe, ranks: Ranks):
        self.bench, self.model, self.recipe, self.ranks = bench, model, recipe, ranks
        self.collate = bench.dataset.collate(model.config)
        self.device = next(model.parameters()).device
        self._batches: dict[str, list[Any]] = {}

    def measure(self, split: Any) -> dict[str, float]:
        """Each metric over a split; none for an empty one."""
        if split not in self._batches:
            parts = self.bench.evaluated(split, self.device)
            self._batches[split] = [self.collate(items) for items in parts]
        self.model.eval()
        batches = self._batches[split]
        ours: dict[int, dict[str, tuple[float, float]]] = {}
        for first in range(0, len(batches), self.ranks.count):
            number = min(first + self.ranks.rank, len(batches) - 1)  # none idle: weights are shared
            batch = batches[number].to(self.device, DTYPES[self.recipe.precision])
            ours[number] = self.model.measure(batch, self.recipe)
        self.model.train()
        told = {number: found for each in self.ranks.gather(ours) for number, found in each.items()}
        sums: dict[str, np.ndarray[Any, Any]] = {}
        for number in sorted(told):
            for metric, pair in told[number].items():
                sums[metric] = sums.get(metric, np.zeros(2)) + np.array(pair)
        return {metric: float(total / weight) for metric, (total, weight) in sums.items() if weight}

    def judge(self) -> dict[str, dict[str, float]]:
        """Each metric on each split that there is."""
        judged = {split: self.measure(split) for split in ("validation", "test", "shift")}
        return {split: values for split, values in judged.items() if values}
