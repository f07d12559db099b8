"""Trained models, out of the runs that trained them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from ase.data import chemical_symbols

from chemscale.bench.data.base import Dataset, Progress, silent
from chemscale.bench.data.token_batch import UNK
from chemscale.bench.data.tokens import SPECIAL, Molecules, Tokenizer
from chemscale.bench.models.base import Family, LanguageModel, Potential, build, load_family
from chemscale.bench.training import checkpoint, tensors
from chemscale.bench.training.devices import DTYPES, default_device
from chemscale.bench.training.ended import best, data_of, trained_runs
from chemscale.table.adopted import FILE
from chemscale.table.errors import DataError, StoreError
from chemscale.table.record import Record
from chemscale.table.records import Notation, Run
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder


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
        return [self.tokenizer.ids.get(symbol, UNK) for symbol in symbols]


@dataclass(frozen=True)
class TrainedPotential:
    """An interatomic potential with its final weights, ready to be used."""

    name: str  # for people: the folder of its run
    family: str
    model: Potential  # in evaluation mode, on its device

    @property
    def config(self) -> Record:
        """The architecture."""
        return self.model.config

    @property
    def cutoff(self) -> float:
        """How far an atom sees in one step, Å."""
        return self.model.cutoff

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements that it learnt, by atomic number."""
        known = torch.isfinite(self.model.references).nonzero().flatten().tolist()
        return tuple(chemical_symbols[number] for number in known)


def find(path: str | Path) -> tuple[StudyFolder, RunFolder]:
    """The run that is meant by its folder, or the best one with weights of a study folder.

    Best is the lowest loss per molecule on test, or the lowest error of forces, or of energies
    where no forces are learnt.

    Raises:
        StoreError: no such run; none that is trained to its end and has its weights.
    """
    path = Path(path).expanduser().absolute()
    if (path / "run.json").is_file():
        return StudyFolder(path.parent.parent), RunFolder(path)
    if (path / "config.json").is_file():
        raise StoreError(
            f"{path}: a folder of transformers; `chemscale adopt {path.name} ANOTHER` makes one of "
            "chemscale of it"
        )
    folder = StudyFolder(path)
    runs = trained_runs(folder)
    if not runs:
        raise StoreError(
            f"{folder.path}: no run with the final weights of a model. Published studies "
            "come without weights; `chemscale train` makes them again"
        )
    return folder, best(runs)


def seeds_of(place: RunFolder) -> list[RunFolder]:
    """The runs of its study that differ from a run in their seed only, it among them.

    Raises:
        StoreError: there is no other with its weights.
    """
    folder, wanted = StudyFolder(place.path.parent.parent), place.run()

    def alike(run: Run) -> bool:
        one, other = run.trunk, wanted.trunk
        same = (one.family, one.config, one.num_train, one.recipe)
        return same == (other.family, other.config, other.num_train, other.recipe) and (
            run.length == wanted.length
        )

    found = [one for one in trained_runs(folder) if alike(one.run())]
    if len(found) < 2:
        raise StoreError(
            f"{place.path.name}: a committee takes runs of several seeds, and no other than this "
            "one has its weights here; raise `seeds` in study.toml, or name the runs one by one"
        )
    return sorted(found, key=lambda one: one.run().trunk.seed)


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
    if (Path(path) / FILE).is_file():
        from chemscale.bench.using import adopted

        return adopted.load(Path(path))
    _, place = find(path)
    run, name = place.run(), place.path.name
    if run.unit != "molecule":
        raise DataError(
            f"{name}: {run.trunk.family} learns from {run.unit}s; generate, embed and probe are "
            "for language models"
        )
    weights = final_weights(place)
    dataset = data_of(place, dataset, progress)
    assert isinstance(dataset, Molecules)
    model = _read(run, weights).to(default_device())
    assert isinstance(model, LanguageModel)
    return TrainedModel(name, run.trunk.family, model, dataset.tokenizer)


def load_potential(
    path: str | Path, *, device: torch.device | None = None, dtype: str | None = None
) -> TrainedPotential:
    """Load a trained interatomic potential. Its data is not needed.

    Args:
        path: the folder of a run, or a study folder, of which the best run is taken.
        device: where it computes; by default a GPU, if there is one.
        dtype: "float32" or "float64"; by default that of the training.

    Raises:
        StoreError: the run has no final weights.
        DataError: no potential, or no such dtype.
    """
    if dtype not in (None, "float32", "float64"):
        raise DataError(f"dtype {dtype!r}: one of float32, float64")
    _, place = find(path)
    run = place.run()
    if run.unit != "structure":
        raise DataError(
            f"{place.path.name}: {run.trunk.family} learns from {run.unit}s; energies and forces "
            "are told by interatomic potentials"
        )
    model = _read(run, final_weights(place)).to(device or default_device())
    assert isinstance(model, Potential)
    if dtype is not None:
        references = model.references  # always in double precision
        model.to(DTYPES[dtype]).references = references
    return TrainedPotential(place.path.name, run.trunk.family, model)


def unit_of(path: str | Path) -> str:
    """What the model meant by a path learns from, "molecule" or "structure"."""
    return "molecule" if (Path(path) / FILE).is_file() else find(path)[1].run().unit


def _read(run: Run, weights: Path) -> Family:
    """The model of a run with its weights, in evaluation mode."""
    family = load_family(run.trunk.family)
    config = family.Config.read(run.trunk.config, "run.json")
    model = build(family, config, 0, DTYPES[run.trunk.recipe.precision])
    files = tensors.Files(weights, "weights")
    model.load_state_dict({name: files[name] for name in files.names})
    return model.eval()


def final_weights(place: RunFolder) -> Path:
    """The file with the weights that a model ended with.

    Raises:
        StoreError: there are none, and why.
    """
    run = place.run()
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
