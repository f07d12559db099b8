"""Executors that really start workers; a toy of SLURM's commands has a file of its own."""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chemscale.bench.executors import ray as on_ray
from chemscale.bench.executors.local import Local
from chemscale.bench.executors.ray import Ray
from chemscale.table.errors import MissingPackage
from chemscale.table.store import StudyFolder
from chemscale.testing import ExecutorContract


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

    def test_an_actor_that_is_killed_is_replaced(self, executor: Ray, study: StudyFolder):
        told = []

        def kill_the_first() -> None:
            while not any(event["event"] == "start" for event in told):
                time.sleep(0.01)
            os.kill(actors()[0], signal.SIGKILL)

        threading.Thread(target=kill_the_first, daemon=True).start()
        ids = list(study.run_folders())
        while study.ended() != set(ids):  # a worker without its actor still saves what it holds
            assert executor.submit(study.path, ids, deadline=None, watch=told.append)
        assert {one.outcome.status for one in study.trained()} == {"finished"}
        assert any(event["event"] == "lost" for event in told)


def actors() -> list[int]:
    """Process ids of the actors whose cluster this process has started."""
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
    return [one for one in found if parents.get(parents[one]) == os.getpid()]


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
