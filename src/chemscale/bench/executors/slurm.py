"""Workers as jobs of SLURM, submitted by `sbatch`.

A job is a worker, which goes through the list with all others and may outlive the command that
submitted it; the study folder has to be seen by every node, with locks that hold between them.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chemscale.bench.executors.base import Watch
from chemscale.bench.executors.crew import Crew, Events, Worker
from chemscale.bench.executors.local import command
from chemscale.bench.training.resources import Resources
from chemscale.table.errors import ChemscaleError, UsageError
from chemscale.table.files import write_json

LEAVE_SECONDS = 120  # before its time is over, a job is told to checkpoint and leave
LOOK_SECONDS = 5.0  # between looks at the queue
READ_SECONDS = 0.5  # between looks at what jobs have said
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "STAGE_OUT", "SIGNALING")
# The job ended through no fault of its run.
INNOCENT = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REQUEUED")


class Slurm(Crew):
    """Up to N jobs at a time, one after another until all runs have ended.

    Args:
        workers: how many jobs at a time.
        sbatch: options for `sbatch`, as on its command line: partition, GPUs, time.
        **resources: of each run, as `Resources` has them.

    Raises:
        UsageError: there is no SLURM, or the number of jobs is missing.
    """

    def __init__(self, workers: int | None = None, sbatch: str = "", **resources: Any):
        missing = [name for name in ("sbatch", "squeue", "scancel") if not shutil.which(name)]
        if missing:
            raise UsageError(f"--on slurm: no {missing[0]} on the PATH; run it where jobs are sent")
        if workers is None:
            raise UsageError("--on slurm: --workers says how many jobs may run at a time")
        self.workers, self.options = workers, shlex.split(sbatch)
        self.resources = Resources(**resources)
        self._queue = _Queue()

    def submit(
        self, folder: Path, run_ids: Sequence[str], *, deadline: float | None, watch: Watch
    ) -> bool:
        if run_ids:
            count = min(self.workers, len(run_ids))
            watch({"event": "note", "text": f"{count} jobs sent to SLURM; squeue --me shows them"})
        return super().submit(folder.resolve(), run_ids, deadline=deadline, watch=watch)

    def worker(self, number: int, order: dict[str, Any], events: Events) -> Worker:
        return _Job(number, order, events, self.options, self._queue)


class _Queue:
    """What `squeue` says, asked by one for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0.0
        self._states: dict[str, str] = {}

    def state(self, job: str) -> str | None:
        """Of a job; None where it is in the queue no longer."""
        with self._lock:
            if time.monotonic() - self._asked > LOOK_SECONDS:
                done = _run("squeue", "--me", "--noheader", "--format=%i %T")
                if done.returncode == 0:  # else nobody knows: as it was
                    self._states = dict(line.split() for line in done.stdout.splitlines())
                self._asked = time.monotonic()
            return self._states.get(job)

    def add(self, job: str) -> None:
        with self._lock:
            self._states[job] = "PENDING"


class _Job:
    """A worker as a job, and the thread that passes on what it says."""

    def __init__(
        self, number: int, order: dict[str, Any], events: Events, options: list[str], queue: _Queue
    ):
        resources, folder = Resources(**order["resources"]), Path(order["folder"])
        self.run: str | None = None
        self._number, self._events, self._queue = number, events, queue
        self._deadline = order["deadline"]
        self._told = 0  # bytes of what it said that were passed on
        self._well = False  # it ended as it should
        path = folder / "slurm" / uuid.uuid4().hex[:12]
        self._order, self._out, self._err = (path.with_suffix(s) for s in (".json", ".out", ".err"))
        write_json(self._order, order)
        done = subprocess.run(
            [
                "sbatch",
                "--parsable",
                f"--job-name=chemscale-{folder.name}",
                "--ntasks=1",
                f"--cpus-per-task={resources.threads * resources.ranks}",
                "--no-requeue",
                f"--signal=B:TERM@{LEAVE_SECONDS}",
                f"--output={self._out}",
                f"--error={self._err}",
                *options,
                f"--wrap=exec {shlex.join(command(resources, str(self._order)))}",
            ],
            capture_output=True,
            text=True,
            env=resources.environment(),
        )
        if done.returncode:
            raise ChemscaleError(f"sbatch refuses the job: {done.stderr.strip()}")
        self.job = done.stdout.strip().split(";")[0]
        queue.add(self.job)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        state, code = "PENDING", 0
        while state in ALIVE:
            self._pass_on()
            if state == "PENDING" and self._is_late():
                _run("scancel", self.job)
            time.sleep(READ_SECONDS)
            # What is not in the queue may be too new for the answer to know it.
            state = self._queue.state(self.job) or ""
            if not state:
                state, code = _ending(self.job)
        self._pass_on()
        if state == "CANCELLED":
            self._events.put((self._number, {"event": "left", "early": True}))
        if state == "CANCELLED" or state in INNOCENT:
            code = 0
        self._well = code == 0
        self._events.put((self._number, {"event": "gone", "code": code, "error": self._error()}))

    def _pass_on(self) -> None:
        """What it said since, up to the last whole line."""
        if not self._out.exists():
            return
        with self._out.open("rb") as file:
            file.seek(self._told)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._told += len(whole) + len(newline)
        for line in whole.splitlines():
            event = json.loads(line)
            # A job whose time is over leaves early as well; the next one goes on.
            if event["event"] == "left":
                event = {**event, "early": event["early"] and self._is_late()}
            self._events.put((self._number, event))

    def _is_late(self) -> bool:
        return self._deadline is not None and time.time() > self._deadline

    def _error(self) -> str:
        return self._err.read_text()[-4000:] if self._err.exists() else ""

    def leave(self) -> None:
        """Tell it to checkpoint and leave; what still waits in the queue is taken out."""
        _run("scancel", "--state=PENDING", self.job)
        _run("scancel", "--batch", "--signal=TERM", self.job)

    def dismiss(self) -> None:
        """Wait until it has checkpointed and left."""
        self._listener.join(timeout=LEAVE_SECONDS)
        if self._listener.is_alive():
            _run("scancel", self.job)
        self.close()

    def close(self) -> None:
        """Remove its files; what it complained of before it died stays."""
        self._listener.join(timeout=2 * LOOK_SECONDS)
        self._order.unlink(missing_ok=True)
        self._out.unlink(missing_ok=True)
        if self._well or not self._error():
            self._err.unlink(missing_ok=True)


def _ending(job: str) -> tuple[str, int]:
    """How a job ended: its state, and exit code or minus the signal."""
    told = _run("scontrol", "show", "job", "--oneliner", job).stdout
    state = re.search(r"JobState=(\w+)", told)
    code = re.search(r"ExitCode=(\d+):(\d+)", told)
    if state is None or code is None:  # forgotten already
        return "COMPLETED", 0
    exit_code, signal = int(code[1]), int(code[2])
    if state[1] == "OUT_OF_MEMORY":
        signal = 9
    return state[1], -signal if signal else exit_code


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)
