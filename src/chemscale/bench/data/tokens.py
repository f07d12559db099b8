"""Molecules as sequences of SELFIES symbols.

A molecule is `<bos> s1 … sn <eos>`. A batch is flat: its molecules follow one another without
padding, and none sees its neighbour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chemscale.bench.data import cache
from chemscale.bench.data.base import (
    SPLITS,
    Dataset,
    Indices,
    Progress,
    Reject,
    Split,
    resolve_paths,
    silent,
)
from chemscale.bench.data.encoding import GROUPS, Arrays, encode, encode_all, pairs
from chemscale.bench.data.molecule_files import count_rows, read_rows
from chemscale.table.errors import DataError
from chemscale.table.record import Record
from chemscale.table.records import DatasetSpec

PAD, BOS, EOS, UNK = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class TokenBatch:
    """Molecules one after another. T tokens, M molecules."""

    tokens: Tensor  # (T,) without the last of each molecule
    targets: Tensor  # (T,) without the first
    positions: Tensor  # (T,) from 0 in each molecule
    molecule: Tensor  # (T,) ascending
    lengths: Tensor  # (M,) tokens of each; stays on the CPU, as shapes follow from it
    known: Tensor  # (M,) no symbol is <unk>
    heavy_atoms: Tensor  # (M,)

    @classmethod
    def of(cls, symbols: NDArray[np.int64], num_symbols: Indices, heavy: Indices) -> TokenBatch:
        """Pack molecules.

        Args:
            symbols: (S,) ids of all of them in order, without <bos> and <eos>.
            num_symbols: (M,) how many each has.
            heavy: (M,) heavy atoms of each.
        """
        lengths = num_symbols + 1
        ends = np.cumsum(lengths)  # (M,)
        starts = ends - lengths
        tokens = np.full(ends[-1], -1)
        tokens[starts] = BOS
        tokens[tokens < 0] = symbols
        targets = np.full(ends[-1], -1)
        targets[ends - 1] = EOS
        targets[targets < 0] = symbols
        molecule = np.repeat(np.arange(len(lengths)), lengths)
        known = np.bincount(molecule, tokens == UNK) == 0
        return cls(
            tokens=torch.from_numpy(tokens),
            targets=torch.from_numpy(targets),
            positions=torch.from_numpy(np.arange(ends[-1]) - starts[molecule]),
            molecule=torch.from_numpy(molecule),
            lengths=torch.from_numpy(lengths),
            known=torch.from_numpy(known),
            heavy_atoms=torch.from_numpy(heavy),
        )

    @property
    def num_molecules(self) -> int:
        """M."""
        return len(self.lengths)

    def pairs(self, window: int | None = None) -> int:
        """Query-key pairs of one attention layer: each token sees itself and those before it.

        Args:
            window: how many it sees at most, itself included; None: all.
        """
        pairs = int((self.lengths * (self.lengths + 1)).sum()) // 2
        if window is not None:
            beyond = (self.lengths - window).clamp(min=0)
            pairs -= int((beyond * (beyond + 1)).sum()) // 2
        return pairs

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> TokenBatch:
        """Move all but the lengths; there is nothing to cast."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if field.name != "lengths"
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class Tokenizer:
    """Between SMILES, SELFIES and token ids."""

    symbols: tuple[str, ...]  # by id; the first four are special

    def encode(self, smiles: str) -> list[int]:
        """Token ids of a molecule, with <bos> and <eos>; unseen symbols become <unk>.

        Raises:
            DataError: it cannot be encoded, and why.
        """
        try:
            molecule = encode(smiles)
        except ValueError as error:
            raise DataError(f"{smiles!r}: {error}") from None
        ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        return [BOS, *(ids.get(symbol, UNK) for symbol in molecule.symbols), EOS]

    def text(self, tokens: Iterable[int]) -> str:
        """SELFIES of a sequence up to its first <eos>; <unk> is left out."""
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
        from rdkit import Chem, rdBase
        from selfies import DecoderError, decoder

        with rdBase.BlockLogs():
            try:
                molecule = Chem.MolFromSmiles(decoder(self.text(tokens)))
            except DecoderError:
                return ""
            return "" if molecule is None else str(Chem.MolToSmiles(molecule))


class Molecules(Dataset):
    """Molecules from CSV, lists of SMILES or Parquet, as SELFIES."""

    unit = "molecule"
    revision = 1

    tokenizer: Tokenizer
    known: NDArray[np.bool_]  # (items,) every symbol occurs in the training split

    def __init__(self, spec: DatasetSpec, folder: Path, progress: Progress = silent):
        if spec.group == "blocks":
            raise DataError("group = 'blocks' is for trajectories; molecules have none")
        self.spec = spec
        self.notes = []
        sources = [(path, 0) for path in resolve_paths(spec.path, folder)]
        for index, name in enumerate(SPLITS[1:], start=1):
            given = getattr(spec, name)
            if isinstance(given, tuple):
                sources += [(path, index) for path in resolve_paths(given, folder)]
        files = [path for path, _ in sources]
        stored = _prepared(spec, sources, progress)
        file = stored["file"]
        source = np.array([index for _, index in sources], dtype=np.int8)[file]
        texts = zip(stored["rejected_file"], stored["rejected_rows"], strict=True)
        self.rejects = [
            Reject(files[index].name, int(row), text, reason)
            for (index, row), (text, reason) in zip(texts, pairs(stored["rejected"]), strict=True)
        ]
        num_rows = len(file) + len(self.rejects)
        fits = stored["lengths"] < spec.max_length
        self._reject_long(stored, np.flatnonzero(~fits), files)
        self.refuse_above_threshold(num_rows)
        first = _first_of_each(stored["content"][:, 0], source, fits)
        kept = np.flatnonzero(first)
        if len(kept) < fits.sum():
            self.notes.append(
                f"{fits.sum() - len(kept):,} molecules occur more than once; the first was kept"
            )

        self._symbols = stored["symbols"]  # (all symbols of all molecules stored,) of the alphabet
        self._length = stored["lengths"][kept].astype(np.int64)
        self._start = stored["starts"][kept]
        self.heavy_atoms = stored["heavy_atoms"][kept].astype(np.int64)
        self.content = self.labelled = stored["content"][kept]
        self._settle(stored["group"][kept], source[kept])
        self._learn_vocabulary([str(symbol) for symbol in stored["alphabet"]])

    def _reject_long(self, stored: Arrays, items: Indices, files: Sequence[Path]) -> None:
        for item in items:
            start, length = int(stored["starts"][item]), int(stored["lengths"][item])
            head = stored["alphabet"][stored["symbols"][start : start + 20]]
            reason = f"{length + 1} tokens, more than max_length = {self.spec.max_length}"
            name = files[stored["file"][item]].name
            row = int(stored["rows"][item])
            self.rejects.append(Reject(name, row, "".join(head) + "…", reason))

    def _learn_vocabulary(self, alphabet: list[str]) -> None:
        """The symbols of the training split, and which molecules have only those."""
        trains = self.split == SPLITS.index("train")
        seen = np.zeros(len(alphabet), dtype=bool)
        for items in self._blocks(np.flatnonzero(trains)):
            seen[self._gather(items)] = True
        symbols = sorted(symbol for symbol, here in zip(alphabet, seen, strict=True) if here)
        self.tokenizer = Tokenizer((*SPECIAL, *symbols))
        ids = {symbol: index for index, symbol in enumerate(self.tokenizer.symbols)}
        self._ids = np.array([ids.get(symbol, UNK) for symbol in alphabet])
        self.known = np.ones(len(trains), dtype=bool)
        if not seen.all():
            for items in self._blocks(np.flatnonzero(~trains)):
                odd = ~seen[self._gather(items)]
                starts = np.cumsum(self._length[items]) - self._length[items]
                self.known[items] = ~np.logical_or.reduceat(odd, starts)
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

    def _gather(self, items: Indices) -> NDArray[Any]:
        """The symbols of some molecules, one after another."""
        lengths = self._length[items]
        shift = self._start[items] - (np.cumsum(lengths) - lengths)
        return np.asarray(self._symbols[np.repeat(shift, lengths) + np.arange(lengths.sum())])

    def vocabulary(self) -> tuple[str, ...]:  # noqa: D102
        return self.tokenizer.symbols

    def num_tokens(self, items: Indices) -> int:  # noqa: D102
        return int(self._length[items].sum() + len(items))

    def loads(self, items: Indices, config: Record) -> Indices:  # noqa: D102
        return self._length[items] + 1

    def collate(self, config: Record) -> Callable[[Indices], TokenBatch]:
        """Return the function from indices to a batch.

        Raises:
            DataError: a model of this config has another vocabulary, or is too short.
        """
        size, longest = len(self.tokenizer.symbols), int(self._length.max()) + 1
        if getattr(config, "vocab_size", size) != size:
            raise DataError(
                f"{self.where}: {size} symbols, but the model was made for {config.vocab_size}"  # type: ignore[attr-defined]
            )
        if getattr(config, "max_length", longest) < longest:
            raise DataError(
                f"{self.where}: a molecule of {longest} tokens, but the model takes at most "
                f"{config.max_length}"  # type: ignore[attr-defined]
            )

        def batch(items: Indices) -> TokenBatch:
            symbols = self._ids[self._gather(items)]
            return TokenBatch.of(symbols, self._length[items], self.heavy_atoms[items])

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


def _prepared(spec: DatasetSpec, sources: Sequence[tuple[Path, int]], progress: Progress) -> Arrays:
    """The encoded molecules of all files, memory-mapped; each file is encoded once."""
    parts, identities = [], []
    for path, source in sources:
        # Only the main files are split by group; the others may lack its column.
        group = (spec.group or "content") if source == 0 else "content"
        options = {
            "kind": "molecules 1",
            "format": spec.format,
            "column": None if spec.format == "smi" else spec.column.lower(),
            "group": group,
            "versions": [version("rdkit"), version("selfies")],
        }
        identity = cache.key([path], options)
        part = cache.load("molecules", identity)
        if part is None:
            part = cache.save("molecules", identity, _encoded(spec, path, group, progress))
        parts.append(part)
        identities.append(identity)
    if len(parts) == 1:
        return parts[0]
    whole = cache.key([], {"kind": "joined molecules 1", "parts": identities})
    return cache.load("molecules", whole) or cache.save("molecules", whole, _joined(parts))


def _encoded(spec: DatasetSpec, path: Path, group: str, progress: Progress) -> Arrays:
    """Encode one file."""
    column = None if group in GROUPS else group
    total = count_rows(path, str(spec.format))
    rows = read_rows(path, str(spec.format), spec.column, column)
    chunks: list[Arrays] = []
    done = 0
    progress("encoding molecules", 0, total)
    for chunk in encode_all(rows, group, total):
        size = len(chunk["rows"]) + len(chunk["rejected_rows"])
        chunk["rows"] += done + 1  # counted from 1
        chunk["rejected_rows"] += done + 1
        chunks.append(chunk)
        done += size
        progress("encoding molecules", done, max(done, total))
    if not done:
        raise DataError(f"{path}: no rows")
    return _joined([_joined(chunks)])


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """Put arrays one after another, over one alphabet; `file` says which part each came from."""
    number: dict[str, int] = {}
    symbols = []
    for part in parts:
        ids = [number.setdefault(str(symbol), len(number)) for symbol in part["alphabet"]]
        symbols.append(np.array(ids, dtype=np.uint16)[part["symbols"]])
    whole = {
        name: np.concatenate([part[name] for part in parts])
        for name in ("lengths", "heavy_atoms", "content", "group", "rows", "rejected_rows")
    }
    lengths = whole["lengths"].astype(np.int64)
    return whole | {
        "symbols": np.concatenate(symbols),
        "alphabet": np.array(list(number), dtype=np.str_),
        "starts": np.cumsum(lengths) - lengths,
        "file": _numbered([len(part["rows"]) for part in parts]),
        "rejected_file": _numbered([len(part["rejected_rows"]) for part in parts]),
        "rejected": np.concatenate([part["rejected"] for part in parts]),
    }


def _numbered(sizes: Sequence[int]) -> NDArray[np.int32]:
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
