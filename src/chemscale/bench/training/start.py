"""What a run starts from instead of chance: the weights that another run ended with, or adopted.

Of a potential everything is taken but the reference energies, which are those of the new training
subset: total energies of another level of theory lie elsewhere. The scale is taken too, because
the weights were made for it: network output times scale is in eV, and another scale would multiply
all forces of the pre-trained model. Embeddings of elements it never saw start fresh.

Of a language model everything is taken. Its vocabulary must have all symbols of the new data; the
rows of other symbols are left behind, and what they had of the softmax falls to the rest. So are
those of places beyond the longest molecule of the new data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chemscale.bench.data.base import Dataset
from chemscale.bench.data.tokens import Molecules
from chemscale.bench.models.base import Family, LanguageModel, load_family
from chemscale.bench.models.counterpart import Counterpart
from chemscale.bench.training import checkpoint, tensors
from chemscale.bench.training.ended import best, data_of, trained_runs
from chemscale.table import adopted
from chemscale.table.errors import DataError, StoreError
from chemscale.table.records import Notation
from chemscale.table.registry import families
from chemscale.table.results import Size
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder


@dataclass(frozen=True)
class Source:
    """What is started from."""

    weights: Path  # a checkpoint, or an adopted folder
    symbols: tuple[str, ...] = ()  # of a language model, by token id
    note: str = ""  # on what it saw before, a sentence


def source(given: str | dict[str, str], folder: Path, size: Size, dataset: Dataset) -> Source:
    """What runs of a size start from.

    Args:
        given: `start_from` of the recipe: a run, study or adopted folder, or one for each size.
        folder: what relative paths start at.
        size: of the study that starts.
        dataset: of that study.

    Raises:
        StoreError: nothing is there, or no final weights of this family and size.
        DataError: the family, its config or the notation is another, a symbol is missing, or the
            data of a language model that is started from are no longer there.
    """
    of = f"start_from for {size.family} {size.size}"
    if isinstance(given, dict):
        if size.size not in given:
            raise DataError(f"{of}: no such size among {', '.join(sorted(given))}; add it")
        given = given[size.size]
    path = folder / Path(given).expanduser()
    if (path / adopted.FILE).is_file():
        return _adopted(path, size, dataset, of)
    place = RunFolder(path) if (path / "run.json").is_file() else _best(path, size, of)
    found = checkpoint.final(place)
    if found is None:
        raise StoreError(f"{of}: {path} has no final weights; name a run trained to its end")
    trunk, name = place.run().trunk, place.path.name
    if (trunk.family, trunk.family_revision) != (size.family, size.revision):
        raise DataError(
            f"{of}: {name} is {trunk.family}, revision {trunk.family_revision}; this is "
            f"{size.family}, revision {size.revision}"
        )
    _refuse_config(name, trunk.config, size, of)
    if not isinstance(dataset, Molecules):
        return Source(found)
    return _with_symbols(place, found, dataset, of)


def digest(weights: Path) -> str:
    """Identity of a checkpoint's weights, however many ranks wrote them."""
    files, found = tensors.Files(weights, "weights"), hashlib.sha256()
    for name in files.names:
        value = files[name].contiguous()
        found.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:20]


@torch.no_grad()
def start(model: Family, found: Source, symbols: Sequence[str]) -> None:
    """Put pre-trained weights into a freshly built and calibrated model.

    Args:
        model: of the run that starts.
        found: what it starts from.
        symbols: the vocabulary of its data; empty for structures.
    """
    files = tensors.Files(found.weights, "weights")
    if isinstance(model, LanguageModel):
        number = {symbol: row for row, symbol in enumerate(found.symbols)}
        rows = torch.tensor([number[symbol] for symbol in symbols])
        for name, value in model.state_dict().items():
            # Of a table of places, those that are not needed are the last.
            value.copy_(files[name][rows] if name in model.by_symbol else files[name][: len(value)])
        return
    known = torch.isfinite(files["references"])  # (101,) by atomic number
    by_element = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings == len(known)
    }
    for name, value in model.state_dict().items():
        if name in by_element:
            value[known] = files[name][known].to(value.dtype)
        elif name != "references":
            value.copy_(files[name])


def _best(path: Path, size: Size, of: str) -> RunFolder:
    """The best of a study's runs of that family and size."""
    if not path.is_dir():
        raise StoreError(
            f"{of}: {path} is no folder; give that of a run, a study or an adopted model"
        )
    wanted = (size.family, size.size)
    alike = [
        place
        for place in trained_runs(StudyFolder(path))
        if (place.run().trunk.family, place.run().size) == wanted
    ]
    if not alike:
        raise StoreError(
            f"{of}: no run of that family and size with final weights in {path}. `chemscale train` "
            "makes them; published studies come without"
        )
    return best(alike)


def _with_symbols(place: RunFolder, weights: Path, dataset: Molecules, of: str) -> Source:
    """A run's language model that knows all symbols of a dataset."""
    before, name = data_of(place), place.path.name
    assert isinstance(before, Molecules)
    symbols = before.vocabulary()
    _refuse_symbols(name, symbols, before.tokenizer.choices.notation, dataset, of)
    trunk = place.run().trunk
    seen = before.content[before.subset(trunk.num_train, trunk.seed), 0]
    judged = dataset.content[dataset.indices("test"), 0]
    both = int(np.isin(judged, seen).sum())
    note = f"start_from: {both:,} of {len(judged):,} test molecules are among those that "
    return Source(weights, symbols, f"{note}{name} was trained on" if both else "")


def _adopted(path: Path, size: Size, dataset: Dataset, of: str) -> Source:
    """An adopted language model: of the same network, whatever its family is called."""
    told, name = adopted.read(path), path.name
    networks = [load_family(n).counterpart for n in (told.family, size.family)]
    if not isinstance(dataset, Molecules) or networks[0] is not networks[1]:
        raise DataError(
            f"{of}: {name} is {told.family}, another network; start {told.family} from it"
        )
    if told.family_revision != size.revision:
        raise DataError(
            f"{of}: {name} is of revision {told.family_revision}, this of {size.revision}; adopt "
            "it again"
        )
    try:
        _refuse_config(name, told.config, size, of)
    except DataError as error:
        raise DataError(f"{error}. {_sizes(told.config, networks[0])}") from None
    _refuse_symbols(name, told.symbols, told.notation, dataset, of)
    note = f"start_from: what {name} was trained on is not known; test molecules may be among it"
    return Source(path, told.symbols, note)


def _refuse_symbols(
    name: str, symbols: Sequence[str], notation: Notation, dataset: Molecules, of: str
) -> None:
    here = dataset.tokenizer.choices.notation
    if notation != here:
        raise DataError(f"{of}: {name} is spelt in {notation}, this dataset in {here}")
    if missing := sorted(set(dataset.vocabulary()) - set(symbols)):
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise DataError(
            f"{of}: {name} was trained without {' '.join(missing[:20])}{more}, which "
            "molecules of this dataset have. Start from a model of data that has them, or leave "
            "those molecules out (stereo = 'drop', charges = 'neutralize' in [dataset] may do)"
        )


def _refuse_config(name: str, there: Mapping[str, Any], size: Size, of: str) -> None:
    here = size.config
    # The vocabulary is that of the data, and looked at symbol by symbol.
    fields = sorted({*there, *here} - {"vocab_size"})
    if there.get("max_length", 0) > here.get("max_length", 0):
        fields.remove("max_length")  # longer than needed
    other = [
        f"{field} is {there.get(field)!r} there and {here.get(field)!r} here"
        for field in fields
        if there.get(field) != here.get(field)
    ]
    if other:
        raise DataError(f"{of}: {name} has another config: {'; '.join(other)}")


def _sizes(config: Mapping[str, Any], network: Counterpart | None) -> str:
    """Which sizes are alike but for what follows from the data, a sentence."""
    fields = config.keys() - {"vocab_size", "max_length"}
    alike = [
        f"{size} of {name}"
        for name in families.names()
        if (family := load_family(name)).counterpart is network
        for size, rung in family.ladder.items()
        if all(rung.model_dump(mode="json").get(key) == config[key] for key in fields)
    ]
    return f"It is {' and '.join(alike)}" if alike else "No size of ours is like it"
