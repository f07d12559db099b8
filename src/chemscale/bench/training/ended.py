"""Runs that ended with the weights of a model: which of a study, the best, and what it learnt."""

from __future__ import annotations

from collections.abc import Iterable

from chemscale.bench.data.base import Dataset, Progress, open_dataset, silent
from chemscale.bench.training import checkpoint
from chemscale.table.errors import DataError
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder

# What is told on test, the first there is. Losses of potentials do not compare: their unit is the
# RMS force of a training subset.
JUDGED = ("nats_per_molecule", "force_mae", "energy_mae")


def trained_runs(folder: StudyFolder) -> list[RunFolder]:
    """Runs that a study asks for, ended, and whose final weights are there."""
    places = (folder.open_run(one.run.id) for one in folder.trained() if one.roles)
    return [place for place in places if checkpoint.final(place) is not None]


def best(places: Iterable[RunFolder]) -> RunFolder:
    """The run of lowest error on test: nats per molecule, or forces, or energies without forces."""

    def error(place: RunFolder) -> tuple[float, str]:
        outcome = place.outcome()
        test = outcome.metrics.get("test", {}) if outcome else {}
        found = next((test[name] for name in JUDGED if name in test), float("inf"))
        return found, place.run().id

    return min(places, key=error)


def data_of(
    place: RunFolder, dataset: Dataset | None = None, progress: Progress = silent
) -> Dataset:
    """The data that a run learnt from and was judged on.

    Args:
        place: the run, in its study.
        dataset: of the study, where it is open already.
        progress: told how far the reading is.

    Raises:
        DataError: it is no longer what it was.
    """
    trunk = place.run().trunk
    if dataset is None:
        folder = StudyFolder(place.path.parent.parent)
        dataset = open_dataset(folder.study().dataset, folder.path, progress)
    if dataset.fingerprint(trunk.num_train, trunk.seed, trunk.recipe.more_labels) != trunk.dataset:
        raise DataError(
            f"{place.path.name}: the data changed since this run was trained, so its splits and "
            f"symbols may be others; put back what {dataset.where} was"
        )
    return dataset
