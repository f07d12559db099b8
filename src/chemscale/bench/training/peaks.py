"""Memory of the runs of a study, predicted once each; and those refused that take too much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from chemscale.bench.data.base import Indices
from chemscale.bench.models.base import Family, load_family
from chemscale.bench.training import memory
from chemscale.bench.training.devices import DTYPES, default_device
from chemscale.bench.training.recipe import Batches
from chemscale.bench.training.resources import ORDINARY, Resources
from chemscale.bench.training.step import shares
from chemscale.table.records import Recipe
from chemscale.table.results import Size

if TYPE_CHECKING:
    from chemscale.bench.training.workbench import Workbench

BATCHES = 32  # of which the largest stands for the largest of a run


class Peaks:
    """Most memory that runs hold, by family, size and batch size."""

    def __init__(self, bench: Workbench):
        self.bench, self.study, self.dataset = bench, bench.study, bench.dataset
        self._largest: dict[tuple[str, int], tuple[Indices, Indices]] = {}
        self._peaks: dict[tuple[str, str, int, Resources, int | None], int | None] = {}

    def predict(
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
                peak = min(peak, self.predict(family, size, batch_size, usual, max_load) or peak)
            self._peaks[key] = peak
        return self._peaks[key]

    def told(self, size: Size) -> Size:
        """A size with the memory that it takes at each batch size of the study."""
        found = {
            str(batch): self.predict(size.family, size.size, batch)
            for batch in self.study.batch_sizes
        }
        known = {batch: peak for batch, peak in found.items() if peak is not None}
        return size.model_copy(update={"bytes_peak": known})

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
            if (peak := self.predict(family, size, batch, resources)) is not None
        ]
        memory.refuse_what_does_not_fit(needs, workers, default_device())

    def _ways(
        self, family: str, size: str, batch: int, resources: Resources
    ) -> Iterator[tuple[str, int | None]]:
        """Ways to need less that change no result but by rounding, and what is needed then."""
        of, layered, option = (family, size, batch), load_family(family).layered, ""
        if layered and not resources.recompute:
            resources, option = replace(resources, recompute=True), "--recompute"
            yield option, self.predict(*of, resources)
        most = self._load(family, size, batch)
        name = "max_tokens" if self.bench.unit == "molecule" else "max_edges"
        for load in (most // 2**k for k in range(1, batch.bit_length())):
            words = f"{option} and {name} = {load} in [recipe]".removeprefix(" and ")
            yield words, self.predict(*of, resources, load)
        if layered and resources.ranks == 1:
            for count in (2, 4, 8, 16, 32, 64):
                spread = replace(resources, ranks=count, shard=True)
                words = f"{option} --ranks {count} --shard, on as many GPUs"
                yield words.strip(), self.predict(*of, spread, most // batch)

    def _load(self, family: str, size: str, batch: int) -> int:
        """Tokens or edges of the largest batch."""
        config = self.bench.family(family).fitted_config(size, self.dataset)
        items = self._largest[family, batch][0]
        return int(self.dataset.loads(items, config).sum())

    def _peak(
        self, name: str, size: str, batch_size: int, resources: Resources, max_load: int | None
    ) -> int | None:
        kind = self.bench.family(name)
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
            self.bench.note(f"memory of {name} is not predicted: {type(error).__name__}: {error}")
            return None

    def _find_largest(self, model: Family, recipe: Recipe) -> tuple[Indices, Indices]:
        """The items of the largest of the first batches of training, and of an evaluation."""
        collate = self.dataset.collate(model.config)

        def largest(batches: Iterable[Indices]) -> Indices:
            return max(batches, key=lambda items: model.flops(model.seen(collate(items)), recipe))

        batches = Batches(
            self.dataset.subset(max(self.study.num_train), 0), recipe.batch_size, seed=0
        )
        judged = self.bench.evaluated("validation", default_device())[:BATCHES]
        return largest(batches[k] for k in range(BATCHES)), largest(judged)
