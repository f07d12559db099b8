"""The report: one HTML file that stands alone, says what is known, and hides nothing missing."""

import dataclasses
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from chemscale.desk.fit import fit
from chemscale.desk.report import Page, figures, render, save
from chemscale.desk.report.words import duration, metric_label, number, short, spread
from chemscale.table.fits import FamilyFit, Fit, LawFit
from chemscale.table.points import points_of
from chemscale.table.records import Forecast, Length, Recipe, Run, Study, Trunk
from chemscale.table.results import (
    Choice,
    Curve,
    Estimate,
    EstimateRow,
    FamilyEstimate,
    Interval,
    Outcome,
    Point,
    Quantity,
    Size,
    Trained,
)

MADE = "2026-01-02T03:04:05Z"
PARAMS = {"w16": 5_100, "w24": 11_300, "w32": 19_900, "w48": 44_100}
TRUTH = {"schnet": (14.0, 640.0, 0.44), "painn": (9.0, 700.0, 0.55)}  # E, A, exponent
UNKNOWN = "Four sizes over 0.9 decades do not fix the exponent along parameters."
CHECK = "Half and double the chosen rate were both worse: the optimum is interior."
PROMISED = 31.0
CAME = 33.2


def truth(family: str, size: str, num_train: int) -> float:
    floor, coefficient, exponent = TRUTH[family]
    worse = (PARAMS[size] / 44_100) ** -0.15
    return worse * (floor + coefficient * num_train**-exponent)


def trunk_of(family: str, size: str, num_train: int, seed: int, rate: float) -> Trunk:
    recipe = Recipe(learning_rate=rate, batch_size=8)
    return Trunk(
        family=family, family_revision=1, config={"width": int(size[1:])}, dataset="d1",
        dataset_revision=1, num_train=num_train, recipe=recipe, seed=seed,
    )  # fmt: skip


def curve_of(run: Run, end: float, cooled: bool) -> Curve:
    items = np.round(1000 * 2 ** (np.arange(48 if cooled else 30) / 8))
    loss = end / 40 * (1 + 60 * items**-0.55)
    phase = np.where(items < 2000, "warmup", "stable")
    if cooled:
        items = np.append(items, np.linspace(1.03, 1.2, 5) * items[-6])
        loss = np.append(loss, np.linspace(0.95, 0.8, 5) * loss[-6])
        phase = np.append(phase, ["cooldown"] * 5)
    return Curve(
        run.id, {"items_seen": items, "val_loss": loss, "phase": phase}, np.zeros(0)
    )  # fmt: skip


def trained(family, size, num_train, seed, rate=1e-3, role="sweep", value=None, status="finished"):
    cooled = role != "search"
    run = Run.of(
        size, "structure", trunk_of(family, size, num_train, seed, rate),
        Length(items=60_000, flops=None, patience=0.5, cooldown=cooled),
    )  # fmt: skip
    noise = np.random.default_rng([seed, num_train, len(size), int(size[1:])]).normal(0, 0.03)
    value = value or truth(family, size, num_train) * float(np.exp(noise))
    good = status == "finished"
    ending = ("capped" if num_train == 3000 and size == "w48" else "plateaued") if good else None
    sentence = {
        "finished": "Ended by patience.",
        "diverged": "The training loss was not finite at step 412.",
    }[status]
    outcome = Outcome(
        run=run.id, status=status, sentence=sentence, ending=ending,
        step=4000, items_seen=32_000 if good else 3_296, num_params=PARAMS[size] - 1_600,
        num_params_total=PARAMS[size], flops=3e13, flops_spent=4e13, seconds=181.0,
        joules=5e3 if seed else None,
        metrics={"test": {"force_mae": value}} if good and cooled else {},
        machine={"device": "cpu", "torch": "2.13.0", "threads": "1", "precision": "float32"},
    )  # fmt: skip
    return Trained(run, outcome, lambda: curve_of(run, value, cooled and good), (role,))


def quantity(value: float, half: float) -> Quantity:
    return Quantity(value=value, interval=Interval(low=value - half, high=value + half, level=0.9))


def family_fit(family: str, points: list[Point]) -> FamilyFit:
    random = np.random.default_rng(3)
    laws, used = [], [p for p in points if p.family == family and p.role == "sweep" and p.losses]
    floor, coefficient, exponent = TRUTH[family]
    for size in sorted({point.size for point in used}):
        worse = (PARAMS[size] / 44_100) ** -0.15
        exponents = exponent + random.normal(0, 0.02, 60)
        draws = np.column_stack(
            [
                worse * floor + random.normal(0, 0.7, 60),
                worse * coefficient * 300 ** (exponents - exponent),
                exponents,
            ]
        )
        mine = [point for point in used if point.size == size]
        laws.append(
            LawFit(
                axis="num_train", law="power-floor", at={"num_params": PARAMS[size] - 1_600},
                status="converged", sentence=f"{size}: the loss falls steadily.",
                exponent=quantity(exponent, 0.04), coefficient=quantity(worse * coefficient, 60),
                irreducible_loss=quantity(worse * floor, 1.4),
                window=(30, 3000), decades=2.0, points=tuple(p.run for p in mine), residual=0.03,
                draws=tuple(tuple(float(x) for x in row) for row in draws),
            )
        )  # fmt: skip
    laws.append(
        LawFit(
            axis="num_params", law="power", at={"num_train": 3000}, status="not_identified",
            sentence=UNKNOWN, exponent=Quantity(), coefficient=Quantity(),
            irreducible_loss=Quantity(), window=(3_500, 42_500), decades=0.9,
            points=tuple(p.run for p in used if p.num_train == 3000),
        )
    )  # fmt: skip
    return FamilyFit(
        family=family, metric="force_mae", unit="structure", laws=tuple(laws), surface=None,
        seed_scatter=0.028, num_points=len(used), num_capped=3, at_this_training_length=True,
        max_items=60_000, check=CHECK, excluded=(("aaaabbbbccccdddd", "a search run"),),
        sentence=f"{family}: force errors fall as num_train to the power −{exponent} (0.9).",
    )  # fmt: skip


def family_estimate(family: str) -> FamilyEstimate:
    rows = []
    for rank, (rate, batch, early) in enumerate(
        [(3e-3, 8, 2.1), (1e-3, 8, 2.3), (3e-3, 32, 2.6), (3e-4, 8, 3.4), (1e-2, 32, 4.6)], 1
    ):
        finished = rank in (1, 2, 4)
        rows.append(
            EstimateRow(
                run=f"s{rank}", family=family, size="w16", learning_rate=rate, batch_size=batch,
                status="finished", items_seen=12_000, early_loss=early, forecast=0.8 * early,
                interval=Interval(low=0.7 * early, high=0.9 * early, level=0.9),
                final_loss=0.82 * early if finished else None, rank=rank,
            )
        )  # fmt: skip
    rows.append(
        EstimateRow(run="s9", family=family, size="w16", learning_rate=1e-2, batch_size=8,
                    status="diverged", items_seen=900)
    )  # fmt: skip
    return FamilyEstimate(
        family=family, rows=tuple(rows), estimator="early_loss", num_finished=3, spearman=0.98,
        regret=0.0, flops_spent=2e13, flops_if_all_finished=8e13,
        sentence=f"{family}: early losses order the settings as final losses do.",
    )  # fmt: skip


def study(name: str, families: dict[str, list[str]], **more) -> Study:
    asked = {
        "name": name, "families": families, "num_train": [30, 300, 3000], "seeds": 2,
        "dataset": {"format": "extxyz", "path": "alkane_c*.xyz.gz", "group": "blocks"},
        "recipe": "energy-and-forces", "budget": {"items": 60_000, "patience": 0.5},
        "search": {"learning_rate": [3e-4, 1e-3, 3e-3, 1e-2], "batch_size": [8, 32]},
    }  # fmt: skip
    return Study.read(asked | more, name)


def forecast(family: str) -> Forecast:
    return Forecast(
        family=family, size="w48", num_params=42_500, num_train=9000, metric="force_mae",
        value=PROMISED, intervals={"50": (30.0, 32.0), "90": (28.5, 34.0)},
        law="E + A·num_train^-a at w48", fitted_runs=("x",), made=MADE, why="10 hours on one CPU",
        capped_at_items=60_000,
    )  # fmt: skip


def page_of(
    families=("schnet", "painn"), sizes=("w16", "w48"), num_train=(30, 300, 3000), seeds=2
) -> Page:
    runs = [
        trained(family, size, amount, seed)
        for family in families for size in sizes for amount in num_train for seed in range(seeds)
    ]  # fmt: skip
    runs += [trained(f, "w16", 300, 0, rate, "search") for f in families for rate in (3e-4, 3e-3)]
    runs += [
        trained(families[-1], "w16", 300, 0, 1e-2, "search", status="diverged"),
        trained(families[-1], "w48", 300, 0, 5e-4, "check"),
        trained(families[-1], "w48", 9000, 0, role="plans/001", value=CAME),
    ]
    points = points_of(runs)
    asked = {family: list(sizes) for family in families}
    plan = study("plan", {families[-1]: ["w48"]}, num_train=[9000], search=None, seeds=1,
                 forecast=[forecast(families[-1])])  # fmt: skip
    choices = tuple(
        Choice(family=f, size=s, num_params=PARAMS[s], learning_rate=1e-3, batch_size=8,
               source="searched" if s != "w48" else "extrapolated", made=MADE)
        for f in families for s in sizes
    )  # fmt: skip
    ladder = tuple(
        Size(family=f, size=s, revision=1, config={}, num_params=n - 1600, num_params_total=n,
             bytes_training=16 * n, flops_per_item=900.0 * n, flops_formula={})
        for f in families for s, n in PARAMS.items()
    )  # fmt: skip
    return Page(
        folder="/data/priors", study=study("priors-on-alkanes", asked), trained=tuple(runs),
        points=tuple(points),
        estimate=Estimate(families=tuple(map(family_estimate, families)), made=MADE),
        choices=choices,
        fit=Fit(metric="force_mae", level=0.9, made=MADE,
                families=tuple(family_fit(f, points) for f in families)),
        plans=(("001", plan),), sizes=ladder, notes=("3 frames without forces were rejected.",),
    )  # fmt: skip


def report(*pages: Page) -> str:
    return render(pages, "Priors on alkanes", MADE, "0.1.0")


def bare_page() -> Page:
    points = [
        Point(run=f"r{n}", family="gpt", size="s", num_params=1000, num_params_total=1200,
              num_train=n, unit="molecule", seed=0, losses={"nats_per_molecule": 90 * n**-0.1})
        for n in (100, 1000, 10_000)
    ]  # fmt: skip
    return Page("curves.csv", points=tuple(points))


class Words(HTMLParser):
    """Collects text, ids and attributes; complains about tags that do not match."""

    VOID = {"meta", "link", "br", "img", "hr", "input"}

    def __init__(self, html: str):
        super().__init__()
        self.open, self.text, self.ids, self.attributes = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def __str__(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def full() -> Page:
    return page_of()


@pytest.fixture(scope="module")
def html(full: Page) -> str:
    return report(full)


@pytest.fixture(scope="module")
def text(html: str) -> str:
    return str(Words(html))


def test_every_stage_has_its_section(html):
    ids = Words(html).ids
    for word in ("found", "study", "run", "curve", "estimate", "fit", "plan", "provenance"):
        assert word in ids


def test_ids_are_unique_and_references_resolve(html, full):
    for page in (html, report(full, full)):
        words = Words(page)
        assert len(words.ids) == len(set(words.ids))
        wanted = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", page))
        assert wanted <= set(words.ids)


def test_nothing_is_fetched(html):
    assert "://" not in html and "@import" not in html
    assert not [one for one in Words(html).attributes if one[1] == "src"]
    assert all(value.startswith("#") for _, name, value in Words(html).attributes if name == "href")


def test_the_same_pages_give_the_same_bytes(html):
    assert report(page_of()) == html


def test_the_sentences_of_the_records_are_said(text):
    for sentence in (
        "Force errors fall as num_train", UNKNOWN, CHECK,
        "Early losses order the settings", "3 frames without forces were rejected.",
        "The training loss was not finite at step 412.", "a search run",
    ):  # fmt: skip
        assert sentence in text


def test_exponents_come_with_their_interval_and_level(text):
    assert "0.55 (0.51–0.59)" in text
    assert "exponent (90 % interval)" in text
    assert "force error (MAE), meV/Å" in text


def test_what_is_not_identified_is_said_at_the_top(html):
    top = html[html.index('id="found"') : html.index('id="study"')]
    assert UNKNOWN in top
    assert "the one at this training length" in top
    assert "Anything beyond is extrapolation." in top


def test_the_best_model_is_the_lowest_measured(full, html):
    best = min(point.losses["force_mae"] for point in full.points if point.losses)
    assert f"<dt>best model reached</dt><dd>{number(best)} meV/Å" in html


def test_a_forecast_is_set_beside_its_outcome(text):
    assert "painn w48 on 9,000 was forecast at 31.0 meV/Å; it came to 33.2 meV/Å" in text
    assert "7.1 % above the forecast" in text
    assert "outside the 50 % interval (30.0 to 32.0)" in text
    assert "inside the 90 % interval (28.5 to 34.0)" in text


def test_a_forecast_without_outcome_says_so(full):
    waiting = dataclasses.replace(
        full,
        trained=tuple(one for one in full.trained if "plans/001" not in one.roles),
        points=tuple(point for point in full.points if point.role != "plans/001"),
    )
    assert "no outcome yet" in report(waiting)


def test_a_run_that_a_forecast_was_fitted_to_does_not_test_it(full):
    name, plan = full.plans[0]
    [one] = plan.forecast
    [(run, _)] = full.promises()[0].outcomes
    knowing = plan.model_copy(
        update={"forecast": (one.model_copy(update={"fitted_runs": (run,)}),)}
    )
    assert "no outcome yet" in report(dataclasses.replace(full, plans=((name, knowing),)))


def test_runs_still_to_come_are_counted(full, text):
    waiting = str(Words(report(dataclasses.replace(full, num_waiting=3, num_unfitted=2))))
    assert "31 runs: 30 finished, 1 diverged. 3 more asked for have not ended." in waiting
    assert "2 ended after the fit: chemscale fit takes them in." in waiting
    assert "not ended" not in text


def test_diverged_runs_come_first_and_never_hidden(html):
    runs = html[html.index('id="run"') : html.index('id="curve"')]
    assert runs.index("✕ diverged") < runs.index("✓ plateaued")
    assert "<details" not in runs[: runs.index("✕ diverged")]


def test_long_run_tables_are_folded():
    page = page_of(families=("painn",), sizes=tuple(PARAMS), seeds=3)
    runs = (html := report(page))[html.index('id="run"') : html.index('id="curve"')]
    assert "<details><summary>All" in runs


def test_compute_is_split_and_missing_electricity_is_counted(full):
    spent = {one.part: one for one in full.spent()}
    assert set(spent) == {"search", "sweep", "rate check", "plans/001", "in all"}
    assert spent["in all"].flops == pytest.approx(4e13 * len(full.trained))
    assert spent["search"].joules is None
    assert "measured for 12 of 24 runs" in report(full)


def test_words_of_a_table_are_not_said_twice():
    points = tuple(
        point.model_copy(update={"size": "1,000 parameters", "losses": {name: 1 / point.num_train}})
        for point, name in zip(bare_page().points, ("test_mae",) * 3, strict=True)
    )
    text = str(Words(report(dataclasses.replace(bare_page(), points=points))))
    assert "test MAE; 1,000 parameters, 10,000 molecules" in text
    assert "test test" not in text and "1,000 parameters ·" not in text
    assert metric_label("loss", "test") == "test loss"


def test_missing_stays_missing():
    html = report(bare_page())
    runs = html[html.index('id="run"') : html.index('id="curve"')]
    assert runs.count(">–</td>") == 4 * 3  # rate, batch, items seen and time of three models
    assert ">0.0<" not in runs
    assert number(None) == number(float("nan")) == duration(None) == "–"


@pytest.mark.parametrize("without", ["fit", "estimate", "plans", "trained", "choices", "sizes"])
def test_a_study_on_its_way_can_be_reported(full, without):
    empty = None if without in ("fit", "estimate") else ()
    Words(report(dataclasses.replace(full, **{without: empty})))


def test_a_study_without_a_single_run_can_be_reported(full):
    page = Page("here", full.study)
    assert "No run has ended yet." in report(page)
    assert figures([page]) == {}


def test_a_bare_table_is_a_report():
    html = report(bare_page())
    assert "A bare table: there is no study file." in html
    assert "training molecules" in html and "test loss per molecule, nats" in html
    assert "other runs" not in html and "on the final weights" not in html


def test_names_of_settings_do_not_lie_on_each_other(full):
    close = family_estimate("painn")
    rows = [row.model_copy(update={"early_loss": 2 + row.rank / 1000}) for row in close.rows[:5]]
    close = close.model_copy(
        update={"rows": (*rows, rows[0].model_copy(update={"run": "far", "early_loss": 9.0}))}
    )
    page = dataclasses.replace(full, estimate=Estimate(families=(close,), made=MADE))
    [axes] = figures([page])["estimate"].axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) > 2
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_names_are_escaped(full):
    evil = "<script>alert(1)</script>"
    page = dataclasses.replace(
        full, study=full.study.model_copy(update={"name": evil}), notes=(evil,), folder=evil
    )
    html = render([page, page], evil, evil, evil)
    assert evil not in html
    Words(html)


def test_evil_family_and_size_names_do_not_leave_the_figures():
    evil = '"><script>alert(1)</script>'
    points = tuple(
        point.model_copy(update={"family": evil, "size": evil}) for point in bare_page().points
    )
    html = report(dataclasses.replace(bare_page(), points=points))
    assert "<script>alert" not in html
    Words(html)


def test_several_studies_share_one_page(full):
    html = report(full, dataclasses.replace(full, folder="/data/other"))
    assert 'id="study-1-fit"' in html and 'id="study-2-fit"' in html


def test_every_figure_says_what_it_shows(html):
    figures_ = re.findall(r'<svg role="img" aria-label="([^"]+)"', html)
    assert len(figures_) == html.count("<svg") == html.count("<figcaption>") == 6
    assert all(len(alt) > 40 for alt in figures_)


def test_figures_follow_the_colour_scheme(html):
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "var(--ink)" in svg and not re.search(r"#[0-9a-f]{6}\b", svg)


def test_figures_can_be_saved(full, tmp_path):
    drawn = figures([full])
    assert {"curves", "estimate", "law-schnet", "law-painn", "forecast", "compare"} == set(drawn)
    for suffix in ("png", "svg"):
        save(drawn["forecast"], tmp_path / f"forecast.{suffix}")
        assert (tmp_path / f"forecast.{suffix}").stat().st_size > 1000


def test_numbers_keep_the_digits_that_mean_something():
    assert [number(x) for x in (0.0312, 41.23, 1234.5, 1.2e-5)] == [
        "0.0312", "41.2", "1,234", "1.20×10⁻⁵"
    ]  # fmt: skip
    assert [short(x) for x in (950, 12_345, 999_999, 7e9)] == ["950", "12.3k", "1M", "7B"]
    assert spread(0.34, 0.301, 0.379) == "0.34 (0.30–0.38)"
    assert spread(-0.1, -1.4, 1.2) == "−0.1 (−1.4 to 1.2)"
    assert duration(181) == "3.0 min"


def test_settings_are_written_as_they_were_chosen(html):
    svg = html[html.index('id="estimate"') :]
    assert ">0.0003</text>" in svg and ">0.003</text>" in svg


def test_what_fit_says_is_taken_apart_and_said(full):
    page = dataclasses.replace(full, fit=fit(full.points))
    text = str(Words(report(page)))
    for family in page.fit.families:
        for law in family.laws:
            assert law.sentence[1:] in text


def test_names_with_dollars_are_not_mathematics():
    points = tuple(point.model_copy(update={"size": "$x^$"}) for point in bare_page().points)
    assert "$x^$" in report(dataclasses.replace(bare_page(), points=points))


def test_runs_that_failed_before_any_evaluation_can_be_reported(full):
    runs = tuple(
        dataclasses.replace(one, read_curve=lambda: Curve("x", {}, np.zeros(0)))
        for one in full.trained
    )
    assert "No curves" in report(dataclasses.replace(full, trained=runs))


def test_a_curve_is_drawn_to_the_end_of_its_cooldown(full):
    runs = tuple(one for one in full.trained if "sweep" in one.roles)
    [axes, *_] = figures([dataclasses.replace(full, trained=runs)])["curves"].axes
    assert axes.get_xlim()[1] > max(one.curve["items_seen"].max() for one in runs)


def test_without_a_law_runs_outside_the_sweep_are_hollow_and_no_part_of_the_means(full):
    drawn = figures([dataclasses.replace(full, fit=None)])["law-painn"].axes[0]
    sweep = [p for p in full.points if (p.family, p.size, p.num_train) == ("painn", "w48", 300)]
    mean = np.exp(np.mean([np.log(p.losses["force_mae"]) for p in sweep if p.role == "sweep"]))
    dotted = [line for line in drawn.get_lines() if line.get_linestyle() == ":"]
    assert any(np.isclose(line.get_ydata(), mean).any() for line in dotted)
    hollow = [one for one in drawn.get_lines() if one.get_markerfacecolor() != one.get_color()]
    assert sum(len(one.get_xdata()) for one in hollow) == 2  # the check and the plan


def test_the_shift_set_stands_beside_the_test_set():
    told = bare_page()
    points = [
        point.model_copy(update={"losses": {**point.losses, "shift_nats_per_molecule": 2 * value}})
        for point in told.points
        for value in point.losses.values()
    ]
    html = report(dataclasses.replace(told, points=tuple(points)))
    words = str(Words(html))
    assert "gpt on the shift set, which no law is fitted to" in words
    assert words.count(" 2.00 ") >= 3
    assert "on the shift set" not in str(Words(report(told)))


def test_what_is_held_out_for_a_plan_is_said(full):
    held = full.study.model_copy(update={"hold_out": {"w48": (3000,)}})
    words = str(Words(report(dataclasses.replace(full, study=held))))
    assert "Held out for a plan w48 on 3,000" in words
    assert "Held out for a plan" not in str(Words(report(full)))
