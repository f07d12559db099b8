"""A study before anything is spent: its runs, its sizes, what they cost at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chemscale.table import expand as expanding
from chemscale.table.errors import MissingPackage, StudyError
from chemscale.table.records import Run, Study
from chemscale.table.results import Size
from chemscale.table.store import StudyFolder

if TYPE_CHECKING:
    from chemscale.bench.training.measure import Workbench

Watch = Callable[[dict[str, Any]], None]


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
    unused: int  # trained earlier, no longer asked for

    def speed(self, run: Run, device: str = "cpu") -> float | None:
        """Items per second of a run's size, where it was measured."""
        sizes = {(size.family, size.size): size for size in self.sizes}
        return sizes[run.trunk.family, run.size].items_per_second.get(device)


def open_workbench(folder: StudyFolder, watch: Watch) -> Workbench:
    """Open a study's dataset and families, after a look at their names."""
    try:
        from chemscale.bench.training.measure import Workbench
    except ModuleNotFoundError as error:
        raise MissingPackage.of(str(error.name), "train", "training") from error

    def progress(what: str, done: int, total: int) -> None:
        watch({"event": "prepare", "what": what, "done": done, "total": total})

    study = folder.study()
    unknown = expanding.unknown_families(study)
    if unknown:
        raise StudyError(str(folder.study_file), unknown)
    try:
        return Workbench(study, folder.path, progress)
    finally:
        watch({"event": "prepared"})


def expand_with(folder: StudyFolder, bench: Workbench, measure: bool, watch: Watch) -> Expansion:
    """Check a study and list its runs; writes `ladder.json` and `notes.json`."""
    study = bench.study
    expanding.validate(study, bench, str(folder.study_file))
    sizes = bench.ladder()
    if measure:
        from chemscale.bench.training.measure import default_device, device_name, items_per_second

        device = default_device()
        timed = {}
        wanted = [(f, size) for f, names in study.families.items() for size in names]
        for number, (family, size) in enumerate(wanted):
            watch({"event": "prepare", "what": "timing", "done": number, "total": len(wanted)})
            timed[family, size] = items_per_second(bench, family, size, device)
        watch({"event": "prepared"})
        sizes = [
            s.model_copy(
                update={"items_per_second": {device_name(device): timed[s.family, s.size]}}
            )
            if (s.family, s.size) in timed
            else s
            for s in sizes
        ]
    folder.write_sizes(sizes)
    folder.write_notes(bench.dataset.notes)
    ladder = {(size.family, size.size): size for size in folder.sizes()}
    choices = folder.choices()
    runs: dict[str, list[Run]] = {}
    waiting, waiting_flops = 0, 0.0
    settled = folder.plan is not None or study.search is None or bool(choices)
    sweep = expanding.sweep_runs(study, bench, choices)
    if folder.plan is not None:
        runs[f"plans/{folder.plan}"] = sweep
    else:
        if study.search is not None:
            runs["search"] = expanding.search_runs(study, bench)
            index = folder.index()
            if "finish" in index:
                known = {run.id: run for run in expanding.finish_runs(study, runs["search"])}
                runs["finish"] = [known[i] for i in index["finish"] if i in known]
        if settled:
            runs["sweep"] = sweep
            runs["check"] = expanding.check_runs(study, bench, choices)
        else:
            waiting = len(sweep) + 2 * len(study.families)
            waiting_flops = sum(expanding.costs(sweep, ladder).values())
    flat = expanding.unique(run for chapter in runs.values() for run in chapter)
    ended = folder.ended()
    asked = {run.id for run in flat} | {i for ids in folder.index().values() for i in ids}
    cost = expanding.costs(flat, ladder)
    return Expansion(
        study=study,
        sizes=tuple(
            ladder[family, size] for family, names in study.families.items() for size in names
        ),
        runs=runs,
        flops=cost,
        waiting=waiting,
        waiting_flops=waiting_flops,
        items={
            run.id: expanding.most_items(run, ladder[run.trunk.family, run.size].flops_per_item)
            for run in flat
        },
        notes=tuple(bench.dataset.notes),
        rejects=tuple(
            f"{r.source} row {r.row}: {r.reason}{': ' + r.text if r.text else ''}"
            for r in bench.dataset.rejects
        ),
        done=frozenset(ended & {run.id for run in flat}),
        unused=len(ended - asked),
    )
