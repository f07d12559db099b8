"""Tables of anybody's runs: read, checked, written."""

import gzip
from pathlib import Path

import pytest

from chemscale.table.errors import DataError
from chemscale.table.points import read_points, write_points
from chemscale.table.results import Point
from chemscale.verbs import fit

HEADER = "family,num_params,num_train,seed,test_loss\n"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "curves.csv"
    path.write_text(text)
    return path


def point(run: str = "a", **changes: object) -> Point:
    fields = dict(
        run=run,
        family="painn",
        size="w16",
        num_params=1000,
        num_params_total=1100,
        num_train=100,
        unit="structure",
        seed=1,
        learning_rate=1.1e-3,
        batch_size=8,
        items_seen=4000,
        flops=1.25e12,
        seconds=0.1,
        ending="plateaued",
        role="sweep",
        max_items=5000,
        losses={"loss": 0.1 + 0.2, "force_mae": 12.5},
    )
    return Point.model_validate({**fields, **changes})


def test_points_read_back_as_they_were_written(tmp_path: Path):
    points = [
        point("a"),
        point("b", ending=None, seconds=None, losses={"loss": 1 / 3}),
        point("c", cooled=False, role="search", status="diverged", losses={}),
        point("d", role="plans/001", family='with "quotes", and a comma'),
        point("e", losses={"force_mae": 1.5}, non_finite={"loss": "nan"}),
    ]
    path = tmp_path / "points.csv"
    path.write_bytes(write_points(points))
    assert read_points(path) == points


def test_a_compressed_table_reads_alike(tmp_path: Path):
    path = tmp_path / "points.csv.gz"
    path.write_bytes(gzip.compress(write_points([point()])))
    assert read_points(path) == [point()]


def test_a_parquet_table_reads_alike(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    plain = table(tmp_path, HEADER + "painn,1000,10,0,0.5\npainn,1000,30,0,0.25\n")
    columns = {
        "family": ["painn", "painn"],
        "num_params": [1000, 1000],
        "num_train": [10, 30],
        "seed": [0, 0],
        "test_loss": [0.5, 0.25],
    }
    path = tmp_path / "curves.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    nameless = [one.model_copy(update={"run": ""}) for one in read_points(plain)]
    assert [one.model_copy(update={"run": ""}) for one in read_points(path)] == nameless


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path):
    path = table(tmp_path, "family,params,num_train,test_loss\npainn,1,10,0.5\n")
    with pytest.raises(DataError, match=r"no column num_params; there are family, params"):
        read_points(path)


def test_a_table_without_a_loss_is_refused(tmp_path: Path):
    path = table(tmp_path, "family,num_params,num_train\npainn,1,10\n")
    with pytest.raises(DataError, match="no loss column"):
        read_points(path)


def test_a_table_without_rows_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no rows"):
        read_points(table(tmp_path, HEADER))


def test_a_bad_number_is_told_with_its_row_and_column(tmp_path: Path):
    path = table(tmp_path, HEADER + "painn,1000,10,0,0.5\npainn,1000,30,0,O.25\n")
    with pytest.raises(DataError, match=r"row 2: test_loss is not a number: 'O.25'. Write"):
        read_points(path)


@pytest.mark.parametrize("value", ["0", "-5", ""])
def test_an_amount_that_is_not_above_zero_is_told_with_its_row(tmp_path: Path, value: str):
    path = table(tmp_path, HEADER + f"painn,1000,{value},0,0.5\n")
    with pytest.raises(DataError, match="row 1: num_train must be above 0"):
        read_points(path)


def test_an_unknown_status_is_told_with_its_row(tmp_path: Path):
    path = table(tmp_path, "family,num_params,num_train,status,loss\npainn,1,10,exploded,0.5\n")
    with pytest.raises(DataError, match=r"row 1.*\n.*status.*'exploded'"):
        read_points(path)


def test_the_last_step_of_each_run_counts_in_whatever_order_rows_come(tmp_path: Path):
    rows = "painn,1000,10,0,200,0.2\npainn,1000,10,0,100,0.9\npainn,1000,10,1,100,0.7\n"
    path = table(tmp_path, "family,num_params,num_train,seed,step,test_loss\n" + rows)
    assert [one.losses for one in read_points(path)] == [{"loss": 0.2}, {"loss": 0.7}]


def test_rows_that_nothing_tells_apart_are_refused_and_copies_count_once(tmp_path: Path):
    rows = "painn,1000,10,0,0.9\npainn,1000,10,0,0.9\n"
    assert len(read_points(table(tmp_path, HEADER + rows))) == 1
    with pytest.raises(
        DataError, match="row 3: the same .* as row 2, and another test_loss.* seed or run"
    ):
        read_points(table(tmp_path, f"{HEADER}{rows}painn,1000,10,0,0.2\n"))
    with pytest.raises(DataError, match="by their settings .--columns learning_rate=lr"):
        read_points(table(tmp_path, f"lr,{HEADER}1,painn,1000,10,0,0.9\n2,painn,1000,10,0,0.8\n"))
    named = f"run,{HEADER}" + "".join(f"r,painn,1000,10,0,{loss}\n" for loss in (0.9, 0.2))
    assert [one.losses for one in read_points(table(tmp_path, named))] == [{"loss": 0.2}]


def test_one_name_for_two_models_is_refused_and_not_the_last_of_them_taken(tmp_path: Path):
    text = "run,family,num_params,num_train,loss\nr,painn,1000,10,0.9\nr,painn,1e3,20,0.2\n"
    with pytest.raises(DataError, match=r"row 2: run 'r' has num_train 20.* and 10.* in row 1"):
        read_points(table(tmp_path, text))


def test_nameless_rows_of_two_tables_are_different_runs(tmp_path: Path):
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, amounts in zip(paths, ((10, 30), (100, 300)), strict=True):
        path.write_text(HEADER + "".join(f"painn,1000,{n},0,{1 / n}\n" for n in amounts))
    family = fit(paths).families[0]
    assert (family.num_points, family.excluded) == (4, ())
    assert fit([*paths, paths[0]]).families[0].num_points == 4


def test_a_name_reused_for_another_amount_in_another_table_is_another_run(tmp_path: Path):
    paths = [tmp_path / f"{n}.csv" for n in (10, 30, 100)]
    for path in paths:
        path.write_text(f"run,{HEADER}best,painn,1000,{path.stem},0,{1 / int(path.stem)}\n")
    assert fit(paths).families[0].excluded == ()


@pytest.mark.parametrize(
    ("phase", "cooled"), [("cooldown", True), ("", True), ("stable", False), ("warmup", False)]
)
def test_a_loss_from_the_middle_of_a_schedule_is_marked(tmp_path: Path, phase: str, cooled: bool):
    path = table(tmp_path, f"family,num_params,num_train,phase,loss\npainn,1,10,{phase},0.5\n")
    assert [one.cooled for one in read_points(path)] == [cooled]


def test_a_missing_loss_stays_missing(tmp_path: Path):
    path = table(tmp_path, "family,num_params,num_train,loss,mae\npainn,1,10,0.5,\n")
    assert read_points(path)[0].losses == {"loss": 0.5}


PLAIN = "family,num_params,num_train,note,loss\npainn,1e3,10,first run,0.5\npainn,1e3,30,,\n"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + PLAIN.replace(",", ", "),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\n\n").replace(",\n", ",NA\n") + ",,,,\n",
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ";").replace("0.5", "0,5"),
        "\n".join(f"{place},{line}" for place, line in enumerate(PLAIN.split("\n")[:-1])).replace(
            "0,family", ",family"
        ),
    ],
    ids=["mark and spaces", "windows", "gaps", "tabs", "decimal commas", "pandas index"],
)
def test_spreadsheet_habits_do_no_harm(tmp_path: Path, text: str):
    path = tmp_path / "curves.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_points(path) == read_points(table(tmp_path, PLAIN))
    assert [one.losses for one in read_points(path)] == [{"loss": 0.5}, {}]


def test_sizes_and_amounts_may_be_told_in_millions_and_losses_may_not(tmp_path: Path):
    path = table(tmp_path, "family,num_params,num_train,loss\npythia,1.4b,300 K,0.5\n")
    [one] = read_points(path)
    assert (one.num_params, one.num_train) == (1_400_000_000, 300_000)
    with pytest.raises(DataError, match="row 2: loss is not a number: '0.5m'"):
        read_points(table(tmp_path, path.read_text() + "pythia,1.4b,3k,0.5m\n"))


def test_a_table_without_families_is_of_one(tmp_path):
    path = tmp_path / "widths.csv"
    path.write_text("num_params,num_train,loss\n1e3,10,0.5\n")
    assert [one.family for one in read_points(path)] == [str(path)]
    path.write_text("model,num_params,num_train,loss\npainn,1e3,10,0.5\n")
    with pytest.raises(DataError, match="--columns family=model"):
        read_points(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# mine\n" + PLAIN, "line 1: begins with #"),
        ("PK\3\4" + PLAIN, "a spreadsheet's own file.* save a spreadsheet as CSV UTF-8"),
        ('{"family": "painn", "loss": 0.5}\n', "line 1: JSON, and no table.*to_csv"),
        ("Runs of May,,,,\n" + PLAIN, "line 1: names one of 5 columns, 'Runs of May'"),
        (PLAIN.split("\n", 1)[1], "line 1: holds numbers .1e3, 10, 0.5"),
        ("N,1e4,2e4\n1e3,2.5,2.4\n", r"line 1: holds numbers .* table.melt\('N', var_name='num_t"),
        (PLAIN.replace(",", " "), "line 1: one column only, 'family num_params"),
        (PLAIN + "painn,1e3\n", "line 4: 2 cells, and 5 names in the header .comma"),
        (PLAIN + "painn,1,1,a,2,3\n", "line 4: 6 cells"),
        (PLAIN.replace("note", "loss"), "line 1: loss names two columns"),
        (PLAIN.upper(), "no column family.*--columns family=FAMILY"),
        (PLAIN.replace(",", ";").replace("0.5", "0,5").replace("1e3", "1.5"), "1.5.* has a point"),
        (PLAIN.replace("1e3", "0.07"), "num_params must be a whole number, got '0.07'"),
        (PLAIN.replace("0.5", "half"), "no loss column.*note, loss: no cell there is a number"),
    ],
)
def test_a_broken_table_is_refused_with_the_place_and_what_to_do(
    tmp_path: Path, text: str, words: str
):
    with pytest.raises(DataError, match=words):
        read_points(table(tmp_path, text))


@pytest.mark.parametrize(
    "told", ["seconds\n5400", "hours\n1.5", "items_seen,items_per_second\n54000,10"]
)
def test_time_is_told_in_seconds_hours_or_by_speed(tmp_path: Path, told: str):
    names, values = told.split("\n")
    text = f"family,num_params,num_train,loss,{names}\npainn,1000,10,0.5,{values}\n"
    [one] = read_points(table(tmp_path, text))
    assert (one.seconds, one.losses) == (5400, {"loss": 0.5})


def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path):
    path = tmp_path / "curves.csv"
    path.write_bytes(b"\x89PNG\x00")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_points(path)


@pytest.mark.parametrize("name", ["curves.parquet", "curves.csv.gz"])
def test_a_file_that_its_name_belies_is_refused(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text(HEADER)
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_points(path)
