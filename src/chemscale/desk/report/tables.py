"""The tables of the report: records to cells. Every cell carries what it is sorted by."""

from __future__ import annotations

from dataclasses import dataclass

from chemscale.desk.report.page import Page, Promise, Spent
from chemscale.desk.report.words import (
    MISSING,
    at_level,
    duration,
    energy,
    metric_label,
    number,
    plain,
    plural,
    scientific,
    spread,
    status,
    whole,
    with_unit,
)
from chemscale.table.points import point_of
from chemscale.table.records import Forecast
from chemscale.table.results import Choice, EstimateRow, FamilyEstimate, Point, Quantity, Trained

BAD = ("failed", "diverged", "out_of_memory")


@dataclass(frozen=True)
class Cell:
    """What is read, what it is sorted by, and a smaller line below."""

    text: str
    sort: float | str | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A caption, columns (label, whether numeric) and rows; the first cell of a row heads it."""

    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False


def columns(text: str) -> tuple[tuple[str, bool], ...]:
    """Read "size | #parameters": a # marks numbers."""
    names = (name.strip() for name in text.split("|"))
    return tuple((name.lstrip("#"), name.startswith("#")) for name in names)


def quantity_words(quantity: Quantity) -> str:
    """A value with its interval, where it has one."""
    if quantity.interval is None:
        return number(quantity.value)
    return spread(quantity.value, quantity.interval.low, quantity.interval.high)


# --- Study ---------------------------------------------------------------------------------------


def asked(page: Page) -> list[tuple[str, str]]:
    """What the study asked for: term and description."""
    study = page.study
    if study is None:
        return []
    source = study.dataset
    what = source.name or f"{', '.join(source.path)} ({source.format})"
    seeds = study.seeds
    said = [
        ("Data", f"{what}, counted in {plural(page.unit)}"),
        ("Split", f"validation {_split(source.validation)}, test {_split(source.test)}"
         + (f", grouped by {source.group}" if source.group else "")),
        ("Shift set", ", ".join(source.shift)),
        (f"Training {plural(page.unit)}", ", ".join(f"{one:,}" for one in study.num_train)),
        ("Held out for a plan", "; ".join(
            f"{size} on {', '.join(f'{n:,}' for n in held)}"
            for size, held in study.hold_out.items())),
        ("Seeds", f"{seeds}" if isinstance(seeds, int)
         else ", ".join(f"{name}: {count}" for name, count in seeds.items())),
        ("Recipe", study.recipe.name + "".join(
            f", {name} {value}" for name, value in study.recipe.model_dump(
                exclude_none=True, exclude={"name"}).items())),
        ("Search", _search(page)),
        ("Budget", (f"{study.budget.items:,} {plural(page.unit)} a trunk"
                    if study.budget.items else f"{scientific(study.budget.flops)} FLOPs a trunk")
         + f", patience {study.budget.patience:g}"
         + (" unless the loss falls" if study.budget.unless_falling else "")),
    ]  # fmt: skip
    return [(term, text) for term, text in said if text]


def _split(value: float | tuple[str, ...]) -> str:
    return f"{100 * value:g} %" if isinstance(value, float) else ", ".join(value)


def _search(page: Page) -> str:
    search = page.study.search if page.study else None
    if search is None:
        return "none: the recipe's values hold"
    rates = ", ".join(plain(rate) for rate in search.learning_rate)
    batches = ", ".join(str(size) for size in search.batch_size) or "the recipe's"
    return (
        f"learning rates {rates}; batch sizes {batches}; {100 * search.fraction:g} % of the trunk"
    )


def sizes_table(page: Page) -> Table | None:
    """Every size asked for, with its parameters."""
    wanted = {
        (family, size) for family, sizes in (page.study.families if page.study else {}).items()
        for size in sizes
    } or {(point.family, point.size) for point in page.points}  # fmt: skip
    ladder = {(rung.family, rung.size): rung for rung in page.sizes}
    met = {(point.family, point.size): point for point in page.points}
    rows = []
    for family, size in wanted:
        rung, point = ladder.get((family, size)), met.get((family, size))
        total = page.num_params_total(family, size)
        inner = rung.num_params if rung else point.num_params if point else None
        cost = rung.flops_per_item if rung else None
        rows.append(
            (
                Cell(family),
                Cell(size, total or 0),
                Cell(whole(total), total),
                Cell(whole(inner), inner),
                Cell(scientific(cost), cost),
            )
        )
    rows.sort(key=lambda row: (row[0].text, row[1].sort or 0, row[1].text))
    head = f"family | size | #parameters | #non-embedding | #training FLOPs per {page.unit}"
    return Table("Sizes", columns(head), tuple(rows)) if rows else None


# --- Run -----------------------------------------------------------------------------------------


def run_tables(page: Page) -> tuple[Table | None, Table | None]:
    """Runs that went wrong, each with its sentence, and all the others."""
    if page.trained:
        rows = [_trained_row(page, one) for one in page.trained]
    else:
        rows = [_run_row(page, point, point.role) for point in page.points]
    rows.sort(key=_in_order)
    bad, rest = (
        tuple(row for row in rows if (row[-1].sort in BAD) == wrong) for wrong in (True, False)
    )
    metrics = {page.metric(family) for family in page.families}
    last = metric_label(metrics.pop()) if len(metrics) == 1 else "test metric"
    head = columns(
        f"model | #{plural(page.unit)} | #seed | #{last} | #rate | #batch"
        f" | #{plural(page.unit)} seen | #time | role | ending"
    )
    return (
        Table("Runs that went wrong", head, bad) if bad else None,
        Table("Runs", head, rest, sortable=True) if rest else None,
    )


def _in_order(row: tuple[Cell, ...]) -> tuple[tuple[float, str], ...]:
    """By model, data, seed and rate."""
    sorts = [row[place].sort for place in (0, 1, 2, 4)]
    return tuple((s, "") if isinstance(s, int | float) else (0.0, str(s)) for s in sorts)


def _trained_row(page: Page, one: Trained) -> tuple[Cell, ...]:
    name = one.run.id[:10] if one.outcome.status in BAD else ""
    roles = ", ".join(one.roles)
    return _run_row(page, point_of(one), roles, name=name, sentence=one.outcome.sentence)


def _run_row(
    page: Page, point: Point, roles: str, name: str = "", sentence: str = ""
) -> tuple[Cell, ...]:
    value = point.losses.get(page.metric(point.family))
    total = point.num_params_total or page.num_params_total(point.family, point.size)
    ending = point.ending if point.status == "finished" and point.ending else point.status
    model = f"{point.family} {point.size}"
    return (
        Cell(model, f"{point.family} {total or 0:015d} {point.size}", note=name),
        Cell(f"{point.num_train:,}", point.num_train),
        Cell(str(point.seed), point.seed),
        Cell(number(value), value),
        Cell(plain(point.learning_rate), point.learning_rate),
        Cell(whole(point.batch_size), point.batch_size),
        Cell(whole(point.items_seen), point.items_seen),
        Cell(duration(point.seconds or None), point.seconds or None),
        Cell(roles or "unused", roles),
        Cell(status(ending), ending, note=sentence if ending != "plateaued" else ""),
    )


# --- Estimate ------------------------------------------------------------------------------------


def settings_table(family: FamilyEstimate) -> Table:
    """The searched settings of a family by rank, size by size."""
    rows = sorted(family.rows, key=lambda row: (row.size, row.rank is None, row.rank or 0, row.run))
    level = at_level(next((row.interval.level for row in rows if row.interval), None))
    settings = {(row.size, row.learning_rate, row.batch_size) for row in rows}
    # a table, whose runs have names
    named = len(settings) < len(rows) or any(row.learning_rate is None for row in rows)
    head = f"{'run | ' * named}size | #rank | #rate | #batch | #early loss | "
    head += f"#forecast of the final loss{level} | #final loss, where finished | "
    head += "#chance to end below the best finished | status"
    return Table(
        f"Settings tried for {family.family}",
        columns(head),
        tuple((Cell(row.run, row.run),) * named + _setting_row(row) for row in rows),
        sortable=True,
    )


def _setting_row(row: EstimateRow) -> tuple[Cell, ...]:
    return (
        Cell(row.size or MISSING, row.size),
        Cell(whole(row.rank), row.rank),
        Cell(plain(row.learning_rate), row.learning_rate),
        Cell(whole(row.batch_size), row.batch_size),
        Cell(number(row.early_loss), row.early_loss),
        Cell(quantity_words(Quantity(value=row.forecast, interval=row.interval)), row.forecast),
        Cell(number(row.final_loss), row.final_loss),
        Cell(MISSING if row.chance is None else f"{100 * row.chance:.0f} %", row.chance),
        Cell(status(row.status), row.status),
    )


def choices_table(choices: tuple[Choice, ...]) -> Table | None:
    """The settings chosen, by family and size."""
    ordered = sorted(choices, key=lambda one: (one.family, one.num_params, one.size))
    rows = tuple(
        (
            Cell(one.family),
            Cell(one.size),
            Cell(plain(one.learning_rate)),
            Cell(str(one.batch_size)),
            Cell("▲ extrapolated" if one.source == "extrapolated" else one.source),
        )
        for one in ordered
    )
    head = "family | size | #learning rate | #batch size | where it comes from"
    return Table("Settings chosen", columns(head), rows) if rows else None


# --- Plan and cost -------------------------------------------------------------------------------


def promises_table(page: Page, promises: list[Promise]) -> Table | None:
    """Each written forecast beside what came."""
    rows = []
    for one in promises:
        made = one.forecast
        rows.append(
            (
                Cell(one.plan, note=f"{made.why}; by {made.law}"),
                Cell(f"{made.family} {made.size}"),
                Cell(f"{made.num_train:,}"),
                Cell(with_unit(made.value, made.metric), note=_utility(made)),
                Cell(", ".join(with_unit(value, made.metric) for _, value in one.outcomes)
                     or MISSING),
                _levels(one),
                Cell(made.made.partition(" ")[0], note=made.made.partition(" ")[2]),
            )
        )  # fmt: skip
    head = (
        f"plan | model | #{plural(page.unit)} | #forecast | #outcome"
        " | #intervals, one new run | #written"
    )
    return (
        Table("Forecasts, as written, and outcomes", columns(head), tuple(rows)) if rows else None
    )


def _levels(promise: Promise) -> Cell:
    told = [f"{level} %: {number(low)}–{number(high)}" for level, low, high in promise.levels()]
    return Cell(told[-1], note="; ".join(told[:-1])) if told else Cell(MISSING)


def _utility(made: Forecast) -> str:
    told = [
        f"{metric_label(metric).partition(',')[0]} {spread(*ends)}"
        for metric, ends in (made.utility or {}).items()
    ]
    return f"linked to it: {'; '.join(told)}" if told else ""


def spent_table(spent: list[Spent]) -> Table | None:
    """Compute spent by part, repeats and abandoned ends included."""
    rows = tuple(
        (
            Cell(one.part),
            Cell(str(one.num_runs)),
            Cell(scientific(one.flops or None, 3)),
            Cell(duration(one.seconds or None)),
            Cell(energy(one.joules), note=_measured(one)),
        )
        for one in spent
    )
    head = "part | #runs | #FLOPs spent | #training time | #electricity"
    return Table("Compute spent", columns(head), rows) if rows else None


def _measured(one: Spent) -> str:
    if one.num_with_joules in (0, one.num_runs):
        return ""
    return f"measured for {one.num_with_joules} of {one.num_runs} runs"
