"""From a fit to what to do next: the next run, pilots before it, what ten times more buys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemscale import verbs
from chemscale.desk import design as designing
from chemscale.desk import tenfold as multiplying
from chemscale.desk.choose import choose
from chemscale.desk.costs import Costs, StudyCosts, TableCosts
from chemscale.desk.design import Design
from chemscale.desk.plan import as_study, forecast
from chemscale.desk.tenfold import Tenfold
from chemscale.desk.utility import utility
from chemscale.table.errors import UnknownName, UsageError
from chemscale.table.fits import Fit
from chemscale.table.points import points_of, read_points
from chemscale.table.records import Forecast, Study
from chemscale.table.results import Point
from chemscale.table.store import StudyFolder


@dataclass(frozen=True)
class _Grounds:
    """What a study or a table gives to plan from."""

    fit: Fit
    costs: Costs
    points: list[Point]
    available: int | None
    folder: StudyFolder | None  # None: a table or logs

    @classmethod
    def of(
        cls,
        source: str | Path,
        device: str | None = None,
        available: int | None = None,
        columns: Mapping[str, str] | None = None,
        constants: Mapping[str, Any] | None = None,
        metric: str | None = None,
    ) -> _Grounds:
        [one] = verbs.sources_of(source)
        if isinstance(one, StudyFolder):
            told: dict[str, Any] = {"columns": columns, "constants": constants, "metric": metric}
            told["available"] = available
            if given := [name for name, value in told.items() if value]:
                raise UsageError(f"{', '.join(given)}: of tables and logs; a study tells its own")
            points = points_of(one.trained())
            costs = StudyCosts(one.study(), one.sizes(), device, points)
            return cls(verbs.fitted(one, points), costs, points, one.available(), one)
        points = read_points(one, verbs.columns_of(columns, constants))
        ended = [p for p in points if p.status == "finished" and p.cooled and p.role == "sweep"]
        return cls(verbs.fit(points, metric=metric), TableCosts(ended), points, available, None)


def plan(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    metric: str | None = None,
    available: int | None = None,
    device: str | None = None,
    seeds: int = 1,
    **wish: Any,
) -> tuple[Forecast, Path | None]:
    """Turn a fit and a budget into the next run, with its forecast.

    Of a study it is written down as `plans/NNN.toml`, a study that can be trained; of a table there
    is nothing to train, and nothing is written.

    Args:
        source: study folder, or a table or logs.
        columns: of tables, as in `fit`.
        constants: of tables, as in `fit`.
        metric: of tables, the loss to fit.
        available: of tables, how many training items there are; by default the largest num_train.
        device: of a study, with hours or an hour_price.
        seeds: how many to train.
        **wish: `at` with `num_train`, `flops`, `hours`, `joules`, `money` or `target`, the last
            two with `label_price` and `hour_price`; `family` (`desk.plan.forecast`).

    Returns:
        The forecast, and the plan's file.

    Raises:
        NotIdentified: the fit does not answer, or the cost is not known; says what would settle it.
    """
    grounds = _Grounds.of(source, device, available, columns, constants, metric)
    found = forecast(
        grounds.fit,
        grounds.costs,
        now=verbs.now(),
        device=device,
        seeds=seeds,
        available=grounds.available,
        bought=grounds.points,
        **wish,
    )
    if grounds.folder is not None:  # of a table nobody knows which columns are metrics
        evaluation = grounds.folder.evaluation()
        measured = {one.run: one.metrics for one in (evaluation.runs if evaluation else ())}
        meant = utility(found, grounds.points, measured)
        found = found.model_copy(update={"utility": meant})
    return _written(grounds, found, seeds)


def _written(grounds: _Grounds, found: Forecast, seeds: int) -> tuple[Forecast, Path | None]:
    if grounds.folder is None or grounds.costs.study is None:
        return found, None
    planned = as_study(grounds.costs.study, found, seeds)
    _choose_for(grounds.folder, planned)
    return found, grounds.folder.write_plan(planned)


def tenfold(
    source: str | Path, *, family: str | None = None, **table: Any
) -> dict[str, list[Tenfold]]:
    """What ten times more data or size buys each family of a study or table (`desk.tenfold`)."""
    grounds = _Grounds.of(source, **table)
    fits = {one.family: one for one in grounds.fit.families}
    if family is not None and family not in fits:
        raise UnknownName.of("fitted family", family, fits)
    return {
        name: multiplying.tenfold(one, grounds.costs)
        for name, one in fits.items()
        if family in (None, name)
    }


def pilot(
    source: str | Path,
    *,
    at: str,
    num_train: int | None = None,
    device: str | None = None,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    metric: str | None = None,
    available: int | None = None,
    **budget: Any,
) -> tuple[Design, Path | None]:
    """Rank pilot runs for a forecast (`desk.design`); of a study, write the first as a plan.

    Returns the ranking and the plan's file; none of a table, and where piloting should stop.

    Args:
        source: study folder, or a table or logs.
        at: "family:size" of the forecast.
        num_train: of the forecast; by default the largest fitted.
        device: of a study: cost is in hours on it.
        columns: of tables, as in `plan`, and so are the next three.
        constants: of tables.
        metric: of tables.
        available: of tables.
        **budget: what one pilot may cost, in `flops`, `hours`, `joules` or `money`, with
            `label_price` and `hour_price`; by default as much as the run `at`.

    Raises:
        NotIdentified: there is no forecast to narrow, or the cost is not known; says what would
            settle it.
    """
    grounds = _Grounds.of(source, device, available, columns, constants, metric)
    found = designing.design(
        grounds.fit,
        grounds.costs,
        at,
        num_train,
        device=device,
        available=grounds.available,
        bought=grounds.points,
        **budget,
    )
    first = found.forecast(grounds.costs, now=verbs.now())
    if first is None:
        return found, None
    return found, _written(grounds, first, found.pilots[0].trained + 1)[1]


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
