"""Fréchet ChemNet distance (Preuer et al., J. Chem. Inf. Model. 58, 1736, 2018).

ChemNet, its weights and how it reads SMILES come from `fcd_torch`; the distance is computed here,
as that package calls parts of NumPy and SciPy that are being removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from chemscale.table.errors import MissingPackage

BATCH = 250
PLACES, LETTERS = 350, 35  # of SMILES as ChemNet reads them


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of what ChemNet makes of a set of molecules."""

    mean: NDArray[np.float64]  # (512,)
    covariance: NDArray[np.float64]  # (512, 512)


def is_there() -> bool:
    """Whether `fcd_torch` is installed."""
    return find_spec("fcd_torch") is not None


class ChemNet:
    """The network, loaded once.

    Raises:
        MissingPackage: `fcd_torch` is not installed.
    """

    def __init__(self) -> None:
        with MissingPackage.told("metrics", "FCD"):
            from fcd_torch import FCD
        self.network: torch.nn.Module = FCD().model

    @torch.no_grad()
    def moments(
        self, smiles: Sequence[str], progress: Callable[[int], None] = lambda done: None
    ) -> Moments:
        """Mean and covariance over canonical SMILES, at least two; about 5 ms each."""
        from fcd_torch.utils import get_one_hot

        seen = []
        for start in range(0, len(smiles), BATCH):
            block = smiles[start : start + BATCH]
            letters = np.stack([get_one_hot(text, PLACES) for text in block]) / LETTERS
            there = torch.from_numpy(letters).float().transpose(1, 2)  # (M, letters, places)
            seen.append(self.network(there).double().numpy())
            progress(len(block))
        features = np.concatenate(seen)  # (M, 512)
        return Moments(features.mean(axis=0), np.cov(features, rowvar=False))


def distance(one: Moments, other: Moments) -> float:
    """Fréchet distance of two normal distributions with these moments.

    |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½), the last as the sum of the roots of the eigenvalues of
    C₁^½ C₂ C₁^½, which is symmetric.
    """
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ other.covariance @ root).clip(min=0)
    apart = float(((one.mean - other.mean) ** 2).sum())
    spread = np.trace(one.covariance) + np.trace(other.covariance)
    return max(0.0, float(apart + spread - 2 * np.sqrt(cross).sum()))
