"""Worker processes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

import torch

from chemscale.bench.data.encoding import num_cores
from chemscale.bench.executors.crew import Crew, Events, Worker
from chemscale.bench.training.resources import Resources
from chemscale.table.errors import UsageError

COMMAND = ("-m", "chemscale.bench.executors.worker")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


class Local(Crew):
    """N processes, each with a fixed number of threads and, where there are GPUs, a GPU a rank.

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

    def worker(self, number: int, order: dict[str, Any], events: Events) -> Worker:
        return Process(number, order, events)


def command(resources: Resources, order: str) -> list[str]:
    """What starts a worker: its Python and arguments; ranks of a run by `torchrun`.

    Args:
        resources: of its runs.
        order: what it is told: JSON, the path of a file with it, or "-" for its standard input.
    """
    if resources.ranks > 1:
        return [sys.executable, *TORCHRUN, str(resources.ranks), *COMMAND, order]
    return [sys.executable, *COMMAND, order]


class Process:
    """A worker, and the thread that passes on what it says."""

    def __init__(self, number: int, order: dict[str, Any], events: Events):
        resources = Resources(**order["resources"])
        self.run: str | None = None
        text, alone = json.dumps({**order, "attended": True}), resources.ranks == 1
        self.process = subprocess.Popen(
            command(resources, "-" if alone else text),  # ranks share their standard input
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=resources.environment() | gpus_of(number, resources.ranks),
            start_new_session=True,  # Ctrl-C reaches the parent, which lets workers checkpoint
        )
        assert self.process.stdin is not None
        if alone:
            with suppress(BrokenPipeError):  # dead already; it will be gone
                self.process.stdin.write(text + "\n")
                self.process.stdin.flush()
        self._error = ""
        self._listener = threading.Thread(target=self._listen, args=(number, events), daemon=True)
        self._listener.start()
        self._stderr = threading.Thread(target=self._collect, daemon=True)
        self._stderr.start()

    def _listen(self, number: int, events: Events) -> None:
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

    def leave(self) -> None:
        """Tell it to checkpoint and leave."""
        self.process.terminate()

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
        for pipe in filter(None, (self.process.stdin, self.process.stdout, self.process.stderr)):
            with suppress(OSError):
                pipe.close()


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
