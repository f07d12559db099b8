"""Molecules as sequences of symbols: SELFIES, or SMILES by atoms.

A molecule is `<bos> s1 … sn <eos>`. A batch is flat: its molecules follow one another without
padding, and none sees its neighbour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.bench.data import cache
from chemscale.bench.data.base import (
    SPLITS,
    Dataset,
    Indices,
    Progress,
    Reject,
    Split,
    silent,
    sources_of,
    spans,
)
from chemscale.bench.data.encoding import ALLOWED, Choices, encode
from chemscale.bench.data.notation import canonical, tokenize, unspell
from chemscale.bench.data.prepare import LISTED, TokenStore, prepare
from chemscale.bench.data.token_batch import BOS, EOS, UNK, TokenBatch
from chemscale.table.errors import DataError
from chemscale.table.record import Record
from chemscale.table.records import DatasetSpec

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Tokenizer:
    """Between SMILES, a notation and token ids."""

    symbols: tuple[str, ...]  # by id; the first four are special
    choices: Choices = Choices()

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each symbol."""
        return {symbol: index for index, symbol in enumerate(self.symbols)}

    def encode(self, smiles: str) -> list[int]:
        """Token ids of a molecule, with <bos> and <eos>; unseen symbols become <unk>.

        Raises:
            DataError: it cannot be encoded, and why.
        """
        try:
            symbols = encode(smiles, self.choices)
        except ValueError as error:
            raise DataError(f"{smiles[:200]!r}: {error}") from None
        return [BOS, *(self.ids.get(symbol, UNK) for symbol in symbols), EOS]

    def tokenize(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of many texts of the notation, without <bos> and <eos>; and how many each has."""
        return tokenize(texts, self.symbols, self.choices.notation, UNK)

    def text(self, tokens: Iterable[int]) -> str:
        """The text of a sequence up to its first <eos>; <unk> is left out."""
        parts = []
        for token in tokens:
            if token == EOS:
                break
            if token >= len(SPECIAL):
                parts.append(self.symbols[token])
        return "".join(parts)

    def smiles(self, tokens: Iterable[int]) -> str:
        """Canonical SMILES of a sequence, empty if there is none.

        SELFIES always decode to something, but not always to something that RDKit accepts.
        """
        return canonical(unspell(self.text(tokens), self.choices.notation))


class Molecules(Dataset):
    """Molecules from CSV, lists of SMILES, Parquet or token stores, in a notation."""

    unit = "molecule"
    revision = 1

    tokenizer: Tokenizer
    known: NDArray[np.bool_]  # (items,) every symbol occurs in the training split

    def __init__(self, spec: DatasetSpec, folder: Path, progress: Progress = silent):
        if spec.group == "blocks":
            raise DataError("group = 'blocks' is for trajectories; molecules have none")
        self.spec = spec
        self.notes = []
        sources = sources_of(spec, folder)
        opened = _opened if spec.format == "tokens" else _encoded
        self._stores = [opened(spec, path, source, progress) for path, source in sources]
        self._names = [
            list(store.card.files) if spec.format == "tokens" else [path.name]
            for store, (path, _) in zip(self._stores, sources, strict=True)
        ]
        sizes = [store.card.molecules for store in self._stores]
        self._first = np.cumsum(sizes) - sizes  # of each store
        self._choose(np.repeat(np.array([index for _, index in sources], dtype=np.int8), sizes))
        self._learn_vocabulary()

    def _choose(self, source: NDArray[np.int8]) -> None:
        """Which molecules are items, and their splits."""
        cards = [store.card for store in self._stores]
        self.rejects = []
        for store, names in zip(self._stores, self._names, strict=True):
            self.rejects += store.rejects(names)
            for name in store.card.cut_off:
                self.notes.append(f"{name} could not be read to its end")
        unlisted = sum(card.rejected for card in cards) - len(self.rejects)
        if unlisted:
            self.notes.append(f"{unlisted:,} more rejected rows are in the store's rejects.csv")
        lengths, copies = self._column("lengths"), self._column("copies")
        fits = lengths < self.spec.max_length
        beyond = np.flatnonzero(~fits)
        self._reject_long(beyond[:LISTED])
        unlisted += len(beyond[LISTED:])
        self.refuse_above_threshold(sum(card.rows for card in cards), unlisted)
        content = self._column("content")
        kept = slice(None) if fits.all() else np.flatnonzero(fits)
        if len(self._stores) > 1:
            kept = np.flatnonzero(_first_of_each(content[:, 0], source, fits))
        # Where all are kept, the columns stay where they are, on disk.
        self._items = None if isinstance(kept, slice) else kept
        self._length = lengths[kept]
        repeated = int(copies[fits].sum(dtype=np.int64)) - len(self._length)
        if repeated:
            told = f"rows that repeat a molecule: {repeated:,}; the first of each was kept"
            self.notes.append(told)
        self.heavy_atoms = self._column("heavy_atoms")[kept]
        self.content = self.labelled = content[kept]
        self._settle(self._column("group")[kept], source[kept])

    def _column(self, name: str) -> NDArray[Any]:
        """A column of all stores; of one store alone, mapped."""
        columns = [getattr(store, name) for store in self._stores]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    def _reject_long(self, beyond: Indices) -> None:
        for item, number in zip(beyond, self._of_store(beyond), strict=True):
            store, inside = self._stores[number], np.array([item - self._first[number]])
            length = int(store.lengths[inside][0])
            head = [store.alphabet[symbol] for symbol in store.symbols_of(inside)[:20]]
            reason = f"{length + 1} tokens, more than max_length = {self.spec.max_length}"
            name = self._names[number][int(store.file[inside][0])]
            self.rejects.append(
                Reject(name, int(store.rows[inside][0]), "".join(head) + "…", reason)
            )

    def _learn_vocabulary(self) -> None:
        """The symbols of the training split, and which molecules have only those."""
        trains = self.split == SPLITS.index("train")
        seen = [np.zeros(len(store.alphabet), dtype=bool) for store in self._stores]
        for items in self._blocks(np.flatnonzero(trains)):
            for store, _, found in self._gathered(items):
                seen[store][found] = True
            if all(some.all() for some in seen):
                break
        symbols = sorted(
            {
                symbol
                for store, some in zip(self._stores, seen, strict=True)
                for symbol, here in zip(store.alphabet, some, strict=True)
                if here
            }
        )
        choices = Choices(**self._stores[0].card.choices)  # type: ignore[arg-type]
        self.tokenizer = Tokenizer((*SPECIAL, *symbols), choices)
        ids = self.tokenizer.ids
        self._ids = [
            np.array([ids.get(symbol, UNK) for symbol in store.alphabet] or [UNK])
            for store in self._stores
        ]
        self.known = np.ones(len(trains), dtype=bool)
        if any((table == UNK).any() for table in self._ids):
            for items in self._blocks(np.flatnonzero(~trains)):
                odd = self._numbered(items) == UNK
                lengths = self._length[items].astype(np.int64)
                self.known[items] = ~np.logical_or.reduceat(odd, np.cumsum(lengths) - lengths)
        for name in SPLITS[1:]:
            self._note_unknown(name)

    def _note_unknown(self, name: Split) -> None:
        members = self.indices(name)
        odd = int((~self.known[members]).sum())
        if odd:
            self.notes.append(
                f"{odd:,} of {len(members):,} {name} molecules have symbols that no training "
                "molecule has; they do not count in the metrics"
            )

    @staticmethod
    def _blocks(items: Indices) -> Iterator[Indices]:
        """Items in portions that need little memory."""
        size = 100_000
        return (items[start : start + size] for start in range(0, len(items), size))

    def _of_store(self, places: Indices) -> NDArray[np.int64]:
        """Which store each place is in."""
        return np.searchsorted(self._first, places, side="right") - 1

    def _gathered(self, items: Indices) -> Iterator[tuple[int, Indices, NDArray[np.uint16]]]:
        """By store: its number, which of the items are in it, and their symbols in its alphabet."""
        places = items if self._items is None else self._items[items]
        if len(self._stores) == 1:
            yield 0, np.arange(len(items)), self._stores[0].symbols_of(places)
            return
        of = self._of_store(places)
        for store in np.unique(of).tolist():
            here = np.flatnonzero(of == store)
            inside = places[here] - self._first[store]
            yield store, here, self._stores[store].symbols_of(inside)

    def _numbered(self, items: Indices) -> NDArray[np.int64]:
        """The token ids of some molecules, one after another."""
        lengths = self._length[items].astype(np.int64)
        ends = np.cumsum(lengths)
        whole = np.empty(lengths.sum(), dtype=np.int64)
        for store, here, symbols in self._gathered(items):
            whole[spans((ends - lengths)[here], lengths[here])] = self._ids[store][symbols]
        return whole

    def vocabulary(self) -> tuple[str, ...]:
        return self.tokenizer.symbols

    def num_tokens(self, items: Indices) -> int:
        return int(self._length[items].sum(dtype=np.int64) + len(items))

    def smiles(self, items: Indices) -> list[str]:
        """Canonical SMILES of some molecules, as their tokens spell them."""
        ends = np.cumsum(self._length[items].astype(np.int64))[:-1]
        parts = np.split(self._numbered(items), ends)
        return [self.tokenizer.smiles(tokens.tolist()) for tokens in parts]

    def loads(self, items: Indices, config: Record) -> Indices:
        return self._length[items].astype(np.int64) + 1

    def collate(self, config: Record) -> Callable[[Indices], TokenBatch]:
        """Return the function from indices to a batch.

        Raises:
            DataError: a model of this config has another vocabulary, or is too short.
        """
        size, longest = len(self.tokenizer.symbols), int(self._length.max()) + 1
        if (made_for := getattr(config, "vocab_size", size)) != size:
            raise DataError(f"{self.where}: {size} symbols, but the model was made for {made_for}")
        if (most := getattr(config, "max_length", longest)) < longest:
            raise DataError(
                f"{self.where}: a molecule of {longest} tokens, but the model takes at most {most}"
            )

        def batch(items: Indices) -> TokenBatch:
            lengths = self._length[items].astype(np.int64)
            heavy = self.heavy_atoms[items].astype(np.int64)
            return TokenBatch.of(self._numbered(items), lengths, heavy)

        return batch


def _first_of_each(
    content: NDArray[np.uint64], source: NDArray[np.int8], fits: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which items are the first of their content among those that fit, split file by split file."""
    first = np.zeros(len(content), dtype=bool)
    for index in np.unique(source):
        members = np.flatnonzero((source == index) & fits)
        first[members[np.unique(content[members], return_index=True)[1]]] = True
    return first


def _encoded(spec: DatasetSpec, path: Path, source: int, progress: Progress) -> TokenStore:
    """The store of one file, made in the cache where it is not there."""
    # Only the main files are split by group; the others may lack its column.
    group = (spec.group or "content") if source == 0 else "content"
    choices = Choices(spec.notation, spec.fragments, spec.charges, spec.stereo, group)
    told = {
        "kind": "tokens 1",
        "format": spec.format,
        "column": None if spec.format == "smi" else spec.column,
        "choices": dataclasses.asdict(choices),
        "versions": [version("rdkit"), version("selfies")],
    }
    folder = cache.place("tokens", cache.key([path], told))
    if (folder / "card.json").exists():
        return TokenStore.open(folder)
    return prepare(
        folder, [path], str(spec.format), spec.column, choices, lenient=False, progress=progress
    )


def _opened(spec: DatasetSpec, path: Path, source: int, progress: Progress) -> TokenStore:
    """A store that was prepared before, if it is what the spec says."""
    store = TokenStore.open(path)
    told = store.card.choices
    for name in (*ALLOWED, "group"):
        asked = getattr(spec, name)
        if name in spec.model_fields_set and asked not in (None, told[name]):
            if name == "group" and source:
                continue
            raise DataError(f"{path}: prepared with {name} = {told[name]!r}, not {asked!r}")
    return store
