import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chemscale.desk.average import average
from chemscale.desk.laws import ALONG, additive_surface, bnsl, broken, law, m4, power, power_floor
from chemscale.desk.profile import fit_law
from chemscale.desk.solve import Objective, log_law, refine, solve
from chemscale.desk.surfaces import SURFACES, additive, data_constrained, kaplan
from chemscale.table.errors import UsageError

SHARED = Path(os.environ.get("CHEMSCALE_SHARED", Path(__file__).parents[2].parent / "shared"))
LAWS = (*ALONG, bnsl(2), *SURFACES)


def somewhere(one, rng: int = 0, count: int = 8, num_points: int = 12):
    """Log x before the last point, and plausible shape parameters."""
    log_x = -6 * np.random.default_rng(rng).random((num_points, one.num_axes))
    if one.tied:
        log_x[:, 2] = np.minimum(log_x[:, 1] - 0.1, log_x[:, 2])  # some data were repeated
    return log_x, one.candidates(count, log_x)


def test_a_floor_is_what_remains_at_infinite_x():
    assert power_floor(1e30, 1.5, 7.0, 0.5) == pytest.approx(1.5)


def test_the_surface_without_one_shortage_is_the_law_along_the_other():
    surface = additive_surface(1e30, np.array([10.0, 100.0]), 1.5, 9.0, 0.5, 7.0, 0.4)
    np.testing.assert_allclose(surface, power_floor(np.array([10.0, 100.0]), 1.5, 7.0, 0.4))


def test_the_laws_of_a_fit_are_those_of_the_solver():
    x = np.array([[10.0, 300.0], [1000.0, 20.0]])
    found = log_law(additive, np.log(x), np.array([[1.5, 9.0, 7.0, 0.5, 0.4]]))[0]
    np.testing.assert_allclose(np.exp(found), additive_surface(*x.T, 1.5, 9.0, 0.5, 7.0, 0.4))
    found = log_law(power, np.log(x[:, :1]), np.array([[1.5, 9.0, 0.5]]))[0]
    np.testing.assert_allclose(np.exp(found), power_floor(x[:, 0], 1.5, 9.0, 0.5))


@pytest.mark.parametrize("one", LAWS, ids=lambda one: one.name)
def test_the_slopes_of_a_law_are_those_of_finite_differences(one):
    log_x, theta = somewhere(one)
    full = (len(theta), len(log_x))

    def filled(rows):
        return [
            [np.zeros(full) if cell is None else np.broadcast_to(cell, full) for cell in row]
            for row in rows
        ]

    found = np.array(filled(one.log_slopes(log_x, theta)))
    plain = np.array(filled(replace(one, slopes=None).log_slopes(log_x, theta)))
    np.testing.assert_allclose(found, plain, atol=1e-6)


@pytest.mark.parametrize("one", ALONG, ids=lambda one: one.name)
def test_shapes_of_falling_laws_fall_and_stay_numbers_far_away(one):
    log_x = np.linspace(-40, 40, 200)[:, None]
    (logs,) = one.log_shapes(log_x, one.candidates(50, log_x[90:110]))
    assert np.isfinite(logs).all()
    if one.name in ("power", "shifted", "m4"):
        assert (np.diff(logs) <= 1e-12).all()


def test_m4_solves_its_equation():
    log_x, theta = np.linspace(-5, 5, 40)[:, None], np.array([[0.7, -1.0, 2.5], [1.5, 0.5, 0.4]])
    (logs,) = m4.log_shapes(log_x, theta)
    exponent, position, stretch = theta.T[:, :, None]
    left = logs - stretch * np.log(-np.expm1(logs))
    np.testing.assert_allclose(left, -exponent * (log_x[:, 0] - position), atol=1e-8)


def test_a_law_with_breaks_that_change_nothing_is_a_power():
    log_x = np.linspace(-3, 0, 9)[:, None]
    theta = np.array([[0.4, 0.0, -1.0, 0.3, 0.0, -2.0, 0.2]])
    np.testing.assert_allclose(bnsl(2).log_shapes(log_x, theta)[0][0], -0.4 * log_x[:, 0])


def test_repeated_data_are_worth_less_and_then_harm():
    theta = np.array([[0.35, 0.35, np.log(15.4), np.log(5.3), 5.0, 1.0]])
    epochs = np.array([1.0, 4.0, 40.0, 4000.0])
    log_x = np.stack([np.zeros(4), np.log(epochs), np.zeros(4)], axis=1)
    _, data, harm = (logs[0] for logs in data_constrained.log_shapes(log_x, theta))
    assert data[1] == pytest.approx(-0.35 * np.log(4), abs=0.05)  # four epochs: almost new data
    assert data[2] > -0.35 * np.log(20)
    assert data[3] == pytest.approx(-0.35 * np.log(16.4), abs=0.01)  # never worth more
    assert (np.diff(harm) > 0).all()


def test_a_law_of_your_own_is_fitted_like_any_other():
    @law("stretched", "E + A·exp(-x^s)", "a test", {"power": (0.1, 2.0)})
    def stretched(log_x, power):
        return (-np.exp(power * log_x[..., 0]),)

    log_x = np.linspace(-2, 1, 15)[:, None]
    truth = np.array([[0.5, 3.0, 0.8]])
    log_y = log_law(stretched, log_x, truth)
    objective = Objective(stretched, log_x, log_y, np.ones_like(log_y), True, 0.01)
    found = solve(objective, stretched.candidates(20, log_x))
    np.testing.assert_allclose(found, truth, atol=1e-4)
    with pytest.raises(UsageError, match="not among its parameters"):
        law("odd", "", "", {"power": (0.1, 2.0)}, positions={"place": 0})(stretched.shapes)


@pytest.mark.parametrize("one", LAWS, ids=lambda one: one.name)
def test_noise_free_losses_give_the_law_back(one):
    log_x = somewhere(one, 3, 1, 80)[0]
    theta = np.clip(one.candidates(23, log_x)[[11]], *one.bounds(log_x))
    truth = np.concatenate([[[0.5]], np.ones((1, one.num_shapes)), theta], axis=1)
    log_y = log_law(one, log_x, truth)
    objective = Objective(one, log_x, log_y, np.ones_like(log_y), True, np.inf)
    found = solve(objective, one.candidates(1500, log_x), tolerance=1e-14)
    np.testing.assert_allclose(found, truth, atol=1e-3)


@pytest.mark.parametrize("plain", SURFACES[:5], ids=lambda one: one.name)
def test_a_break_changes_how_data_help_beyond_it_and_nothing_else(plain):
    name = f"{plain.name}-broken-in-data".removeprefix("additive-")
    one = next(one for one in SURFACES if one.name == name)
    ((_, axis),) = one.positions.items()
    term = min(axis, plain.num_shapes - 1)
    place = [*one.parameters].index("change")
    log_x, theta = somewhere(plain)
    log_x[:, 0], theta[:, 0] = 600.0, 1.0  # no shortage of size to hide that of data

    def falls(law, theta):
        return law.log_shapes(log_x, theta)[term] - law.log_shapes(log_x[:1], theta)[term]

    for change, position in ((0.0, -1.0), (0.3, 20.0), (0.3, -20.0)):  # none, not yet, long ago
        added = np.tile([change, position, 0.2], (len(theta), 1))
        whole = np.insert(theta, [place], added, axis=1)
        steeper = theta.copy()
        steeper[:, place - 1] += change * (position == -20.0)
        np.testing.assert_allclose(falls(one, whole), falls(plain, steeper), atol=1e-9)


def grid(num_axes: int, count: int = 20) -> np.ndarray:
    ticks = [np.linspace(0.1, 2, count)] * num_axes
    return np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, num_axes)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("one", [power, additive], ids=lambda one: one.name)
def test_noise_free_losses_give_the_parameters_back(one, seed):
    rng = np.random.default_rng(seed)
    count = one.num_axes
    sides = [np.linspace(-3, 3, 6), np.linspace(-4, 4, 5)][:count]
    log_x = np.stack([side.ravel() for side in np.meshgrid(*sides)], axis=1)
    truth = np.concatenate(
        [rng.uniform(0.1, 1.0, 1), rng.uniform(0.5, 5, count), rng.uniform(0.15, 1.2, count)]
    )[None]
    log_y = log_law(one, log_x, truth)
    found = solve(Objective(one, log_x, log_y, np.ones_like(log_y), True, 0.01), grid(count))
    np.testing.assert_allclose(found, truth, atol=1e-3)


def test_a_batch_gives_what_its_data_sets_give_alone():
    rng = np.random.default_rng(0)
    log_x = np.linspace(-3, 3, 8)[:, None]
    log_y = np.log(power_floor(np.exp(log_x[:, 0]), 2.0, 5.0, 0.5)) + 0.05 * rng.normal(size=(5, 8))
    batch = Objective(power, log_x, log_y, np.ones_like(log_y), True, 0.05)
    together = solve(batch, grid(1))
    for row in range(5):
        one = batch.block(slice(row, row + 1))
        alone = solve(one, grid(1))
        assert one.value(together[[row]]) == pytest.approx(one.value(alone), rel=1e-6)


def test_one_wild_loss_does_not_bend_the_law():
    log_x = np.linspace(-3, 3, 10)[:, None]
    log_y = -0.3 * log_x.T + 1.0
    log_y[0, 4] += 2.0
    found = solve(Objective(power, log_x, log_y, np.ones_like(log_y), False, 0.01), grid(1))
    assert found[0, 2] == pytest.approx(0.3, abs=0.01)


@pytest.mark.skipif(not (SHARED / "scaling-data").is_dir(), reason="no scaling data here")
def test_the_chinchilla_refit_of_besiroglu_et_al_2024_comes_back():
    with (SHARED / "scaling-data/chinchilla-epoch/chinchilla_svg.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["loss"]))[:240]
    log_x = np.log([[float(row["N"]), float(row["D"])] for row in rows])
    log_y = np.log([[float(row["loss"]) for row in rows]])
    centre = log_x.mean(axis=0)
    objective = Objective(additive, log_x - centre, log_y, np.ones_like(log_y), True, 1e-3)
    found = solve(objective, grid(2))
    raw = found[0].copy()
    raw[1:3] *= np.exp(raw[3:] * centre)
    np.testing.assert_allclose(raw, [1.8172, 477.8, 2143, 0.3473, 0.3671], rtol=1e-3)
    assert objective.value(found) == pytest.approx(0.00101827, abs=1e-8)
    # From anywhere near: a start's place does not decide where it ends.
    starts = np.tile([1.0, 1.0, 1.0, 0.5, 0.5], (20, 1))
    starts[:, 1:] *= np.exp(np.random.default_rng(0).normal(0, 0.5, (20, 4)))
    ends = refine(objective, starts, steps=300)
    np.testing.assert_allclose(ends, np.tile(found, (20, 1)), rtol=1e-3)


def test_each_of_many_starts_gets_its_own_end_though_those_that_meet_go_on_as_one():
    log_x = np.linspace(-6, 0, 20)[:, None]
    log_y = np.random.default_rng(0).normal(-0.3 * log_x[:, 0], 0.1)[None]
    starts = np.pad(broken.candidates(12, log_x), ((0, 0), (2, 0)), constant_values=1.0)
    orders = np.arange(12), np.arange(12)[::-1]
    objective = Objective(broken, log_x, log_y, np.ones_like(log_y), True, 0.05)
    values = [objective.value(refine(objective, starts[order])[order]) for order in orders]
    np.testing.assert_allclose(*values, rtol=1e-6)
    assert np.ptp(values[0]) > 0.01 * values[0].min()  # in more than one place


def test_a_law_whose_shape_is_far_from_1_in_all_the_data_is_fitted_from_afar():
    amounts, epochs = np.geomspace(1e-2, 1, 4), (1, 4, 16, 64)
    cells = [[n, u * e / 64, u / 64] for n in amounts for u in amounts for e in epochs]
    truth = np.array([[1.0, 0.25, 0.05, 1e-6, 0.35, 0.35, 2.7, 1.7, 1.0, 1.0]])
    log_y = log_law(data_constrained, np.log(cells), truth)
    log_y += 0.02 * np.random.default_rng(0).normal(size=log_y.shape)
    objective = Objective(data_constrained, np.log(cells), log_y, np.ones_like(log_y), True, np.inf)
    afar = truth.copy()
    afar[0, [3, 9]] = 1e-14, 2.0  # the term that over-fits: its coefficient and exponent
    values = [objective.value(refine(objective, start))[0] for start in (truth, afar)]
    assert values[1] == pytest.approx(values[0], rel=1e-4)


def test_any_one_law_comes_back_with_intervals_of_what_the_losses_tell():
    cells = somewhere(kaplan, num_points=20)[0]
    log_x, cell = np.repeat(cells, 2, axis=0), np.repeat(np.arange(20), 2)
    truth = np.array([[1.0, 2.0, 0.5, 0.4, 0.3]])
    clean = log_law(kaplan, log_x - kaplan.end(log_x), truth)[0]
    rng, how = np.random.default_rng(0), {"floor": True, "num_simulated": 19}
    exact = fit_law(kaplan, log_x, clean, cell, seeds=(1e-9, 20), rng=rng, **how)
    np.testing.assert_allclose(exact.best, truth[0], rtol=1e-3)
    noisy = clean + 0.02 * rng.normal(size=40)
    found = fit_law(kaplan, log_x, noisy, cell, seeds=(0.02, 20), rng=rng, **how)
    told = found.parameters()
    assert list(told) == ["irreducible_loss", "coefficient_1", *kaplan.parameters]
    size = told["size_exponent"]
    assert size.interval.low < size.value < size.interval.high
    few = fit_law(kaplan, log_x[::5], noisy[::5], cell[::5], seeds=(3.0, 9), rng=rng, **how)
    assert few.parameters()["size_exponent"].interval is None
    with pytest.raises(UsageError, match="19 simulated studies are too few"):
        found.loss(log_x, level=0.99)


def test_the_intervals_of_a_straight_line_are_those_of_regression():
    log_x = np.repeat(np.linspace(-5, 0, 12), 2)[:, None]
    rng = np.random.default_rng(0)
    log_y = 1.0 - 0.3 * log_x[:, 0] + 0.02 * rng.normal(size=24)
    how = {"floor": False, "seeds": (0.02, 1000), "rng": rng, "num_simulated": 199}
    found = fit_law(power, log_x, log_y, np.arange(24) // 2, **how)
    away = log_x[:, 0] - log_x.mean()
    half = 1.645 * 0.02 / np.sqrt((away**2).sum())
    told = found.parameters()["exponent"]
    ends = [told.interval.low, told.interval.high]
    np.testing.assert_allclose(ends, told.value + half * np.array([-1, 1]), atol=0.25 * half)
    value, low, high = found.loss(np.array([[2.0]]))
    half = 1.645 * 0.02 * np.sqrt(1 / 24 + (2.0 - log_x.mean()) ** 2 / (away**2).sum())
    ends = np.log([low[0] / value[0], high[0] / value[0]])
    np.testing.assert_allclose(ends, [-half, half], atol=0.25 * half)


def test_axes_in_one_unit_keep_their_ratio():
    log_x = np.log([[1e6, 4e4, 1e4], [1e7, 1e4, 1e4]])
    np.testing.assert_allclose(data_constrained.end(log_x), np.log([1e7, 4e4, 4e4]))
    kept = average(np.exp(log_x), np.array([3.0, 2.0]), [data_constrained]).points.log_x
    np.testing.assert_allclose(np.sort(kept[:, 2] - kept[:, 1]), np.log([0.25, 1.0]))
