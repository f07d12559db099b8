"""Sorted runs on disk, merged into one: molecules in the order of their hashes, each once.

Memory is bounded by a run while rows are encoded and by a range of hashes while runs are merged,
however many rows there are. What is on disk after a kill is whole, and the same call goes on.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.bench.data.base import Progress, spans
from chemscale.bench.data.columns import Column
from chemscale.bench.data.encoding import Encoded
from chemscale.bench.data.molecule_files import Chunk
from chemscale.table.errors import DataError
from chemscale.table.files import array_bytes, read_json, write, write_folder

RUN_ROWS = 250_000
RANGE_ITEMS = 250_000  # molecules merged at once
JOURNAL_SECONDS = 5.0  # between notes of how far the merge is
BLOCK = 20_000  # molecules whose symbols are put in order at once
BUCKETS = 4_096  # equal ranges of hashes; a range that is merged holds one or more of them

ITEM = np.dtype(
    [
        ("content", "<u8", (2,)),  # hash of the canonical SMILES; sorted by its first half
        ("group", "<f8"),  # number of the group key in [0, 1)
        ("rows", "<i8"),  # of its first occurrence, counted from 1
        ("starts", "<i8"),  # where its symbols begin
        ("file", "<i4"),
        ("lengths", "<i4"),  # symbols
        ("heavy_atoms", "<i4"),
        ("copies", "<i4"),  # occurrences
    ]
)
REJECTS = ("file", "row", "smiles", "reason")


def write_run(folder: Path, parts: Sequence[tuple[Chunk, Encoded]], names: Sequence[str]) -> None:
    """Put encoded chunks into order and on disk, whole."""
    number: dict[str, int] = {}
    symbols, items, rejects = [], [], []
    for chunk, part in parts:
        ids = [number.setdefault(symbol, len(number)) for symbol in part.alphabet]
        symbols.append(np.array(ids, dtype=np.uint16)[part.symbols])
        some = np.zeros(len(part.rows), dtype=ITEM)
        for name in ("content", "group", "lengths", "heavy_atoms"):
            some[name] = getattr(part, name)
        some["rows"] = part.rows + chunk.start + 1
        some["file"], some["copies"] = chunk.file, 1
        items.append(some)
        rejects += [
            (names[chunk.file], chunk.start + row + 1, text, reason)
            for row, text, reason in part.rejects
        ]
    if len(number) > np.iinfo(np.uint16).max:
        raise DataError(f"{names[parts[0][0].file]}: more symbols than any alphabet has")
    whole = np.concatenate(items)
    whole["starts"] = np.cumsum(whole["lengths"], dtype=np.int64) - whole["lengths"]
    kept = _unique(whole)
    flat = np.concatenate(list(_gathered(np.concatenate(symbols), kept)))
    kept["starts"] = np.cumsum(kept["lengths"], dtype=np.int64) - kept["lengths"]
    edges = np.arange(BUCKETS, dtype=np.uint64) << np.uint64(64 - BUCKETS.bit_length() + 1)
    bounds = np.append(np.searchsorted(kept["content"][:, 0], edges), len(kept))
    last = parts[-1][0]
    state = {
        "alphabet": list(number),
        "rows": sum(len(chunk.rows) for chunk, _ in parts),
        "rejected": len(rejects),
        "file": last.file,
        "file_rows": last.start + len(last.rows),
    }
    files = {
        "items": kept.tobytes(),
        "symbols": flat.tobytes(),
        "bounds.npy": array_bytes(bounds.astype(np.int32)),
        "rejects.csv": _csv(rejects),
        "run.json": json.dumps(state).encode(),
    }
    write_folder(folder, files)


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode("utf-8", "replace")


def _unique(items: NDArray[Any]) -> NDArray[Any]:
    """Sorted by hash, each once, the first of equals kept with the sum of their copies."""
    hashes = items["content"][:, 0]
    order = np.argsort(hashes, kind="stable")  # equals stay in the order of rows
    first = np.ones(len(items), dtype=bool)
    first[1:] = hashes[order][1:] != hashes[order][:-1]
    kept = items[order[first]]
    if len(kept):
        copies = items["copies"][order].astype(np.int64)
        kept["copies"] = np.add.reduceat(copies, np.flatnonzero(first))
    return kept


def _gathered(symbols: NDArray[np.uint16], items: NDArray[Any]) -> Iterator[NDArray[np.uint16]]:
    """The symbols of items, in their order, some at a time."""
    for begin in range(0, max(len(items), 1), BLOCK):
        some = items[begin : begin + BLOCK]
        yield symbols[spans(some["starts"], some["lengths"].astype(np.int64))]


@dataclass(frozen=True)
class SortedRun:
    """A finished run."""

    path: Path
    alphabet: list[str]
    rows: int
    rejected: int
    after: tuple[int, int]  # file and rows of it, where the next run begins

    @classmethod
    def open(cls, path: Path) -> SortedRun | None:
        """Read what a run holds; None where it is not there."""
        told = read_json(path / "run.json") if path.exists() else None
        if told is None:
            return None
        after = (told["file"], told["file_rows"])
        return cls(path, told["alphabet"], told["rows"], told["rejected"], after)

    def read(self, begin: int, end: int) -> tuple[NDArray[Any], NDArray[np.uint16]]:
        """Items from `begin` to `end`, their starts counted from the first of them."""
        items = _read(self.path / "items", ITEM, begin, end)
        if not len(items):
            return items, np.empty(0, dtype=np.uint16)
        origin = int(items["starts"][0])
        final = int(items["starts"][-1]) + int(items["lengths"][-1])
        items["starts"] -= origin
        return items, _read(self.path / "symbols", np.dtype(np.uint16), origin, final)


def _read(path: Path, kind: np.dtype[Any], begin: int, end: int) -> NDArray[Any]:
    return np.fromfile(path, dtype=kind, count=end - begin, offset=begin * kind.itemsize)


def merge(runs: Sequence[SortedRun], folder: Path, progress: Progress) -> None:
    """Merge runs into columns in a folder.

    The columns are those of `ITEM`, `symbols`, and the `alphabet`, sorted.
    """
    alphabet = sorted({symbol for run in runs for symbol in run.alphabet})
    place = {symbol: index for index, symbol in enumerate(alphabet)}
    renamed = [np.array([place[s] for s in run.alphabet], dtype=np.uint16) for run in runs]
    bounds = np.stack([np.load(run.path / "bounds.npy") for run in runs])  # (runs, BUCKETS + 1)
    journal = folder / "merging.json"
    done = read_json(journal) or {"bucket": 0, "items": 0, "symbols": 0}
    with ExitStack() as stack:
        columns = {
            name: stack.enter_context(Column(folder / f"{name}.npy", ITEM[name], done["items"]))
            for name in ITEM.names or ()
        }
        kind = np.dtype(np.uint16)
        flat = stack.enter_context(Column(folder / "symbols.npy", kind, done["symbols"]))
        noted = time.monotonic()
        while done["bucket"] < BUCKETS:
            low = done["bucket"]
            sizes = (bounds[:, low + 1 :] - bounds[:, [low]]).sum(axis=0, dtype=np.int64)
            high = low + max(int(np.searchsorted(sizes, RANGE_ITEMS, side="right")), 1)
            items, symbols = _of_range(runs, renamed, bounds[:, low], bounds[:, high])
            for some in _gathered(symbols, items):
                flat.append(some)
            items["starts"] = np.cumsum(items["lengths"], dtype=np.int64) - items["lengths"]
            items["starts"] += done["symbols"]
            for name, column in columns.items():
                column.append(np.ascontiguousarray(items[name]))
            done = {"bucket": high, "items": columns["rows"].size, "symbols": flat.size}
            if time.monotonic() - noted >= JOURNAL_SECONDS:
                for column in (*columns.values(), flat):
                    column.sync()
                write(journal, json.dumps(done).encode())
                noted = time.monotonic()
            progress("merging", high, BUCKETS)
        for column in (*columns.values(), flat):
            column.finish()
            column.sync()
    write(folder / "alphabet.npy", array_bytes(np.array(alphabet, dtype=np.str_)))


def _of_range(
    runs: Sequence[SortedRun],
    renamed: Sequence[NDArray[np.uint16]],
    begins: NDArray[np.int32],
    ends: NDArray[np.int32],
) -> tuple[NDArray[Any], NDArray[np.uint16]]:
    items, symbols, origin = [], [], 0
    for run, names, begin, end in zip(runs, renamed, begins.tolist(), ends.tolist(), strict=True):
        if begin == end:
            continue
        some, text = run.read(begin, end)
        some["starts"] += origin
        origin += len(text)
        items.append(some)
        symbols.append(names[text])
    if not items:
        return np.empty(0, dtype=ITEM), np.empty(0, dtype=np.uint16)
    return _unique(np.concatenate(items)), np.concatenate(symbols)


def join_rejects(runs: Sequence[SortedRun], target: Path) -> None:
    """One table of what could not be used, in the order of the rows."""
    rows = ((run.path / "rejects.csv").read_bytes() for run in runs)
    write(target, chain([_csv([REJECTS])], rows))
