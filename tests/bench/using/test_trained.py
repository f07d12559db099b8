"""A trained model is the one that was judged, or there is a sentence that says why not."""

import shutil
from pathlib import Path

import pytest

from chemscale.bench.data.base import open_dataset
from chemscale.bench.training.ended import trained_runs
from chemscale.bench.using.trained import TrainedModel, find, load
from chemscale.table.errors import DataError, StoreError
from chemscale.table.files import read_json, write_json
from chemscale.table.store import StudyFolder


@pytest.fixture
def copied(toy_study: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_study, tmp_path / "study"))


def a_run(study: Path) -> Path:
    return find(study)[1].path


def test_it_has_the_loss_that_its_run_ended_with(toy_study):
    dataset = open_dataset(StudyFolder(toy_study).study().dataset, toy_study)
    assert len(trained_runs(StudyFolder(toy_study))) == 2
    for place in trained_runs(StudyFolder(toy_study)):
        one = load(place.path)
        batch = dataset.collate(one.config)(dataset.evaluated("test"))
        total, weight = one.model.measure(batch, place.run().trunk.recipe)["nats_per_molecule"]
        judged = place.outcome().metrics["test"]["nats_per_molecule"]
        assert total / weight == pytest.approx(judged, rel=1e-6)
        assert not one.model.training and one.symbols == dataset.vocabulary()


def test_a_study_gives_its_best_run(toy_study):
    losses = {
        place.path: place.outcome().metrics["test"]["nats_per_molecule"]
        for place in trained_runs(StudyFolder(toy_study))
    }
    assert a_run(toy_study) == min(losses, key=losses.get)


def test_a_run_without_weights_says_so(copied):
    run = a_run(copied)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(StoreError, match="no weights here: published studies come without"):
        load(run)
    assert a_run(copied) != run  # the study still has another
    shutil.rmtree(a_run(copied) / "checkpoints")
    with pytest.raises(StoreError, match="no run with the final weights"):
        load(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "outcome.json").unlink(), "not trained to its end yet"),
        (lambda run: edit(run / "run.json", "length", cooldown=False), "a run of the search"),
        (lambda run: edit(run / "outcome.json", status="diverged"), "ended as diverged"),
        (lambda run: edit(run / "run.json", unit="structure"), "are for language models"),
    ],
    ids=["unfinished", "searched", "diverged", "potential"],
)
def test_a_run_that_has_no_final_model_says_why(copied, change, said):
    run = a_run(copied)
    change(run)
    with pytest.raises((StoreError, DataError), match=said):
        load(run)


def edit(path: Path, *place: str, **values: object) -> None:
    data = read_json(path)
    inner = data
    for key in place:
        inner = inner[key]
    inner.update(values)
    write_json(path, data)


def test_data_that_changed_is_told(copied):
    (copied / "toy.smi").write_text("CCBr\n" * 3 + (copied / "toy.smi").read_text()[:-200])
    with pytest.raises(DataError, match="the data changed since this run was trained"):
        load(a_run(copied))


def test_unknown_symbols_are_named(trained: TrainedModel):
    assert trained.unknown(["[C]", "[Xe]", "[Xe]", "<bos>"]) == ["<bos>", "[Xe]"]
    ids = trained.ids(["[C]", "[Xe]"])
    assert trained.symbols[ids[0]] == "[C]" and trained.symbols[ids[1]] == "<unk>"
