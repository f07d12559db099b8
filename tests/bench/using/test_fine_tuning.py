"""Language models that start from the weights of others."""

from pathlib import Path

import pytest
import torch

from chemscale.bench.models.base import Family, build
from chemscale.bench.training.ended import trained_runs
from chemscale.bench.training.measure import Workbench
from chemscale.bench.using.trained import load
from chemscale.table.errors import DataError, StoreError
from chemscale.table.expand import sweep_runs, validate
from chemscale.table.records import Run
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import toy_smiles

STUDY = """\
name = "after"
families = {{ {family} = ["w16"] }}
dataset = {{ format = "smi", path = "new.smi", max_length = {longest}, test = 0.2, \
validation = 0.1{more} }}
num_train = [{num_train}]
recipe = {{ name = "molecules"{start} }}
budget = {{ items = 1500 }}
"""


def make(
    place: Path, smiles: list[str], start: Path | str, **other: object
) -> tuple[Workbench, Run]:
    """A study of some molecules that starts from another, and its run."""
    asked = {"family": "chemgpt", "longest": 40, "more": "", "num_train": 50} | other
    (place / "new.smi").write_text("\n".join(smiles) + "\n")
    begun = f', start_from = "{start}"' if start else ""
    (place / "study.toml").write_text(STUDY.format(start=begun, **asked))
    study = StudyFolder(place).study()
    bench = Workbench(study, place)
    validate(study, bench, "study.toml")
    (run,) = sweep_runs(study, bench, [])
    return bench, run


def started(bench: Workbench, run: Run) -> Family:
    family = bench.family(run.trunk.family)
    model = build(family, family.fitted_config(run.size, bench.dataset), 3, torch.float32)
    bench.start(model, run)
    return model


def of_w16(study: Path) -> Path:
    (found,) = [p.path for p in trained_runs(StudyFolder(study)) if p.run().size == "w16"]
    return found


def test_on_the_same_data_it_starts_at_the_loss_that_was_reached(toy_study: Path, tmp_path: Path):
    _, from_chance = make(tmp_path, toy_smiles(), "")
    bench, run = make(tmp_path, toy_smiles(), toy_study)
    assert run.id != from_chance.id
    (ended,) = [one for one in StudyFolder(toy_study).trained() if one.run.size == "w16"]
    model = started(bench, run)
    batch = bench.dataset.collate(model.config)(bench.dataset.evaluated("test"))
    total, count = model.measure(batch, run.trunk.recipe)["nats_per_molecule"]
    assert total / count == pytest.approx(ended.outcome.metrics["test"]["nats_per_molecule"])


def test_a_smaller_vocabulary_takes_the_rows_of_its_symbols(toy_study: Path, tmp_path: Path):
    plain = [text for text in toy_smiles() if "N" not in text]
    bench, run = make(tmp_path, plain, of_w16(toy_study))
    symbols, ended = bench.dataset.vocabulary(), load(of_w16(toy_study))
    assert len(symbols) < len(ended.symbols)
    taken, whole = started(bench, run).state_dict(), ended.model.state_dict()
    assert torch.equal(taken["symbols.weight"], whole["symbols.weight"][ended.ids(symbols)])
    others = [name for name in whole if name != "symbols.weight"]
    assert all(torch.equal(taken[name], whole[name]) for name in others)


def test_test_molecules_that_it_saw_before_are_told(toy_study: Path, tmp_path: Path):
    bench, _ = make(tmp_path, toy_smiles(), toy_study)
    assert not [note for note in bench.dataset.notes if "start_from" in note]
    bench, _ = make(tmp_path, toy_smiles(), toy_study, more=", group = 'scaffold'")
    (note,) = [note for note in bench.dataset.notes if "start_from" in note]
    assert "test molecules are among those that chemgpt-w16" in note


@pytest.mark.parametrize(
    ("extra", "other", "words"),
    [
        (["CCBr", "CCCBr", "CCCCBr"] * 9, {}, r"trained without \[Br\], which molecules"),
        ([], {"longest": 48}, "max_length is 40 there and 48 here"),
        ([], {"more": ", notation = 'smiles'"}, "spelt in selfies, this dataset in smiles"),
        ([], {"family": "chemgpt-paper"}, "is chemgpt, revision"),
    ],
)
def test_what_it_cannot_start_from_is_told_at_the_door(
    toy_study: Path, tmp_path: Path, extra: list[str], other: dict[str, object], words: str
):
    with pytest.raises((DataError, StoreError), match=words):
        make(tmp_path, toy_smiles() + extra, of_w16(toy_study), **other)
