"""Runs that start from the weights of others."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chemscale.bench.training import checkpoint, start, tensors
from chemscale.bench.training.loop import train_run
from chemscale.bench.training.workbench import Workbench
from chemscale.table.errors import DataError, StoreError, StudyError
from chemscale.table.expand import sweep_runs, validate
from chemscale.table.records import Run
from chemscale.table.results import CURVE_COLUMNS
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import write_structures

STUDY = """\
name = "toy"
families = {{ {family} = ["{size}"] }}
dataset = {{ format = "extxyz", path = "../toy.xyz", test = 0.15, validation = 0.15, \
max_evaluated = 10 }}
num_train = [20]
recipe = {{ name = "energy-and-forces", warmup = 200{start} }}
budget = {{ items = 1500 }}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a pre-trained study, `before`."""
    home = tmp_path_factory.mktemp("home")
    write_structures(home / "toy.xyz", 60)
    folder, run = make(home / "before", "")
    outcome = train_run(folder, run.id)
    assert outcome is not None and outcome.status == "finished"
    return home


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(home, tmp_path / "home")
    return tmp_path / "home"


def make(
    place: Path, start: str, family: str = "schnet", size: str = "w16"
) -> tuple[StudyFolder, Run]:
    place.mkdir()
    start = f", start_from = {start}" if start else ""
    (place / "study.toml").write_text(STUDY.format(start=start, family=family, size=size))
    folder = StudyFolder(place)
    bench = Workbench(folder.study(), place)
    validate(folder.study(), bench, "study.toml")
    (run,) = sweep_runs(folder.study(), bench, [])
    folder.ask({"sweep": [run]})
    return folder, run


def final(folder: StudyFolder) -> Path:
    (one,) = folder.run_folders().values()
    found = checkpoint.final(StudyFolder(folder.path).open_run(json_id(one)))
    assert found is not None
    return found


def json_id(run_folder: Path) -> str:
    return str(json.loads((run_folder / "run.json").read_text())["id"])


def first_loss(folder: StudyFolder, run: Run) -> float:
    return float(folder.open_run(run.id).curve()["val_loss"][0])


def columns(folder: StudyFolder, run: Run) -> dict[str, Any]:
    curve = folder.open_run(run.id).curve()
    names = [name for name in CURVE_COLUMNS if name not in ("seconds", "joules")]
    return {name: [repr(value) for value in curve[name].tolist()] for name in names}


def test_the_first_loss_on_the_same_data_is_the_last_one_of_the_pretraining(copy: Path) -> None:
    folder, run = make(copy / "after", '"../before"')
    train_run(folder, run.id)
    before = StudyFolder(copy / "before")
    (trained,) = before.trained()
    assert trained.outcome.val_loss == pytest.approx(first_loss(folder, run), rel=1e-5)


def test_the_weights_are_part_of_the_identity_and_their_path_is_not(copy: Path) -> None:
    _, plain = make(copy / "plain", "")
    _, study = make(copy / "study", '"../before"')
    place = next((copy / "before" / "runs").glob("schnet*"))
    _, run = make(copy / "run", f'"../before/runs/{place.name}"')
    _, by_size = make(copy / "by-size", '{ w16 = "../before" }')
    assert plain.id == StudyFolder(copy / "before").trained()[0].run.id
    assert plain.id != study.id == run.id == by_size.id


def test_a_run_that_was_stopped_goes_on_to_the_same_curve_though_the_source_is_gone(
    copy: Path,
) -> None:
    whole, run = make(copy / "whole", '"../before"')
    train_run(whole, run.id)
    parts, _ = make(copy / "parts", '"../before"')
    asked = iter(range(10_000))
    assert train_run(parts, run.id, stop=lambda: next(asked) > 60) is None
    shutil.rmtree(copy / "before")
    assert train_run(parts, run.id) is not None
    assert columns(parts, run) == columns(whole, run)


def test_other_weights_than_asked_for_are_refused(copy: Path) -> None:
    folder, run = make(copy / "after", '"../before"')
    file = final(StudyFolder(copy / "before")) / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.chmod(0o644)
    file.unlink()
    file.write_bytes(data)
    outcome = train_run(folder, run.id)
    assert outcome is not None and outcome.status == "failed"
    assert "other weights" in outcome.sentence


@pytest.mark.parametrize(
    ("given", "family", "size", "words"),
    [
        ('"../nowhere"', "schnet", "w16", "is no folder"),
        ('"../before"', "painn", "w16", "no run of that family and size"),
        ('{ w16 = "../before" }', "schnet", "w24", "no such size among w16"),
        ('"../before/runs/RUN"', "painn", "w16", "is schnet, revision"),
        ('"../before/runs/RUN"', "schnet", "w24", "width is 16 there and 24 here"),
    ],
)
def test_what_cannot_be_started_from_is_told_at_the_door(
    home: Path, tmp_path: Path, given: str, family: str, size: str, words: str
) -> None:
    place = next((home / "before" / "runs").glob("schnet*"))
    given = given.replace("RUN", place.name).replace("../before", str(home / "before"))
    (tmp_path / "toy.xyz").symlink_to(home / "toy.xyz")
    with pytest.raises((StudyError, DataError, StoreError), match=words):
        make(tmp_path / "after", given, family, size)


def test_scale_and_weights_are_kept_references_and_unseen_elements_are_not(home: Path) -> None:
    study = StudyFolder(home / "before")
    weights = tensors.Files(final(study), "weights")
    (trained,) = study.trained()
    from chemscale.bench.models.base import build, load_family

    family = load_family("schnet")
    model = build(family, family.Config.read(trained.run.trunk.config, ""), 7, torch.float32)
    model.references.fill_(5.0)
    fresh = model.embedding.weight.detach().clone()
    start.start(model, start.Source(final(study)), ())
    assert model.scale == weights["scale"] != 1
    assert (model.references == 5).all()
    seen = np.isfinite(weights["references"].numpy())
    assert 0 < seen.sum() < 10
    taken = model.embedding.weight.detach()
    assert torch.equal(taken[seen], weights["embedding.weight"][seen])
    assert torch.equal(taken[~seen], fresh[~seen])
