"""How good generated molecules are: valid, new, diverse, and like the molecules of a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from chemscale.bench.data.base import SPLITS, Indices, hash_items
from chemscale.bench.data.tokens import Molecules
from chemscale.bench.using import fcd
from chemscale.bench.using.metrics import Described, beside, describe, internal_diversity

Progress = Callable[[str, int], None]  # what, how many more are done


def _silent(what: str, done: int) -> None:
    return None


@dataclass(frozen=True)
class Reference:
    """Molecules that others are held against."""

    described: Described
    moments: fcd.Moments | None  # None without fcd_torch


class Judge:
    """Holds sets of molecules against references, which are described once.

    Args:
        references: name → canonical SMILES. Measures against the one called "test" go by their own
            names, against any other with its name before: `shift_fcd`.
        progress: told how many more molecules are done, and of what.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], progress: Progress = _silent):
        self.progress = progress
        self.chemnet = fcd.ChemNet() if fcd.is_there() else None
        self.references = {
            name: self._look(smiles, f"describing the {name} set")
            for name, smiles in references.items()
        }

    def likeness(self, smiles: Sequence[str], what: str = "describing samples") -> dict[str, float]:
        """Internal diversity, and measures against each reference, of molecules RDKit accepts."""
        if len(smiles) < 2:
            return {}
        own = self._look(smiles, what)
        found = {"internal_diversity": internal_diversity(own.described)}
        for name, reference in self.references.items():
            measured = beside(own.described, reference.described)
            if own.moments is not None and reference.moments is not None:
                measured["fcd"] = fcd.distance(own.moments, reference.moments)
            start = "" if name == "test" else f"{name}_"
            found |= {f"{start}{metric}": value for metric, value in measured.items()}
        return found

    def _look(self, smiles: Sequence[str], what: str) -> Reference:
        described = describe(smiles, partial(self.progress, what))
        moments = None
        if self.chemnet is not None and len(smiles) > 1:
            moments = self.chemnet.moments(smiles, partial(self.progress, "FCD"))
        return Reference(described, moments)


def originality(
    smiles: Sequence[str], trained_on: NDArray[np.uint64], held_out: NDArray[np.uint64]
) -> dict[str, float]:
    """How many samples are usable, distinct, new.

    Args:
        smiles: canonical SMILES of all samples in order; empty where a sample is no molecule.
        trained_on: (items,) content hashes of the training subset.
        held_out: (items,) content hashes of molecules that the model never saw.

    Returns:
        validity: share of samples that ended and that RDKit accepts. Of the valid ones
        unique_at_1000: share of distinct ones among the first 1,000 (missing with fewer);
        unique: among all; novelty: share of the distinct ones that are not in the training subset;
        memorised: share that are in it; rediscovered: share that are held-out molecules.
    """
    valid = [text for text in smiles if text]
    found = {"validity": len(valid) / len(smiles)}
    if not valid:
        return found
    if len(valid) >= 1_000:
        found["unique_at_1000"] = len(set(valid[:1_000])) / 1_000
    hashes = hash_items(text.encode() for text in valid)[:, 0]
    distinct = np.unique(hashes)
    return found | {
        "unique": len(distinct) / len(valid),
        "novelty": float(1 - np.isin(distinct, trained_on).mean()),
        "memorised": float(np.isin(hashes, trained_on).mean()),
        "rediscovered": float(np.isin(hashes, held_out).mean()),
    }


def reference_items(dataset: Molecules, count: int) -> dict[str, Indices]:
    """The first molecules by hash of training, test and shift set, of known symbols only."""
    found = {}
    for split in SPLITS:
        items = dataset.indices(split)
        found[split] = items[dataset.known[items]][:count]
    return {split: items for split, items in found.items() if len(items) > 1}
