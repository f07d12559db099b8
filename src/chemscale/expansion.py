"""A study before anything is spent: its runs, its sizes, what they cost at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chemscale.progress import Watch, preparing
from chemscale.table import expand as expanding
from chemscale.table.errors import MissingPackage, StudyError
from chemscale.table.records import Run, Study
from chemscale.table.results import Size
from chemscale.table.store import StudyFolder

if TYPE_CHECKING:
    from chemscale.bench.training.workbench import Workbench


@dataclass(frozen=True)
class Expansion:
    """What a study would train, and what that costs at most."""

    study: Study
    sizes: tuple[Size, ...]  # of the study
    runs: dict[str, list[Run]]  # chapter → runs that are known now
    flops: dict[str, float]  # run → the most it can cost
    waiting: int  # sweep runs that wait for the choice of settings
    waiting_flops: float
    items: dict[str, float]  # run → the most items it can see
    notes: tuple[str, ...]
    rejects: tuple[str, ...]
    done: frozenset[str]
    new: frozenset[str]  # never asked for before
    unused: tuple[str, ...]  # folders of runs no longer asked for

    @property
    def changed(self) -> str:
        """What is new, what is reused and what falls out of use, as a sentence."""
        known = {run.id for runs in self.runs.values() for run in runs}
        begun = len(known) - len(self.new) - len(self.done)
        parts = [f"{len(self.new)} new", f"{len(self.done)} finished before and reused"]
        parts += [f"{begun} to go on with"] if begun else []
        text = f"{_runs(len(known))}: {', '.join(parts)}"
        if self.unused:
            are = "is" if len(self.unused) == 1 else "are"
            text += f"; {_runs(len(self.unused))} {are} no longer asked for, kept but unused"
        return text

    @property
    def to_train(self) -> list[tuple[str, str, int]]:
        """Family, size and batch size of each run that is not done, or awaits its settings."""
        known = [run for runs in self.runs.values() for run in runs if run.id not in self.done]
        found = [(*run.key, run.trunk.recipe.batch_size) for run in known]
        if self.waiting:  # at least with the smallest batch
            found += [
                (*size.key, min(map(int, size.bytes_peak)))
                for size in self.sizes
                if size.bytes_peak
            ]
        return found


def open_workbench(folder: StudyFolder, watch: Watch) -> Workbench:
    """Open a study's dataset and families, after a look at their names."""
    with MissingPackage.told("train", "training"):
        from chemscale.bench.training.workbench import Workbench

    study = folder.study()
    unknown = expanding.unknown_families(study)
    if unknown:
        raise StudyError(str(folder.study_file), unknown)
    with preparing(watch) as progress:
        return Workbench(study, folder.path, progress)


def expand_with(folder: StudyFolder, bench: Workbench, measure: bool, watch: Watch) -> Expansion:
    """Check a study and list its runs; writes `ladder.json` and `notes.json`."""
    study, data = bench.study, bench.dataset
    expanding.validate(study, bench, str(folder.study_file))
    folder.write_sizes(_timed(bench, watch) if measure else bench.ladder())
    card = {"card": data.card.model_dump(mode="json")} if data.card else {}
    folder.write_notes(data.notes, len(data.indices("train")), **card)
    ladder = {size.key: size for size in folder.sizes()}
    runs, late = _chapters(folder, bench)
    checks_late = 2 * len(study.families) - len(runs.get("check", ())) if late else 0
    flat = expanding.unique(run for chapter in runs.values() for run in chapter)
    folders = folder.run_folders()
    whole = study if folder.plan is None else StudyFolder(folder.path).study()
    asked = {run.id for run in flat} | expanding.asked_elsewhere(folder.index(), runs, whole)
    return Expansion(
        study=study,
        sizes=tuple(
            ladder[family, size] for family, names in study.families.items() for size in names
        ),
        runs=runs,
        flops=expanding.costs(flat, ladder),
        waiting=len(late) + checks_late,
        waiting_flops=sum(expanding.costs(late, ladder).values()),
        items={run.id: expanding.most_items(run, ladder[run.key].flops_per_item) for run in flat},
        notes=(*expanding.warnings(study), *data.notes),
        rejects=tuple(
            f"{r.source} row {r.row}: {r.reason}{': ' + r.text if r.text else ''}"
            for r in data.rejects
        ),
        done=frozenset(folder.ended() & {run.id for run in flat}),
        new=frozenset(run.id for run in flat if run.id not in folders),
        unused=tuple(path.name for run_id, path in folders.items() if run_id not in asked),
    )


def _timed(bench: Workbench, watch: Watch) -> list[Size]:
    """The ladder, with the speed on this machine of the sizes that the study trains."""
    from chemscale.bench.training.devices import default_device, device_name
    from chemscale.bench.training.workbench import items_per_second

    study, device, timed = bench.study, default_device(), {}
    ours = {f: names for f, names in study.families.items() if f not in study.external}
    wanted = [(family, size) for family, names in ours.items() for size in names]
    with preparing(watch) as progress:
        for number, (family, size) in enumerate(wanted):
            progress("timing", number, len(wanted))
            speed = items_per_second(bench, family, size, device)
            timed[family, size] = {device_name(device): speed}
    return [
        rung.model_copy(update={"items_per_second": timed.get(rung.key, {})})
        for rung in bench.ladder()
    ]


def _chapters(folder: StudyFolder, bench: Workbench) -> tuple[dict[str, list[Run]], list[Run]]:
    """Runs that are known now, by chapter; and those that wait for the choice of settings."""
    study, choices = bench.study, folder.choices()
    sweep = expanding.sweep_runs(study, bench, choices)
    if folder.plan is not None:
        return {f"plans/{folder.plan}": sweep}, []
    if study.search is None:
        return {"sweep": sweep, "check": []}, []
    runs = {"search": expanding.search_runs(study, bench)}
    if "finish" in (index := folder.index()):
        known = {run.id: run for run in expanding.finish_runs(study, runs["search"])}
        runs["finish"] = [known[i] for i in index["finish"] if i in known]
    chosen = {choice.key for choice in choices}
    late = [run for run in sweep if run.key not in chosen]
    sweep = [run for run in sweep if run.key in chosen]
    if sweep or not late:
        runs |= {"sweep": sweep, "check": expanding.check_runs(study, bench, choices)}
    return runs, late


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"
