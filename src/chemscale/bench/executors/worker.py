"""One worker process: `python -m chemscale.bench.executors.worker`.

Reads one line of JSON (folder, run ids, deadline, threads), trains what nobody else holds, tells
on standard output, an event a line. When its standard input closes, whoever started it is gone: it
checkpoints and leaves.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any


def main() -> None:
    """Train the runs named on standard input."""
    order = json.loads(sys.stdin.readline())
    events, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is not an event
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    threading.Thread(target=_watch_parent, args=(leave,), daemon=True).start()
    warnings.simplefilter("ignore")

    import torch

    from chemscale.bench.training.loop import train_run
    from chemscale.bench.training.measure import Workbench
    from chemscale.table.store import StudyFolder

    torch.set_num_threads(order["threads"])

    def tell(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=events, flush=True)

    def stop() -> bool:
        late = order["deadline"] is not None and time.time() > order["deadline"]
        return late or leave.is_set()

    folder = StudyFolder(order["folder"])
    bench = Workbench(folder.study(), folder.path)
    for run_id in order["run_ids"]:
        if stop():
            break
        train_run(folder, run_id, bench=bench, tell=tell, stop=stop)
    tell({"event": "left", "early": stop()})


def _watch_parent(leave: threading.Event) -> None:
    while os.read(0, 1):
        pass
    leave.set()


if __name__ == "__main__":
    main()
