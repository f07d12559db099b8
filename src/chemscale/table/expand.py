"""A study becomes runs.

What only the bench knows (sizes, recipes' data, fingerprints) comes in through `Bench`; every
mistake is collected, so that a study with five of them needs one round of mending.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from chemscale.table.errors import ChemscaleError, DataError, StudyError, UnknownName
from chemscale.table.records import FIRST_EVALUATION, Length, Recipe, Run, Search, Study, Trunk
from chemscale.table.registry import families
from chemscale.table.results import Choice, Size

Chapter = str  # search, finish, sweep, check, plans/001, …


class Bench(Protocol):
    """What expanding needs to know of the training wing."""

    unit: str
    dataset_revision: int

    def size(self, family: str, size: str) -> Size:
        """One rung of a ladder, completed for the study's dataset."""

    def fingerprint(self, num_train: int, seed: int) -> str:
        """Identity of what a run trains and is judged on."""

    def start_from(self, family: str, size: str) -> str | None:
        """Digest of the weights that runs of a size start from; None: from chance."""


def unknown_families(study: Study) -> list[str]:
    """Families that nobody registered; asked before any data is read."""
    known = {*families.names(), *study.external}
    taken = [
        f"external.{name}: a family of the package has this name; take another"
        for name in study.external
        if name in families.names()
    ]
    return taken + [
        str(UnknownName.of(families.kind, name, known))
        for name in study.families
        if name not in known
    ]


def validate(study: Study, bench: Bench, where: str) -> None:
    """Check all names, sizes and amounts of a study.

    Raises:
        StudyError: every mistake, one line each.
        DataError: likewise, when all is well with the study but not with its data.
    """
    sizes = [(family, size) for family, names in study.families.items() for size in names]
    checks: list[Callable[[], object]] = [partial(bench.size, *one) for one in sizes]
    if study.recipe.start_from is not None:
        checks += [partial(bench.start_from, *one) for one in sizes]
    checks.append(partial(bench.fingerprint, max(study.num_train), 0))
    errors = [error for check in checks for error in _mistake(check)]
    settings = _too_short(study)
    if study.search and study.recipe.resolve().schedule == "cosine":
        settings.insert(0, "search: needs a constant schedule, a cosine run has no shorter part")
    mistakes = list(dict.fromkeys([*map(str, errors), *settings]))
    if not mistakes:
        return
    if not settings and all(isinstance(error, DataError) for error in errors):
        raise DataError("\n".join(mistakes))
    raise StudyError(where, mistakes)


def warnings(study: Study) -> list[str]:
    """What can be trained but hardly should be."""
    warmup = study.recipe.resolve().warmup
    return [
        f"WARNING: the warmup of {warmup:,} items is no shorter than {name}, {amount:,}: the "
        "learning rate is never reached there. Shorter: recipe = { name = …, warmup = … }"
        for name, amount in _ceilings(study)
        if amount <= warmup
    ]


def _ceilings(study: Study) -> list[tuple[str, int]]:
    items = study.budget.items
    if items is None:
        return []
    parts = [("budget.items", items)]
    if study.search:
        parts.append(("search.fraction of budget.items", int(study.search.fraction * items)))
    return parts


def _too_short(study: Study) -> list[str]:
    batch_size = max(study.batch_sizes)
    first = math.ceil(FIRST_EVALUATION / batch_size) * batch_size
    items = study.budget.items or first
    # Of the ceiling itself, and of the share of it that the search sees.
    least = {"budget.items": f"{first:,}", "search": f"{math.ceil(100 * first / items) / 100:g}"}
    smaller = ", or lower batch_size" * (first > FIRST_EVALUATION)
    return [
        f"{name} is {amount:,}, but with batch_size {batch_size} a trunk is first evaluated at "
        f"{first:,} items: raise it to {least[name.split('.fraction')[0]]} or more{smaller}"
        for name, amount in _ceilings(study)
        if amount < first and (name == "budget.items" or first <= items)
    ]


def _mistake(check: Callable[[], object]) -> list[ChemscaleError]:
    try:
        check()
    except ChemscaleError as error:
        return [error]
    return []


def search_sizes(study: Study, bench: Bench, family: str) -> list[str]:
    """The two sizes of a search: the smallest and the second-largest (of two: both)."""
    ordered = sorted(study.families[family], key=lambda size: bench.size(family, size).num_params)
    return ordered if len(ordered) <= 2 else [ordered[0], ordered[-2]]


def search_runs(study: Study, bench: Bench) -> list[Run]:
    """The search: its grid at two sizes, first seed, trunk only, a fraction of the ceiling."""
    if study.search is None:
        return []
    length = _length(study, share=study.search.fraction, cooldown=False)
    return [
        _run(study, bench, family, size, study.search_num_train, 0, recipe, length)
        for family in study.families
        for size in search_sizes(study, bench, family)
        for recipe in _grid(study, study.search)
    ]


def finish_runs(study: Study, chosen: Iterable[Run]) -> list[Run]:
    """The searched runs that are finished, at the full length."""
    length = _length(study)
    return [Run.of(run.size, run.unit, run.trunk, length) for run in chosen]


def sweep_runs(study: Study, bench: Bench, choices: Sequence[Choice]) -> list[Run]:
    """The sweep: sizes × num_train × seeds, with the settings chosen."""
    settings = {choice.key: choice for choice in choices}
    return [
        _run(study, bench, family, size, num_train, seed, recipe, _length(study))
        for family, sizes in study.families.items()
        for size in sizes
        for recipe in (_settle(study, settings.get((family, size))),)
        for num_train in study.swept(size)
        for seed in range(study.num_seeds(size))
    ]


def check_runs(study: Study, bench: Bench, choices: Sequence[Choice]) -> list[Run]:
    """Half and double the chosen rate at the largest size: is the optimum inside?"""
    if study.search is None:
        return []
    runs = []
    for family, sizes in study.families.items():
        largest = max(sizes, key=lambda size: bench.size(family, size).num_params)
        for choice in choices:
            if choice.key != (family, largest):
                continue
            recipe = _settle(study, choice)
            for factor in (0.5, 2.0):
                rate = {"learning_rate": factor * recipe.learning_rate}
                other = recipe.model_copy(update=rate)
                num_train = study.search_num_train
                runs.append(
                    _run(study, bench, family, largest, num_train, 0, other, _length(study))
                )
    return runs


def asked_elsewhere(
    index: Mapping[Chapter, Sequence[str]], known: Mapping[Chapter, object], study: Study
) -> set[str]:
    """Ids that chapters other than those known now ask for: plans, and what awaits a choice."""
    gone = () if study.search else ("search", "finish", "check")
    return {
        run_id
        for chapter, ids in index.items()
        if chapter not in known and chapter not in gone
        for run_id in ids
    }


def unique(runs: Iterable[Run]) -> list[Run]:
    """Drop repeats of a run, keeping the first."""
    return list({run.id: run for run in runs}.values())


def costs(runs: Iterable[Run], sizes: Mapping[tuple[str, str], Size]) -> dict[str, float]:
    """Most FLOPs that each run can cost: ceiling and cooldown, if patience does not end it."""
    found = {}
    for run in runs:
        flops_per_item = sizes[run.key].flops_per_item
        found[run.id] = flops_per_item * most_items(run, flops_per_item)
    return found


def most_items(run: Run, flops_per_item: float) -> float:
    """Most items that a run can see, cooldown included."""
    length = run.length
    ceiling = length.items if length.items is not None else (length.flops or 0) / flops_per_item
    return ceiling * (1 + run.trunk.recipe.cooldown if length.cooldown else 1.0)


def _grid(study: Study, search: Search) -> list[Recipe]:
    base = study.recipe.resolve()
    return [
        base.model_copy(update={"learning_rate": rate, "batch_size": batch})
        for rate in search.learning_rate
        for batch in study.batch_sizes
    ]


def _settle(study: Study, choice: Choice | None) -> Recipe:
    base = study.recipe.resolve()
    if choice is None:
        return base
    return base.model_copy(
        update={"learning_rate": choice.learning_rate, "batch_size": choice.batch_size}
    )


def _length(study: Study, share: float = 1.0, cooldown: bool = True) -> Length:
    budget = study.budget
    return Length(
        items=None if budget.items is None else int(share * budget.items),
        flops=None if budget.flops is None else share * budget.flops,
        patience=budget.patience,
        cooldown=cooldown,
        unless_falling=budget.unless_falling,
    )


def _run(
    study: Study,
    bench: Bench,
    family: str,
    size: str,
    num_train: int,
    seed: int,
    recipe: Recipe,
    length: Length,
) -> Run:
    rung = bench.size(family, size)
    trunk = Trunk(
        family=family,
        family_revision=rung.revision,
        config=rung.config,
        dataset=bench.fingerprint(num_train, seed),
        dataset_revision=bench.dataset_revision,
        num_train=num_train,
        recipe=recipe,
        seed=seed,
        start_from=bench.start_from(family, size) if study.recipe.start_from else None,
    )
    return Run.of(size, bench.unit, trunk, length)
