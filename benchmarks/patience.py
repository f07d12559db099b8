"""What would patience have cost? Curves that were trained to the end, ended earlier in thought.

    python benchmarks/patience.py examples/*/ examples/finetune/*/

A trunk is ended where `out_of_patience` says so, and the means of four evaluations before and after
are compared. Ended wrongly: what came after was better by more than 1 %. Spared: items
of those ended rightly, as a share of a trunk's, mean over all. Trunks that patience did end have no
later part to judge by, so a smaller patience than theirs shows more.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chemscale.bench.training.recipe import FALL, SMOOTHED, out_of_patience
from chemscale.table.records import Length
from chemscale.table.store import StudyFolder

PATIENCE = (0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Ended:
    """A trunk that patience would have ended before it ended."""

    name: str
    spared: float  # share of its items
    missed: float  # logarithm of the loss before by that after; positive: it came lower


def replay(name: str, rows: list[dict[str, float]], length: Length) -> Ended | None:
    """End a trunk, unless it is not to be ended."""
    for count in range(1, len(rows)):
        if out_of_patience(rows[:count], length):
            break
    else:
        return None
    logs = np.log([row["val_loss"] for row in rows])
    means = np.convolve(logs, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
    there = count - SMOOTHED + 1
    spared = 1 - rows[count - 1]["items_seen"] / rows[-1]["items_seen"]
    return Ended(name, spared, float(means[:there].min() - means[there:].min()))


def main(studies: list[str]) -> None:
    """Replay every trunk of some studies under each patience, waiting and not."""
    curves, averaged = [], set()
    for folder in map(Path, studies):
        if not (folder / "study.toml").exists() or not (folder / "runs").is_dir():
            continue
        for one in StudyFolder(folder).trained():
            if "command" in one.run.trunk.config:
                continue  # its schedule is its own
            columns = {key: one.curve[key] for key in ("step", "items_seen", "val_loss")}
            rows = [
                {key: float(column[place]) for key, column in columns.items()}
                for place, phase in enumerate(one.curve["phase"])
                if phase != "cooldown" and columns["step"][place] > 0
            ]
            curves.append((f"{folder.name}/{one.run.folder_name}", rows))
            if one.run.trunk.recipe.ema > 0:
                averaged.add(curves[-1][0])
    print(f"{len(curves)} trunks of {len(studies)} studies, {len(averaged)} of averaged weights\n")
    print(
        "| patience | unless_falling | ended early | wrongly | by > 5 % | > 20 % | spared "
        "| averaged: ended | wrongly |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    worst: list[tuple[float, str]] = []
    for patience in PATIENCE:
        for waits in (False, True):
            length = Length(items=None, flops=1.0, patience=patience, unless_falling=waits)
            ended = [one for name, rows in curves if (one := replay(name, rows, length))]
            wrong = [one for one in ended if one.missed > FALL]
            counts = [sum(one.missed > np.log(1 + by) for one in wrong) for by in (0.05, 0.2)]
            rightly = sum(one.spared for one in ended if one.missed <= FALL) / len(curves)
            means = [one.missed > FALL for one in ended if one.name in averaged]
            print(
                f"| {patience:g} | {str(waits).lower()} | {len(ended)} | {len(wrong)} "
                f"| {counts[0]} | {counts[1]} | {100 * rightly:.1f} % "
                f"| {len(means)} | {sum(means)} |"
            )
            worst += [(one.missed, f"{patience:g} {waits}: {one.name}") for one in wrong]
    print("\nmissed most:")
    for missed, name in sorted(worst, reverse=True)[:6]:
        print(f"  {100 * np.expm1(missed):.0f} %  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
