"""Checkpoints: what a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch as safetensors
import torch

from chemscale.bench.models.base import Family
from chemscale.table.files import array_bytes
from chemscale.table.store import RunFolder, curve_bytes

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

    def settle(self) -> None:
        """Fetch the losses of the last steps, as the 32-bit numbers that are stored."""
        if self.pending:
            self.losses += torch.stack(self.pending).float().cpu().tolist()
            self.pending = []

    def trunk_rows(self) -> list[dict[str, Any]]:
        """The evaluations of the trunk, without that of the untrained model."""
        return [row for row in self.rows if row["phase"] != "cooldown" and row["step"] > 0]

    def best_step(self) -> int:
        """The trunk step of best validation; 0 before any."""
        rows = self.trunk_rows()
        return min(rows, key=lambda row: row["val_loss"])["step"] if rows else 0

    def plain(self) -> dict[str, Any]:
        """All but the arrays, for JSON; floats read back as they were."""
        skip = ("losses", "pending")
        return {key: value for key, value in vars(self).items() if key not in skip}


def save(place: RunFolder, state: State, model: Family, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint of trunk or cooldown, and the run's curve up to here."""
    state.settle()
    rows = [{k: v for k, v in row.items() if k != "steps_done"} for row in state.rows]
    losses = np.array(state.losses, dtype=np.float32)
    moments = {
        f"{index}.{name}": value
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    place.save_checkpoint(
        name_of(state.phase, state.step),
        {
            "weights.safetensors": safetensors.save(_owned(model.state_dict())),
            "optimizer.safetensors": safetensors.save(_owned(moments)),
            "state.json": json.dumps(state.plain()).encode(),
            "curve.csv": curve_bytes(rows),
            "steps.npy": array_bytes(losses),
        },
    )
    place.write_curve(rows, losses)


def load_state(checkpoint: Path) -> State:
    """Where the path stood."""
    data = json.loads((checkpoint / "state.json").read_text())
    return State(**data, losses=np.load(checkpoint / "steps.npy").tolist())


def load_weights(checkpoint: Path, model: Family, optimizer: torch.optim.Optimizer) -> None:
    """Set model and optimiser as they were."""
    model.load_state_dict(safetensors.load((checkpoint / "weights.safetensors").read_bytes()))
    moments = safetensors.load((checkpoint / "optimizer.safetensors").read_bytes())
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})


def keep(place: RunFolder, state: State, *, ended: bool) -> None:
    """Drop what is no longer needed.

    Kept: the latest two of trunk and cooldown and the trunk's best; after the end the latest of
    each and the best, so that a longer run can go on from here.
    """
    names = sorted(place.checkpoints())
    latest = -1 if ended else -2
    cooled = [name for name in names if name.startswith("cooldown")][latest:]
    trunk = [name for name in names if name.startswith("trunk")][latest:]
    place.keep_checkpoints([*cooled, *trunk, name_of("trunk", state.best_step())])


def latest(place: RunFolder) -> Path | None:
    """The checkpoint to go on from: of the cooldown if it has begun, else of the trunk."""
    found = place.checkpoints()
    cooled = [name for name in sorted(found) if name.startswith("cooldown")]
    trunk = [name for name in sorted(found) if name.startswith("trunk")]
    return found[(cooled or trunk)[-1]] if found else None


def name_of(phase: Literal["trunk", "cooldown"], step: int) -> str:
    """The name of a checkpoint."""
    return f"{phase}-{step:09d}"


def _owned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies on the CPU, no two sharing memory (as tied weights do)."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
