"""The workbench: a study's dataset and the sizes of its families, counted and timed.

Parameters are counted on the meta device, without allocating them; FLOPs come from each family's
closed form and the mean item of the dataset; memory from a traced step (`memory`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from chemscale.bench.data.base import Dataset, Indices, Progress, open_dataset, silent
from chemscale.bench.models.base import Family, Seen, build, load_family
from chemscale.bench.training import memory, mup
from chemscale.bench.training.recipe import Batches, stream
from chemscale.table.errors import DataError, UnknownName
from chemscale.table.records import Recipe, Record, Study
from chemscale.table.results import Size

SAMPLE = 256  # items that stand for the dataset's mean item
BATCHES = 32  # of which the largest stands for the largest of a run

EVALUATION_BATCH = {"molecule": 128, "structure": 32}
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


class Workbench:
    """What the training wing knows of a study; the `Bench` that `expand` asks.

    Raises:
        DataError: the dataset cannot be used.
    """

    def __init__(self, study: Study, folder: Path, progress: Progress = silent):
        self.study = study
        self.dataset: Dataset = open_dataset(study.dataset, folder, progress)
        self.unit: str = self.dataset.unit
        self.dataset_revision = self.dataset.revision
        self._sizes: dict[tuple[str, str], Size] = {}
        self._fingerprints: dict[tuple[int, int], str] = {}
        self._largest: dict[tuple[str, int], tuple[Indices, Indices]] = {}
        self._peaks: dict[tuple[str, str, int], int | None] = {}

    def family(self, name: str) -> type[Family]:
        """The family of that name, if it can learn from this dataset.

        Raises:
            UnknownName: no such family.
            DataError: it learns from something else, or a label that its loss needs is missing.
        """
        family = load_family(name)
        if family.unit != self.unit:
            raise DataError(f"{name} learns from {family.unit}s, the dataset holds {self.unit}s")
        self.dataset.check(family.needs(self.study.recipe.resolve()))
        return family

    def size(self, family: str, size: str) -> Size:
        """One rung of a ladder, completed for the dataset."""
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
            for size in self.family(family).ladder
        ]

    def peak_bytes(self, family: str, size: str, batch_size: int) -> int | None:
        """Most memory of a training run, without the process; None where it cannot be traced."""
        key = (family, size, batch_size)
        if key not in self._peaks:
            self._peaks[key] = self._peak(*key)
        return self._peaks[key]

    def refuse_what_does_not_fit(self, kinds: Iterable[tuple[str, str, int]], workers: int) -> None:
        """Say which runs take more memory than there is, before they are trained.

        Args:
            kinds: family, size and batch size of each run.
            workers: how many are trained at a time on this machine.

        Raises:
            ChemscaleError: what is too large, by how much, and what would fit.
        """
        needs = [
            memory.Need(
                run=f"{family} {size} with batch_size {batch}",
                peak=peak,
                batch_size=batch,
                smaller=partial(self.peak_bytes, family, size),
            )
            for family, size, batch in kinds
            if (peak := self.peak_bytes(family, size, batch)) is not None
        ]
        memory.refuse_what_does_not_fit(needs, workers, default_device())

    def fingerprint(self, num_train: int, seed: int) -> str:
        """Identity of what a run trains and is judged on."""
        if (num_train, seed) not in self._fingerprints:
            self._fingerprints[num_train, seed] = self.dataset.fingerprint(num_train, seed)
        return self._fingerprints[num_train, seed]

    def _count(self, name: str, size: str, kind: type[Family]) -> Size:
        config = kind.fitted_config(size, self.dataset)
        recipe = self.study.recipe.resolve()
        with memory.META:
            model = kind(config)
        mup.scalings(model, recipe)  # refused here if it is
        sample, seen = self._sample(model, config)
        return Size(
            family=name,
            size=size,
            revision=kind.revision,
            config=config.model_dump(mode="json"),
            num_params=model.num_params,
            num_params_total=model.num_params_total,
            # Weights, gradients and AdamW's two moments, four bytes each.
            bytes_training=16 * model.num_params_total,
            flops_per_item=model.flops(seen, recipe) / sample,
            flops_formula=kind.flops_formula(config, recipe),
        )

    def _with_memory(self, size: Size) -> Size:
        found = {
            str(batch): self.peak_bytes(size.family, size.size, batch)
            for batch in self.study.batch_sizes
        }
        known = {batch: peak for batch, peak in found.items() if peak is not None}
        return size.model_copy(update={"bytes_peak": known})

    def _peak(self, name: str, size: str, batch_size: int) -> int | None:
        kind = self.family(name)
        config = kind.fitted_config(size, self.dataset)
        recipe = self.study.recipe.resolve().model_copy(update={"batch_size": batch_size})
        dtype = DTYPES[recipe.precision]
        with memory.META:
            model = kind(config).to(dtype)
        if (name, batch_size) not in self._largest:
            self._largest[name, batch_size] = self._find_largest(model, recipe)
        collate = self.dataset.collate(config)
        trained, judged = (
            collate(i).to(memory.META, dtype) for i in self._largest[name, batch_size]
        )
        try:
            return memory.peak_bytes(model, trained, judged, recipe, default_device())
        except Exception:  # somebody's family may do what the meta device cannot: not predicted
            return None

    def _find_largest(self, model: Family, recipe: Recipe) -> tuple[Indices, Indices]:
        """The items of the largest of the first batches of training, and of an evaluation."""
        collate = self.dataset.collate(model.config)

        def largest(batches: Iterable[Indices]) -> Indices:
            return max(batches, key=lambda items: model.flops(model.seen(collate(items)), recipe))

        batches = Batches(
            self.dataset.subset(max(self.study.num_train), 0), recipe.batch_size, seed=0
        )
        items = self.dataset.evaluated("validation")
        size = EVALUATION_BATCH[self.unit]
        starts = range(0, len(items), size)[:BATCHES]
        return (
            largest(batches[k] for k in range(BATCHES)),
            largest(items[start : start + size] for start in starts),
        )

    def _sample(self, model: Family, config: Record) -> tuple[int, Seen]:
        """Count what is in a sample of training items; attention pairs depend on the config."""
        items = self.dataset.indices("train")[:SAMPLE]
        return len(items), model.seen(self.dataset.collate(config)(items))


def start_model(
    bench: Workbench, name: str, config: Record, recipe: Recipe, subset: Indices, seed: int
) -> Family:
    """A model as it stands before its first step."""
    model = build(load_family(name), config, stream(seed, "weights"), DTYPES[recipe.precision])
    mup.scale_start(model, recipe)
    model.calibrate(bench.dataset, subset)
    return model


def optimiser(model: Family, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; weights of matrices decay, biases, norms and embeddings do not."""
    matrices = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)
    }
    return torch.optim.AdamW(
        mup.groups(matrices, model, recipe),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        fused=True,
    )


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed what dropout on this device draws from.

    `torch.manual_seed` would do that for all devices, and note a stack trace for each GPU that is
    not there yet: two milliseconds a step, and memory that grows.
    """
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def train_step(
    model: Family, optimizer: torch.optim.Optimizer, batch: object, recipe: Recipe, rate: float
) -> torch.Tensor:
    """One step; returns the loss before it."""
    device = next(model.parameters()).device
    parameters = [p for p in model.parameters() if p.requires_grad]
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        loss = model.loss(batch, recipe)
    # Only the weights: a gradient to the positions would be work for nothing.
    torch.autograd.backward(loss, inputs=parameters)
    torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
    optimizer.step()
    return loss.detach()


def items_per_second(
    bench: Workbench, family: str, size: str, device: torch.device, num_steps: int = 10
) -> float:
    """Time training steps of one size on one device, batches made as in training: the median."""
    recipe = bench.study.recipe.resolve()
    kind = bench.family(family)
    config = kind.fitted_config(size, bench.dataset)
    subset = bench.dataset.subset(max(bench.study.num_train), 0)
    model = start_model(bench, family, config, recipe, subset, 0).to(device)
    step = optimiser(model, recipe)
    batches = Batches(subset, recipe.batch_size, 0)
    collate = bench.dataset.collate(config)
    times = []
    for k in range(num_steps + 2):
        start = time.perf_counter()
        batch = collate(batches[k]).to(device, DTYPES[recipe.precision])
        float(train_step(model, step, batch, recipe, recipe.learning_rate))
        times.append(time.perf_counter() - start)
    return recipe.batch_size / median(times[2:])


def device_name(device: torch.device) -> str:
    """What a device is called in the ladder: "cpu", or a GPU's own name in short."""
    if device.type == "cpu":
        return "cpu"
    words = torch.cuda.get_device_name(device).lower().split()
    return next((word for word in words if any(c.isdigit() for c in word)), words[-1])


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
