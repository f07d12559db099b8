"""All that is known of one study, and what follows from it by counting and looking up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from chemscale.desk.report.words import short
from chemscale.desk.sample import LAW_METRICS
from chemscale.table.curves import TabledCurve
from chemscale.table.evaluation import Evaluation
from chemscale.table.fits import FamilyFit, Fit, LawFit
from chemscale.table.records import Forecast, Study
from chemscale.table.results import Choice, Estimate, Point, Size, Trained


@dataclass(frozen=True)
class Promise:
    """A written forecast, and the runs of its plan that have an outcome: (run, value)."""

    plan: str
    forecast: Forecast
    outcomes: tuple[tuple[str, float], ...]
    unfinished: tuple[str, ...]  # runs of the plan that ended without a value

    def levels(self) -> list[tuple[str, float, float]]:
        """The intervals, narrowest first: level in per cent, low, high."""
        ordered = sorted(self.forecast.intervals.items(), key=lambda item: float(item[0]))
        return [(level, low, high) for level, (low, high) in ordered]


@dataclass(frozen=True)
class Spent:
    """What one part of a study cost. Missing joules are counted, not guessed."""

    part: str
    num_runs: int
    flops: float
    seconds: float
    joules: float | None
    num_with_joules: int


@dataclass(frozen=True)
class Page:
    """All that is known of one study; for a bare table only points and what was fitted to them.

    `plans` holds (name, study) pairs; runs of the plan "001" bear the role "plans/001".
    `notes` is what the dataset said when it was prepared.
    """

    folder: str
    study: Study | None = None
    trained: tuple[Trained, ...] = ()
    points: tuple[Point, ...] = ()
    curves: tuple[TabledCurve, ...] = ()  # of a table or logs
    estimate: Estimate | None = None
    choices: tuple[Choice, ...] = ()
    fit: Fit | None = None
    plans: tuple[tuple[str, Study], ...] = ()
    sizes: tuple[Size, ...] = ()
    notes: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    joins: bool = False  # holds the points of all the other pages
    num_waiting: int = 0  # runs that the study asks for and that have not ended
    num_unfitted: int = 0  # runs of the sweep that ended after the fit was made

    @property
    def name(self) -> str:
        """The study's name, or where its table lies."""
        return self.study.name if self.study else self.folder

    @cached_property
    def unit(self) -> str:
        """The data unit: molecule or structure; "item" where nobody says."""
        said = [point.unit for point in self.points] + [one.run.unit for one in self.trained]
        said += [family.unit for family in self.fit.families] if self.fit else []
        said = [unit.removesuffix("s") for unit in said if unit]
        return said[0] if said else "item"

    @cached_property
    def families(self) -> tuple[str, ...]:
        """Families in the order in which the study names them, then those met elsewhere."""
        asked = list(self.study.families) if self.study else []
        met = {point.family for point in self.points}
        met |= {one.run.trunk.family for one in self.trained}
        met |= {family.family for family in self.fit.families} if self.fit else set()
        met |= {one.family for one in self.estimate.families} if self.estimate else set()
        return tuple(asked + sorted(met - set(asked)))

    def family_fit(self, family: str) -> FamilyFit | None:
        """What was fitted to a family."""
        found = self.fit.families if self.fit else ()
        return next((one for one in found if one.family == family), None)

    def metric(self, family: str) -> str:
        """The law metric: what was fitted, else the unit's own, else the first that is there."""
        fitted = self.family_fit(family)
        if fitted:
            return fitted.metric
        usual = (self.fit.metric if self.fit else None) or LAW_METRICS.get(self.unit, "test_loss")
        names = {name for one in self.points if one.family == family for name in one.losses}
        return usual if usual in names or not names else min(names)

    def fitted_runs(self, family: str) -> frozenset[str]:
        """The runs that entered any law of a family."""
        fitted = self.family_fit(family)
        if fitted is None:
            return frozenset()
        runs = {run for law in fitted.laws for run in law.points}
        return frozenset(runs | set(fitted.surface.points if fitted.surface else ()))

    def measured(self, family: str) -> list[Point]:
        """The points that a law figure shows: fitted ones, and cooled ones that might have been."""
        metric, fitted = self.metric(family), self.fitted_runs(family)
        return [
            point
            for point in self.points
            if point.family == family
            and point.losses.get(metric, -1.0) > 0
            and (
                point.run in fitted
                or (
                    point.cooled
                    and point.status in ("finished", "stopped_early")
                    and point.role not in ("search", "finish")
                )
            )
        ]

    def best(self, family: str) -> Point | None:
        """The measured point with the lowest law metric."""
        metric = self.metric(family)
        return min(
            self.measured(family), key=lambda one: (one.losses[metric], one.run), default=None
        )

    def num_params_total(self, family: str, size: str) -> int | None:
        """All trainable parameters of a size, where anybody said."""
        for rung in self.sizes:
            if (rung.family, rung.size) == (family, size):
                return rung.num_params_total
        found = (p for p in self.points if (p.family, p.size) == (family, size))
        return next((p.num_params_total or p.num_params for p in found), None)

    def size_label(self, family: str, size: str) -> str:
        """A size and its parameters; of one without a name these alone."""
        count = short(self.num_params_total(family, size))
        return count if size.endswith(" parameters") else f"{size} · {count}"

    def law_size(self, law: LawFit) -> str | None:
        """The size that a law along num_train was fitted to."""
        found = [point.size for point in self.points if point.run in set(law.points)]
        return (
            max(sorted(set(found)), key=found.count) if found and "num_params" in law.at else None
        )

    def promises(self) -> list[Promise]:
        """Every forecast of every plan, beside the outcomes that its runs have by now."""
        return [
            self._promise(name, forecast) for name, plan in self.plans for forecast in plan.forecast
        ]

    def _promise(self, plan: str, forecast: Forecast) -> Promise:
        role = plan_role(plan)
        ended = {
            one.run.id: one.outcome.metrics.get("test", {}).get(forecast.metric)
            for one in self.trained
            if role in one.roles
            and (one.run.trunk.family, one.run.size) == (forecast.family, forecast.size)
            and one.run.trunk.num_train == forecast.num_train
            and one.run.length.cooldown
        }
        for point in self.points:
            at = (point.family, point.size, point.num_train)
            same = at == (forecast.family, forecast.size, forecast.num_train)
            if point.run in ended or (same and point.role == role):
                ended[point.run] = point.losses.get(forecast.metric, ended.get(point.run))
        for run in forecast.fitted_runs:  # what a forecast was fitted to does not test it
            ended.pop(run, None)
        return Promise(
            plan=role,
            forecast=forecast,
            outcomes=tuple(
                sorted((run, value) for run, value in ended.items() if value is not None)
            ),
            unfinished=tuple(sorted(run for run, value in ended.items() if value is None)),
        )

    def spent(self) -> list[Spent]:
        """What was burnt, by part; a run that two parts ask for is counted once."""
        parts: dict[str, list[Trained]] = {}
        for one in self.trained:
            parts.setdefault(part_of(one.roles), []).append(one)
        return [_sum(part, parts[part]) for part in sorted(parts, key=_part_order)] + (
            [_sum("in all", list(self.trained))] if len(parts) > 1 else []
        )


def _sum(part: str, runs: list[Trained]) -> Spent:
    outcomes = [one.outcome for one in runs]
    joules = [outcome.joules for outcome in outcomes if outcome.joules is not None]
    return Spent(
        part=part,
        num_runs=len(runs),
        flops=sum(outcome.flops_spent for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
        joules=sum(joules) if joules else None,
        num_with_joules=len(joules),
    )


def plan_role(name: str) -> str:
    """The role of a plan's runs: "001", "001.toml" and "plans/001" all give "plans/001"."""
    return f"plans/{name.removeprefix('plans/').removesuffix('.toml')}"


def part_of(roles: tuple[str, ...]) -> str:
    """The part of a study that pays for a run."""
    for role, part in (("sweep", "sweep"), ("check", "rate check")):
        if role in roles:
            return part
    plans = sorted(role for role in roles if role.startswith("plans/"))
    if plans:
        return plans[0]
    return "search" if {"search", "finish"} & set(roles) else "no longer asked for"


def _part_order(part: str) -> tuple[int, str]:
    order = ("search", "sweep", "rate check")
    return (order.index(part), "") if part in order else (len(order), part)


def named(pages: tuple[Page, ...]) -> Iterator[tuple[str, Page]]:
    """Pages with the prefix of their ids and files: none for a single one."""
    for place, page in enumerate(pages, start=1):
        yield (f"study-{place}-" if len(pages) > 1 else ""), page
