"""One training loop: what is stopped, killed or extended ends as if nothing had happened."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chemscale.bench.models.schnet import SchNet
from chemscale.bench.training.judge import Judge
from chemscale.bench.training.loop import train_run
from chemscale.bench.training.ranks import ALONE
from chemscale.bench.training.tensors import Files
from chemscale.bench.training.workbench import Workbench
from chemscale.bench.using.trained import load_potential
from chemscale.table.expand import sweep_runs
from chemscale.table.records import Run
from chemscale.table.results import CURVE_COLUMNS, Outcome
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import write_structures

CLOCKS = ("seconds", "joules")

STUDY = """\
name = "toy"
families = {{ schnet = ["w16"] }}
dataset = {{ format = "extxyz", path = "toy.xyz", test = 0.15, validation = 0.15, \
max_evaluated = 10 }}
num_train = [20]
recipe = {{ name = "energy-and-forces", warmup = 200, learning_rate = {rate}, ema = {ema} }}
budget = {{ items = {items} }}
"""


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_structures(tmp_path_factory.mktemp("data") / "toy.xyz", 60)


@pytest.fixture
def make(tmp_path: Path, frames: Path) -> Callable[..., tuple[StudyFolder, Run]]:
    """Make a study of one run, and say which."""

    def study(
        name: str, items: int = 1500, rate: float = 3e-3, ema: float = 0.0
    ) -> tuple[StudyFolder, Run]:
        place = tmp_path / name
        place.mkdir()
        os.link(frames, place / "toy.xyz")
        (place / "study.toml").write_text(STUDY.format(items=items, rate=rate, ema=ema))
        folder = StudyFolder(place)
        (run,) = sweep_runs(folder.study(), Workbench(folder.study(), place), [])
        folder.ask({"sweep": [run]})
        return folder, run

    return study


def columns(folder: StudyFolder, run: Run, phases: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """The curve, without what a clock or a meter said."""
    curve = folder.open_run(run.id).curve()
    kept = np.isin(curve["phase"], phases) if phases else np.full(len(curve["phase"]), True)
    return {
        name: [repr(value) for value in curve[name][kept].tolist()]
        for name in CURVE_COLUMNS
        if name not in CLOCKS
    }


def ends(outcome: Outcome | None) -> dict[str, Any]:
    assert outcome is not None
    return outcome.model_dump(exclude={*CLOCKS, "flops_spent"})


def after(steps: int) -> Callable[[], bool]:
    """Stop when it has been asked this many times."""
    left = iter(range(steps))
    return lambda: next(left, None) is None


def test_a_run_ends_with_a_curve_a_verdict_and_metrics(make: Callable[..., Any]):
    folder, run = make("one")
    outcome = train_run(folder, run.id)
    assert outcome is not None
    assert outcome.status == "finished"
    assert outcome.ending is not None
    assert set(outcome.metrics) == {"validation", "test"}
    assert set(outcome.metrics["test"]) == {"loss", "force_mae", "energy_mae"}
    curve = folder.open_run(run.id).curve()
    assert curve["items_seen"].tolist()[:3] == [0, 1000, 1096]
    assert curve["phase"].tolist()[0] == "warmup"
    assert curve["phase"].tolist()[-1] == "cooldown"
    assert curve["val_loss"][-1] < 0.5 * curve["val_loss"][0]


def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(make: Callable[..., Any]):
    folder, run = make("straight", ema=0.9)  # with an average there is most to remember
    straight = train_run(folder, run.id)
    broken, same = make("broken", ema=0.9)
    assert same.id == run.id
    for steps in (5, 1, 121, 60, 11):  # before and after evaluations, and in the cooldown
        assert train_run(broken, run.id, stop=after(steps)) is None
    assert ends(train_run(broken, run.id)) == ends(straight)
    assert columns(broken, run) == columns(folder, run)
    losses = [place.open_run(run.id).curve().step_losses.tolist() for place in (folder, broken)]
    assert losses[0] == losses[1]


def test_what_is_kept_is_the_average_that_was_judged(make: Callable[..., Any]):
    folder, run = make("averaged", ema=0.9)
    outcome = train_run(folder, run.id)
    assert outcome is not None
    place = folder.open_run(run.id)
    model = load_potential(place.path).model
    judge = Judge(Workbench(folder.study(), folder.path), model, run.trunk.recipe, ALONE)
    assert judge.judge() == outcome.metrics
    # At a constant rate the weights that training goes on from are others, and are not judged.
    *_, trunk = place.checkpoints("trunk").values()
    for kind in ("weights", "iterate"):
        files = Files(trunk, kind)
        model.load_state_dict({name: files[name] for name in files.names}, strict=False)
        judged = judge.measure("validation")["loss"]
        assert (judged == place.curve()["val_loss"][-2]) == (kind == "weights")


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_extended_from_a_shorter_one_equals_the_direct_one(
    make: Callable[..., Any], ema: float
):
    direct, long = make("direct", items=1500, ema=ema)
    train_run(direct, long.id)
    folder, short = make("extended", items=1100, ema=ema)
    assert short.trunk_id == long.trunk_id
    train_run(folder, short.id)
    folder.ask({"sweep": [long]})
    resumed: list[dict[str, Any]] = []
    outcome = train_run(folder, long.id, tell=resumed.append)
    (start,) = (event for event in resumed if event["event"] == "resumed")
    assert start["step"] == 1096 // 8
    assert columns(folder, long) == columns(direct, long)
    assert outcome is not None
    directly = direct.open_run(long.id).outcome()
    assert directly is not None
    assert ends(outcome) == ends(directly)
    assert outcome.flops_spent < directly.flops_spent
    log = (folder.open_run(long.id).path / "log.txt").read_text()
    assert f"starts from the trunk of {short.folder_name}" in log


def test_the_trunk_of_a_longer_run_equals_that_of_a_shorter_one(make: Callable[..., Any]):
    one, short = make("short", items=1100)
    other, long = make("long", items=1500)
    train_run(one, short.id)
    train_run(other, long.id)
    trunk = ("warmup", "stable")
    shorter, longer = columns(one, short, trunk), columns(other, long, trunk)
    assert len(shorter["step"]) < len(longer["step"])
    for name, values in shorter.items():
        assert longer[name][: len(values)] == values, name


def test_a_run_that_diverges_says_so_in_a_sentence(make: Callable[..., Any]):
    folder, run = make("diverges", rate=1e3)
    outcome = train_run(folder, run.id)
    assert outcome is not None
    assert outcome.status == "diverged"
    assert "the loss is no longer a number" in outcome.sentence or (
        "over twice that of the untrained model" in outcome.sentence
    )
    assert "items" in outcome.sentence
    assert outcome.val_loss is None
    assert outcome.metrics == {}


def test_an_exception_in_a_family_fails_the_run_with_a_log(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise LookupError("no such table of bond orders")

    folder, run = make("fails")
    monkeypatch.setattr(SchNet, "atom_energies", broken)
    outcome = train_run(folder, run.id)
    assert outcome is not None
    assert outcome.status == "failed"
    assert "LookupError: no such table of bond orders" in outcome.sentence
    log = (folder.open_run(run.id).path / "log.txt").read_text()
    assert "Traceback" in log
    assert folder.open_run(run.id).outcome() == outcome


def test_memory_that_runs_out_is_an_ending_with_advice(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    def greedy(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    folder, run = make("greedy")
    monkeypatch.setattr(SchNet, "atom_energies", greedy)
    outcome = train_run(folder, run.id)
    assert outcome is not None
    assert outcome.status == "out_of_memory"
    assert "lower the batch size" in outcome.sentence


def test_a_run_that_has_ended_is_not_trained_again(make: Callable[..., Any]):
    folder, run = make("ended")
    there = Outcome(run=run.id, status="failed", sentence="as before")
    folder.open_run(run.id).write_outcome(there)
    events: list[dict[str, Any]] = []
    assert train_run(folder, run.id, tell=events.append) == there
    assert [event["event"] for event in events] == ["held"]
    assert not (folder.open_run(run.id).path / "checkpoints").exists()


def test_a_run_that_another_holds_is_left_alone(make: Callable[..., Any]):
    folder, run = make("held")
    with folder.open_run(run.id).hold() as held:
        assert held
        assert train_run(folder, run.id) is None
    assert folder.open_run(run.id).outcome() is None


def test_a_run_whose_data_changed_is_refused_with_what_to_do(make: Callable[..., Any]):
    folder, run = make("changed")
    (folder.path / "toy.xyz").unlink()
    write_structures(folder.path / "toy.xyz", 40)
    outcome = train_run(folder, run.id)
    assert outcome is not None
    assert outcome.status == "failed"
    assert "the data changed since this run was asked for" in outcome.sentence


def test_the_events_of_a_run_are_plain_json(make: Callable[..., Any]):
    folder, run = make("events")
    events: list[dict[str, Any]] = []
    train_run(folder, run.id, tell=events.append)
    assert json.loads(json.dumps(events)) == events
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    shares = [event["share"] for event in events if event["event"] == "progress"]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
