"""Structures as graphs: atoms, and edges between those within a cutoff."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from chemscale.bench.data import cache
from chemscale.bench.data.base import (
    SPLITS,
    Dataset,
    Indices,
    Progress,
    Reject,
    group_numbers,
    hash_items,
    resolve_paths,
    silent,
    spans,
)
from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.data.structure_files import Frame, Labels, describe_electrons, read_frames
from chemscale.table.errors import DataError
from chemscale.table.record import Record
from chemscale.table.records import DatasetSpec

BLOCK = 100  # consecutive frames of one file that go to one split together


class Structures(Dataset):
    """Structures from files; `structure_readers` lists the formats."""

    unit = "structure"
    revision = 1

    def __init__(self, spec: DatasetSpec, folder: Path, progress: Progress = silent):
        self.spec = spec
        sources = [(path, 0) for path in resolve_paths(spec.path, folder)]
        for index, name in enumerate(SPLITS[1:], start=1):
            given = getattr(spec, name)
            if isinstance(given, tuple):
                sources += [(path, index) for path in resolve_paths(given, folder)]
        options = spec.model_dump(
            mode="json", exclude={"path", "max_evaluated", "max_rejected", "max_length"}
        )
        options |= {"validation": str(spec.validation), "test": str(spec.test)}
        self._identity = cache.key(
            [path for path, _ in sources],
            {"kind": "structures 3", "source": [index for _, index in sources], **options},
        )
        arrays = cache.load("structures", self._identity)
        if arrays is None:
            arrays = cache.save("structures", self._identity, _read(spec, sources, progress))
        self.arrays = arrays
        self.content, self.labelled = arrays["content"], arrays["labelled"]
        self.start = arrays["start"]  # (items + 1,) first atom of each structure
        self.rejects = [
            Reject(str(file), int(row), "", str(reason)) for file, row, reason in arrays["rejects"]
        ]
        self.notes = [str(note) for note in arrays["notes"]]
        self.refuse_above_threshold(len(self.content) + len(self.rejects))
        # Isolated atoms are references: they have no forces and belong to no split.
        self.isolated = np.diff(self.start) == 1
        self._settle(arrays["group"], arrays["source"])
        self.split = np.where(self.isolated, -1, self.split).astype(np.int8)
        self._edges: dict[float, tuple[NDArray[Any], ...]] = {}
        self._progress = progress

    def vocabulary(self) -> tuple[str, ...]:  # noqa: D102
        return ()

    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(int(z) for z in np.flatnonzero(self.arrays["counts"].any(axis=0)))

    def mean_neighbours(self, subset: Indices, cutoff: float) -> float:
        """How many neighbours an atom of the subset has within the cutoff (Å), on average."""
        first = self._neighbours(cutoff)[0]
        return float(np.diff(first)[subset].sum() / np.diff(self.start)[subset].sum())

    def check(self, needs: Iterable[str]) -> None:  # noqa: D102
        has = {
            "energy": np.isfinite(self.arrays["energy"]),
            "forces": np.isfinite(self.arrays["forces"][self.start[:-1], 0]),
            "stress": np.isfinite(self.arrays["stress"]).all(axis=(1, 2)),
        }
        for label in needs:
            for split in ("train", "validation"):
                items = self.indices(split)
                missing = int((~has[label][items]).sum())
                if missing:
                    raise DataError(
                        f"{self.where}: {missing:,} of {len(items):,} {split} structures have no "
                        f"{label}, which the recipe's loss needs ({self.notes[0]}). Set "
                        f"{label}_key in [dataset], drop those frames, or choose a recipe "
                        "that does without"
                    )

    def references_and_scale(self, subset: Indices) -> tuple[NDArray[np.float64], float]:
        """Reference energies (101,) eV by atomic number, and the force RMS (eV/Å), of a subset.

        Isolated-atom frames give the reference of their element; least squares over the subset
        gives the rest. Without forces the scale is the spread of the energy per atom that is left.
        """
        counts = self.arrays["counts"].astype(np.float64)  # (items, 101)
        energy = self.arrays["energy"]
        references = np.full(101, np.nan)
        single = self.isolated & np.isfinite(energy)
        for number in np.flatnonzero(counts[single].sum(axis=0)):
            references[number] = energy[single & (counts[:, number] > 0)].mean()
        present = counts[subset].sum(axis=0) > 0
        solve = present & ~np.isfinite(references)
        known = np.where(np.isfinite(references), references, 0.0)
        labelled = subset[np.isfinite(energy[subset])]
        rest = energy[labelled] - counts[labelled] @ known
        if solve.any():
            # Minimum norm: elements in a fixed ratio to each other cannot be told apart.
            references[solve] = np.linalg.lstsq(counts[labelled][:, solve], rest, rcond=1e-10)[0]
            known = np.where(np.isfinite(references), references, 0.0)
            rest = energy[labelled] - counts[labelled] @ known
        forces = np.concatenate([self._atoms("forces", item) for item in subset])
        scale = float(np.sqrt(np.nanmean(forces**2))) if np.isfinite(forces).any() else 0.0
        if scale == 0.0:
            scale = float(np.std(rest / counts[labelled].sum(axis=1)))
        return references, scale if scale > 0 else 1.0

    def collate(self, config: Record) -> Callable[[Indices], GraphBatch]:
        """Return the function from indices to a batch with edges up to `config.cutoff` Å.

        Raises:
            DataError: a structure of several atoms with an atom that has no neighbour.
        """
        cutoff = float(config.cutoff)  # type: ignore[attr-defined]
        first, senders, receivers, shifts = self._neighbours(cutoff)
        arrays = self.arrays
        periodic = bool(arrays["pbc"].any())
        charged = bool(arrays["charge"].any() or arrays["unpaired"].any())
        stressed = bool(np.isfinite(arrays["stress"]).any())

        def batch(items: Indices) -> GraphBatch:
            sizes = (self.start[items + 1] - self.start[items]).astype(np.int64)
            degrees = (first[items + 1] - first[items]).astype(np.int64)
            atoms = spans(self.start[items], sizes)
            edges = spans(first[items], degrees)
            shift = np.repeat(np.cumsum(sizes) - sizes, degrees)
            offsets = None
            if periodic:
                cells = np.repeat(arrays["cell"][items], degrees, axis=0)
                offsets = torch.from_numpy(np.einsum("ei,eij->ej", shifts[edges], cells))
            return GraphBatch(
                positions=torch.from_numpy(arrays["positions"][atoms]),
                atomic_numbers=torch.from_numpy(arrays["atomic_numbers"][atoms].astype(np.int64)),
                structure=torch.from_numpy(np.repeat(np.arange(len(items)), sizes)),
                senders=torch.from_numpy(senders[edges] + shift),
                receivers=torch.from_numpy(receivers[edges] + shift),
                offsets=offsets,
                atoms_per_structure=torch.from_numpy(sizes.astype(np.float64)),
                energy=torch.from_numpy(arrays["energy"][items]),
                forces=torch.from_numpy(arrays["forces"][atoms]),
                charge=torch.from_numpy(arrays["charge"][items]) if charged else None,
                unpaired=torch.from_numpy(arrays["unpaired"][items]) if charged else None,
                cell=torch.from_numpy(arrays["cell"][items]) if periodic else None,
                stress=torch.from_numpy(arrays["stress"][items]) if stressed else None,
            )

        return batch

    def atoms(self, item: int) -> Atoms:
        """A structure for ASE, without its labels; charge and multiplicity in its `info`."""
        arrays = self.arrays
        charge, unpaired = (int(arrays[name][item]) for name in ("charge", "unpaired"))
        return Atoms(
            numbers=self._atoms("atomic_numbers", item),
            positions=self._atoms("positions", item),
            cell=np.asarray(arrays["cell"][item]),
            pbc=np.asarray(arrays["pbc"][item]),
            info={"charge": charge, "multiplicity": unpaired + 1} if charge or unpaired else {},
        )

    def loads(self, items: Indices, config: Record) -> Indices:  # noqa: D102
        first = self._neighbours(float(config.cutoff))[0]  # type: ignore[attr-defined]
        return np.asarray(first[items + 1] - first[items], dtype=np.int64)

    def _told(self, items: Indices, more_labels: Sequence[str]) -> NDArray[np.uint64]:
        # Stress joined later: where no loss uses it, data keep the identity they had.
        more = [self.arrays[name][items].reshape(len(items), -1) for name in more_labels]
        return np.hstack([super()._told(items, more_labels), *(x.view(np.uint64) for x in more)])

    def _atoms(self, name: str, item: int) -> NDArray[Any]:
        return np.asarray(self.arrays[name][self.start[item] : self.start[item + 1]])

    def _neighbours(self, cutoff: float) -> tuple[NDArray[Any], ...]:
        if cutoff in self._edges:
            return self._edges[cutoff]
        identity = f"{self._identity}-{cutoff!r}-{importlib.metadata.version('vesin')}"
        arrays = cache.load("neighbours", identity)
        if arrays is None:
            arrays = cache.save("neighbours", identity, self._find_neighbours(cutoff))
        lonely = arrays["lonely"]
        if len(lonely):
            first = int(lonely[0])
            raise DataError(
                f"{self.where}: {len(lonely):,} structures of several atoms have an atom without "
                f"a neighbour within {cutoff:g} Å (the first is number {first + 1}, "
                f"{self.start[first + 1] - self.start[first]} atoms). Such an atom feels no force; "
                "drop those frames or raise the cutoff"
            )
        names = ("first", "senders", "receivers", "shifts")
        self._edges[cutoff] = tuple(arrays[name] for name in names)
        return self._edges[cutoff]

    def _find_neighbours(self, cutoff: float) -> dict[str, NDArray[Any]]:
        from vesin import NeighborList

        finder = NeighborList(cutoff=cutoff, full_list=True)
        counts, senders, receivers, shifts = [], [], [], []
        lonely = []
        total = len(self.start) - 1
        for item in range(total):
            if item % 500 == 0:
                self._progress("finding neighbours", item, total)
            size = int(self.start[item + 1] - self.start[item])
            i, j, s = finder.compute(
                points=self._atoms("positions", item),
                box=np.asarray(self.arrays["cell"][item]),
                periodic=np.asarray(self.arrays["pbc"][item]),
                quantities="ijS",
            )
            order = np.lexsort((j, i))
            counts.append(len(i))
            receivers.append(i[order].astype(np.int64))
            senders.append(j[order].astype(np.int64))
            shifts.append(s[order].astype(np.int8))
            if size > 1 and len(np.unique(i)) < size:
                lonely.append(item)
        self._progress("finding neighbours", total, total)
        return {
            "first": np.concatenate([[0], np.cumsum(counts)]),
            "senders": np.concatenate(senders),
            "receivers": np.concatenate(receivers),
            "shifts": np.concatenate(shifts),
            "lonely": np.array(lonely, dtype=np.int64),
        }


def _read(
    spec: DatasetSpec, sources: list[tuple[Path, int]], progress: Progress
) -> dict[str, NDArray[Any]]:
    """Read all files into arrays, in file order."""
    labels = Labels(spec)
    frames: list[Frame] = []
    origin: list[int] = []  # which source file
    source: list[int] = []
    rejects: list[tuple[str, str, str]] = []
    for number, (path, split) in enumerate(sources):
        for row, frame in enumerate(read_frames(path, spec, labels), start=1):
            if isinstance(frame, ValueError):
                rejects.append((path.name, str(row), str(frame)))
                continue
            frames.append(frame)
            origin.append(number)
            source.append(split)
            if len(frames) % 200 == 0:
                progress(f"reading {path.name}", number, len(sources))
    progress("reading structures", len(sources), len(sources))
    if not frames:
        raise DataError(f"{', '.join(spec.path)}: no structure could be read")
    content = [frame.content() for frame in frames]
    labelled = [
        text + b"|" + np.float64(f.energy).tobytes() + f.forces.tobytes()
        for text, f in zip(content, frames, strict=True)
    ]
    keys, note = _group_keys(spec, frames, origin, content)
    counts = np.zeros((len(frames), 101), dtype=np.int16)
    for item, frame in enumerate(frames):
        counts[item] = np.bincount(frame.atomic_numbers, minlength=101)
    return {
        "start": np.cumsum([0] + [len(f.atomic_numbers) for f in frames]),
        "atomic_numbers": np.concatenate([f.atomic_numbers for f in frames]).astype(np.int8),
        "positions": np.concatenate([f.positions for f in frames]),
        "forces": np.concatenate([f.forces for f in frames]),
        "energy": np.array([f.energy for f in frames]),
        "stress": np.array([f.stress for f in frames]),
        "charge": np.array([f.charge for f in frames], dtype=np.float64),
        "unpaired": np.array([f.unpaired for f in frames], dtype=np.float64),
        "cell": np.array([f.cell for f in frames]),
        "pbc": np.array([f.pbc for f in frames]),
        "counts": counts,
        "content": hash_items(content),
        "labelled": hash_items(labelled),
        "group": group_numbers(keys),
        "source": np.array(source, dtype=np.int8),
        "rejects": np.array(rejects, dtype=str).reshape(-1, 3),
        "notes": np.array([labels.describe(len(frames)), note, *describe_electrons(frames)]),
    }


def _group_keys(
    spec: DatasetSpec, frames: list[Frame], origin: list[int], content: list[bytes]
) -> tuple[list[bytes], str]:
    """Keys that say which frames must share a split, and a note on how they were formed."""
    group = spec.group
    trajectory = len(frames) >= 2 * BLOCK * len(set(origin))
    if group is None and spec.format in ("extxyz", "npz") and trajectory:
        return _blocks(origin, content), (
            f"split in blocks of {BLOCK} consecutive frames, as neighbours in a trajectory are "
            'alike; group = "content" splits frame by frame'
        )
    if group in (None, "content"):
        return content, "split frame by frame"
    if group == "blocks":
        return _blocks(origin, content), f"split in blocks of {BLOCK} consecutive frames"
    if group == "formula":
        return [np.sort(f.atomic_numbers).tobytes() for f in frames], "split by molecular formula"
    missing = sum(group not in frame.info for frame in frames if len(frame.atomic_numbers) > 1)
    if missing:
        known = sorted(
            {key for frame in frames for key in frame.info} - {"energy", "forces", "stress"}
        )
        raise DataError(
            f"group = {group!r}: {missing:,} of {len(frames):,} frames have no such entry; "
            f"known: content, blocks, formula{''.join(', ' + key for key in known)}"
        )
    return [str(f.info.get(group)).encode() for f in frames], f"split by {group}"


def _blocks(origin: list[int], content: list[bytes]) -> list[bytes]:
    """Key each run of BLOCK frames of a file by its first.

    A partial last block joins the one before.
    """
    keys: list[bytes] = []
    for number in dict.fromkeys(origin):
        members = [index for index, file in enumerate(origin) if file == number]
        last = max(len(members) // BLOCK - 1, 0)
        keys += [
            content[members[min(place // BLOCK, last) * BLOCK]] for place in range(len(members))
        ]
    return keys
