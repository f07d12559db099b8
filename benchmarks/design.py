"""How much compute the design rule saves, replayed from tables of runs that somebody trained.

OMP_NUM_THREADS=1 python benchmarks/design.py DATA [gnn isoflop …]

For each grid the three dearest runs are the targets. Both orders start from the cheapest ten; one
goes on cheapest first, the other by `chemscale.desk.design`: what is expected to narrow the target
most per FLOP. Runs may cost as much as a third of the target. Error is |log forecast / measured| at
the target; the share is the compute after which the design's is for good no more than that of the
fixed order with every run, over the compute of those runs. Medians over the targets.
"""

from __future__ import annotations

import csv
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chemscale.desk.design import expected
from chemscale.desk.fit import fit
from chemscale.desk.forecast import predict
from chemscale.table.errors import NotIdentified
from chemscale.table.results import FamilyFit, Point

Cell = tuple[int, int]
Runs = dict[Cell, list[float]]


def read(path: Path, params: str, train: str, loss: str, **equal: str) -> Runs:
    """Losses of each num_params and num_train, of rows with these values."""
    found: Runs = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            if all(row[key] == value for key, value in equal.items()) and row[loss]:
                found[round(float(row[params])), round(float(row[train]))].append(float(row[loss]))
    return dict(found)


def grids(data: Path) -> dict[str, Runs]:
    """The tables that are surfaces."""
    porian = {"hparams": "tuned", "warmup": "short", "decay": "const", "val": "val"}
    return {
        "gnn": read(data / "gnn-materials/optimetal_2b_grid.csv", "N", "D", "val_loss"),
        "isoflop": read(data / "isoflops/isoflops_dev.csv", "params", "tokens", "loss"),
        "porian": read(
            data / "compute-optimal/porian_rw_isoflop.csv", "N", "tokens", "loss", **porian
        ),
        "data-constrained": read(
            data / "data-constrained/datablations_dev.csv", "N", "D", "loss", epochs="1"
        ),
        "over-training": read(
            data / "over-training/gadre_c4.csv", "N", "D", "loss", eval_set="c4_val"
        ),
    }


def fitted(runs: Runs, cells: list[Cell]) -> FamilyFit:
    """The laws of these cells."""
    points = [
        Point(
            run=f"{cell}-{seed}", family="f", size=str(cell[0]), num_params=cell[0],
            num_params_total=cell[0], num_train=cell[1], unit="item", seed=seed,
            losses={"loss": loss},
        )
        for cell in cells
        for seed, loss in enumerate(runs[cell])
    ]  # fmt: skip
    return fit(points, "loss").families[0]


def replay(runs: Runs, target: Cell, designed: bool) -> list[tuple[float, float]]:
    """Compute spent and error after each run."""

    def cost(cell: Cell) -> float:
        return math.prod(cell) * len(runs[cell])

    pool = sorted((c for c in runs if math.prod(c) <= math.prod(target) / 3), key=cost)
    seen, rest = pool[:10], pool[10:]
    truth, trace = math.log(np.mean(runs[target])), []
    while True:
        one, error = fitted(runs, seen), math.inf
        best = rest[0] if rest else None
        try:
            promised = predict(one, *target)
            error = abs(math.log(promised.value) - truth)
            if designed and rest:
                best = chosen(one, target, rest, cost) or best
        except NotIdentified:
            pass  # go on with the cheapest until there is a law
        trace.append((sum(map(cost, seen)), error))
        if best is None:
            return trace
        seen.append(best)
        rest.remove(best)


def chosen(
    one: FamilyFit, target: Cell, rest: list[Cell], cost: Callable[[Cell], float]
) -> Cell | None:
    """The run to make next; of those worth 5 %, else of all, the most a FLOP."""
    there, told = [], [predict(one, *target)]
    for cell in rest:
        try:
            prediction = predict(one, *cell)
        except NotIdentified:
            continue
        if prediction.held == told[0].held:
            there.append(cell)
            told.append(prediction)
    if not there:
        return None
    shares = expected(one, np.array([target, *there], float), told)
    worth = shares >= min(0.05, shares.max())
    rates = [-math.log(max(1 - s, 1e-9)) / cost(c) for s, c in zip(shares, there, strict=True)]
    return there[int(np.argmax(np.where(worth, rates, -1.0)))]


def main(data: Path, *names: str) -> None:
    """Print a row for each grid, or for those named."""
    print("grid | cells | error, all runs | share of compute | error at 60 %: cheapest, designed")
    for name, runs in grids(data).items():
        if names and name not in names:
            continue
        targets = sorted(runs, key=math.prod)[-3:]
        shares, last, at = [], [], []
        for target in targets:
            fixed, design = (replay(runs, target, designed) for designed in (False, True))
            whole, final = fixed[-1]
            above = [place for place, (_, error) in enumerate(design) if error > final * 1.0001]
            first = min(above[-1] + 1 if above else 0, len(design) - 1)
            shares.append(design[first][0] / whole)
            last.append(final)
            at.append([[e for c, e in t if c <= 0.6 * whole][-1] for t in (fixed, design)])
        middle = np.median(np.array(at), axis=0)
        print(
            f"{name} | {len(runs)} | {np.median(last):.4f} | {np.median(shares):.2f} | "
            f"{middle[0]:.4f}, {middle[1]:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
