"""What a set of molecules is like, beside another set.

The definitions are those of MOSES (Polykovskiy et al., Front. Pharmacol. 11, 565644, 2020).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PROPERTIES = ("logp", "sa", "qed", "weight")
BLOCK = 2_000  # rows of a similarity matrix at once


@dataclass(frozen=True)
class Described:
    """What the metrics need to know of M molecules."""

    smiles: tuple[str, ...]
    fingerprints: Tensor  # (M, 1024) Morgan bits of radius 2, as 0.0 and 1.0
    fragments: Counter[str]  # by cuts at BRICS bonds (Degen et al. 2008)
    scaffolds: Counter[str]  # of Bemis and Murcko (1996), of two rings or more
    properties: dict[str, NDArray[np.float64]]  # (M,) of each of PROPERTIES


def describe(
    smiles: Sequence[str], progress: Callable[[int], None] = lambda done: None
) -> Described:
    """Describe molecules that RDKit accepts; 4 ms each. One that occurs twice is described once."""
    number = {text: place for place, text in enumerate(dict.fromkeys(smiles))}
    once = [_describe_one(text, progress) for text in number]
    places = [number[text] for text in smiles]
    bits = np.stack([one[0] for one in once])
    fragments: Counter[str] = Counter()
    scaffolds: Counter[str] = Counter()
    for place in places:
        fragments.update(once[place][1])
        scaffolds.update(once[place][2])
    values = np.array([one[3] for one in once])[places]  # (M, properties)
    return Described(
        tuple(smiles),
        torch.from_numpy(bits).float()[places],
        fragments,
        scaffolds,
        dict(zip(PROPERTIES, values.T, strict=True)),
    )


def _describe_one(
    smiles: str, progress: Callable[[int], None]
) -> tuple[NDArray[np.uint8], list[str], list[str], list[float]]:
    from rdkit import Chem
    from rdkit.Chem.Crippen import MolLogP  # type: ignore[attr-defined]  # not in its stubs
    from rdkit.Chem.Descriptors import MolWt  # type: ignore[attr-defined]
    from rdkit.Chem.QED import qed
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
    from rdkit.Chem.rdMolDescriptors import CalcNumRings
    from rdkit.Chem.rdmolops import FragmentOnBRICSBonds
    from rdkit.Chem.Scaffolds.MurckoScaffold import GetScaffoldForMol
    from rdkit.Contrib.SA_Score.sascorer import calculateScore

    molecule = Chem.MolFromSmiles(smiles)
    bits = GetMorganGenerator(radius=2, fpSize=1024).GetFingerprintAsNumPy(molecule)
    fragments = Chem.MolToSmiles(FragmentOnBRICSBonds(molecule)).split(".")
    scaffold = GetScaffoldForMol(molecule)
    scaffolds = [Chem.MolToSmiles(scaffold)] if CalcNumRings(scaffold) >= 2 else []
    # Synthetic accessibility: Ertl, Schuffenhauer 2009. Drug-likeness: Bickerton et al. 2012.
    values = [MolLogP(molecule), calculateScore(molecule), qed(molecule), MolWt(molecule)]
    progress(1)
    return bits, fragments, scaffolds, values


def tanimoto(one: Tensor, other: Tensor) -> Tensor:
    """Tanimoto similarity of bit vectors (A, B), (C, B) given as 0.0 and 1.0: (A, C)."""
    both = one @ other.T
    either = one.sum(1)[:, None] + other.sum(1) - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def internal_diversity(described: Described) -> float:
    """One minus the mean similarity of all pairs, each with itself among them (IntDiv₁)."""
    bits = described.fingerprints
    total = sum(float(tanimoto(block, bits).double().sum()) for block in bits.split(BLOCK))
    return 1 - total / len(bits) ** 2


def nearest_similarity(described: Described, reference: Described) -> float:
    """Mean similarity of each molecule to the nearest one of the reference (SNN)."""
    nearest = [
        tanimoto(block, reference.fingerprints).amax(dim=1)
        for block in described.fingerprints.split(BLOCK)
    ]
    return float(torch.cat(nearest).double().mean())


def cosine(one: Counter[str], other: Counter[str]) -> float | None:
    """Cosine of two vectors of counts; None where one has none."""
    if not one or not other:
        return None
    product = sum(count * other[key] for key, count in one.items())
    norms = [sqrt(sum(count**2 for count in counts.values())) for counts in (one, other)]
    return product / (norms[0] * norms[1])


def beside(described: Described, reference: Described) -> dict[str, float]:
    """How near a set comes to a reference, without FCD.

    Returns:
        `snn`; `fragments`, `scaffolds`: cosines of how often each occurs (missing where there is
        none); `logp`, `sa`, `qed`, `weight`: Wasserstein distance of the distributions, in the
        unit of each (weight in g/mol).
    """
    from scipy.stats import wasserstein_distance

    found = {
        "snn": nearest_similarity(described, reference),
        "fragments": cosine(described.fragments, reference.fragments),
        "scaffolds": cosine(described.scaffolds, reference.scaffolds),
    }
    for name in PROPERTIES:
        values = (described.properties[name], reference.properties[name])
        found[name] = float(wasserstein_distance(*values))
    return {name: value for name, value in found.items() if value is not None}
