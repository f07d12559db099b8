"""Workers on a Ray cluster.

An actor on a node starts the worker as a process, as `local` does on this machine, and passes on
what it says. So Ray sees plain dicts alone, and a run the same surroundings as anywhere else. Only
the folder's path and ids travel: every node has to see the folder, with locks that hold between
nodes.
"""

from __future__ import annotations

import fcntl
import os
import platform
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chemscale.bench.executors.base import Watch
from chemscale.bench.executors.crew import Crew, Events, Worker
from chemscale.bench.executors.local import Process
from chemscale.bench.training.resources import Resources
from chemscale.table.errors import ChemscaleError, MissingPackage, UsageError

LOCK = "ray.lock"  # in the study folder, held while the command runs: what nodes are tried by
LOOK_SECONDS = 1.0  # between looks whether an actor has found its place
LEAVE_SECONDS = 60


class Ray(Crew):
    """Up to N actors at a time, on the cluster that Ray itself finds.

    That is the one of RAY_ADDRESS, one on this machine, or a new one of this machine.

    Args:
        workers: how many actors at a time; default as many as the cluster's GPUs serve, or without
            any its CPUs. More wait until there is room.
        **resources: of each run, as `Resources` has them; a GPU a rank where the cluster has some.

    Raises:
        MissingPackage: Ray is not installed.
        ChemscaleError: there is no such cluster, or no node of it is large enough.
    """

    def __init__(self, workers: int | None = None, **resources: Any):
        self.resources = Resources(**resources)
        _join_cluster()
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        ranks, key = self.resources.ranks, "GPU" if any("GPU" in n for n in nodes) else "CPU"
        each = {"CPU": ranks * self.resources.threads, "GPU": ranks if key == "GPU" else 0}
        if not any(all(node.get(kind, 0) >= each[kind] for kind in each) for node in nodes):
            raise UsageError(
                f"--on ray: a run takes {each['CPU']} CPUs and {each['GPU']} GPUs, more than any "
                "node of the cluster has; fewer --ranks take less"
            )
        self.workers = workers or sum(int(node.get(key, 0) // each[key]) for node in nodes)
        self._needs = {"num_cpus": each["CPU"], "num_gpus": each["GPU"]}

    def submit(
        self, folder: Path, run_ids: Sequence[str], *, deadline: float | None, watch: Watch
    ) -> bool:
        folder = folder.absolute()
        count = min(self.workers, len(run_ids))
        watch(
            {"event": "note", "text": f"actors asked of Ray: {count}; ray status shows who waits"}
        )
        with (folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            return super().submit(folder, run_ids, deadline=deadline, watch=watch)

    def worker(self, number: int, order: dict[str, Any], events: Events) -> Worker:
        return _Actor(number, order, events, self._needs)


def _join_cluster() -> None:
    with MissingPackage.told("ray", "--on ray"):
        import ray
    if os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        raise UsageError("--on ray: give the command on a node of the cluster, not by ray://")
    if ray.is_initialized():
        return
    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        raise ChemscaleError(f"--on ray: no cluster: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)  # Ray's own lets nobody checkpoint


class _Actor:
    """A worker on some node, and the thread that passes on what it says."""

    def __init__(self, number: int, order: dict[str, Any], events: Events, needs: dict[str, int]):
        import ray

        self.run: str | None = None
        self._leaving = threading.Event()
        # Two calls at a time: it is told to leave while it works.
        self._keeper = ray.remote(Keeper).options(max_concurrency=2, **needs).remote()
        self._listener = threading.Thread(
            target=self._listen, args=(number, order, events), daemon=True
        )
        self._listener.start()

    def _listen(self, number: int, order: dict[str, Any], events: Events) -> None:
        import ray

        settings = {name: it for name, it in os.environ.items() if name.startswith("CHEMSCALE_")}
        work = self._keeper.work.options(num_returns="streaming")
        try:
            if self._has_place(order["deadline"]):
                for told in work.remote(order, settings):
                    events.put((number, event := ray.get(told)))
                    if event["event"] == "gone":
                        return  # next its place is given back, which is no death
            else:
                events.put((number, {"event": "left", "early": True}))
                events.put((number, {"event": "gone", "code": 0}))
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            # The actor or its node; how the process of the worker ended is told by the actor.
            memory = isinstance(error, ray.exceptions.OutOfMemoryError)
            code = -signal.SIGKILL if memory else -signal.SIGHUP
            how = str(error).splitlines()[0 if memory else -1].partition(". ")[0]
            gone = {"event": "gone", "code": code, "how": f"Ray: {how}", "error": str(error)}
            events.put((number, gone))
        except Exception as error:
            events.put((number, {"event": "refused", "kind": "", "text": f"--on ray: {error}"}))

    def _has_place(self, deadline: float | None) -> bool:
        """Wait until the actor has; False where it is told to leave before."""
        import ray

        ready = self._keeper.__ray_ready__.remote()
        while not ray.wait([ready], timeout=LOOK_SECONDS)[0]:
            late = deadline is not None and time.time() > deadline
            if late or self._leaving.is_set():
                return False
        return True

    def leave(self) -> None:
        """Tell it to checkpoint and leave."""
        self._leaving.set()
        self._keeper.leave.remote()

    def dismiss(self) -> None:
        """Wait until it has."""
        self._listener.join(timeout=LEAVE_SECONDS)
        self.close()

    def close(self) -> None:
        """Give its place back."""
        import ray

        ray.kill(self._keeper)


class Keeper:
    """An actor: a worker on this node, as a process."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self.leaving = False

    def work(self, order: dict[str, Any], settings: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Start the worker; what it says, the last of it "gone".

        Args:
            order: what the worker is told.
            settings: CHEMSCALE_... of whoever gave the command.
        """
        if refusal := refused(Path(order["folder"])):
            yield {"event": "refused", "kind": "StoreError", "text": refusal}
            return
        os.environ.update(settings)
        events: Events = queue.Queue()
        self.process = Process(0, order, events)
        if self.leaving:
            self.process.leave()
        event: dict[str, Any] = {"event": ""}
        while event["event"] != "gone":
            _, event = events.get()
            yield event
        self.process.close()

    def leave(self) -> None:
        """Tell the worker to checkpoint and leave."""
        self.leaving = True
        if self.process is not None:
            self.process.leave()


def refused(folder: Path) -> str | None:
    """Why runs in this folder cannot be trained on this node; None where they can.

    The command holds a lock there, so the lock is free only where it is another folder, or where
    locks do not hold between nodes, and two workers would train one run.
    """
    try:
        with (folder / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        why = f"cannot be used there: {error.strerror}"
    else:
        why = "is another folder there, or its file system's locks do not hold between nodes"
    return f"{folder}, on node {platform.node()}: {why}. --on ray needs a shared file system"
