"""Worker processes on this machine."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from chemscale.bench.data.encoding import num_cores
from chemscale.bench.executors.base import Executor, Watch
from chemscale.bench.training.resources import Resources
from chemscale.table.errors import ChemscaleError, DataError, StoreError, UsageError
from chemscale.table.results import Outcome
from chemscale.table.store import StudyFolder

TRIES = 2  # how often a run may take its worker down with it, without a new checkpoint between
COMMAND = ("-m", "chemscale.bench.executors.worker")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
REFUSALS = {kind.__name__: kind for kind in (StoreError, DataError)}


class Local(Executor):
    """N processes, each with a fixed number of threads and, where there are GPUs, a GPU a rank.

    Every worker goes through the same list and takes what nobody holds, so the kernel's locks are
    all the coordination there is. A worker that dies is replaced; a run that killed two without
    getting on between is marked. A full disk ends the command, not the run.

    Args:
        workers: how many runs at a time; default as many as the GPUs serve, or without any the
            cores. More workers than GPUs share them, which pays for small models.
        **resources: of each run, as `Resources` has them. The number of threads is part of what
            "reproducible" means, so it never depends on how many runs are left.
    """

    def __init__(self, workers: int | None = None, **resources: Any):
        self.resources = Resources(**resources)
        ranks, gpus = self.resources.ranks, visible_gpus()
        if 0 < len(gpus) < ranks:
            raise UsageError(f"--ranks {ranks}: this machine has {len(gpus)} GPUs, one for a rank")
        cores = num_cores() // self.resources.threads
        self.workers = workers or max(1, (len(gpus) or cores) // ranks)

    def submit(  # noqa: D102
        self, folder: Path, run_ids: Sequence[str], *, deadline: float | None, watch: Watch
    ) -> bool:
        if not run_ids:
            return True
        order = {
            "folder": str(folder),
            "run_ids": list(run_ids),
            "deadline": deadline,
            "resources": vars(self.resources),
            "attended": True,
        }
        events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        crew = {
            number: _Worker(number, order, events)
            for number in range(min(self.workers, len(run_ids)))
        }
        deaths: Counter[tuple[str | None, str]] = Counter()
        early = False
        try:
            while crew:
                number, event = events.get()
                worker = crew[number]
                match event["event"]:
                    case "start":
                        worker.run = event["run"]
                    case "end" | "held" | "stopped":
                        worker.run = None
                    case "left":
                        early = early or event["early"]
                    case "refused":
                        raise REFUSALS.get(event["kind"], ChemscaleError)(event["text"])
                    case "gone":
                        crew.pop(number).close()
                        if event["code"] == 0:
                            continue
                        death = (worker.run, _progress(folder, worker.run))
                        deaths[death] += 1
                        if deaths[death] >= TRIES or (worker.run is None and event["code"] > 0):
                            _mark(folder, worker.run, event)
                        crew[number] = _Worker(number, order, events)
                        if worker.run is None:
                            continue
                        event = {"event": "lost", "run": worker.run, "code": event["code"]}
                watch({"worker": number, **event})
        finally:
            for worker in crew.values():
                worker.process.terminate()  # all at once: each then takes time to checkpoint
            for worker in crew.values():
                worker.dismiss()
        return not early


class _Worker:
    """One process, and the thread that passes on what it says."""

    def __init__(self, number: int, order: dict[str, Any], events: queue.Queue[Any]):
        resources = Resources(**order["resources"])
        command: tuple[str, ...] = COMMAND
        if resources.ranks > 1:
            command = (*TORCHRUN, str(resources.ranks), *COMMAND, json.dumps(order))
        self.run: str | None = None
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=resources.environment() | gpus_of(number, resources.ranks),
            start_new_session=True,  # Ctrl-C reaches the parent, which lets workers checkpoint
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # dead already; it will be gone; ranks were told
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        self._error = ""
        self._listener = threading.Thread(target=self._listen, args=(number, events), daemon=True)
        self._listener.start()
        self._stderr = threading.Thread(target=self._collect, daemon=True)
        self._stderr.start()

    def _listen(self, number: int, events: queue.Queue[Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # the last words of a worker that was killed
                events.put((number, json.loads(line)))
        code = self.process.wait()
        self._stderr.join(timeout=5)
        events.put((number, {"event": "gone", "code": code, "error": self._error}))

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._error = (self._error + line)[-4000:]

    def dismiss(self) -> None:
        """Wait until the worker, told to leave, has checkpointed and left."""
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.close()

    def close(self) -> None:
        """Close the pipes of a worker that has left."""
        self.process.wait()
        self._listener.join(timeout=5)
        self._stderr.join(timeout=5)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES calls them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def gpus_of(worker: int, ranks: int) -> dict[str, str]:
    """What a worker's environment says of GPUs: they are dealt out in turn, one a rank."""
    gpus = visible_gpus()
    ours = [gpus[(worker * ranks + rank) % len(gpus)] for rank in range(ranks) if gpus]
    return {"CUDA_VISIBLE_DEVICES": ",".join(ours)} if ours else {}


def _progress(folder: Path, run_id: str | None) -> str:
    """The last checkpoint of a run: one that got on between two deaths is not to blame for them."""
    if run_id is None:
        return ""
    return max(StudyFolder(folder).open_run(run_id).checkpoints(), default="")


def _mark(folder: Path, run_id: str | None, event: dict[str, Any]) -> None:
    """Write the outcome of a run that took its worker down each time it was tried."""
    code = event["code"]
    if run_id is None:
        raise ChemscaleError(
            f"workers leave with code {code} before they train anything:\n{event['error']}"
        )
    place = StudyFolder(folder).open_run(run_id)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    sentence = f"its worker died {TRIES} times ({how})"
    killed = code == -9
    if killed:
        sentence += "; the kernel kills with signal 9 when memory runs out"
    status = "out_of_memory" if killed else "failed"
    with place.hold() as held:
        if held and place.outcome() is None:
            spent = place.spent() or 0.0
            place.write_outcome(
                Outcome(run=run_id, status=status, sentence=sentence, flops_spent=spent)
            )
