"""Jobs of SLURM, by a toy of its commands: what is asked of it, and runs trained through it."""

import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from chemscale.bench.executors import slurm
from chemscale.bench.executors.slurm import Slurm
from chemscale.table.errors import ChemscaleError, UsageError
from chemscale.testing.executors import ask

STUDY = """\
name = "toy"
families = { chemgpt = ["w16"] }
dataset = "example-molecules"
num_train = [20, 40]
recipe = { name = "molecules", warmup = 200 }
budget = { items = 10_000 }
"""
# A job is a process; its folder holds the id, and how it ended.
TOY = r"""#!{python}
import os, re, signal, subprocess, sys, time
from pathlib import Path
jobs, name, told = Path("{jobs}"), Path(sys.argv[0]).name, sys.argv[1:]
if name == "sbatch":
    asked = dict(a.removeprefix("--").partition("=")[::2] for a in told if "=" in a)
    if "partition=nowhere" in " ".join(told):
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    (jobs / "asked").open("a").write(" ".join(told) + "\n")
    if os.fork():
        time.sleep(0.2)
        print(max(int(p.stem) for p in jobs.glob("*.pid")))
        sys.exit()
    os.setsid()
    for number in (0, 1):
        os.close(number)
    out = open(asked["output"], "wb"), open(asked["error"], "wb")
    child = subprocess.Popen(["sh", "-c", asked["wrap"]], stdin=subprocess.DEVNULL, stdout=out[0],
                             stderr=out[1])
    (jobs / f"{{child.pid}}.pid").touch()
    (jobs / f"{{child.pid}}.end").write_text(str(child.wait()))
elif name == "squeue":
    for p in jobs.glob("*.pid"):
        if not p.with_suffix(".end").exists():
            print(p.stem, "RUNNING")
elif name == "scancel":
    if "--state=PENDING" not in told:
        os.kill(int(told[-1]), signal.SIGTERM)
elif name == "scontrol":
    code = int((jobs / f"{{told[-1]}}.end").read_text())
    state = "COMPLETED" if code == 0 else "FAILED"
    print(f"JobId={{told[-1]}} JobState={{state}} ExitCode={{max(code, 0)}}:{{max(-code, 0)}}")
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the toy keeps its jobs."""
    place, commands = tmp_path / "jobs", tmp_path / "bin"
    place.mkdir()
    commands.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        file = commands / name
        file.write_text(TOY.format(python=sys.executable, jobs=place))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(slurm, "READ_SECONDS", 0.05)
    return place


def test_without_slurm_or_a_number_of_jobs_it_is_refused(
    jobs: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UsageError, match="--workers says how many jobs"):
        Slurm()
    (jobs.parent / "study").mkdir()
    with pytest.raises(ChemscaleError, match="sbatch refuses the job.*invalid partition"):
        Slurm(1, sbatch="--partition=nowhere").submit(
            jobs.parent / "study", ["x"], deadline=None, watch=lambda event: None
        )
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="no sbatch on the PATH"):
        Slurm(2)


@pytest.mark.slow
def test_jobs_train_all_runs_and_one_that_is_killed_is_replaced(jobs: Path, tmp_path: Path):
    place = tmp_path / "study"
    folder = ask(place, STUDY)
    ids = list(folder.run_folders())
    events: list[dict[str, object]] = []

    def kill_the_first() -> None:
        while len(list(place.glob("runs/*/checkpoints"))) < len(ids):  # each job is at one
            time.sleep(0.05)
        os.kill(min(int(p.stem) for p in jobs.glob("*.pid")), signal.SIGKILL)

    threading.Thread(target=kill_the_first, daemon=True).start()
    executor = Slurm(2, sbatch="--partition gpu --gres=gpu:1")
    assert executor.submit(place, ids, deadline=None, watch=events.append)
    assert all(folder.open_run(run_id).outcome().status == "finished" for run_id in ids)
    asked = (jobs / "asked").read_text().splitlines()
    assert len(asked) == 3
    assert all("--signal=B:TERM@120" in one and "--gres=gpu:1" in one for one in asked)
    assert any(event["event"] == "lost" for event in events)
    assert not list((place / "slurm").glob("*.json"))
