"""One worker: `python -m chemscale.bench.executors.worker ORDER`, or ranks of it by `torchrun`.

The order is JSON, a file of it, or "-" for a line of standard input: folder, run ids, deadline,
resources. A worker trains what nobody else holds, and tells on standard output, an event a line.
With `attended` in the order its standard input is held open by whoever started it; when that closes
it checkpoints and leaves. What is wrong with the machine (a full disk) is told, and is no run's
ending.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any


def main() -> int:
    """Train the runs of the order; returns the exit code."""
    leave, begun = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave.set())
    text = sys.argv[1] if len(sys.argv) > 1 else "-"
    if text == "-":
        text = sys.stdin.readline()
        if not text:
            return 0  # whoever started it died at once
    elif not text.startswith("{"):
        text = Path(text).read_text()
    order = json.loads(text)
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an event
    if order.get("attended"):
        threading.Thread(target=_watch_parent, args=(leave, begun), daemon=True).start()
    warnings.simplefilter("ignore")

    import torch

    from chemscale.bench.training.loop import train_run
    from chemscale.bench.training.ranks import Ranks
    from chemscale.bench.training.resources import Resources
    from chemscale.bench.training.workbench import Workbench
    from chemscale.table.errors import ChemscaleError
    from chemscale.table.store import StudyFolder

    resources = Resources(**order.get("resources", {}))
    torch.set_num_threads(resources.threads)

    def tell(event: dict[str, Any]) -> None:
        try:
            print(json.dumps(event), file=events, flush=True)
        except BrokenPipeError:  # nobody listens any more: no fault of the run
            leave.set()

    def stop() -> bool:
        deadline = order.get("deadline")
        return leave.is_set() or (deadline is not None and time.time() > deadline)

    begun.set()
    try:
        folder = StudyFolder(order["folder"])
        bench = Workbench(folder.study(), folder.path)
        ranks = Ranks.join(resources.shard)
        for run_id in order["run_ids"]:
            if any(ranks.gather(stop())):
                break
            train_run(
                folder, run_id, bench=bench, tell=tell, stop=stop, resources=resources, ranks=ranks
            )
    except ChemscaleError as error:
        tell({"event": "refused", "kind": type(error).__name__, "text": str(error)})
        return error.exit_code
    early = any(ranks.gather(stop()))
    ranks.leave()
    if ranks.first:
        tell({"event": "left", "early": early})
    return 0


def _watch_parent(leave: threading.Event, begun: threading.Event) -> None:
    while os.read(0, 1):
        pass
    leave.set()
    if not begun.is_set():
        os._exit(0)  # nothing is held yet; importing takes seconds
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # both led to the parent; what is printed on the way out goes nowhere
        os.dup2(null, stream)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # Gloo's threads may abort a process of several ranks that ends in the usual way
