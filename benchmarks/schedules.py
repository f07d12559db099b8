"""How well runs under three learning-rate schedules foretell six others (Luo et al. 2025).

    OMP_NUM_THREADS=1 python benchmarks/schedules.py DATA

DATA/lr-schedules/mpl_SIZE.csv holds step, lr, loss; the role `fit` marks the schedules to fit.
Printed, of every other one: the mean and largest relative error over its rows, beside that of two
forecasts that know no learning rate (no change from the last loss of the longest run fitted, and
a power law with a floor through the run at a constant rate), and which share of the rows the
50 % and 90 % intervals hold; then by how much its last loss is missed when none, 30, 60 or 90 % of
its own rows are fitted, too. Last of each size the mean of means and the largest error, beside
those published.
"""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from chemscale.desk.forecast import extrapolate
from chemscale.desk.laws import power
from chemscale.desk.schedule import RatedCurve, fit_schedules

PUBLISHED = {"25M": (0.0011, 0.0041), "100M": (0.0014, 0.0058), "400M": (0.0017, 0.0099)}
SHOWN = (0.3, 0.6, 0.9)


def read(path: Path) -> tuple[list[RatedCurve], list[RatedCurve]]:
    """Curves to fit, and unseen ones."""
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            cells = tuple(float(row[name]) for name in ("step", "lr", "loss"))
            rows.setdefault((row["role"], row["schedule"]), []).append(cells)
    curves = {key: RatedCurve(*np.array(mine).T, run=key[1]) for key, mine in rows.items()}
    fitted = [curve for (role, _), curve in curves.items() if role == "fit"]
    return fitted, [curve for (role, _), curve in curves.items() if role != "fit"]


def main(data: Path) -> None:
    """Print the table."""
    shown = " | ".join(f"{share:.0%}".replace("%", " %") for share in SHOWN)
    print(
        "| size | schedule | error, % | largest | no change | steps alone | in 50 % | in 90 % | "
        f"end missed, % | {shown} |"
    )
    print("| --- " * (9 + len(SHOWN)) + "|")
    seconds = {}
    for path in sorted(
        (data / "lr-schedules").glob("mpl_*.csv"), key=lambda one: one.stat().st_size
    ):
        size = path.stem.removeprefix("mpl_")
        fitted, unseen = read(path)
        start = time.perf_counter()
        law = fit_schedules(fitted)
        seconds[size] = time.perf_counter() - start
        plain = max(fitted, key=lambda one: (np.ptp(one.learning_rate) == 0, len(one.step)))
        told = []
        for curve in unseen:
            found = law.forecast(curve)
            steps = extrapolate(plain.step, plain.loss, curve.step, laws=(power,)).value
            off = np.abs(found.value / curve.loss - 1)
            others = [np.abs(one / curve.loss - 1).mean() for one in (plain.loss[-1], steps)]
            inside = [
                np.mean((low <= curve.loss) & (curve.loss <= high))
                for low, high in (found.intervals[level] for level in (0.5, 0.9))
            ]
            ends = [off[-1]]
            for share in SHOWN:
                seen = np.where(np.arange(len(off)) < share * len(off), curve.loss, np.nan)
                with_it = fit_schedules([*fitted, replace(curve, loss=seen)])
                ends.append(abs(with_it.forecast(curve).value[-1] / curve.loss[-1] - 1))
            told.append((off.mean(), off.max(), *others, *inside, *ends))
            print(_row(size, curve.run, told[-1]))
        table = np.array(told)
        print(_row(size, "**all**", (table[:, 0].mean(), table[:, 1].max(), *table[:, 2:].mean(0))))
        if size in PUBLISHED:
            mean, worst = (f"{100 * one:.2f}" for one in PUBLISHED[size])
            print(f"| {size} | published | {mean} | {worst} |" + " |" * (5 + len(SHOWN)))
    print("\nSeconds to fit:", ", ".join(f"{size} {one:.1f}" for size, one in seconds.items()))


def _row(size: str, name: str, values: tuple[float, ...]) -> str:
    cells = [f"{100 * one:.2f}" for one in values]
    cells[4:6] = [f"{one:.2f}" for one in values[4:6]]
    return f"| {size} | {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
