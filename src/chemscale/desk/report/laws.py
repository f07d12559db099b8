"""The tables of the fit: laws, what limits each cell, and what laws owe to single runs."""

from __future__ import annotations

from math import log10

from chemscale.desk.influence import known_exponents, whole_tenfold
from chemscale.desk.report.page import Page
from chemscale.desk.report.tables import Cell, Table, columns, quantity_words
from chemscale.desk.report.words import (
    LIMITS,
    METRICS,
    MISSING,
    SIZES,
    at_level,
    axis_label,
    number,
    plural,
    scientific,
    share,
    short,
    signed,
    spread,
    status,
)
from chemscale.table.fits import Comparison, FamilyFit, LawFit, LeftOut, SurfaceFit
from chemscale.table.results import Quantity


def laws_table(page: Page, family: FamilyFit) -> Table | None:
    """Every law of a family, and its surface, with intervals, windows and statuses."""
    unit = METRICS.get(family.metric, ("", ""))[1]
    rows = [_law_row(page, law) for law in family.laws]
    surface = family.surface
    if surface:
        rows += [
            (
                Cell(f"both at once: {name}", note=_unless_converged(surface) if floor else ""),
                Cell(status(surface.status)),
                Cell(quantity_words(exponent)),
                Cell(quantity_words(floor) if floor else "as above"),
                Cell(f"{short(window[0])}–{short(window[1])}"),
                Cell(number(log10(window[1] / window[0]), 2) if window[0] > 0 else MISSING),
                Cell(str(len(surface.points))),
                Cell(share(surface.residual)),
            )
            for name, exponent, window, floor in (
                ("data", surface.data_exponent, surface.num_train_window, surface.irreducible_loss),
                ("parameters", surface.size_exponent, surface.num_params_window, None),
            )
        ]
    level = at_level(page.fit.level if page.fit else None)
    head = (
        f"law | status | #exponent{level} | #irreducible loss{f', {unit}' if unit else ''}"
        " | #window | #decades | #runs | #scatter"
    )
    return Table(f"Laws of {family.family}", columns(head), tuple(rows)) if rows else None


def _law_row(page: Page, law: LawFit) -> tuple[Cell, ...]:
    low, high = map(scientific if law.axis == "flops" else short, law.window)
    return (
        Cell(law_name(page, law), note=_law_note(law)),
        Cell(status(law.status)),
        Cell(quantity_words(law.exponent)),
        Cell("none assumed" if law.law == "power" else quantity_words(law.irreducible_loss)),
        Cell(f"{low}–{high}"),
        Cell(number(law.decades, 2)),
        Cell(str(len(law.points))),
        Cell(share(law.residual)),
    )


def _unless_converged(law: LawFit | SurfaceFit) -> str:
    # A converged law says nothing that its row does not; the sentence stands at the top.
    return "" if law.status == "converged" else law.sentence


def law_name(page: Page, law: LawFit) -> str:
    """What a law runs along and what it holds fixed."""
    size = page.law_size(law)
    held = [
        size if axis == "num_params" and size
        else f"{short(value)} {axis_label(axis, page.unit).removeprefix('training ')}"
        for axis, value in law.at.items() if axis != "num_capped"
    ]  # fmt: skip
    start = f"along {axis_label(law.axis, page.unit)}"
    start += ", on the frontier" * (law.axis == "flops")
    start = f"{start}, at {' and '.join(held)}" if held else start
    return f"{start}, runs that were not capped" if "num_capped" in law.at else start


def _law_note(law: LawFit) -> str:
    knee = law.knee
    if knee is None:
        return _unless_converged(law)
    where = {"none": "no knee seen", "not_identified": "a knee is not identified"}.get(knee.status)
    if where is None:
        where = (
            f"exponent {quantity_words(knee.before)}, then {quantity_words(knee.after)} from a "
            f"knee at {quantity_words(knee.at)}"
        )
    return ". ".join(filter(None, (_unless_converged(law), where)))


def regimes_table(page: Page, family: FamilyFit) -> Table | None:
    """What limits each cell, with how fast the loss falls there along both axes."""
    names = {point.num_params: point.size for point in page.points}
    rows = tuple(
        (
            Cell(names.get(one.num_params) or short(one.num_params), one.num_params),
            Cell(f"{one.num_train:,}", one.num_train),
            Cell(LIMITS[one.limit], one.limit),
            Cell(quantity_words(one.data_slope), one.data_slope.value),
            Cell(quantity_words(one.size_slope), one.size_slope.value),
        )
        for one in family.regimes
    )
    level = at_level(page.fit.level if page.fit else None)
    head = (
        f"size | #{plural(page.unit)} | limited by | #local exponent along data{level}"
        f" | #along size{level}"
    )
    caption = f"What limits {family.family}, cell by cell"
    return Table(caption, columns(head), rows, sortable=True) if rows else None


def best_sizes_table(page: Page, family: FamilyFit) -> Table | None:
    """The best size at each budget of FLOPs, where runs come in such."""
    rows = tuple(
        (
            Cell(scientific(one.flops, 3), one.flops),
            Cell(str(one.num_sizes), one.num_sizes),
            Cell(SIZES[one.status]),
            Cell(_brief(one.num_params), one.num_params.value),
            Cell(_brief(one.num_train), one.num_train.value),
            Cell(number(one.loss), one.loss),
        )
        for one in (family.isoflop.budgets if family.isoflop else ())
    )
    level = at_level(page.fit.level if page.fit else None)
    head = (
        f"#FLOPs | #sizes | lowest loss | #parameters of the best size{level} | "
        f"#its {plural(page.unit)} | #its loss"
    )
    return Table(f"Best sizes of {family.family}", columns(head), rows) if rows else None


def _brief(quantity: Quantity) -> str:
    span = quantity.interval
    between = f" ({short(span.low)} to {short(span.high)})" if span else ""
    return short(quantity.value) + between


def influence_table(page: Page, family: FamilyFit) -> Table | None:
    """Exponents and far losses of every law, whole and without each of its parts."""
    laws: list[LawFit | SurfaceFit] = [*family.laws]
    laws += [family.surface] if family.surface else []
    rows = tuple(row for law in laws for row in _rows(page, law))
    head = "law | left out | #exponent | #change | #loss at ten times the window | #change, %"
    caption = f"What the laws of {family.family} owe to single runs, sizes and amounts"
    return Table(caption, columns(head), rows, sortable=True) if rows else None


def savings_table(page: Page, comparison: Comparison) -> Table | None:
    """What data are worth to the better family, in data of the other at equal loss."""
    rows = []
    for crossing in comparison.crossings:
        better = crossing.better or ""
        for one in crossing.savings:
            if one.needs.value is not None and one.needs.interval is not None:
                low, high = one.needs.interval.low, one.needs.interval.high
                times = [value / one.num_train for value in (one.needs.value, low, high)]
                needs, saved = spread(one.needs.value, low, high), f"{spread(*times)} times"
            else:
                assert one.at_least is not None
                needs = f"more than {number(one.at_least)}"
                saved = f"more than {number(one.at_least / one.num_train)} times"
            amount = Cell(f"{one.num_train:,}", one.num_train)
            rows.append((Cell(better), amount, Cell(needs), Cell(saved)))
    if not rows:
        return None
    other = next(name for name in comparison.families if name != rows[0][0].text)
    head = f"family | #{plural(page.unit)} | {other} needs, at equal loss | that is"
    return Table("What data are worth", columns(head), tuple(rows))


def _rows(page: Page, law: LawFit | SurfaceFit) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for axis, quantity in known_exponents(law).items():
        name = law_name(page, law) if isinstance(law, LawFit) else (
            f"both at once: {axis_label(axis, page.unit)}"
        )  # fmt: skip
        assert quantity.value is not None
        far = whole_tenfold(law) if law.influence else None
        for one in law.influence:
            now, loss = one.exponents.get(axis), one.tenfold
            moved = None if now is None else now - quantity.value
            change = None if loss is None or not far else 100 * (loss / far - 1)
            rows.append(
                (
                    Cell(name),
                    Cell(_left(page, one), note="" if now is not None else "the rest is too few"),
                    Cell(_fixed(now), now),
                    Cell(_fixed(moved), moved),
                    Cell(number(loss), loss),
                    Cell(_fixed(change, 1), change),
                )
            )
    return rows


def _fixed(value: float | None, places: int = 3) -> str:
    return MISSING if value is None else signed(f"{value:.{places}f}")


def _left(page: Page, one: LeftOut) -> str:
    if one.what == "num_train":
        return f"{one.value:,} {plural(page.unit)}"
    if one.what == "num_params":
        named = (point.size for point in page.points if point.num_params == one.value)
        return next(named, "") or f"{short(float(one.value))} parameters"
    run = next((point for point in page.points if point.run == one.value), None)
    if run is None:
        return f"run {str(one.value)[:10]}"
    return f"run {run.size} on {run.num_train:,}, seed {run.seed}"
