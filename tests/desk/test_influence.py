"""What a law owes to single runs, sizes and amounts."""

import math

import pytest
from test_fit import law, one_size, point, study

from chemscale.desk.fit import fit


def test_leaving_out_is_the_same_as_never_having_had_it():
    points = one_size(num_train=(30, 100, 300, 1000, 3000))
    whole = law(fit(points)).influence
    assert len(whole) == len(points) + 5
    for one in whole[3:6]:  # two amounts, a run
        kept = [p for p in points if one.value not in (p.run, p.num_train)]
        # The Huber width is that of the whole: equal but for how far out runs are weighed down.
        rest = law(fit(kept)).exponent.value
        assert one.exponents["num_train"] == pytest.approx(rest, abs=0.02)


def test_the_good_twin_of_a_run_off_the_law_is_what_matters_most():
    points = one_size(scatter=0.001)
    odd = [p.model_copy(update={"losses": {"force_mae": p.losses["force_mae"] * 1.5}})
           if p.run == "w32-3000-1" else p for p in points]  # fmt: skip
    found = fit(odd)
    true = law(fit(points)).exponent.value
    without = {one.value: one.exponents["num_train"] for one in law(found).influence}
    assert without["w32-3000-1"] == pytest.approx(true, abs=0.01)
    assert "most depends on run w32-3000-0: without it" in found.families[0].sentence


def test_what_moves_nothing_that_is_printed_is_not_named():
    found = fit(one_size(scatter=1e-6))
    assert "no run, size or amount moves an exponent by 0.01" in found.families[0].sentence


def test_with_three_amounts_none_can_be_spared_and_no_number_is_made_up():
    found = law(fit(one_size(num_train=(30, 100, 1000))))
    spared = [one for one in found.influence if one.what == "num_train"]
    assert [one.exponents for one in spared] == [{}, {}, {}]
    assert all(one.tenfold is None for one in spared)
    assert all(one.exponents for one in found.influence if one.what == "run")


def test_the_surface_is_fitted_again_without_each_size_amount_and_run():
    points = study(scatter=0.001)
    surface = fit(points).families[0].surface
    assert surface is not None
    assert len(surface.influence) == 4 + 5 + len(points)
    for one in surface.influence:
        assert one.exponents["num_train"] == pytest.approx(0.4, abs=0.05)
        assert one.tenfold is not None and math.isfinite(one.tenfold)


def test_what_cannot_be_fitted_says_nothing_of_influence():
    two = [point("w32", 22_000, amount, 0, 100 / amount) for amount in (30, 100)]
    assert "depends on" not in fit(two).families[0].sentence
