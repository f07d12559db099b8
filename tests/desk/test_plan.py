import math
from dataclasses import replace

import numpy as np
import pytest
from test_fit import NUM_TRAIN, study

from chemscale.desk.candidates import named
from chemscale.desk.costs import StudyCosts, TableCosts, round_numbers
from chemscale.desk.fit import fit
from chemscale.desk.forecast import predict, reach
from chemscale.desk.plan import as_study, forecast, promise
from chemscale.table.errors import NotIdentified, UnknownName, UsageError
from chemscale.table.fits import Fit
from chemscale.table.records import Study
from chemscale.table.results import Point, Size

PARAMS = {"w8": 2_000, "w16": 6_000, "w32": 22_000, "w48": 50_000, "w64": 80_000, "w512": 5_000_000}


def loss(num_params: float, num_train: float) -> float:
    """What `study` scatters about."""
    return 2 + 3000 * num_params**-0.6 + 400 * num_train**-0.4


def points(rng: int = 0, sizes=("w8", "w16", "w32", "w64"), **other) -> list[Point]:
    return study(rng, {size: PARAMS[size] for size in sizes}, **other)


def rung(size: str, num_params: int, flops_per_item: float, **speeds: float) -> Size:
    return Size(
        family="painn", size=size, revision=1, config={}, num_params=num_params,
        num_params_total=num_params, bytes_training=16 * num_params,
        flops_per_item=flops_per_item, flops_formula={}, items_per_second=speeds,
    )  # fmt: skip


STUDY = Study.read(
    {
        "name": "alkanes",
        "families": {"painn": ["w8", "w16", "w32", "w64"]},
        "dataset": {"format": "extxyz", "path": "alkanes.xyz"},
        "num_train": list(NUM_TRAIN),
        "recipe": "energy-and-forces",
        "budget": {"items": 100_000},
        "search": {"learning_rate": [1e-3, 3e-3]},
    },
    "study.toml",
)
LADDER = [
    rung(size, count, 10.0 * count, **({"cpu": 2e7 / count} if size != "w64" else {}))
    for size, count in PARAMS.items()
]
NOW = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(points())


def plan(fitted: Fit, study: Study, sizes: list[Size], seeds: int = 1, **wish) -> Study:
    costs = StudyCosts(study, sizes, wish.get("device"))
    return as_study(study, forecast(fitted, costs, seeds=seeds, **wish), seeds)


def cost(size: str, seeds: int = 1) -> float:
    return seeds * 100_000 * 1.2 * 10.0 * PARAMS[size]


def test_a_forecast_inside_the_window_is_close_and_its_intervals_are_nested(fitted):
    found = predict(fitted.families[0], 50_000, 500)
    assert found.value == pytest.approx(loss(50_000, 500), rel=0.05)
    assert found.beyond == 0
    assert [i.level for i in found.intervals] == [0.5, 0.8, 0.9]
    widths = [i.high / i.low for i in found.intervals]
    assert widths == sorted(widths)
    assert all(i.low < found.value < i.high for i in found.intervals)


def test_a_90_percent_interval_covers_about_90_percent_of_new_runs_inside_the_window():
    inside, rng = 0, np.random.default_rng(5)
    for seed in range(25):
        one = fit(points(seed, sizes=("w32",))).families[0]
        interval = predict(one, PARAMS["w32"], 500).intervals[-1]
        new = loss(PARAMS["w32"], 500) * math.exp(0.03 * rng.standard_normal())
        inside += interval.low <= new <= interval.high
    assert 0.8 <= inside / 25 <= 1.0


def test_intervals_widen_with_the_distance_from_what_was_fitted(fitted):
    widths = []
    for num_train in (3_000, 10_000, 30_000, 90_000):
        interval = predict(fitted.families[0], 80_000, num_train).intervals[-1]
        widths.append(math.log(interval.high / interval.low))
    assert widths == sorted(widths)
    assert widths[-1] > 2 * widths[0]


def test_no_change_from_the_last_observation_stands_beside_the_forecast(fitted):
    found = predict(fitted.families[0], 100_000, 4_000)
    assert found.last_observed_at == (80_000, 3_000)
    assert found.last_observation == pytest.approx(loss(80_000, 3_000), rel=0.1)
    assert found.value < found.last_observation


def test_a_law_reaches_as_far_as_it_is_wide_and_a_short_one_not_at_all():
    assert reach((100, 999)) == (100, 999)
    assert reach((100, 2_000)) == (5, 40_000)
    assert reach((1, 1e6)) == pytest.approx((1 / 30, 30e6))


def test_too_far_is_refused_with_the_run_that_would_help(fitted):
    with pytest.raises(NotIdentified, match="a run near num_params = 170,000 would bring"):
        predict(fitted.families[0], 5_000_000, 1_000)


def test_a_window_of_less_than_a_decade_is_not_left():
    one = fit(points(sizes=("w16", "w32", "w48"))).families[0]
    assert predict(one, 22_000, 30_000).beyond == pytest.approx(1)
    with pytest.raises(NotIdentified, match="less than a decade.*num_params = 60,000 or more"):
        predict(one, 80_000, 1_000)


def test_without_a_surface_the_law_through_the_same_size_answers():
    one = fit(points(sizes=("w32",))).families[0]
    assert one.surface is None
    found = predict(one, 22_000, 10_000)
    assert found.value == pytest.approx(loss(22_000, 10_000), rel=0.2)
    assert "at num_params = 22,000" in found.law
    with pytest.raises(
        NotIdentified, match="three are needed: runs with num_params = 66,000 and 220,000"
    ):
        predict(one, 50_000, 1_000)


def test_losses_lost_in_scatter_forecast_nothing():
    one = fit(points(sizes=("w32",), num_train=(30, 100, 300), scatter=1.5)).families[0]
    with pytest.raises(NotIdentified, match="wider than a factor of ten"):
        predict(one, 22_000, 3_000)


def test_a_plan_is_a_study_that_differs_in_what_was_asked_and_carries_its_forecast(fitted):
    made = plan(fitted, STUDY, LADDER, at="painn:w48", num_train=5000, seeds=2, now=NOW)
    assert made.name == "alkanes-plan"
    assert (made.families, made.num_train, made.seeds) == ({"painn": ("w48",)}, (5000,), 2)
    assert made.search is None
    assert (made.dataset, made.recipe, made.budget) == (STUDY.dataset, STUDY.recipe, STUDY.budget)
    [promised] = made.forecast
    assert promised.value == pytest.approx(loss(50_000, 5_000), rel=0.1)
    assert list(promised.intervals) == ["50", "80", "90"]
    assert set(promised.fitted_runs) == {point.run for point in points()}
    assert promised.law.startswith("force MAE = ")
    assert "no change from the last observation" in promised.why
    assert promised.made == NOW
    assert promised.capped_at_items is None
    assert Study.model_validate(made.model_dump()) == made


def test_a_flops_budget_buys_the_best_forecast_that_it_can_pay_for(fitted):
    made = plan(fitted, STUDY, LADDER, flops=1.01 * cost("w48", 2), seeds=2, now=NOW)
    assert made.families == {"painn": ("w48",)}
    assert made.num_train == (3000,)
    richer = plan(fitted, STUDY, LADDER, flops=1e30, available=20_000, now=NOW)
    assert richer.families == {"painn": ("w64",)}  # w512 lies out of reach
    assert richer.num_train == (20_000,)
    with pytest.raises(NotIdentified, match="the cheapest run costs 2.40e9 FLOPs"):
        plan(fitted, STUDY, LADDER, flops=1.0, now=NOW)


def test_hours_on_a_device_use_its_measured_speed(fitted):
    hours = 1.2 * 100_000 / (2e7 / PARAMS["w48"]) / 3600
    made = plan(fitted, STUDY, LADDER, hours=1.01 * hours, device="cpu", now=NOW)
    assert made.families == {"painn": ("w48",)}
    assert "without painn:w64, whose" in made.forecast[0].why
    untimed = [size.model_copy(update={"items_per_second": {}}) for size in LADDER[1:]]
    first = plan(fitted, STUDY, [LADDER[0], *untimed], hours=hours, device="cpu", now=NOW)
    named = f"painn:{LADDER[1].size} and {len(untimed) - 1} more"
    assert f"without {named}, whose cost is not known" in first.forecast[0].why
    with pytest.raises(NotIdentified, match=r"measured so far: cpu.*expand STUDY --measure"):
        plan(fitted, STUDY, LADDER, hours=1, device="h200", now=NOW)


def test_a_budget_does_not_buy_what_is_trained_already(fitted):
    # Within the budget of w32 lie only runs like those there are, up to their largest num_train.
    made = plan(fitted, STUDY, LADDER, flops=1.01 * cost("w32"), now=NOW)
    assert made.num_train[0] not in NUM_TRAIN
    more = plan(fitted, STUDY, LADDER, flops=1.01 * cost("w32"), available=20_000, now=NOW)
    assert (more.families, more.num_train) == ({"painn": ("w32",)}, (20_000,))


def test_what_an_earlier_plan_trained_is_not_bought_again(fitted):
    first = plan(fitted, STUDY, LADDER, flops=1.01 * cost("w32"), available=20_000, now=NOW)
    (size,), (amount,) = first.families["painn"], first.num_train
    done = points(sizes=(size,))[0].model_copy(
        update={"num_train": amount, "role": "plans/001", "losses": {"force_mae": 1.0}}
    )
    again = plan(
        fitted, STUDY, LADDER, flops=1.01 * cost("w32"), available=20_000, bought=[done], now=NOW
    )
    assert (again.families, again.num_train) != (first.families, first.num_train)
    with pytest.raises(UsageError, match=f"{size} on {amount:,} structures reached 1 already"):
        plan(fitted, STUDY, LADDER, target=1.5, bought=[done], now=NOW)


def test_a_target_is_reached_by_the_cheapest_run_that_was_not_trained(fitted):
    # What w32 is forecast to reach on 15,000 structures, w48 reaches on fewer, at a higher price.
    target = 1.001 * predict(fitted.families[0], PARAMS["w32"], 15_000).value
    made = plan(fitted, STUDY, LADDER, target=target, available=4000, now=NOW)
    assert made.families == {"painn": ("w32",)}  # on more structures
    assert made.forecast[0].value <= target
    assert 13_000 <= made.num_train[0] <= 15_000  # to two digits, not to a round number above
    needed = made.num_train[0] - 4000
    assert f"needs {needed:,} structures more than the 4,000 there are" in made.forecast[0].why
    with pytest.raises(UsageError, match=r"painn:w\d+ on .* structures reached .* already"):
        plan(fitted, STUDY, LADDER, target=2 * target, now=NOW)
    with pytest.raises(NotIdentified, match="the lowest is"):
        plan(fitted, STUDY, LADDER, target=0.1, now=NOW)


def test_a_target_that_all_there_is_reaches_asks_for_no_more_labels(fitted):
    target = 1.0001 * predict(fitted.families[0], PARAMS["w32"], 14_736).value
    made = plan(fitted, STUDY, LADDER, target=target, available=14_736, now=NOW)
    assert (made.families, made.num_train) == ({"painn": ("w32",)}, (14_736,))
    assert "more than" not in made.forecast[0].why


def test_dear_labels_turn_the_cheapest_way_to_a_target_from_more_data_to_a_larger_size(fitted):
    target = 1.001 * predict(fitted.families[0], PARAMS["w32"], 15_000).value
    asked = {"target": target, "available": 4000, "now": NOW}
    prices = {"hour_price": 1e4, "device": "cpu"}
    free = plan(fitted, STUDY, LADDER, label_price=0, **prices, **asked)
    dear = plan(fitted, STUDY, LADDER, label_price=100.0, **prices, **asked)
    assert (free.families, dear.families) == ({"painn": ("w32",)}, {"painn": ("w48",)})
    assert dear.num_train[0] < free.num_train[0]
    assert dear.forecast[0].value <= target


def test_the_money_of_a_plan_is_its_new_labels_once_and_the_hours_of_all_its_seeds(fitted):
    made = plan(
        fitted, STUDY, LADDER, money=1e9, label_price=2.5, hour_price=4.0, device="cpu",
        available=4000, seeds=3, now=NOW,
    )  # fmt: skip
    [promised] = made.forecast
    assert promised.num_train > 4000
    hours = 3 * 120_000 / (2e7 / promised.num_params) / 3600
    assert promised.money == pytest.approx(2.5 * (promised.num_train - 4000) + 4 * hours)
    assert promised.prices is not None
    assert (promised.prices.label, promised.prices.hour, promised.prices.device) == (2.5, 4, "cpu")
    assert "labels at 2.5, training at 4 an hour on cpu" in promised.why
    assert Study.model_validate(made.model_dump()) == made


def test_money_is_never_overspent_and_without_a_label_price_buys_no_labels(fitted):
    asked = {"available": 4000, "now": NOW}
    last = math.inf
    for money in (100.0, 3_000.0, 30_000.0):
        [made] = plan(fitted, STUDY, LADDER, money=money, label_price=1.0, **asked).forecast
        assert made.money is not None and made.money <= money
        assert made.value <= last
        last = made.value
    few = plan(fitted, STUDY, LADDER, money=500.0, label_price=1.0, **asked)
    assert few.num_train == (4500,)  # the money is spent, not only up to the next round number
    hours = plan(fitted, STUDY, LADDER, money=1e9, hour_price=4.0, device="cpu", **asked)
    assert hours.num_train[0] <= 4000
    with pytest.raises(NotIdentified, match="the cheapest run costs"):
        plan(fitted, STUDY, LADDER, money=1e-9, hour_price=4.0, device="cpu", **asked)
    with pytest.raises(NotIdentified, match="expand STUDY --measure"):
        plan(fitted, STUDY, LADDER, money=1e9, hour_price=4.0, device="h200", **asked)


def test_a_capped_fit_plans_for_the_same_training_length_only():
    capped = fit(points(ending="capped", max_items=100_000))
    made = plan(capped, STUDY, LADDER, at="painn:w48", now=NOW)
    assert made.forecast[0].capped_at_items == 100_000
    longer = STUDY.model_copy(update={"budget": STUDY.budget.model_copy(update={"items": 200_000})})
    with pytest.raises(
        NotIdentified, match="120,001 structures are more than the 120,000 that a run"
    ):
        plan(capped, STUDY, LADDER, at="painn:w48", num_train=120_001, now=NOW)
    with pytest.raises(NotIdentified, match="capped at 100,000 items"):
        plan(capped, longer, LADDER, at="painn:w48", now=NOW)


def test_a_flops_ceiling_costs_itself_and_the_cooldown(fitted):
    isoflop = STUDY.model_copy(
        update={"budget": STUDY.budget.model_copy(update={"items": None, "flops": 1e12})}
    )
    made = plan(fitted, isoflop, LADDER, flops=1.21e12, now=NOW)
    assert "1.20e12 FLOPs at most" in made.forecast[0].why


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        ({}, UsageError, "exactly one"),
        ({"flops": 1e9, "target": 3.0}, UsageError, "exactly one"),
        ({"hours": 1.0}, UsageError, "go with a device"),
        ({"money": 1e3}, UsageError, "needs a price"),
        ({"money": 1e3, "hour_price": 4.0}, UsageError, "go with a device"),
        ({"flops": 1e9, "label_price": 2.5}, UsageError, "go with money or target"),
        ({"money": 1e3, "label_price": -1.0}, UsageError, "0 or more"),
        ({"flops": 1e9, "num_train": 30}, UsageError, "goes with at"),
        ({"flops": -1.0}, UsageError, "above 0"),
        ({"at": "pain:w8"}, UnknownName, "Did you mean 'painn'"),
        ({"at": "painn:w9"}, UnknownName, "no size named 'w9'"),
        ({"at": "w8"}, UsageError, "give family:size, such as painn:w8"),
    ],
)
def test_a_wish_that_cannot_be_understood_is_refused(fitted, wish, error, words):
    with pytest.raises(error, match=words):
        plan(fitted, STUDY, LADDER, now=NOW, **wish)


def test_what_was_trained_already_is_told_and_not_forecast(fitted):
    known = points()
    with pytest.raises(UsageError, match="painn:w64 on 3,000 structures was trained .* force MAE"):
        plan(fitted, STUDY, LADDER, at="painn:w64", num_train=3000, bought=known, now=NOW)
    more = plan(
        fitted, STUDY, LADDER, at="painn:w64", num_train=3000, seeds=3, bought=known, now=NOW
    )
    assert more.seeds == 3


def test_a_forecast_far_from_the_surface_of_the_fit_says_what_that_gives(fitted):
    costs = StudyCosts(STUDY, LADDER)
    asked = named(fitted, costs, "painn:w48", 3000, 1)

    def why(low: float, high: float) -> str:
        ends = tuple(
            one.model_copy(update={"low": low, "high": high}) for one in asked.prediction.intervals
        )
        moved = replace(asked, prediction=replace(asked.prediction, intervals=ends))
        return promise(moved, costs, NOW, "why").why

    assert "surface of the fit" not in why(15.0, 30.0)
    told = why(10.0, 15.0).rsplit("without the other laws, gives ")[1]
    assert float(told) == pytest.approx(loss(PARAMS["w48"], 3000), rel=0.05)


# --- a table, of which nothing can be trained ----------------------------------------------------


def tabled(**cost) -> TableCosts:
    """The same runs, of which each tells 6·N·D FLOPs, or what else of N and D is said."""
    told = [
        {name: of(point.num_params, point.num_train) for name, of in cost.items()}
        for point in points()
    ]
    runs = zip(points(), told, strict=True)
    return TableCosts([point.model_copy(update=values) for point, values in runs])


def test_what_runs_of_a_table_took_is_followed_to_other_sizes_and_amounts(fitted):
    costs = tabled(flops=lambda n, d: 6.0 * n * d, seconds=lambda n, d: 2e-3 * n**0.5 * d)
    any_size = costs.rung("painn", "123456")
    assert costs.rung("painn", "123.456k") == any_size
    assert costs.flops(any_size, 777) == pytest.approx(6.0 * 123_456 * 777)
    assert costs.hours(any_size, 777) == pytest.approx(2e-3 * 123_456**0.5 * 777 / 3600)
    assert costs.rung("painn", "w32").num_params == PARAMS["w32"]
    found = forecast(fitted, costs, hours=1.0, available=10_000, seeds=2, now=NOW)
    assert 2 * 2e-3 * found.num_params**0.5 * found.num_train / 3600 <= 1.0
    assert found.num_params not in PARAMS.values() or found.num_train not in NUM_TRAIN
    with pytest.raises(UsageError, match="leave device out"):
        forecast(fitted, costs, hours=1.0, device="cpu", now=NOW)
    with pytest.raises(UnknownName, match="no size, or a number of parameters named 'w9'"):
        costs.rung("painn", "w9")


def test_of_very_many_sizes_only_round_ones_are_forecast_and_what_limits_the_items_is_said(fitted):
    assert round_numbers(range(1234, 4321), 5000) == [1234, 1500, 2000, 3000, 4320, 5000]
    assert round_numbers([1234, 4320], 5000) == [1234, 1500, 2000, 3000, 4320, 5000]
    costs = tabled(flops=lambda n, d: 6 * n * d)
    limited = "on as many items as a run of the table had (--available"
    assert limited in forecast(fitted, costs, now=NOW, flops=1e12).why
    assert limited not in forecast(fitted, costs, now=NOW, flops=1e12, available=3000).why


def test_electricity_is_a_budget_where_runs_tell_theirs(fitted):
    costs = tabled(joules=lambda n, d: 1e-3 * n**0.7 * d)
    found = forecast(fitted, costs, joules=3e4, available=10_000, now=NOW)
    assert 1e-3 * found.num_params**0.7 * found.num_train <= 3e4
    assert "the best forecast within 30,000 J" in found.why
    seen = [
        point.model_copy(update={"items_seen": 5000, "joules": 5000 * 2e-6 * point.num_params})
        for point in points()
    ]
    study = StudyCosts(STUDY, LADDER, points=seen)
    size = study.rung("painn", "w64")  # 100,000 items and a cooldown of 20,000
    assert study.joules(size, 300) == pytest.approx(120_000 * 2e-6 * PARAMS["w64"])
    with pytest.raises(NotIdentified, match="no run of the study tells its electricity"):
        forecast(fitted, StudyCosts(STUDY, LADDER), joules=1.0, now=NOW)


def test_a_cost_that_a_table_does_not_tell_names_the_column_and_a_target_goes_by_size_and_data(
    fitted,
):
    for wish, words in {
        "hours": "no column seconds, no column hours, nor items_per_second with items_seen",
        "flops": "no column flops",
        "joules": "no column joules",
    }.items():
        with pytest.raises(NotIdentified, match=words):
            forecast(fitted, tabled(), now=NOW, **{wish: 1.0})
    with pytest.raises(NotIdentified, match="no column seconds"):
        forecast(fitted, tabled(), money=9.0, hour_price=1.0, now=NOW)
    target = predict(fitted.families[0], 30_000, 10_000).value
    found = forecast(fitted, tabled(), target=target, now=NOW)
    assert found.num_params * found.num_train <= 30_000 * 10_000
    assert "by parameters times items, as nothing tells what training costs" in found.why


def test_families_whose_cost_is_not_told_are_named_and_targets_compared_in_what_all_tell(fitted):
    one = fitted.families[0]
    both = Fit(
        metric=fitted.metric,
        level=0.9,
        made="",
        families=(one, one.model_copy(update={"family": "schnet"})),
    )
    timed = tabled(seconds=lambda n, d: 1e-6 * n * d).points
    counted = tabled(flops=lambda n, d: 1e9 * n * d).points
    others = [point.model_copy(update={"family": "schnet"}) for point in counted]
    costs = TableCosts([*timed, *others])
    found = forecast(both, costs, hours=1.0, now=NOW)
    assert found.family == "painn"
    assert "(without schnet, whose cost is not known)" in found.why
    target = predict(one, 30_000, 10_000).value
    found = forecast(both, costs, target=target, now=NOW)  # hours are not compared with FLOPs
    assert "by parameters times items" in found.why
