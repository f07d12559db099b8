"""Whatever ends a command, the same command ends the study as if nothing had happened.

`benchmarks/kill_and_resume.py` is the long form.
"""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy as safetensors

from chemscale import cli, verbs
from chemscale.bench.executors.local import Local
from chemscale.bench.training import cuda_graphs, loop
from chemscale.bench.training.workbench import Workbench
from chemscale.table import files
from chemscale.table.errors import ChemscaleError, StoreError
from chemscale.table.results import CURVE_COLUMNS
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import write_structures

STUDY = """\
name = "toy"
families = {{ schnet = ["w16"] }}
dataset = {{ format = "extxyz", path = "toy.xyz", test = 0.15, validation = 0.15, \
max_evaluated = 10 }}
num_train = {num_train}
recipe = {{ name = "energy-and-forces", warmup = 200, batch_size = {batch_size}, \
ema = {ema} }}
budget = {{ items = {items}, patience = 1.0 }}
"""

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


def make(place: Path, **keys: Any) -> StudyFolder:
    place.mkdir()
    write_structures(place / "toy.xyz", 60)
    edit(place, **keys)
    return StudyFolder(place)


def edit(place: Path, **keys: Any) -> None:
    keys = {"num_train": [20], "items": 1100, "batch_size": 32, "ema": 0.0} | keys
    (place / "study.toml").write_text(STUDY.format(**keys))


def results(folder: StudyFolder) -> dict[str, Any]:
    """All columns of all runs, without what a clock or a meter said and what interruptions cost."""
    found = {}
    for one in folder.trained():
        kept = set(CURVE_COLUMNS) - {"seconds", "joules"}
        found[one.run.id] = (
            one.outcome.model_dump(exclude={"seconds", "joules", "flops_spent"}),
            {name: [repr(value) for value in one.curve[name].tolist()] for name in sorted(kept)},
            one.curve.step_losses.tolist(),
        )
    return found


def spent_once(place: RunFolder) -> float:
    """FLOPs of the whole trunk and of the cooldown."""
    curve = place.curve()
    cooled = curve["phase"] == "cooldown"
    branch = curve["flops"][~cooled][np.argmin(curve["val_loss"][1:][~cooled[1:]]) + 1]
    return float(curve["flops"][~cooled].max() + curve["flops"][cooled].max() - branch)


def lines(place: RunFolder) -> list[str]:
    return (place.path / "log.txt").read_text().splitlines()


# --- a disk that is full, or broken ---


class Disk:
    """Counts what is asked of the disk below a folder, and refuses the n-th."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.asked, self.refused = str(folder), 0, 0
        self.left = self.code = 0
        for owner, name in (
            (files, "write_synced"),
            (files, "sync_folder"),
            (Path, "write_bytes"),
            (Path, "mkdir"),
            (Path, "rename"),
            (Path, "replace"),
            (files.os, "link"),
        ):
            monkeypatch.setattr(owner, name, self.guarded(getattr(owner, name), name))

    def guarded(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def asked(path: Path, *rest: Any, **options: Any) -> Any:
            if str(path).startswith(self.folder):
                self.asked += 1
                self.left -= 1
                if self.left == 0:
                    self.refused += 1
                    if name.startswith("write"):  # half of it is there when the disk is full
                        with path.open("wb") as stream:
                            stream.write(rest[0][: len(rest[0]) // 2])
                    raise OSError(self.code, os.strerror(self.code))
            return real(path, *rest, **options)

        return asked


def parse(path: Path) -> None:
    """Read a file of a study folder, whatever it is; raises where it is torn."""
    match path.suffix:
        case ".json":
            json.loads(path.read_text())
        case ".toml":
            tomllib.loads(path.read_text())
        case ".npy":
            np.load(path)
        case ".safetensors":
            safetensors.load_file(path)
        case ".csv":
            rows = path.read_text()
            assert rows.endswith("\n")
            assert len({line.count(",") for line in rows.splitlines()}) == 1


def assert_whole(folder: StudyFolder) -> None:
    for path in folder.path.rglob("*"):
        assert not path.name.startswith(".part-"), path
        assert path.is_dir() or not path.name.startswith("."), path
        parse(path)
    for place in folder.run_folders().values():
        for checkpoint in RunFolder(place).checkpoints().values():
            assert len(os.listdir(checkpoint)) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_disk_that_is_full_at_random_writes_costs_only_the_work_since_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = make(tmp_path / "whole", num_train=[10, 20])
    disk = Disk(whole.path, monkeypatch)
    verbs.train(whole.path)
    total = disk.asked
    assert total > 80

    folder = make(tmp_path / "full", num_train=[10, 20])
    disk.folder, dice, told = str(folder.path), random.Random(3), []
    bench = Workbench(whole.study(), whole.path)
    # The first few writes of all, then anywhere: the writes of a study that goes on are fewer.
    for left in (1, 3, 6, *(dice.randint(1, total // 8) for _ in range(16)), 10**9):
        disk.left, disk.code = left, dice.choice((errno.ENOSPC, errno.EDQUOT, errno.EIO))
        refused = disk.refused
        ended = {i: (p / "outcome.json").read_bytes() for i, p in ends(folder)}
        try:
            if len(folder.run_folders()) < 2 or left == 10**9:
                verbs.train(folder.path)
            else:  # the same without looking at the study first, which takes most of the time
                for run_id in folder.run_folders():
                    loop.train_run(folder, run_id, bench=bench)
        except StoreError as error:
            told.append(str(error))
            assert "cannot be written" in told[-1]
            assert "then give the command again" in told[-1]
        else:
            # What frees the disk or only keeps account may fail without harm.
            assert disk.refused - refused in (0, 1)
        disk.left = 0
        assert_whole(folder)
        assert {i: (p / "outcome.json").read_bytes() for i, p in ends(folder) if i in ended} == (
            ended
        )
    assert len(told) >= 8
    assert results(folder) == results(whole)
    assert {one.outcome.status for one in folder.trained()} == {"finished"}


def ends(folder: StudyFolder) -> list[tuple[str, Path]]:
    return [(i, p) for i, p in folder.run_folders().items() if i in folder.ended()]


@pytest.mark.usefixtures("here")
def test_a_full_disk_is_exit_code_1_and_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = make(tmp_path / "study")
    (run,) = verbs.expand(folder.path).runs["sweep"]
    disk = Disk(folder.path / "runs" / run.folder_name / "checkpoints", monkeypatch)
    disk.left, disk.code = 3, errno.ENOSPC
    monkeypatch.setattr(sys, "argv", ["chemscale", "train", str(folder.path)])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"chemscale: {folder.path}/runs/")
    assert "No space left on device. Free space" in told
    assert folder.ended() == set()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_command_told_to_leave_says_that_it_can_be_continued(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
):
    folder = make(tmp_path / "study")
    before = [(kind, signal.getsignal(kind)) for kind in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(sys, "argv", ["chemscale", "train", str(folder.path)])
    monkeypatch.setattr(cuda_graphs, "train_step", lambda *_, **__: os.kill(os.getpid(), number))
    try:
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    finally:
        for kind, handler in before:
            signal.signal(kind, handler)
    assert leaving.value.code == code
    assert "the same command continues" in capsys.readouterr().err
    assert folder.ended() == set()


@linux
@pytest.mark.slow
def test_a_worker_that_may_not_write_ends_the_command_and_not_the_run(tmp_path: Path):
    folder = make(tmp_path / "study")
    verbs.expand(folder.path)  # prepares the data, which takes larger files

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    done = subprocess.run(
        words(folder), capture_output=True, text=True, preexec_fn=small_files, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written: File too large. Raise the limit" in done.stderr.splitlines()[-1]
    assert folder.ended() == set()
    assert_whole(folder)


# --- processes that die ---


def words(folder: StudyFolder) -> list[str]:
    return [sys.executable, "-m", "chemscale.cli", "train", str(folder.path), "--workers", "1"]


def command(folder: StudyFolder) -> "subprocess.Popen[str]":
    """Run `chemscale train` with one worker."""
    return subprocess.Popen(
        words(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs are started deaf to Ctrl-C, and so are the tests in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def left_with(process: "subprocess.Popen[str]") -> int:
    """Wait for its end; the exit code."""
    try:
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "Traceback" not in error, error
    return process.returncode


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def worker_of(process: "subprocess.Popen[str]") -> int | None:
    """The id of the worker that a command has started, from the kernel's list of children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for child in children.read_text().split():
        with suppress(OSError):  # some other child, gone already
            if b"executors.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


def is_free(place: RunFolder) -> bool:
    with place.hold() as held:
        return held


@linux
@pytest.mark.slow
def test_a_study_killed_and_stopped_ends_as_if_nothing_had_happened(tmp_path: Path):
    whole = make(tmp_path / "whole", items=3000, batch_size=8, ema=0.9)
    folder = make(tmp_path / "killed", items=3000, batch_size=8, ema=0.9)
    bench = Workbench(whole.study(), whole.path)
    (run,) = verbs.expand(folder.path).runs["sweep"]
    for study in (whole, folder):
        study.ask({"sweep": [run]})
    loop.train_run(whole, run.id, bench=bench)
    place = folder.open_run(run.id)

    def begun(after: int) -> Callable[[], bool]:
        """Whether there is a checkpoint beyond a number, so that there is work to lose."""
        return lambda: len(place.curve()["step"]) > after

    # A worker dies and is replaced; then the parent, and the worker leaves by itself.
    process = command(folder)
    worker = until(lambda: worker_of(process))
    until(begun(1))
    os.kill(worker, signal.SIGKILL)
    until(lambda: any("goes on" in line for line in lines(place)))
    process.kill()
    process.communicate()
    until(lambda: is_free(place), 5)
    assert lines(place)[-1].startswith("stopped at step")

    # Ctrl-C reaches the parent, which lets its worker save and leave.
    times = len(lines(place))
    process = command(folder)
    until(lambda: len(lines(place)) > times)
    process.send_signal(signal.SIGINT)
    assert left_with(process) == 130
    assert lines(place)[-1].startswith("stopped at step")
    assert place.outcome() is None
    assert left_with(command(folder)) == 0
    assert results(folder) == results(whole)
    assert [line.split(":")[0] for line in lines(place)].count("finished") == 1
    outcome = place.outcome()
    assert outcome is not None
    # What the kill cost is counted, to within a second's work.
    assert outcome.flops_spent >= spent_once(place) * (1 - 1e-9)
    assert outcome.flops_spent < 1.5 * spent_once(place)


@pytest.mark.slow
def test_two_commands_on_one_folder_train_each_run_once(tmp_path: Path):
    folder = make(tmp_path / "shared", num_train=[10, 20])
    verbs.expand(folder.path)
    processes = [command(folder), command(folder)]
    for process in processes:
        assert left_with(process) == 0
    trained = folder.trained()
    assert len(trained) == 2
    for one in trained:
        place = folder.open_run(one.run.id)
        assert [line.split(":")[0] for line in lines(place)] == ["starts", "finished"]
        # Trained twice, the steps would have been counted twice.
        assert one.outcome.flops_spent == pytest.approx(spent_once(place))


DIES = """\
import json, os, signal, sys
order = json.loads(sys.stdin.readline())
print(json.dumps({"event": "start", "run": order["run_ids"][0], "name": "x"}), flush=True)
print('{"event": "pro', flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_kills_its_workers_without_getting_on_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make(tmp_path / "study")
    (run,) = verbs.expand(folder.path).runs["sweep"]
    folder.ask({"sweep": [run]})
    folder.open_run(run.id).note_spent(5.0)
    monkeypatch.setattr("chemscale.bench.executors.local.COMMAND", ("-c", DIES))
    monkeypatch.setattr("chemscale.bench.executors.crew._mark", marked := Marked())
    with pytest.raises(Marked):
        Local(1).submit(folder.path, [run.id], deadline=None, watch=lambda event: None)
    assert marked.run == run.id


class Marked(Exception):
    """Stands in for the writing of the mark, and ends the command there."""

    run: str | None = None

    def __call__(self, folder: Path, run: str | None, event: dict[str, Any]) -> None:
        self.run = run
        raise self


def test_workers_that_cannot_begin_are_a_failure_with_their_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make(tmp_path / "study")
    monkeypatch.setattr(
        "chemscale.bench.executors.local.COMMAND", ("-c", "raise SystemExit('no such library')")
    )
    with pytest.raises(
        ChemscaleError, match=r"code 1 before they train anything:\nno such library"
    ):
        Local(1).submit(folder.path, ["x"], deadline=None, watch=lambda event: None)


@pytest.mark.slow
def test_a_worker_of_a_batch_job_has_nothing_to_read_and_works(tmp_path: Path):
    order = json.dumps({"folder": str(tmp_path), "run_ids": []})
    worker = [sys.executable, "-m", "chemscale.bench.executors.worker", order]
    done = subprocess.run(worker, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["event"]) == (1, "refused")


# --- what was burnt ---


def test_what_a_sibling_burnt_is_not_counted_again_though_killed_right_after_adopting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make(tmp_path / "study")
    (short,) = verbs.expand(folder.path).runs["sweep"]
    folder.ask({"sweep": [short]})
    burnt = loop.train_run(folder, short.id)
    assert burnt is not None
    edit(folder.path, items=1200)
    (long,) = verbs.expand(folder.path).runs["sweep"]
    folder.ask({"sweep": [long]})
    with monkeypatch.context() as killed:
        killed.setattr(loop.checkpoint, "load_weights", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.train_run(folder, long.id)
    assert folder.open_run(long.id).checkpoints()
    outcome = loop.train_run(folder, long.id)
    assert outcome is not None
    trunk = outcome.flops / 1.2
    assert outcome.flops_spent < 0.5 * trunk


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_is_lost_in_a_kill_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "ACCOUNT_SECONDS", 0.0)
    folder = make(tmp_path / "study")
    (run,) = verbs.expand(folder.path).runs["sweep"]
    folder.ask({"sweep": [run]})
    asked = iter(range(20))

    def killed() -> bool:
        if next(asked, None) is None:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        loop.train_run(folder, run.id, stop=killed)
    place = folder.open_run(run.id)
    assert place.checkpoints() == {}
    lost = place.spent()
    assert lost is not None
    outcome = loop.train_run(folder, run.id)
    assert outcome is not None
    assert outcome.flops_spent == pytest.approx(spent_once(place) + lost)


def test_a_run_killed_after_it_diverged_still_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make(tmp_path / "study")
    toml = folder.path / "study.toml"
    toml.write_text(toml.read_text().replace("warmup = 200", "warmup = 200, learning_rate = 1e3"))
    (run,) = verbs.expand(folder.path).runs["sweep"]
    folder.ask({"sweep": [run]})
    with monkeypatch.context() as killed:
        killed.setattr(RunFolder, "write_outcome", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.train_run(folder, run.id)
    before = folder.open_run(run.id).curve()["step"].tolist()
    outcome = loop.train_run(folder, run.id)
    assert outcome is not None
    assert outcome.status == "diverged"
    assert folder.open_run(run.id).curve()["step"].tolist() == before
