"""What a planned run costs, in FLOPs, hours, joules and money, and which sizes it may have."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from chemscale.desk.forecast import reach
from chemscale.desk.sentences import number, plural
from chemscale.table.errors import NotIdentified, UnknownName
from chemscale.table.fits import FamilyFit
from chemscale.table.records import Prices, Study
from chemscale.table.results import Point, Size
from chemscale.table.spreadsheet import amount


@dataclass(frozen=True)
class TableRung:
    """A size of a table, which is known by its number of parameters."""

    family: str
    size: str
    num_params: int


Rung = Size | TableRung  # a size that a run may have
R = TypeVar("R", Size, TableRung)
MANY = 40  # sizes, or amounts
Plane = tuple[float, ...]


def words(unit: str, amount: float, device: str | None = None) -> str:
    """An amount of flops, hours, joules, money or work."""
    names = {"flops": "FLOPs", "hours": "h", "joules": "J", "money": "in money"}
    name = names.get(unit, "parameters times items")
    return f"{number(amount)} {name}" + (f" on {device}" if unit == "hours" and device else "")


class Costs(ABC):
    """The sizes that there are, and what one run of a size on `num_train` items costs."""

    study: Study | None  # None: a table, of which nothing can be trained
    device: str | None  # that hours are on

    @property
    def most_items(self) -> float:
        """Training items beyond these a run never sees."""
        return math.inf

    @abstractmethod
    def rungs(self, family: str) -> Sequence[Rung]:
        """The sizes of a family."""

    @abstractmethod
    def rung(self, family: str, name: str) -> Rung:
        """A size by its name."""

    @abstractmethod
    def flops(self, size: Rung, num_train: int) -> float | None:
        """Training FLOPs; None where nobody knows."""

    @abstractmethod
    def hours(self, size: Rung, num_train: int) -> float | None:
        """Hours of training; None where nobody knows."""

    @abstractmethod
    def joules(self, size: Rung, num_train: int) -> float | None:
        """Electricity of training; None where nobody knows."""

    @abstractmethod
    def missing(self, what: str) -> str:
        """How to come to know the flops, hours or joules."""

    @abstractmethod
    def words(self, flops: float | None, hours: float | None) -> str:
        """What a run costs, in words; empty where that is not known."""

    def refuse(self, one: FamilyFit, num_train: float) -> None:
        """Refuse a fit that does not hold for these runs, and items that they would never see."""
        del one, num_train

    def money(self, size: Rung, num_train: int, prices: Prices, seeds: int) -> float:
        """Labels beyond those there are, bought once for all seeds, and hours of training."""
        labels = prices.label * max(0, num_train - prices.available)
        if not prices.hour:
            return labels
        return labels + prices.hour * seeds * (self.hours(size, num_train) or math.inf)


@dataclass(frozen=True)
class StudyCosts(Costs):
    """Of a study: the ceiling of a trunk and the cooldown, whatever `num_train` is."""

    study: Study
    sizes: Sequence[Size]
    device: str | None = None  # as in `Size.items_per_second`
    points: Sequence[Point] = ()  # what was trained, for its electricity

    @property
    def most_items(self) -> float:
        """What the ceiling and the cooldown see."""
        ceiling = self.study.budget.items
        return (
            math.floor(ceiling * (1 + self.study.recipe.resolve().cooldown))
            if ceiling
            else math.inf
        )

    def rungs(self, family: str) -> Sequence[Size]:
        """The sizes of the ladder."""
        return [size for size in self.sizes if size.family == family]

    def rung(self, family: str, name: str) -> Size:
        """A size of the ladder."""
        return _known(self.rungs(family), family, name)

    def items(self, size: Size) -> float:
        """Items one run sees at most."""
        budget = self.study.budget
        ceiling = (
            budget.items if budget.items is not None else (budget.flops or 0) / size.flops_per_item
        )
        return ceiling * (1 + self.study.recipe.resolve().cooldown)

    def flops(self, size: Rung, num_train: int) -> float | None:
        """At most."""
        assert isinstance(size, Size)
        return self.items(size) * size.flops_per_item

    def hours(self, size: Rung, num_train: int) -> float | None:
        """By measured items per second."""
        assert isinstance(size, Size)
        speed = size.items_per_second.get(self.device or "")
        return self.items(size) / speed / 3600 if speed else None

    def joules(self, size: Rung, num_train: int) -> float | None:
        """By what an item took in the family's runs, as a power of `num_params`."""
        assert isinstance(size, Size)
        plane = self._joules_an_item.get(size.family)
        return None if plane is None else self.items(size) * _at(plane, size.num_params)

    @cached_property
    def _joules_an_item(self) -> dict[str, Plane | None]:
        return {
            family: _plane(
                [
                    (1.0, *np.log([point.num_params, point.joules / point.items_seen]))
                    for point in self.points
                    if point.family == family and point.joules and point.items_seen
                ]
            )
            for family in {point.family for point in self.points}
        }

    def missing(self, what: str) -> str:
        """The command that measures."""
        if what == "joules":
            return (
                "no run of the study tells its electricity: this takes an NVIDIA GPU, or an Intel "
                "processor whose counters may be read. Plan by --flops or --hours"
            )
        known = sorted({name for size in self.sizes for name in size.items_per_second})
        have = f" (measured so far: {', '.join(known)})" if known else ""
        return (
            f"no size was timed on {self.device!r}{have}. Run, on that device: "
            "chemscale expand STUDY --measure"
        )

    def words(self, flops: float | None, hours: float | None) -> str:
        """FLOPs."""
        return f", {number(flops or 0.0)} FLOPs at most"

    def refuse(self, one: FamilyFit, num_train: float) -> None:
        """Refuse a fit of capped runs for longer ones, and more items than a run sees."""
        ceiling = self.study.budget.items
        if num_train > self.most_items:
            raise NotIdentified(
                f"{one.family}: {num_train:,.0f} {plural(one.unit)} are more than the "
                f"{self.most_items:,.0f} that a run sees with budget.items = {ceiling:,} and its "
                "cooldown, so some would never be trained on. Raise budget.items of the study, "
                "train again (its trunks go on) and fit"
            )
        if one.at_this_training_length and one.max_items and ceiling and ceiling > one.max_items:
            raise NotIdentified(
                f"{one.family}: over a third of its runs were capped at {one.max_items:,} items, "
                f"so the fit does not hold for a budget of {ceiling:,}. Raise budget.items of the "
                "study that was fitted, train again (its trunks go on) and fit"
            )


@dataclass(frozen=True)
class TableCosts(Costs):
    """Of a table: what its runs took, as a power of `num_params` times one of `num_train`."""

    points: Sequence[Point]
    study: None = None
    device: None = None

    def rungs(self, family: str) -> Sequence[TableRung]:
        """The sizes in the table, and round numbers between and as far beyond as laws reach."""
        found = {
            point.num_params: TableRung(family, point.size, point.num_params)
            for point in self.points
            if point.family == family
        }
        return [found.get(count) or _unnamed(family, count) for count in round_numbers(found)]

    def rung(self, family: str, name: str) -> TableRung:
        """A size in the table, or any number of parameters."""
        plain = name.replace(",", "").removesuffix(" parameters")
        try:
            count = round(amount(plain))
        except ValueError:
            return _known(self.rungs(family), family, name, ", or a number of parameters")
        there = [one for one in self.rungs(family) if name == one.size or count == one.num_params]
        return there[0] if there else _unnamed(family, count)

    def flops(self, size: Rung, num_train: int) -> float | None:
        """By the column flops."""
        return self._value("flops", size, num_train)

    def hours(self, size: Rung, num_train: int) -> float | None:
        """By the column seconds."""
        seconds = self._value("seconds", size, num_train)
        return None if seconds is None else seconds / 3600

    def joules(self, size: Rung, num_train: int) -> float | None:
        """By the column joules."""
        return self._value("joules", size, num_train)

    def missing(self, what: str) -> str:
        """The column."""
        if what == "joules":
            return (
                "the table does not tell the electricity of its runs: no column joules, or an "
                "empty one. Add it, or name it: --columns joules=ITS-NAME"
            )
        if what == "flops":
            return (
                "the table does not tell the training FLOPs of its runs: no column flops. Add it, "
                "or name it: --columns flops=ITS-NAME; or plan by --hours, --money or --at"
            )
        return (
            "the table does not tell how long its runs took: no column seconds, no column hours, "
            "nor items_per_second with items_seen. Add one, or name it: --columns seconds=ITS-NAME"
        )

    def words(self, flops: float | None, hours: float | None) -> str:
        """FLOPs and hours, where the table tells them."""
        told = [f"{number(flops)} FLOPs"] if flops else []
        told += [f"{number(hours)} h"] if hours else []
        return f", about {' and '.join(told)} by what the runs of the table took" if told else ""

    def _value(self, what: str, size: Rung, num_train: int) -> float | None:
        plane = self._planes.get((size.family, what))
        return None if plane is None else _at(plane, size.num_params, num_train)

    @cached_property
    def _planes(self) -> dict[tuple[str, str], Plane | None]:
        return {
            (family, what): _plane(
                [
                    (1.0, *np.log([point.num_params, point.num_train, cost]))
                    for point in self.points
                    if point.family == family and (cost := getattr(point, what) or 0.0) > 0
                ]
            )
            for family in {point.family for point in self.points}
            for what in ("flops", "seconds", "joules")
        }


def _plane(rows: Sequence[tuple[float, ...]]) -> Plane | None:
    """Factors of 1 and of logarithms, by least squares; the last of a row is the result's."""
    if not rows:
        return None
    x, y = np.array(rows)[:, :-1], np.array(rows)[:, -1]
    x[:, 1:] *= np.ptp(x[:, 1:], axis=0) > 0  # what does not vary tells nothing
    return tuple(np.linalg.lstsq(x, y)[0].tolist())


def _at(plane: Plane, *amounts: int) -> float:
    return math.exp(sum(map(math.prod, zip(plane, (1.0, *map(math.log, amounts)), strict=True))))


def round_numbers(there: Iterable[int], last: float | None = None) -> list[int]:
    """What is there, and round numbers between and beyond, up to `last` or as far as laws reach.

    Only round ones where there are very many, as of runs that all differ: each is forecast.
    """
    there = {*there}
    low, high = min(there), max(there)
    last = math.floor(reach((low, high))[1]) if last is None else last
    powers = 10 ** np.arange(math.floor(math.log10(low)), math.log10(max(last, 1)) + 1)
    between = {round(step * power) for power in powers for step in (1, 1.5, 2, 3, 5, 7)}
    kept = there if len(there) <= MANY else {low, high}
    return sorted(amount for amount in {*kept, *between} if low <= amount <= last)


def _unnamed(family: str, count: int) -> TableRung:
    return TableRung(family, f"{count:,} parameters", count)


def _known(rungs: Iterable[R], family: str, name: str, or_else: str = "") -> R:
    names = {one.size: one for one in rungs}
    if name not in names:
        raise UnknownName.of(f"size{or_else}", name, names, where=f"{family}:{name}")
    return names[name]


def bill(num_train: int, prices: Prices) -> str:
    """What the money is for, in words."""
    more = max(0, num_train - prices.available)
    labels = f"{more:,} labels at {prices.label:g}"
    if not prices.hour:
        return f"{labels}, training free"
    where = f" on {prices.device}" if prices.device else ""
    return f"{labels}, training at {prices.hour:g} an hour{where}"
