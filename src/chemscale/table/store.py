"""The study folder: only this module, and `run_folder` for each run, read or write it.

Every file is written aside, synced and renamed, so a reader never meets half of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chemscale.table.errors import StoreError
from chemscale.table.evaluation import Evaluation
from chemscale.table.files import (
    read_json,
    read_record,
    refuse_newer,
    remove_parts,
    table,
    write,
    write_json,
)
from chemscale.table.fits import Fit
from chemscale.table.records import Run, Study
from chemscale.table.results import Choice, Estimate, Size, Trained
from chemscale.table.run_folder import RunFolder
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
