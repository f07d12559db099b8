"""What a report of a scaling law should say, filled in from what the fit knows.

The items are those that most published fits leave out ((Mis)Fitting, Li et al. 2025). An item that
the points do not tell says what is missing and how to supply it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chemscale.desk.bootstrap import NUM_DRAWS, TOLERANCE
from chemscale.desk.sample import Sample
from chemscale.desk.sentences import excluded_words, number, plural
from chemscale.table.fits import LawFit, Reported, SurfaceFit
from chemscale.table.results import Point

Law = LawFit | SurfaceFit


def checklist(
    points: Sequence[Point],
    sample: Sample,
    laws: Sequence[Law],
    excluded: Sequence[tuple[str, str]],
    seed: int,
) -> tuple[Reported, ...]:
    """Fill in the checklist of one family.

    Args:
        points: all of the family, those that were not fitted, too.
        sample: what was fitted.
        laws: fitted to it.
        excluded: run and reason of those left out.
        seed: of the bootstrap.
    """
    kept = sample.points
    fitted = [law for law in laws if law.draws]
    left_out = excluded_words(excluded, len(kept))
    unit = plural(kept[0].unit) if kept and kept[0].unit else ""
    return (
        Reported(
            item="form and why",
            value="; ".join(map(_form, fitted)) or None,
            missing="" if fitted else "no law: three num_train or three sizes are needed",
        ),
        Reported(
            item="what N, D and C count",
            value="N: num_params, without embeddings; D: num_train, different training "
            f"{unit or 'items'}; C: FLOPs of training to where a run ended",
            missing=_lacking(kept, "flops") or ("" if unit else "what num_train counts: unit"),
        ),
        Reported(
            item="which checkpoints",
            value="the end of each run's schedule, cooled down; none from the middle of one",
        ),
        Reported(
            item="learning rate and batch size",
            value=_range(kept, "learning_rate", "learning rate")
            + _range(kept, "batch_size", "; batch size"),
            missing=_lacking(kept, "learning_rate", "batch_size"),
        ),
        Reported(
            item="schedule and warmup",
            missing="they stand in the recipe of study.toml; for a bare table, say them beside it",
        ),
        Reported(item="runs left out, and why", value=left_out or "none"),
        Reported(item="loss and its delta", value="; ".join(map(_loss, fitted)) or None),
        Reported(item="optimiser, starts, tolerance", value=_optimiser(fitted) if fitted else None),
        Reported(
            item="bootstrap",
            value=f"{NUM_DRAWS:,} data sets, by run within its cell, seed {seed}; the scale of "
            "the scatter drawn anew for each",
        ),
        _held_out(points, kept),
        _seeds(sample),
        Reported(
            item="raw table",
            value="points.csv of the study folder, or the table given; the ids of the runs of "
            "each law are in fit.json (points)",
        ),
        Reported(
            item="sensitivity to each run",
            value="every law again without each run, size and num_train (influence)",
            missing="" if any(law.influence for law in fitted) else "no law was fitted",
        ),
    )


def _optimiser(fitted: Sequence[Law]) -> str:
    reached = "; ".join(f"{_name(law)} {law.starts[0]} of {law.starts[1]}" for law in fitted)
    return (
        "variable projection over a grid of exponents, then Levenberg-Marquardt, relative "
        f"tolerance {TOLERANCE:g}; starts that reach the best value: {reached}"
    )


def _form(law: Law) -> str:
    if isinstance(law, SurfaceFit):
        return f"{_name(law)}: E + A·N^-a + B·D^-b, given"
    form = "E + A·x^-a" if law.law == "power-floor" else "A·x^-a"
    return f"{_name(law)}: {form}, by the corrected Akaike criterion where there are five x"


def _name(law: Law) -> str:
    return "surface" if isinstance(law, SurfaceFit) else f"along {law.axis}"


def _loss(law: Law) -> str:
    delta = "squares, too few runs for Huber" if law.delta is None else f"Huber {number(law.delta)}"
    return f"{_name(law)}: {delta}, of the log loss"


def _lacking(points: Sequence[Point], *columns: str) -> str:
    """Which of the columns are not filled for all points, and what to do."""
    told = []
    for column in columns:
        count = sum(getattr(point, column) is None for point in points)
        if count:
            told.append(f"{column} of {count} of {len(points)} runs: fill that column")
    return "; ".join(told)


def _range(points: Sequence[Point], column: str, words: str) -> str:
    values = [value for point in points if (value := getattr(point, column)) is not None]
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{words} {low:g}" if low == high else f"{words} {low:g} to {high:g}, by run"


def _held_out(points: Sequence[Point], kept: Sequence[Point]) -> Reported:
    """Runs beyond what was fitted, which a forecast can be judged by."""
    item = "held-out largest runs"
    cells = {(point.num_params, point.num_train) for point in kept}
    beyond = [
        point
        for point in points
        if point.role.startswith("plans/")
        and all(point.num_params > cell[0] or point.num_train > cell[1] for cell in cells)
    ]
    if beyond:
        return Reported(item=item, value=f"{len(beyond)} runs of plans, none of them fitted")
    return Reported(
        item=item,
        missing="none: leave the largest to a plan (hold_out in study.toml), write its forecast "
        "with `chemscale plan`, then train it",
    )


def _seeds(sample: Sample) -> Reported:
    if not sample.points:
        return Reported(item="seeds", missing="no run was fitted")
    counts = np.bincount(sample.cell)
    alone = int((counts == 1).sum())
    span = (
        f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    )
    return Reported(
        item="seeds",
        value=f"{span} a cell, {len(counts)} cells",
        missing=f"{alone} cells have one seed: seeds in study.toml" if alone else "",
    )
