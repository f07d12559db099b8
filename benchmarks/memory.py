"""Memory of a training run: predicted before it starts, and measured.

    python benchmarks/memory.py [FAMILY:SIZE:BATCH[:recompute|:MAX_LOAD] ...]

Each measurement is a fresh process: data opened, a step of a tiny model taken (which loads torch's
and MKL's libraries), then one evaluation, training steps and a checkpoint of the size in question.
Measured is the growth of the largest resident set from just before the model is built. With
`--tight` the same is measured under `MALLOC_MMAP_THRESHOLD_=65536`: glibc then gives freed memory
back at once, so that is what the tensors need; training is up to twice slower.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CASES = (
    *("chemgpt:w192:64", "chemgpt:w256:64", "chemgpt:w512:8"),
    *("schnet:w256:64", "schnet:w512:64", "schnet:w1024:16"),
    *("painn:w192:64", "painn:w256:64", "painn:w512:32"),
    *("chemgpt:w192:64:recompute", "chemgpt:w256:64:600", "painn:w256:64:2000"),
)
STEPS = 8
DATA = {"chemgpt": "example-molecules"}


def bench(family: str, size: str, batch_size: int, way: str) -> Any:
    """The workbench of a study of one run; `way` as in a case."""
    from chemscale.bench.training.workbench import Workbench
    from chemscale.table.records import Study

    data = DATA.get(family, "example-structures")
    recipe: dict[str, Any] = {"name": recipe_of(family), "batch_size": batch_size}
    if way.isdigit():
        recipe["max_tokens" if family == "chemgpt" else "max_edges"] = int(way)
    study = {
        "name": "memory",
        "families": {family: [size]},
        "dataset": data,
        "num_train": [1000],
        "recipe": recipe,
        "budget": {"items": 2000},
    }
    return Workbench(Study.read(study, "here"), Path())


def recipe_of(family: str) -> str:
    """The recipe with which a family is measured."""
    return "molecules" if family == "chemgpt" else "energy-and-forces"


def measure(family: str, size: str, batch_size: int, way: str) -> int:
    """Growth of this process over some steps, bytes."""
    import torch

    from chemscale.bench.training import checkpoint
    from chemscale.bench.training.average import Average
    from chemscale.bench.training.devices import CPU, DTYPES
    from chemscale.bench.training.ranks import ALONE
    from chemscale.bench.training.recipe import Batches
    from chemscale.bench.training.step import optimiser, shares, train_step
    from chemscale.bench.training.workbench import start_model
    from chemscale.table.run_folder import RunFolder

    torch.set_num_threads(1)
    made = bench(family, size, batch_size, way)
    recipe, dataset = made.study.recipe.resolve(), made.dataset
    subset = dataset.subset(1000, 0)
    batches = Batches(subset, batch_size, 0)
    kind = made.family(family)
    config = kind.fitted_config(size, dataset)
    collate = dataset.collate(config)

    def batch(items: Any) -> Any:
        return collate(items).to(torch.device("cpu"), DTYPES[recipe.precision])

    tiny = start_model(made, family, kind.fitted_config("w16", dataset), recipe, subset, 0)
    warm = optimiser(tiny, recipe)
    for _ in range(2):
        train_step(tiny, warm, [batch(batches[0][:2])], recipe, 1e-4)
    del tiny, warm
    loads = [dataset.loads(batches[k], config) for k in range(STEPS)]
    cuts = [shares(batches[k], loads[k], recipe.max_load, 1)[0] for k in range(STEPS)]
    steps = [[batch(items) for items in cut] for cut in cuts]
    judged = batch(made.evaluated("validation", CPU)[0])
    before = largest()
    model = start_model(made, family, config, recipe, subset, 0)
    model.recompute = way == "recompute"
    step = optimiser(model, recipe)
    model.measure(judged, recipe)
    for parts in steps:
        whole = ALONE.all_see([model.seen(part) for part in parts], torch.device("cpu"))
        train_step(model, step, parts, recipe, 1e-4, whole=whole)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.json").write_text("{}")
        checkpoint.save(
            RunFolder(Path(folder)), checkpoint.State(), model, step, Average(model, 0.0)
        )
    return largest() - before


def largest() -> int:
    """Largest resident set of this process so far, bytes.

    `ru_maxrss` would do, had it not been handed down by the parent.
    """
    told = Path("/proc/self/status").read_text()
    return 1024 * int(told.split("VmHWM:")[1].split()[0])


def measured(family: str, size: str, batch_size: int, way: str, *, tight: bool = False) -> int:
    """The same in a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if tight:
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    order = json.dumps([family, size, batch_size, way])
    done = subprocess.run(
        [sys.executable, __file__, "--measure", order],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def predicted(family: str, size: str, batch_size: int, way: str) -> int:
    """What `expand` says."""
    from chemscale.bench.training.resources import Resources

    resources = Resources(recompute=way == "recompute")
    made = bench(family, size, batch_size, way)
    found: int = made.peaks.predict(family, size, batch_size, resources)
    return found


def main() -> None:
    """Print a table."""
    if sys.argv[1:2] == ["--measure"]:
        print(measure(*json.loads(sys.argv[2])))
        return
    tight = "--tight" in sys.argv
    print("| run | predicted, MB | measured, MB | off |" + " tensors alone, MB |" * tight)
    print("| --- " * (4 + tight) + "|")
    for case in [case for case in sys.argv[1:] if case != "--tight"] or CASES:
        family, size, batch, way = [*case.split(":"), ""][:4]
        run = (family, size, int(batch), way)
        told, found = predicted(*run), measured(*run)
        cells = [
            f"{family} {size}, batch {batch} {way}".strip(),
            f"{told / 1e6:.0f}",
            f"{found / 1e6:.0f}",
        ]
        cells.append(f"{told / found - 1:+.0%}")
        cells += [f"{measured(*run, tight=True) / 1e6:.0f}"] if tight else []
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
