"""The compute exponents of Porian et al. 2024 on RefinedWeb, again, from their IsoFLOP losses.

    python benchmarks/porian.py DATA

Rungs from Kaplan to Chinchilla: schedule, counting of parameters and losses, and at the end tuned
settings. Ours are `desk.isoflop`'s with the scatter between seeds that the authors give. Published
are their weighted fits. The last column is how far ours lie from these at the most where the
scatter is taken for nothing, or for three times as much.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from chemscale.desk.isoflop import IsoFlop, isoflop

SCATTER = 0.002  # nats
RUNG = ("table", "hparams", "warmup", "decay", "param_count", "val")


def fitted(rows: list[dict[str, str]], scatter: float) -> IsoFlop:
    """Best sizes of one rung."""
    columns = [np.array([float(row[one]) for row in rows]) for one in ("flops", "N", "tokens")]
    loss = np.array([float(row["loss"]) for row in rows])
    rng = np.random.default_rng(0)
    return isoflop(*columns, loss, scatter=scatter / float(np.median(loss)), rng=rng)


def rungs(data: Path) -> dict[tuple[str, ...], tuple[list[dict[str, str]], dict[str, str]]]:
    """Losses of each rung, and what was published of it."""
    folder = data / "compute-optimal"
    with (folder / "porian_rw_isoflop.csv").open() as file:
        losses = list(csv.DictReader(file))
    with (folder / "porian_rw_published_fits.csv").open() as file:
        fits = {tuple(row[one] for one in RUNG): row for row in csv.DictReader(file)}
    return {
        rung: ([row for row in losses if tuple(row[one] for one in RUNG) == rung], fit)
        for rung, fit in fits.items()
    }


def main(data: Path) -> None:
    """Print the table."""
    print(
        "| hyperparameters, warmup, decay, parameters counted, loss | best sizes seen "
        "| a, N = G·C^a | published | off | b, D = H·C^b | published | off | other scatters |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for rung, (rows, fit) in rungs(data).items():
        found = fitted(rows, SCATTER)
        seen = sum(one.status == "seen" for one in found.budgets)
        told = [", ".join(rung[1:]), f"{seen} of {len(found.budgets)}"]
        for ours, name in ((found.size_exponent, "n"), (found.data_exponent, "t")):
            published, span = float(fit[f"w_{name}_exponent"]), ours.interval
            told += [f"{ours.value:.3f} ({span.low:.3f} to {span.high:.3f})", f"{published:.3f}"]
            told.append(f"{ours.value - published:+.3f}")
        others = [fitted(rows, times * SCATTER).size_exponent.value for times in (0, 3)]
        far = max(abs(one - float(fit["w_n_exponent"])) for one in others)
        print(f"| {' | '.join([*told, f'{far:.3f}'])} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
