"""The table of what each law would have been without one run, size or amount."""

from __future__ import annotations

from chemscale.desk.influence import known_exponents, whole_tenfold
from chemscale.desk.report.page import Page
from chemscale.desk.report.tables import Cell, Table, columns, law_name
from chemscale.desk.report.words import MISSING, axis_label, number, plural, short, signed
from chemscale.table.results import FamilyFit, LawFit, LeftOut, SurfaceFit


def influence_table(page: Page, family: FamilyFit) -> Table | None:
    """Exponents and far losses of every law, whole and without each of its parts."""
    laws: list[LawFit | SurfaceFit] = [*family.laws]
    laws += [family.surface] if family.surface else []
    rows = tuple(row for law in laws for row in _rows(page, law))
    head = "law | left out | #exponent | #change | #loss at ten times the window | #change, %"
    caption = f"What the laws of {family.family} owe to single runs, sizes and amounts"
    return Table(caption, columns(head), rows, sortable=True) if rows else None


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
