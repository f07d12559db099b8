"""How much compute the design rule saves, replayed from tables of runs that somebody trained.

    OMP_NUM_THREADS=1 python benchmarks/design.py DATA [gnn isoflop …] [--to FILE]

Targets are the eight dearest cells of each grid for which at least fourteen others are affordable:
a pilot costs no more than a third of its target. Both orders begin with the cheapest seven, the
fewest that make a surface, and end with all. One goes on cheapest first, the other by
`chemscale.desk.design`: what is expected to narrow the target most per FLOP.

The error is |log forecast / measured|, a mean over the targets: that of a single one passes through
zero by luck. Compute is a share of what all affordable runs cost. Printed, in per cent: the compute
at which each order first has the error that all runs give, and from which on the designed one stays
within a tenth of it; how much of the compute of the fixed order the designed one needs for any
error on the way there, the median; and where the rule says stop, a mean over the targets, with
both orders' errors. Targets in FILE (JSON) are not replayed again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chemscale.desk.bootstrap import fit_sample
from chemscale.desk.design import expected
from chemscale.desk.forecast import predict
from chemscale.desk.sample import Sample
from chemscale.table.errors import NotIdentified
from chemscale.table.fits import FamilyFit, SurfaceFit
from chemscale.table.results import Point

ORDERS = ("fixed", "designed")
Cell = tuple[int, int]
Runs = dict[Cell, list[float]]
Trace = list[tuple[float, float, float]]  # after each run: compute spent, error, best narrowing


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
    """As much of a fit to these cells as forecast and design use: the surface and 200 draws.

    The whole `fit` draws 1,000 and keeps 200, leaves out run by run, and takes five times as long.
    """
    points = [
        Point(
            run=f"{cell}-{seed}", family="f", size=str(cell[0]), num_params=cell[0],
            num_params_total=cell[0], num_train=cell[1], unit="item", seed=seed,
            losses={"loss": loss},
        )
        for cell in cells
        for seed, loss in enumerate(runs[cell])
    ]  # fmt: skip
    sample = Sample.of(points, "loss")
    seeds = sample.seed_scatter()
    found = fit_sample(
        np.stack([sample.log_params, sample.log_train], axis=1),
        sample.log_loss,
        sample.cell,
        floor=True,
        seeds=seeds,
        rng=np.random.default_rng(0),
        num_draws=200,
    )
    windows = [(float(min(axis)), float(max(axis))) for axis in zip(*cells, strict=True)]
    surface = SurfaceFit.model_construct(
        num_params_window=windows[0],
        num_train_window=windows[1],
        points=sample.runs,
        residual=found.residual,
        draws=tuple(map(tuple, found.kept_draws().tolist())),
    )
    return FamilyFit.model_construct(
        family="f",
        metric="loss",
        unit="item",
        laws=(),
        surface=surface,
        seed_scatter=seeds[0] if seeds else None,
        observed=sample.observed(),
    )


def affordable(runs: Runs, target: Cell) -> list[Cell]:
    """Cells that cost at most a third of the target, cheapest first."""
    pool = [cell for cell in runs if math.prod(cell) <= math.prod(target) / 3]
    return sorted(pool, key=lambda cell: math.prod(cell) * len(runs[cell]))


def replay(
    runs: Runs, target: Cell, designed: bool, known: dict[frozenset[Cell], FamilyFit]
) -> Trace:
    """Go through the affordable runs in one order or the other; `known` are fits made before."""

    def cost(cell: Cell) -> float:
        return math.prod(cell) * len(runs[cell])

    pool = affordable(runs, target)
    seen, rest = pool[:7], pool[7:]
    truth, trace = math.log(np.mean(runs[target])), []
    while True:
        cells = frozenset(seen)
        if cells not in known:
            known[cells] = fitted(runs, sorted(seen))
        one, error, narrower = known[cells], math.inf, math.nan
        best = rest[0] if rest else None
        try:
            promised = predict(one, *target)
            error = abs(math.log(promised.value) - truth)
            if designed and rest:
                best, narrower = chosen(one, target, rest, cost) or (best, narrower)
        except NotIdentified:
            pass  # go on with the cheapest until there is a law
        trace.append((sum(map(cost, seen)), error, narrower))
        if best is None:
            return trace
        seen.append(best)
        rest.remove(best)


def chosen(
    one: FamilyFit, target: Cell, rest: list[Cell], cost: Callable[[Cell], float]
) -> tuple[Cell, float] | None:
    """The run to make next, of those worth 5 %, else of all, the most a FLOP; the most of all."""
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
    return there[int(np.argmax(np.where(worth, rates, -1.0)))], float(shares.max())


def course(traces: list[np.ndarray], shares: np.ndarray) -> np.ndarray:
    """Mean error over the targets at each share of their compute; infinite before a forecast."""
    errors = []
    for trace in traces:
        place = np.searchsorted(trace[:, 0], shares + 1e-9, side="right") - 1
        errors.append(np.where(place >= 0, trace[np.maximum(place, 0), 1], np.inf))
    return np.mean(errors, axis=0)


def stop(trace: np.ndarray) -> np.ndarray:
    """Share, error where no run is expected to narrow by 5 % any more; else at the end."""
    enough = np.flatnonzero(trace[:, 2] < 0.05)
    return np.asarray(trace[enough[0] if len(enough) else -1, :2])


def summary(traces: dict[str, dict[str, Trace]]) -> tuple[list[float], list[float]]:
    """Shares and errors of the table, in its order."""
    both = {order: [np.array(one[order], float) for one in traces.values()] for order in ORDERS}
    for trace in (*both["fixed"], *both["designed"]):
        trace[:, 0] /= trace[-1, 0]
    shares = np.unique(np.concatenate([*both["fixed"], *both["designed"]])[:, 0])
    courses = [course(both[order], shares) for order in ORDERS]

    def reached(error: float) -> list[float]:
        return [float(shares[np.argmax(one <= error * (1 + 1e-9))]) for one in courses]

    last = float(courses[0][-1])
    levels = np.unique(np.maximum(np.minimum.accumulate(courses[0]), last))
    way = [designed / fixed for fixed, designed in map(reached, levels[np.isfinite(levels)])]
    stops = np.mean([stop(trace) for trace in both["designed"]], axis=0)
    beside = course(both["fixed"], stops[:1])
    far = np.flatnonzero(courses[1] > 1.1 * last)
    stays = float(shares[far[-1] + 1]) if len(far) else 0.0
    spent = [*reached(last), stays, float(np.median(way)), float(stops[0])]
    return spent, [last, *beside, stops[1]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("grids", nargs="*", metavar="GRID")
    parser.add_argument("--to", type=Path)
    asked = parser.parse_args()
    done = json.loads(asked.to.read_text()) if asked.to and asked.to.exists() else {}
    print(
        "| | cells | targets | error, all runs | cheapest first has it at | designed | "
        "stays within a tenth | designed / cheapest, on the way | stops at | "
        "error there, cheapest first | designed |"
    )
    print("| --- " * 11 + "|")
    told = []
    for name, runs in grids(asked.data).items():
        if asked.grids and name not in asked.grids:
            continue
        known: dict[frozenset[Cell], FamilyFit] = {}
        mine = done.setdefault(name, {})
        targets = [cell for cell in runs if len(affordable(runs, cell)) >= 14]
        for target in sorted(targets, key=math.prod)[-8:]:
            if str(target) in mine:
                continue
            mine[str(target)] = {
                order: replay(runs, target, order == "designed", known) for order in ORDERS
            }
            if asked.to:
                asked.to.write_text(json.dumps(done) + "\n")
        shares, errors = summary(mine)
        told.append(shares)
        percent = " | ".join(f"{100 * share:.0f}" for share in shares)
        last, *there = (f"{error:.3f}" for error in errors)
        row = [name, str(len(runs)), str(len(mine)), last, percent, *there]
        print(f"| {' | '.join(row)} |", flush=True)
    middle = " | ".join(f"{100 * share:.0f}" for share in np.median(told, axis=0))
    print(f"| median | | | | {middle} | | |")


if __name__ == "__main__":
    main()
