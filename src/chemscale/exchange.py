"""The verbs that carry models in and out: `export` and `adopt`. Loading this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chemscale.progress import Watch, quiet
from chemscale.table.adopted import FILE, Adopted, Gate, read
from chemscale.table.errors import DataError, MissingPackage, UsageError
from chemscale.using import language_model, need_bench

if TYPE_CHECKING:
    from chemscale.bench.using.metatomic import Agreement
    from chemscale.bench.using.trained import TrainedPotential

FORMATS = {"molecule": "hf", "structure": "metatomic"}  # by what a model learns from


def export(
    path: str | Path,
    target: str | Path,
    *,
    to: str | None = None,
    dtype: str | None = None,
    watch: Watch = quiet,
) -> Gate | Agreement:
    """Write a trained model for other software; returns what was seen of it on the way.

    A language model becomes a folder for `transformers` with a card. One with faults is written
    all the same, and its card says so: it is what was trained. A potential becomes a file of
    metatomic, for LAMMPS, i-PI, ASE and others.

    Args:
        path: folder of a run, a study (its best model), or an adopted model.
        target: where; it must not be there yet. That of a potential ends in .pt.
        to: "hf" or "metatomic"; by default what the model can become.
        dtype: of a potential: "float32" or "float64"; by default that of the training.
        watch: told about progress.

    Raises:
        UsageError: no such format, not for this model, or the target is there.
        StoreError: no run with its final weights.
        DataError: the data of a language model has changed.
        MissingPackage: metatomic is needed.
    """
    if to not in (None, *FORMATS.values()):
        raise UsageError(f"--to {to}: one of {', '.join(FORMATS.values())}")
    need_bench()
    from chemscale.bench.using import to_transformers, trained

    path, target = Path(path).expanduser(), Path(target).expanduser()
    to_transformers.refuse_existing(target)
    unit = trained.unit_of(path)
    if to not in (None, FORMATS[unit]):
        raise UsageError(f"--to {to}: {path} learns from {unit}s, and goes to {FORMATS[unit]}")
    if unit == "structure":
        return _potential(path, target, dtype)
    if dtype is not None:
        raise UsageError("dtype is for potentials; a language model keeps that of its training")
    return _transformers(path, target, watch)


def _potential(path: Path, target: Path, dtype: str | None) -> Agreement:
    if target.suffix != ".pt":
        raise UsageError(f"{target}: engines expect a name that ends in .pt")
    import torch

    from chemscale.bench.using import card, trained

    study, place = trained.find(path)
    model = trained.load_potential(place.path, device=torch.device("cpu"), dtype=dtype)
    refuse(model)
    try:
        from chemscale.bench.using import metatomic
    except ModuleNotFoundError as error:
        raise MissingPackage.of("metatomic-torch", "export", "export of a potential") from error
    outcome = place.outcome()
    assert outcome is not None
    text = card.of_potential(model, place.run(), outcome, study.study().dataset)
    return metatomic.write(model, target, text)


def refuse(potential: TrainedPotential) -> None:
    """Say why engines cannot run a family.

    Raises:
        UsageError: they cannot.
    """
    kind = type(potential.model)
    reasons = []
    if not kind.local:
        reasons.append("sums over all pairs of atoms, where engines hand over neighbours only")
    if kind.charged:
        reasons.append("takes charge and spin, which engines such as LAMMPS do not hand over")
    if reasons:
        raise UsageError(
            f"{potential.name}: {potential.family} cannot go to metatomic: it "
            f"{', and it '.join(reasons)}. In ASE it runs by chemscale.calculator"
        )


def _transformers(path: Path, folder: Path, watch: Watch) -> Gate:
    from chemscale.bench.using import card, gate, to_transformers, trained

    model = language_model(path, watch)
    seen = gate.pass_gate(model)
    if (path / FILE).is_file():
        told = read(path)
        text = card.of_adopted(model, seen, told.source, told.repairs, told.limits)
    else:
        study, place = trained.find(path)
        outcome = place.outcome()
        assert outcome is not None
        text = card.of_run(model, seen, place.run(), outcome, study.study().dataset, study.notes())
    to_transformers.write(model, folder, text)
    return seen


def adopt(source: str | Path, folder: str | Path, *, anyway: bool = False) -> Adopted:
    """Take a model from a folder of `transformers` into one that our verbs use.

    What is known to be wrong with the released ChemGPT is put right, and said.

    Args:
        source: the folder: config.json, model.safetensors, tokenizer.json.
        folder: where; it must not be there yet.
        anyway: take a model that the gate finds broken too.

    Raises:
        UsageError: the folder is there.
        DataError: what is wrong and cannot be put right, or the gate refused.
    """
    need_bench()
    from chemscale.bench.using import adopted, card, from_transformers, gate, to_transformers

    source, folder = Path(source).expanduser(), Path(folder).expanduser()
    to_transformers.refuse_existing(folder)
    found = from_transformers.read(source)
    model = found.trained
    seen = gate.pass_gate(model)
    if seen.faults and not anyway:
        raise DataError(
            f"{source}: this looks like a broken model: {'; '.join(seen.faults)}. --anyway takes "
            "it nevertheless"
        )
    origin = f"A folder of transformers named {source.resolve().name}"
    told = Adopted(
        family=model.family,
        family_revision=type(model.model).revision,
        config=model.config.model_dump(mode="json"),
        notation=model.notation,
        symbols=model.symbols,
        source=origin,
        repairs=found.repairs,
        limits=found.limits,
        gate=seen,
    )
    text = card.of_adopted(model, seen, origin, found.repairs, found.limits)
    adopted.write(folder, model, told, text)
    return told
