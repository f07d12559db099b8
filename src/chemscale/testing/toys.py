"""Toy data for exams: small molecules under a sum of Morse pairs, and SMILES made from parts."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chemscale.bench.data.graph_batch import GraphBatch

REFERENCE = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2042.0}  # eV
NAMES = ("CH4", "H2O", "NH3", "CH3OH", "HCN", "H2CO", "N2H4", "HCOOH")


@dataclass(frozen=True)
class Structure:
    """Atoms in Å; periodic where there is a cell."""

    numbers: NDArray[np.int64]  # (atoms,)
    positions: NDArray[np.float64]  # (atoms, 3)
    cell: NDArray[np.float64] | None = None  # (3, 3)
    charge: int = 0
    unpaired: int = 0


def morse(structure: Structure) -> tuple[float, NDArray[np.float64]]:
    """Energy (eV) and forces (eV/Å) of reference energies and a Morse curve for each pair."""
    radius = {1: 0.35, 6: 0.75, 7: 0.70, 8: 0.65}
    energy = sum(REFERENCE[int(z)] for z in structure.numbers)
    forces = np.zeros_like(structure.positions)
    for i, j in itertools.combinations(range(len(structure.numbers)), 2):
        one, two = int(structure.numbers[i]), int(structure.numbers[j])
        depth, rest = 0.5 + 0.05 * (one + two), radius[one] + radius[two]
        line = structure.positions[i] - structure.positions[j]
        distance = float(np.linalg.norm(line))
        decay = math.exp(-1.5 * (distance - rest))
        energy += depth * ((1 - decay) ** 2 - 1)
        force = -2 * depth * 1.5 * (1 - decay) * decay * line / distance
        forces[i] += force
        forces[j] -= force
    return float(energy), forces


def toy_molecules(count: int, seed: int) -> list[Structure]:
    """Small molecules of C, H, N and O with every atom displaced by about 0.08 Å."""
    from ase.build import molecule

    generator = np.random.default_rng(seed)
    made = []
    for index in range(count):
        atoms = molecule(NAMES[index % len(NAMES)])
        positions = atoms.positions + generator.normal(0, 0.08, atoms.positions.shape)
        made.append(Structure(np.asarray(atoms.numbers, dtype=np.int64), positions))
    return made


def charged(structures: Sequence[Structure]) -> list[Structure]:
    """The same, every other one an ion with an unpaired electron, of either sign."""
    signs = itertools.cycle((0, 1, 0, -1))
    return [
        dataclasses.replace(structure, charge=sign, unpaired=abs(sign))
        for structure, sign in zip(structures, signs, strict=False)
    ]


def write_structures(
    path: Path, count: int = 48, seed: int = 0, *, with_charges: bool = False
) -> Path:
    """Write labelled toy molecules, and the four isolated atoms, as extended XYZ."""
    lone = [Structure(np.array([z]), np.zeros((1, 3))) for z in REFERENCE]
    molecules = toy_molecules(count, seed)
    lines = []
    for structure in lone + (charged(molecules) if with_charges else molecules):
        energy, forces = morse(structure)
        energy += 0.3 * structure.charge
        told = f" charge={structure.charge} multiplicity={structure.unpaired + 1}"
        lines += [
            str(len(forces)),
            f'Properties=Z:I:1:pos:R:3:REF_forces:R:3 REF_energy={energy!r} pbc="F F F"'
            + (told if structure.charge else ""),
        ]
        for z, place, force in zip(structure.numbers, structure.positions, forces, strict=True):
            lines.append(" ".join([str(z), *(f"{x:.10f}" for x in (*place, *force))]))
    path.write_text("\n".join(lines) + "\n")
    return path


def graph_of(structures: Sequence[Structure], cutoff: float) -> GraphBatch:
    """Structures as one graph, every image within reach tried in turn: slow and plain."""
    senders, receivers, offsets = [], [], []
    start = 0
    for structure in structures:
        size = len(structure.numbers)
        cell = np.zeros((3, 3)) if structure.cell is None else structure.cell
        reach = range(1)
        if structure.cell is not None:
            heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
            most = math.ceil(cutoff / heights.min()) + 2  # atoms may lie outside the cell
            reach = range(-most, most + 1)
        images = np.array(list(itertools.product(reach, repeat=3)))
        for i, j in itertools.product(range(size), repeat=2):
            lines = structure.positions[j] + images @ cell - structure.positions[i]
            near = np.linalg.norm(lines, axis=1) < cutoff
            found = images[near & ((i != j) | images.any(axis=1))] @ cell
            receivers += [start + i] * len(found)
            senders += [start + j] * len(found)
            offsets += list(found)
        start += size
    sizes = torch.tensor([len(structure.numbers) for structure in structures])
    cells = [np.zeros((3, 3)) if s.cell is None else s.cell for s in structures]
    periodic = any(structure.cell is not None for structure in structures)
    shifts = torch.from_numpy(np.array(offsets, dtype=np.float64).reshape(-1, 3))
    return GraphBatch(
        positions=torch.from_numpy(np.concatenate([s.positions for s in structures]).astype(float)),
        atomic_numbers=torch.from_numpy(np.concatenate([s.numbers for s in structures])),
        structure=torch.repeat_interleave(torch.arange(len(sizes)), sizes),
        senders=torch.tensor(senders, dtype=torch.int64),
        receivers=torch.tensor(receivers, dtype=torch.int64),
        offsets=shifts if periodic else None,
        atoms_per_structure=sizes.double(),
        energy=torch.full((len(sizes),), torch.nan, dtype=torch.float64),
        forces=torch.full((start, 3), torch.nan, dtype=torch.float64),
        charge=torch.tensor([float(structure.charge) for structure in structures]).double(),
        unpaired=torch.tensor([float(structure.unpaired) for structure in structures]).double(),
        cell=torch.from_numpy(np.stack(cells)) if periodic else None,
    )


def rotation() -> NDArray[np.float64]:
    """A turn about no particular axis."""
    matrix, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return np.asarray(matrix * np.linalg.det(matrix))


def toy_smiles() -> list[str]:
    """A few hundred small molecules; any part of the list has all symbols."""
    heads = ("C", "CC", "OC", "NC", "FC", "CCC", "CC(C)", "N#CC", "COC", "ClC")
    middles = ("c1ccc({})cc1", "C1CCC({})C1", "c1cc({})ccn1", "C1CC({})CO1")
    tails = ("C", "O", "N", "F", "C(=O)O", "C(=O)N", "OC", "C#N")
    made = [f"{a}{b.format(c)}" for a, b, c in itertools.product(heads, middles, tails)]
    return [made[37 * n % len(made)] for n in range(len(made))]
