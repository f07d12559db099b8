"""Averaged forecasts of anybody's curve: what must not matter, and what must not go wrong."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from chemscale.desk.average import Points, average
from chemscale.desk.calibration import calibration
from chemscale.desk.forecast import Extrapolation, extrapolate
from chemscale.desk.laws import law
from chemscale.table.errors import UsageError

FEW = settings(max_examples=8, deadline=None)
X = np.geomspace(30, 10_000, 8)
FAR = np.array([20_000.0, 40_000.0])


def curve(rng: int = 0, scatter: float = 0.02, floor: float = 3.0) -> np.ndarray:
    noise = np.random.default_rng(rng).normal(size=len(X))
    return (floor + 400 * X**-0.5) * np.exp(scatter * noise)


def widths(found: Extrapolation, level: float = 0.9) -> np.ndarray:
    low, high = found.intervals[level]
    return np.log(high / low)


def test_a_known_curve_is_continued_and_its_intervals_are_nested():
    found = extrapolate(X, curve(), FAR)
    assert found.status == "converged"
    np.testing.assert_allclose(found.value, 3 + 400 * FAR**-0.5, rtol=0.1)
    assert (widths(found, 0.5) < widths(found, 0.8)).all()
    assert (widths(found, 0.8) < widths(found, 0.9)).all()
    assert widths(found)[1] > widths(found)[0]
    assert sum(found.weights.values()) == pytest.approx(1)
    assert "no change by" in found.sentence


def test_noise_free_laws_are_continued_to_a_per_cent():
    for floor, exponent in ((0.0, 0.3), (0.0, 0.6), (2.0, 0.5), (5.0, 0.8)):
        y = floor + 100 * X**-exponent
        found = extrapolate(X, y, FAR[:1])
        assert found.value[0] == pytest.approx(floor + 100 * FAR[0] ** -exponent, rel=0.02)


def test_a_known_surface_is_continued():
    size, data = (side.ravel() for side in np.meshgrid(np.geomspace(1e3, 1e5, 5), X))

    def loss(n, d):
        return 2 + 3000 * n**-0.6 + 400 * d**-0.4

    new = np.array([[2e5, 10_000.0], [1e5, 20_000.0]])
    found = extrapolate(np.stack([size, data], 1), loss(size, data), new)
    np.testing.assert_allclose(found.value, loss(*new.T), rtol=0.07)


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.3), (3.0, 0.5)])
def test_intervals_hold_at_four_times_the_range_of_simulated_studies(floor, exponent):
    """Calibrated on curves whose law is not known, so rather wide where it is."""
    inside = 0
    for rng in range(100):
        noise = np.random.default_rng(rng)
        y = (floor + 100 * X**-exponent) * np.exp(0.03 * noise.normal(size=len(X)))
        low, high = extrapolate(X, y, 4 * X[-1:]).intervals[0.9]
        inside += low[0] <= floor + 100 * (4 * X[-1]) ** -exponent <= high[0]
    assert inside >= 85


@FEW
@given(some.floats(1e-9, 1e9), some.floats(1e-6, 1e6), some.integers(0, 99))
def test_units_do_not_matter(x_unit, y_unit, rng):
    one = extrapolate(X, curve(rng), FAR)
    other = extrapolate(X * x_unit, curve(rng) * y_unit, FAR * x_unit)
    # Rounding may decide between terms that cannot be told apart.
    np.testing.assert_allclose(other.value / y_unit, one.value, rtol=1e-3)
    np.testing.assert_allclose(widths(other), widths(one), rtol=1e-2)


@FEW
@given(some.permutations(range(len(X))))
def test_the_order_of_the_rows_does_not_matter(order):
    one, other = extrapolate(X, curve(), FAR), extrapolate(X[order], curve()[order], FAR)
    np.testing.assert_array_equal(one.value, other.value)
    np.testing.assert_array_equal(widths(one), widths(other))


@FEW
@given(some.floats(1.5, 5.0), some.integers(0, 20))
def test_more_scatter_about_the_same_curve_widens_the_interval(factor, rng):
    """Replicates, so that what is multiplied is scatter and not shape."""
    x = np.repeat(X, 4)
    noise = np.random.default_rng(rng).normal(size=(len(X), 4))
    noise = (noise - noise.mean(axis=1, keepdims=True)).ravel()

    def width(scatter: float) -> np.ndarray:
        return widths(extrapolate(x, (3 + 400 * x**-0.5) * np.exp(scatter * noise), FAR))

    assert (width(0.01 * factor) > width(0.01)).all()


def test_intervals_from_four_or_five_points_without_repeats_know_that_these_scatter():
    """Held fewer than half, before their noise was told."""
    rng, held = np.random.default_rng(0), []
    for count in (4, 5) * 20:
        x = np.geomspace(50, 2500, count)
        new = np.array([1.7 * x[-1]])
        losses = [
            (9 + 150 * (a / 50) ** -0.4) * np.exp(rng.normal(0, 0.05, len(a))) for a in (x, new)
        ]
        low, high = extrapolate(x, losses[0], new, levels=(0.9,)).intervals[0.9]
        held.append(low[0] <= losses[1][0] <= high[0])
    assert np.mean(held) >= 0.75


def test_rows_given_twice_count_once_and_other_seeds_count():
    y = curve()
    once = extrapolate(X, y, FAR)
    twice = extrapolate(np.tile(X, 2), np.tile(y, 2), FAR)
    np.testing.assert_array_equal(once.value, twice.value)
    named = extrapolate(np.tile(X, 2), np.tile(y, 2), FAR, run=list("abcdefgh") * 2)
    np.testing.assert_array_equal(once.value, named.value)
    seeds = extrapolate(np.tile(X, 2), np.concatenate([y, curve(1)]), FAR)
    assert not np.allclose(seeds.value, once.value)


@settings(max_examples=40, deadline=None)
@given(
    some.lists(
        some.tuples(
            some.one_of(some.floats(), some.integers(-3, 10**6).map(float)),
            some.one_of(some.floats(), some.floats(0.1, 10.0)),
        ),
        max_size=12,
    )
)
def test_no_data_however_odd_end_in_anything_but_a_status(rows):
    x, y = np.array(rows, float).reshape(-1, 2).T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extrapolate(x, y, np.array([1e3, np.nan, -1.0]))
    assert found.sentence
    assert np.isnan(found.value[1:]).all()
    if found.status == "not_identified":
        assert np.isnan(found.value).all()
    else:
        low, high = found.intervals[0.9]
        assert 0 <= low[0] <= found.value[0] <= high[0]


def test_two_points_identify_nothing_and_say_so():
    found = extrapolate([10, 100], [3, 2], FAR)
    assert found.status == "not_identified"
    assert "2 different x, 3 are needed" in found.sentence
    assert np.isnan(found.value).all()
    assert found.no_change == 2


def test_rows_without_a_logarithm_are_left_out_and_counted():
    found = extrapolate([*X, 1.0, -2.0, np.nan], [*curve(), 0.0, 1.0, 1.0], FAR)
    np.testing.assert_array_equal(found.value, extrapolate(X, curve(), FAR).value)
    assert "3 rows without a logarithm left out" in found.sentence


@pytest.mark.parametrize("y", [np.ones(8), 1 + 0.01 * np.arange(8)])
def test_a_loss_that_does_not_fall_is_forecast_not_to_change(y):
    found = extrapolate(X, y, FAR)
    assert found.status == "at_bound"
    assert "does not fall" in found.sentence
    np.testing.assert_allclose(found.value, y[-1], rtol=0.03)


def test_less_than_a_decade_is_said_to_be_short():
    found = extrapolate([100, 200, 300, 400, 500], [5, 4, 3.6, 3.4, 3.3], [600])
    assert found.status == "too_short"
    assert "less than a decade" in found.sentence


def test_shapes_that_do_not_fit_together_are_refused():
    with pytest.raises(UsageError, match="as many rows"):
        extrapolate(X, curve()[1:], FAR)
    with pytest.raises(UsageError, match="level"):
        extrapolate(X, curve(), FAR, levels=[90])


def test_a_law_of_your_own_joins_the_average():
    @law("logarithmic", "E + A/(1 + log x)", "a test", {"start": (1.0, 9.0)})
    def logarithmic(log_x, start):
        return (-np.log(np.maximum(start + 8 + log_x[..., 0], 0.1)),)

    found = extrapolate(X, curve(), FAR, laws=[logarithmic])
    assert set(found.weights) == {"logarithmic", "no change"}


def test_beginnings_are_refitted_and_not_peeked_at():
    """What the last points are cannot change what the first origin forecast of them."""
    x, y = X[:, None], curve()
    bent = np.concatenate([y[:-1], 2 * y[-1:]])
    one, other = average(x, y), average(x, bent)
    for mine, its in zip(one.experts, other.experts, strict=True):
        if mine.law.name == "power" and mine.floor and np.isinf(mine.memory):
            np.testing.assert_allclose(mine.hidden[0], its.hidden[0], atol=1e-9)


def test_long_curves_are_averaged_in_steps_that_keep_their_weight():
    x = np.linspace(1, 1000, 5000)
    points = Points.of(x[:, None], x**-0.3, bins=64)
    assert len(points.order) <= 64
    assert points.weight.mean() == pytest.approx(1)
    assert points.order[-1] == 0


def test_a_law_that_is_little_tied_down_widens_intervals_over_a_surface_only():
    outlook = average(X[:, None], curve()).at(X[-1:, None] * 4)
    loose = replace(outlook, within=outlook.within + 0.1)
    for kind, wider in (("along", False), ("surface", True)):
        factors = calibration(kind)
        assert bool(factors.scale(loose) > factors.scale(outlook)) == wider


def test_intervals_between_the_learned_levels_lie_between():
    for kind in ("along", "surface"):
        factors = calibration(kind)
        told = [factors.quantile(level) for level in (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)]
        assert told == sorted(told)
        assert "IC" in factors.learned_from
