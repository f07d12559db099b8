"""What was found, in plain words: the box at the top of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from chemscale.desk.report.laws import law_name
from chemscale.desk.report.page import Page, Promise
from chemscale.desk.report.words import (
    NO_LAW,
    clauses,
    counted,
    metric_label,
    number,
    plural,
    share,
    short,
    spread,
    status,
    with_unit,
)
from chemscale.table.fits import FamilyFit, LawFit
from chemscale.table.results import Quantity

MOST_UNKNOWNS = 5  # the rest stand in the table of laws


@dataclass(frozen=True)
class Fact:
    """A number to remember: its name, its value, how sure it is."""

    name: str
    value: str
    sure: str


@dataclass(frozen=True)
class Finding:
    """What one family showed."""

    family: str
    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    unknown: tuple[str, ...]  # what the data do not identify
    holds: str  # where it holds


@dataclass(frozen=True)
class Found:
    """What one study showed."""

    name: str
    counts: str
    findings: tuple[Finding, ...]
    verdicts: tuple[str, ...]  # forecasts against outcomes


def found(page: Page) -> Found:
    """Say what a study found, how sure that is, and what it leaves open."""
    return Found(
        name=page.name,
        counts=_counts(page),
        findings=tuple(_finding(page, family) for family in page.families),
        verdicts=tuple(verdict(one) for one in page.promises() if one.outcomes),
    )


def _counts(page: Page) -> str:
    ranked = page.estimate.families if page.estimate else ()
    ends: list[str | None] = [one.outcome.status for one in page.trained]
    ends = ends or [row.status for one in ranked for row in one.rows]  # of curves in a table
    amounts = Counter(ends or [point.status for point in page.points])
    wait = "have" if page.num_waiting > 1 else "has"
    still = f" {page.num_waiting:,} more asked for {wait} not ended." * bool(page.num_waiting)
    if page.num_unfitted:
        still += f" {page.num_unfitted:,} ended after the fit: chemscale fit takes them in."
    if not amounts:
        return f"No run has ended yet.{still}"
    words = {
        "finished": "finished", "stopped_early": "stopped early", "diverged": "diverged",
        "out_of_memory": "ran out of memory", "failed": "failed",
        None: "whose end is not told",
    }  # fmt: skip
    parts = [f"{amounts[key]:,} {word}" for key, word in words.items() if amounts[key]]
    noun = "run" if page.trained else "trained model"
    return f"{counted(sum(amounts.values()), noun)}: {', '.join(parts)}.{still}"


def _finding(page: Page, family: str) -> Finding:
    fitted = page.family_fit(family)
    if fitted is None:
        ranked = page.estimate.families if page.estimate and not page.points else ()
        told = [
            one
            for each in ranked
            if each.family == family
            for one in clauses(each.sentence, family)
        ]
        return Finding(
            family=family,
            sentences=tuple(told) or (NO_LAW,),
            facts=tuple(_best(page, family)),
            unknown=(),
            holds="",
        )
    unknown = _unknown(page, fitted)
    told = [one for one in clauses(fitted.sentence, family) if not _among(one, unknown)]
    return Finding(
        family=family,
        sentences=tuple(one for one in told if "not identified" not in one),
        facts=(*_best(page, family), *_facts(page, fitted)),
        unknown=tuple(unknown + [one for one in told if "not identified" in one]),
        holds=_holds(page, fitted),
    )


def _among(clause: str, unknown: list[str]) -> bool:
    """Whether a clause is already said among what is not identified."""
    core = clause[1:].rstrip(".")
    return any(core in one for one in unknown)


def _facts(page: Page, fitted: FamilyFit) -> list[Fact]:
    facts = []
    for axis, name in (
        ("num_train", "data exponent"),
        ("num_params", "size exponent"),
        ("flops", "compute exponent"),
    ):
        law = _main_law(fitted, axis)
        surface = fitted.surface
        if law and law.exponent.value is not None:
            facts.append(_exponent(name, law.exponent, law_name(page, law), law.decades))
        elif surface and surface.status == "converged" and axis != "flops":
            both = surface.data_exponent if axis == "num_train" else surface.size_exponent
            if both.value is not None:
                facts.append(_exponent(name, both, "both axes fitted at once", None))
    if fitted.isoflop and fitted.isoflop.size_exponent.value is not None:
        best = fitted.isoflop.size_exponent
        facts.append(_exponent("exponent of the best size", best, "along compute, IsoFLOP", None))
    if fitted.seed_scatter is not None:
        facts.append(Fact("seed scatter", share(fitted.seed_scatter), "between runs, log loss"))
    return facts


def _exponent(name: str, quantity: Quantity, where: str, decades: float | None) -> Fact:
    interval = quantity.interval
    over = f", over {number(decades, 2)} decades" if decades is not None else ""
    if interval is None:
        return Fact(name, number(quantity.value), f"no interval; {where}{over}")
    value, _, rest = spread(quantity.value, interval.low, interval.high).partition(" (")
    return Fact(name, value, f"{rest.rstrip(')')} at {interval.level * 100:g} %; {where}{over}")


def _main_law(fitted: FamilyFit, axis: str) -> LawFit | None:
    """The law to quote: a converged one, at the largest value of what is held fixed."""
    laws = [law for law in fitted.laws if law.axis == axis and law.status == "converged"]
    laws = [law for law in laws if "num_capped" not in law.at] or laws
    return max(laws, key=lambda law: (sum(law.at.values()), law.decades), default=None)


def _unknown(page: Page, fitted: FamilyFit) -> list[str]:
    open_laws = [law for law in fitted.laws if law.status != "converged"]
    said = [f"The law {law_name(page, law)}: {law.sentence}" for law in open_laws]
    if fitted.surface and fitted.surface.status != "converged":
        said.append(f"Both axes at once: {fitted.surface.sentence}")
    for axis, name in (("num_train", "data"), ("num_params", "model size")):
        if not fitted.surface and not any(law.axis == axis for law in fitted.laws):
            said.append(f"How the loss falls with {name}: no law was fitted along it.")
    if len(said) > MOST_UNKNOWNS:
        rest = len(said) - MOST_UNKNOWNS
        said = [*said[:MOST_UNKNOWNS], f"{rest} more, in the table of laws below."]
    return said


def _holds(page: Page, fitted: FamilyFit) -> str:
    runs = page.fitted_runs(fitted.family)
    points = [point for point in page.points if point.run in runs]
    if not points:
        return ""
    data = [point.num_train for point in points]
    sizes = [point.num_params_total or point.num_params for point in points]
    return (
        f"Measured {_span(f'{min(data):,}', f'{max(data):,}')} training {plural(page.unit)} and "
        f"{_span(short(min(sizes)), short(max(sizes)))} parameters. "
        f"Anything beyond is extrapolation. {capped_note(page, fitted)}"
    ).strip()


def _span(low: str, high: str) -> str:
    return f"at {low}" if low == high else f"from {low} to {high}"


def _best(page: Page, family: str) -> list[Fact]:
    best, metric = page.best(family), page.metric(family)
    if best is None:
        return []
    size = best.size
    if not size.endswith(" parameters"):
        size += f" ({short(best.num_params_total or best.num_params)} parameters)"
    where = (
        f"{metric_label(metric, 'test').partition(',')[0]}; {size}, "
        f"{best.num_train:,} {plural(page.unit)}, seed {best.seed}"
    )
    return [Fact("best model reached", with_unit(best.losses[metric], metric), where)]


def verdict(promise: Promise) -> str:
    """A written forecast against what came, with "inside" or "outside" for each interval."""
    made, values = promise.forecast, [value for _, value in promise.outcomes]
    start = (
        f"{promise.plan}: {made.family} {made.size} on {made.num_train:,} was forecast at "
        f"{with_unit(made.value, made.metric)}"
    )
    if not values:
        ended = f" {counted(len(promise.unfinished), 'run')} ended without a value." * bool(
            promise.unfinished
        )
        return f"{start}; no outcome yet.{ended}"
    mean = sum(values) / len(values)
    off = mean / made.value - 1 if made.value else 0.0
    came = with_unit(mean, made.metric)
    if abs(off) < 0.001:
        size = "as forecast"
    else:
        size = f"{share(abs(off))} {'above' if off > 0 else 'below'} the forecast"
    many = len(values) > 1
    said = [
        _inside(level, low, high, values, many)
        for level, low, high in promise.levels()
    ]  # fmt: skip
    mean_of = f"the mean of {len(values)} runs came to" if many else "it came to"
    return f"{start}; {mean_of} {came}, {size}: {', '.join(said) or 'no interval was written'}."


def _inside(level: str, low: float, high: float, values: list[float], many: bool) -> str:
    hits = sum(low <= value <= high for value in values)
    where = f"the {level} % interval ({number(low)} to {number(high)})"
    if many:
        return f"{hits} of {len(values)} inside {where}"
    return f"inside {where}" if hits else f"outside {where}"


def excluded(fitted: FamilyFit) -> list[tuple[str, tuple[str, ...]]]:
    """Runs that were left out of the laws, by reason."""
    reasons: dict[str, list[str]] = {}
    for run, reason in fitted.excluded:
        reasons.setdefault(reason, []).append(run)
    return [(reason, tuple(runs)) for reason, runs in reasons.items()]


def capped_note(page: Page, fitted: FamilyFit) -> str:
    """How many runs were still improving when they ended, and what that means."""
    if not fitted.num_capped:
        return ""
    ceiling = f" of {fitted.max_items:,} {plural(page.unit)}" if fitted.max_items else ""
    note = (
        f"{fitted.num_capped} of {fitted.num_points} runs are {status('capped')}: still improving "
        f"at the ceiling{ceiling}."
    )
    if fitted.at_this_training_length:
        return f"{note} The data exponent is therefore the one at this training length."
    return note
