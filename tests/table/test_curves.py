"""Curves in anybody's table: what is read, what is compared, what is forecast and refused."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from chemscale.reporting import report
from chemscale.table.errors import DataError
from chemscale.verbs import estimate

Loss = Callable[[int], float]
HEADER = "run,epoch,val_loss\n"


def table(tmp_path: Path, curves: Mapping[str, tuple[int, float]], header: str = HEADER) -> Path:
    """Runs of so many epochs whose loss falls to about `level`; eleven rows for ten epochs."""
    path = tmp_path / "curves.csv"
    rows = [
        f"{run},{epoch},{level * (1 + 1 / (1 + epoch)):.6f}"
        for run, (epochs, level) in curves.items()
        for epoch in range(epochs + 1)
    ]
    path.write_text(header + "\n".join(rows) + "\n")
    return path


FINISHED = {"a": (50, 3.0), "b": (50, 1.0), "c": (50, 2.0), "d": (50, 1.5)}


def test_settings_are_compared_where_all_have_come_and_the_longest_forecast_the_rest(tmp_path):
    path = table(tmp_path, FINISHED | {"e": (10, 1.2), "f": (10, 0.9), "short": (2, 0.1)})
    [family] = estimate(path).families
    assert [row.run for row in family.rows] == ["f", "b", "e", "d", "c", "a", "short"]
    early = [math.log(0.9 * (1 + 1 / (1 + epoch))) for epoch in (7, 8, 9, 10)]
    assert family.rows[0].early_loss == pytest.approx(math.exp(sum(early) / 4), rel=1e-5)
    assert family.rows[0].forecast == pytest.approx(0.9 * (1 + 1 / 51), rel=1e-4)
    assert family.num_finished == 4
    assert (family.rows[-1].rank, family.rows[-1].early_loss) == (None, None)
    chances = {row.run: row.chance for row in family.rows if row.chance is not None}
    assert (round(chances["f"], 2), round(chances["e"], 2), len(chances)) == (1, 0, 2)
    assert "about 1 of 2 unfinished settings can be expected to end below" in family.sentence
    assert "most likely run f (100 %)" in family.sentence
    assert "compared at 10 epochs, which 1 did not reach" in family.sentence


def test_curves_of_equal_length_are_ranked_and_it_is_said_which_to_finish(tmp_path: Path):
    [family] = estimate(
        table(tmp_path, {run: (10, level) for run, (_, level) in FINISHED.items()})
    ).families
    ends = {(row.final_loss, row.forecast, row.status) for row in family.rows}
    assert ends == {(None, None, None)}
    assert "to forecast the others, finish run b, run d, run c, run a" in family.sentence
    assert "compared at 10 epochs, as far as any went" in family.sentence


def test_what_a_table_says_of_an_end_goes_before_lengths(tmp_path: Path):
    path = table(tmp_path, {"a": (10, 1.0), "b": (20, 2.0)})
    lines = path.read_text().splitlines()
    told = ["status", *("finished" if one[0] == "a" else "stopped_early" for one in lines[1:])]
    path.write_text("\n".join(map(",".join, zip(lines, told, strict=True))))
    [family] = estimate(path).families
    assert [row.final_loss is not None for row in family.rows] == [True, False]


def test_a_loss_that_ends_as_no_number_diverged_and_a_gap_on_the_way_is_none(tmp_path: Path):
    path = table(tmp_path, {"a": (10, 1.0), "b": (10, 2.0)})
    path.write_text(path.read_text().replace("a,10,1.090909", "a,10,nan").replace(
        "b,3,2.500000", "b,3,nan"))  # fmt: skip
    [family] = estimate(path).families
    assert [(row.run, row.status, row.rank) for row in family.rows] == [
        ("b", None, 1),
        ("a", "diverged", 2),
    ]


def test_steps_of_unequal_batches_are_compared_by_items(tmp_path: Path):
    path = tmp_path / "curves.csv"
    rows = [f"{batch},{step},{3 - step * batch / 100}" for batch in (4, 8) for step in (5, 10, 20)]
    path.write_text("batch_size,step,val_loss\n" + "\n".join(rows))
    [family] = estimate(path).families
    assert "compared at 80 items" in family.sentence
    assert family.rows[0].early_loss == pytest.approx(math.sqrt(2.6 * 2.2))


def test_sizes_and_amounts_are_ranked_apart_and_compared_as_far_as_the_family_has_come(tmp_path):
    path = tmp_path / "curves.csv"
    cells = [(n, d, run) for n in (10, 9) for d in (3, 20) for run in (1, 2, 3)]
    rows = [
        f"{n},{d},{run},{epoch},{'nan' if (n, d) == (10, 20) else 1 + run / n + 1 / d}"
        for n, d, run in cells
        for epoch in range(1, 5 if n == 9 else 3)
    ]
    path.write_text("num_params,num_train,run,epoch,val_loss\n" + "\n".join(rows))
    [family] = estimate(path).families
    sizes = [f"{n} parameters on {d}" for n in (9, 10) for d in (3, 20)]
    assert [row.size for row in family.rows][::3] == sizes
    assert [row.rank for row in family.rows] == [1, 2, 3] * 4
    assert [row.final_loss is not None for row in family.rows] == [True] * 6 + [False] * 6
    assert f"among the 3 finished at {sizes[0]}, early" in family.sentence
    assert f"at {sizes[0]}, {sizes[1]} all are compared at 2 epochs" in family.sentence
    assert f"at {sizes[3]} none of 3 settings survived" in family.sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run,epoch,valid\na,1,0.5\n", "no column val_loss; .*--columns val_loss=valid"),
        (
            "run,val_loss\na,0.5\n",
            "no column step; there are run, val_loss. Required: val_loss; items_seen, epoch",
        ),
        (
            "tokens,big,small\n1,2.5,3.5\n",
            r"Where each run has a column .* table.melt\('tokens', var_name='run', val",
        ),
        (
            "epoch,val_loss\n1,0.5\n",
            "no column run; there are epoch, val_loss.*; run, or learning_rate or batch_size",
        ),
        (HEADER + "a,1,\n", "no row has a val_loss"),
        (HEADER + "a,1,0.5\na,2,-1\n", "row 2: val_loss must be above 0"),
        (HEADER + "a,-1,0.5\n", "row 1: epoch must be 0 or more"),
        (HEADER + "a,1,0.5 eV\n", "row 1: val_loss is not a number: '0.5 eV'"),
        ("status," + HEADER + "done,a,1,0.5\n", "row 1: status 'done' is none of finished"),
    ],
)
def test_a_table_that_holds_no_curves_is_refused_with_what_is_missing(tmp_path, text, words):
    path = tmp_path / "curves.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        estimate(path)


def test_a_folder_of_logs_is_ranked_by_every_evaluation(tmp_path: Path):
    for run, level in (("fast", 1.0), ("slow", 2.0)):
        folder = tmp_path / "logs" / run
        folder.mkdir(parents=True)
        rows = [f"{epoch},{10 * epoch},,{level / epoch}" for epoch in (1, 2, 3)]
        (folder / "metrics.csv").write_text("epoch,step,train,v\n1,5,3,\n" + "\n".join(rows))
    [family] = estimate(tmp_path / "logs", columns={"val_loss": "v"}).families
    assert [Path(row.run).name for row in family.rows] == ["fast", "slow"]
    assert family.rows[0].early_loss == pytest.approx((1 / 6) ** (1 / 3))


def test_the_report_of_a_table_of_curves_shows_the_ranking(tmp_path: Path):
    path = table(tmp_path, FINISHED | {"e": (10, 1.2), "f": (10, 1.4)})
    html = report(path).read_text()
    assert "Run b has the lowest validation loss" in html
    assert "num_params and num_train of the runs are not told" in html
    amounts = {"num_params": "100", "num_train": "10"}
    whole = report(path, constants=amounts, metric="val_loss").read_text()
    assert "6 trained models: 4 finished, 2 stopped early." in whole
    # Without a name it is of one family, in its curves as in its ends.
    assert {one for one in re.findall("<h3>(.*)</h3>", whole) if "curves.csv" in one} == {str(path)}


def test_a_legend_of_curves_names_twelve_sizes_at_most(tmp_path: Path):
    path = table(tmp_path, {f"run-{size},{size}": (3, size) for size in range(1, 21)},
                 "run,num_params,epoch,val_loss\n")  # fmt: skip
    report(path, figures=tmp_path)
    assert len(re.findall(r"\d+ parameters", (tmp_path / "curves.svg").read_text())) == 12
