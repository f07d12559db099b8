"""Pages to one HTML file that stands alone: no requests, no clock, no chance."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from chemscale.desk.report import tables
from chemscale.desk.report.drawing import Drawn, inline_svg, scheme_css
from chemscale.desk.report.evaluation import evaluation_table, models_table
from chemscale.desk.report.figures import all_figures
from chemscale.desk.report.findings import capped_note, excluded, found, verdict
from chemscale.desk.report.laws import (
    best_sizes_table,
    influence_table,
    laws_table,
    regimes_table,
    savings_table,
)
from chemscale.desk.report.page import Page, named
from chemscale.desk.report.shift import shift_table
from chemscale.desk.report.words import NO_AMOUNTS, NO_LAW, clauses, number, scientific, share
from chemscale.table.results import FamilyEstimate


def render(pages: Sequence[Page], title: str, made: str, version: str) -> str:
    """Write the report of one or several studies as one self-contained HTML document.

    Args:
        pages: what is known of each study, in the order of the report.
        title: the heading of the document.
        made: when it was made, as it should be read; nothing here looks at a clock.
        version: of chemscale.

    Returns:
        HTML; the same arguments give the same bytes.
    """
    from jinja2 import Environment, StrictUndefined

    drawn = {one.name: one for one in all_figures(pages)}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    )
    studies = enumerate(named(tuple(pages)), start=1)
    light, dark = Markup(scheme_css(dark=False)), Markup(scheme_css(dark=True))
    return template.render(
        title=title,
        made=made,
        version=version,
        light=light,
        dark=dark,
        studies=[_study(prefix, page, drawn, place) for place, (prefix, page) in studies],
    )


def _figure(drawn: dict[str, Drawn], name: str, unique: str) -> dict[str, Any] | None:
    if name not in drawn:
        return None
    one = drawn[name]
    return {"svg": Markup(inline_svg(one, unique)), "caption": one.caption}


def _study(prefix: str, page: Page, drawn: dict[str, Drawn], place: int) -> dict[str, Any]:
    def figure(name: str, unique: str) -> dict[str, Any] | None:
        return _figure(drawn, f"{prefix}{name}", f"s{place}-{unique}")

    wrong, runs = tables.run_tables(page)
    promises = page.promises()
    return {
        "prefix": prefix,
        "name": page.name,
        "folder": page.folder,
        "found": found(page),
        "joins": page.joins,
        "asked": tables.asked(page),
        "sizes": tables.sizes_table(page),
        "notes": page.notes,
        "wrong": wrong,
        "runs": runs,
        "curves": figure("curves", "curves"),
        "estimate_figure": figure("estimate", "estimate"),
        "estimates": [
            {
                "family": one.family,
                "sentences": clauses(one.sentence, one.family),
                "facts": _estimate_facts(one),
                "how": one.estimator,
                "table": tables.settings_table(one),
            }
            for one in (page.estimate.families if page.estimate else ())
        ],
        "choices": tables.choices_table(page.choices),
        "families": [
            _family(page, family, figure(f"law-{family}", f"law{rank}"))
            for rank, family in enumerate(page.families)
        ],
        "comparisons": [
            (
                f"{' against '.join(one.families)}",
                clauses(one.sentence.partition(": ")[2]),
                savings_table(page, one),
            )
            for one in (page.fit.comparisons if page.fit else ())
        ],
        "compare": figure("compare", "compare"),
        "forecast_figure": figure("forecast", "forecast"),
        "plans": [name for name, _ in page.plans],
        "verdicts": [verdict(one) for one in promises],
        "capped_plans": [
            f"{one.plan}: holds only for runs that see at most {one.forecast.capped_at_items:,} "
            "items, as the fitted ones did."
            for one in promises
            if one.forecast.capped_at_items
        ],
        "promises": tables.promises_table(page, promises),
        "spent": tables.spent_table(page.spent()),
        "evaluation": evaluation_table(page),
        "evaluation_figure": figure("evaluation", "evaluation"),
        "evaluated": models_table(page),
        "machines": _machines(page),
        "run_ids": [one.run.id for one in page.trained] or [point.run for point in page.points],
    }


def _estimate_facts(one: FamilyEstimate) -> list[tuple[str, str]]:
    said = [
        ("finished", f"{one.num_finished} of {len(one.rows)}"),
        ("Spearman, early against final", number(one.spearman, 2)),
        ("regret of the early pick, log loss", number(one.regret, 2)),
    ]
    cost, whole = scientific(one.flops_spent or None), one.flops_if_all_finished
    if whole and one.flops_spent:
        of_all = f"{cost} of {scientific(whole)} ({share(one.flops_spent / whole)})"
        return [*said, ("FLOPs spent, of finishing all", of_all)]
    return [*said, ("FLOPs spent", cost)]


def _family(page: Page, family: str, figure: dict[str, Any] | None) -> dict[str, Any]:
    fitted = page.family_fit(family)
    return {
        "family": family,
        "figure": figure,
        "sentence": "" if fitted else NO_LAW if page.points or page.study else NO_AMOUNTS,
        "table": laws_table(page, fitted) if fitted else None,
        "best_sizes": best_sizes_table(page, fitted) if fitted else None,
        "regimes": regimes_table(page, fitted) if fitted else None,
        "checklist": fitted.checklist if fitted else (),
        "influence": influence_table(page, fitted) if fitted else None,
        "shift": shift_table(page, family),
        "capped": capped_note(page, fitted) if fitted else "",
        "check": " ".join(clauses(fitted.check or "")) if fitted else "",
        "excluded": excluded(fitted) if fitted else [],
        "num_excluded": len(fitted.excluded) if fitted else 0,
    }


def _machines(page: Page) -> list[tuple[str, int]]:
    """Each distinct machine setting, with the number of runs made on it."""
    seen: dict[str, int] = {}
    for one in page.trained:
        text = ", ".join(f"{key} {value}" for key, value in sorted(one.outcome.machine.items()))
        if text:
            seen[text] = seen.get(text, 0) + 1
    return sorted(seen.items())
