"""Checkpoints: what a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from chemscale.bench.models.base import Family, Seen
from chemscale.bench.training import tensors
from chemscale.bench.training.average import Average
from chemscale.bench.training.ranks import ALONE, Ranks
from chemscale.bench.training.recipe import cooldown_steps
from chemscale.table.files import Content, array_bytes
from chemscale.table.records import Length, Recipe
from chemscale.table.run_folder import RunFolder, curve_bytes

COUNTERS = ("items_seen", "tokens_seen", "atoms_seen", "edges_seen")


@dataclass
class State:
    """Where a path stands: what a checkpoint holds beside weights and optimiser."""

    phase: Literal["trunk", "cooldown"] = "trunk"
    step: int = 0
    branch: int | None = None  # the trunk step from which the cooldown started
    items_seen: int = 0
    tokens_seen: int = 0
    atoms_seen: int = 0
    edges_seen: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    joules: float | None = 0.0
    flops_spent: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of every step, trunk then cooldown
    pending: list[torch.Tensor] = field(default_factory=list)  # losses still on the device

    def add(self, seen: Seen, flops: float) -> None:
        """Count a step."""
        self.step += 1
        self.items_seen += seen.items
        self.tokens_seen += seen.tokens
        self.atoms_seen += seen.atoms
        self.edges_seen += seen.edges
        self.flops += flops
        self.flops_spent += flops

    def settle(self, ranks: Ranks = ALONE) -> None:
        """Fetch the losses of the last steps, of all ranks, as the 32-bit numbers stored."""
        if self.pending:
            self.losses += ranks.sum(torch.stack(self.pending).float()).cpu().tolist()
            self.pending = []

    def trunk_rows(self) -> list[dict[str, Any]]:
        """The evaluations of the trunk, without that of the untrained model."""
        return [row for row in self.rows if row["phase"] != "cooldown" and row["step"] > 0]

    def best_step(self) -> int:
        """The trunk step of best validation; 0 before any."""
        rows = self.trunk_rows()
        return min(rows, key=lambda row: row["val_loss"])["step"] if rows else 0

    def share(self, length: Length, recipe: Recipe) -> float:
        """How far along a run is, from 0 to 1."""
        if self.phase == "cooldown" and self.branch:
            total = cooldown_steps(recipe, self.branch * recipe.batch_size)
            return 0.8 + 0.2 * (self.step - self.branch) / total
        done = self.items_seen / length.items if length.items else self.flops / (length.flops or 1)
        return min(1.0, done) * (0.8 if length.cooldown else 1.0)

    def plain(self) -> dict[str, Any]:
        """All but the arrays, for JSON; floats read back as they were."""
        skip = ("losses", "pending")
        return {key: value for key, value in vars(self).items() if key not in skip}


def save(
    place: RunFolder,
    state: State,
    model: Family,
    optimizer: torch.optim.Optimizer,
    average: Average,
    ranks: Ranks = ALONE,
) -> None:
    """Write a checkpoint of trunk or cooldown, and the run's curve up to here.

    Its `weights` are those that are judged. Where that is an average, `iterate` has those that
    training goes on from.

    Sharded weights go into a file a rank, and can be read by any number of ranks.
    """
    state.settle(ranks)
    rows = [{k: v for k, v in row.items() if k != "steps_done"} for row in state.rows]
    losses = np.array(state.losses, dtype=np.float32)
    moments = {
        f"{index}.{name}": value
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    number = f"-{ranks.rank:05d}" if ranks.sharded else ""
    judged = {**model.state_dict(), **average.means}
    files: dict[str, Content] = {
        f"weights{number}.safetensors": tensors.file(_ours(judged, ranks)),
        f"optimizer{number}.safetensors": tensors.file(_ours(moments, ranks)),
    }
    if average.means:
        iterate = _ours(average.parameters, ranks)
        files[f"iterate{number}.safetensors"] = tensors.file(iterate)
    if ranks.first:
        files |= {
            "state.json": json.dumps(state.plain()).encode(),
            "curve.csv": curve_bytes(rows),
            "steps.npy": array_bytes(losses),
        }
    together = {"leader": ranks.leader, "meet": ranks.meet} if ranks.sharded else {}
    place.save_checkpoint(name_of(state.phase, state.step), files, **together)
    place.write_curve(rows, losses)
    ranks.meet()


def load_state(checkpoint: Path) -> State:
    """Where the path stood."""
    data = json.loads((checkpoint / "state.json").read_text())
    return State(**data, losses=np.load(checkpoint / "steps.npy").tolist())


def load_weights(
    checkpoint: Path, model: Family, optimizer: torch.optim.Optimizer, average: Average
) -> None:
    """Set model, optimiser and average as they were, however many ranks wrote them."""
    weights = tensors.Files(checkpoint, "weights")
    with torch.no_grad():
        for name, value in model.state_dict().items():
            tensors.local(value).copy_(tensors.rows(weights[name], value))
        if average.means:
            iterate = tensors.Files(checkpoint, "iterate")
            for name, mean in average.means.items():
                tensors.local(mean).copy_(tensors.rows(weights[name], mean))
                here = tensors.local(average.parameters[name])
                here.copy_(tensors.rows(iterate[name], mean))
    moments = tensors.Files(checkpoint, "optimizer")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key in moments.names:
        index, name = key.split(".", 1)
        value = moments[key]
        of = parameters[int(index)]
        entries.setdefault(int(index), {})[name] = tensors.like(value, of) if value.ndim else value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})


def keep(place: RunFolder, state: State, *, ended: bool) -> None:
    """Drop what is no longer needed.

    Kept: the latest two of trunk and cooldown and the trunk's best; after the end the latest of
    each and the best, so that a longer run can go on from here.
    """
    latest = -1 if ended else -2
    cooled, trunk = (list(place.checkpoints(phase))[latest:] for phase in ("cooldown", "trunk"))
    place.keep_checkpoints([*cooled, *trunk, name_of("trunk", state.best_step())])


def latest(place: RunFolder) -> Path | None:
    """The checkpoint to go on from: of the cooldown if it has begun, else of the trunk."""
    found = place.checkpoints("cooldown") or place.checkpoints("trunk")
    return found[max(found)] if found else None


def final(place: RunFolder) -> Path | None:
    """The checkpoint with the final weights of a run; None where there is none."""
    run, outcome = place.run(), place.outcome()
    if not run.length.cooldown or outcome is None or outcome.status != "finished":
        return None
    phase = "cooldown" if run.trunk.recipe.schedule == "constant" else "trunk"
    found = place.checkpoints(phase)
    return found[max(found)] if found else None


def name_of(phase: Literal["trunk", "cooldown"], step: int) -> str:
    """The name of a checkpoint."""
    return f"{phase}-{step:09d}"


def _ours(found: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """What this rank writes: its rows of what is sharded; the first, also what is not."""
    return {
        name: tensors.local(value)
        for name, value in found.items()
        if ranks.first or tensors.is_sharded(value)
    }
