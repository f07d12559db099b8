"""The verbs that carry models in and out: `export` and `adopt`. Loading this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chemscale.progress import Watch, quiet
from chemscale.table.errors import DataError, UsageError
from chemscale.using import _language, need_bench

if TYPE_CHECKING:
    from chemscale.bench.using.adopted import Adopted
    from chemscale.bench.using.gate import Gate

FORMATS = ("hf",)


def export(path: str | Path, folder: str | Path, *, to: str = "hf", watch: Watch = quiet) -> Gate:
    """Write a trained model for another library, with its card; returns what the gate saw.

    A model with faults is written all the same, and its card says so: it is what was trained.

    Args:
        path: folder of a run, a study (its best model), or an adopted model.
        folder: where; it must not be there yet.
        to: "hf", a folder for `transformers`.
        watch: told about progress.

    Raises:
        UsageError: no such format, or the folder is there.
        StoreError: no run with its final weights.
        DataError: no language model, or its data has changed.
    """
    if to not in FORMATS:
        raise UsageError(f"--to {to}: one of {', '.join(FORMATS)}")
    need_bench()
    from chemscale.bench.using import adopted, card, exchange, gate, trained

    path, folder = Path(path).expanduser(), Path(folder).expanduser()
    exchange.refuse_existing(folder)
    model = _language(path, watch)
    seen = gate.pass_gate(model)
    if (path / adopted.FILE).is_file():
        told = adopted.read(path)
        text = card.of_adopted(model, seen, told.source, told.repairs, told.limits)
    else:
        study, place = trained.find(path)
        outcome = place.outcome()
        assert outcome is not None
        text = card.of_run(model, seen, place.run(), outcome, study.study().dataset, study.notes())
    exchange.write(model, folder, text)
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
    from chemscale.bench.using import adopted, card, exchange, foreign, gate

    source, folder = Path(source).expanduser(), Path(folder).expanduser()
    exchange.refuse_existing(folder)
    found = foreign.read(source)
    model = found.trained
    seen = gate.pass_gate(model)
    if seen.faults and not anyway:
        raise DataError(
            f"{source}: this looks like a broken model: {'; '.join(seen.faults)}. --anyway takes "
            "it nevertheless"
        )
    origin = f"A folder of transformers named {source.resolve().name}"
    told = adopted.Adopted(
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
