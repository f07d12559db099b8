"""Workers that go through a list of runs together, whoever starts them.

Every worker goes through the same list and takes what nobody holds, so the kernel's locks are all
the coordination there is. A worker that dies is replaced; a run that killed two without getting on
between is marked. A full disk ends the command, not the run.
"""

from __future__ import annotations

import queue
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from chemscale.bench.executors.base import Executor, Watch
from chemscale.table.errors import ChemscaleError, DataError, StoreError
from chemscale.table.results import Outcome
from chemscale.table.store import StudyFolder

TRIES = 2  # how often a run may take its worker down with it, without a new checkpoint between
REFUSALS = {kind.__name__: kind for kind in (StoreError, DataError)}

Events = queue.Queue[tuple[int, dict[str, Any]]]


class Worker(Protocol):
    """One worker; what it says comes as events of its number, the last of them "gone"."""

    run: str | None  # what it trains

    def leave(self) -> None:
        """Tell it to checkpoint and leave."""

    def dismiss(self) -> None:
        """Wait until it has left."""

    def close(self) -> None:
        """Tidy up after it."""


class Crew(Executor):
    """Up to `workers` of them."""

    workers: int

    @abstractmethod
    def worker(self, number: int, order: dict[str, Any], events: Events) -> Worker:
        """Start one.

        Args:
            number: of the worker.
            order: what it is told: folder, run ids, deadline, resources.
            events: where it puts its number with what happens.
        """

    def submit(
        self, folder: Path, run_ids: Sequence[str], *, deadline: float | None, watch: Watch
    ) -> bool:
        if not run_ids:
            return True
        order = {
            "folder": str(folder),
            "run_ids": list(run_ids),
            "deadline": deadline,
            "resources": vars(self.resources),
        }
        events: Events = queue.Queue()
        crew = {
            number: self.worker(number, order, events)
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
                        crew[number] = self.worker(number, order, events)
                        if worker.run is None:
                            continue
                        event = {"event": "lost", "run": worker.run, "code": event["code"]}
                watch({"worker": number, **event})
        finally:
            for worker in crew.values():
                worker.leave()  # all at once: each then takes time to checkpoint
            for worker in crew.values():
                worker.dismiss()
        return not early


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
    how = event.get("how") or (f"signal {-code}" if code < 0 else f"exit code {code}")
    sentence = f"its worker died {TRIES} times ({how})"
    killed = code == -9
    if killed and "how" not in event:
        sentence += "; the kernel kills with signal 9 when memory runs out"
    status = "out_of_memory" if killed else "failed"
    with place.hold() as held:
        if held and place.outcome() is None:
            spent = place.spent() or 0.0
            place.write_outcome(
                Outcome(run=run_id, status=status, sentence=sentence, flops_spent=spent)
            )
