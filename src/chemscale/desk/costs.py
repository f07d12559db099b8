"""What a run that is planned costs: items, hours, money."""

from __future__ import annotations

from collections.abc import Sequence

from chemscale.table.errors import NotIdentified
from chemscale.table.records import Prices, Study
from chemscale.table.results import Size


def items(study: Study, size: Size) -> float:
    """Items one run sees at most: the ceiling of its trunk and the cooldown."""
    budget = study.budget
    ceiling = (
        budget.items if budget.items is not None else (budget.flops or 0) / size.flops_per_item
    )
    return ceiling * (1 + study.recipe.resolve().cooldown)


def hours(size: Size, study: Study, device: str, seeds: int) -> float:
    """Of training on a device whose speed is known."""
    return seeds * items(study, size) / size.items_per_second[device] / 3600


def money(size: Size, num_train: int, study: Study, prices: Prices, seeds: int) -> float:
    """Labels beyond those there are, bought once for all seeds, and hours of training."""
    labels = prices.label * max(0, num_train - prices.available)
    return labels + training(size, study, prices, seeds)


def training(size: Size, study: Study, prices: Prices, seeds: int) -> float:
    """The money for training alone."""
    if not prices.hour:
        return 0.0
    assert prices.device is not None
    return prices.hour * hours(size, study, prices.device, seeds)


def bill(num_train: int, prices: Prices) -> str:
    """What the money is for, in words."""
    more = max(0, num_train - prices.available)
    labels = f"{more:,} labels at {prices.label:g}"
    if not prices.hour:
        return f"{labels}, training free"
    return f"{labels}, training at {prices.hour:g} an hour on {prices.device}"


def measured(sizes: Sequence[Size], device: str) -> list[Size]:
    """The sizes whose speed on a device is known.

    Raises:
        NotIdentified: none is; names the command that measures.
    """
    timed = [size for size in sizes if device in size.items_per_second]
    if not timed:
        known = sorted({name for size in sizes for name in size.items_per_second})
        have = f" (measured so far: {', '.join(known)})" if known else ""
        raise NotIdentified(
            f"no size was timed on {device!r}{have}. Run, on that device: "
            "chemscale expand STUDY --measure"
        )
    return timed
