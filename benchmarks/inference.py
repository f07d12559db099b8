"""Time energies and forces of a moving molecule beside other packages' calculators, in turn.

One molecule of 20 atoms, another set of positions in every step, as dynamics make them. Each side
is the calculator of ASE that its package comes with, and finds neighbours as that one does. Sides,
rounds and ratios are those of `speed.py`; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from batches import prepare
from rdkit import Chem
from rdkit.Chem import AllChem
from speed import ROWS, Row, asked, cpu, in_turn, ratio, start, summary

MOLECULE = "CCCC(N)CO"  # 20 atoms
NUM_FRAMES = 400


def main() -> None:
    """Time the rows asked for, print the table."""
    rows = [row for row in ROWS if row.family != "chemgpt"]
    options = asked(__doc__, rows)
    print(
        f"{cpu()['model']}, {options.threads} thread(s) a side, on {options.device}, "
        f"{options.rounds} rounds.\n\n"
        "| model | ours, ms (path) | peer, ms | ratio (quartiles) | by CPU time | "
        "forces apart by |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            if not options.only or row.name in options.only:
                print(f"{row.name} …", file=sys.stderr, flush=True)
                print(_time(row, options, Path(folder)), flush=True)


def _time(row: Row, options: argparse.Namespace, folder: Path) -> str:
    """A line of the table."""
    job = prepare(row, options, folder)
    job["moving"] = str(folder / "moving.npz")
    np.savez(job["moving"], **_moving())
    workers = start(row, options, job)
    weights = str(folder / f"{row.name}-weights.npz")
    forces = {
        side: np.array(worker.ask(do="exchange", path=weights)["forces"])
        for side, worker in workers.items()
    }
    rounds, _ = in_turn(workers, options, NUM_FRAMES)
    for measured in rounds:
        measured["useful"] = measured["steps"]
    clock = "cpu" if options.device == "cpu" else "wall"  # beside a GPU the processor waits
    times = {side: 1e3 / summary(rounds, side)[f"per_second_{clock}"] for side in workers}
    facts = {side: worker.facts for side, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    cells = [row.name, f"{times['ours']:.2f} ({facts['ours']['path']})"]
    if "peer" in workers:
        peer = facts["peer"]
        cells += [
            f"{times['peer']:.2f} ({peer['version']}, {peer['path']}, torch {peer['torch']})",
            "**{median:.2f}** ({low:.2f}–{high:.2f})".format(**ratio(rounds, "wall")),
            "{median:.2f} ({low:.2f}–{high:.2f})".format(**ratio(rounds, clock)),
            _apart(forces, facts["ours"]["scale"]) if row.same else "not the same function",
        ]
    return "| " + " | ".join(cells) + " |"


def _moving() -> dict[str, np.ndarray]:
    """A molecule and frames of it: each atom swings by 0.05 Å around its place."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(MOLECULE))
    AllChem.EmbedMolecule(molecule, randomSeed=0)
    places = molecule.GetConformer().GetPositions()  # (A, 3)
    rng = np.random.default_rng(0)
    periods = rng.uniform(20, 200, size=places.shape)  # steps
    phases = rng.uniform(0, 2 * np.pi, size=places.shape)
    swing = 0.05 * np.sin(np.arange(NUM_FRAMES)[:, None, None] * (2 * np.pi / periods) + phases)
    return {
        "numbers": np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()]),
        "frames": places + swing,
    }


def _apart(forces: dict[str, np.ndarray], scale: float) -> str:
    """The largest difference of force components, of their spread; the peer's are in `scale`."""
    return f"{np.abs(forces['ours'] - scale * forces['peer']).max() / forces['ours'].std():.0e}"


if __name__ == "__main__":
    main()
