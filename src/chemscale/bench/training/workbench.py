"""The workbench: a study's dataset and the sizes of its families, counted and timed.

Parameters are counted on the meta device, without allocating them; FLOPs come from each family's
closed form and the mean item of the dataset; memory from a traced step (`memory`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from chemscale.bench.data.base import Dataset, Indices, Progress, open_dataset, silent
from chemscale.bench.models.base import Family, build, load_family
from chemscale.bench.training import external, memory, mup
from chemscale.bench.training import start as starting
from chemscale.bench.training.cuda_graphs import Stepper
from chemscale.bench.training.recipe import Batches, stream
from chemscale.bench.training.resources import ORDINARY, Resources
from chemscale.bench.training.step import shares
from chemscale.table.errors import DataError, UnknownName
from chemscale.table.external import External
from chemscale.table.record import Record
from chemscale.table.records import JudgingSplit, Recipe, Run, Study
from chemscale.table.registry import families
from chemscale.table.results import Size

CPU = torch.device("cpu")
BATCHES = 32  # of which the largest stands for the largest of a run

EVALUATED = {
    "cpu": {"molecule": 128, "structure": 32},
    "cuda": {"molecule": 1024, "structure": 256},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


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
        self._largest: dict[tuple[str, int], tuple[Indices, Indices]] = {}
        self._peaks: dict[tuple[str, str, int, Resources, int | None], int | None] = {}

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
            self._with_memory(self.size(family, size)) if size in asked else self.size(family, size)
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

    def peak_bytes(
        self,
        family: str,
        size: str,
        batch_size: int,
        resources: Resources = ORDINARY,
        max_load: int | None = None,
    ) -> int | None:
        """Most memory of a process of a training run, without what the process takes itself.

        Args:
            family: its name.
            size: of its ladder.
            batch_size: items a step.
            resources: of the run.
            max_load: tokens or edges computed at a time; by default what the recipe says.

        Returns:
            Bytes; None where it cannot be traced.
        """
        key = (family, size, batch_size, resources, max_load)
        if family in self.study.external:
            return None
        if key not in self._peaks:
            peak = self._peak(*key)
            if peak is not None and resources.recompute:
                # It frees much, but a heap may hold that; it never takes more.
                usual = replace(resources, recompute=False)
                peak = min(peak, self.peak_bytes(family, size, batch_size, usual, max_load) or peak)
            self._peaks[key] = peak
        return self._peaks[key]

    def refuse_what_does_not_fit(
        self, kinds: Iterable[tuple[str, str, int]], workers: int, resources: Resources = ORDINARY
    ) -> None:
        """Say which runs take more memory than there is, before they are trained.

        Args:
            kinds: family, size and batch size of each run.
            workers: how many are trained at a time on this machine.
            resources: of each.

        Raises:
            ChemscaleError: what is too large, by how much, and what would fit.
            UsageError: a family cannot be trained with such resources.
        """
        kinds = list(kinds)
        for name in sorted({family for family, _, _ in kinds} - set(self.study.external)):
            resources.refuse_for(load_family(name), name)
        needs = [
            memory.Need(
                run=f"{family} {size} with batch_size {batch}",
                peak=peak,
                processes=resources.ranks,
                ways=partial(self._ways, family, size, batch, resources),
            )
            for family, size, batch in kinds
            if (peak := self.peak_bytes(family, size, batch, resources)) is not None
        ]
        memory.refuse_what_does_not_fit(needs, workers, default_device())

    def _ways(
        self, family: str, size: str, batch: int, resources: Resources
    ) -> Iterator[tuple[str, int | None]]:
        """Ways to need less that change no result but by rounding, and what is needed then."""
        of, layered, option = (family, size, batch), load_family(family).layered, ""
        if layered and not resources.recompute:
            resources, option = replace(resources, recompute=True), "--recompute"
            yield option, self.peak_bytes(*of, resources)
        most = self._load(family, size, batch)
        name = "max_tokens" if self.unit == "molecule" else "max_edges"
        for load in (most // 2**k for k in range(1, batch.bit_length())):
            words = f"{option} and {name} = {load} in [recipe]".removeprefix(" and ")
            yield words, self.peak_bytes(*of, resources, load)
        if layered and resources.ranks == 1:
            for count in (2, 4, 8, 16, 32, 64):
                spread = replace(resources, ranks=count, shard=True)
                words = f"{option} --ranks {count} --shard, on as many GPUs"
                yield words.strip(), self.peak_bytes(*of, spread, most // batch)

    def _load(self, family: str, size: str, batch: int) -> int:
        """Tokens or edges of the largest batch."""
        config = self.family(family).fitted_config(size, self.dataset)
        items = self._largest[family, batch][0]
        return int(self.dataset.loads(items, config).sum())

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
                self._note(source.note)
        return self._starts[family, size]

    def _note(self, text: str) -> None:
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

    def _with_memory(self, size: Size) -> Size:
        found = {
            str(batch): self.peak_bytes(size.family, size.size, batch)
            for batch in self.study.batch_sizes
        }
        known = {batch: peak for batch, peak in found.items() if peak is not None}
        return size.model_copy(update={"bytes_peak": known})

    def _peak(
        self, name: str, size: str, batch_size: int, resources: Resources, max_load: int | None
    ) -> int | None:
        kind = self.family(name)
        config = kind.fitted_config(size, self.dataset)
        recipe = self.study.recipe.resolve().model_copy(update={"batch_size": batch_size})
        dtype = DTYPES[recipe.precision]
        with memory.META:
            # Said twice: once transformers has loaded a model, torch may make a tensor elsewhere.
            model = kind(config).to(memory.META, dtype)
        if (name, batch_size) not in self._largest:
            self._largest[name, batch_size] = self._find_largest(model, recipe)
        collate = self.dataset.collate(config)
        trained, judged = self._largest[name, batch_size]
        loads = self.dataset.loads(trained, config)
        cut = shares(trained, loads, max_load or recipe.max_load, resources.ranks)
        heaviest = sorted(cut[0], key=lambda part: -self.dataset.loads(part, config).sum())[:2]
        *parts, evaluated = (collate(items).to(memory.META, dtype) for items in (*heaviest, judged))
        model.recompute = resources.recompute
        shards = resources.ranks if resources.shard else 1
        try:
            return memory.peak_bytes(model, parts, evaluated, recipe, default_device(), shards)
        except Exception as error:  # somebody's family may do what the meta device cannot
            self._note(f"memory of {name} is not predicted: {type(error).__name__}: {error}")
            return None

    def _find_largest(self, model: Family, recipe: Recipe) -> tuple[Indices, Indices]:
        """The items of the largest of the first batches of training, and of an evaluation."""
        collate = self.dataset.collate(model.config)

        def largest(batches: Iterable[Indices]) -> Indices:
            return max(batches, key=lambda items: model.flops(model.seen(collate(items)), recipe))

        batches = Batches(
            self.dataset.subset(max(self.study.num_train), 0), recipe.batch_size, seed=0
        )
        judged = self.evaluated("validation", default_device())[:BATCHES]
        return largest(batches[k] for k in range(BATCHES)), largest(judged)


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


def device_name(device: torch.device) -> str:
    """What a device is called in the ladder: "cpu", or a GPU's own name in short."""
    if device.type == "cpu":
        return "cpu"
    words = torch.cuda.get_device_name(device).lower().split()
    return next((word for word in words if any(c.isdigit() for c in word)), words[-1])


def default_device() -> torch.device:
    """The GPU where there is one; with several ranks, this rank's."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU
