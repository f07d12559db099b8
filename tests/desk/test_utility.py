"""What a forecast loss means in other metrics."""

import math
from pathlib import Path

import numpy as np
import pytest
from test_fit import point

from chemscale.desk.utility import utility
from chemscale.table.points import read_points
from chemscale.table.records import Forecast
from chemscale.table.results import Point

ALKANES = Path(__file__).parents[2] / "examples/alkanes/points.csv"


def forecast(value: float, wide: float = 1.001, **other) -> Forecast:
    given = {
        "family": "painn", "size": "w32", "num_params": 1, "num_train": 1, "metric": "force_mae",
        "value": value, "intervals": {"90": (value / wide, value * wide)}, "law": "",
        "fitted_runs": (), "made": "", "why": "",
    }  # fmt: skip
    return Forecast(**given | other)


def linked(scatter: float = 0.05, power: float = 0.5) -> list[Point]:
    noise = np.random.default_rng(0)
    return [
        point("w32", 22_000, amount, seed, 1.0, losses={
            "force_mae": (mae := 500 * amount**-0.4),
            "energy_mae": mae**power * math.exp(scatter * noise.standard_normal()),
            "test_loss": mae,
        })
        for amount in (30, 100, 300, 1000, 3000) for seed in range(2)
    ]  # fmt: skip


def test_a_known_link_comes_back_and_the_losses_are_left_out():
    found = utility(forecast(25.0), linked(), {})
    assert list(found) == ["energy_mae"]
    value, low, high = found["energy_mae"]
    assert value == pytest.approx(5, rel=0.1)
    assert low < 5 < high < 2 * low


def test_an_unsure_loss_widens_what_it_means():
    sure, unsure = (utility(forecast(25.0, wide), linked(), {}) for wide in (1.001, 2.0))
    assert unsure["energy_mae"][2] > 1.2 * sure["energy_mae"][2]


def test_shares_are_linked_in_log_odds_and_stay_shares():
    points = linked()
    valid = {p.run: {"validity": 1 / (1 + p.losses["force_mae"] / 50)} for p in points}
    value, low, high = utility(forecast(15.0), points, valid)["validity"]
    assert value == pytest.approx(1 / 1.3, rel=0.02)
    assert 0 < low <= value <= high < 1


def test_it_is_silent_where_nothing_is_identified():
    assert utility(forecast(25.0), linked(power=0.0), {}) is None  # does not move with the loss
    assert utility(forecast(0.5), linked(), {}) is None  # far beyond any measured loss
    few = [p for p in linked() if p.num_train < 3000]
    assert utility(forecast(25.0), few, {}) is None
    assert utility(forecast(25.0, family="schnet"), linked(), {}) is None


def test_what_the_best_runs_of_the_example_are_good_for_is_told_by_the_worse_ones():
    points = [p for p in read_points(ALKANES) if p.role == "sweep"]
    inside = []
    for family in ("painn", "schnet"):
        own = sorted((p for p in points if p.family == family), key=lambda p: p.losses["force_mae"])
        for run in own[:9]:
            told = utility(forecast(run.losses["force_mae"], family=family), own[9:], {}) or {}
            inside += [low <= run.losses[name] <= high for name, (_, low, high) in told.items()]
    assert len(inside) >= 40
    assert np.mean(inside) >= 0.8
