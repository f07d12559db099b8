"""Language models that start from the weights of others."""

from pathlib import Path

import pytest
import torch

from chemscale.bench.models.base import Family, build
from chemscale.bench.training.ended import trained_runs
from chemscale.bench.training.workbench import Workbench
from chemscale.bench.using import adopted
from chemscale.bench.using.trained import load
from chemscale.table.adopted import Adopted, Gate
from chemscale.table.errors import DataError, StoreError
from chemscale.table.expand import sweep_runs, validate
from chemscale.table.records import Run
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import toy_smiles

STUDY = """\
name = "after"
families = {{ {family} = ["{size}"] }}
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
    asked = {"family": "chemgpt", "size": "w16", "longest": 40, "more": "", "num_train": 50} | other
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


@pytest.fixture
def adopted_w16(toy_study: Path, tmp_path: Path) -> Path:
    """The smaller model of the toy study as if it came from elsewhere."""
    trained, folder = load(of_w16(toy_study)), tmp_path / "theirs"
    seen = Gate(
        molecules=0, loss=None, unigram=0, uniform=0, samples=0, ended=0, valid=0, faults=()
    )
    told = Adopted(
        family=trained.family, family_revision=type(trained.model).revision,
        config=trained.config.model_dump(mode="json"), notation=trained.notation,
        symbols=trained.symbols, source="elsewhere", repairs=(), limits=(), gate=seen,
    )  # fmt: skip
    adopted.write(folder, trained, told, "")
    return folder


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


def test_an_adopted_model_is_started_from_but_for_what_the_data_does_not_need(
    toy_study: Path, adopted_w16: Path, tmp_path: Path
):
    plain = [text for text in toy_smiles() if "N" not in text]
    bench, run = make(tmp_path, plain, adopted_w16, longest=30)
    ended = load(of_w16(toy_study))
    taken, whole = started(bench, run).state_dict(), ended.model.state_dict()
    rows = ended.ids(bench.dataset.vocabulary())
    assert taken["places.weight"].shape[0] == 30 < whole["places.weight"].shape[0]
    for name, value in taken.items():
        expected = whole[name][rows] if name == "symbols.weight" else whole[name]
        assert torch.equal(value, expected[: len(value)])
    assert any("what theirs was trained on is not known" in note for note in bench.dataset.notes)


@pytest.mark.parametrize(
    ("extra", "other", "words"),
    [
        (["CCBr", "CCCBr", "CCCCBr"] * 9, {}, r"theirs was trained without \[Br\]"),
        ([], {"longest": 48}, "max_length is 40 there and 48 here"),
        (
            [],
            {"family": "chemgpt-paper"},
            "num_heads is 1 there and 16 .* It is w16 of chemgpt",
        ),
        ([], {"family": "qwen3", "size": "w32"}, "theirs is chemgpt, another network"),
    ],
)
def test_an_adopted_model_that_does_not_fit_is_told_at_the_door(
    adopted_w16: Path, tmp_path: Path, extra: list[str], other: dict[str, object], words: str
):
    with pytest.raises(DataError, match=words):
        make(tmp_path, toy_smiles() + extra, adopted_w16, **other)
