"""Tables under other names: mapped, completed, refused with the nearest name."""

from pathlib import Path

import pytest

from chemscale import reporting, tables, verbs
from chemscale.cli import app
from chemscale.table.columns import Columns, pairs
from chemscale.table.errors import DataError, UsageError
from chemscale.table.points import read_points

THEIRS = "dataset_size,weights,rmse\n10,1000,0.5\n100,1000,0.2\n"
OURS = "family,num_params,num_train,test_loss\npainn,1000,10,0.5\npainn,1000,100,0.2\n"
NAMES = {"num_train": "dataset_size", "num_params": "weights", "test_loss": "rmse"}


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "curves.csv"
    path.write_text(text)
    return path


def test_a_table_under_other_names_reads_as_under_ours(tmp_path: Path):
    theirs = read_points(table(tmp_path, THEIRS), Columns(NAMES, {"family": "painn"}))
    assert theirs == read_points(table(tmp_path, OURS))


def test_two_columns_can_trade_names(tmp_path: Path):
    path = table(tmp_path, "family,num_params,num_train,mae\npainn,10,2000,0.5\n")
    swap = Columns({"num_params": "num_train", "num_train": "num_params"})
    (point,) = read_points(path, swap)
    assert (point.num_params, point.num_train) == (2000, 10)


def test_a_column_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path):
    with pytest.raises(DataError, match=r"'dataset_sise' for num_train.*mean 'dataset_size'"):
        read_points(table(tmp_path, THEIRS), Columns({"num_train": "dataset_sise"}))


@pytest.mark.parametrize(
    "columns", [Columns({"num_train": "num_params"}), Columns({}, {"num_train": "5"})]
)
def test_what_the_table_says_itself_is_not_overruled(tmp_path: Path, columns: Columns):
    with pytest.raises(DataError, match="there is a column"):
        read_points(table(tmp_path, OURS), columns)


def test_a_name_from_both_a_column_and_a_constant_is_refused():
    with pytest.raises(UsageError, match="not both"):
        Columns({"family": "model"}, {"family": "painn"})


def test_a_missing_column_says_how_to_give_it(tmp_path: Path):
    with pytest.raises(DataError, match="--columns num_train=dataset_size; .*--set family=VALUE"):
        read_points(table(tmp_path, THEIRS))


def test_commas_in_a_name_are_part_of_it_and_its_words_and_quotes_are_told(tmp_path: Path):
    theirs = "N, total"
    assert pairs([f"num_params={theirs},num_train=D"], "--columns") == {
        "num_params": theirs,
        "num_train": "D",
    }
    path = table(tmp_path, 'model,"total, params",D,rmse\na,1,2,0.5\n')
    with pytest.raises(DataError) as caught:
        read_points(path)
    assert "there are model, 'total, params', D, rmse" in str(caught.value)
    assert "--columns 'family=model,num_params=total, params,num_train=D'" in str(caught.value)


@pytest.mark.parametrize("text", ["num_train", "=x", "num_train=", "a=b,,c=d", "a=b,a=c"])
def test_pairs_that_cannot_be_read_are_told(text: str):
    with pytest.raises(UsageError, match="--columns"):
        pairs([text], "--columns")


def test_the_command_line_and_python_fit_alike(tmp_path: Path):
    from typer.testing import CliRunner

    path = table(tmp_path, THEIRS + "1000,1000,0.08\n")
    mapped = ",".join(f"{ours}={theirs}" for ours, theirs in NAMES.items())
    options = ["fit", str(path), "--columns", mapped, "--set", "family=painn"]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 0
    found = verbs.fit(path, columns=NAMES, constants={"family": "painn"})
    assert said.output.splitlines() == tables.wrapped(str(found))


def test_a_report_reads_other_names_too(tmp_path: Path):
    rows = "dataset_size,weights,rmse,mae\n10,1000,0.5,7\n100,1000,0.2,5\n1000,1000,0.08,3\n"
    path = table(tmp_path, rows)
    said = {"columns": NAMES, "constants": {"family": "painn"}}
    with pytest.raises(UsageError, match="Say --metric. Known: loss, mae"):
        reporting.report(path, **said)
    path.write_text(rows.replace("mae", "depth"))
    with pytest.raises(UsageError, match="Say --metric loss. Known: depth, loss"):
        reporting.report(path, **said)
    path.write_text(rows)
    assert "test mae of 3 painn runs" in reporting.report(path, metric="mae", **said).read_text()
