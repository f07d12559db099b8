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
from pathlib import Path
from typing import Any

from chemscale.bench.executors.base import Executor, Watch
from chemscale.table.results import Outcome
from chemscale.table.store import StudyFolder

TRIES = 2  # how often a run may take its worker down with it


class Local(Executor):
    """N processes, each with a fixed number of threads.

    Every worker goes through the same list and takes what nobody holds, so the kernel's locks are
    all the coordination there is. A worker that dies is replaced; a run that killed two is marked.

    Args:
        workers: how many processes; default one a core.
        threads_per_run: of each; part of what "reproducible" means, so it never depends on how
            many runs are left.
    """

    def __init__(self, workers: int | None = None, threads_per_run: int = 1):
        self.workers = workers or max(1, (os.cpu_count() or 1) // threads_per_run)
        self.threads = threads_per_run

    def submit(  # noqa: D102
        self, folder: Path, run_ids: Sequence[str], *, deadline: float | None, watch: Watch
    ) -> bool:
        if not run_ids:
            return True
        order = {
            "folder": str(folder),
            "run_ids": list(run_ids),
            "deadline": deadline,
            "threads": self.threads,
        }
        events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        crew = {
            number: _Worker(number, order, events)
            for number in range(min(self.workers, len(run_ids)))
        }
        deaths: Counter[str] = Counter()
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
                    case "gone":
                        del crew[number]
                        if event["code"] == 0:
                            continue
                        if worker.run is None:
                            raise RuntimeError(
                                f"a worker left with code {event['code']} before it trained "
                                f"anything:\n{event['error']}"
                            )
                        deaths[worker.run] += 1
                        if deaths[worker.run] >= TRIES:
                            _mark(folder, worker.run, event["code"])
                        crew[number] = _Worker(number, order, events)
                        event = {"event": "lost", "run": worker.run, "code": event["code"]}
                watch({"worker": number, **event})
        finally:
            for worker in crew.values():
                worker.dismiss()
        return not early


class _Worker:
    """One process, and the thread that passes on what it says."""

    def __init__(self, number: int, order: dict[str, Any], events: queue.Queue[Any]):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(order["threads"]),
            "MKL_NUM_THREADS": str(order["threads"]),
            "OPENBLAS_NUM_THREADS": str(order["threads"]),
        }
        self.run: str | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chemscale.bench.executors.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent, which lets workers checkpoint
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        self._error = ""
        threading.Thread(target=self._listen, args=(number, events), daemon=True).start()
        self._stderr = threading.Thread(target=self._collect, daemon=True)
        self._stderr.start()

    def _listen(self, number: int, events: queue.Queue[Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((number, json.loads(line)))
        code = self.process.wait()
        self._stderr.join(timeout=5)
        events.put((number, {"event": "gone", "code": code, "error": self._error}))

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._error = (self._error + line)[-4000:]

    def dismiss(self) -> None:
        """Let the worker checkpoint and leave."""
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def _mark(folder: Path, run_id: str, code: int) -> None:
    """Write the outcome of a run that took its worker down each time it was tried."""
    place = StudyFolder(folder).open_run(run_id)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    sentence = f"its worker died {TRIES} times ({how})"
    killed = code == -9
    if killed:
        sentence += "; the kernel kills with signal 9 when memory runs out"
    status = "out_of_memory" if killed else "failed"
    with place.hold() as held:
        if held and place.outcome() is None:
            place.write_outcome(Outcome(run=run_id, status=status, sentence=sentence))
