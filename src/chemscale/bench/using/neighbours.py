"""Edges between atoms for a model at work, kept while atoms move little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.geometry import complete_cell
from numpy.typing import NDArray

SMALL = 40  # atoms without a cell, up to which all pairs are looked at each time


@dataclass(frozen=True)
class Edges:
    """Edges of one structure, in both directions, receivers ascending. E edges."""

    senders: NDArray[np.int64]  # (E,)
    receivers: NDArray[np.int64]  # (E,)
    offsets: NDArray[np.float64] | None  # (E, 3) of the sender's image, Å; None without a cell
    squares: NDArray[np.float64]  # (E,) of distances, Å²

    def within(self, cutoff: float) -> Edges:
        """Those that are shorter than a cutoff, Å."""
        kept = np.flatnonzero(self.squares < cutoff * cutoff)
        offsets = None if self.offsets is None else self.offsets[kept]
        return Edges(self.senders[kept], self.receivers[kept], offsets, self.squares[kept])


class Neighbours:
    """Finds edges up to a cutoff, with any number of periodic images.

    Pairs are looked for up to cutoff + skin, and looked for again once an atom moved by half the
    skin or the cell changed. Of a small molecule all pairs are kept.
    """

    def __init__(self, cutoff: float, skin: float):
        self.cutoff, self.skin = cutoff, skin
        self._start: NDArray[np.float64] | None = None  # positions when pairs were found
        self._box: tuple[NDArray[np.float64], NDArray[np.bool_]] | None = None

    def find(
        self, positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> Edges:
        """Edges between atoms closer than the cutoff.

        Args:
            positions: (atoms, 3), Å.
            cell: (3, 3), Å; rows of directions that are not periodic are not looked at.
            pbc: (3,).
        """
        if not self._holds(positions, cell, pbc):
            self._search(positions, cell, pbc)
            self._start, self._box = positions.copy(), (cell.copy(), pbc.copy())
        vectors = positions[self._senders] - positions[self._receivers]
        if self._offsets is not None:
            vectors += self._offsets
        squares = np.einsum("ei,ei->e", vectors, vectors)
        found = Edges(self._senders, self._receivers, self._offsets, squares)
        return found.within(self.cutoff)

    def _holds(
        self, positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> bool:
        if self._start is None or self._box is None or len(self._start) != len(positions):
            return False
        if not np.array_equal(pbc, self._box[1]):
            return False
        if not pbc.any() and len(positions) <= SMALL:
            return True
        if pbc.any() and not np.array_equal(cell, self._box[0]):
            return False
        moved = positions - self._start
        return bool(np.einsum("ai,ai->a", moved, moved).max() < (self.skin / 2) ** 2)

    def _search(
        self, positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> None:
        self._offsets: NDArray[np.float64] | None = None
        if not pbc.any() and len(positions) <= SMALL:
            apart = ~np.eye(len(positions), dtype=bool)
            self._receivers, self._senders = np.nonzero(apart)
            return
        from vesin import NeighborList

        finder = NeighborList(cutoff=self.cutoff + self.skin, full_list=True)
        box = complete_cell(cell * pbc[:, None])
        i, j, shifts = finder.compute(points=positions, box=box, periodic=pbc, quantities="ijS")
        order = np.lexsort((j, i))
        self._receivers, self._senders = i[order].astype(np.int64), j[order].astype(np.int64)
        if pbc.any():
            self._offsets = shifts[order] @ box
