"""Do labels of structures agree with each other and with chemistry?

Å, eV, eV/Å as read. Each looks at a sample of bounded size and says nothing where it cannot know.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import units
from numpy.typing import NDArray

from chemscale.bench.data.base import Indices
from chemscale.table.results import Array

Arrays = dict[str, NDArray[Any]]

LOOKED_AT = 20_000  # structures
STRETCH = 500  # consecutive ones of them
TOGETHER = 400  # of one composition, among which pairs are looked for
MOST_GROUPS = 40
MOST_DISTANCES = 4_000_000  # held for one composition
CLOSE = 0.3  # Å a atom, by which close structures differ at most


@dataclass(frozen=True)
class Pairs:
    """How energies of close structures differ, beside the work of their forces on the way."""

    difference: Array  # eV
    work: Array  # eV, −½(F₁ + F₂)·(x₂ − x₁)
    apart: Array  # Å, root mean square over atoms

    @property
    def fit(self) -> tuple[float, float, NDArray[np.bool_]]:
        """Slope of the difference against the work, their correlation, and who is not fitted.

        Pairs far off the line of the others are not, as those of two levels of theory are.
        """
        large = np.abs(self.work) >= np.median(np.abs(self.work))
        slope = float(np.median(self.difference[large] / self.work[large]))
        off = np.abs(self.difference - slope * self.work)
        # At most every second pair is of two levels, so the lower quartile is of one.
        limit = max(20 * float(np.percentile(off, 25)), 0.1 * float(np.ptp(self.difference)))
        kept = off <= limit
        x, y = self.work[kept], self.difference[kept]
        product, squares = float(x @ y), float((x @ x) * (y @ y))
        correlation = product / np.sqrt(squares) if squares > 0 else 0.0
        return product / max(float(x @ x), 1e-300), float(correlation), ~kept


@dataclass(frozen=True)
class Bonds:
    """Bonds of C, N and O to hydrogen."""

    length: float  # Å, median
    stiffness: float  # eV/Å², how the force along a bond falls with its length
    correlation: float  # of force and length
    count: int


def sample(arrays: Arrays) -> Indices:
    """Structures to look at: all, or stretches of consecutive ones spread over all."""
    total = len(arrays["energy"])
    if total <= LOOKED_AT:
        return np.arange(total)
    begins = np.linspace(0, total - STRETCH, LOOKED_AT // STRETCH).astype(np.int64)
    return np.unique(begins[:, None] + np.arange(STRETCH))


def close_pairs(arrays: Arrays, items: Indices) -> Pairs:
    """Pairs of close structures with energies and forces: of each its nearest of the same atoms."""
    start, energy = arrays["start"], arrays["energy"]
    groups: dict[bytes, list[int]] = defaultdict(list)
    for item in items:
        begin, end = start[item], start[item + 1]
        if (
            end - begin > 1
            and np.isfinite(energy[item])
            and np.isfinite(arrays["forces"][begin, 0])
        ):
            cell = arrays["cell"][item] if arrays["pbc"][item].any() else np.zeros(1)
            key = arrays["atomic_numbers"][begin:end].tobytes() + cell.tobytes()
            groups[key].append(int(item))
    found = []
    for members in sorted(groups.values(), key=len, reverse=True)[:MOST_GROUPS]:
        if len(members) > 1:
            found.append(_of_group(arrays, members))
    if not found:
        return Pairs(*np.zeros((3, 0)))
    difference, work, apart = np.concatenate(found, axis=1)
    near = (apart < CLOSE) & (apart > 1e-6)
    return Pairs(difference[near], work[near], apart[near])


def _of_group(arrays: Arrays, members: list[int]) -> Array:
    """Difference, work and distance of each structure and its nearest, of those with one cell."""
    start = arrays["start"]
    size = int(start[members[0] + 1] - start[members[0]])
    most = int(np.clip(MOST_DISTANCES // size**2, 2, TOGETHER))
    # Half of them as they follow each other, in a few stretches; they are often close.
    places = np.unique(np.linspace(0, len(members) - 1, most).astype(np.int64))
    if len(members) > most:
        begins = np.linspace(0, len(members) - most // 4, 4).astype(np.int64)
        places = np.unique(begins[:, None] + np.arange(most // 4))
    chosen = np.array(members)[places]
    rows = start[chosen][:, None] + np.arange(size)
    positions, forces = arrays["positions"][rows], arrays["forces"][rows]  # (M, A, 3)
    periodic = bool(arrays["pbc"][chosen[0]].any())
    cell, pbc = arrays["cell"][chosen[0]], arrays["pbc"][chosen[0]]
    if periodic:
        described = positions.reshape(len(chosen), -1)
    else:
        first, second = np.triu_indices(size, 1)
        described = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    squares = (described**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * described @ described.T
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1)
    one, other = np.unique(np.sort(np.stack([np.arange(len(chosen)), nearest]), axis=0), axis=1)
    if periodic:
        moved = positions[other] - positions[one]
        inverse = np.linalg.pinv(cell * pbc[:, None])
        moved -= np.rint(moved @ inverse) @ (cell * pbc[:, None])
        moved -= moved.mean(axis=1, keepdims=True)
        pulled = forces[other]
    else:
        here = positions[one] - positions[one].mean(axis=1, keepdims=True)
        there = positions[other] - positions[other].mean(axis=1, keepdims=True)
        u, _, v = np.linalg.svd(there.transpose(0, 2, 1) @ here)
        v[:, -1] *= np.sign(np.linalg.det(u @ v))[:, None]
        turn = u @ v  # a rotation, to the right of rows
        moved, pulled = there @ turn - here, forces[other] @ turn
    work = -0.5 * ((forces[one] + pulled) * moved).sum(axis=(1, 2))
    energy = arrays["energy"]
    difference = energy[chosen[other]] - energy[chosen[one]]
    return np.stack([difference, work, np.sqrt((moved**2).sum(axis=(1, 2)) / size)])


def stretching(arrays: Arrays, items: Indices) -> Bonds:
    """How bonds to hydrogen pull: much the same in any molecule, which tells units."""
    lengths: dict[int, list[Array]] = defaultdict(list)
    pulls: dict[int, list[Array]] = defaultdict(list)
    start = arrays["start"]
    for item in items[:: max(1, len(items) // 2000)]:
        begin, end = int(start[item]), int(start[item + 1])
        numbers = arrays["atomic_numbers"][begin:end]
        forces = arrays["forces"][begin:end]
        light, heavy = np.flatnonzero(numbers == 1), np.flatnonzero(numbers > 1)
        if not (len(light) and len(heavy)) or not np.isfinite(forces[0, 0]) or end - begin > 500:
            continue
        positions = arrays["positions"][begin:end]
        lines = positions[light][:, None] - positions[heavy]  # (H, X, 3)
        if arrays["pbc"][item].any():
            box = arrays["cell"][item] * arrays["pbc"][item][:, None]
            lines -= np.rint(lines @ np.linalg.pinv(box)) @ box
        far = np.linalg.norm(lines, axis=-1)
        nearest = far.argmin(axis=1)
        length = far.min(axis=1)
        line = lines[np.arange(len(light)), nearest] / length[:, None]
        pull = (forces[light] * line).sum(axis=1)
        for z in (6, 7, 8):
            of = numbers[heavy[nearest]] == z
            lengths[z].append(length[of])
            pulls[z].append(pull[of])
    xy = yy = xx = 0.0
    there: list[Array] = []
    for z in lengths:
        length, pull = np.concatenate(lengths[z]), np.concatenate(pulls[z])
        bonded = np.zeros(len(length), dtype=bool)
        if len(length):  # of an even number the median may lie between two far ones, near none
            bonded = np.abs(length - np.median(length)) < 0.15 * np.median(length)
        if not bonded.any():
            continue
        x, y = length[bonded] - length[bonded].mean(), pull[bonded] - pull[bonded].mean()
        xx, xy, yy = xx + float(x @ x), xy + float(x @ y), yy + float(y @ y)
        there.append(length[bonded])
    if xx == 0 or yy == 0:
        return Bonds(np.nan, np.nan, 0.0, 0)
    found = np.concatenate(there)
    return Bonds(float(np.median(found)), -xy / xx, float(-xy / np.sqrt(xx * yy)), len(found))


def all_electrons(numbers: Indices, counts: Array) -> Array:
    """About what neutral atoms have with all their electrons, eV: within 1 % beyond hydrogen.

    The statistical atom with the corrections of Scott and Schwinger (Schwinger 1981).

    Args:
        numbers: (elements,) atomic numbers.
        counts: (structures, elements) atoms of each.
    """
    z = numbers.astype(np.float64)
    atom = -0.768745 * z ** (7 / 3) + 0.5 * z**2 - 0.2699 * z ** (5 / 3)
    return np.asarray(counts @ (atom * units.Hartree))


def gap(values: Array) -> tuple[float, float, float]:
    """Where values fall apart into two: the middle of the widest gap, its width, and the spread.

    Each side holds at least one in a hundred; the spread is that of the wider
    side, 5 to 95 %.
    """
    ordered = np.sort(values)
    least = max(len(ordered) // 100, 5)
    if len(ordered) < 4 * least:
        return np.nan, 0.0, np.inf
    steps = np.diff(ordered)[least - 1 : len(ordered) - least]
    place = int(steps.argmax()) + least
    sides = ordered[:place], ordered[place:]
    spread = max(float(np.subtract(*np.percentile(side, [95, 5]))) for side in sides)
    return float(ordered[place - 1 : place + 1].mean()), float(steps.max()), spread
