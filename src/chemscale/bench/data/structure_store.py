"""Structures of files, and the edges between their atoms, as columns on disk.

A few hundred structures are held at a time, however many the files have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.bench.data.base import Progress, group_numbers, hash_items
from chemscale.bench.data.columns import Column, columns
from chemscale.bench.data.structure_card import make_card
from chemscale.bench.data.structure_files import Frame, Labels, describe_electrons, read_frames
from chemscale.table.errors import DataError
from chemscale.table.records import DatasetSpec

BLOCK = 100  # consecutive frames of one file that go to one split together
HELD = 500  # structures in memory

ATOMS: dict[str, Any] = {  # columns with an entry an atom
    "atomic_numbers": np.int8,
    "positions": (np.float64, 3),
    "forces": (np.float64, 3),
}
ITEMS: dict[str, Any] = {  # and with one a structure
    "energy": np.float64,
    "stress": (np.float64, (3, 3)),
    "charge": np.float64,
    "unpaired": np.float64,
    "cell": (np.float64, (3, 3)),
    "pbc": (np.bool_, 3),
    "counts": (np.int16, 101),  # atoms of each atomic number
    "content": (np.uint64, 2),
    "labelled": (np.uint64, 2),
    "source": np.int8,  # 0, or the split of its own that its file is
    "file": np.int32,  # in `files`
    "row": np.int32,  # the frame of its file, from 1
    "config": np.int32,  # its `config_type`, in `configs`; 0: it has none
    "nearest": np.float32,  # Å, between two atoms
}
EDGES: dict[str, Any] = {"senders": np.int32, "receivers": np.int32, "shifts": (np.int32, 3)}


def write_structures(
    folder: Path, spec: DatasetSpec, sources: Sequence[tuple[Path, int]], progress: Progress
) -> None:
    """Read all files into columns, in file order.

    Raises:
        DataError: a file cannot be read, or none has a structure that can be used.
    """
    labels, groups = Labels(spec), _Groups(spec)
    rejects: list[tuple[str, str, str]] = []
    with columns(folder, ATOMS | ITEMS) as written:
        held = _Held(written, groups)
        for number, (path, split) in enumerate(sources):
            for row, frame in enumerate(read_frames(path, spec, labels), start=1):
                if isinstance(frame, ValueError):
                    rejects.append((path.name, str(row), str(frame)))
                    continue
                held.frames.append(frame)
                held.rows.append(row)
                if len(held.frames) == HELD:
                    held.put(number, split)
                    progress(f"reading {path.name}", number, len(sources))
            held.put(number, split)
    progress("reading structures", len(sources), len(sources))
    count = len(held.sizes) - 1
    if not count:
        why = "; the first, {} {}: {}".format(*rejects[0]) if rejects else ""
        raise DataError(f"{', '.join(spec.path)}: no structure could be read{why}")
    group, note = groups.numbers(count)
    electrons = (np.load(folder / f"{name}.npy") for name in ("charge", "unpaired"))
    small = {
        "start": np.cumsum(held.sizes),
        "group": group,
        "rejects": np.array(rejects, dtype=str).reshape(-1, 3),
        "files": np.array([path.name for path, _ in sources]),
        "configs": np.array(list(held.configs)),
        "notes": np.array([labels.describe(count), note, *describe_electrons(*electrons)]),
    }
    for name, values in small.items():
        np.save(folder / f"{name}.npy", values)
    make_card(folder, labels.conversion.names, labels.doubts())


class _Held:
    """Structures of one file at a time, on their way into the columns."""

    def __init__(self, written: dict[str, Column], groups: _Groups):
        self.written, self.groups = written, groups
        self.frames: list[Frame] = []
        self.rows: list[int] = []
        self.sizes = [0]  # atoms of all structures that were put
        self.configs = {"": 0}

    def put(self, number: int, split: int) -> None:
        """Append what is held, of one file, to the columns."""
        frames = self.frames
        if not frames:
            return
        content = [frame.content() for frame in frames]
        labelled = [
            text + b"|" + np.float64(f.energy).tobytes() + f.forces.tobytes()
            for text, f in zip(content, frames, strict=True)
        ]
        kinds = [str(f.info.get("config_type", "")) for f in frames]
        told: dict[str, Any] = {
            "file": np.full(len(frames), number),
            "row": self.rows,
            "config": [self.configs.setdefault(kind, len(self.configs)) for kind in kinds],
            "counts": [np.bincount(f.atomic_numbers, minlength=101) for f in frames],
            "content": hash_items(content),
            "labelled": hash_items(labelled),
            "source": np.full(len(frames), split),
        }
        for name, column in self.written.items():
            if name in ATOMS:
                column.append(np.concatenate([getattr(f, name) for f in frames]))
            else:
                own = told[name] if name in told else [getattr(f, name) for f in frames]
                column.append(own)
        self.groups.add(number, frames, content)
        self.sizes.extend(len(f.atomic_numbers) for f in frames)
        self.frames, self.rows = [], []


class _Groups:
    """Which structures must share a split: a number in [0, 1) that those of a group share."""

    def __init__(self, spec: DatasetSpec):
        self.spec = spec
        self.named = spec.group not in (None, "content", "blocks", "formula")
        self.found: list[NDArray[np.float64]] = []
        self.origin: list[NDArray[np.int64]] = []  # which file
        self.known: set[str] = set()  # entries of the frames
        self.missing = 0

    def add(self, number: int, frames: Sequence[Frame], content: Sequence[bytes]) -> None:
        """Take some frames of one file."""
        keys = list(content)
        if self.spec.group == "formula":
            keys = [np.sort(f.atomic_numbers).tobytes() for f in frames]
        elif self.named:
            name = str(self.spec.group)
            keys = [str(f.info.get(name)).encode() for f in frames]
            self.known.update(*(f.info for f in frames))
            self.missing += sum(name not in f.info and len(f.atomic_numbers) > 1 for f in frames)
        self.found.append(group_numbers(keys))
        self.origin.append(np.full(len(frames), number))

    def numbers(self, count: int) -> tuple[NDArray[np.float64], str]:
        """The numbers of all structures, and a note on how groups were formed.

        Raises:
            DataError: structures lack the entry that groups them.
        """
        group, form = self.spec.group, self.spec.format
        if self.missing:
            known = sorted(self.known - {"energy", "forces", "stress"})
            raise DataError(
                f"group = {group!r}: {self.missing:,} of {count:,} frames have no such entry; "
                f"known: content, blocks, formula{''.join(', ' + key for key in known)}"
            )
        numbers, origin = np.concatenate(self.found), np.concatenate(self.origin)
        trajectory = count >= 2 * BLOCK * len(np.unique(origin))
        if group is None and form in ("extxyz", "npz") and trajectory:
            return _blocks(numbers, origin), (
                f"split in blocks of {BLOCK} consecutive frames, as neighbours in a trajectory "
                'are alike; group = "content" splits frame by frame'
            )
        if group == "blocks":
            how = f"split in blocks of {BLOCK} consecutive frames"
            return _blocks(numbers, origin), how
        plain = {None: "frame by frame", "content": "frame by frame"}
        plain["formula"] = "by molecular formula"
        return numbers, f"split {plain.get(group, f'by {group}')}"


def _blocks(numbers: NDArray[np.float64], origin: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give each run of BLOCK frames of a file the number of its first.

    A partial last block joins the one before.
    """
    _, begin, sizes = np.unique(origin, return_index=True, return_counts=True)
    place = np.arange(len(origin)) - np.repeat(begin, sizes)
    last = np.repeat(np.maximum(sizes // BLOCK - 1, 0), sizes)
    return numbers[np.repeat(begin, sizes) + np.minimum(place // BLOCK, last) * BLOCK]


def write_neighbours(
    folder: Path, arrays: dict[str, NDArray[Any]], cutoff: float, progress: Progress
) -> None:
    """Find all edges up to a cutoff (Å), any number of periodic images away.

    Columns: `first` edge of each structure and one more; `senders` and `receivers` within their
    structure, ascending by receiver, then sender; `shifts` of the sender by cells, empty where
    nothing is periodic; `lonely`: structures of several atoms with one that has no neighbour.
    """
    from vesin import NeighborList

    finder = NeighborList(cutoff=cutoff, full_list=True)
    start, periodic = np.asarray(arrays["start"]), bool(arrays["pbc"].any())
    total = len(start) - 1
    counts = np.zeros(total + 1, dtype=np.int64)
    lonely: list[int] = []
    with columns(folder, EDGES) as written:
        for begin in range(0, total, HELD):
            progress("finding neighbours", begin, total)
            items = range(begin, min(begin + HELD, total))
            sizes = np.diff(start[begin : items.stop + 1])
            found = [
                finder.compute(
                    points=np.asarray(arrays["positions"][start[item] : start[item + 1]]),
                    box=np.asarray(arrays["cell"][item]),
                    periodic=np.asarray(arrays["pbc"][item]),
                    quantities="ijS",
                )
                for item in items
            ]
            degrees = np.array([len(i) for i, _, _ in found])
            counts[begin + 1 : items.stop + 1] = degrees
            i, j, shifts = (np.concatenate(part) for part in zip(*found, strict=True))
            origin = np.repeat(np.cumsum(sizes) - sizes, degrees)
            receivers = i.astype(np.int64) + origin
            order = np.lexsort((j, receivers))
            written["receivers"].append(i[order])
            written["senders"].append(j[order])
            if periodic:
                written["shifts"].append(shifts[order])
            alone = np.bincount(receivers, minlength=sizes.sum()) == 0
            without = np.add.reduceat(alone, np.cumsum(sizes) - sizes)
            lonely += (begin + np.flatnonzero((without > 0) & (sizes > 1))).tolist()
    progress("finding neighbours", total, total)
    np.save(folder / "first.npy", np.cumsum(counts))
    np.save(folder / "lonely.npy", np.array(lonely, dtype=np.int64))
