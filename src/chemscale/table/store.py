"""The study folder: the only module that reads or writes it.

Every file is written aside, synced and renamed, so a reader never meets half of one. A run is held
by a kernel lock that dies with its process. `outcome.json` comes last; its presence means done.
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
from chemscale.table.evaluation import Evaluation
from chemscale.table.files import (
    Content,
    array_bytes,
    drop_folder,
    link_folder,
    read_json,
    read_record,
    refuse_newer,
    remove_parts,
    table,
    write,
    write_folder,
    write_json,
    writing,
)
from chemscale.table.fits import Fit
from chemscale.table.records import Run, Study
from chemscale.table.results import CURVE_COLUMNS, Choice, Curve, Estimate, Outcome, Size, Trained
from chemscale.table.toml import dump_toml, read_toml

LEFT_BEHIND = 3600.0  # seconds after which a half-written file of the study has no writer any more


class StudyFolder:
    """A study and all that was done for it.

    Args:
        path: the folder that holds `study.toml`, that file, or one of its plans.

    Raises:
        StoreError: there is no study, or a newer chemscale wrote it.
    """

    def __init__(self, path: str | Path):
        path = Path(path).expanduser().absolute()
        self.plan: str | None = None
        if path.suffix == ".toml" and path.parent.name == "plans":
            self.plan = path.stem
            path = path.parent.parent
        elif path.suffix == ".toml":
            if path.name != "study.toml":
                raise StoreError(
                    f"{path}: a study file is named study.toml, in a folder of its own"
                )
            path = path.parent
        self.path = path
        if not (path / "study.toml").is_file():
            told = "; tables and logs go to estimate, fit, plan and report" * path.is_file()
            what = "no study.toml here" if path.exists() else "there is no such folder"
            raise StoreError(f"{path}: {what}{told}")

    # --- what was asked ---

    @property
    def study_file(self) -> Path:
        """The study, or the plan that this folder was opened by."""
        return self.path / (f"plans/{self.plan}.toml" if self.plan else "study.toml")

    def study(self) -> Study:
        """Read the study file (or the plan), with every mistake told at once."""
        return self._study(self.study_file)

    def plans(self) -> dict[str, Study]:
        """All plans, in the order they were written."""
        return {
            f"plans/{file.stem}": self._study(file)
            for file in sorted((self.path / "plans").glob("*.toml"))
        }

    def write_plan(self, plan: Study) -> Path:
        """Write the next plan; none is ever rewritten."""
        folder = self.path / "plans"
        taken = [int(file.stem) for file in folder.glob("*.toml") if file.stem.isdigit()]
        target = folder / f"{max(taken, default=0) + 1:03d}.toml"
        data = plan.model_dump(mode="json", exclude_defaults=True, exclude={"forecast"})
        data |= {"forecast": [item.model_dump(mode="json") for item in plan.forecast]}
        write(target, dump_toml(data).encode())
        return target

    def _study(self, file: Path) -> Study:
        data = read_toml(file)
        refuse_newer(file, data)
        return Study.read(data, str(file))

    # --- runs ---

    def index(self) -> dict[str, list[str]]:
        """What study and plans ask for now: chapter → run ids."""
        data = read_json(self.path / "runs/index.json") or {}
        return {key: list(ids) for key, ids in data.items() if key != "format"}

    def ask(self, chapters: Mapping[str, Sequence[Run]]) -> None:
        """Write down runs, and that study or plan asks for them in these chapters."""
        for place in (self.path, self.path / "runs", self.path / "plans"):
            remove_parts(place, LEFT_BEHIND)
        known = self.run_folders()
        for run in {run.id: run for runs in chapters.values() for run in runs}.values():
            if run.id not in known:
                folder = self.path / "runs" / run.folder_name
                write_json(folder / "run.json", run)
        index = self.index() | {key: [run.id for run in runs] for key, runs in chapters.items()}
        write_json(self.path / "runs/index.json", index)

    def release(self, chapters: Mapping[str, Sequence[Run]]) -> None:
        """Let go of what these chapters asked for and no longer do; asks for nothing new."""
        index = self.index()
        for chapter in index.keys() & chapters.keys():
            wanted = {run.id for run in chapters[chapter]}
            index[chapter] = [run_id for run_id in index[chapter] if run_id in wanted]
        if index != self.index():
            write_json(self.path / "runs/index.json", index)

    def run_folders(self) -> dict[str, Path]:
        """Where each run lies, by its id; folder names are for people and may be changed."""
        found = {}
        for file in sorted((self.path / "runs").glob("*/run.json")):
            data = read_json(file)
            if data is not None:
                found[str(data["id"])] = file.parent
        return found

    def ended(self) -> set[str]:
        """Ids of the runs that have ended."""
        return {i for i, path in self.run_folders().items() if RunFolder(path).has_ended()}

    def open_run(self, run_id: str) -> RunFolder:
        """The folder of one run."""
        folders = self.run_folders()
        if run_id not in folders:
            raise StoreError(f"{self.path}: no run {run_id}")
        return RunFolder(folders[run_id])

    def siblings(self, run: Run) -> list[RunFolder]:
        """Folders of other runs on the same trunk."""
        others = []
        for run_id, path in self.run_folders().items():
            folder = RunFolder(path)
            if run_id != run.id and folder.run().trunk_id == run.trunk_id:
                others.append(folder)
        return others

    def trained(self) -> list[Trained]:
        """Every run that has ended, asked for or not."""
        roles: dict[str, list[str]] = {}
        for chapter, ids in self.index().items():
            for run_id in ids:
                roles.setdefault(run_id, []).append(chapter)
        ended = []
        for run_id, path in self.run_folders().items():
            folder = RunFolder(path)
            outcome = folder.outcome()
            if outcome is not None:
                asked = tuple(roles.get(run_id, ()))
                ended.append(Trained(folder.run(), outcome, folder.curve, asked))
        return ended

    # --- conclusions ---

    def sizes(self) -> list[Size]:
        """Read `ladder.json`."""
        data = read_json(self.path / "ladder.json") or {"sizes": []}
        return [Size.read(item, "ladder.json") for item in data["sizes"]]

    def write_sizes(self, sizes: Sequence[Size]) -> None:
        """Write `ladder.json`, with speeds measured before and families that a plan leaves out."""
        there, families = self.sizes(), {size.family for size in sizes}
        kept = {old.key: old.items_per_second for old in there}
        merged = [
            size.model_copy(
                update={"items_per_second": kept.get(size.key, {}) | size.items_per_second}
            )
            for size in sizes
        ]
        merged += [old for old in there if self.plan and old.family not in families]
        write_json(
            self.path / "ladder.json", {"sizes": [size.model_dump(mode="json") for size in merged]}
        )

    def notes(self) -> list[str]:
        """What the dataset said when it was read."""
        return [str(note) for note in (read_json(self.path / "notes.json") or {}).get("notes", [])]

    def available(self) -> int | None:
        """How many training items the dataset had when it was read; None before."""
        found = (read_json(self.path / "notes.json") or {}).get("available")
        return None if found is None else int(found)

    def write_notes(self, notes: Sequence[str], available: int, **more: Any) -> None:
        """Keep what the dataset said and how many training items it has, for other machines."""
        write_json(self.path / "notes.json", {"notes": list(notes), "available": available, **more})

    def choices(self) -> list[Choice]:
        """Read `choice.json`."""
        data = read_json(self.path / "choice.json") or {"entries": []}
        return [Choice.read(item, "choice.json") for item in data["entries"]]

    def write_choices(self, choices: Sequence[Choice]) -> None:
        """Write `choice.json` whole; callers append, so that finished runs stay in use."""
        entries = [choice.model_dump(mode="json") for choice in choices]
        write_json(self.path / "choice.json", {"entries": entries})

    def write_estimate(self, estimate: Estimate) -> None:
        """Write `estimate.json`, and its rows as `estimate.csv`."""
        write_json(self.path / "estimate.json", estimate)
        rows = [row.model_dump() for family in estimate.families for row in family.rows]
        for row in rows:
            interval = row.pop("interval") or {}
            row |= {"forecast_low": interval.get("low"), "forecast_high": interval.get("high")}
        write(self.path / "estimate.csv", table(rows))

    def estimate(self) -> Estimate | None:
        """Read the estimate, if there is one."""
        return read_record(self.path / "estimate.json", Estimate)

    def write_fit(self, fit: Fit) -> None:
        """Write `fit.json`."""
        write_json(self.path / "fit.json", fit)

    def fit(self) -> Fit | None:
        """Read the fit, if there is one."""
        return read_record(self.path / "fit.json", Fit)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write `evaluation.json`."""
        write_json(self.path / "evaluation.json", evaluation)

    def evaluation(self) -> Evaluation | None:
        """Read what samples of the trained models are like, if that was measured."""
        return read_record(self.path / "evaluation.json", Evaluation)

    def write_file(self, name: str, data: bytes) -> Path:
        """Write any other file of the study folder, whole."""
        write(self.path / name, data)
        return self.path / name


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
        rows = read_curve(file.read_text()) if file.exists() else []
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


def read_curve(text: str) -> list[dict[str, str]]:
    """The rows of a curve, as text."""
    return list(csv.DictReader(io.StringIO(text)))
