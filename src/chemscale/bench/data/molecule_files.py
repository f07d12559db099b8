"""Rows of molecule files: CSV, lists of SMILES, Parquet; gzip'd or not; one at a time."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from chemscale.table.errors import DataError, hint


class Row(NamedTuple):
    """The text of a molecule, as the file has it, and the value it is grouped by."""

    text: str
    group: str


def read_rows(path: Path, form: str, column: str, group: str | None) -> Iterator[Row]:
    """Read all rows of a file in order; an empty cell comes as an empty text.

    Args:
        path: the file.
        form: "csv", "smi" or "parquet".
        column: the column that holds the SMILES, in any case; a list of SMILES has none.
        group: a second column to read.

    Raises:
        DataError: the file cannot be read, or a column is missing.
    """
    if form == "smi" and group is not None:
        raise DataError(f"{path}: a list of SMILES has no column {group!r} to group by")
    try:
        if form == "csv":
            yield from _csv(path, column, group)
        elif form == "smi":
            yield from _smi(path)
        else:
            yield from _parquet(path, column, group)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as {form}: {error}") from error


def count_rows(path: Path, form: str) -> int:
    """About how many rows there are, for progress and to decide how many hands to put to work."""
    try:
        if form == "parquet":
            from pyarrow.parquet import ParquetFile

            with ParquetFile(path) as file:
                return int(file.metadata.num_rows)
        with _open(path) as stream:
            blocks = iter(lambda: stream.read(1 << 20), b"")
            lines = sum(block.count(b"\n") for block in blocks)
        return max(lines - (form == "csv"), 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as {form}: {error}") from error


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Open for reading bytes; told by content, so the name may be anything."""
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _lines(path: Path) -> io.TextIOWrapper:
    # What is not UTF-8 becomes a mark that no SMILES holds, and so a rejected row with a number.
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="replace", newline="")


def _csv(path: Path, column: str, group: str | None) -> Iterator[Row]:
    with _lines(path) as stream:
        rows = csv.reader(stream)
        header = [name.strip() for name in next(rows, [])]
        wanted = _find(path, header, column, "column")
        grouped = None if group is None else _find(path, header, group, "group")
        blank = 0  # blank lines count as rows, except at the end
        for cells in rows:
            if not cells:
                blank += 1
                continue
            yield from [Row("", "")] * blank
            blank = 0
            yield Row(_cell(cells, wanted), "" if grouped is None else _cell(cells, grouped))


def _cell(cells: Sequence[str], index: int) -> str:
    return cells[index].strip() if index < len(cells) else ""


def _smi(path: Path) -> Iterator[Row]:
    with _lines(path) as stream:
        blank = 0
        for number, line in enumerate(stream):
            words = line.split(maxsplit=1)
            if not words:
                blank += 1
                continue
            if number == 0 and words[0].lower() == "smiles":  # a header; never a molecule
                continue
            yield from [Row("", "")] * blank
            blank = 0
            yield Row(words[0], "")


def _parquet(path: Path, column: str, group: str | None) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        header = list(file.schema_arrow.names)
        columns = [header[_find(path, header, column, "column")]]
        if group is not None:
            columns.append(header[_find(path, header, group, "group")])
        for batch in file.iter_batches(10_000, columns=list(dict.fromkeys(columns))):
            texts, groups = (batch[name].to_pylist() for name in (columns[0], columns[-1]))
            for text, value in zip(texts, groups, strict=True):
                yield Row(_text(text), "" if group is None else _text(value))


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _find(path: Path, header: Sequence[str], name: str, key: str) -> int:
    """Where a column is; the exact name first, then in any case."""
    if name in header:
        return header.index(name)
    lowered = [known.lower() for known in header]
    if name.lower() in lowered:
        return lowered.index(name.lower())
    raise DataError(f"{path}: no column named {name!r}{hint(name, header)} Set {key} in [dataset]")
