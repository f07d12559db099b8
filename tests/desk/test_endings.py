"""What endings make of a law: relabelled, refused, under-tuned; and how that is said."""

from pathlib import Path

import numpy as np
import pytest
from test_fit import point
from test_report import Words

from chemscale import verbs
from chemscale.desk.fit import fit
from chemscale.desk.report.build import render
from chemscale.desk.report.page import Page
from chemscale.table.errors import DataError
from chemscale.table.fits import FamilyFit, Fit
from chemscale.table.points import read_points
from chemscale.table.results import Point

AMOUNTS = (10, 30, 100, 300, 1000, 3000)


def points(capped: tuple[int, ...] = (), amounts: tuple[int, ...] = AMOUNTS) -> list[Point]:
    """One size, two seeds, force MAE 400 · D^-0.3; which amounts end capped."""
    noise = np.random.default_rng(0)
    return [
        point(
            "w32",
            22_000,
            amount,
            seed,
            400 * amount**-0.3 * float(np.exp(0.02 * noise.normal())),
            ending="capped" if amount in capped else "plateaued",
            max_items=12_000,
        )
        for amount in amounts
        for seed in range(2)
    ]


def family(found: list[Point]) -> FamilyFit:
    (one,) = fit(found).families
    return one


# --- capped --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capped", "relabelled"),
    [((), False), (AMOUNTS[-1:], False), (AMOUNTS[-2:], False), (AMOUNTS[-3:], True)],
)
def test_more_than_a_third_of_capped_runs_relabel_the_exponent(
    capped: tuple[int, ...], relabelled: bool
):
    one = family(points(capped))
    assert one.num_capped == 2 * len(capped)
    assert one.at_this_training_length is relabelled
    law = one.laws[0]
    assert law.exponent.value == pytest.approx(0.3, abs=0.03)  # the same number, another name
    assert ("at this training length (≤ 12,000 items)" in law.sentence) is relabelled
    assert ("training to convergence" in one.sentence) is relabelled


def converged(one: FamilyFit) -> bool:
    """Whether there is a law of the runs that were not capped."""
    laws = [law for law in one.laws if law.axis == "num_train"]
    assert one.at_this_training_length
    assert (len(laws) == 2) is not ("training to convergence is not identified" in one.sentence)
    return len(laws) == 2


def test_the_converged_exponent_takes_four_uncapped_amounts():
    amounts = (10, 30, 100, 300, 1000, 3000, 10_000)
    assert converged(family(points(amounts[-3:], amounts)))
    assert not converged(family(points(amounts[-4:], amounts)))


def test_the_converged_exponent_takes_a_decade_of_uncapped_amounts():
    wide = (10, 20, 50, 100, 1000, 3000, 10_000)
    narrow = (10, 20, 50, 99, 1000, 3000, 10_000)
    assert converged(family(points(wide[-3:], wide)))
    assert not converged(family(points(narrow[-3:], narrow)))


def test_an_amount_with_one_capped_seed_still_counts_by_its_other():
    amounts = (10, 30, 100, 300, 1000, 3000, 10_000)
    found = [
        point.model_copy(update={"ending": "capped"}) if point.run == "w32-300-0" else point
        for point in points(amounts[-3:], amounts)
    ]
    one = family(found)
    assert converged(one)
    assert len(one.laws[1].points) == 7


# --- the middle of a schedule --------------------------------------------------------------------

HEADER = "family,num_params,num_train,unit,seed,phase,force_mae\n"


def table(path: Path, phase: str, stable_at: int = 0) -> Path:
    rows = [
        f"painn,22000,{amount},structure,0,{'stable' if amount == stable_at else phase},"
        f"{400 * amount**-0.3}"
        for amount in AMOUNTS
    ]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("phase", ["stable", "warmup", "decay"])
def test_a_table_of_losses_from_the_middle_of_a_schedule_is_refused(tmp_path: Path, phase: str):
    with pytest.raises(DataError) as error:
        verbs.fit(table(tmp_path / "curves.csv", phase))
    text = str(error.value)
    assert "middle of a schedule" in text
    assert phase != "decay" or "there are decay" in text
    assert "cooldown" in text  # what is allowed
    assert error.value.exit_code == 3


def test_a_table_of_cooled_losses_is_fitted(tmp_path: Path):
    (one,) = verbs.fit(table(tmp_path / "curves.csv", "cooldown")).families
    assert one.num_points == len(AMOUNTS)
    assert one.laws[0].exponent.value == pytest.approx(0.3, abs=0.01)


def test_one_loss_from_the_middle_of_a_schedule_is_left_out_and_listed(tmp_path: Path):
    (one,) = fit(read_points(table(tmp_path / "curves.csv", "cooldown", stable_at=100))).families
    assert one.num_points == len(AMOUNTS) - 1
    assert [reason for _, reason in one.excluded] == ["loss from the middle of a schedule"]
    assert "1 of 6 runs left out" in one.sentence


# --- the rate check, as the reader meets it ------------------------------------------------------


def with_check(half: float, double: float) -> list[Point]:
    """The sweep, and half and double the rate with the loss changed by a factor."""
    swept = points()
    usual = next(point for point in swept if point.run == "w32-300-0")
    return swept + [
        usual.model_copy(
            update={
                "run": f"check-{factor}",
                "role": "check",
                "learning_rate": factor * 1e-3,
                "losses": {"force_mae": change * usual.losses["force_mae"]},
            }
        )
        for factor, change in ((0.5, half), (2.0, double))
    ]


def report(found: list[Point]) -> tuple[Fit, str]:
    fitted = fit(found)
    page = Page("curves.csv", points=tuple(found), fit=fitted)
    return fitted, str(Words(render([page], "Rates", "today", "0")))


def test_the_report_shows_the_verdict_of_the_rate_check_which_moves_no_law():
    fitted, text = report(with_check(1.3, 0.7))
    said = text.split("Learning rate check.", 1)[1]
    assert "the exponent is that of an under-tuned ladder" in said
    assert "half the learning rate" in said and "double the learning rate" in said
    assert fitted.families[0].laws == fit(points()).families[0].laws


def test_without_a_check_the_report_claims_none():
    assert "Learning rate check." not in report(points())[1]
