"""The folder of one run: what it is, how far it got, how it ended.

A run is held by a kernel lock that dies with its process. `outcome.json` comes last; its presence
means done.
"""

from __future__ import annotations

import csv
import fcntl
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.table.errors import StoreError
from chemscale.table.files import (
    Content,
    array_bytes,
    drop_folder,
    link_folder,
    read_json,
    read_record,
    remove_parts,
    table,
    write,
    write_folder,
    write_json,
    writing,
)
from chemscale.table.records import Run
from chemscale.table.results import CURVE_COLUMNS, Curve, Outcome


class RunFolder:
    """One run: what it is, how far it got, how it ended."""

    def __init__(self, path: Path):
        self.path = path

    def run(self) -> Run:
        """Read `run.json`."""
        run = read_record(self.path / "run.json", Run)
        if run is None:
            raise StoreError(f"{self.path}: no run.json here, so this is not the folder of a run")
        return run

    def has_ended(self) -> bool:
        """Whether there is an outcome, without reading it."""
        return (self.path / "outcome.json").exists()

    def outcome(self) -> Outcome | None:
        """How the run ended; None while it has not."""
        return read_record(self.path / "outcome.json", Outcome)

    def write_outcome(self, outcome: Outcome) -> None:
        """Say that the run has ended."""
        write_json(self.path / "outcome.json", outcome)

    def forget_outcome(self) -> None:
        """Make an ended run one that will be trained again, from the start."""
        self.keep_checkpoints([])
        with writing(self.path / "outcome.json"):
            (self.path / "outcome.json").unlink(missing_ok=True)

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold the run, or yield False when another process does."""
        lock = self.path / "lock"
        with writing(lock):
            stream = lock.open("a")
        with stream:
            with writing(lock):
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held = True
                except BlockingIOError:
                    held = False
            if held:
                remove_parts(self.path)
            yield held

    def is_held(self) -> bool:
        """Whether another process holds the run."""
        with self.hold() as ours:
            return not ours

    # --- what was burnt ---

    def note_spent(self, flops: float, *, sync: bool = False) -> None:
        """Keep account of the FLOPs burnt so far, between checkpoints too."""
        write(self.path / "spent.json", b'{"flops": %s}\n' % repr(flops).encode(), sync=sync)

    def spent(self) -> float | None:
        """FLOPs burnt so far; None where there is no account, or a loss of power spoilt it."""
        with suppress(StoreError, KeyError):
            return float((read_json(self.path / "spent.json") or {})["flops"])
        return None

    # --- checkpoints: directories that are never changed ---

    def save_checkpoint(self, name: str, files: Mapping[str, Content], **together: Any) -> Path:
        """Write a checkpoint whole; `together` with other processes as `write_folder` does."""
        target = self.path / "checkpoints" / name
        if not target.exists():
            write_folder(target, files, **together)
        return target

    def checkpoints(self, phase: str = "") -> dict[str, Path]:
        """The whole checkpoints, of one phase or all, by name and in order."""
        return {
            path.name: path
            for path in sorted((self.path / "checkpoints").glob(f"{phase}*"))
            if not path.name.startswith(".")
        }

    def adopt(self, checkpoint: Path) -> None:
        """Share another run's checkpoint without copying its bytes."""
        target = self.path / "checkpoints" / checkpoint.name
        if not target.exists():
            link_folder(target, checkpoint)

    def keep_checkpoints(self, names: Sequence[str]) -> None:
        """Drop all other checkpoints, and what a killed process left half written."""
        folder = self.path / "checkpoints"
        for path in list(folder.glob("*")):
            if path.name not in names:
                drop_folder(path)

    # --- curves ---

    def write_curve(self, rows: Sequence[Mapping[str, Any]], step_losses: NDArray[Any]) -> None:
        """Write `curve.csv` and `steps.npy` whole."""
        write(self.path / "curve.csv", curve_bytes(rows))
        write(self.path / "steps.npy", array_bytes(step_losses))

    def curve(self) -> Curve:
        """Read the curve; empty where nothing was evaluated yet."""
        file, steps = self.path / "curve.csv", self.path / "steps.npy"
        rows = list(csv.DictReader(io.StringIO(file.read_text()))) if file.exists() else []
        columns = {
            name: np.array([row[name] or "nan" for row in rows], dtype=float)
            for name in CURVE_COLUMNS
            if name != "phase"
        }
        columns["phase"] = np.array([row["phase"] for row in rows], dtype=str)
        losses = np.load(steps) if steps.exists() else np.zeros(0)
        name = read_json(self.path / "run.json") or {}
        return Curve(str(name.get("id")), columns, losses.astype(float))

    def log(self, text: str) -> None:
        """Add a line to `log.txt`, which is for people only: it ends no run."""
        with suppress(OSError), (self.path / "log.txt").open("a") as stream:
            stream.write(text.rstrip("\n") + "\n")


def curve_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A curve as CSV; numbers so that they read back as they were."""
    return table([{name: row.get(name) for name in CURVE_COLUMNS} for row in rows])
