"""The multi-power law: what it recovers, what it refuses, and how it does on measured runs."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chemscale.desk.annealing import Schedule, multi_power
from chemscale.desk.report.curves import tabled_figure
from chemscale.desk.report.page import Page
from chemscale.desk.report.tables import settings_table
from chemscale.desk.schedule import RatedCurve, fit_schedules
from chemscale.desk.solve import log_law
from chemscale.table.curves import read_curves
from chemscale.table.errors import DataError
from chemscale.verbs import estimate

SHARED = Path(os.environ.get("CHEMSCALE_SHARED", Path(__file__).parents[2].parent / "shared"))
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TRUTH = np.array([[2.6, 0.25, 0.19, 0.45, -5.0, 0.5, 0.6]])  # E, A, B, a, log s_0/10,000, b, g
STEPS = np.arange(500, 10_001, 250)


def constant(step):
    return np.full(len(step), 1e-3)


def cosine(step):
    return 1e-4 + 9e-4 * (1 + np.cos(np.pi * (step - step[0]) / (step[-1] - step[0]))) / 2


def stages(step):
    return np.where(step < 4_000, 1e-3, 3e-4)


def wsd(step):
    return 1e-3 * np.clip((step[-1] - step) / (0.2 * step[-1]) + 0.05, 0.0, 1.0)


def made(schedule, step=STEPS, noise=0.0):
    """A run as the law has it, its losses at the rows."""
    rate = schedule(step)
    one = Schedule.of(step, rate)
    law = multi_power([one.felt(np.arange(len(step)))], 10_000.0)
    logs = log_law(law, np.log(one.progress / 10_000)[:, None], TRUTH)[0]
    logs += noise * np.random.default_rng(len(step)).standard_normal(len(step))
    return RatedCurve(step, rate, np.exp(logs), schedule.__name__)


@pytest.fixture(scope="module")
def fitted():
    return fit_schedules([made(constant), made(cosine), made(stages)])


def test_a_law_is_found_again_from_three_schedules_and_foretells_a_fourth(fitted):
    assert fitted.status == "converged"
    free = [0, 2, 3, 5, 6]  # A and s_0 count from the longest run
    assert fitted.best[free] == pytest.approx(TRUTH[0, free], rel=1e-4)
    later = np.arange(500, 20_001, 250)
    for unseen in (made(wsd), made(wsd, later)):
        found = fitted.forecast(unseen)
        assert np.abs(found.value / unseen.loss - 1).max() < 3e-3
        low, high = found.intervals[0.5]
        assert ((low < unseen.loss) & (unseen.loss < high)).all()
    width = np.log(high / low)
    assert width[-1] > 1.5 * width[len(STEPS) - 1]  # twice the longest run seen


def test_the_slopes_of_the_law_are_those_of_finite_differences():
    runs = [made(schedule) for schedule in (constant, cosine, stages)]
    schedules = [Schedule.of(one.step, one.learning_rate) for one in runs]
    law = multi_power([one.felt(np.arange(len(STEPS))) for one in schedules], 10_000.0)
    log_x = np.log(np.concatenate([one.progress for one in schedules]) / 10_000)[:, None]
    theta = law.candidates(5, log_x)
    found, plain = (one.log_slopes(log_x, theta) for one in (law, replace(law, slopes=None)))
    pairs = [(found[0][0], plain[0][0]), *zip(found[1][1:], plain[1][1:], strict=True)]
    for mine, other in pairs:
        assert np.abs(mine - other).max() < 1e-6


def test_units_order_and_rows_without_a_logarithm_do_not_matter(fitted):
    runs = [
        RatedCurve(32 * one.step, 1e3 * one.learning_rate, 7 * one.loss, one.run)
        for one in (made(stages), made(cosine), made(constant))
    ]
    steps = np.concatenate([runs[2].step, 32 * np.array([10_001, 10_002, 10_003])])
    losses = np.concatenate([runs[2].loss, [0.0, np.inf, np.nan]])  # the last: not yet
    other = fit_schedules([*runs[:2], RatedCurve(steps, np.ones(len(steps)), losses)])
    assert "2 rows" in other.sentence
    assert other.num_rows == fitted.num_rows
    here = fitted.forecast(made(wsd))
    there = other.forecast(RatedCurve(32 * STEPS, 1e3 * wsd(STEPS)))
    assert there.value == pytest.approx(7 * here.value, rel=2e-3)
    for one, two in zip(here.intervals[0.9], there.intervals[0.9], strict=True):
        assert two == pytest.approx(7 * one, rel=5e-3)


def test_rows_where_the_rate_bends_tell_the_same_schedule_as_many_rows(fitted):
    fine = np.arange(500, 10_001, 10)
    coarse = {
        cosine: STEPS,
        stages: np.array([500, 3_990, 4_000, 10_000]),  # a jump between rows near each other
        wsd: np.array([500, 8_100, 10_000]),
    }
    for schedule, rows in coarse.items():
        told = [
            fitted.forecast(RatedCurve(steps, schedule(steps))).value[np.isin(steps, rows)]
            for steps in (fine, rows)
        ]
        assert told[1] == pytest.approx(told[0], rel=3e-4)


def test_without_a_second_schedule_or_a_fall_nothing_is_said():
    for runs, words in (
        ([made(constant), made(constant, STEPS[:20])], "never fell"),
        ([made(cosine), made(cosine, noise=0.01)], "one schedule"),
        ([made(constant, STEPS[:3]), made(stages, STEPS[:3])], "12 are needed"),
        ([], "12 are needed"),
        ([replace(made(cosine), loss=np.full(len(STEPS), np.nan))], "12 are needed"),
    ):
        found = fit_schedules(runs)
        assert found.status == "not_identified"
        assert words in found.sentence
        assert np.isnan(found.forecast(made(wsd)).value).all()


def test_what_the_law_does_not_hold_for_is_told(fitted):
    with pytest.raises(DataError, match="rises again at step 6000"):
        Schedule.of([0, 2000, 4000, 6000], [1e-3, 1e-3, 1e-4, 5e-4])
    with pytest.raises(DataError, match="steps must"):
        Schedule.of([100, 100], [1e-3, 1e-3])
    with pytest.raises(DataError, match="peak learning rate is 0.002"):
        fitted.forecast(RatedCurve(STEPS, 2 * constant(STEPS)))
    with pytest.raises(DataError, match="fit those of each peak apart"):
        fit_schedules([made(constant), replace(made(cosine), learning_rate=2 * cosine(STEPS))])
    warming = RatedCurve([0, 500, 5000, 200_000], [0.0, 1e-3, 1e-3, 0.0])
    value = fitted.forecast(warming).value
    assert np.isnan(value).tolist() == [True, False, False, True]  # warm-up; ten times too long


def table(path, runs, seen):
    """Runs by name, with their losses up to a step."""
    rows = [
        f"{name},{step},{rate},{loss if step <= seen.get(name, 1e9) else ''}"
        for name, one in runs.items()
        for step, rate, loss in zip(one.step, one.learning_rate, one.loss, strict=True)
    ]
    path.write_text("run,step,learning_rate,val_loss\n" + "\n".join(rows) + "\n")
    return path


def test_a_table_with_learning_rates_to_come_forecasts_where_they_lead(tmp_path):
    rows = STEPS[::2]
    runs = {one.__name__: made(one, rows) for one in (constant, cosine, stages)}
    plans = {"going": made(wsd, rows), "asked": made(wsd, rows[:10])}
    dip = np.where((rows > 3_000) & (rows < 5_000), 1e-4, 1e-3)
    again = replace(runs["constant"], learning_rate=dip)
    path = table(tmp_path / "a.csv", runs | plans | {"again": again}, {"going": 8_000, "asked": 0})
    found = estimate(path)
    [family] = found.families
    told = {row.run: row for row in family.rows}
    for name, one in plans.items():
        assert told[name].forecast == pytest.approx(one.loss[-1], rel=3e-3)
        assert told[name].interval.low < one.loss[-1] < told[name].interval.high
        assert (told[name].final_loss, told[name].status, told[name].chance) == (None, None, None)
    for name, one in runs.items():
        assert (told[name].final_loss, told[name].status) == (float(one.loss[-1]), "finished")
    assert told["asked"].rank is None
    assert "multi-power law of 4 runs" in family.sentence
    assert "run again: the learning rate rises again" in family.sentence
    assert "does not forecast" not in family.sentence
    drawn = tabled_figure(Page("a", curves=tuple(read_curves(path)), estimate=found))
    assert drawn is not None
    assert "of 5 settings" in drawn.alt
    assert settings_table(family).rows[0][0].text == family.rows[0].run  # rates tell none apart


def test_a_table_of_one_schedule_says_that_cooling_was_not_seen(tmp_path):
    path = table(tmp_path / "a.csv", {"a": made(constant), "b": made(wsd)}, {"b": 5_000})
    [family] = estimate(path).families
    assert {row.forecast for row in family.rows} == {None}
    assert "what cooling is worth was not seen: the learning rate never fell" in family.sentence
    assert "fewer than four finished" in family.sentence


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "scaling-data").is_dir(), reason="no scaling data here")
@pytest.mark.parametrize("size", ["25M", "100M"])
def test_unseen_schedules_are_foretold_to_one_and_a_half_times_the_published_error(
    size, monkeypatch
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    schedules = __import__("schedules")
    runs, unseen = schedules.read(SHARED / f"scaling-data/lr-schedules/mpl_{size}.csv")
    law = fit_schedules(runs)
    off = [np.abs(law.forecast(one).value / one.loss - 1) for one in unseen]
    mean, worst = schedules.PUBLISHED[size]
    assert np.mean([one.mean() for one in off]) < 1.5 * mean
    assert max(one.max() for one in off) < 1.5 * worst
