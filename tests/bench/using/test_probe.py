"""Probes tell properties from frozen embeddings, on scaffolds they have not seen."""

import sys

import numpy as np
import pytest
from rdkit import Chem

from chemscale.bench.using.probe import probe
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import MissingPackage, UsageError
from chemscale.testing.toys import toy_smiles

# Without a ring each is a scaffold of its own.
CHAINS = [f"{a}{'C' * n}{b}" for a in ("O", "N", "F", "CO") for n in range(1, 9) for b in "CONF"]
SMILES = [*toy_smiles()[:200], *CHAINS]


def atoms(smiles: str) -> float:
    return float(Chem.MolFromSmiles(smiles).GetNumAtoms())


def test_without_scikit_learn_it_says_what_to_install(trained: TrainedModel, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackage, match=r"scikit-learn: pip install 'chemscale\[metrics\]'"):
        probe(trained, SMILES, {"atoms": [1.0] * len(SMILES)})


@pytest.mark.slow
def test_embeddings_tell_a_size_and_a_class_better_than_chance(trained: TrainedModel):
    sizes = [atoms(smiles) for smiles in SMILES]
    sizes[3] = np.nan
    found = probe(trained, SMILES, {"atoms": sizes}, num_splits=2)
    scores = {(one.features, one.model): one.value for one in found.scores}
    assert found.num_molecules == len(SMILES) and len(scores) == 5
    assert scores["embedding", "ridge"] < 0.5 * scores["nothing", "mean"]
    nitrogen = [float("N" in smiles.upper()) for smiles in SMILES]
    classes = probe(trained, SMILES, {"nitrogen": nitrogen}, num_splits=2)
    assert {one.metric for one in classes.scores} == {"roc_auc"}
    assert all(one.value > 0.7 for one in classes.scores)


@pytest.mark.slow
def test_a_target_that_says_nothing_is_told_no_better_than_chance(trained: TrainedModel):
    noise = np.random.default_rng(0).integers(0, 2, len(CHAINS)).astype(float)
    found = probe(trained, CHAINS, {"noise": noise.tolist()}, num_splits=3)
    assert all(abs(one.value - 0.5) < 0.2 for one in found.scores)


def test_classes_and_numbers_are_not_averaged(trained: TrainedModel):
    targets = {"a": [0.0, 1.0] * 10, "b": [0.5, 1.0] * 10}
    with pytest.raises(UsageError, match="numbers are b"):
        probe(trained, SMILES[:20], targets)
