"""What the readers of logs share: the last value of each column, and settings as flat names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chemscale.table.errors import DataError, MissingPackage
from chemscale.table.spreadsheet import is_number

Row = dict[str, Any]


def alike(rows: Sequence[Row]) -> list[Row]:
    """The rows with all columns that any of them has; what a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def csv_rows(path: Path) -> list[dict[str, str | None]]:
    """Rows of a CSV; cells that a half-written row lacks are None.

    Raises:
        DataError: it is no CSV, or has a cell that is too long for one.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            return [
                {str(name).strip(): row[name] for name in row if name is not None} for row in reader
            ]
        except csv.Error as error:
            raise DataError(f"{path}: cannot be read as a table: {error}") from None


def header(path: Path) -> list[str]:
    """The column names of a CSV; none where it is not one."""
    with suppress(csv.Error), path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return [name.strip() for name in next(csv.reader(file), [])]
    return []


def last_values(rows: Sequence[Mapping[str, Any]]) -> Row:
    """The last value that each column has; text is a setting, no metric."""
    last: Row = {}
    left = dict.fromkeys(rows[0]) if rows else {}
    for row in reversed(rows):
        if not left:
            break
        for name in [name for name in left if row.get(name) not in (None, "")]:
            last[name] = row[name]
            del left[name]
    metrics = {name: last[name] for name in (rows[0] if rows else ()) if is_number(last.get(name))}
    return metrics | settings({name: last[name] for name in last if name not in metrics})


def settings(config: Mapping[str, Any], prefix: str = "config") -> Row:
    """Nested settings under flat names: `config.model.width`, `config.splits.0`."""
    found: Row = {}
    for key, value in config.items():
        name = f"{prefix}.{key}"
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            found |= settings(value, name)
        else:
            found[name] = value if value is None or isinstance(value, int | float) else str(value)
    return found


def matched(text: str, patterns: Mapping[str, str]) -> Row:
    """What a log says by lines of the form of each pattern; nothing where lines disagree."""
    found = {name: set(re.findall(pattern, text)) for name, pattern in patterns.items()}
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def status(word: str | None) -> str | None:
    """How a run ended, from the word of a tracker."""
    words = {"finished": "finished", "failed": "failed", "crashed": "failed"}
    words |= dict.fromkeys(("killed", "running", "scheduled", "pending"), "stopped_early")
    return words.get((word or "").lower())


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain data; objects of Python become what they are written as, never built.

    Raises:
        DataError: it is no YAML, or holds no names.
        MissingPackage: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingPackage.of("PyYAML", "track", str(path)) from None

    loads: Any = type("Plain", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})

    def plain(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return node.value or suffix

    loads.add_multi_constructor("", plain)
    try:
        read = yaml.load(path.read_text(errors="replace"), Loader=loads)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from None
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise DataError(f"{path}: settings are names with values; this is a {type(read).__name__}")
    return read
