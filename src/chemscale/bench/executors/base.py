"""The executor contract: one method. It moves work, never data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chemscale.bench.training.resources import Resources

Watch = Callable[[dict[str, Any]], None]


class Executor(ABC):
    """Arranges that `train_run(folder, id)` happens somewhere that sees the folder."""

    resources: Resources  # of each run

    @abstractmethod
    def submit(
        self, folder: Path, run_ids: Sequence[str], *, deadline: float | None, watch: Watch
    ) -> bool:
        """Train runs, in the order given as far as workers are free.

        Args:
            folder: the study folder.
            run_ids: what to train; runs that are done or held elsewhere are skipped.
            deadline: seconds since the epoch at which to checkpoint and leave; None for never.
            watch: called with each event of `train_run`.

        Returns:
            True when all were tried, False when the deadline came first.
        """
