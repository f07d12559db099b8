"""Anybody's column names for ours, and constants for columns that a table lacks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chemscale.table.errors import DataError, UsageError, hint


@dataclass(frozen=True)
class Columns:
    """How a table is read: our column → theirs, and our column → a constant."""

    named: Mapping[str, str] = field(default_factory=dict)
    constant: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = sorted({*self.named} & {*self.constant})
        if twice:
            raise UsageError(f"{', '.join(twice)}: from a column or a constant, not both")

    def applied(self, rows: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
        """The rows under our names; columns that are not named stay as they are.

        Raises:
            DataError: no such column, or the constant's column is there already.
        """
        if not rows:
            return []
        there = [*rows[0]]
        for ours, theirs in self.named.items():
            if theirs not in there:
                raise DataError(f"{where}: no column {theirs!r} for {ours}{hint(theirs, there)}")
            if ours in there and ours not in self.named.values():
                raise DataError(
                    f"{where}: {ours} is to be read from {theirs!r}, and there is a column {ours!r}"
                )
        for ours in self.constant:
            if ours not in self.named.values() and any(_says(row.get(ours)) for row in rows):
                raise DataError(f"{where}: {ours} is set for all rows, and there is a column of it")
        taken = set(self.named.values())
        return [
            {name: value for name, value in row.items() if name not in taken}
            | {ours: row[theirs] for ours, theirs in self.named.items()}
            | dict(self.constant)
            for row in rows
        ]


def _says(cell: Any) -> bool:
    """Whether a cell holds what a constant may not replace."""
    return cell not in (None, "", "unknown")


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """Read `a=b,c=d`, in one text or several; a comma that no `name=` follows is part of a name.

    Raises:
        UsageError: not of that form, or a name twice.
    """
    found: dict[str, str] = {}
    for text in (part for whole in given for part in re.split(r",(?=\s*[\w./-]+\s*=)", whole)):
        name, equals, value = (piece.strip() for piece in text.partition("="))
        if not (name and equals and value) or value.endswith(","):
            raise UsageError(f"{option} {text!r}: write name=value, several with commas between")
        if name in found:
            raise UsageError(f"{option}: {name} is given twice")
        found[name] = value
    return found
