"""How far `estimate` can be trusted on searches that somebody else made, whose ends are known.

    OMP_NUM_THREADS=1 python benchmarks/settings.py DATA/early-prediction [--finish 12] [--named]

Each TASK.csv.gz holds curves (config, point 0 to 50, valid). Of every curve the first fifth is
shown, and all of `--finish` of them: drawn anew each time, or those that `estimate` names (the
best, the worst, and between). Printed, a mean over the draws that forecast: which share of the
other ends lie inside the 90 % intervals; how many settings can be expected to end below the best
finished, and how many did; by how many per cent the best end is missed when the ten likeliest are
finished, too.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
from pathlib import Path

import numpy as np

from chemscale.desk.estimate import estimate, finishers
from chemscale.desk.settings import Setting, tabled
from chemscale.table.curves import curves_in

SHOWN, LAST = 10, 50


def settings(curves: dict[str, dict[int, float]]) -> list[Setting]:
    """What is known of curves."""
    rows = [
        {"run": run, "epoch": point, "val_loss": loss}
        for run, losses in curves.items()
        for point, loss in losses.items()
    ]
    return tabled(curves_in(rows, "search"))[0]


def draw(curves: dict[str, dict[int, float]], finish: list[str]) -> list[float]:
    """Coverage, expected and counted below the best, what is missed in per cent; or nothing."""
    shown = {
        run: {point: loss for point, loss in losses.items() if point <= SHOWN or run in finish}
        for run, losses in curves.items()
    }
    [family] = estimate(settings(shown)).families
    ends = {run: losses[LAST] for run, losses in curves.items() if LAST in losses}
    best = min(row.final_loss for row in family.rows if row.final_loss is not None)
    told = [row for row in family.rows if row.chance is not None and row.run in ends]
    if not told:
        return []
    inside = [row.interval.low <= ends[row.run] <= row.interval.high for row in told]
    below = sum(ends[row.run] < best for row in told)
    likely = sorted(told, key=lambda row: -row.chance)[:10]
    missed = min([best, *(ends[row.run] for row in likely)]) / min(ends.values()) - 1
    return [float(np.mean(inside)), sum(row.chance for row in told), below, 100 * missed]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--finish", type=int, default=12)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--named", action="store_true")
    asked = parser.parse_args()
    print("| search | settings | inside 90 % | below the best: expected | were | missed, % |")
    print("| --- " * 6 + "|")
    for path in sorted(asked.data.glob("*.csv.gz")):
        curves: dict[str, dict[int, float]] = {}
        with gzip.open(path, "rt") as file:
            for row in csv.DictReader(file):
                loss = float(row["valid"] or "nan")
                if math.isfinite(loss):
                    curves.setdefault(row["config"], {})[int(row["point"])] = loss
        whole = [run for run, losses in curves.items() if LAST in losses]
        if asked.named:
            cut = {run: {k: v for k, v in one.items() if k <= SHOWN} for run, one in curves.items()}
            chosen = [[one.run for one in finishers(settings(cut), asked.finish)]]
        else:
            rngs = map(np.random.default_rng, range(asked.draws))
            chosen = [rng.choice(whole, asked.finish, False).tolist() for rng in rngs]
        found = [one for finish in chosen if (one := draw(curves, finish))]
        told = np.mean(found, axis=0) if found else np.full(4, np.nan)
        name = path.name.removesuffix(".csv.gz")
        cells = " | ".join(
            f"{value:.{digits}f}" for value, digits in zip(told, (2, 1, 1, 1), strict=True)
        )
        print(f"| {name} | {len(curves)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
