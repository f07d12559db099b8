"""What trained models are good for, as tables on the terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from chemscale.table.evaluation import ErrorSettings, Evaluated, Evaluation
from chemscale.table.store import StudyFolder
from chemscale.tables import number, print_columns

if TYPE_CHECKING:
    from chemscale.bench.using.probe import Probed


def print_evaluation(found: Evaluation, path: Path) -> None:
    """What the samples of each model are like, best loss last, beside training molecules."""
    folder = StudyFolder(path.parent.parent if (path / "run.json").is_file() else path)
    trained = {one.run.id: one for one in folder.trained()}
    reference = ", ".join(f"{count:,} of {split}" for split, count in found.num_reference.items())
    if isinstance(found.settings, ErrorSettings):
        _print_errors(found, {run: one.run.folder_name for run, one in trained.items()})
        print(f"\nErrors over {reference}. All in evaluation.json.")
        return
    shown = {
        "ended": "ended", "validity": "valid", "unique": "unique", "novelty": "novel",
        "memorised": "memorised", "internal_diversity": "diversity", "snn": "SNN",
        "fragments": "fragments", "scaffolds": "scaffolds", "fcd": "FCD",
    }  # fmt: skip
    rows: list[tuple[float, str, dict[str, float]]] = []
    for one in found.runs:
        run = trained.get(one.run)
        test = run.outcome.metrics.get("test", {}) if run else {}
        name = run.run.folder_name if run else one.run
        rows.append((test.get("nats_per_molecule", math.inf), name, one.metrics))
    rows.sort(key=lambda row: (-row[0], row[1]))
    cells = [
        (name, number(loss), *(number(metrics.get(key)) for key in shown))
        for loss, name, metrics in rows
    ]
    floor = ("training molecules", "–", *(number(found.floor.get(key)) for key in shown))
    print_columns(("run", "nats/molecule", *shown.values()), [*cells, floor])
    print(f"\n{found.settings.num_samples:,} samples of each model, against {reference}.")
    print("More in evaluation.json; `chemscale report` draws it against the loss.")


ERRORS = {
    "energy_mae": "energy MAE, meV/atom", "force_mae": "force MAE, meV/Å",
    "stress_mae": "stress MAE, meV/Å³",
    "force_cosine": "force cosine", "nve_ps": "NVE, ps", "nve_stable": "stable",
    "nve_drift": "drift, meV/atom/ps",
}  # fmt: skip


def _print_errors(found: Evaluation, names: dict[str, str]) -> None:
    def worst_first(one: Evaluated) -> tuple[float, str]:
        return -one.metrics.get("force_mae", one.metrics.get("energy_mae", 0.0)), one.run

    runs = sorted(found.runs, key=worst_first)
    shown = [name for name in ERRORS if any(name in one.metrics for one in runs)]
    shifted = [name for name in shown if any(f"shift_{name}" in one.metrics for one in runs)]
    keys = [*shown, *(f"shift_{name}" for name in shifted)]
    head = [*(ERRORS[name] for name in shown), *(f"shift: {ERRORS[name]}" for name in shifted)]
    print_columns(
        ("run", *head),
        [
            (names.get(one.run, one.run), *(_cell(key, one.metrics.get(key)) for key in keys))
            for one in runs
        ],
    )
    for what, title in (("element", "element"), ("kind", "formula"), ("config", "config_type")):
        best = runs[-1].metrics
        start = f"force_mae.{what}."
        rows = [
            (name.removeprefix(start), number(value))
            for name, value in best.items()
            if name.startswith(start)
        ]
        if rows:
            print(f"\n  of the best, {names.get(runs[-1].run, runs[-1].run)}:")
            print_columns((title, "force MAE, meV/Å"), rows)


def _cell(key: str, value: float | None) -> str:
    if key == "nve_stable" and value is not None:
        return "yes" if value else "no"
    return number(value)


def print_probed(found: Probed) -> None:
    """How well properties are told from embeddings, and from fingerprints."""
    metric = found.scores[0].metric if found.scores else ""
    print_columns(
        ("features", "model", metric, "spread over splits"),
        [(one.features, one.model, number(one.value), f"{one.spread:.2g}") for one in found.scores],
    )
    print(
        f"\n{found.num_molecules:,} molecules, split by scaffold; lower rmse, higher roc_auc win."
    )
    if found.num_unknown:
        print(f"{found.num_unknown:,} of them have symbols that the model does not know.")
    if found.num_left_out:
        print(f"{found.num_left_out} targets of a split had one class only and were left out.")
