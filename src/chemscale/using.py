"""The verbs that put a trained model to work: `generate`, `embed`, `probe`, `calculator`.

Each takes a study folder, of which the best model is used, the folder of one run, or a model loaded
before. Loading this imports no torch; calling does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.progress import Watch, counting, preparing, quiet
from chemscale.table.errors import MissingPackage, UsageError

if TYPE_CHECKING:
    from chemscale.bench.using.calculator import PotentialCalculator
    from chemscale.bench.using.embed import Embedded
    from chemscale.bench.using.generate import Sample
    from chemscale.bench.using.probe import Probed
    from chemscale.bench.using.trained import TrainedModel, TrainedPotential


def load_model(path: str | Path, *, watch: Watch = quiet) -> TrainedModel | TrainedPotential:
    """Load the model of a run, or the best one of a study.

    Args:
        path: folder of a study, of a run, or of an adopted model.
        watch: told about progress.

    Raises:
        StoreError: no run with its final weights.
        DataError: the data of a language model has changed.
    """
    need_bench()
    from chemscale.bench.using.trained import load_potential, unit_of

    return load_potential(path) if unit_of(path) == "structure" else language_model(path, watch)


def calculator(
    model: str | Path | Sequence[str | Path],
    *,
    committee: bool = False,
    dtype: str | None = None,
    device: str | None = None,
    skin: float = 0.5,
) -> PotentialCalculator:
    """A trained interatomic potential, or several, as a calculator of ASE.

    Args:
        model: folder of a run, or a study, of which the best run is taken; a list of these is a
            committee.
        committee: take with one run those of the study that differ in their seed only.
        dtype: "float32" or "float64"; by default that of the training. Double precision is for
            tight relaxations and vibrations.
        device: such as "cpu" or "cuda"; by default a GPU, if there is one.
        skin: Å, how much farther than the cutoff neighbours are looked for.

    Raises:
        StoreError: no run with its final weights, or no other seed.
        DataError: no potential.
    """
    need_bench()
    import torch

    from chemscale.bench.using.calculator import PotentialCalculator
    from chemscale.bench.using.trained import find, load_potential, seeds_of

    paths = [model] if isinstance(model, str | Path) else list(model)
    if committee:
        if len(paths) != 1:
            raise UsageError("committee = True goes with one study or run; a list is one anyway")
        paths = [place.path for place in seeds_of(find(paths[0])[1])]
    where = None if device is None else torch.device(device)
    members = [load_potential(path, device=where, dtype=dtype) for path in paths]
    return PotentialCalculator(members, skin=skin)


def generate(
    model: str | Path | TrainedModel, count: int = 100, *, watch: Watch = quiet, **settings: Any
) -> list[Sample]:
    """Sample molecules; the settings are those of `chemscale.bench.using.generate.generate`.

    Args:
        model: path or model.
        count: how many, for each prompt.
        watch: told about progress.
        **settings: prompts, temperature, top_k, top_p, seed, batch_size, max_length.
    """
    trained = language_model(model, watch)
    from chemscale.bench.using.generate import generate as generating

    total = count * max(1, len(settings.get("prompts") or ()))
    with counting(watch, total) as counter:
        return generating(trained, count, progress=partial(counter, "sampling"), **settings)


def embed(
    model: str | Path | TrainedModel,
    smiles: Sequence[str],
    *,
    watch: Watch = quiet,
    **settings: Any,
) -> Embedded:
    """Turn molecules into vectors; the settings are those of `chemscale.bench.using.embed.embed`.

    Args:
        model: path or model.
        smiles: the molecules.
        watch: told about progress.
        **settings: layer, pooling, unknown, max_rejected.
    """
    trained = language_model(model, watch)
    from chemscale.bench.using.embed import embed as embedding

    with counting(watch, len(smiles)) as counter:
        return embedding(trained, smiles, progress=partial(counter, "embedding"), **settings)


def probe(
    model: str | Path | TrainedModel,
    smiles: Sequence[str],
    targets: Mapping[str, Sequence[float]],
    *,
    watch: Watch = quiet,
    **settings: Any,
) -> Probed:
    """Read properties off embeddings and fingerprints; see `chemscale.bench.using.probe.probe`.

    Args:
        model: path or model.
        smiles: the molecules.
        targets: name → a value for each, NaN where there is none.
        watch: told about progress.
        **settings: num_splits, layer, pooling, unknown, max_rejected.
    """
    trained = language_model(model, watch)
    from chemscale.bench.using.probe import probe as probing

    with preparing(watch) as progress:
        return probing(trained, smiles, targets, progress=progress, **settings)


def language_model(model: str | Path | TrainedModel, watch: Watch) -> TrainedModel:
    """The language model of a run, a study or an adopted folder; one that is loaded, as it is."""
    need_bench()
    if not isinstance(model, str | Path):
        return model
    from chemscale.bench.using.trained import load

    with preparing(watch) as progress:
        return load(model, progress=progress)


def need_bench() -> None:
    """Say what to install where torch or RDKit is missing.

    Raises:
        MissingPackage: either is.
    """
    with MissingPackage.told("train", "using a trained model"):
        import rdkit  # noqa: F401
        import torch  # noqa: F401
