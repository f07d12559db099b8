"""The folder of one run: a lock that dies with its process, checkpoints and curves, whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_store import make_run, refuse

from chemscale.table import files
from chemscale.table.errors import StoreError
from chemscale.table.results import CURVE_COLUMNS, Outcome
from chemscale.table.run_folder import RunFolder


@pytest.fixture
def place(tmp_path: Path) -> RunFolder:
    files.write_json(tmp_path / "one/run.json", make_run())
    return RunFolder(tmp_path / "one")


HOLD = """\
import sys, time
from pathlib import Path
from chemscale.table.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).hold() as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_a_run_is_held_by_one_process_until_that_is_killed(place: RunFolder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with place.hold() as held:
            assert held is False
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with place.hold() as held:
        assert held is True


def test_a_run_that_was_held_can_be_held_again(place: RunFolder):
    for _ in range(2):
        with place.hold() as held:
            assert held


def test_an_outcome_is_there_once_written_and_gone_once_forgotten(place: RunFolder):
    assert place.outcome() is None
    outcome = Outcome(run="x", status="diverged", sentence="off", metrics={"test": {"loss": 0.1}})
    place.write_outcome(outcome)
    assert place.outcome() == outcome
    place.forget_outcome()
    assert place.outcome() is None


def test_a_curve_reads_back_bit_for_bit_with_missing_values_as_nan(place: RunFolder):
    row = dict.fromkeys(CURVE_COLUMNS) | {"step": 1, "phase": "warmup", "val_loss": 0.1 + 0.2}
    place.write_curve([row], np.array([0.5, 0.25], dtype=np.float32))
    curve = place.curve()
    assert curve["val_loss"].tolist() == [0.1 + 0.2]
    assert curve["phase"].tolist() == ["warmup"]
    assert np.isnan(curve["joules"]).all()
    assert curve.step_losses.tolist() == [0.5, 0.25]


def test_a_run_without_evaluations_has_an_empty_curve(place: RunFolder):
    curve = place.curve()
    assert len(curve["step"]) == len(curve.step_losses) == 0


def test_a_checkpoint_is_whole_or_not_there(place: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match="No space left on device. Free space"):
        place.save_checkpoint("trunk-000000001", {"a": b"1"})
    assert os.listdir(place.path / "checkpoints") == []


def test_a_line_for_people_never_fails(place: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "open", refuse)
    place.log("nobody reads this")


def test_a_lock_that_cannot_be_written_says_so(place: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreError, match="lock: cannot be written: No space"), place.hold():
        pass


def test_what_a_killed_process_left_half_written_goes_when_the_run_is_held(place: RunFolder):
    (place.path / ".curve.csv-99").write_text("step,ph")
    (place.path / ".mine").write_text("not ours")
    with place.hold():
        assert not (place.path / ".curve.csv-99").exists()
    assert (place.path / ".mine").exists()


def test_a_disk_without_links_gets_copies(place: RunFolder, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    source = place.save_checkpoint("trunk-1", {"a": b"1"})
    monkeypatch.setattr(files.os, "link", denied)
    taker = RunFolder(place.path.parent / "other")
    taker.adopt(source)
    assert (taker.checkpoints()["trunk-1"] / "a").read_bytes() == b"1"


def test_what_was_burnt_reads_back_and_a_spoilt_account_is_none(place: RunFolder):
    assert place.spent() is None
    place.note_spent(0.1 + 0.2)
    assert place.spent() == 0.1 + 0.2
    (place.path / "spent.json").write_text("")
    assert place.spent() is None


def test_a_checkpoint_is_never_changed(place: RunFolder):
    path = place.save_checkpoint("trunk-000000001", {"a": b"1"})
    place.save_checkpoint("trunk-000000001", {"a": b"2"})
    assert (path / "a").read_bytes() == b"1"


def test_what_is_not_kept_is_removed_with_what_a_killed_process_left(place: RunFolder):
    for step in (1, 2):
        place.save_checkpoint(f"trunk-{step}", {"a": b"1"})
    (place.path / "checkpoints/.part-trunk-3-99").mkdir()
    place.keep_checkpoints(["trunk-2"])
    assert os.listdir(place.path / "checkpoints") == ["trunk-2"]


def test_an_adopted_checkpoint_outlives_the_run_it_came_from(place: RunFolder):
    taker = RunFolder(place.path.parent / "other")
    taker.adopt(place.save_checkpoint("trunk-1", {"a": b"1"}))
    place.keep_checkpoints([])
    assert (taker.checkpoints()["trunk-1"] / "a").read_bytes() == b"1"
