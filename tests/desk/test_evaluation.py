"""The report shows what a lower loss buys, without torch and without weights."""

import dataclasses

import pytest

from chemscale.desk.report import Page, figures, render
from chemscale.desk.report.evaluation import evaluated, evaluation_table, models_table
from chemscale.table.evaluation import Evaluated, Evaluation, SampleSettings
from chemscale.table.results import Point

LOSSES = {"a": 40.0, "b": 35.0, "c": 30.0, "d": 27.0, "e": 25.0}
FCD = {"a": 20.0, "b": 12.0, "c": 12.5, "d": 5.0, "e": 3.0}


def page(runs: str = "abcde", **floor: float) -> Page:
    points = tuple(
        Point(
            run=run, family="chemgpt", size="w16" if run < "c" else "w32", num_params=100,
            num_params_total=100 if run < "c" else 400, num_train=1000, unit="molecule", seed=0,
            losses={"nats_per_molecule": loss},
        )
        for run, loss in LOSSES.items()
    )  # fmt: skip
    found = tuple(
        Evaluated(run=run, metrics={"fcd": FCD[run], "validity": 0.9, "shift_fcd": 2 * FCD[run]})
        for run in runs
    )
    evaluation = Evaluation(
        settings=SampleSettings(num_samples=1000), num_reference={"test": 1000},
        floor=floor, runs=(*found, Evaluated(run="gone", metrics={"fcd": 1.0})), made="now",
    )  # fmt: skip
    return Page("here", points=points, evaluation=evaluation)


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_models_stand_in_the_order_of_their_loss_and_unknown_runs_are_left_out():
    assert [one.point.run for one in evaluated(page("dacbe"))] == list("abcde")


def test_a_measure_says_what_the_best_loss_buys_and_how_closely_it_follows():
    rows = texts(evaluation_table(page(fcd=0.5)))
    assert rows[0] == ["Fréchet ChemNet distance", "lower", "20.0", "3.00", "0.500", "−0.90"]
    assert rows[1] == ["valid", "higher", "0.900", "0.900", "–", "–"]
    assert rows[2][0] == "Fréchet ChemNet distance, shift set"


def test_three_models_have_no_rank_correlation():
    assert texts(evaluation_table(page("abc")))[0][-2:] == ["12.5", "–"]  # and no floor


def test_sizes_of_two_families_are_told_apart():
    one = page()
    other = one.points[0].model_copy(update={"family": "qwen3"})
    both = dataclasses.replace(one, points=(other, *one.points[1:]))
    [legend] = figures([both])["evaluation"].legends
    told = [text.get_text() for text in legend.texts]
    assert told == ["chemgpt w16 · 100", "qwen3 w16 · 100", "chemgpt w32 · 400"]


def test_the_report_has_the_section_only_where_something_was_evaluated():
    with_it = render([page(fcd=0.5)], "t", "now", "1")
    assert "Evaluation: what a lower loss buys" in with_it and "training molecules" in with_it
    assert "evaluation" in figures([page()])
    none = page("")
    assert models_table(none) is None and evaluation_table(none) is None
    assert "what a lower loss buys" not in render([none], "t", "now", "1")


def test_the_figure_has_a_panel_for_each_measure():
    shown = [axes for axes in figures([page()])["evaluation"].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["Fréchet ChemNet distance", "valid"]
    low, high = shown[1].get_ylim()
    assert high - low >= 0.009 - 1e-9
    assert shown[0].get_xlim()[0] > shown[0].get_xlim()[1], "a lower loss stands to the right"


@pytest.mark.parametrize("runs", ["a", "ab"])
def test_few_models_are_drawn_too(runs):
    assert "evaluation" in figures([page(runs)])
