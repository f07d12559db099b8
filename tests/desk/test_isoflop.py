"""The best size at each budget of compute, and how it grows."""

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from test_fit import point

from chemscale.desk.fit import fit
from chemscale.desk.isoflop import isoflop, isoflop_of
from chemscale.desk.laws import additive_surface
from chemscale.desk.report import Page
from chemscale.desk.report.laws import best_sizes_table
from chemscale.desk.sample import Sample
from chemscale.table.errors import DataError
from chemscale.table.fits import IsoFlop

SHARED = Path(os.environ.get("CHEMSCALE_SHARED", Path(__file__).parents[2].parent / "shared"))
HOFFMANN = (1.69, 406.4, 0.34, 410.7, 0.28)  # E, A, a, B, b
EXPONENT = 0.28 / 0.62


def best(flops: float) -> float:
    return (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62) * (flops / 6) ** EXPONENT


def studied(scatter: float, seed: int, told: float | None = None, seeds: int = 1) -> IsoFlop:
    """Seven budgets of seven sizes, the best of which lies anywhere in the middle."""
    rng = np.random.default_rng(seed)
    flops = np.repeat(np.geomspace(1e17, 1e20, 7), 7)
    off = np.repeat(rng.uniform(-0.5, 0.5, 7), 7)
    sizes = best(flops) * np.exp(off) * 2.0 ** np.tile(np.arange(-3, 4), 7)
    flops, sizes = np.repeat(flops, seeds), np.repeat(sizes, seeds)
    loss = additive_surface(sizes, flops / 6 / sizes, *HOFFMANN)
    loss *= np.exp(scatter * rng.standard_normal(len(loss)))
    told = scatter if told is None else told
    return isoflop(flops, sizes, flops / 6 / sizes, loss, scatter=told, rng=rng, num_draws=300)


def test_without_noise_the_best_sizes_of_hoffmanns_law_come_back():
    found = studied(0.0, 0)
    ratios = [one.num_params.value / best(one.flops) for one in found.budgets]
    np.testing.assert_allclose(ratios, 1, atol=0.05)
    assert found.size_exponent.value == pytest.approx(EXPONENT, abs=0.005)
    assert found.data_exponent.value == pytest.approx(1 - EXPONENT, abs=0.005)
    for one in found.budgets:
        data = one.flops / 6 / one.num_params.value
        assert one.num_train.value == pytest.approx(data, rel=1e-6)
        truth = additive_surface(one.num_params.value, data, *HOFFMANN)
        assert one.loss == pytest.approx(float(truth), rel=1e-3)


@pytest.mark.parametrize("told", [0.003, 0.0], ids=["scatter told", "scatter not known"])
def test_a_90_percent_interval_holds_the_exponent_about_90_percent_of_the_time(told):
    held = 0
    for seed in range(30):
        span = studied(0.003, seed, told).size_exponent.interval
        held += span.low <= EXPONENT <= span.high
    assert held >= 24


def test_seeds_of_a_size_make_its_budget_surer():
    few, many = (studied(0.01, 0, seeds=seeds).budgets for seeds in (1, 9))
    widths = [
        np.mean([math.log(b.num_params.interval.high / b.num_params.interval.low) for b in one])
        for one in (few, many)
    ]
    assert widths[1] < 0.6 * widths[0]


def test_a_minimum_at_an_end_of_the_sizes_is_none_and_is_told():
    sizes = np.tile(np.geomspace(1e6, 1e8, 8), 4)
    flops = np.repeat([1e13, 1e16, 1e17, 6e22], 8)
    loss = additive_surface(sizes, flops / 6 / sizes, *HOFFMANN)
    how = {"scatter": 0.001, "rng": np.random.default_rng(0)}
    found = isoflop(flops, sizes, flops / 6 / sizes, loss, **how)
    assert [one.status for one in found.budgets] == ["at_smallest", "seen", "seen", "at_largest"]
    assert found.budgets[0].num_params.value is None and found.size_exponent.value is None
    three = isoflop(flops[:3], sizes[:3], sizes[:3], loss[:3], **how)
    assert [one.status for one in three.budgets] == ["too_few"]
    with pytest.raises(DataError, match="did not end with a loss"):
        isoflop(flops, sizes, sizes, loss * np.nan, **how)


def test_fit_tells_the_best_sizes_of_runs_that_come_in_budgets_and_of_no_others():
    def runs(budgets, epochs=(1.0,)):
        found = []
        for flops in budgets:
            for size in best(flops) * 2.0 ** np.arange(-3, 4):
                for data in flops / 6 / size / np.array(epochs):
                    loss = float(additive_surface(size, data, *HOFFMANN))
                    spent = flops * (1 + 0.01 * math.sin(size))  # whole steps
                    told = {"run": f"{len(found)}", "flops": spent}
                    found.append(point("", round(size), round(data), 0, loss, **told))
        return found

    whole = fit(points := runs([1e17, 1e18, 1e19]))
    (found,) = whole.families
    table = best_sizes_table(Page("x", points=points, fit=whole), found)
    assert [row[2].text for row in table.rows] == ["between sizes"] * 3
    assert found.isoflop.budgets[0].num_params.interval is None  # the scatter is not known
    assert found.isoflop.size_exponent.value == pytest.approx(EXPONENT, abs=0.01)
    assert f"the best size grows as flops^{EXPONENT:.2f}" in found.sentence
    assert "3 of 3 IsoFLOP curves have their lowest point inside" in found.sentence
    for other in (runs([1e17, 1e18]), runs([1e17, 1e18, 1e19], (1.0, 3.0))):
        assert isoflop_of(Sample.of(other, "force_mae"), None) is None


@pytest.mark.skipif(not (SHARED / "scaling-data").is_dir(), reason="no scaling data here")
def test_the_exponents_of_porian_et_al_2024_come_back_from_their_losses_at_any_scatter():
    rung = ("table", "hparams", "warmup", "decay", "param_count", "val")
    folder = SHARED / "scaling-data/compute-optimal"
    with (folder / "porian_rw_isoflop.csv").open() as file:
        losses = list(csv.DictReader(file))
    with (folder / "porian_rw_published_fits.csv").open() as file:
        fits = list(csv.DictReader(file))
    assert len(fits) == 10
    for published in fits:
        rows = [row for row in losses if all(row[one] == published[one] for one in rung)]
        columns = [
            np.array([float(row[one]) for row in rows]) for one in ("flops", "N", "tokens", "loss")
        ]
        for scatter in (0.0, 0.0006, 0.002):
            found = isoflop(*columns, scatter=scatter, rng=np.random.default_rng(0), num_draws=400)
            size, data = (float(published[f"w_{one}_exponent"]) for one in "nt")
            assert found.size_exponent.value == pytest.approx(size, abs=0.01)
            assert found.data_exponent.value == pytest.approx(data, abs=0.01)
