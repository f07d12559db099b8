import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest

from chemscale.desk.choose import choose
from chemscale.desk.estimate import estimate as estimating
from chemscale.desk.estimate import finishers, tse, tse_e, tse_ema
from chemscale.desk.settings import searched as settings_of
from chemscale.table.errors import DataError, NotIdentified
from chemscale.table.records import Length, Recipe, Run, Trunk
from chemscale.table.results import CURVE_COLUMNS, Curve, Estimate, Outcome, Trained

SHARED = Path(os.environ.get("CHEMSCALE_SHARED", Path(__file__).parents[2].parent / "shared"))
PARAMS = {("painn", "w8"): 1_000, ("painn", "w16"): 4_000, ("painn", "w32"): 16_000}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def trained(
    size: str = "w8",
    rate: float = 1e-3,
    batch_size: int = 8,
    early: float = 1.0,
    final: float | None = None,
    status: str = "finished",
) -> Trained:
    """A searched run, or with `final` the finished run of the same trunk."""
    trunk = Trunk(
        family="painn",
        family_revision=1,
        config={"size": size},
        dataset="d",
        dataset_revision=1,
        num_train=80,
        recipe=Recipe(learning_rate=rate, batch_size=batch_size),
        seed=0,
    )
    done = final is not None
    length = Length(items=10_000 if done else 2_000, flops=None, patience=0.5, cooldown=done)
    run = Run.of(size, "structure", trunk, length)
    columns = {name: np.full(6, np.nan) for name in CURVE_COLUMNS}
    columns["items_seen"] = np.arange(6.0)
    columns["val_loss"] = early * np.array([4.0, 2.0, 0.5, 2.0, 1.0, 1.0])
    outcome = Outcome(
        run=run.id,
        status=status,
        sentence="",
        num_params=PARAMS["painn", size],
        flops=600.0 if done else 100.0,
        val_loss=final,
    )
    curve = Curve(run.id, columns, early * np.linspace(4, 1, 20))
    return Trained(run, outcome, lambda: curve, ("finish", "sweep") if done else ("search",))


def estimate(runs: list[Trained]) -> Estimate:
    return estimating(settings_of(runs))


def searched(early=(3.0, 1.0, 1.5, 2.0), size: str = "w8", **other) -> list[Trained]:
    return [
        trained(size, rate, early=loss, **other) for rate, loss in zip(RATES, early, strict=True)
    ]


def finished(early=(3.0, 1.0, 1.5, 2.0), noise=(0, 0, 0, 0), size: str = "w8") -> list[Trained]:
    """Finished runs whose final loss is a power of the early one, with log noise."""
    return [
        trained(size, rate, final=0.5 * loss**0.8 * math.exp(off))
        for rate, loss, off in zip(RATES, early, noise, strict=True)
    ]


# --- sums of training losses ---------------------------------------------------------------------


def test_the_sums_count_whole_epochs():
    losses = np.array([4.0, 2.0, 3.0, 1.0, 9.0])
    assert tse(losses, 2) == 3 + 2
    assert tse_e(losses, 2) == 2
    assert tse_e(losses, 2, num_last=2) == 5
    assert tse_ema(losses, 2, gamma=0.5) == 0.5 * 3 + 2


def test_less_than_an_epoch_counts_as_one():
    assert tse([4.0, 2.0], 100) == tse_e([4.0, 2.0], 100) == tse_ema([4.0, 2.0], 100) == 3
    with pytest.raises(DataError, match="no training step"):
        tse([], 100)


@pytest.mark.skipif(not (SHARED / "data/litmatter").is_dir(), reason="no LitMatter log here")
def test_the_published_log_gives_the_published_sums_and_shows_their_extra_epoch():
    with (SHARED / "data/litmatter/metrics.csv").open() as file:
        rows = [row["train_loss_step"] for row in csv.DictReader(file)]
    losses = np.array([float(value) for value in rows if value])
    steps = 63
    assert len(losses) == 30 * steps
    assert tse(losses[: 10 * steps], steps) == pytest.approx(129.8276312691825, rel=1e-12)
    # The published code sums one epoch more for these two: its T = 10 is our T = 11.
    assert tse_e(losses[: 11 * steps], steps) == pytest.approx(5.670970326378232, rel=1e-12)
    assert tse_ema(losses[: 11 * steps], steps) == pytest.approx(134.53728970599116, rel=1e-12)
    assert tse_e(losses[: 10 * steps], steps) != pytest.approx(5.670970326378232, rel=1e-3)
    assert tse_ema(losses[: 10 * steps], steps) < tse(losses[: 10 * steps], steps)


# --- ranking and forecast ------------------------------------------------------------------------


def test_settings_are_ranked_by_early_loss_and_a_diverged_one_is_last():
    runs = [*searched(), trained(rate=3e-2, early=0.1, status="diverged")]
    [family] = estimate(runs).families
    assert [row.learning_rate for row in family.rows] == [1e-3, 3e-3, 1e-2, 3e-4, 3e-2]
    assert [row.rank for row in family.rows] == [1, 2, 3, 4, 5]
    assert family.rows[-1].early_loss is None
    assert "learning rate 0.001 with batch size 8" in family.sentence
    assert "1 of which diverged" in family.sentence
    assert "widen the grid" not in family.sentence
    assert "with the highest learning rate that was tried: widen" in str(estimate(runs[:2]))


def test_a_run_that_failed_for_another_reason_has_no_rank():
    runs = [*searched(), trained(rate=3e-2, status="out_of_memory")]
    assert estimate(runs).families[0].rows[-1].rank is None


def test_sizes_are_ranked_apart_and_come_smallest_first():
    runs = searched(size="w32") + searched(size="w8")
    rows = estimate(runs).families[0].rows
    assert [row.size for row in rows] == ["w8"] * 4 + ["w32"] * 4
    assert [row.rank for row in rows] == [1, 2, 3, 4] * 2


def test_the_sums_stand_beside_the_rank():
    row = estimate(searched()).families[0].rows[0]
    losses = np.linspace(4, 1, 20)
    assert (row.tse, row.tse_e) == (tse(losses, 10), tse_e(losses, 10))


def test_fewer_than_four_finished_runs_rank_and_do_not_forecast():
    [family] = estimate([*searched(), *finished()[:3]]).families
    assert family.num_finished == 3
    assert all(row.forecast is None for row in family.rows)
    assert "fewer than four finished runs (3) this ranks and does not forecast" in family.sentence


def test_four_finished_runs_on_a_line_forecast_the_rest_exactly():
    other = trained(batch_size=32, early=1.2)
    [family] = estimate([*searched(), *finished(), other]).families
    row = next(row for row in family.rows if row.batch_size == 32)
    assert row.forecast == pytest.approx(0.5 * 1.2**0.8)
    assert row.final_loss is None
    assert family.spearman == 1
    assert family.regret == 0
    assert "is forecast to end at 0.5 (90 % interval" in family.sentence


def test_the_forecast_interval_covers_about_90_percent_of_new_runs():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        runs = [*searched(), *finished(noise=0.1 * rng.standard_normal(4))]
        rows = estimate([*runs, trained(batch_size=32, early=1.2)]).families[0].rows
        interval = next(row.interval for row in rows if row.batch_size == 32)
        new = 0.5 * 1.2**0.8 * math.exp(0.1 * rng.standard_normal())
        inside += interval.low <= new <= interval.high
    assert 0.85 <= inside / 300 <= 0.95


def test_a_size_without_finished_runs_is_not_forecast_by_another_sizes_line():
    runs = [*searched(), *finished(), *searched(size="w32")]
    rows = estimate(runs).families[0].rows
    assert {row.size for row in rows if row.forecast is not None} == {"w8"}


def test_a_wrong_early_pick_shows_as_regret():
    noise = (0, 0.5, 0, 0)
    [family] = estimate([*searched(), *finished(noise=noise)]).families
    assert family.regret == pytest.approx(0.5 - 0.8 * math.log(1.5))
    assert family.spearman < 1


def test_flops_count_a_shared_trunk_once():
    [family] = estimate([*searched(), *finished()[:2]]).families
    assert family.flops_spent == 2 * 600 + 2 * 100
    assert family.flops_if_all_finished == 4 * 600
    assert "58 % of the FLOPs" in family.sentence


def test_the_order_of_the_runs_does_not_matter():
    runs = [*searched(), *finished()]
    assert estimate(runs) == estimate(runs[::-1])


def test_best_worst_and_evenly_between_are_finished_at_the_smaller_size():
    early = (3.0, 1.0, 1.5, 2.0)
    runs = [
        *searched(early),
        *searched((2.5, 1.2, 1.6, 1.1), batch_size=32),
        *searched(size="w32"),
        trained(rate=3e-2, status="diverged"),
    ]
    by_id = {run.run.id: run for run in runs}
    chosen = [by_id[one.run] for one in finishers(settings_of(runs), 4)]
    assert [run.curve["val_loss"][-1] for run in chosen] == [1.0, 1.2, 2.0, 3.0]
    assert {run.run.size for run in chosen} == {"w8"}
    assert len(finishers(settings_of(runs), 100)) == 8
    assert finishers(settings_of(runs), 0) == []


# --- choosing ------------------------------------------------------------------------------------


def test_the_rate_is_log_linear_in_size_and_marked_by_where_it_came_from():
    runs = [*searched(early=(3.0, 1.5, 2.0, 1.0)), *searched((3, 1, 2, 4), size="w16")]
    choices = choose(estimate(runs), PARAMS, now="then")
    assert [choice.size for choice in choices] == ["w8", "w16", "w32"]
    assert [choice.learning_rate for choice in choices] == [1e-2, 1e-3, 1e-4]
    assert [choice.source for choice in choices] == ["searched", "searched", "extrapolated"]
    wider = {**PARAMS, ("painn", "w12"): 2_000}
    between = next(one for one in choose(estimate(runs), wider) if one.size == "w12")
    assert (between.source, between.learning_rate) == ("interpolated", 3.2e-3)


def test_the_batch_size_is_the_one_that_won_at_the_larger_size():
    runs = [
        *searched((3, 1, 2, 4)),
        *searched((3, 2, 1.5, 4), batch_size=32),
        *searched((3, 1, 2, 4), size="w32"),
        *searched((3, 2, 0.5, 4), size="w32", batch_size=32),
    ]
    choices = choose(estimate(runs), PARAMS)
    assert {choice.batch_size for choice in choices} == {32}
    assert choices[0].learning_rate == 3e-3  # the best at that batch size, not 1e-3


def test_with_one_searched_size_the_rate_is_constant():
    choices = choose(estimate(searched()), PARAMS)
    assert {choice.learning_rate for choice in choices} == {1e-3}
    assert [choice.source for choice in choices] == ["searched", "extrapolated", "extrapolated"]


@pytest.mark.parametrize(("final", "best"), [((3, 1, 0.5, 2), 2), ((0.99, 1, 1.5, 2), 1)])
def test_the_rates_rise_by_what_the_finished_runs_show_and_never_fall(final, best):
    # Early the second rate looks best at both sizes; finished, the third, or by a hair the first.
    ends = zip(RATES, (3.0, 1.0, 1.5, 2.0), map(float, final), strict=True)
    runs = [
        *searched(),
        *(trained("w8", rate, early=early, final=final) for rate, early, final in ends),
        *searched((3, 1, 2, 4), size="w16"),
    ]
    choices = choose(estimate(runs), PARAMS)
    assert [choice.learning_rate for choice in choices[:2]] == [RATES[best], RATES[best]]


def test_a_search_that_diverged_altogether_chooses_nothing_and_says_what_to_do():
    with pytest.raises(NotIdentified, match="smaller values to search.learning_rate"):
        choose(estimate(searched(status="diverged")), PARAMS)
