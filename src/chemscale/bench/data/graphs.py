"""Structures as graphs: atoms, and edges between those within a cutoff."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from chemscale.bench.data import cache
from chemscale.bench.data.base import (
    SPLITS,
    Dataset,
    Indices,
    Progress,
    Reject,
    silent,
    sources_of,
    spans,
)
from chemscale.bench.data.graph_batch import GraphBatch
from chemscale.bench.data.structure_card import Card, places, read_card
from chemscale.bench.data.structure_store import write_neighbours, write_structures
from chemscale.table.errors import DataError
from chemscale.table.record import Record
from chemscale.table.records import DatasetSpec


class Structures(Dataset):
    """Structures from files; `structure_readers` lists the formats."""

    unit = "structure"
    revision = 1

    def __init__(self, spec: DatasetSpec, folder: Path, progress: Progress = silent):
        self.spec = spec
        sources = sources_of(spec, folder)
        options = spec.model_dump(
            mode="json", exclude={"path", "max_evaluated", "max_rejected", "max_length"}
        )
        options |= {"validation": str(spec.validation), "test": str(spec.test)}
        self._identity = cache.key(
            [path for path, _ in sources],
            {"kind": "structures 8", "source": [index for _, index in sources], **options},
        )
        made = cache.made(
            "structures",
            self._identity,
            lambda part: write_structures(part, spec, sources, progress),
        )
        self.card: Card = read_card(made)
        self.arrays = arrays = cache.arrays(made)
        self.content, self.labelled = arrays["content"], arrays["labelled"]
        self.start = arrays["start"]  # (items + 1,) first atom of each structure
        self.rejects = [
            Reject(str(file), int(row), "", str(reason)) for file, row, reason in arrays["rejects"]
        ]
        self.notes = [*(str(note) for note in arrays["notes"]), *self.card.sentences()]
        self.refuse_above_threshold(len(self.content) + len(self.rejects))
        # Isolated atoms are references: they have no forces and belong to no split.
        self.isolated = (np.diff(self.start) == 1) & ~arrays["pbc"].any(axis=1)
        self._settle(arrays["group"], arrays["source"])
        self.split = np.where(self.isolated, -1, self.split).astype(np.int8)
        self._edges: dict[float, tuple[NDArray[Any], ...]] = {}
        self._progress = progress

    def vocabulary(self) -> tuple[str, ...]:
        return ()

    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(int(z) for z in np.flatnonzero(self.arrays["counts"].any(axis=0)))

    def mean_neighbours(self, subset: Indices, cutoff: float) -> float:
        """How many neighbours an atom of the subset has within the cutoff (Å), on average."""
        first = self._neighbours(cutoff)[0]
        return float(np.diff(first)[subset].sum() / np.diff(self.start)[subset].sum())

    def check(self, needs: Iterable[str]) -> None:
        has = {
            "energy": np.isfinite(self.arrays["energy"]),
            "forces": np.isfinite(self.arrays["forces"][self.start[:-1], 0]),
            "stress": np.isfinite(self.arrays["stress"]).all(axis=(1, 2)),
        }
        periodic = np.asarray(self.arrays["pbc"].any(axis=1))
        for label in needs:
            for split in ("train", "validation"):
                items = self.indices(split)
                if label == "stress":  # of what does not repeat there is none
                    items = items[periodic[items]]
                    if not len(items):
                        raise DataError(
                            f"{self.where}: no {split} structure is periodic, so none has a stress "
                            "to learn; set stress_weight = 0 in [recipe]"
                        )
                missing = np.sort(items[~has[label][items]])
                if len(missing):
                    raise DataError(
                        f"{self.where}: {len(missing):,} of {len(items):,} {split} structures have "
                        f"no {label} ({places(self.arrays, missing)}), which the recipe's loss "
                        f"needs ({self.notes[0]}). Set {label}_key in [dataset], drop those "
                        "frames, or choose a recipe that does without"
                    )

    def subset(self, num_train: int, seed: int) -> Indices:
        """The training items of one run.

        Raises:
            DataError: too few, or none has an element that is judged on and of unknown energy.
        """
        members = super().subset(num_train, seed)
        counts, single = self.arrays["counts"], self.isolated & np.isfinite(self.arrays["energy"])
        known = counts[members].any(axis=0) | counts[single].any(axis=0)
        for split in SPLITS[1:]:
            judged = self.indices(split)
            strange = np.flatnonzero(counts[judged].any(axis=0) & ~known)
            if len(strange):
                names = ", ".join(chemical_symbols[z] for z in strange)
                have = int(counts[judged][:, strange].any(axis=1).sum())
                raise DataError(
                    f"{self.where}: none of the {num_train:,} training structures of seed {seed} "
                    f"has {names}, which {have:,} of the {split} structures have. Raise num_train, "
                    f"add structures or isolated atoms of {names}, or drop those"
                )
        return members

    def references_and_scale(self, subset: Indices) -> tuple[NDArray[np.float64], float]:
        """Reference energies (101,) eV by atomic number, and the force RMS (eV/Å), of a subset.

        Isolated-atom frames give the reference of their element; least squares over the subset
        gives the rest. Without forces the scale is the spread of the energy per atom that is left.
        """
        elements = np.array(self.elements())
        counts = np.asarray(self.arrays["counts"][:, elements], dtype=np.float64)
        energy = np.asarray(self.arrays["energy"])
        found = np.full(len(elements), np.nan)
        single = self.isolated & np.isfinite(energy)
        for place in np.flatnonzero(counts[single].sum(axis=0)):
            found[place] = energy[single & (counts[:, place] > 0)].mean()
        solve = (counts[subset].sum(axis=0) > 0) & ~np.isfinite(found)
        labelled = subset[np.isfinite(energy[subset])]
        counts = counts[labelled]
        rest = energy[labelled] - counts @ np.nan_to_num(found)
        if solve.any():
            # Minimum norm: elements in a fixed ratio to each other cannot be told apart.
            found[solve] = np.linalg.lstsq(counts[:, solve], rest, rcond=1e-10)[0]
            rest = energy[labelled] - counts @ np.nan_to_num(found)
        references = np.full(101, np.nan)
        references[elements] = found
        sizes = np.diff(self.start)[subset].astype(np.int64)
        forces = self.arrays["forces"][spans(self.start[subset], sizes)]
        scale = float(np.sqrt(np.nanmean(forces**2))) if np.isfinite(forces).any() else 0.0
        if scale == 0.0:
            scale = float(np.std(rest / counts.sum(axis=1)))
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
            offsets = cell = None
            if periodic:
                cells = np.repeat(arrays["cell"][items], degrees, axis=0)
                offsets = torch.from_numpy(np.einsum("ei,eij->ej", shifts[edges], cells))
                repeats = np.asarray(arrays["pbc"][items].any(axis=1))[:, None, None]
                cell = torch.from_numpy(arrays["cell"][items] * repeats)
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
                cell=cell,
                stress=torch.from_numpy(arrays["stress"][items]) if stressed else None,
            )

        return batch

    def configs(self, items: Indices) -> list[str]:
        """The `config_type` of structures; empty where a frame has none."""
        return [str(name) for name in self.arrays["configs"][self.arrays["config"][items]]]

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

    def loads(self, items: Indices, config: Record) -> Indices:
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
        made = cache.made(
            "neighbours",
            identity,
            lambda part: write_neighbours(part, self.arrays, cutoff, self._progress),
        )
        arrays = cache.arrays(made)
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
