"""From a fit to what to do next: the next run, pilots before it, what ten times more buys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chemscale import verbs
from chemscale.desk import design as designing
from chemscale.desk import tenfold as multiplying
from chemscale.desk.choose import choose
from chemscale.desk.design import Design
from chemscale.desk.plan import plan as planning
from chemscale.desk.tenfold import Tenfold
from chemscale.desk.utility import utility
from chemscale.table.errors import UnknownName
from chemscale.table.points import points_of
from chemscale.table.records import Study
from chemscale.table.store import StudyFolder


def plan(path: str | Path, *, write: bool = True, **wish: Any) -> tuple[Study, Path | None]:
    """Turn a fit and a budget into the next study, with its forecast; writes `plans/NNN.toml`.

    Args:
        path: study folder.
        write: whether to write the plan down.
        **wish: `at` with `num_train`, `flops`, `hours` with `device`, `money` or `target`, these
            two with `label_price` and `hour_price`; `seeds`, `family`.

    Raises:
        NotIdentified: the fit does not answer; says which run would settle it.
    """
    folder = StudyFolder(path)
    study, sizes = folder.study(), folder.sizes()
    found = verbs.fitted(folder.path)
    wish = {key: value for key, value in wish.items() if value is not None}
    bought = points_of(folder.trained())
    wish |= {"available": folder.available(), "bought": bought}
    planned = planning(found, study, sizes, now=verbs.now(), **wish)
    evaluation = folder.evaluation()
    measured = {one.run: one.metrics for one in (evaluation.runs if evaluation else ())}
    meant = [
        forecast.model_copy(update={"utility": utility(forecast, bought, measured)})
        for forecast in planned.forecast
    ]
    planned = planned.model_copy(update={"forecast": tuple(meant)})
    if not write:
        return planned, None
    _choose_for(folder, planned)
    return planned, folder.write_plan(planned)


def tenfold(path: str | Path, *, family: str | None = None) -> dict[str, list[Tenfold]]:
    """What ten times more data or size buys each family of a study or table (`desk.tenfold`)."""
    fits = {one.family: one for one in verbs.fitted(path).families}
    if family is not None and family not in fits:
        raise UnknownName.of("fitted family", family, fits)
    return {name: multiplying.tenfold(one) for name, one in fits.items() if family in (None, name)}


def pilot(
    path: str | Path,
    *,
    at: str,
    num_train: int | None = None,
    flops: float | None = None,
) -> tuple[Design, Path | None]:
    """Rank pilot runs for a forecast (`desk.design`) and write the first as a plan.

    Returns the ranking and the plan's file; none where piloting should stop.

    Args:
        path: study folder.
        at: "family:size" of the forecast.
        num_train: of the forecast; by default the largest fitted.
        flops: what one pilot run may cost; by default as much as the run `at`.

    Raises:
        NotIdentified: there is no forecast to narrow; says which run would give one.
    """
    folder = StudyFolder(path)
    study = folder.study()
    found = designing.design(
        verbs.fitted(folder.path),
        study,
        folder.sizes(),
        at,
        num_train,
        flops=flops,
        available=folder.available(),
        bought=points_of(folder.trained()),
    )
    planned = found.plan(study, now=verbs.now())
    if planned is None:
        return found, None
    _choose_for(folder, planned)
    return found, folder.write_plan(planned)


def _choose_for(folder: StudyFolder, planned: Study) -> None:
    """Settings of a size that the study did not train come from its search, extrapolated."""
    found, choices = folder.estimate(), folder.choices()
    if found is None:
        return
    counts = {size.key: size.num_params for size in folder.sizes()}
    known = {choice.key for choice in choices}
    new = [(f, size) for f, names in planned.families.items() for size in names]
    missing = {key: counts[key] for key in new if key not in known}
    if missing:
        searched = {(row.family, row.size) for one in found.families for row in one.rows}
        wanted = missing | {key: counts[key] for key in searched}
        extra = [c for c in choose(found, wanted, now=verbs.now()) if c.key in missing]
        folder.write_choices([*choices, *extra])
