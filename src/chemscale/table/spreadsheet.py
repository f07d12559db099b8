"""Anybody's CSV as rows of text, its cells as numbers; what is broken is told with its place."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import math
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chemscale.table.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MISSING = ("", "na", "n/a", "null", "none", "-", "–")  # what spreadsheets and pandas write
VARYING = ("run", "step", "val_loss")  # columns that cannot be the same in all rows
OFTEN_CALLED = {
    "family": ("model", "architecture"),
    "num_params": ("n", "params", "parameters", "n_params"),
    "num_train": ("d", "n_train", "dataset_size", "tokens"),
    "val_loss": ("valid_loss", "validation_loss", "valid", "val", "loss"),
    "run": ("name", "run_name", "config"),
    "step": ("steps", "iteration", "_step"),
    "learning_rate": ("lr",),
    "batch_size": ("batch", "bs"),
}
COUNTED = ("num_params", "num_params_total", "num_train", "items_seen")
_SHORT = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMbBtT])")  # thousands, millions, billions, trillions
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
_DECIMAL_POINT = re.compile(r"[-+]?\d*\.\d+([eE][-+]?\d+)?")


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or Parquet file under the names of its columns; missing cells are None.

    Raises:
        DataError: it is no such table; says which line.
    """
    if not path.name.endswith(".parquet"):
        return _spreadsheet(path)
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from None
    return rows


def _spreadsheet(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV.

    Empty lines and columns without a name, such as the index that pandas writes, are left out.
    Where commas do not separate cells, a comma in a number is the decimal sign.
    """
    text = _text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=first.count)
    lined = io.StringIO(text, newline=None)
    reader = csv.reader(lined, delimiter=separator, skipinitialspace=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: cannot be read: {error}") from None
    if not lines:
        return []
    (line, names), *body = lines
    _check_header(names, f"{path} line {line}")
    if len(names) == 1:
        raise DataError(
            f"{path} line {line}: one column only, {names[0][:60]!r}. Columns are separated by "
            "commas, semicolons, tabs or bars"
        )
    for line, cells in body:
        if len(cells) < len(names) or any(cells[len(names) :]):
            raise DataError(
                f"{path} line {line}: {len(cells)} cells, and {len(names)} names in the header "
                f"({SEPARATORS[separator]} separated). Give every line as many; leave a cell "
                "empty where there is nothing"
            )
    if separator != ",":
        _mend_decimal_commas(names, body, path)
    return [
        {
            name: None if cell.lower() in MISSING else cell
            for name, cell in zip(names, cells, strict=False)
            if name
        }
        for _, cells in body
    ]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if data.startswith(b"PK\3\4"):
            raise ValueError("a spreadsheet's own file, or another zip archive")
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as a table: {error}. A table is CSV in UTF-8, or CSV "
            "compressed (.csv.gz), or Parquet (.parquet); save a spreadsheet as CSV UTF-8"
        ) from None


def _check_header(names: list[str], where: str) -> None:
    if names[0].startswith(("{", "[")):
        raise DataError(
            f"{where}: JSON, and no table. Make it one (pandas: "
            "read_json(path, lines=True).to_csv('runs.csv', index=False))"
        )
    if names[0].startswith("#"):
        raise DataError(
            f"{where}: begins with #. The first line is to hold the names of the columns: delete "
            "comments above it, and a # before the names"
        )
    if len(names) > 2 and sum(map(bool, names)) == 1:
        raise DataError(
            f"{where}: names one of {len(names)} columns, {max(names)[:60]!r}. The first line is "
            "to hold the names of the columns: delete titles above it"
        )
    if numbers := [name for name in names if is_number(name)]:
        raise DataError(
            f"{where}: holds numbers ({', '.join(numbers[:3])}) where the names of the columns "
            "should be. "
            + (
                "Write a first line such as family,num_params,num_train,seed,test_loss"
                if is_number(names[0])
                else f"If they are amounts or sizes, {_melt(names, 'num_train', 'test_loss')}"
            )
        )
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise DataError(f"{where}: {', '.join(twice)} names two columns; rename or delete one")


def is_number(cell: Any) -> bool:
    """Whether a cell can be read as a number."""
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def amount(text: str) -> float:
    """A number as people write sizes and amounts: 1200000, 1.2e6 or 1.2M.

    Raises:
        ValueError: it is none.
    """
    short = _SHORT.fullmatch(text)
    return (
        float(short[1]) * 1000.0 ** ("kmbt".index(short[2].lower()) + 1) if short else float(text)
    )


def _mend_decimal_commas(names: list[str], body: list[tuple[int, list[str]]], path: Path) -> None:
    """Points for decimal commas, in place.

    Raises:
        DataError: some numbers have a comma and some a point, so that 1,234 may be either.
    """
    commas = [
        (line, cells, place)
        for line, cells in body
        for place, cell in enumerate(cells)
        if _DECIMAL_COMMA.fullmatch(cell)
    ]
    if not commas:
        return
    for line, cells in body:
        for name, cell in zip(names, cells, strict=False):
            if _DECIMAL_POINT.fullmatch(cell):
                other, there, place = commas[0]
                raise DataError(
                    f"{path} line {line}: {name} {cell!r} has a point, and line {other} "
                    f"{there[place]!r} a comma: which is the decimal sign? Write all numbers with "
                    "one of them, and without signs for thousands"
                )
    for _, cells, place in commas:
        cells[place] = cells[place].replace(",", ".")


# --- rows and cells, wherever they come from -----------------------------------------------------


def require(rows: Sequence[Mapping[str, Any]], names: Sequence[str], where: str, all_: str) -> None:
    """Refuse rows without a column of each name, with how to say which column it is.

    Raises:
        DataError: which are missing, and which there are.
    """
    missing = [name for name in names if name not in rows[0]]
    if not missing:
        return
    guesses = {name: near for name in missing if (near := meant_by(name, rows[0]))}
    mapped = ",".join(f"{name}={theirs}" for name, theirs in guesses.items())
    fixed = next((name for name in missing if name not in {*VARYING, *guesses}), None)
    mapped = shlex.quote(mapped or f"{missing[0]}=ITS-NAME")
    told = f"Where it has another name: --columns {mapped}"
    if {"val_loss", "run"} <= {*missing} - {*guesses} and len(rows[0]) > 2:
        told += ". Where each run has a column of its own: " + _melt([*rows[0]], "run", "val_loss")
    elif fixed:
        told += f"; where it is the same for all rows: --set {fixed}=VALUE"
    raise DataError(
        f"{where}: no column {', '.join(missing)}; there are {_told(rows[0])}. Required: {all_}. "
        + told
    )


def _melt(names: Sequence[str], across: str, value: str) -> str:
    """How a wide table becomes a long one."""
    call = f"table.melt({names[0]!r}, var_name={across!r}, value_name={value!r})"
    return f"give each of its values a row (pandas: {call}.dropna())"


def meant_by(name: str, there: Iterable[str]) -> str | None:
    """Which of the names another one is likely to stand for."""
    plain = {re.sub(r"\W+", "_", theirs.lower()).strip("_"): theirs for theirs in there}
    called = (name, *OFTEN_CALLED.get(name, ()))
    found = [plain[other] for other in called if other in plain]
    near = difflib.get_close_matches(name, plain, n=1, cutoff=0.75)
    said = [  # "params, total"
        theirs
        for other in called
        for alike, theirs in plain.items()
        if len(other) > 2 and other in alike.split("_")
    ]
    return next(iter([*found, *(plain[one] for one in near), *said]), None)


def _told(names: Iterable[str], most: int = 80) -> str:
    shown = [name if re.fullmatch(r"\S+(?<!,)", name) else repr(name) for name in names]
    more = f" and {len(shown) - most} more (`fit --table` writes all)" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def number_in(where: str, number: int, row: Mapping[str, Any], name: str) -> float | None:
    """A cell as a finite number; None where there is none."""
    found = float_in(where, number, row, name)
    return found if found is not None and math.isfinite(found) else None


def float_in(where: str, number: int, row: Mapping[str, Any], name: str) -> float | None:
    """A cell as a number, which may be infinite or none; None where it is empty."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        return amount(str(value)) if name in COUNTED else float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"{where} row {number}: {name} is not a number: {value!r}. Write it as 12000, 1.2e4 or "
            "0.012 (0,012 in a table of decimal commas), without a unit or signs for thousands; "
            "leave the cell empty where there is none"
        ) from None
