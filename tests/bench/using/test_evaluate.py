"""Measures of generated molecules are those of MOSES, and are kept with the study."""

import shutil
from collections import Counter
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

import chemscale
from chemscale import evaluation
from chemscale.bench.data.base import hash_items
from chemscale.bench.using import fcd, metrics
from chemscale.bench.using.evaluate import Judge, originality
from chemscale.table.errors import DataError, UsageError
from chemscale.table.store import StudyFolder

ONE = ["CCOc1ccccc1", "CC(=O)Nc1ccc(O)cc1", "c1ccc2[nH]ccc2c1", "CCO", "OCC1CCCO1"]
OTHER = ["CC(=O)Oc1ccccc1C(=O)O", "CCN(CC)CC", "c1ccc2[nH]ccc2c1", "CCCO"]
WITH_FCD = pytest.mark.skipif(not fcd.is_there(), reason="fcd_torch is not installed")


def similarities(one: list[str], other: list[str]) -> np.ndarray:
    from rdkit import DataStructs
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    make = GetMorganGenerator(radius=2, fpSize=1024).GetFingerprint
    rows, columns = ([make(Chem.MolFromSmiles(s)) for s in side] for side in (one, other))
    return np.array([DataStructs.BulkTanimotoSimilarity(row, columns) for row in rows])


def test_similarities_are_those_of_rdkit():
    one, other = metrics.describe(ONE), metrics.describe(OTHER)
    assert metrics.internal_diversity(one) == pytest.approx(1 - similarities(ONE, ONE).mean())
    expected = similarities(ONE, OTHER).max(axis=1).mean()
    assert metrics.nearest_similarity(one, other) == pytest.approx(expected)


def test_a_set_beside_itself_is_as_near_as_can_be():
    one = metrics.describe(ONE)
    expected = {"snn": 1, "fragments": 1, "scaffolds": 1} | dict.fromkeys(metrics.PROPERTIES, 0)
    assert metrics.beside(one, one) == pytest.approx(expected)


def test_fragments_and_scaffolds_are_counted():
    found = metrics.describe(["CC(=O)Nc1ccc(O)cc1", "c1ccc2[nH]ccc2c1", "c1ccc2[nH]ccc2c1"])
    assert found.scaffolds == Counter({"c1ccc2[nH]ccc2c1": 2})  # one ring is no scaffold here
    assert sum(found.fragments.values()) == 5  # paracetamol falls into three
    assert metrics.cosine(Counter(a=1), Counter(a=1, b=1)) == pytest.approx(1 / sqrt(2))
    assert metrics.cosine(Counter(), Counter(a=1)) is None


def test_property_distances_are_in_the_unit_of_the_property():
    shifted = metrics.beside(metrics.describe(["CCC"]), metrics.describe(["CCCC"]))
    assert shifted["weight"] == pytest.approx(14.027, abs=1e-3)


def test_the_frechet_distance_is_the_closed_one_of_independent_normals():
    generator = np.random.default_rng(0)
    means, widths = generator.normal(size=(2, 6)), generator.uniform(0.5, 2, (2, 6))
    turn, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    one, other = (
        fcd.Moments(turn @ mean, turn @ np.diag(width**2) @ turn.T)
        for mean, width in zip(means, widths, strict=True)
    )
    expected = ((means[0] - means[1]) ** 2).sum() + ((widths[0] - widths[1]) ** 2).sum()
    assert fcd.distance(one, other) == pytest.approx(expected)
    assert fcd.distance(one, one) == pytest.approx(0, abs=1e-9)


@WITH_FCD
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_the_chemnet_distance_is_that_of_fcd_torch():
    import fcd_torch

    network = fcd.ChemNet()
    found = fcd.distance(network.moments(ONE), network.moments(OTHER))
    assert found == pytest.approx(fcd_torch.FCD()(ONE, OTHER), rel=1e-4)


def test_originality_is_counted_by_hand():
    def hashes(*smiles: str) -> np.ndarray:
        return hash_items(text.encode() for text in smiles)[:, 0]

    samples = ["C", "C", "CC", "", "CCC", "CCCC", "CCCC", "CCCC"]  # seven usable, four distinct
    found = originality(samples, hashes("CCCC", "N"), hashes("CC"))
    assert found == pytest.approx(
        {"validity": 7 / 8, "unique": 4 / 7, "novelty": 3 / 4, "memorised": 3 / 7,
         "rediscovered": 1 / 7}
    )  # fmt: skip
    assert originality([""], hashes("C"), hashes("N")) == {"validity": 0}
    many = originality(["C"] * 999 + ["CC"] * 2, hashes("C"), hashes("N"))
    assert many["unique_at_1000"] == 2 / 1000


def test_measures_against_the_shift_set_bear_its_name(monkeypatch):
    monkeypatch.setattr(fcd, "is_there", lambda: False)
    found = Judge({"test": ONE, "shift": OTHER}).likeness(ONE)
    assert found["snn"] == pytest.approx(1) and found["shift_snn"] < 1
    assert "fcd" not in found and Judge({"test": ONE}).likeness(ONE[:1]) == {}


# --- a study -------------------------------------------------------------------------------------


@pytest.fixture
def study(toy_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fcd, "is_there", lambda: False)
    return Path(shutil.copytree(toy_study, tmp_path / "study"))


def test_a_study_keeps_its_evaluation_after_its_weights_are_gone(study):
    told = []
    found = chemscale.evaluate(study, num_samples=20, watch=told.append)
    assert len(found.runs) == 2 and all("snn" in one.metrics for one in found.runs)
    assert all(one.metrics["validity"] <= one.metrics["ended"] <= 1 for one in found.runs)
    assert found.floor["snn"] > 0 and found.num_reference == {"test": 20}
    assert evaluation.NO_FCD in [event.get("text") for event in told]
    assert StudyFolder(study).evaluation() == found
    folder = StudyFolder(study)
    for path in folder.run_folders().values():
        shutil.rmtree(path / "checkpoints")
    page = chemscale.report(study).read_text()
    assert "what a lower loss buys" in page and "similarity to the nearest of test" in page


def test_what_was_evaluated_is_not_evaluated_again(study, monkeypatch):
    best = min(StudyFolder(study).run_folders().values())
    first = chemscale.evaluate(best, num_samples=10)
    assert [one.run for one in first.runs] == [
        StudyFolder(study).open_run(first.runs[0].run).run().id
    ]
    both = chemscale.evaluate(study, num_samples=10)
    assert both.runs[0] == first.runs[0] and len(both.runs) == 2
    monkeypatch.setattr(evaluation, "_evaluate_run", None)
    assert chemscale.evaluate(study, num_samples=10) == both
    with pytest.raises(UsageError, match="made with num_samples 10, seed 0, temperature 1;"):
        chemscale.evaluate(study, num_samples=10, seed=1)
    assert StudyFolder(study).evaluation() == both


def test_anybodys_molecules_are_compared(monkeypatch):
    monkeypatch.setattr(fcd, "is_there", lambda: False)
    found = evaluation.compare([*ONE, "c1cc"], ["C(C)Oc1ccccc1", *ONE[1:]])  # one written otherwise
    assert found["validity"] == pytest.approx(5 / 6) and found["snn"] == pytest.approx(1)
    with pytest.raises(DataError, match=r"these are none: \['c1cc'\]"):
        evaluation.compare(ONE, ["CC", "CCC", "c1cc"])
