"""Executors that really start workers; a toy of SLURM's commands has a file of its own."""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chemscale.bench.executors import ray as on_ray
from chemscale.bench.executors.crew import Crew, Events
from chemscale.bench.executors.local import Local
from chemscale.bench.executors.ray import Ray
from chemscale.bench.training.resources import ORDINARY
from chemscale.table.errors import MissingPackage
from chemscale.table.store import StudyFolder
from chemscale.testing import ExecutorContract
from chemscale.testing.executors import ask


@pytest.mark.slow
class TestLocal(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Local:
        return Local(2)


@pytest.mark.slow
class TestRay(ExecutorContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def cluster(cls) -> Iterator[None]:
        """A cluster of this machine alone."""
        ray = pytest.importorskip("ray")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()

    @pytest.fixture
    def executor(self) -> Ray:
        return Ray(2)

    def test_an_actor_that_is_killed_is_replaced(self, study: StudyFolder):
        told = []

        def kill_it() -> None:
            while not any(event["event"] == "start" for event in told):
                time.sleep(0.01)
            os.kill(actor(), signal.SIGKILL)

        threading.Thread(target=kill_it, daemon=True).start()
        ids = list(study.run_folders())
        while study.ended() != set(ids):  # a worker without its actor still saves what it holds
            assert Ray(1).submit(study.path, ids, deadline=None, watch=told.append)
        assert {one.outcome.status for one in study.trained()} == {"finished"}
        assert any(event["event"] == "lost" for event in told)


def actor() -> int:
    """The process of the only actor, of the cluster that this process has started."""
    parents, found = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
            parents[int(place.name)] = int(
                (place / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
        if words.startswith(b"ray::Keeper"):
            found.append(int(place.name))
    (ours,) = [one for one in found if parents.get(parents[one]) == os.getpid()]
    return ours


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage, match=r"--on ray needs ray: pip install 'chemscale\[ray\]'"):
        Ray(2)


def test_a_node_is_refused_that_has_another_folder_or_locks_of_its_own(tmp_path: Path):
    assert "No such file or directory. --on ray needs a shared" in str(on_ray.refused(tmp_path))
    with (tmp_path / on_ray.LOCK).open("a") as lock:
        assert "is another folder there, or its file system's locks" in str(
            on_ray.refused(tmp_path)
        )
        fcntl.flock(lock, fcntl.LOCK_SH)  # as the command does
        assert on_ray.refused(tmp_path) is None


class Lossy(Crew):
    """Loses the first two workers as Ray does, each with its run; the third has nothing to do."""

    workers, resources, started = 1, ORDINARY, 0

    def worker(self, number: int, order: dict[str, Any], events: Events) -> Any:
        self.started += 1
        if self.started < 3:
            events.put((number, {"event": "start", "run": order["run_ids"][0], "name": "x"}))
            events.put((number, {"event": "gone", "code": -1, "how": "Ray: its node died"}))
        else:
            events.put((number, {"event": "gone", "code": 0}))
        return SimpleNamespace(run=None, close=lambda: None)


def test_a_run_whose_workers_are_lost_again_and_again_is_marked_with_what_was_said(tmp_path: Path):
    study = ask(tmp_path / "study")
    run_id, _ = study.run_folders()
    assert Lossy().submit(study.path, [run_id], deadline=None, watch=lambda event: None)
    outcome = study.open_run(run_id).outcome()
    assert outcome is not None
    assert outcome.status == "failed"
    assert outcome.sentence == "its worker died 2 times (Ray: its node died)"
