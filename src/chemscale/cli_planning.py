"""The commands that look ahead: which settings to finish, and which run to make next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chemscale.cli_options import AsJson, ColumnNames, Constants, whole
from chemscale.table.columns import pairs
from chemscale.table.errors import UsageError


def register_estimate(app: typer.Typer) -> None:
    """Add the command that comes before `fit`."""
    app.command()(estimate)


def register(app: typer.Typer) -> None:
    """Add the command that comes after it."""
    app.command()(plan)


def estimate(
    source: Annotated[
        Path, typer.Argument(metavar="STUDY", help="Study folder, or a table or logs of curves.")
    ],
    choose_again: Annotated[
        bool, typer.Option("--choose-again", help="Replace the choice made before.")
    ] = False,
    columns: ColumnNames = None,
    constants: Constants = None,
    as_json: AsJson = False,
) -> None:
    """Rank the settings tried, forecast their ends, choose.

    A table has a row for each evaluation: run, items_seen (or epoch, step), val_loss. With a
    learning_rate, rows without val_loss are planned, and runs are forecast to where these lead.

    Example: chemscale estimate my-study, or: chemscale estimate curves.csv --columns val_loss=valid
    """
    from chemscale import tables, verbs
    from chemscale.table.store import StudyFolder

    table = source.suffix != ".toml" and not (source / "study.toml").is_file()
    if choose_again:
        if table:
            raise UsageError("--choose-again is of studies: from a table nothing is chosen")
        tables.print_out_of_use(source)
    found = verbs.estimate(
        source,
        choose_again=choose_again,
        columns=pairs(columns or (), "--columns"),
        constants=pairs(constants or (), "--set"),
    )
    if as_json:
        tables.print_json(found)
    else:
        tables.print_estimate(found, None if table else StudyFolder(source).choices())


def plan(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="Study folder, its study.toml, table or logs.")
    ],
    at: Annotated[
        str | None, typer.Option(help="Forecast at family:size, of tables family:parameters.")
    ] = None,
    num_train: Annotated[
        int | None, typer.Option(parser=whole, metavar="<int>", help="With --at.")
    ] = None,
    flops: Annotated[float | None, typer.Option(help="Budget in training FLOPs.")] = None,
    hours: Annotated[float | None, typer.Option(help="Budget in hours (on --device).")] = None,
    device: Annotated[
        str | None, typer.Option(help="Of a study, as in ladder.json: cpu, h200, ….")
    ] = None,
    joules: Annotated[
        float | None, typer.Option(help="Budget in joules, where runs tell theirs.")
    ] = None,
    money: Annotated[float | None, typer.Option(help="Budget in money, by the prices.")] = None,
    label_price: Annotated[float | None, typer.Option(help="Per new training item.")] = None,
    hour_price: Annotated[float | None, typer.Option(help="Per hour (on --device).")] = None,
    target: Annotated[float | None, typer.Option(help="Loss to reach.")] = None,
    family: Annotated[str | None, typer.Option(help="Consider this one only.")] = None,
    seeds: Annotated[int, typer.Option(help="How many to train.")] = 1,
    tenfold: Annotated[
        bool, typer.Option("--tenfold", help="What 10x more buys; no plan.")
    ] = False,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="What narrows the forecast --at most for its cost.")
    ] = False,
    available: Annotated[
        int | None,
        typer.Option(
            parser=whole,
            metavar="<int>",
            help="Of tables: training items there are; default as fitted.",
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The loss to fit in tables and logs.")] = None,
    columns: ColumnNames = None,
    constants: Constants = None,
    as_json: AsJson = False,
) -> None:
    """Turn a budget into the next run, with its forecast.

    Of a study the forecast is written down before the run is trained, and never again.

    Example: chemscale plan my-study --at painn:w48 --num-train 3000
    """
    from chemscale import planning, tables
    from chemscale.table.store import StudyFolder

    table: dict[str, Any] = {
        "columns": pairs(columns or (), "--columns"),
        "constants": pairs(constants or (), "--set"),
        "metric": metric,
    }
    budget: dict[str, Any] = {
        "flops": flops,
        "hours": hours,
        "joules": joules,
        "money": money,
        "label_price": label_price,
        "hour_price": hour_price,
    }
    if pilot:
        others = (target, family)
        if at is None or tenfold or seeds != 1 or any(other is not None for other in others):
            raise UsageError(
                "--pilot goes with --at and --num-train, and one of --flops, --hours, --joules and "
                "--money"
            )
        ranked, path = planning.pilot(
            study,
            at=at,
            num_train=num_train,
            device=device,
            available=available,
            **table,
            **budget,
        )
        if as_json:
            tables.print_json(tables.pilots_data(ranked) | {"path": path and str(path)})
        else:
            tables.print_pilots(ranked, path)
        return
    if tenfold:
        if any(wish is not None for wish in (at, target, *budget.values())):
            raise UsageError("--tenfold makes no plan: leave out what it would be made for")
        rows = planning.tenfold(study, family=family, **table)
        if as_json:
            tables.print_json(rows)
        else:
            tables.print_tenfold(rows)
        return
    forecast, path = planning.plan(
        study,
        at=at,
        num_train=num_train,
        device=device,
        target=target,
        family=family,
        seeds=seeds,
        available=available,
        **table,
        **budget,
    )
    if as_json:
        written: dict[str, Any] = {"forecast": [forecast.model_dump(exclude_none=True)]}
        if path is not None:
            written = StudyFolder(path).study().model_dump(mode="json", exclude_none=True)
        tables.print_json(written | {"path": path and str(path)})
    else:
        tables.print_plan(forecast, path)
