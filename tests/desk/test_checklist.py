"""What to report with a law: known, or missing with what to do."""

from test_fit import one_size, point

from chemscale.desk.fit import fit
from chemscale.table.fits import Reported
from chemscale.table.results import Point


def filled(points: list[Point]) -> dict[str, Reported]:
    return {one.item: one for one in fit(points).families[0].checklist}


def test_what_the_runs_tell_is_filled_in_and_the_rest_says_how_to_supply_it():
    points = one_size(batch_size=8, flops=1e12)
    plan = point("w32", 22_000, 10_000, 0, 9.0, role="plans/001")
    found = filled([*points, plan])
    assert "A·x^-a" in found["form and why"].value
    assert "learning rate 0.001; batch size 8" in found["learning rate and batch size"].value
    assert not found["learning rate and batch size"].missing
    assert "starts that reach the best value: along num_train 8 of 8" in (
        found["optimiser, starts, tolerance"].value
    )
    assert found["held-out largest runs"].value == "1 runs of plans, none of them fitted"
    assert found["seeds"].value == "2 a cell, 5 cells"
    assert "study.toml" in found["schedule and warmup"].missing


def test_columns_that_runs_lack_are_named_with_their_number():
    points = one_size()
    points[0] = points[0].model_copy(update={"learning_rate": None})
    found = filled(points)
    missing = found["learning rate and batch size"].missing
    assert "learning_rate of 1 of 10 runs: fill that column" in missing
    assert "batch_size of 10 of 10" in missing
    assert "flops of 10 of 10" in found["what N, D and C count"].missing
    assert found["held-out largest runs"].value is None


def test_without_a_law_nothing_is_claimed():
    found = filled([point("w32", 22_000, amount, 0, 100 / amount) for amount in (30, 100)])
    assert found["form and why"].value is None and found["form and why"].missing
    assert found["loss and its delta"].value is None
    assert found["optimiser, starts, tolerance"].value is None
    assert found["seeds"].missing == "2 cells have one seed: seeds in study.toml"
