"""How far `estimate` can be trusted on searches that somebody else made, whose ends are known.

    OMP_NUM_THREADS=1 python benchmarks/settings.py DATA/early-prediction [--draws 20]

Each TASK.csv.gz holds curves (config, point 0 to 50, valid). Of every curve the first fifth is
shown, and of `--finish` that are drawn anew each time, all. Printed, a mean over the draws: which
share of the other ends lie inside the 90 % intervals, how many settings may still end below the
best finished, and by how many per cent the best end is missed if these are finished, and none else.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
from pathlib import Path

import numpy as np

from chemscale.desk.estimate import estimate
from chemscale.desk.settings import tabled
from chemscale.table.curves import curves_in

SHOWN, LAST = 10, 50


def draw(curves: dict[str, dict[int, float]], finish: list[str]) -> tuple[float, float, float]:
    """Coverage, number worth finishing, and what the best end is missed by, in per cent."""
    rows = [
        {"run": run, "epoch": point, "val_loss": loss}
        for run, losses in curves.items()
        for point, loss in losses.items()
        if point <= SHOWN or run in finish
    ]
    [family] = estimate(*tabled(curves_in(rows, "search"))).families
    ends = {run: losses[LAST] for run, losses in curves.items() if LAST in losses}
    best = min(row.final_loss for row in family.rows if row.final_loss is not None)
    told = [
        row for row in family.rows if row.interval and row.final_loss is None and row.run in ends
    ]
    inside = [row.interval.low <= ends[row.run] <= row.interval.high for row in told]
    worth = [ends[row.run] for row in told if row.interval.low < best]
    missed = min([best, *worth]) / min(ends.values()) - 1
    return float(np.mean(inside)), float(len(worth)), 100 * missed


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--finish", type=int, default=12)
    parser.add_argument("--draws", type=int, default=20)
    asked = parser.parse_args()
    print("| search | settings | inside 90 % | worth finishing | best missed by, % |")
    print("| --- " * 5 + "|")
    for path in sorted(asked.data.glob("*.csv.gz")):
        curves: dict[str, dict[int, float]] = {}
        with gzip.open(path, "rt") as file:
            for row in csv.DictReader(file):
                loss = float(row["valid"] or "nan")
                if math.isfinite(loss):
                    curves.setdefault(row["config"], {})[int(row["point"])] = loss
        whole = [run for run, losses in curves.items() if LAST in losses]
        found = [
            draw(curves, np.random.default_rng(seed).choice(whole, asked.finish, False).tolist())
            for seed in range(asked.draws)
        ]
        inside, worth, missed = np.mean(found, axis=0)
        name = path.name.removesuffix(".csv.gz")
        print(f"| {name} | {len(curves)} | {inside:.2f} | {worth:.0f} | {missed:.1f} |", flush=True)


if __name__ == "__main__":
    main()
