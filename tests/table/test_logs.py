"""Logs of other trainers, written here as they write them: read, mapped, refused."""

from pathlib import Path

import pytest

from chemscale.table.columns import Columns
from chemscale.table.errors import DataError
from chemscale.table.points import read_points, read_rows
from chemscale.verbs import fit

MAPPED = {"num_params": "config.model.width", "num_train": "config.num_train"}
SAID = {"family": "mine", "phase": "cooldown"}


def lightning(folder: Path, num_train: int, mae: float) -> None:
    folder.mkdir(parents=True)
    (folder / "hparams.yaml").write_text(
        f"model:\n  width: 100\nnum_train: {num_train}\nshape: !!python/tuple\n- 1\n- 2\n"
        "kind: !!python/object/apply:os.system ['false']\n"
    )
    (folder / "metrics.csv").write_text(
        f"epoch,step,test/mae,train/loss,val/loss\n0,0,,0.9,\n0,0,,,0.8\n1,1,,nan,\n2,2,{mae},,\n3,"
    )


def test_a_folder_of_lightning_runs_is_one_table(tmp_path: Path):
    for version, n in enumerate((10, 30, 100)):
        lightning(tmp_path / "logs" / f"version_{version}", n, 1 / n)
    rows = read_rows(tmp_path)
    assert [row["config.num_train"] for row in rows] == [10, 30, 100]
    assert (rows[0]["config.shape"], rows[0]["config.kind"]) == ("[1, 2]", '["false"]')
    points = read_points(tmp_path, Columns(MAPPED, SAID))
    assert [one.losses["test/mae"] for one in points] == [1 / 10, 1 / 30, 1 / 100]
    assert {one.losses["val/loss"] for one in points} == {0.8}  # the last that is there
    assert {one.non_finite["train/loss"] for one in points} == {"nan"}


def test_settings_of_hydra_are_found_above_the_logger_s_folder(tmp_path: Path):
    lightning(tmp_path / "run" / "csv" / "version_0", 10, 0.5)
    (tmp_path / "run" / ".hydra").mkdir()
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("num_train: 7\ndata: {size: 20}\n")
    (row,) = read_rows(tmp_path)
    assert (row["config.data.size"], row["config.num_train"]) == (20, 10)  # the trainer's own wins


def test_whether_a_run_had_ended_is_asked_where_its_log_does_not_tell(tmp_path: Path):
    lightning(tmp_path / "v0", 10, 0.5)
    with pytest.raises(DataError, match=r"1 of 1 runs had ended, such as .*v0.*--set phase="):
        read_points(tmp_path, Columns(MAPPED, {"family": "mine"}))


def test_what_was_read_is_written_as_a_table_that_reads_alike_before_anything_is_asked(
    tmp_path: Path,
):
    for n in (10, 30, 100):
        lightning(tmp_path / "logs" / str(n), n, 1 / n)
    table = tmp_path / "runs.csv"
    with pytest.raises(DataError, match="no column family, num_params"):
        fit(tmp_path / "logs", table=table)
    asked = {"columns": MAPPED, "constants": SAID, "metric": "test/mae"}
    assert fit(table, **asked).families == fit(tmp_path / "logs", **asked).families


def test_a_table_of_runs_named_metrics_csv_stays_a_table(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("family,num_params,num_train,step,loss\npainn,1,10,5,0.5\npainn,1,20,5,0.4\n")
    assert [one.num_train for one in read_points(path)] == [10, 20]


def test_a_folder_without_logs_says_what_is_looked_for(tmp_path: Path):
    with pytest.raises(DataError, match=r"no study.toml and no log here.*metrics.csv"):
        read_points(tmp_path)
