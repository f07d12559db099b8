"""The verb `report`: what studies, tables and logs say, as one page. Runs without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.table.columns import Columns
from chemscale.table.curves import curves_if_any
from chemscale.table.errors import DataError
from chemscale.table.files import write as write_whole
from chemscale.table.joining import join
from chemscale.table.points import REQUIRED, points_in, points_of, read_rows
from chemscale.table.results import Point
from chemscale.table.store import StudyFolder
from chemscale.verbs import Paths, columns_of, ended_since, fit, now, sources_of

if TYPE_CHECKING:
    from chemscale.desk.report import Page


def report(
    source: Paths,
    *,
    output: Path | None = None,
    figures: Path | None = None,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    metric: str | None = None,
) -> Path:
    """Write one HTML file on study folders, tables or logs; returns where.

    Args:
        source: one or several study folders, tables, or logs of other trainers.
        output: where; default `report.html` in the first folder, of a file `NAME-report.html`.
        figures: a folder for the figures as SVG and PNG files.
        columns: of tables, as in `fit`.
        constants: of tables, as in `fit`.
        metric: the loss to fit in tables and logs; a study has its own fit.
    """
    from chemscale import __version__
    from chemscale.desk.report import figures as drawing
    from chemscale.desk.report import render, save

    sources = sources_of(source)
    pages = [
        _study_page(one)
        if isinstance(one, StudyFolder)
        else _table_page(one, columns_of(columns, constants), metric)
        for one in sources
    ]
    names = ", ".join(page.name for page in pages)
    if len(pages) > 1 and len({page.unit for page in pages}) == 1:
        pages.insert(0, _together(sources, pages, metric))
    html = render(pages, title=names, made=now(), version=__version__)
    first = sources[0].path if isinstance(sources[0], StudyFolder) else sources[0]
    stem = Path(first.name.removesuffix(".gz")).stem
    beside = first.with_name(f"{stem}-report.html")  # of each table its own
    target = output or (first / "report.html" if first.is_dir() else beside)
    write_whole(target, html.encode())
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        for name, figure in drawing(pages).items():
            # Brackets tell families of several studies apart.
            stem = re.sub(r"[^\w.-]+", "-", name).strip("-")
            save(figure, figures / f"{stem}.svg")
            save(figure, figures / f"{stem}.png")
    return target


def _study_page(folder: StudyFolder) -> Page:
    """What a study folder holds."""
    from chemscale.desk.report import Page

    trained = tuple(folder.trained())
    points = tuple(points_of(trained))
    asked = {run for ids in folder.index().values() for run in ids}
    found = folder.fit()
    return Page(
        folder=folder.path.name,
        study=folder.study(),
        trained=trained,
        points=points,
        estimate=folder.estimate(),
        choices=tuple(folder.choices()),
        fit=found,
        plans=tuple(folder.plans().items()),
        sizes=tuple(folder.sizes()),
        notes=tuple(folder.notes()),
        evaluation=folder.evaluation(),
        num_waiting=len(asked - {run.run.id for run in trained}),
        num_unfitted=ended_since(folder, points) if found else 0,
    )


def _table_page(path: Path, columns: Columns, metric: str | None) -> Page:
    """What a table or logs say: laws of its ends, a ranking where it holds curves, or both."""
    from chemscale.desk.estimate import estimate as estimating
    from chemscale.desk.report import Page
    from chemscale.desk.settings import tabled

    name = path.resolve().name
    curves = curves_if_any(path, columns)
    ranking = estimating(*tabled(curves), now=now()) if curves else None
    rows = read_rows(path, columns)
    if ranking and not {*REQUIRED} <= {*rows[0]}:
        return Page(name, curves=tuple(curves), estimate=ranking)  # sizes, amounts are not told
    points = tuple(points_in(rows, str(path)))
    found = fit(points, metric=metric)
    return Page(name, points=points, fit=found, curves=tuple(curves), estimate=ranking)


def _together(sources: list[StudyFolder | Path], pages: Sequence[Page], metric: str | None) -> Page:
    """All points in one table, whose families can be compared."""
    from chemscale.desk.report import Page

    studies = {}
    points: list[Point] = []
    for one, page in zip(sources, pages, strict=True):
        if isinstance(one, StudyFolder) and page.study is not None:
            studies[one.path] = page.study, list(page.points)
        else:
            points += page.points
    points += join(studies)
    try:
        found = fit(points, metric=metric)
    except DataError:  # nothing to fit yet, as the studies' own sections say
        found = None
    return Page("Together", points=tuple(points), fit=found, joins=True)
