"""The verbs, where table, bench and desk meet; the command line is a thin coat over them.

Each takes a study folder (or its file), does one stage and writes that stage's file. `fit` runs
without torch. Verbs with a file of their own: see `chemscale.__init__`.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chemscale.expansion import Expansion, expand_with, open_workbench
from chemscale.progress import Watch, quiet
from chemscale.table import expand as expanding
from chemscale.table.columns import Columns
from chemscale.table.curves import read_curves
from chemscale.table.errors import DataError, StoreError, UsageError
from chemscale.table.files import table as as_csv
from chemscale.table.files import write as write_whole
from chemscale.table.fits import Fit
from chemscale.table.joining import join
from chemscale.table.logs.rows import alike
from chemscale.table.points import points_in, points_of, read_rows, write_points
from chemscale.table.records import Run
from chemscale.table.registry import executors
from chemscale.table.results import Estimate, Point
from chemscale.table.store import StudyFolder
from chemscale.work import Work

Paths = str | Path | Sequence[str | Path]


def expand(path: str | Path, *, measure: bool = False, watch: Watch = quiet) -> Expansion:
    """Turn a study into runs, before anything is spent; writes `ladder.json`.

    Args:
        path: study folder or file, or a plan.
        measure: time ten training steps of each size.
        watch: told about progress.

    Raises:
        StudyError: every mistake in the study.
        DataError: the data cannot be used.
    """
    folder = StudyFolder(path)
    return expand_with(folder, open_workbench(folder, watch), measure, watch)


def train(
    path: str | Path,
    *,
    on: str = "local",
    chapter: str | None = None,
    workers: int | None = None,
    max_hours: float | None = None,
    retry: Sequence[str] = (),
    watch: Watch = quiet,
    **resources: Any,
) -> None:
    """Train what a study or plan asks for and what is not done: search, estimate, sweep.

    Args:
        path: study folder or file, or a plan.
        on: the executor.
        chapter: "search" stops after it.
        workers: of the executor; by default it decides.
        max_hours: checkpoint and leave after this long.
        retry: statuses of ended runs that are trained again.
        watch: told about progress.
        **resources: of each run, for the executor: `ranks` (processes that train it together),
            `shard`, `recompute`, `compile`, `threads`; for "slurm" also `sbatch`, options of that.

    Raises:
        Stopped: `max_hours` came first, or a worker was told to leave; the same call continues.
        StoreError: the disk is full or broken; once that is mended the same call continues.
    """
    deadline = None if max_hours is None else time.time() + 3600 * max_hours
    if chapter not in (None, "search", "sweep"):
        raise UsageError(f"no chapter named {chapter!r}: search or sweep")
    folder = StudyFolder(path)
    given = {} if workers is None else {"workers": workers}
    executor = executors.load(on)(**given, **resources)
    bench = open_workbench(folder, watch)
    expansion = expand_with(folder, bench, False, watch)
    for note in (*expansion.notes, expansion.changed):
        watch({"event": "note", "text": note})
    study = expansion.study
    dropped: dict[str, list[Run]] = {}
    if folder.plan is None and study.search is None:
        dropped = {"search": [], "finish": [], "check": []}
    folder.release(dropped | expansion.runs)
    if on == "local":
        bench.peaks.refuse_what_does_not_fit(
            expansion.to_train, executor.workers, executor.resources
        )
    work = Work(folder, executor, deadline, expansion, watch)
    if retry:
        for one in folder.trained():
            if one.roles and one.outcome.status in retry:
                folder.open_run(one.run.id).forget_outcome()
    if folder.plan is not None:
        name = f"plans/{folder.plan}"
        runs = expanding.sweep_runs(study, bench, folder.choices())
        work.do({name: runs})
        return
    if study.search is not None and chapter != "sweep":
        from chemscale.desk.estimate import finishers
        from chemscale.desk.settings import searched

        asked = expanding.search_runs(study, bench)
        work.do({"search": asked})
        settings = finishers(searched(folder.trained()), study.search.finish)
        finish = {one.run for one in settings}
        chosen = [run for run in asked if run.id in finish]
        work.do({"finish": expanding.finish_runs(study, chosen)})
        estimate(folder.path)
    if chapter == "search":
        return
    choices = folder.choices()
    if study.search is not None and not choices:
        raise UsageError("no settings were chosen yet: run `chemscale train` without --chapter")
    sweep = expanding.sweep_runs(study, bench, choices)
    check = expanding.check_runs(study, bench, choices)
    work.do({"sweep": sweep, "check": check})


def estimate(
    source: str | Path,
    *,
    choose_again: bool = False,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> Estimate:
    """Rank the settings of a study's search, or of the curves in a table, and forecast their ends.

    A study gets its estimate and its `choice.json`.

    Args:
        source: study folder, or a table or logs with a row for each evaluation.
        choose_again: replace the choice made before.
        columns: of tables, our name → theirs: `{"val_loss": "valid"}`.
        constants: of tables, our name → its value in all rows: `{"family": "painn"}`.

    Raises:
        DataError: nothing was searched, or the table lacks a column; says which.
    """
    from chemscale.desk.choose import choose
    from chemscale.desk.estimate import estimate as estimating
    from chemscale.desk.settings import searched, tabled

    [one] = sources_of(source)
    if not isinstance(one, StudyFolder):
        settings, said = tabled(read_curves(one, columns_of(columns, constants)))
        return estimating(settings, said, now=now())
    if columns or constants:
        raise UsageError("columns and constants are of tables; a study names its own")
    study = one.study()
    settings = searched(one.trained())
    if not settings:
        raise DataError("no searched run has ended: run `chemscale train --chapter search`")
    found = estimating(settings, now=now())
    one.write_estimate(found)
    kept = [] if choose_again else one.choices()
    known = {choice.key for choice in kept}
    counts = {size.key: size.num_params for size in one.sizes()}
    wanted = {
        key: counts[key]
        for key in ((f, size) for f, sizes in study.families.items() for size in sizes)
        if key in counts
    }
    new = [choice for choice in choose(found, wanted, now=now()) if choice.key not in known]
    one.write_choices([*kept, *new])
    return found


def fit(
    source: Paths | Sequence[Point],
    *,
    metric: str | None = None,
    level: float = 0.9,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    table: str | Path | None = None,
) -> Fit:
    """Fit the laws of study folders, tables, logs of other trainers, or points.

    Prints as sentences.

    A study folder gets its `fit.json`, and `points.csv` in the open schema.

    Args:
        source: where the runs are.
        metric: the loss to fit.
        level: of the intervals.
        columns: of tables, our name → theirs: `{"num_train": "dataset_size"}`.
        constants: of tables, our name → its value in all rows: `{"family": "painn"}`.
        table: a CSV for the rows as they were read, written before anything is asked of them.

    Raises:
        DataError: nothing that can be fitted, or no such column.
    """
    from chemscale.desk.fit import fit as fitting

    metric = "loss" if metric == "test_loss" else metric  # which is what points call it
    if not isinstance(source, str | Path) and all(isinstance(item, Point) for item in source):
        return fitting([item for item in source if isinstance(item, Point)], metric, level)
    sources = sources_of(source)  # type: ignore[arg-type]
    mapped = columns_of(columns, constants)
    read = {one: read_rows(one, mapped) for one in sources if isinstance(one, Path)}
    if table is not None:
        if not read:
            raise UsageError("--table writes what logs and tables hold; a study has points.csv")
        write_whole(Path(table), as_csv(alike([row for rows in read.values() for row in rows])))
    points = [p for one, rows in read.items() for p in points_in(rows, str(one))]
    studies = {one: _points(one) for one in sources if isinstance(one, StudyFolder)}
    points += join({one.path: (one.study(), own) for one, own in studies.items()})
    found = fitting(points, metric, level, now=now())
    for one, own in studies.items():
        one.write_file("points.csv", write_points(own))
        one.write_fit(found if len(sources) == 1 else fitting(own, metric, level, now=now()))
    return found


def fitted(folder: StudyFolder, points: Sequence[Point]) -> Fit:
    """The fit of a study whose runs are these points, made now where there is none.

    Raises:
        UsageError: runs of the study have ended that its fit does not know.
    """
    found = folder.fit()
    if found is None:
        return fit(folder.path)
    if late := ended_since(folder, points):
        raise UsageError(
            f"{folder.path}: {late:,} of the sweep's runs ended after the fit was made; run "
            "`chemscale fit` again, then this"
        )
    return found


def ended_since(folder: StudyFolder, points: Sequence[Point]) -> int:
    """How many runs of the sweep are not in `points.csv`, which `fit` writes beside its fit."""
    try:
        with (folder.path / "points.csv").open(newline="") as stream:
            known = {row.get("run") for row in csv.DictReader(stream) if row.get("role") == "sweep"}
    except FileNotFoundError:  # a fit from elsewhere
        return 0
    return len({point.run for point in points if point.role == "sweep"} - known)


def sources_of(source: Paths) -> list[StudyFolder | Path]:
    """Studies, and paths of tables and logs."""
    items = [source] if isinstance(source, str | Path) else list(source)
    if not items:
        raise UsageError("give a study folder, a table, or logs of runs")
    found: list[StudyFolder | Path] = []
    for item in map(Path, items):
        if item.suffix == ".toml" or (item / "study.toml").is_file():
            found.append(StudyFolder(item))
        elif item.exists():
            found.append(item)
        else:
            raise StoreError(
                f"{item}: there is no such file or folder. Give a study folder, a table or logs"
            )
    return found


def columns_of(named: Mapping[str, str] | None, constants: Mapping[str, Any] | None) -> Columns:
    """How tables and logs are read."""
    return Columns(named or {}, {name: str(value) for name, value in (constants or {}).items()})


def _points(source: StudyFolder) -> list[Point]:
    points = points_of(source.trained())
    if not points:
        raise DataError(f"{source.path}: no run has ended yet; run `chemscale train` first")
    return points


def now() -> str:
    """Say when, for the record."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
