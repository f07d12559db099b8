"""Rows of molecule files: CSV, lists of SMILES, Parquet; gzip'd or not; one at a time."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from chemscale.table.errors import DataError, hint
from chemscale.table.spreadsheet import is_number

CHUNK = 1_000  # rows handed on at once
FORMS = {".csv": "csv", ".smi": "smi", ".smiles": "smi", ".txt": "smi", ".parquet": "parquet"}
_BROKEN = (OSError, EOFError, ValueError, zlib.error)  # what reading a damaged file raises


@dataclass(frozen=True)
class Layout:
    """How the rows of files lie, and what is read of them."""

    form: str  # csv, smi or parquet
    column: str  # with the SMILES, in any case; a list of SMILES has none
    group: str | None = None  # a second column to read
    lenient: bool = False  # a file that breaks off ends in a row that says why, not in an error


class Row(NamedTuple):
    """The text of a molecule, as the file has it, and the value it is grouped by."""

    text: str
    group: str
    trouble: str = ""  # why the row cannot be read at all


class Chunk(NamedTuple):
    """Consecutive rows of one of several files."""

    file: int
    start: int  # rows of the file before it
    rows: list[Row]


def form_of(path: Path) -> str | None:
    """The form that a file's name says; None where it says none of molecules."""
    return FORMS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def read_smiles(path: Path, column: str = "smiles") -> list[str]:
    """The SMILES of all rows, as the file has them.

    Args:
        path: CSV, Parquet or a list of SMILES; may be gzip'd.
        column: of the SMILES, in any case; a list has none.

    Raises:
        DataError: no such file or column, no row, or another format.
    """
    texts = [row.text for row in read_rows(path, _layout(path, column))]
    if not texts:
        raise DataError(f"{path}: no rows")
    return texts


def read_targets(path: Path, column: str, targets: Sequence[str]) -> dict[str, list[float]]:
    """Columns of numbers, NaN where a cell is empty.

    Raises:
        DataError: no such column, or a cell that is neither empty nor a number.
    """
    found = {}
    for name in targets:
        values = []
        for number, row in enumerate(read_rows(path, _layout(path, column, name)), start=1):
            try:
                values.append(float(row.group or "nan"))
            except ValueError:
                raise DataError(
                    f"{path} row {number}: {name} is not a number: {row.group!r}"
                ) from None
        found[name] = values
    return found


def _layout(path: Path, column: str, group: str | None = None) -> Layout:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    form = form_of(path)
    if form is None:
        raise DataError(f"{path}: molecules come as {', '.join(FORMS)}, gzip'd or not")
    return Layout(form, column, group)


def read_chunks(
    files: Sequence[Path], layout: Layout, after: tuple[int, int] = (0, 0)
) -> Iterator[Chunk]:
    """Read the rows of several files in order, some at a time.

    Args:
        files: all of one layout.
        layout: where it is lenient, the next file follows one that breaks off.
        after: a file and how many of its rows are to be passed over, with all files before.

    Raises:
        DataError: a file cannot be read, or lacks a column.
    """
    for index in range(after[0], len(files)):
        start = after[1] if index == after[0] else 0
        rows = islice(read_rows(files[index], layout), start, None)
        while chunk := list(islice(rows, CHUNK)):
            yield Chunk(index, start, chunk)
            start += len(chunk)


def read_rows(path: Path, layout: Layout) -> Iterator[Row]:
    """Read all rows of a file in order; an empty cell comes as an empty text.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    form, column, group = layout.form, layout.column, layout.group
    if form == "smi" and group is not None:
        raise DataError(f"{path}: a list of SMILES has no column {group!r} to group by")
    try:
        if form == "csv":
            rows = _csv(path, column, group)
        elif form == "smi":
            rows = _smi(path)
        else:
            rows = _parquet(path, column, group)
        yield from rows
    except _BROKEN as error:
        if not layout.lenient:
            raise DataError(f"{path}: cannot be read as {form}: {error}") from error
        yield Row("", "", f"{CUT_OFF} {error}")


CUT_OFF = "the file cannot be read beyond this row:"


def estimate_rows(files: Sequence[Path], form: str) -> int:
    """About how many rows there are, for progress: from the sizes, and the head of the first file.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        if form == "parquet":
            from pyarrow.parquet import read_metadata

            return sum(int(read_metadata(path).num_rows) for path in files)
        sizes = [path.stat().st_size for path in files]
        with _open(files[0]) as stream:
            head = b""
            with suppress(EOFError):  # truncated; told when its rows are read
                head = stream.read(1 << 20)
            raw: Any = stream.fileobj if isinstance(stream, gzip.GzipFile) else stream
            read = raw.tell() if len(head) == 1 << 20 else sizes[0]
        lines = head.count(b"\n") * sum(sizes) // max(read, 1)
        return max(lines - (form == "csv") * len(files), 1)
    except _BROKEN as error:
        raise DataError(f"{files[0]}: cannot be read as {form}: {error}") from error


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Open for reading bytes; told by content, so the name may be anything."""
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _lines(path: Path) -> io.TextIOWrapper:
    with path.open("rb") as stream:
        if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path}: UTF-16; save it as UTF-8")
    # What is not UTF-8 becomes a mark that no SMILES holds, and so a rejected row with a number.
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="replace", newline="")


def _csv(path: Path, column: str, group: str | None) -> Iterator[Row]:
    with _lines(path) as stream:
        rows = csv.reader(stream)
        header = [name.strip() for name in next(rows, [])]
        wanted = _find(path, header, column, _SAY_COLUMN)
        grouped = None if group is None else _find(path, header, group)
        blank = 0  # blank lines count as rows, except at the end
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:  # of one row: a cell beyond the reader's limit, a NUL
                yield from [Row("", "")] * blank
                blank = 0
                yield Row("", "", f"not a row of CSV: {error}")
                continue
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
        columns = [header[_find(path, header, column, _SAY_COLUMN)]]
        if group is not None:
            columns.append(header[_find(path, header, group)])
        for batch in file.iter_batches(10_000, columns=list(dict.fromkeys(columns))):
            texts, groups = (batch[name].to_pylist() for name in (columns[0], columns[-1]))
            for text, value in zip(texts, groups, strict=True):
                yield Row(_text(text), "" if group is None else _text(value))


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


_SAY_COLUMN = " Name the one with the SMILES: column in [dataset], or --column"


def _find(path: Path, header: Sequence[str], name: str, advice: str = "") -> int:
    """Where a column is; the exact name first, then in any case."""
    if name in header:
        return header.index(name)
    lowered = [known.lower() for known in header]
    if name.lower() in lowered:
        return lowered.index(name.lower())
    if any("\ufffd" in known or "\0" in known for known in header):
        raise DataError(f"{path}: no column named {name!r}, and the first line is no text in UTF-8")
    if any(map(is_number, header)):
        advice = (
            " The first line holds a number, so it is a row: write one with the names of the "
            "columns above it"
        )
    raise DataError(f"{path}: no column named {name!r}{hint(name, header)}{advice}")
