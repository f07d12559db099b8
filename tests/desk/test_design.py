import math

import numpy as np
import pytest
from test_fit import NUM_TRAIN, point, study
from test_plan import NOW, rung

from chemscale.desk.costs import StudyCosts
from chemscale.desk.design import Design, _scatter
from chemscale.desk.design import design as designing
from chemscale.desk.fit import fit
from chemscale.desk.forecast import predict
from chemscale.table.errors import NotIdentified
from chemscale.table.fits import Fit
from chemscale.table.records import Study
from chemscale.table.results import Size

PARAMS = {
    "w8": 2_000,
    "w16": 6_000,
    "w32": 22_000,
    "w64": 80_000,
    "w96": 200_000,
    "w512": 9_000_000,
}
STUDY = Study.read(
    {
        "name": "alkanes",
        "families": {"painn": list(PARAMS)},
        "dataset": {"format": "extxyz", "path": "alkanes.xyz"},
        "num_train": list(NUM_TRAIN),
        "recipe": "energy-and-forces",
        "budget": {"items": 100_000},
    },
    "study.toml",
)


def fitted(
    sizes: tuple[str, ...] = ("w8", "w16", "w32"), scatter: float = 0.02, seeds: int = 1
) -> Fit:
    return fit(study(7, {size: PARAMS[size] for size in sizes}, scatter=scatter, seeds=seeds))


def ladder(price: dict[str, float] | None = None, each: float = 10.0) -> list[Size]:
    """FLOPs of an item: `each` a parameter, or by size."""
    return [rung(n, count, (price or {}).get(n, each * count)) for n, count in PARAMS.items()]


def design(fitted: Fit, study: Study, sizes: list[Size], *where, **options) -> Design:
    costs = StudyCosts(study, sizes, options.get("device"))
    return designing(fitted, costs, *where, **options)


def order(found: Design) -> list[tuple[str, int]]:
    return [(one.candidate.size.size, one.candidate.num_train) for one in found.pilots]


@pytest.fixture(scope="module")
def runs() -> Fit:
    return fitted()


def test_where_runs_are_free_the_target_itself_tells_most_about_the_target(runs):
    found = design(runs, STUDY, ladder(each=0.0), "painn:w96", 3000)
    assert order(found)[0] == ("w96", 3000)
    assert found.pilots[0].narrower == max(pilot.narrower for pilot in found.pilots)


def test_runs_are_ranked_by_what_they_narrow_per_flop_so_a_dearer_size_falls_behind(runs):
    even = dict.fromkeys(PARAMS, 100.0)
    first = order(design(runs, STUDY, ladder(even), "painn:w96", 3000))[0]
    dear = even | {first[0]: 1e6}
    again = design(runs, STUDY, ladder(dear), "painn:w96", 3000, flops=1e99)
    assert first in order(again)
    assert order(again)[0][0] != first[0]
    rates = [-math.log(1 - p.narrower) / p.candidate.flops for p in again.pilots]
    assert rates == sorted(rates, reverse=True)


def test_no_pilot_costs_more_than_the_budget_or_by_default_the_target(runs):
    found = design(runs, STUDY, ladder(), "painn:w64", 3000)
    assert {size for size, _ in order(found)} <= {"w8", "w16", "w32", "w64"}
    small = 1.2 * 100_000 * 10.0 * PARAMS["w32"]
    found = design(runs, STUDY, ladder(), "painn:w64", 3000, flops=small, least=0.0)
    assert {size for size, _ in order(found)} == {"w8", "w16", "w32"}


def test_the_same_fit_is_answered_the_same_and_sizes_in_any_order(runs):
    one = design(runs, STUDY, ladder(), "painn:w96", 3000)
    assert one == design(runs, STUDY, ladder(), "painn:w96", 3000)
    other = design(runs, STUDY, ladder()[::-1], "painn:w96", 3000)
    assert order(one) == order(other)
    narrower = [[pilot.narrower for pilot in found.pilots] for found in (one, other)]
    assert narrower[0] == pytest.approx(narrower[1])


def test_intervals_expected_are_nested_in_the_one_there_is_about_the_same_forecast(runs):
    found = design(runs, STUDY, ladder(), "painn:w96", 3000)
    now = predict(runs.families[0], PARAMS["w96"], 3000)
    assert found.interval == now.intervals[-1]
    for pilot in found.pilots:
        assert found.interval.low < pilot.interval.low < now.value
        assert now.value < pilot.interval.high < found.interval.high
        widths = [math.log(one.high / one.low) for one in (pilot.interval, found.interval)]
        assert widths[0] / widths[1] == pytest.approx(1 - pilot.narrower)


def test_piloting_stops_where_no_run_is_expected_to_narrow_by_enough(runs):
    found = design(runs, STUDY, ladder(), "painn:w96", 3000, least=0.99)
    assert found.pilots == ()
    assert found.sentence.startswith("stop piloting painn:w96 on 3,000 structures")
    assert "by 99 % (the best, " in found.sentence
    assert found.forecast(StudyCosts(STUDY, ladder()), now=NOW) is None


def test_the_first_pilot_is_forecast_and_another_seed_where_one_is_there(runs):
    found = design(runs, STUDY, ladder(), "painn:w96", 3000)
    made = found.forecast(StudyCosts(STUDY, ladder()), now=NOW)
    assert made is not None
    assert (made.size, made.num_train) == order(found)[0]
    assert "narrows the forecast of painn:w96 on 3,000 structures most per FLOP" in made.why
    there = {cell.key: cell.num_runs for cell in runs.families[0].observed}
    everything = design(runs, STUDY, ladder(), "painn:w96", 3000, least=0.0)
    for pilot in everything.pilots:
        cell = (pilot.candidate.size.num_params, pilot.candidate.num_train)
        assert pilot.trained == there.get(cell, 0)
    assert {pilot.trained for pilot in everything.pilots} == {0, 1}


def test_what_is_held_out_or_not_there_or_was_bought_is_no_pilot(runs):
    held = STUDY.model_copy(update={"hold_out": {"w96": (3000,)}})
    free = ladder(each=0.0)
    assert ("w96", 3000) not in order(design(runs, held, free, "painn:w96", 3000))
    few = design(runs, STUDY, free, "painn:w96", 3000, available=1000)
    assert max(amount for _, amount in order(few)) == 1000
    bought = point("w96", PARAMS["w96"], 3000, 0, 5.0, role="plans/001")
    assert ("w96", 3000) not in order(design(runs, STUDY, free, "painn:w96", 3000, bought=[bought]))


def test_where_cells_scatter_more_than_seeds_a_further_seed_tells_little_and_the_fewer_the_more():
    alike = _scatter(np.array([0, 1, 3]), 0.01, 0.01)
    assert alike == pytest.approx([1e-4, 1e-4, 1e-4])  # nothing but seeds: all the same
    off = _scatter(np.array([0, 1, 3]), 0.01, 0.05)
    assert off[0] < off[1] / 10 < off[2] / 10


def test_of_very_many_amounts_only_round_ones_are_pilots(monkeypatch: pytest.MonkeyPatch):
    odd = fit(study(7, {size: PARAMS[size] for size in ("w8", "w16", "w32")}, seeds=1,
                    num_train=(31, 103, 317, 1009, 3001)))  # fmt: skip
    monkeypatch.setattr("chemscale.desk.costs.MANY", 3)
    monkeypatch.setattr("chemscale.desk.design.MANY", 3)
    found = design(odd, STUDY.model_copy(update={"num_train": ()}), ladder(), "painn:w64", 3001)
    assert {amount for _, amount in order(found)} <= {31, 3001} | {
        step * 10**power // 2 for step in (2, 3, 4, 6, 10, 14) for power in (1, 2, 3)
    }


def test_along_one_size_only_runs_of_that_size_are_pilots():
    found = design(fitted(sizes=("w32",)), STUDY, ladder(), "painn:w32", 30_000, available=30_000)
    assert {size for size, _ in order(found)} == {"w32"}
    assert found.pilots[0].candidate.num_train > 1000


def test_a_target_out_of_reach_is_refused_with_the_run_that_would_help(runs):
    with pytest.raises(NotIdentified, match="a run near num_params"):
        design(runs, STUDY, ladder(), "painn:w512", 3000)
