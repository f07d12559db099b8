"""What the command line prints: plain tables on standard output."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from chemscale.table.records import Forecast, Run
from chemscale.table.results import Choice, Estimate
from chemscale.table.store import StudyFolder

if TYPE_CHECKING:
    from chemscale.bench.data.prepare import Card
    from chemscale.desk.design import Design
    from chemscale.desk.tenfold import Tenfold
    from chemscale.expansion import Expansion


def print_json(result: Any) -> None:
    """A result for programs: a record, a dataclass, or plain data."""
    print(json.dumps(to_jsonable_python(result), indent=1))


def wrapped(text: str) -> list[str]:
    """Sentences as lines that a terminal holds, clause by clause."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        first, *rest = re.split(r"; (?![^()]*\))", paragraph)  # not inside brackets
        for clause, start in ((first, "  "), *((clause, "    ") for clause in rest)):
            lines += textwrap.wrap(clause, 98, initial_indent=start, subsequent_indent="      ")
    return lines


def print_card(card: Card, folder: Path) -> None:
    """What is in a token store."""
    made = ", ".join(f"{name} {value}" for name, value in card.choices.items())
    print(f"{folder}: {card.molecules:,} molecules, {card.tokens:,} tokens")
    print(f"  {made}; fingerprint {card.fingerprint}")
    print(f"  {card.rows:,} rows: {card.duplicates:,} repeated, {card.rejected:,} rejected")
    for reason, count in list(card.reasons.items())[:5]:
        print(f"    {count:,}: {reason[:80]}")
    if card.rejected:
        print(f"  every rejected row with its reason: {folder / 'rejects.csv'}")
    if not card.molecules:
        return
    print()
    spreads = {"symbols": card.lengths, "heavy atoms": card.heavy_atoms}
    print_columns(
        ("of a molecule", "smallest", "mean", "largest"),
        [(name, str(s.smallest), f"{s.mean:.1f}", str(s.largest)) for name, s in spreads.items()],
    )
    ordered = sorted(card.vocabulary.items(), key=lambda pair: -pair[1])
    shown = [f"{symbol} {count / (card.tokens - card.molecules):.1%}" for symbol, count in ordered]
    more = f" … and {len(shown) - 8} more" if len(shown) > 8 else ""
    print(f"\n{len(shown)} symbols: {', '.join(shown[:8])}{more}")
    print(f'\nIn a study: dataset = {{ format = "tokens", path = "{folder}" }}')


def print_expansion(expansion: Expansion, *, rejects: bool = False) -> None:
    """What would be trained, and what it costs at most."""
    study = expansion.study
    print(f"{study.name}: {len(expansion.flops)} runs known now")
    for note in expansion.notes:
        print(f"  {note}")
    if expansion.rejects:
        print(f"  {len(expansion.rejects):,} rows left out (--rejects lists them)")
    if rejects:
        for line in expansion.rejects:
            print(f"    {line}")
    print()
    print_columns(
        ("family", "size", "parameters", "non-embedding", "memory (batch)", "FLOPs an item",
         "items/s"),
        [
            (
                size.family,
                size.size,
                f"{size.num_params_total:,}",
                f"{size.num_params:,}",
                ", ".join(f"{_bytes(v)} ({k})" for k, v in size.bytes_peak.items()) or "–",
                f"{size.flops_per_item:.3g}",
                ", ".join(f"{v:,.0f} ({k})" for k, v in size.items_per_second.items()) or "–",
            )
            for size in expansion.sizes
        ],
    )  # fmt: skip
    print("\nMemory is what a run holds at its peak; the process takes about 0.4 GB more.\n")
    rows = []
    for chapter, runs in expansion.runs.items():
        if not runs:
            continue
        rows.append(
            (
                chapter,
                str(len(runs)),
                str(sum(run.id in expansion.done for run in runs)),
                f"{sum(expansion.flops[run.id] for run in runs):.3g}",
                _hours(expansion, runs),
            )
        )
    if expansion.waiting:
        count, flops = f"{expansion.waiting}", f"{expansion.waiting_flops:.3g}"
        rows.append(("sweep + check", count, "–", flops, "after the search"))
    print_columns(("chapter", "runs", "done", "FLOPs at most", "core time at most"), rows)
    print(f"\n{expansion.changed}.")
    for name in expansion.unused:
        print(f"  unused: {name}")
    ours = [size for size in expansion.sizes if size.family not in expansion.study.external]
    if any(not size.items_per_second for size in ours):
        print("\nTimes are not known: --measure times ten steps of each size.")


def expansion_data(expansion: Expansion) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "study": expansion.study.name,
        "notes": list(expansion.notes),
        "rejects": list(expansion.rejects),
        "sizes": [size.model_dump(mode="json") for size in expansion.sizes],
        "runs": [
            {
                "chapter": chapter,
                "id": run.id,
                "family": run.trunk.family,
                "size": run.size,
                "num_train": run.trunk.num_train,
                "seed": run.trunk.seed,
                "learning_rate": run.trunk.recipe.learning_rate,
                "batch_size": run.trunk.recipe.batch_size,
                "flops_at_most": expansion.flops[run.id],
                "items_at_most": expansion.items[run.id],
                "done": run.id in expansion.done,
            }
            for chapter, runs in expansion.runs.items()
            for run in runs
        ],
        "waiting": expansion.waiting,
        "new": len(expansion.new),
        "reused": len(expansion.done),
        "unused": list(expansion.unused),
    }


def print_trained(path: Path) -> None:
    """How the runs of a study ended."""
    ended = [one for one in StudyFolder(path).trained() if one.roles]
    counts = Counter(one.outcome.status for one in ended)
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    for one in ended:
        if one.outcome.status != "finished":
            print(f"  {one.run.folder_name} {one.outcome.status}: {one.outcome.sentence}")


def print_estimate(found: Estimate, choices: Sequence[Choice] | None) -> None:
    """The ranking of the settings, and what was chosen; None: nothing is, from a table."""
    for family in found.families:
        print("\n".join(wrapped(family.sentence)))
        columns: dict[str, list[str]] = {
            "run": [row.run if choices is None else "" for row in family.rows],
            "size": [row.size for row in family.rows],
            "rate": [f"{row.learning_rate:g}" if row.learning_rate else "" for row in family.rows],
            "batch": [str(row.batch_size or "") for row in family.rows],
            "rank": [str(row.rank) if row.rank else "–" for row in family.rows],
            "early": [number(row.early_loss) for row in family.rows],
            "forecast": [number(row.forecast) for row in family.rows],
            "90 % interval": [
                _range(row.interval.low, row.interval.high) if row.interval else "–"
                for row in family.rows
            ],
            "final": [number(row.final_loss) for row in family.rows],
            "below best": [
                "" if row.chance is None else f"{100 * row.chance:.0f} %" for row in family.rows
            ],
            "ended": [row.status or "" for row in family.rows],
        }
        told = {name: cells for name, cells in columns.items() if any(cells)}
        print_columns(tuple(told), list(zip(*told.values(), strict=True)))
        print()
    if choices is None:
        return
    print("Chosen:")
    print_columns(
        ("family", "size", "rate", "batch", ""),
        [(c.family, c.size, f"{c.learning_rate:g}", str(c.batch_size), c.source) for c in choices],
    )


def print_out_of_use(path: Path) -> None:
    """Which finished runs a new choice may put out of use."""
    folder = StudyFolder(path)
    asked = [one for one in folder.trained() if {"sweep", "check"} & set(one.roles)]
    print(f"{len(asked)} runs were trained with the choice made before; they stay in runs/, but")
    print("fall out of use where the new choice differs:")
    for one in asked:
        print(f"  {one.run.folder_name}")


def print_plan(forecast: Forecast, path: Path | None) -> None:
    """The forecast, and how to have it checked."""
    levels = ", ".join(
        f"{level} %: {_range(low, high)}" for level, (low, high) in forecast.intervals.items()
    )
    size = forecast.size.removesuffix(" parameters")
    print(
        f"{forecast.family} {f'{size} ' * (size == forecast.size)}({forecast.num_params:,} "
        f"parameters) on {forecast.num_train:,} training items: {forecast.metric} "
        f"{number(forecast.value)} ({levels})"
    )
    print(f"  by {forecast.law}; {forecast.why}")
    linked = [
        f"{metric} {number(value)} (90 %: {_range(low, high)})"
        for metric, (value, low, high) in (forecast.utility or {}).items()
    ]
    if linked:
        print(f"  linked to it by the runs so far: {', '.join(linked)}")
    if forecast.capped_at_items:
        print(f"  holds at this training length only ({forecast.capped_at_items:,} items)")
    _print_place(path)


def _print_place(path: Path | None) -> None:
    if path is None:
        print("Nothing is written: a table is no study that could be trained; --json keeps it.")
    else:
        print(f"Written to {path}; chemscale train {path} checks it.")


def print_pilots(found: Design, path: Path | None) -> None:
    """The first ten pilot runs, their cost and the interval expected after each."""
    now, target = found.interval, found.target
    print(
        f"{target.fit.family} {target.size.size} on {target.num_train:,} training items: "
        f"{target.fit.metric} {number(target.prediction.value)} "
        f"({100 * now.level:g} %: {_range(now.low, now.high)})"
    )
    rows = [
        (
            pilot.candidate.size.size,
            f"{pilot.candidate.num_train:,}",
            f"seed {pilot.trained + 1}" if pilot.trained else "new",
            number(pilot.candidate.cost(found.unit)),
            _range(pilot.interval.low, pilot.interval.high),
            f"{100 * pilot.narrower:.0f} %",
        )
        for pilot in found.pilots[:10]
    ]
    if rows:
        unit = {"flops": "FLOPs", "work": "size x data"}.get(found.unit, found.unit)
        print_columns(("size", "num_train", "run", unit, "interval after", "narrower"), rows)
    print("\n".join(wrapped(found.sentence[0].upper() + found.sentence[1:] + ".")))
    if found.pilots:
        _print_place(path)


def pilots_data(found: Design) -> dict[str, Any]:
    """All pilot runs as plain data."""
    return {
        "at": f"{found.target.size.family}:{found.target.size.size}",
        "num_train": found.target.num_train,
        "value": found.target.prediction.value,
        "interval": found.interval.model_dump(),
        "pilots": [
            {
                "size": pilot.candidate.size.size,
                "num_train": pilot.candidate.num_train,
                "trained": pilot.trained,
                found.unit: pilot.candidate.cost(found.unit),
                "interval": pilot.interval.model_dump(),
                "narrower": pilot.narrower,
            }
            for pilot in found.pilots
        ],
        "sentence": found.sentence,
    }


def print_tenfold(found: Mapping[str, Sequence[Tenfold]]) -> None:
    """What ten times more buys, a line each."""
    for family, rows in found.items():
        print(family)
        for row in rows:
            label = row.resource if row.resource == "now" else f"10x {row.resource}"
            place = f"{row.num_params:,.0f} parameters on {row.num_train:,.0f} training items"
            if isinstance(row.answer, str):
                print(f"  {label} ({place}): not identified: {row.answer}")
                continue
            last = row.answer.intervals[-1]
            known = f", measured {number(row.measured)}" if row.measured else ""
            print(
                f"  {label} ({place}): {number(row.answer.value)} "
                f"({100 * last.level:g} %: {_range(last.low, last.high)}){known}"
            )


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose columns are as wide as what is in them."""
    table = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"  {line}".rstrip())


def _hours(expansion: Expansion, runs: Sequence[Run]) -> str:
    speeds = {size.key: size.items_per_second.values() for size in expansion.sizes}
    if not all(speeds[run.key] for run in runs):
        return "–"
    total = sum(expansion.items[run.id] / max(speeds[run.key]) for run in runs)
    return f"{total / 3600:.2f} h" if total >= 600 else f"{total:.0f} s"


def _range(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def _bytes(amount: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def number(value: float | None) -> str:
    """Four digits; "–" where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"
