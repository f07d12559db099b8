"""The law along compute, of the best that was trained at no more than so many FLOPs."""

import math

import numpy as np
import pytest
from test_fit import point, study

from chemscale.desk.bootstrap import fit_sample
from chemscale.desk.fit import fit
from chemscale.desk.frontier import by_length, on_frontier
from chemscale.desk.report import Page
from chemscale.desk.report.findings import found as found_in
from chemscale.desk.report.laws import laws_table
from chemscale.desk.sample import Sample
from chemscale.table.fits import LawFit
from chemscale.table.results import Point


def with_flops(points: list[Point]) -> list[Point]:
    return [p.model_copy(update={"flops": 6.0 * p.num_params * p.num_train}) for p in points]


def along_flops(points: list[Point]) -> list[LawFit]:
    return [law for law in fit(points).families[0].laws if law.axis == "flops"]


def test_the_frontier_is_what_no_cell_of_at_most_its_flops_beats_in_each_draw():
    flops = np.log([1.0, 2.0, 4.0, 4.5, 9.0])
    choose = on_frontier(flops, np.arange(5))
    losses = np.array([[5, 6, 4, 3, 3.5], [5, 4, 3, 3.5, 2]], float)
    # The third costs as much as the fourth, within a fifth, and is the worse one in the first draw.
    assert choose(losses, np.ones((2, 5))).tolist() == [
        [True, False, False, True, False],
        [True, True, True, False, True],
    ]


def test_a_cell_is_judged_by_the_mean_of_its_seeds():
    cell = np.array([0, 0, 1, 1])
    losses = np.array([[3, 5, 4.5, 4.5]])  # one lucky seed, or twice the unlucky one
    choose = on_frontier(np.log([1.0, 1.0, 10.0, 10.0]), cell)
    assert choose(losses, np.ones((1, 4))).tolist() == [[True, True, False, False]]
    assert choose(losses, np.array([[0.0, 2, 1, 1]])).all()


def test_the_same_size_and_data_trained_longer_are_another_cell():
    runs = [
        point("w8", 2_000, 100, seed, 5.0, run=f"{items}-{seed}", items_seen=items + seed)
        for items in (1_000, 4_000)
        for seed in range(2)
    ]
    assert by_length(Sample.of(runs, "force_mae")).cell.tolist() == [0, 1, 0, 1]


def test_a_law_along_flops_says_that_it_is_of_the_best_among_what_was_trained():
    points = with_flops(study(floor=0.0, scatter=0.01))
    (found,) = along_flops(points)
    assert found.status == "converged" and found.at == {}
    assert "on the frontier of" in found.sentence and "of 20 cells" in found.sentence
    assert "the law of the best choice among what was trained" in found.sentence
    assert set(found.points) < {p.run for p in points}
    page = Page("x", points=points, fit=fit(points))
    assert any(
        "on the frontier" in row[0].text for row in laws_table(page, page.fit.families[0]).rows
    )
    assert "compute exponent" in [fact.name for fact in found_in(page).findings[0].facts]


def test_runs_that_tell_no_flops_get_no_law_along_them():
    assert along_flops(study()) == [] and "FLOPs" not in str(fit(study()))
    some = [*with_flops(study()[:-1]), study()[-1]]
    assert along_flops(some) and "1 of 40 runs tell no FLOPs" in str(fit(some))


def test_two_cells_on_the_frontier_are_too_few():
    (found,) = along_flops(with_flops(study(sizes={"w8": 2_000}, num_train=(30, 100))))
    assert found.status == "not_identified" and "2 values of flops, three are" in found.sentence


def test_a_draw_in_which_one_cell_beats_all_others_says_that_the_loss_does_not_fall():
    (found,) = along_flops(with_flops(study(2, floor=5.0, by_size=(0, 1), by_data=(0, 1))))
    exponents = [exponent for _, _, exponent in found.draws]
    assert min(exponents) == 0 and max(exponents) < 0.2


def grid(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Five sizes on four amounts."""
    sizes = 10 ** (rng.uniform(6.5, 8) + rng.uniform(0.3, 0.75) * np.arange(5))
    amounts = 10 ** (rng.uniform(7.5, 9.5) + rng.uniform(0.3, 0.75) * np.arange(4))
    n, d = np.meshgrid(sizes, amounts)
    return n.ravel(), d.ravel()


def profiles(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Nine sizes over a decade about the best of each of five budgets."""
    flops = 10 ** (rng.uniform(17.5, 18.5) + rng.uniform(0.4, 0.8) * np.arange(5))[:, None]
    best = 1.34 * (flops / 6) ** (0.28 / 0.62)
    n = best * 10 ** ((np.arange(9) - 4 + rng.uniform(-0.5, 0.5, (5, 1))) / 9)
    return n.ravel(), (flops / 6 / n).ravel()


@pytest.mark.slow
@pytest.mark.parametrize(("design", "seeds"), [(grid, 1), (grid, 3), (profiles, 3)])
def test_intervals_cover_the_frontier_though_minima_among_noise_are_too_low(design, seeds):
    """Losses by Hoffmann's law with 1 % noise; the truth is the same frontier without noise."""
    inside = []
    for study_seed in range(40):
        rng = np.random.default_rng([study_seed, 13])
        n, d = design(rng)
        true = np.log(1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28)
        cost = np.log(6 * n * d)
        noisy = true[:, None] + 0.01 * rng.standard_normal((len(n), seeds))
        freedom = len(n) * (seeds - 1)
        scatter = None
        if freedom:
            scatter = math.sqrt(seeds * noisy.var(axis=1).sum() / freedom), freedom
        rows = []
        for losses, told, draws in ((true[:, None], None, 2), (noisy, scatter, 300)):
            cell = np.repeat(np.arange(len(n)), losses.shape[1])
            found = fit_sample(
                cost[cell, None], losses.ravel(), cell, floor=None, seeds=told, rng=rng,
                num_draws=draws, choose=on_frontier(cost[cell], cell),
            )  # fmt: skip
            rows.append(found.draws if draws > 2 else found.best[None])
        every = np.concatenate(rows)
        floor, coefficient, exponent = every.T
        for quantity in (exponent, floor + coefficient * np.exp(-exponent * np.median(cost))):
            low, high = np.quantile(quantity[1:], [0.05, 0.95])
            inside.append(low <= quantity[0] <= high)
    assert (np.mean(np.reshape(inside, (-1, 2)), axis=0) >= 0.85).all()
