"""The verb `evaluate`: what trained models are good for, beside their loss.

Of language models samples are measured; of potentials, errors by element and kind of structure, and
dynamics. Loading this imports no torch; calling does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.progress import Watch, counting, preparing, quiet
from chemscale.table.errors import DataError, UsageError
from chemscale.table.evaluation import ErrorSettings, Evaluated, Evaluation, SampleSettings
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder
from chemscale.using import need_bench
from chemscale.verbs import now

if TYPE_CHECKING:
    from chemscale.bench.data.tokens import Molecules
    from chemscale.bench.using.evaluate import Judge


def evaluate(
    path: str | Path,
    *,
    num_samples: int = 10_000,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int = 256,
    dynamics: float = 0.0,
    watch: Watch = quiet,
) -> Evaluation:
    """Say what the trained models of a study are good for; writes `evaluation.json`.

    Language models are sampled from and the samples measured; of potentials the errors on test and
    shift set are told apart by element and formula.

    Models that were evaluated before, with the same settings, are left as they are; so a published
    study keeps the measures after its weights are gone.

    Args:
        path: study folder, or the folder of one run.
        num_samples: from each model; at most as many molecules of test and shift set are the
            reference. Of potentials: the most structures of a split.
        seed: of the sampling; of potentials, of the velocities.
        temperature: see `generate`.
        top_k: see `generate`.
        top_p: see `generate`.
        batch_size: molecules at once.
        dynamics: potentials: ps of dynamics at constant energy from the first structure of test
            (see `chemscale.bench.using.dynamics`); 0: none.
        watch: told about progress.

    Raises:
        UsageError: the study was evaluated with other settings before.
        StoreError: there is no model with its weights.
    """
    need_bench()
    if num_samples < 2:
        raise UsageError(f"num_samples {num_samples}: at least 2")
    if dynamics < 0:
        raise UsageError(f"dynamics {dynamics:g}: 0 ps or more")
    folder, places, without = _evaluated_runs(path)
    potentials = places[0].run().unit == "structure"
    settings: SampleSettings | ErrorSettings = SampleSettings(
        num_samples=num_samples, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p
    )
    if potentials:
        settings = ErrorSettings(num_structures=num_samples, dynamics=dynamics, seed=seed)
    elif dynamics:
        raise UsageError(f"{folder.path}: dynamics are of potentials; here are language models")
    known = folder.evaluation()
    if known is not None and known.settings != settings:
        raise UsageError(
            f"{folder.path / 'evaluation.json'} was made with {_words(known.settings)}; evaluate "
            "with the same, or move that file away first"
        )
    if without:
        watch({"event": "note", "text": f"{without} trained runs have no weights here"})
    if isinstance(settings, ErrorSettings):
        return _evaluate_potentials(folder, places, known, settings, watch)
    return _evaluate_languages(folder, places, known, settings, batch_size, watch)


def _evaluate_potentials(
    folder: StudyFolder,
    places: list[RunFolder],
    known: Evaluation | None,
    settings: ErrorSettings,
    watch: Watch,
) -> Evaluation:
    from chemscale.bench.data.graphs import Structures
    from chemscale.bench.training.ended import data_of
    from chemscale.bench.using.accuracy import errors
    from chemscale.bench.using.calculator import PotentialCalculator
    from chemscale.bench.using.dynamics import STEP, constant_energy
    from chemscale.bench.using.trained import load_potential

    there = {one.run for one in (known.runs if known else ())}
    left = [place for place in places if place.run().id not in there]
    if not left and known is not None:
        return known
    dataset = _open(folder, watch)
    assert isinstance(dataset, Structures)
    items = {
        split: some[: settings.num_structures]
        for split in ("test", "shift")
        if len(some := dataset.indices(split))
    }
    counts = {split: len(some) for split, some in items.items()}
    evaluation = known or Evaluation(settings=settings, num_reference=counts, made=now())
    for place in left:
        run = place.run()
        data_of(place, dataset)  # else what it learnt from may be in the test set
        trained = load_potential(place.path)
        steps = round(1000 * settings.dynamics / STEP)
        with counting(watch, sum(counts.values()) + steps, place.path.name) as counter:
            found: dict[str, float] = {}
            for split, some in items.items():
                before = "" if split == "test" else f"{split}_"
                told = errors(trained, dataset, some, partial(counter, "judging"))
                found |= {before + name: value for name, value in told.items()}
            if settings.dynamics:
                found |= constant_energy(
                    dataset.atoms(int(items["test"][0])),
                    PotentialCalculator([trained]),
                    settings.dynamics,
                    temperature=settings.temperature,
                    seed=settings.seed,
                    progress=partial(counter, "moving"),
                )
        one = Evaluated(run=run.id, metrics=found)
        evaluation = evaluation.model_copy(update={"runs": (*evaluation.runs, one), "made": now()})
        folder.write_evaluation(evaluation)
    return evaluation


def _evaluate_languages(
    folder: StudyFolder,
    places: list[RunFolder],
    known: Evaluation | None,
    settings: SampleSettings,
    batch_size: int,
    watch: Watch,
) -> Evaluation:
    from chemscale.bench.data.tokens import Molecules
    from chemscale.bench.using import fcd
    from chemscale.bench.using.evaluate import Judge, reference_items

    num_samples = settings.num_samples
    if not fcd.is_there():
        watch({"event": "note", "text": NO_FCD})
    whole = {
        one.run
        for one in (known.runs if known else ())
        if "fcd" in one.metrics or "internal_diversity" not in one.metrics or not fcd.is_there()
    }
    left = [place for place in places if place.run().id not in whole]
    if not left and known is not None:
        return known
    dataset = _open(folder, watch)
    assert isinstance(dataset, Molecules)
    items = reference_items(dataset, num_samples)
    judged = [split for split in ("test", "shift") if split in items]
    count = sum(len(items[split]) for split in ("train", *judged))
    with counting(watch, count * (2 if fcd.is_there() else 1)) as counter:
        judge = Judge({split: dataset.smiles(items[split]) for split in judged}, counter)
        floor = judge.likeness(dataset.smiles(items["train"]), "describing training molecules")
    evaluation = known or Evaluation(
        settings=settings, num_reference={split: len(items[split]) for split in judged}, made=now()
    )
    evaluation = evaluation.model_copy(update={"floor": floor})
    for place in left:
        one = _evaluate_run(place, dataset, judge, settings, batch_size, watch)
        others = tuple(other for other in evaluation.runs if other.run != one.run)
        evaluation = evaluation.model_copy(update={"runs": (*others, one), "made": now()})
        folder.write_evaluation(evaluation)
    return evaluation


NO_FCD = "FCD is left out: fcd_torch is not installed. pip install 'chemscale[metrics]'"


def _evaluate_run(
    place: RunFolder,
    dataset: Molecules,
    judge: Judge,
    settings: SampleSettings,
    batch_size: int,
    watch: Watch,
) -> Evaluated:
    from chemscale.bench.using.evaluate import originality
    from chemscale.bench.using.generate import generate as generating
    from chemscale.bench.using.trained import load

    run = place.run()
    trained = load(place.path, dataset=dataset)
    count = settings.num_samples
    with counting(watch, count * (3 if judge.chemnet else 2), place.path.name) as counter:
        judge.progress = counter
        samples = generating(
            trained,
            count,
            batch_size=batch_size,
            progress=partial(counter, "sampling"),
            **settings.model_dump(exclude={"num_samples"}),
        )
        smiles = [one.smiles for one in samples]
        subset = dataset.content[dataset.subset(run.trunk.num_train, run.trunk.seed), 0]
        held_out = dataset.content[dataset.indices("test"), 0]
        found = {"ended": sum(one.finished for one in samples) / count}
        found |= originality(smiles, subset, held_out)
        found |= judge.likeness([text for text in smiles if text])
    return Evaluated(run=run.id, metrics=found)


def compare(
    smiles: Sequence[str], against: Sequence[str], *, watch: Watch = quiet
) -> dict[str, float]:
    """Measure anybody's molecules against others: what `evaluate` measures, without a model.

    Args:
        smiles: the molecules; those that RDKit does not accept only lower the validity.
        against: the reference, of which all must be accepted.
        watch: told about progress.

    Raises:
        DataError: a molecule of the reference is none.
    """
    need_bench()
    import numpy as np

    from chemscale.bench.data.notation import canonical
    from chemscale.bench.using import fcd
    from chemscale.bench.using.evaluate import Judge, originality

    reference = [canonical(text) for text in against]
    if (bad := [text for text, good in zip(against, reference, strict=True) if not good]) or (
        len(reference) < 2
    ):
        raise DataError(f"the reference needs two molecules or more; these are none: {bad[:5]}")
    own = [canonical(text) for text in smiles]
    valid = [text for text in own if text]
    if not fcd.is_there():
        watch({"event": "note", "text": NO_FCD})
    total = (len(valid) + len(reference)) * (2 if fcd.is_there() else 1)
    with counting(watch, total) as counter:
        judge = Judge({"test": reference}, counter)
        nothing = np.zeros(0, dtype=np.uint64)
        found = originality(own, nothing, nothing)
        kept = {name: found[name] for name in found if name.startswith(("valid", "unique"))}
        return kept | judge.likeness(valid)


def _evaluated_runs(path: str | Path) -> tuple[StudyFolder, list[RunFolder], int]:
    """The study, its runs to evaluate, small ones first, and how many others have no weights."""
    from chemscale.bench.training.ended import trained_runs
    from chemscale.bench.using.trained import final_weights, find

    folder, best = find(path)
    if (Path(path) / "run.json").is_file():
        final_weights(best)  # said before the reference is described
        return folder, [best], 0
    found = trained_runs(folder)
    ended = [one for one in folder.trained() if one.roles and one.run.length.cooldown]
    ended = [one for one in ended if one.outcome.status == "finished"]

    def size(place: RunFolder) -> tuple[int, int, int]:
        run, outcome = place.run(), place.outcome()
        return (outcome.num_params if outcome else 0, run.trunk.num_train, run.trunk.seed)

    return folder, sorted(found, key=size), len(ended) - len(found)


def _open(folder: StudyFolder, watch: Watch) -> Any:
    from chemscale.bench.data.base import open_dataset

    with preparing(watch) as progress:
        return open_dataset(folder.study().dataset, folder.path, progress)


def _words(settings: SampleSettings | ErrorSettings) -> str:
    said = settings.model_dump(exclude_none=True)
    return ", ".join(f"{name} {value:g}" for name, value in said.items())
