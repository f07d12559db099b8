"""What every executor must be true to, inherited by giving one.

    class TestMine(ExecutorContract):
        @pytest.fixture
        def executor(self):
            return Mine(workers=2)

Runs are of the smallest SchNet on toy structures.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from chemscale.bench.executors.base import Executor
from chemscale.bench.training.loop import train_run
from chemscale.bench.training.workbench import Workbench
from chemscale.table.expand import sweep_runs
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import write_structures

STUDY = """\
name = "toy"
families = { schnet = ["w16"] }
dataset = { format = "extxyz", path = "toy.xyz", test = 0.15, validation = 0.15 }
num_train = [10, 20]
recipe = { name = "energy-and-forces", warmup = 200, batch_size = 32 }
budget = { items = 1100 }
"""


class ExecutorContract:
    """Every run ends as it would in this process, and a deadline is kept."""

    @pytest.fixture
    def executor(self) -> Executor:
        """The executor; of each suite."""
        raise NotImplementedError

    @pytest.fixture
    def study(self, tmp_path: Path) -> StudyFolder:
        """Two runs."""
        return ask(tmp_path / "study")

    def test_runs_end_as_they_would_in_this_process(
        self, executor: Executor, study: StudyFolder, tmp_path: Path
    ) -> None:
        here = ask(tmp_path / "here")
        ids = list(here.run_folders())
        told: list[dict[str, Any]] = []
        for run_id in ids:
            train_run(here, run_id)
        assert executor.submit(study.path, ids, deadline=None, watch=told.append)
        assert losses(study) == losses(here)
        for kind in ("start", "end"):
            assert sorted(e["run"] for e in told if e["event"] == kind) == sorted(ids)
        assert any(event["event"] == "progress" for event in told)

    def test_after_the_deadline_nothing_is_trained(
        self, executor: Executor, study: StudyFolder
    ) -> None:
        ids = list(study.run_folders())
        past = time.time() - 1
        assert not executor.submit(study.path, ids, deadline=past, watch=lambda event: None)
        assert study.ended() == set()
        assert not any(study.open_run(run_id).is_held() for run_id in ids)


def ask(place: Path, study: str = STUDY) -> StudyFolder:
    """Make a study; its runs are asked for."""
    place.mkdir()
    write_structures(place / "toy.xyz", 60)
    (place / "study.toml").write_text(study)
    folder = StudyFolder(place)
    folder.ask({"sweep": sweep_runs(folder.study(), Workbench(folder.study(), place), [])})
    return folder


def losses(folder: StudyFolder) -> dict[str, Any]:
    """How each run ended, and its loss at each step."""
    return {
        one.run.id: (one.outcome.status, one.outcome.metrics, one.curve.step_losses.tolist())
        for one in folder.trained()
    }
