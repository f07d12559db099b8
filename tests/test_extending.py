"""A study that is edited: what is done is reused, what is new is trained, what changed is said."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chemscale import cli, verbs
from chemscale.table.errors import Stopped
from chemscale.table.results import Outcome
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import write_structures

STUDY = """\
name = "toy"
families = {{ schnet = ["w16"] }}
dataset = {{ format = "extxyz", path = "toy.xyz", test = 0.15, validation = 0.15, \
max_evaluated = 10 }}
num_train = {num_train}
recipe = {{ name = "energy-and-forces", warmup = 200, batch_size = 32 }}
budget = {{ items = {items} }}
{search}
"""
SEARCH = "search = { learning_rate = [1e-3, 3e-3], fraction = 1.0, finish = 2 }"

Edit = Callable[..., StudyFolder]


@pytest.fixture
def edit(tmp_path: Path) -> Edit:
    """Write the study, or write it anew with other values."""
    write_structures(tmp_path / "toy.xyz", 60)

    def study(**keys: Any) -> StudyFolder:
        keys = {"num_train": [10], "items": 1100, "search": ""} | keys
        (tmp_path / "study.toml").write_text(STUDY.format(**keys))
        return StudyFolder(tmp_path)

    return study


def endings(folder: StudyFolder) -> dict[str, bytes]:
    return {
        i: (path / "outcome.json").read_bytes()
        for i, path in folder.run_folders().items()
        if i in folder.ended()
    }


def notes(folder: StudyFolder, **options: Any) -> list[str]:
    """Train, and collect what is said."""
    events: list[dict[str, Any]] = []
    verbs.train(folder.path, watch=events.append, **options)
    return [event["text"] for event in events if event["event"] == "note"]


@pytest.mark.usefixtures("here")
def test_a_study_with_more_data_trains_the_new_run_and_reuses_the_old(edit: Edit):
    folder = edit()
    assert "1 run: 1 new, 0 finished before and reused" in notes(folder)
    before = endings(folder)
    edit(num_train=[10, 20])
    assert verbs.expand(folder.path).changed == "2 runs: 1 new, 1 finished before and reused"
    assert "2 runs: 1 new, 1 finished before and reused" in notes(folder)
    assert len(endings(folder)) == 2
    assert before.items() <= endings(folder).items()


@pytest.mark.usefixtures("here")
def test_a_plan_stands_beside_its_study_whose_runs_stay_asked_for(edit: Edit):
    folder = edit(search=SEARCH)
    verbs.train(folder.path)
    study = folder.study().model_copy(update={"search": None, "num_train": (20,)})
    plan = folder.write_plan(study)
    assert verbs.expand(plan).changed == "1 run: 1 new, 0 finished before and reused"


@pytest.mark.usefixtures("here")
def test_a_run_that_is_no_longer_asked_for_is_kept_named_and_unused(
    edit: Edit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = edit(num_train=[10, 20])
    notes(folder)
    before = endings(folder)
    edit(num_train=[10])
    (dropped,) = verbs.expand(folder.path).unused
    assert dropped.startswith("schnet-w16-20-")
    monkeypatch.setattr(sys, "argv", ["chemscale", "expand", str(folder.path)])
    cli.main()
    told = capsys.readouterr().out
    assert "1 run: 0 new, 1 finished before and reused; 1 run is no longer asked for" in told
    assert f"unused: {dropped}" in told
    assert any("1 run is no longer asked for, kept but unused" in line for line in notes(folder))
    assert endings(folder) == before
    roles = {one.run.trunk.num_train: one.roles for one in folder.trained()}
    assert roles == {10: ("sweep",), 20: ()}
    edit(num_train=[10, 20])
    assert verbs.expand(folder.path).changed == "2 runs: 0 new, 2 finished before and reused"


@pytest.mark.usefixtures("here")
def test_a_longer_ceiling_goes_on_from_the_trunk_that_is_there(edit: Edit):
    folder = edit()
    notes(folder)
    edit(items=1300)
    assert "1 run: 1 new, 0 finished before and reused; 1 run is no longer asked for" in (
        verbs.expand(folder.path).changed
    )
    notes(folder)
    (longer,) = [one for one in folder.trained() if one.roles]
    log = (folder.open_run(longer.run.id).path / "log.txt").read_text()
    assert "starts from the trunk of schnet-w16-10-" in log
    assert longer.outcome.flops_spent < 0.5 * longer.outcome.flops


@pytest.mark.usefixtures("here")
def test_a_study_without_its_search_asks_for_no_searched_run(edit: Edit):
    folder = edit(search=SEARCH)
    notes(folder)
    assert all(folder.index()[chapter] for chapter in ("search", "finish", "sweep", "check"))
    edit()
    expansion = verbs.expand(folder.path)
    assert len(expansion.unused) >= 4
    notes(folder)
    index = folder.index()
    assert [len(index[chapter]) for chapter in ("search", "finish", "sweep", "check")] == [
        0,
        0,
        1,
        0,
    ]


@pytest.mark.usefixtures("here")
def test_a_size_that_is_added_waits_for_its_settings_and_the_others_are_known(edit: Edit):
    folder = edit(search=SEARCH)
    notes(folder)
    toml = folder.path / "study.toml"
    toml.write_text(toml.read_text().replace('["w16"]', '["w16", "w24"]'))
    expansion = verbs.expand(folder.path)
    assert {run.size for run in expansion.runs["sweep"]} == {"w16"}
    assert expansion.waiting == 1 + 2


@pytest.mark.usefixtures("here")
def test_max_hours_leaves_with_exit_code_75_and_the_same_command_continues(
    edit: Edit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = edit(num_train=[10, 20])
    monkeypatch.setattr(sys, "argv", ["chemscale", "train", str(folder.path), "--max-hours", "0"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 75
    assert "stopped at --max-hours; the same command continues" in capsys.readouterr().err
    assert folder.ended() == set()
    with pytest.raises(Stopped):
        verbs.train(folder.path, max_hours=0.3 / 3600)
    notes(folder, max_hours=1.0)
    assert len(folder.ended()) == 2


@pytest.mark.usefixtures("here")
def test_an_ending_is_trained_again_only_when_asked(edit: Edit):
    folder = edit()
    (run,) = verbs.expand(folder.path).runs["sweep"]
    folder.ask({"sweep": [run]})
    place = folder.open_run(run.id)
    place.write_outcome(Outcome(run=run.id, status="diverged", sentence="off"))
    for options in ({}, {"retry": ("failed",)}):
        notes(folder, **options)
        outcome = place.outcome()
        assert outcome is not None
        assert outcome.status == "diverged"
    notes(folder, retry=("diverged",))
    outcome = place.outcome()
    assert outcome is not None
    assert outcome.status == "finished"


def test_measured_speeds_are_shown_and_kept(edit: Edit):
    folder = edit()
    for measure in (True, False):
        (size,) = verbs.expand(folder.path, measure=measure).sizes
        assert size.items_per_second["cpu"] > 0
