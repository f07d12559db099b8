"""What limits each cell, and where a law bends."""

import math

import numpy as np
import pytest
from test_fit import law, point, study

from chemscale.desk.fit import fit
from chemscale.desk.regimes import regimes
from chemscale.desk.sample import Sample
from chemscale.table.results import Point

AMOUNTS = [100 * 2**k for k in range(7)]


def limits(points: list[Point]) -> dict[tuple[int, int], str]:
    sample = Sample.of(points, "force_mae")
    found = regimes(sample, None, sample.seed_scatter(), 0.9)
    return {(one.num_params, one.num_train): one.limit for one in found}


def test_data_limits_a_large_model_on_few_items_and_size_a_small_one_on_many():
    by_size, by_data = (50_000.0, 1.0), (400.0, 0.8)
    found = limits(study(scatter=0.01, by_size=by_size, by_data=by_data))
    for (size, amount), limit in found.items():
        of_size, of_data = by_size[0] / size, by_data[1] * by_data[0] * amount ** -by_data[1]
        if max(of_size, of_data) > 4 * min(of_size, of_data) and max(of_size, of_data) > 0.5:
            assert limit == ("data" if of_data > of_size else "size"), (size, amount)
    assert {"data", "size"} <= set(found.values())


def test_where_nothing_falls_by_more_than_seeds_scatter_the_resolution_limits():
    found = limits(study(scatter=0.02, seeds=20, floor=5.0, by_size=(0.0, 1.0), by_data=(1e4, 2.0)))
    assert {found[size, 3000] for size in (6_000, 22_000)} == {"resolution"}
    assert found[22_000, 30] == "data"


def test_runs_that_were_still_improving_are_limited_by_compute():
    points = [p.model_copy(update={"ending": "capped"}) if p.num_train == 3000 else p
              for p in study(scatter=0.01)]  # fmt: skip
    assert {limit for (_, amount), limit in limits(points).items() if amount == 3000} == {"compute"}


def test_cells_without_neighbours_are_judged_by_the_surface_and_without_one_not_at_all():
    scattered = [p.model_copy(update={"num_train": p.num_train + p.num_params // 1000})
                 for p in study(scatter=0.001, seeds=1, by_size=(3e4, 0.9))]  # fmt: skip
    found = fit(scattered).families[0]
    assert found.surface is not None
    assert {one.limit for one in found.regimes} >= {"data"}
    assert all(one.data_slope.interval for one in found.regimes)
    few = fit(scattered[:4]).families[0]
    assert {one.limit for one in few.regimes} == {"not_identified"}
    assert "what limits its cells is not identified" in few.sentence


def bent(change: float, rng: int = 0, floor: float = 0.0) -> list[Point]:
    noise = np.random.default_rng(rng)
    return [
        point("w32", 22_000, amount, seed, math.exp(0.012 * noise.standard_normal())
              * (floor + 5 * (amount / 800) ** -(0.15 if amount < 800 else 0.15 + change)))
        for amount in AMOUNTS for seed in range(3)
    ]  # fmt: skip


def test_a_knee_is_found_with_its_exponents():
    found = fit(bent(0.25))
    knee = law(found).knee
    assert knee.status == "seen"
    assert knee.at.value == pytest.approx(800, rel=0.1)
    assert knee.at.interval.high < 1.5 * knee.at.interval.low
    assert knee.before.value == pytest.approx(0.15, abs=0.03)
    assert knee.after.value == pytest.approx(0.40, abs=0.03)
    assert "the exponent changes from 0.1" in found.families[0].sentence


@pytest.mark.parametrize("floor", [0.0, 3.0])
def test_no_knee_is_seen_where_there_is_none(floor):
    assert law(fit(bent(0.0, 1, floor))).knee.status != "seen"


@pytest.mark.slow
def test_knees_are_seen_where_they_are_and_hardly_elsewhere():
    seen = {
        key: sum(law(fit(bent(*key[:1], rng, key[1]))).knee.status == "seen" for rng in range(60))
        for key in ((0.0, 0.0), (0.0, 3.0), (0.25, 0.0))
    }
    assert seen[0.0, 0.0] <= 5 and seen[0.0, 3.0] <= 5, seen
    assert seen[0.25, 0.0] >= 57, seen


def test_fewer_than_six_amounts_identify_no_knee():
    few = [p for p in bent(0.25) if p.num_train <= AMOUNTS[4]]
    assert law(fit(few)).knee.status == "not_identified"
