"""The study folder: whole files, nothing rewritten."""

import json
import os
from pathlib import Path

import pytest

from chemscale.table import files
from chemscale.table.errors import StoreError, StudyError
from chemscale.table.records import FORMAT, Forecast, Length, Recipe, Run, Trunk
from chemscale.table.results import Choice, Outcome, Size
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder

STUDY = """\
name = "water"
families = { schnet = ["w16"] }
dataset = { format = "extxyz", path = "water.xyz" }
num_train = [30]
recipe = "energy-and-forces"
budget = { items = 4000 }
"""


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    (tmp_path / "study.toml").write_text(STUDY)
    return StudyFolder(tmp_path)


def make_run(items: int = 4000, seed: int = 0) -> Run:
    trunk = Trunk(
        family="schnet",
        family_revision=1,
        config={"width": 16},
        dataset="0" * 20,
        dataset_revision=1,
        num_train=30,
        recipe=Recipe(),
        seed=seed,
    )
    length = Length(items=items, flops=None, patience=0.5)
    return Run.of("w16", "structure", trunk, length)


def end(folder: StudyFolder, run: Run) -> None:
    outcome = Outcome(run=run.id, status="finished", sentence="done", ending="plateaued")
    folder.open_run(run.id).write_outcome(outcome)


def refuse(*_: object) -> None:
    raise OSError(28, "No space left on device")


# --- where ---


def test_a_study_opens_by_its_folder_by_its_file_and_by_a_plan(folder: StudyFolder):
    written = folder.write_plan(folder.study())
    assert StudyFolder(folder.path / "study.toml").path == folder.path
    opened = StudyFolder(written)
    assert (opened.path, opened.plan) == (folder.path, "001")
    assert opened.study_file == written


def test_a_folder_without_a_study_is_refused(tmp_path: Path):
    with pytest.raises(StoreError, match="no study.toml here"):
        StudyFolder(tmp_path)


def test_a_study_file_of_another_name_is_refused(tmp_path: Path):
    with pytest.raises(StoreError, match="a study file is named study.toml"):
        StudyFolder(tmp_path / "mine.toml")


# --- whole files ---


def test_a_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "choice.json"
    files.write(path, b"old")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StoreError, match=r"choice.json: cannot be written: No space left"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["choice.json"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "choice.json"
    files.write(path, b"old")
    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(StoreError):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(StoreError, match=r"fit.json: cannot be written: Permission denied"):
        files.write(tmp_path / "fit.json", b"x")


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        files.write(tmp_path / "runs/index.json", b"x")


# --- formats ---


def test_a_file_of_a_newer_format_is_refused_naming_the_upgrade(folder: StudyFolder):
    (folder.path / "ladder.json").write_text(json.dumps({"format": FORMAT + 1, "sizes": []}))
    with pytest.raises(StoreError, match=r"newer chemscale.*pip install -U chemscale"):
        folder.sizes()


def test_a_newer_study_is_refused_before_its_unknown_keys(folder: StudyFolder):
    (folder.path / "study.toml").write_text(f"format = {FORMAT + 1}\nnovelty = true\n{STUDY}")
    with pytest.raises(StoreError, match="Upgrade: pip install -U chemscale"):
        folder.study()


def test_a_format_that_is_not_a_number_is_a_mistake_in_the_study(folder: StudyFolder):
    (folder.path / "study.toml").write_text(f'format = "one"\n{STUDY}')
    with pytest.raises(StudyError, match="format: expected a whole number"):
        folder.study()


def test_a_stored_file_that_is_not_json_is_named(folder: StudyFolder):
    (folder.path / "choice.json").write_text("{")
    with pytest.raises(StoreError, match=r"choice.json: not a file that chemscale wrote"):
        folder.choices()


# --- plans ---


def test_plans_are_numbered_in_order_and_read_back(folder: StudyFolder):
    forecast = Forecast(
        family="schnet",
        size="w16",
        num_params=10,
        num_train=60,
        metric="force_mae",
        value=1 / 3,
        intervals={"90": (0.1, 0.9)},
        law='a "quoted" law · x^-0.3',
        fitted_runs=("a", "b"),
        made="2026-01-01",
        why="--at",
    )
    plan = folder.study().model_copy(update={"forecast": (forecast,)})
    paths = [folder.write_plan(plan) for _ in range(2)]
    assert [path.name for path in paths] == ["001.toml", "002.toml"]
    assert folder.plans() == {"plans/001": plan, "plans/002": plan}


def test_a_number_is_not_given_again_after_a_plan_was_removed(folder: StudyFolder):
    paths = [folder.write_plan(folder.study()) for _ in range(3)]
    paths[1].unlink()
    assert folder.write_plan(folder.study()).name == "004.toml"


# --- runs ---


def test_runs_that_are_asked_for_are_written_down_once(folder: StudyFolder):
    run = make_run()
    folder.ask({"search": [run]})
    before = (folder.run_folders()[run.id] / "run.json").stat().st_mtime_ns
    folder.ask({"sweep": [run]})
    assert (folder.run_folders()[run.id] / "run.json").stat().st_mtime_ns == before
    assert folder.index() == {"search": [run.id], "sweep": [run.id]}
    assert folder.open_run(run.id).run() == run


def test_a_run_is_found_though_its_folder_was_renamed(folder: StudyFolder):
    run = make_run()
    folder.ask({"sweep": [run]})
    folder.run_folders()[run.id].rename(folder.path / "runs/my-favourite")
    assert folder.open_run(run.id).path.name == "my-favourite"
    folder.ask({"sweep": [run]})
    assert len(folder.run_folders()) == 1


def test_a_run_that_nobody_asked_for_is_not_there(folder: StudyFolder):
    with pytest.raises(StoreError, match="no run abc"):
        folder.open_run("abc")


def test_trained_runs_are_those_with_an_outcome_and_say_who_asked(folder: StudyFolder):
    done, left, unasked = make_run(), make_run(seed=1), make_run(seed=2)
    folder.ask({"sweep": [done, left, unasked], "check": [done]})
    end(folder, done)
    end(folder, unasked)
    folder.ask({"sweep": [done, left]})
    roles = {one.run.id: one.roles for one in folder.trained()}
    assert roles == {done.id: ("sweep", "check"), unasked.id: ()}


def test_curves_are_read_when_they_are_looked_at(folder: StudyFolder, monkeypatch):
    run = make_run()
    folder.ask({"sweep": [run]})
    end(folder, run)
    read = []
    monkeypatch.setattr(RunFolder, "curve", lambda place: read.append(place.path) or "a curve")
    (one,) = folder.trained()
    assert not read
    assert one.curve == one.curve == "a curve" and len(read) == 1


def test_siblings_are_the_other_runs_on_the_same_trunk(folder: StudyFolder):
    short, long, other = make_run(2000), make_run(4000), make_run(4000, seed=1)
    folder.ask({"sweep": [short, long, other]})
    assert [place.run().id for place in folder.siblings(long)] == [short.id]


def test_speeds_and_what_a_plan_leaves_out_are_kept_when_sizes_are_written_again(
    folder: StudyFolder,
):
    size = Size(
        family="schnet",
        size="w16",
        revision=1,
        config={},
        num_params=1,
        num_params_total=1,
        bytes_training=16,
        flops_per_item=1.0,
        flops_formula={},
    )
    folder.write_sizes([size.model_copy(update={"items_per_second": {"cpu": 10.0}})])
    folder.write_sizes([size.model_copy(update={"items_per_second": {"h200": 99.0}})])
    assert folder.sizes()[0].items_per_second == {"cpu": 10.0, "h200": 99.0}
    other = size.model_copy(update={"family": "painn"})
    plan = StudyFolder(folder.path / "plans" / "001.toml")
    plan.write_sizes([other])
    assert [one.family for one in folder.sizes()] == ["painn", "schnet"]
    folder.write_sizes([other])
    assert [one.family for one in folder.sizes()] == ["painn"]


def test_choices_read_back_as_they_were_written(folder: StudyFolder):
    choice = Choice(
        family="schnet",
        size="w16",
        num_params=1,
        learning_rate=0.1 + 0.2,
        batch_size=8,
        source="searched",
        made="now",
    )
    folder.write_choices([choice])
    assert folder.choices() == [choice]


def test_runs_let_go_of_are_not_asked_for_and_nothing_new_is(folder: StudyFolder):
    kept, dropped, new = make_run(), make_run(seed=1), make_run(seed=2)
    folder.ask({"sweep": [kept, dropped], "check": [dropped]})
    folder.release({"sweep": [kept, new], "search": [new]})
    assert folder.index() == {"sweep": [kept.id], "check": [dropped.id]}
