import numpy as np
import pytest

from chemscale.desk.laws import additive_surface, power, power_floor
from chemscale.desk.solve import huber, log_law, solve


def test_a_power_law_is_straight_on_double_logarithmic_paper():
    x = np.array([10.0, 100.0, 1000.0])
    steps = np.diff(np.log(power(x, 5.0, 0.3)))
    np.testing.assert_allclose(steps, -0.3 * np.log(10))


def test_a_floor_is_what_remains_at_infinite_x():
    assert power_floor(1e30, 1.5, 7.0, 0.5) == pytest.approx(1.5)


def test_the_surface_without_one_shortage_is_the_law_along_the_other():
    surface = additive_surface(1e30, np.array([10.0, 100.0]), 1.5, 9.0, 0.5, 7.0, 0.4)
    np.testing.assert_allclose(surface, power_floor(np.array([10.0, 100.0]), 1.5, 7.0, 0.4))


def noise_free(num_axes: int, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = [np.geomspace(30, 30_000, 6), np.geomspace(1e3, 1e6, 5)][:num_axes]
    grid = np.stack([side.ravel() for side in np.meshgrid(*axes)], axis=1)
    return np.log(grid), log_law(np.log(grid), truth[None])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("num_axes", [1, 2])
def test_noise_free_losses_give_the_parameters_back(num_axes, seed):
    rng = np.random.default_rng(seed)
    exponents = rng.uniform(0.15, 1.2, num_axes)
    coefficients = rng.uniform(0.5, 5, num_axes) * np.array([30.0, 1e3])[:num_axes] ** exponents
    truth = np.array([rng.uniform(0.1, 1.0), *np.stack([coefficients, exponents], 1).ravel()])
    log_x, log_y = noise_free(num_axes, truth)
    found = solve(log_x, log_y, np.ones_like(log_y), floor=True, delta=0.01, grid=40)
    np.testing.assert_allclose(found[0, 2::2], truth[2::2], atol=1e-3)
    np.testing.assert_allclose(log_law(log_x, found), log_y, atol=1e-5)


def test_a_batch_gives_what_its_data_sets_give_alone():
    rng = np.random.default_rng(0)
    log_x = np.log(np.geomspace(10, 1e4, 8))[:, None]
    log_y = np.log(power_floor(np.exp(log_x[:, 0]), 2.0, 50.0, 0.5)) + 0.05 * rng.normal(
        size=(5, 8)
    )
    ones = np.ones_like(log_y)
    together = solve(log_x, log_y, ones, floor=True, delta=0.05, grid=20)
    for row in range(5):
        alone = solve(log_x, log_y[[row]], ones[[row]], floor=True, delta=0.05, grid=20)
        losses = [
            huber(log_law(log_x, found)[0] - log_y[row], 0.05).sum()
            for found in (together[[row]], alone)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_one_wild_loss_does_not_bend_the_law():
    log_x = np.log(np.geomspace(10, 1e4, 10))[:, None]
    log_y = np.log(power(np.exp(log_x[:, 0]), 50.0, 0.3))[None]
    log_y[0, 4] += 2.0
    found = solve(log_x, log_y, np.ones_like(log_y), floor=False, delta=0.01, grid=20)
    assert found[0, 2] == pytest.approx(0.3, abs=0.01)
