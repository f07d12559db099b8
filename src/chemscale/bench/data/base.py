"""The dataset contract: items in splits that never move, and training subsets that nest.

Each item has a content hash and a group key. The salted hash of the key is a number in [0, 1):
below `test` the item is test, below `test + validation` validation, else training. Intervals, not
counts, so a file that grows moves nothing between splits.
"""

from __future__ import annotations

import glob
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chemscale.table.errors import DataError, MissingPackage
from chemscale.table.record import Record
from chemscale.table.records import (
    MOLECULE_FORMATS,
    STRUCTURE_FORMATS,
    DatasetSpec,
    JudgingSplit,
)
from chemscale.table.registry import datasets

Split = Literal["train", "validation", "test", "shift"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "shift")
REMOVED = -1  # a training item whose content occurs in an evaluation file

Indices = NDArray[np.int64]
Progress = Callable[[str, int, int], None]  # what, done, total


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used, and why."""

    source: str  # file
    row: int  # counted from 1, without the header
    text: str
    reason: str


class Dataset(ABC):
    """Items of one kind, split and hashed.

    A subclass fills the arrays in its constructor (through `_settle`) and collates batches.
    """

    unit: ClassVar[Literal["molecule", "structure"]]
    revision: ClassVar[int]

    spec: DatasetSpec
    rejects: list[Reject]
    notes: list[str]  # what a reader should know: keys used, coverage, grouping, removals
    card: Record | None = None  # what the labels are, where that was looked at
    content: NDArray[np.uint64]  # (items, 2) hash of what an item is
    labelled: NDArray[np.uint64]  # (items, 2) hash of what an item is, and its labels
    split: NDArray[np.int8]  # (items,) index into SPLITS, or REMOVED

    @abstractmethod
    def collate(self, config: Record) -> Callable[[Indices], Any]:
        """Return the function from item indices to one batch for a model of this config."""

    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """All symbols of the dataset; empty where there is no such thing."""

    def check(self, needs: Iterable[str]) -> None:
        """Refuse when a label in `needs` is missing from training or validation items.

        Raises:
            DataError: which label, in how many items, and what to do.
        """
        for label in needs:
            raise DataError(f"{self.where}: {self.unit}s have no {label}")

    def num_tokens(self, items: Indices) -> int:
        """Tokens that training on these items predicts, once through; 0 where there are none."""
        return 0

    def loads(self, items: Indices, config: Record) -> Indices:
        """What each item weighs for a model of this config: its tokens, or its edges."""
        return np.ones(len(items), dtype=np.int64)

    def indices(self, split: Split) -> Indices:
        """All items of a split, by ascending hash."""
        members = np.flatnonzero(self.split == SPLITS.index(split))
        return members[np.argsort(self.content[members, 0], kind="stable")]

    def evaluated(self, split: JudgingSplit) -> Indices:
        """The items of a split on which models are judged: the lowest hashes."""
        asked = self.spec.max_evaluated
        usual = {"molecule": 10_000, "structure": 1_000}[self.unit]
        limit = asked.get(split, usual) if isinstance(asked, dict) else asked or usual
        return self.indices(split)[:limit]

    def subset(self, num_train: int, seed: int) -> Indices:
        """The training items of one run: nested in `num_train` for a seed.

        Raises:
            DataError: fewer training items than asked for.
        """
        members = self.indices("train")
        if num_train > len(members):
            raise DataError(
                f"num_train = {num_train:,} asks for more than the {len(members):,} training "
                f"{self.unit}s there are (of {len(self.split):,} read); lower it or add data"
            )
        order = np.argsort(mixed(self.content[members, 0], seed), kind="stable")
        return members[order[:num_train]]

    def fingerprint(self, num_train: int, seed: int, more_labels: Sequence[str] = ()) -> str:
        """Identity of what a run trains and is judged on.

        Args:
            num_train: size of the training subset.
            seed: that chooses it.
            more_labels: what the loss uses beyond energies and forces.
        """
        digest = hashlib.sha256()
        digest.update("\n".join(self.vocabulary()).encode())
        parts = (
            self.subset(num_train, seed),
            self.evaluated("validation"),
            self.evaluated("test"),
        )
        for part in parts:
            rows = self._told(part, more_labels)
            digest.update(f"|{len(rows)}|".encode())
            digest.update(rows[np.lexsort((rows[:, 1], rows[:, 0]))].tobytes())
        return digest.hexdigest()[:20]

    def _told(self, items: Indices, more_labels: Sequence[str]) -> NDArray[np.uint64]:
        """A row of integers for each item that says what it is and its labels."""
        return self.labelled[items]

    def _settle(self, group: NDArray[np.float64], source: NDArray[np.int8]) -> None:
        """Assign splits.

        Args:
            group: (items,) the salted hash of each item's group key, in [0, 1).
            source: (items,) 0 for the main files, else the index in SPLITS of a split's own file.
        """
        spec = self.spec
        test = spec.test if isinstance(spec.test, float) else 0.0
        validation = spec.validation if isinstance(spec.validation, float) else 0.0
        main = np.where(group < test, 2, np.where(group < test + validation, 1, 0))
        self.split = np.where(source > 0, source, main).astype(np.int8)
        held_out = np.unique(self.content[self.split > 0, 0])
        leaks = (self.split == 0) & np.isin(self.content[:, 0], held_out)
        if leaks.any():
            self.split[leaks] = REMOVED
            self.notes.append(
                f"{leaks.sum():,} training {self.unit}s occur in an evaluation set and were removed"
            )
        for name in ("train", "validation", "test"):
            if not (self.split == SPLITS.index(name)).any():
                how = next((f" ({note})" for note in self.notes if note.startswith("split ")), "")
                raise DataError(
                    f"{self.where}: no {name} {self.unit}s among {len(self.split):,} in "
                    f"{len(np.unique(group)):,} groups, each of which stays whole{how}. In "
                    f"[dataset] give larger shares (here validation = {spec.validation}, test = "
                    f"{spec.test}), a file for {name}, another group, or more data"
                )

    @property
    def where(self) -> str:
        """The source in a word, for messages."""
        return self.spec.name or ", ".join(self.spec.path)

    def refuse_above_threshold(self, rows: int, unlisted: int = 0) -> None:
        """Stop when more rows were rejected than the spec allows, listed ones and others."""
        rejected = len(self.rejects) + unlisted
        if rejected > self.spec.max_rejected * rows:
            raise DataError(
                f"{self.where}: {rejected:,} of {rows:,} rows cannot be used, more than "
                f"max_rejected = {self.spec.max_rejected:g} allows. Mend them or raise "
                f"max_rejected in [dataset].\n{first_of(self.rejects, rejected)}"
            )


def first_of(rejects: Sequence[Reject], count: int) -> str:
    """The first ten of so many rejects, a line each."""
    lines = [f"  {one.source} row {one.row}: {one.reason}: {one.text[:60]}" for one in rejects[:10]]
    return "\n".join([*lines, f"  … and {count - 10:,} more"] if count > 10 else lines)


def open_dataset(spec: DatasetSpec, folder: Path, progress: Progress = silent) -> Dataset:
    """Open what a study names; relative paths resolve against the study folder.

    Raises:
        UnknownName, DataError, MissingPackage.
    """
    if spec.name is not None:
        options = spec.model_dump(exclude_unset=True, exclude={"name"})
        dataset: Dataset = datasets.load(spec.name)(progress=progress, **options)
        return dataset
    with MissingPackage.told("train", "reading data"):
        if spec.format in MOLECULE_FORMATS:
            from chemscale.bench.data.tokens import Molecules

            return Molecules(spec, folder, progress)
        if spec.format in STRUCTURE_FORMATS:
            from chemscale.bench.data.graphs import Structures

            return Structures(spec, folder, progress)
    raise AssertionError(spec.format)


def resolve_paths(paths: Sequence[str], folder: Path) -> list[Path]:
    """Expand files, lists and globs against a folder, in a stable order.

    Raises:
        DataError: a path that matches nothing.
    """
    found: list[Path] = []
    for path in paths:
        pattern = str(folder / Path(path).expanduser())
        matches = sorted(glob.glob(pattern))
        if not matches:
            raise DataError(f"{pattern}: no such file; paths are relative to {folder}")
        found += [Path(match) for match in matches]
    return found


def sources_of(spec: DatasetSpec, folder: Path) -> list[tuple[Path, int]]:
    """The files that a dataset is read from, each with the split that it is for.

    That is an index in SPLITS; 0 for the main files, which are split by hash.

    Raises:
        DataError: a path that matches nothing, or a folder where files are asked for.
    """
    named = {"train": spec.path, **{name: getattr(spec, name) for name in SPLITS[1:]}}
    sources = [
        (path, SPLITS.index(name))
        for name, given in named.items()
        if isinstance(given, tuple)
        for path in resolve_paths(given, folder)
    ]
    for path, _ in sources:
        if path.is_dir() and spec.format not in ("tokens", "aselmdb"):
            raise DataError(f"{path}: a folder; name its files, such as {path}/*")
    return sources


def spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions of stretches that begin at `starts`, one after another."""
    shift = starts - (np.cumsum(lengths) - lengths)
    return np.repeat(shift, lengths) + np.arange(lengths.sum())


def hash_items(texts: Iterable[bytes]) -> NDArray[np.uint64]:
    """Hash contents to 128 bits each: (items, 2)."""
    joined = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2).copy()


def group_numbers(keys: Iterable[bytes]) -> NDArray[np.float64]:
    """Salted hash of group keys, as numbers in [0, 1)."""
    return hash_items(b"chemscale split 1|" + key for key in keys)[:, 0] / 2.0**64


def mixed(hashes: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Re-hash 64-bit numbers under a seed (the SplitMix64 finaliser of Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = hashes + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(value ^ (value >> np.uint64(31)))
