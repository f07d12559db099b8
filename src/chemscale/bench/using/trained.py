"""A trained model, out of the run that trained it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chemscale.bench.data.base import Dataset, Progress, open_dataset, silent
from chemscale.bench.data.tokens import SPECIAL, UNK, Molecules, Tokenizer
from chemscale.bench.models.base import LanguageModel, build, load_family
from chemscale.bench.training import checkpoint, tensors
from chemscale.bench.training.measure import DTYPES, default_device
from chemscale.table.errors import DataError, StoreError
from chemscale.table.record import Record
from chemscale.table.records import Notation, Run
from chemscale.table.store import RunFolder, StudyFolder


@dataclass(frozen=True)
class TrainedModel:
    """A language model with its final weights, ready to be used."""

    name: str  # for people: the folder of its run, or whatever it came from
    family: str
    model: LanguageModel  # in evaluation mode, on its device
    tokenizer: Tokenizer  # between its notation, symbols and SMILES

    @property
    def notation(self) -> Notation:
        """What its symbols spell."""
        return self.tokenizer.choices.notation

    @property
    def symbols(self) -> tuple[str, ...]:
        """The vocabulary by token id; the first four are special."""
        return self.tokenizer.symbols

    @property
    def config(self) -> Record:
        """The architecture."""
        return self.model.config

    @property
    def max_length(self) -> int:
        """The most tokens of a molecule that it can read, <bos> included."""
        return int(getattr(self.config, "max_length", 512))

    def unknown(self, symbols: Iterable[str]) -> list[str]:
        """Those symbols that are not in the vocabulary, each once."""
        known = set(self.symbols[len(SPECIAL) :])
        return sorted({symbol for symbol in symbols if symbol not in known})

    def ids(self, symbols: Iterable[str]) -> list[int]:
        """Token ids; <unk> for a symbol that is not in the vocabulary."""
        number = {symbol: index for index, symbol in enumerate(self.symbols)}
        return [number.get(symbol, UNK) for symbol in symbols]


def trained_runs(folder: StudyFolder) -> list[RunFolder]:
    """Runs of language models that a study asks for, ended, and whose final weights are there."""
    found = []
    for one in folder.trained():
        place = folder.open_run(one.run.id)
        if one.roles and one.run.unit == "molecule" and checkpoint.final(place) is not None:
            found.append(place)
    return found


def find(path: str | Path) -> tuple[StudyFolder, RunFolder]:
    """The run that is meant by its folder, or the best one with weights of a study folder.

    Best is the lowest loss per molecule on test.

    Raises:
        StoreError: no such run; none that is trained to its end and has its weights.
    """
    path = Path(path).expanduser().absolute()
    if (path / "run.json").is_file():
        return StudyFolder(path.parent.parent), RunFolder(path)
    folder = StudyFolder(path)

    def loss(place: RunFolder) -> float:
        outcome = place.outcome()
        assert outcome is not None
        return outcome.metrics.get("test", {}).get("nats_per_molecule", float("inf"))

    runs = trained_runs(folder)
    if not runs:
        raise StoreError(
            f"{folder.path}: no run with the final weights of a language model. Published studies "
            "come without weights; `chemscale train` makes them again"
        )
    return folder, min(runs, key=loss)


def load(
    path: str | Path, *, dataset: Dataset | None = None, progress: Progress = silent
) -> TrainedModel:
    """Load a trained language model: its final weights, with its dataset's vocabulary.

    Args:
        path: the folder of a run, a study folder, of which the best run is taken, or a folder
            that `adopt` made.
        dataset: of the study, where it is open already.
        progress: told how far the reading of the dataset is.

    Raises:
        StoreError: the run has no final weights.
        DataError: no language model, or the data is no longer what it was trained on.
    """
    if (Path(path) / "model.json").is_file():
        from chemscale.bench.using import adopted

        return adopted.load(Path(path))
    folder, place = find(path)
    weights = final_weights(place)
    run, name = place.run(), place.path.name
    dataset = dataset or open_dataset(folder.study().dataset, folder.path, progress)
    assert isinstance(dataset, Molecules)
    if dataset.fingerprint(run.trunk.num_train, run.trunk.seed) != run.trunk.dataset:
        raise DataError(
            f"{name}: the data changed since this run was trained, so its symbols may be others; "
            f"put back what {dataset.where} was"
        )
    family = load_family(run.trunk.family)
    config = family.Config.read(run.trunk.config, "run.json")
    model = build(family, config, 0, DTYPES[run.trunk.recipe.precision])
    files = tensors.Files(weights, "weights")
    model.load_state_dict({name: files[name] for name in files.names})
    assert isinstance(model, LanguageModel)
    model = model.to(default_device()).eval()
    return TrainedModel(name, run.trunk.family, model, dataset.tokenizer)


def final_weights(place: RunFolder) -> Path:
    """The file with the weights that a language model ended with.

    Raises:
        StoreError: there are none, and why.
        DataError: no language model.
    """
    run = place.run()
    if run.unit != "molecule":
        raise DataError(
            f"{place.path.name}: {run.trunk.family} learns from {run.unit}s; generate, embed, "
            "evaluate and probe are for language models"
        )
    weights = checkpoint.final(place)
    if weights is None:
        raise StoreError(f"{place.path}: {_why_none(place, run)}")
    return weights


def _why_none(place: RunFolder, run: Run) -> str:
    if not run.length.cooldown:
        return "a run of the search, never cooled down, so it has no final weights; take another"
    outcome = place.outcome()
    if outcome is None:
        return "not trained to its end yet; `chemscale train` goes on"
    if outcome.status != "finished":
        return f"it ended as {outcome.status} and has no final weights: {outcome.sentence}"
    return (
        "no weights here: published studies come without them, or checkpoints/ was cleared; "
        "train it again in a folder of its own"
    )
