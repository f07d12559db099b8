import pytest
from test_fit import study
from test_plan import loss

from chemscale.desk.costs import TableCosts
from chemscale.desk.fit import fit
from chemscale.desk.forecast import Prediction
from chemscale.desk.tenfold import tenfold
from chemscale.table.results import Point

SIZES = (2_000, 6_000, 22_000, 80_000)


def points(sizes=SIZES) -> list[Point]:
    return study(0, {f"w{size}": size for size in sizes}, seeds=1, scatter=0.02)


def test_ten_times_the_data_or_size_is_forecast_from_the_largest_run():
    rows = {row.resource: row for row in tenfold(fit(points()).families[0], TableCosts(()))}
    assert (rows["now"].num_params, rows["now"].num_train) == (80_000, 3000)
    assert rows["data"].num_train == 30_000 and rows["size"].num_params == 800_000
    both = rows["data and size"]
    assert both.num_params * both.num_train == pytest.approx(10 * 80_000 * 3000)
    for row in rows.values():
        assert isinstance(row.answer, Prediction)
        assert row.answer.value == pytest.approx(loss(row.num_params, row.num_train), rel=0.2)


def test_what_is_not_identified_is_a_sentence_and_not_a_number():
    rows = {
        row.resource: row for row in tenfold(fit(points(SIZES[-1:])).families[0], TableCosts(()))
    }
    assert isinstance(rows["data"].answer, Prediction)
    assert isinstance(rows["size"].answer, str)
    assert "no forecast" in rows["size"].answer
