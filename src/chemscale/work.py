"""The runs of a chapter, handed to an executor until all have ended."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chemscale.expansion import Expansion
from chemscale.progress import Watch
from chemscale.table import expand as expanding
from chemscale.table.errors import Stopped, StoreError
from chemscale.table.records import Run
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder

HELD_SECONDS = 2.0  # between looks at runs that another command holds


@dataclass(frozen=True)
class Work:
    """Hands chapters to the executor, and says when they are done."""

    folder: StudyFolder
    executor: Any
    deadline: float | None
    expansion: Expansion
    watch: Watch

    def do(self, chapters: dict[str, list[Run]]) -> None:
        """Train what has not ended.

        Raises:
            Stopped: the deadline came, or a worker was told to leave.
            StoreError: runs that were handed out three times and did not end.
        """
        self.folder.ask(chapters)
        runs = expanding.unique(run for chapter in chapters.values() for run in chapter)
        ladder = {size.key: size for size in self.expansion.sizes}
        cost = expanding.costs(runs, ladder)
        folders = {run_id: RunFolder(path) for run_id, path in self.folder.run_folders().items()}

        def not_ended(ids: Iterable[str]) -> list[str]:
            return [run_id for run_id in ids if not folders[run_id].has_ended()]

        left = [run for run in runs if not folders[run.id].has_ended()]
        left.sort(key=lambda run: -cost[run.id])  # the longest first, so that none is left over
        self.watch(
            {
                "event": "chapter",
                "names": list(chapters),
                "total": len(runs),
                "done": len(runs) - len(left),
                "cost": {run.id: cost[run.id] for run in left},
            }
        )
        waiting, in_vain = [run.id for run in left], 0
        while waiting:
            before = len(waiting)
            to_the_end = self.executor.submit(
                self.folder.path, waiting, deadline=self.deadline, watch=self.watch
            )
            waiting = not_ended(waiting)
            if waiting and not to_the_end:
                late = self.deadline is not None and time.time() > self.deadline
                why = "at --max-hours" if late else "because a worker was told to leave"
                raise Stopped(f"stopped {why}; the same command continues")
            in_vain = in_vain + 1 if len(waiting) == before else 0
            # What another command holds is waited for: the next chapter needs how it ended.
            while waiting and all(folders[i].is_held() for i in waiting):
                if self.deadline is not None and time.time() > self.deadline:
                    raise Stopped("other runs are held by another command; run again to continue")
                in_vain = 0
                time.sleep(HELD_SECONDS)
            if in_vain >= 3:
                raise StoreError(
                    f"{self.folder.path}: {len(waiting)} runs were handed out {in_vain} times and "
                    f"none ended; log.txt in their folders may say why"
                )
            waiting = not_ended(waiting)
        self.watch({"event": "chapter-end", "names": list(chapters)})
        self.note_speeds()

    def note_speeds(self) -> None:
        """Keep the measured speed of each size in `ladder.json`."""
        seen: dict[tuple[str, str, str], list[float]] = {}
        for one in self.folder.trained():
            out = one.outcome
            if out.status == "finished" and out.seconds > 0:
                key = (*one.run.key, out.machine.get("device", "cpu"))
                seen.setdefault(key, []).append(out.items_seen / out.seconds)
        sizes = []
        for size in self.folder.sizes():
            speeds = {
                device: sorted(values)[len(values) // 2]
                for (*key, device), values in seen.items()
                if tuple(key) == size.key
            }
            sizes.append(size.model_copy(update={"items_per_second": speeds}))
        self.folder.write_sizes(sizes)
