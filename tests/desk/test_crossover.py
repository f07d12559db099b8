"""Two families beside each other."""

import math

import numpy as np
import pytest
from test_fit import point

from chemscale.desk.fit import fit
from chemscale.desk.report import Page
from chemscale.desk.report.laws import savings_table
from chemscale.table.fits import Comparison
from chemscale.table.results import Point

AMOUNTS = (30, 100, 300, 1000)


def runs(family: str, at_300: float, exponent: float, **more: object) -> list[Point]:
    noise = np.random.default_rng(len(family))
    return [
        point("w32", 22_000, amount, seed, at_300 * (amount / 300) ** -exponent
              * math.exp(0.01 * noise.standard_normal()),
              run=f"{family}-{amount}-{seed}", family=family, flops=1e9 * amount, **more)
        for amount in AMOUNTS for seed in range(3)
    ]  # fmt: skip


def compared(*points: Point) -> Comparison:
    (found,) = fit(points).comparisons
    return found


def test_laws_that_cross_say_where_with_an_interval_and_which_is_better_beyond():
    found = compared(*runs("painn", 20, 0.5), *runs("schnet", 20, 0.2))
    along = found.crossings[0]
    assert (along.axis, along.status, along.better) == ("num_train", "crosses", "painn")
    assert along.at.interval.low < along.at.value < along.at.interval.high
    assert along.at.value == pytest.approx(300, rel=0.1)
    assert along.exponents.interval.low < 0.3 < along.exponents.interval.high
    flops = found.crossings[-1]
    assert flops.axis == "flops" and flops.at.value == pytest.approx(3e11, rel=0.1)


def test_laws_that_do_not_cross_say_so_and_by_how_much_one_is_better():
    along = compared(*runs("painn", 10, 0.3), *runs("schnet", 20, 0.3)).crossings[0]
    assert (along.status, along.better) == ("none", "painn")
    assert along.ratio.value == pytest.approx(0.5, rel=0.03)
    assert "the exponents do not surely differ" in along.sentence


def test_what_data_are_worth_to_the_better_family_is_told_in_data_of_the_other():
    # 20·(n/300)^-0.3 = 10·(m/300)^-0.3 at n = m·2^(1/0.3), ten times as many.
    along = compared(*runs("painn", 10, 0.3), *runs("schnet", 20, 0.3)).crossings[0]
    at = {one.num_train: one for one in along.savings}
    assert list(at) == [30, 100, 300, 1000]
    assert at[30].needs.value == pytest.approx(300, rel=0.15)
    assert at[30].needs.interval.low < 30 * 2 ** (1 / 0.3) < at[30].needs.interval.high
    # Beyond what schnet was measured with nothing is extrapolated.
    assert at[1000].needs.value is None and at[1000].at_least == 1000
    assert "do for painn what" in along.sentence


def test_the_report_has_a_row_for_each_amount():
    points = (*runs("painn", 10, 0.3), *runs("schnet", 20, 0.3))
    found = fit(points)
    page = Page("x", points=points, fit=found)
    table = savings_table(page, found.comparisons[0])
    assert [row[1].text for row in table.rows] == ["30", "100", "300", "1,000"]
    assert table.rows[-1][2].text == "more than 1,000"
    assert "schnet needs, at equal loss" in dict(table.columns)


def test_families_alike_within_their_scatter_are_left_open():
    found = compared(*runs("painn", 20, 0.3), *runs("schnet", 20, 0.3)).crossings[0]
    assert found.status == "not_identified" and found.better is None


def test_what_cannot_be_compared_is_not():
    other = [p.model_copy(update={"unit": "molecule"}) for p in runs("schnet", 20, 0.3)]
    assert fit([*runs("painn", 20, 0.3), *other]).comparisons == ()
