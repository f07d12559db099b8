"""A token store: molecules encoded once, each once, in columns that are mapped, not read.

    rows of the files ──encode──► runs of 250,000 rows, sorted ──merge──► columns ──► card.json

`card.json` comes last and makes the store whole. A killed preparation leaves whole runs and a
journal of the merge; the same call goes on from there, to the same bytes.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chemscale.bench.data import cache
from chemscale.bench.data.base import Progress, Reject, silent, spans
from chemscale.bench.data.columns import blocks
from chemscale.bench.data.encoding import GROUPS, Choices, Encoded, encode_all
from chemscale.bench.data.molecule_files import (
    CUT_OFF,
    Chunk,
    Layout,
    estimate_rows,
    read_chunks,
    read_rows,
)
from chemscale.bench.data.sorting import (
    ITEM,
    RUN_ROWS,
    SortedRun,
    join_rejects,
    merge,
    write_run,
)
from chemscale.table.errors import DataError, StoreError
from chemscale.table.files import read_json, read_record, remove_parts, sync_folder, write_json
from chemscale.table.record import Record

LISTED = 10_000  # rejects read from the table; it holds all of them


class Spread(Record):
    """How a number is spread over molecules."""

    smallest: int
    mean: float
    largest: int
    counts: dict[int, int]


class Card(Record):
    """What is in a store, and what it was made from."""

    files: dict[str, str]  # name: SHA-256
    column: str
    choices: dict[str, str]
    versions: dict[str, str]
    rows: int
    molecules: int
    duplicates: int
    rejected: int
    reasons: dict[str, int]  # the most frequent, numbers in them as N
    cut_off: tuple[str, ...]  # files that could not be read to their end
    tokens: int  # with the one that ends each molecule
    lengths: Spread  # symbols
    heavy_atoms: Spread
    vocabulary: dict[str, int]  # symbol: occurrences
    fingerprint: str  # of hashes and symbols, in order


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """A finished store, memory-mapped. M molecules in the order of their hashes."""

    path: Path
    card: Card
    alphabet: list[str]
    symbols: NDArray[np.uint16]  # of all molecules, one after another, as indices of the alphabet
    starts: NDArray[np.int64]  # (M,)
    lengths: NDArray[np.int32]  # (M,)
    heavy_atoms: NDArray[np.int32]  # (M,)
    content: NDArray[np.uint64]  # (M, 2)
    group: NDArray[np.float64]  # (M,)
    file: NDArray[np.int32]  # (M,)
    rows: NDArray[np.int64]  # (M,)
    copies: NDArray[np.int32]  # (M,)

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """Open a store.

        Raises:
            DataError: it is none, or its preparation did not end.
        """
        card = read_record(path / "card.json", Card)
        if card is None:
            begun = (path / "asked.json").exists()
            raise DataError(
                f"{path}: its preparation did not end; give `chemscale prepare` again to go on"
                if begun
                else f"{path}: no token store; `chemscale prepare` makes one"
            )
        # What is empty cannot be mapped.
        mode: Literal["r"] | None = "r" if card.molecules else None
        columns = {name: np.load(path / f"{name}.npy", mmap_mode=mode) for name in ITEM.names or ()}
        return cls(
            path=path,
            card=card,
            alphabet=[str(symbol) for symbol in np.load(path / "alphabet.npy")],
            symbols=np.load(path / "symbols.npy", mmap_mode=mode),
            **columns,
        )

    def symbols_of(self, items: NDArray[np.int64]) -> NDArray[np.uint16]:
        """The symbols of some molecules, one after another."""
        return np.asarray(
            self.symbols[spans(self.starts[items], self.lengths[items].astype(np.int64))]
        )

    def rejects(self, names: Sequence[str]) -> list[Reject]:
        """The first of the rows that could not be used.

        Args:
            names: of the files, which may have been renamed since.
        """
        renamed = dict(zip(self.card.files, names, strict=True))
        with (self.path / "rejects.csv").open(newline="") as stream:
            rows = csv.reader(stream)
            next(rows)
            listed = zip(range(LISTED), rows, strict=False)
            return [
                Reject(renamed[name], int(row), text, reason)
                for _, (name, row, text, reason) in listed
            ]


def prepare(
    folder: Path,
    files: Sequence[Path],
    form: str,
    column: str,
    choices: Choices,
    *,
    lenient: bool = True,
    workers: int | None = None,
    progress: Progress = silent,
) -> TokenStore:
    """Make a store in a folder, or go on where a killed call stopped, or open what is there.

    Args:
        folder: of the store alone.
        files: all of one form.
        form: "csv", "smi" or "parquet".
        column: with the SMILES.
        choices: notation and what becomes of salts, charges and stereo; what groups.
        lenient: a file that breaks off costs its rest and no more, and the card names it.
        workers: processes that encode; by default one a core.
        progress: told what is done.

    Raises:
        DataError: a file cannot be used, or no row can.
        StoreError: the folder holds something else.
    """
    names = _names(files)
    layout = Layout(form, column, None if choices.group in GROUPS else choices.group, lenient)
    for path in files:
        next(read_rows(path, layout), None)  # a column that is missing is told before any work
    hashes = {name: cache.file_hash(path) for name, path in zip(names, files, strict=True)}
    asked: dict[str, Any] = {
        "files": hashes,
        "column": column if form != "smi" else "",
        "choices": dataclasses.asdict(choices),
        "versions": {name: version(name) for name in ("rdkit", "selfies")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        told = read_json(folder / "asked.json")
        if told is None:
            others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
            if others:
                raise StoreError(f"{folder}: holds {others[0]}; a store needs a folder of its own")
            write_json(folder / "asked.json", asked)
        else:
            told = {key: told.get(key) for key in asked}
            # By content: files may have been renamed.
            if list(told["files"].values()) == list(hashes.values()):
                asked["files"] = told["files"]
            differ = [key for key in asked if told[key] != asked[key]]
            if differ:
                raise StoreError(
                    f"{folder}: was prepared from other {' and '.join(differ)}, told by its "
                    "asked.json; give another folder, or remove this one"
                )
        if not (folder / "card.json").exists():
            runs = _encoded(folder / "runs", files, names, layout, choices, workers, progress)
            merge(runs, folder, progress)
            join_rejects(runs, folder / "rejects.csv")
            write_json(folder / "card.json", _card(folder, runs, asked))  # last: it is whole
        shutil.rmtree(folder / "runs", ignore_errors=True)
        (folder / "merging.json").unlink(missing_ok=True)
        remove_parts(folder)
    return TokenStore.open(folder)


def _names(files: Sequence[Path]) -> list[str]:
    """Names that tell the files apart, as short as they can be."""
    names = [path.name for path in files]
    if len(set(names)) < len(names):
        names = [str(path) for path in files]
    (name, count), *_ = Counter(names).most_common(1)
    if count > 1:
        raise DataError(f"{name}: given more than once")
    return names


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process works in a folder; the kernel frees it at death."""
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _encoded(
    folder: Path,
    files: Sequence[Path],
    names: Sequence[str],
    layout: Layout,
    choices: Choices,
    workers: int | None,
    progress: Progress,
) -> list[SortedRun]:
    """All runs; those that are there are not made again."""
    folder.mkdir(exist_ok=True)
    for part in folder.glob(".*"):
        shutil.rmtree(part)
    runs: list[SortedRun] = []
    while run := SortedRun.open(folder / f"{len(runs):06d}"):
        runs.append(run)
    if (folder / "all").exists():
        return runs
    after = runs[-1].after if runs else (0, 0)
    done, total = sum(run.rows for run in runs), estimate_rows(files, layout.form)
    chunks = read_chunks(files, layout, after)
    parts: list[tuple[Chunk, Encoded]] = []
    held = 0

    def finish() -> None:
        target = folder / f"{len(runs):06d}"
        write_run(target, parts, names)
        run = SortedRun.open(target)
        assert run is not None
        runs.append(run)
        parts.clear()

    progress("encoding molecules", done, max(done, total))
    for chunk, encoded in encode_all(chunks, choices, workers):
        parts.append((chunk, encoded))
        held += len(chunk.rows)
        done += len(chunk.rows)
        if held >= RUN_ROWS:
            finish()
            held = 0
        progress("encoding molecules", done, max(done, total))
    if parts:
        finish()
    if not runs:
        raise DataError(f"{files[0]}: no rows")
    (folder / "all").touch()
    sync_folder(folder)
    return runs


def _card(folder: Path, runs: Sequence[SortedRun], asked: dict[str, Any]) -> Card:
    alphabet = [str(symbol) for symbol in np.load(folder / "alphabet.npy")]
    digest = hashlib.sha256("\n".join(alphabet).encode())
    for block in blocks(folder / "content.npy"):
        digest.update(block.tobytes())
    counts = np.zeros(len(alphabet), dtype=np.int64)
    for block in blocks(folder / "symbols.npy"):
        counts += np.bincount(block, minlength=len(alphabet))
        digest.update(block.tobytes())
    reasons: Counter[str] = Counter()
    cut_off = []
    with (folder / "rejects.csv").open(newline="") as stream:
        rows = csv.reader(stream)
        next(rows)
        for name, _, _, reason in rows:
            if reason.startswith(CUT_OFF):
                cut_off.append(name)
            reasons[re.sub(r"\b(?<!-)\d[\d,]*", "N", reason)[:200]] += 1
            if len(reasons) > 10_000:  # all but the most frequent
                reasons = Counter(dict(reasons.most_common(1_000)))
    size = occurrences = 0
    for block in blocks(folder / "copies.npy"):
        size += len(block)
        occurrences += int(block.sum(dtype=np.int64))
    return Card(
        **asked,
        rows=sum(run.rows for run in runs),
        molecules=size,
        duplicates=occurrences - size,
        rejected=sum(run.rejected for run in runs),
        reasons=dict(reasons.most_common(50)),
        cut_off=tuple(cut_off),
        tokens=int(counts.sum()) + size,
        lengths=_spread(folder / "lengths.npy"),
        heavy_atoms=_spread(folder / "heavy_atoms.npy"),
        vocabulary={symbol: int(count) for symbol, count in zip(alphabet, counts, strict=True)},
        fingerprint=digest.hexdigest()[:20],
    )


def _spread(column: Path) -> Spread:
    counts = np.zeros(1, dtype=np.int64)
    for block in blocks(column):
        more = np.bincount(block, minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    (held,) = np.nonzero(counts)
    if not len(held):
        return Spread(smallest=0, mean=0.0, largest=0, counts={})
    return Spread(
        smallest=int(held[0]),
        mean=float((held * counts[held]).sum() / counts.sum()),
        largest=int(held[-1]),
        counts={int(value): int(counts[value]) for value in held},
    )
