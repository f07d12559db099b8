"""The workbench: a study's dataset and the sizes of its families, counted and timed.

Parameters are counted on the meta device, without allocating them; FLOPs come from each family's
closed form and the mean item of the dataset; memory from a traced step (`peaks`).
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch

from chemscale.bench.data.base import Dataset, Indices, Progress, open_dataset, silent
from chemscale.bench.models.base import Family, build, load_family
from chemscale.bench.training import external, memory, mup
from chemscale.bench.training import start as starting
from chemscale.bench.training.cuda_graphs import Stepper
from chemscale.bench.training.devices import DTYPES
from chemscale.bench.training.peaks import Peaks
from chemscale.bench.training.recipe import Batches, stream
from chemscale.bench.training.resources import ORDINARY
from chemscale.table.errors import DataError, UnknownName
from chemscale.table.external import External
from chemscale.table.record import Record
from chemscale.table.records import JudgingSplit, Recipe, Run, Study
from chemscale.table.registry import families
from chemscale.table.results import Size

EVALUATED = {
    "cpu": {"molecule": 128, "structure": 32},
    "cuda": {"molecule": 1024, "structure": 256},
}


class Workbench:
    """What the training wing knows of a study; the `Bench` that `expand` asks.

    Raises:
        DataError: the dataset cannot be used.
    """

    def __init__(self, study: Study, folder: Path, progress: Progress = silent):
        self.study = study
        self.folder = folder
        self.dataset: Dataset = open_dataset(study.dataset, folder, progress)
        self.unit: str = self.dataset.unit
        self.dataset_revision = self.dataset.revision
        self._sizes: dict[tuple[str, str], Size] = {}
        self._fingerprints: dict[tuple[int, int], str] = {}
        self._starts: dict[tuple[str, str], str | None] = {}
        self.peaks = Peaks(self)

    def family(self, name: str) -> type[Family]:
        """The family of that name, if it can learn from this dataset.

        Raises:
            UnknownName: no such family.
            DataError: it learns from something else, takes no periodic structures, or a label that
                its loss needs is missing.
        """
        family = load_family(name)
        if family.unit != self.unit:
            raise DataError(f"{name} learns from {family.unit}s, the dataset holds {self.unit}s")
        cells = getattr(self.dataset.card, "periodic", 0)
        if cells and not getattr(family, "periodic", False):
            able = [one for one in families.names() if getattr(load_family(one), "periodic", False)]
            raise DataError(
                f"{self.dataset.where}: {cells:,} structures are periodic, and {name} takes none; "
                f"leave them out, or train one of {', '.join(able)}"
            )
        self.dataset.check(family.needs(self.study.recipe.resolve()))
        return family

    def size(self, family: str, size: str) -> Size:
        """One rung of a ladder, completed for the dataset."""
        if (family, size) not in self._sizes and family in self.study.external:
            self._sizes[family, size] = external.declared(
                self.study.external[family], family, size, self.dataset, self.study.recipe.resolve()
            )
        if (family, size) not in self._sizes:
            kind = self.family(family)
            if size not in kind.ladder:
                raise UnknownName.of(f"size of {family}", size, kind.ladder)
            self._sizes[family, size] = self._count(family, size, kind)
        return self._sizes[family, size]

    def ladder(self) -> list[Size]:
        """Every size of every family; with memory those that the study trains."""
        return [
            self.peaks.told(self.size(family, size)) if size in asked else self.size(family, size)
            for family, asked in self.study.families.items()
            for size in (
                self.study.external[family].sizes
                if family in self.study.external
                else self.family(family).ladder
            )
        ]

    def external(self, name: str) -> External:
        """Somebody else's trainer, as the study declares it.

        Raises:
            DataError: it does not, any more.
        """
        if name not in self.study.external:
            raise DataError(f"{name} is no family, and [external.{name}] is gone from the study")
        return self.study.external[name]

    def evaluated(self, split: JudgingSplit, device: torch.device) -> list[Indices]:
        """The items of a split in the batches in which a device evaluates them."""
        items = self.dataset.evaluated(split)
        size = EVALUATED[device.type][self.unit]
        return [items[start : start + size] for start in range(0, len(items), size)]

    def fingerprint(self, num_train: int, seed: int) -> str:
        """Identity of what a run trains and is judged on."""
        if (num_train, seed) not in self._fingerprints:
            self._fingerprints[num_train, seed] = self.dataset.fingerprint(
                num_train, seed, self.study.recipe.resolve().more_labels
            )
        return self._fingerprints[num_train, seed]

    def start_from(self, family: str, size: str) -> str | None:
        """Digest of the weights that runs of a size start from; None: from chance.

        Raises:
            StoreError, DataError: they are not there, or of another family or config.
        """
        if (family, size) not in self._starts:
            source = self._source(family, size)
            found = None if source is None else starting.digest(source.weights)
            self._starts[family, size] = found
            if source and source.note:
                self.note(source.note)
        return self._starts[family, size]

    def note(self, text: str) -> None:
        """Say once what a reader should know."""
        if text not in self.dataset.notes:
            self.dataset.notes.append(text)

    def _source(self, family: str, size: str) -> starting.Source | None:
        given = self.study.recipe.start_from
        if given is None:
            return None
        if family in self.study.external:
            raise DataError(f"start_from: {family} is somebody else's trainer; give it an option")
        return starting.source(given, self.folder, self.size(family, size), self.dataset)

    def start(self, model: Family, run: Run) -> None:
        """Put the weights that a run starts from into a model that starts from chance.

        Raises:
            DataError: they are not those that were there when the run was asked for.
        """
        if run.trunk.start_from is None:
            return
        source = self._source(run.trunk.family, run.size)
        if source is None or starting.digest(source.weights) != run.trunk.start_from:
            raise DataError(
                f"start_from names other weights ({source and source.weights}) than when this run "
                "was asked for; put those back, or `chemscale expand` asks anew"
            )
        starting.start(model, source, self.dataset.vocabulary())

    def _count(self, name: str, size: str, kind: type[Family]) -> Size:
        config = kind.fitted_config(size, self.dataset)
        recipe = self.study.recipe.resolve()
        with memory.META:
            model = kind(config)
        mup.scalings(model, recipe)  # refused here if it is
        sample = self.dataset.indices("train")[: external.SAMPLE]
        seen = model.seen(self.dataset.collate(config)(sample))
        return Size(
            family=name,
            size=size,
            revision=kind.revision,
            config=config.model_dump(mode="json"),
            num_params=model.num_params,
            num_params_total=model.num_params_total,
            # Weights, gradients, AdamW's two moments and an average, four bytes each.
            bytes_training=(20 if recipe.ema else 16) * model.num_params_total,
            flops_per_item=model.flops(seen, recipe) / len(sample),
            flops_formula=kind.flops_formula(config, recipe),
        )


def start_model(
    bench: Workbench, name: str, config: Record, recipe: Recipe, subset: Indices, seed: int
) -> Family:
    """A model as it stands before its first step."""
    model = build(load_family(name), config, stream(seed, "weights"), DTYPES[recipe.precision])
    mup.scale_start(model, recipe)
    model.calibrate(bench.dataset, subset)
    return model


def items_per_second(bench: Workbench, family: str, size: str, device: torch.device) -> float:
    """Time ten training steps of one size on one device, batches and threads as in training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(ORDINARY.threads)
    try:
        return _timed(bench, family, size, device)
    finally:
        torch.set_num_threads(threads)


def _timed(bench: Workbench, family: str, size: str, device: torch.device) -> float:
    """The median of ten, after two that warm up; on a GPU six, in which steps are recorded."""
    recipe = bench.study.recipe.resolve()
    kind = bench.family(family)
    config = kind.fitted_config(size, bench.dataset)
    subset = bench.dataset.subset(max(bench.study.num_train), 0)
    model = start_model(bench, family, config, recipe, subset, 0).to(device)
    step = Stepper(model, recipe)
    batches = Batches(subset, recipe.batch_size, 0)
    collate = bench.dataset.collate(config)
    times = []
    warm = 2 if device.type == "cpu" else 6
    for k in range(warm + 10):
        start = time.perf_counter()
        float(step(collate(batches[k]), recipe.learning_rate))
        times.append(time.perf_counter() - start)
    return recipe.batch_size / median(times[warm:])
