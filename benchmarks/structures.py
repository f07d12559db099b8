"""Structures in numbers: memory and speed of reading them, and what training waits for data.

    python benchmarks/structures.py --structures 100000 1000000 --format hdf5

Made-up structures of 12 atoms on springs are written, then opened by a fresh process: read, the
data card made, edges found up to the cutoff of the model, some steps trained. Told are structures
by the second of processor time, the largest resident set of that process (mapped files counted),
and the share of training steps that passes until the batch is there, where a step's items are
drawn from all structures. Exit code 1 where a process needs 4 GB or more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SYMBOLS = ["C", "C", "O", "N", "H", "H", "H", "H", "H", "H", "H", "H"]
NUMBERS = np.array([6, 6, 8, 7, *[1] * 8])
GRID = 1.4 * np.stack(np.meshgrid(range(3), range(2), range(2)), axis=-1).reshape(12, 3)
STIFFNESS = 30.0  # eV/Å²
CHUNK = 1000
LIMIT = 4e9


def springs(count: int, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """Positions, energies and forces: Å, eV, eV/Å."""
    moved = np.random.default_rng(seed).normal(0.0, 0.05, (count, 12, 3))
    energy = -3000.0 + 0.5 * STIFFNESS * (moved**2).sum(axis=(1, 2))
    return GRID + moved, energy, -STIFFNESS * moved


def write(path: Path, form: str, count: int) -> None:
    """A file of so many structures."""
    if form == "hdf5":
        import h5py

        with h5py.File(path, "w") as file:
            for number, first in enumerate(range(0, count, CHUNK)):
                positions, energy, forces = springs(min(CHUNK, count - first), number)
                group = file.create_group(f"molecule{number}")
                group["atomic_numbers"], group["coordinates"] = NUMBERS, positions
                group["energies"], group["forces"] = energy, forces
        return
    head = 'Properties=species:S:1:pos:R:3:forces:R:3 pbc="F F F" energy='
    with path.open("w") as stream:
        for number, first in enumerate(range(0, count, CHUNK)):
            for places, energy, forces in zip(
                *springs(min(CHUNK, count - first), number), strict=True
            ):
                stream.write(f"12\n{head}{energy:.8f}\n")
                rows = np.concatenate([places, forces], axis=1).tolist()
                stream.writelines(
                    f"{symbol} " + " ".join(f"{value:.8f}" for value in row) + "\n"
                    for symbol, row in zip(SYMBOLS, rows, strict=True)
                )


def measure(path: Path, form: str, model: str, steps: int) -> dict[str, float]:
    """Open a file and train on it, in this process."""
    import torch

    from chemscale.bench.training.devices import CPU
    from chemscale.bench.training.recipe import Batches
    from chemscale.bench.training.step import optimiser, train_step
    from chemscale.bench.training.workbench import Workbench, start_model
    from chemscale.table.records import Study

    torch.set_num_threads(1)
    family, size = model.split(":")
    units = {"energy": "eV", "length": "Å"}
    study = {
        "name": "structures",
        "families": {family: [size]},
        "dataset": {"format": form, "path": str(path), "group": "content", "units": units},
        "num_train": [1000],
        "recipe": "energy-and-forces",
        "budget": {"items": 2000},
    }
    start = time.process_time()
    bench = Workbench(Study.read(study, "here"), path.parent)
    count = len(bench.dataset.split)
    told = {"opening": count / (time.process_time() - start)}
    start = time.process_time()
    config = bench.family(family).fitted_config(size, bench.dataset)
    collate = bench.dataset.collate(config)
    told["edges"] = count / (time.process_time() - start)
    start = time.process_time()
    subset = bench.dataset.subset(len(bench.dataset.indices("train")), 0)
    recipe = bench.study.recipe.resolve()
    net = start_model(bench, family, config, recipe, subset, 0).to(CPU)
    told["starting_s"] = time.process_time() - start
    optimizer, batches = optimiser(net, recipe), Batches(subset, recipe.batch_size, 0)
    waited, whole = 0.0, 0.0
    for step in range(steps + 3):
        start = time.process_time()
        batch = collate(batches[step]).to(CPU, torch.float32)
        there = time.process_time()
        float(train_step(net, optimizer, [batch], recipe, recipe.learning_rate))
        if step >= 3:
            waited += there - start
            whole += time.process_time() - start
    told |= {"waiting": waited / whole, "items_s": steps * recipe.batch_size / whole}
    told["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return told


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--structures", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--format", choices=("hdf5", "extxyz"), default="hdf5")
    parser.add_argument("--model", default="schnet:w64")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where there is room: 4 kB a structure")
    parser.add_argument("--measured", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measured:
        print(json.dumps(measure(asked.measured, asked.format, asked.model, asked.steps)))
        return
    good = True
    for count in asked.structures:
        with tempfile.TemporaryDirectory(dir=asked.folder) as name:
            path = Path(name) / "structures"
            write(path, asked.format, count)
            command = [sys.executable, __file__, "--measured", str(path), "--format", asked.format]
            command += ["--model", asked.model, "--steps", str(asked.steps)]
            environment = os.environ | {"CHEMSCALE_CACHE": f"{name}/cache"}
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
            told = json.loads(done.stdout)
            disk = sum(p.stat().st_size for p in (Path(name) / "cache").rglob("*") if p.is_file())
        print(
            f"{count:>9,} structures in {asked.format}: read {told['opening']:,.0f}/s, "
            f"edges {told['edges']:,.0f}/s, {disk / 1e6:,.0f} MB on disk, "
            f"peak {told['peak'] / 1e6:,.0f} MB; "
            f"{asked.model}: {told['items_s']:,.0f} structures/s, waiting for data "
            f"{told['waiting']:.1%} of it, {told['starting_s']:.1f} s to start",
            flush=True,
        )
        good &= told["peak"] < LIMIT
    sys.exit(not good)


if __name__ == "__main__":
    main()
