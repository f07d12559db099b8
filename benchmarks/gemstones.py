"""What width and depth tell beyond the number of parameters: 14 shapes of Gemstones, ten lengths.

    OMP_NUM_THREADS=1 python benchmarks/gemstones.py DATA

First table: each law, of the cooled losses in the cheapest 60 % of compute, and of those at least
three times as dear, as `score.py` divides them; errors are root mean squares of the log. Losses of
one shape are off the law together, and so they are simulated for the intervals of 90 %. The last
two rows are averaged forecasts: the usual one, and one over both laws of width and depth. Second
table: of width-depth fitted to all, the best shape among those with so many parameters (at any
amount of data, since its shortages add), its interval over simulated studies, and by how much the
loss is higher at four times and a quarter of the aspect ratio.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chemscale.desk.forecast import extrapolate
from chemscale.desk.laws import Law
from chemscale.desk.profile import FittedLaw, fit_law
from chemscale.desk.solve import log_law
from chemscale.desk.surfaces import (
    additive,
    broken_in_data,
    kaplan,
    width_depth,
    width_depth_broken,
)

Array = np.ndarray


@dataclass(frozen=True)
class Runs:
    """Their columns."""

    shape: Array  # (n, 2) width, depth
    num_params: Array
    tokens: Array
    loss: Array

    def log_x(self, law: Law) -> Array:
        """The axes of a law."""
        sizes = self.shape if law.num_axes == 3 else self.num_params[:, None]
        return np.log(np.column_stack([sizes, self.tokens]))

    def where(self, kept: Array) -> Runs:
        """Some of them."""
        return Runs(*(one[kept] for one in (self.shape, self.num_params, self.tokens, self.loss)))

    def fitted(self, law: Law) -> FittedLaw:
        """A law with intervals that know what the lengths of one shape have in common."""
        _, cell = np.unique(self.shape, axis=0, return_inverse=True)
        seeds = None
        for _ in range(2):  # the scatter within a shape comes from a first fit
            found = fit_law(
                law,
                self.log_x(law),
                np.log(self.loss),
                cell,
                floor=True,
                seeds=seeds,
                rng=np.random.default_rng(0),
            )
            off = found.measured.residual(found.best[None])[0]
            off -= (np.bincount(cell, off) / np.bincount(cell))[cell]
            freedom = len(off) - cell.max() - 1
            seeds = float(np.sqrt((off**2).sum() / freedom)), int(freedom)
        return found


def read(data: Path) -> Runs:
    """The losses after cooldown."""
    with (data / "depth-width/gemstones_dev.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "cool_end"]
    names = ("width", "depth", "params_active_precise", "tokens", "final_loss")
    width, depth, num_params, tokens, loss = (
        np.array([float(row[name]) for row in rows]) for name in names
    )
    return Runs(np.stack([width, depth], axis=1), num_params, tokens, loss)


def forecasts(runs: Runs) -> None:
    """Print the first table."""
    flops = 6 * runs.num_params * runs.tokens
    cut = np.quantile(flops, 0.6)
    seen, ahead = flops <= cut, flops >= max(3 * cut, flops.max() / 4)
    cheap, dear = runs.where(seen), runs.where(ahead)
    print(f"{seen.sum()} losses fitted, {ahead.sum()} ahead:\n")
    print("| law | error, fitted | ahead | bias ahead | 90 % intervals hold | width, log |")
    print("| --- | --- | --- | --- | --- | --- |")
    for law in (additive, broken_in_data, kaplan, width_depth, width_depth_broken):
        found = cheap.fitted(law)
        own = np.sqrt(np.mean(found.measured.residual(found.best[None]) ** 2))
        ends = found.loss(dear.log_x(law))
        print(f"| {law.name} | {own:.4f} | {' | '.join(compared(dear.loss, *ends))} |")
    for name, laws in (
        ("averaged", None),
        ("averaged, width-depth", (width_depth, width_depth_broken)),
    ):
        law = laws[0] if laws else additive
        x, x_new = np.exp(cheap.log_x(law)), np.exp(dear.log_x(law))
        told = extrapolate(x, cheap.loss, x_new, run=range(len(x)), laws=laws)
        row = compared(dear.loss, told.value, *told.intervals[0.9])
        print(f"| {name} |  | {' | '.join(row)} |")


def compared(loss: Array, value: Array, low: Array, high: Array) -> list[str]:
    """Cells of the table: forecasts beside the losses that came."""
    off = np.log(value / loss)
    held = 100 * np.mean((low <= loss) & (loss <= high))
    error, width = np.sqrt(np.mean(off**2)), np.mean(np.log(high / low))
    return [f"{error:.4f}", f"{off.mean():+.4f}", f"{held:.0f}", f"{width:.3f}"]


def shapes(runs: Runs, sizes: tuple[float, ...]) -> None:
    """Print the second table."""
    found = runs.fitted(width_depth)
    # Exactly so for these models: embeddings c·W, and blocks k·W²·H.
    columns = np.stack([runs.shape[:, 0], runs.shape[:, 0] ** 2 * runs.shape[:, 1]], axis=1)
    (embedding, block), *_ = np.linalg.lstsq(columns, runs.num_params, rcond=None)
    log_width = np.linspace(np.log(32), np.log(16_384), 4_000)
    draws = np.vstack([found.best, found.rows[: len(found.free)]])
    tokens = np.full_like(log_width, found.origin[2])
    print("| parameters | best width | layers | width / layers | 4 times that | a quarter |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        left = size - embedding * np.exp(log_width)
        width = log_width[left > 0]
        depth = np.log(left[left > 0] / block) - 2 * width
        width, depth = width[depth >= 0], depth[depth >= 0]
        log_x = np.stack([width, depth, tokens[: len(width)]], axis=1) - found.origin
        losses = log_law(width_depth, log_x, draws)
        ratio = width - depth
        best = losses.argmin(axis=1)
        low, high = np.exp(np.quantile(ratio[best[1:]], [0.05, 0.95]))
        here = best[0]
        worse = [
            f"+{100 * (np.interp(ratio[here] + step, ratio, losses[0]) - losses[0, here]):.1f} %"
            for step in (np.log(4), -np.log(4))
        ]
        shape = f"{np.exp(width[here]):.0f} | {np.exp(depth[here]):.0f}"
        aspect = f"{np.exp(ratio[here]):.0f} ({low:.0f} to {high:.0f})"
        print(f"| {size:.0e} | {shape} | {aspect} | {worse[0]} | {worse[1]} |")
    told = found.parameters()
    words = []
    for name in ("irreducible_loss", *width_depth.parameters):
        span = told[name].interval
        words.append(
            f"{name} {told[name].value:.2f} ({span.low:.2f} to {span.high:.2f})"
            if span
            else f"{name} not identified"
        )
    print(f"\nFitted to all {len(runs.loss)}: {', '.join(words)}.")


def main(data: Path) -> None:
    """Print both."""
    runs = read(data)
    forecasts(runs)
    print()
    shapes(runs, (5e7, 1e8, 5e8, 2e9))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
