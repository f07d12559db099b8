"""Logs of other trainers, written here as they write them: read, mapped, refused."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from chemscale.table.columns import Columns
from chemscale.table.curves import read_curves
from chemscale.table.errors import DataError, MissingPackage
from chemscale.table.logs import wandb
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
    assert (rows[0]["config.shape.1"], rows[0]["config.kind.0"]) == (2, "false")
    points = read_points(tmp_path, Columns(MAPPED, SAID))
    assert [one.losses["test/mae"] for one in points] == [1 / 10, 1 / 30, 1 / 100]
    assert {one.losses["val/loss"] for one in points} == {0.8}  # the last that is there
    assert {one.non_finite["train/loss"] for one in points} == {"nan"}


def test_runs_that_differ_in_a_rate_which_nobody_named_are_no_seeds(tmp_path: Path):
    for version, rate in enumerate((1e-3, 1e-2)):
        lightning(tmp_path / f"v{version}", 10, 0.5)
        with (tmp_path / f"v{version}" / "hparams.yaml").open("a") as file:
            file.write(f"optimizer:\n  lr: {rate}\n")
    with pytest.raises(DataError, match=r"config.optimizer.lr .2 values.*Add learning_rate=config"):
        read_points(tmp_path, Columns(MAPPED, SAID))
    named = MAPPED | {"learning_rate": "config.optimizer.lr"}
    assert [one.learning_rate for one in read_points(tmp_path, Columns(named, SAID))] == [
        1e-3,
        1e-2,
    ]


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


def named(path: Path) -> dict[str, dict]:
    """Rows by the last part of the run's name."""
    return {Path(row["run"]).name: row for row in read_rows(path)}


def mlflow_run(folder: Path, num_train: int, status: int = 3, stage: str = "active") -> None:
    for part in ("metrics/test", "params", "tags"):
        (folder / part).mkdir(parents=True)
    (folder / "meta.yaml").write_text(
        f"end_time: 4500\nlifecycle_stage: {stage}\nrun_id: {folder.name}\nstart_time: 3000\n"
        f"status: {status}\n"
    )
    (folder / "metrics" / "test" / "mae").write_text(f"1 0.9 0\n2 {1 / num_train} 7\n")
    (folder / "params" / "num_train").write_text(str(num_train))
    (folder / "params" / "act").write_text("silu")


def test_mlflow_s_files_tell_the_last_value_and_how_a_run_ended(tmp_path: Path):
    experiment = tmp_path / "mlruns" / "1"
    mlflow_run(experiment / "a", 10)
    mlflow_run(experiment / "b", 30, status=5)
    mlflow_run(experiment / "c", 30, stage="deleted")
    mlflow_run(tmp_path / "mlruns" / ".trash" / "2" / "d", 30)
    (experiment / "meta.yaml").write_text("experiment_id: 1\nlifecycle_stage: active\n")
    columns = Columns({"num_train": "config.num_train"}, {"family": "f", "num_params": "9"})
    a, b = read_points(tmp_path, columns)
    assert (a.run, a.losses, a.num_train, a.seconds) == ("a", {"test/mae": 0.1}, 10, 1.5)
    assert (a.status, b.status, a.cooled) == ("finished", "stopped_early", True)
    curves = read_curves(tmp_path, Columns({"val_loss": "test/mae"}))
    assert [(one.run, one.status) for one in curves] == [("a", a.status), ("b", b.status)]
    assert (curves[1].seen.tolist(), curves[1].val_loss.tolist()) == ([0, 7], [0.9, 1 / 30])


def test_mlflow_s_store_and_its_table_read_as_its_files(tmp_path: Path):
    mlflow_run(tmp_path / "mlruns" / "1" / "a", 10)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        store.executescript(
            "create table runs (run_uuid, status, start_time, end_time, lifecycle_stage);"
            "create table params (key, value, run_uuid);"
            "create table latest_metrics (key, value, timestamp, step, is_nan, run_uuid);"
            "insert into runs values ('a', 'FINISHED', 3000, 4500, 'active'),"
            "                        ('b', 'FINISHED', 3000, 4500, 'deleted');"
            "insert into params values ('num_train', '10', 'a'), ('act', 'silu', 'a');"
            "insert into latest_metrics values ('test/mae', 0.1, 2, 7, 0, 'a');"
            "create table metrics as select * from latest_metrics;"
            "insert into metrics values ('test/mae', 0.9, 1, 0, 0, 'a');"
        )
    (tmp_path / "runs.csv").write_text(
        "run_id,experiment_id,status,artifact_uri,metrics.test/mae,params.num_train,params.act,"
        "tags.mlflow.user\na,1,FINISHED,file:///x,0.1,10,silu,me\n"
    )
    (files,) = read_rows(tmp_path / "mlruns")
    assert read_rows(tmp_path / "mlflow.db") == [files]
    curve, same = (
        read_curves(tmp_path / name, Columns({"val_loss": "test/mae"}))[0]
        for name in ("mlruns", "mlflow.db")
    )
    assert curve.val_loss.tolist() == same.val_loss.tolist() == [0.9, 0.1]
    (table,) = read_rows(tmp_path / "runs.csv")
    assert table.items() <= files.items()
    with pytest.raises(DataError, match="1 by MLflow's store and 1 by MLflow, perhaps of the same"):
        read_rows(tmp_path)


MACE_LOG = """\
2024-05-01 10:00:00.000 INFO: Configuration: Namespace(name='c8', seed=3, lr=0.01, batch_size=5, \
hidden_irreps='8x0e', device=device(type='cpu'), E0s=[1, 2])
2024-05-01 10:00:01.000 INFO: Total number of configurations: train=40, valid=4, tests=[Default: 9],
2024-05-01 10:00:02.000 INFO: Number of parameters: 27864
2024-05-01 10:00:03.000 INFO: Started training
2024-05-01 10:00:04.000 INFO: Error-table on TRAIN and VALID:
+-------------+--------------------+-----------------+------------------+
| config_type | MAE E / meV / atom | MAE F / meV / A | relative F MAE % |
+-------------+--------------------+-----------------+------------------+
|    train    |        1.5         |       20.5      |       2.00       |
|    valid    |        2.5         |       30.5      |       3.00       |
+-------------+--------------------+-----------------+------------------+
2024-05-01 10:00:05.000 INFO: Error-table on TEST:
+-------------+--------------------+-----------------+------------------+
| config_type | MAE E / meV / atom | MAE F / meV / A | relative F MAE % |
+-------------+--------------------+-----------------+------------------+
|   Default   |        3.5         |       40.5      |       4.00       |
+-------------+--------------------+-----------------+------------------+
2024-05-01 10:00:06.000 INFO: Done
"""


def test_mace_s_results_and_log_need_a_family_and_nothing_else(tmp_path: Path):
    for folder in ("results", "logs"):
        (tmp_path / folder).mkdir()
    lines = '{"loss": 5.0, "mae_f": 0.5, "mode": "eval", "epoch": null}\n'
    lines += '{"loss": 3.0, "time": 0.1, "mode": "opt", "epoch": 0}\n'
    lines += '{"loss": 0.25, "mae_f": 0.03, "mode": "eval", "epoch": 0}\n{"loss'
    for tag, log in (("c8_run-3", MACE_LOG), ("c8_run-4", MACE_LOG.replace("INFO: Done", ""))):
        (tmp_path / "results" / f"{tag}_train.txt").write_text(lines)
        (tmp_path / "logs" / f"{tag}.log").write_text(log)
    done, cut = read_points(tmp_path, Columns({}, {"family": "mace"}))
    assert (done.num_params, done.num_train, done.seed, done.unit) == (27864, 40, 3, "structure")
    assert (done.batch_size, done.learning_rate, done.status) == (5, 0.01, "finished")
    assert done.losses["force_mae"] == 40.5 and done.losses["energy_mae"] == 3.5
    assert done.losses["val_loss"] == 0.25 and done.losses["val_mae_f"] == 0.03
    assert cut.status == "stopped_early"
    curve, _ = read_curves(tmp_path)
    assert (curve.seen.tolist(), curve.val_loss.tolist()) == ([0, 1], [5.0, 0.25])
    assert (curve.by, curve.status, curve.batch_size) == ("epochs", "finished", 5)
    row = named(tmp_path)["c8_run-3"]
    assert (row["config.hidden_irreps"], row["config.E0s.0"]) == ("8x0e", 1)
    assert row["config.device"] == "device(type='cpu')"


def test_several_test_sets_of_mace_are_told_apart(tmp_path: Path):
    (tmp_path / "c8_run-3_train.txt").write_text('{"loss": 1.0, "mode": "eval", "epoch": 0}\n')
    two = MACE_LOG.replace(
        "|   Default   |", "|    water    |  1.0  | 2.0 | 3.0 |\n|   Default   |"
    )
    (tmp_path / "c8_run-3.log").write_text(two)
    (row,) = read_rows(tmp_path)
    assert (row["force_mae.water"], row["force_mae.Default"]) == ("2.0", "40.5")
    assert "force_mae" not in row


def test_nequip_s_table_of_epochs_is_read_with_its_config_and_log(tmp_path: Path):
    (tmp_path / "metrics_epoch.csv").write_text(
        "epoch, wall, LR,training_loss,validation_f_mae\n"
        "         1,    1.500,    0.005,          0.9,        0.4\n"
        "         2,    3.000,    0.005,          0.8,        0.3\n"
    )
    (tmp_path / "config.yaml").write_text("n_train: 40\nseed: 7\nbatch_size: 5\nr_max: 4.0\n")
    log = tmp_path / "log"
    log.write_text(
        "Number of weights: 1234\nNumber of trainable weights: 1200\n! Starting training"
    )
    columns = Columns({}, {"family": "nequip"})
    (cut,) = read_points(tmp_path, columns)
    log.write_text(log.read_text() + " ...\n! Stop training: max epochs\n")
    (done,) = read_points(tmp_path, columns)
    assert (done.num_params, done.num_train, done.seed, done.seconds) == (1234, 40, 7, 3.0)
    assert done.losses["validation_f_mae"] == 0.3
    assert (cut.status, done.status) == ("stopped_early", "finished")


def test_an_export_of_wandb_is_a_table_in_which_text_is_a_setting(tmp_path: Path):
    path = tmp_path / "wandb_export_2024.csv"
    path.write_text(
        '"Name","State","Notes","User","Tags","Created","Runtime","Sweep","opt","n","test/mae"\n'
        '"r1","finished","-","me","","2024-05-01T10:00:00.000Z","60","","adam","10","0.5"\n'
        '"r2","crashed","-","me","","2024-05-01T10:00:00.000Z","61","","adam","30","0.25"\n'
        '"r2","finished","-","me","","2024-05-01T10:00:00.000Z","61","","adam","30","0.2"\n'
    )
    columns = Columns({"num_train": "n"}, {"family": "f", "num_params": "9"})
    one, two, again = read_points(path, columns)
    assert (one.run, one.losses, one.seconds) == ("r1", {"test/mae": 0.5}, 60)
    assert (one.status, two.status) == ("finished", "failed")
    assert (two.run, again.run) == ("r2 row 2", "r2 row 3")  # two runs of one name are two


def test_a_frame_made_by_wandb_s_api_is_read(tmp_path: Path):
    (tmp_path / "project.csv").write_text(
        ",summary,config,name\n0,\"{'_step': 9, 'mae': 0.5, 'loss': nan}\",\"{'n': {'a': 10}}\",r\n"
    )
    (row,) = read_rows(tmp_path)
    assert (row["step"], row["mae"], row["loss"], row["config.n.a"]) == (9, 0.5, "nan", 10)
    (tmp_path / "project.csv").write_text("summary,config,name\n{'mae': open('x')},{},r\n")
    with pytest.raises(DataError, match="row 1: not a dict of Python"):
        read_rows(tmp_path)


def test_wandb_s_plain_files_and_a_history_read_alike(tmp_path: Path):
    files = tmp_path / "wandb" / "run-1-abc" / "files"
    files.mkdir(parents=True)
    (files / "wandb-summary.json").write_text(
        '{"test/mae": 0.5, "_step": 9, "_runtime": 60, "_timestamp": 1.0, "_wandb": {"runtime": 1}}'
    )
    (files / "config.yaml").write_text(
        "wandb_version: 1\n_wandb: {value: {}}\nn: {value: {a: 10}}\n"
    )
    history = tmp_path / "abc.csv"
    history.write_text(",_step,_timestamp,_runtime,test/mae\n0,8,1,50,0.9\n1,9,2,60,0.5\n")
    (plain,) = read_rows(tmp_path / "wandb")
    assert plain["config.n.a"] == 10
    (row,) = read_rows(history)
    for one in (row, plain):
        found = [str(one[name]) for name in ("test/mae", "step", "seconds", "phase")]
        assert found == ["0.5", "9", "60", "unknown"]
    assert not [name for name in plain if "wandb" in name]


def test_a_chart_exported_from_wandb_is_a_curve_for_each_line(tmp_path: Path):
    path = tmp_path / "wandb_export_1.csv"
    lines = [f"{run} - val_loss{end}" for run in ("a - b", "c") for end in ("", "__MIN", "__MAX")]
    path.write_text(f"Step,{','.join(lines)}\n1,0.9,0.8,1,,,\n2,0.5,,,0.7,0.6,0.8\n")
    found = [(one.run, one.seen.tolist(), one.val_loss.tolist()) for one in read_curves(path)]
    assert found == [("a - b", [1, 2], [0.9, 0.5]), ("c", [2], [0.7])]
    assert {row["run"]: row["val_loss"] for row in read_rows(path)} == {"a - b": "0.5", "c": "0.7"}


def framed(records: list[bytes]) -> bytes:
    """A log as LevelDB frames it; pieces do not cross blocks of 32,768 bytes."""
    data = b":W&B\xe1\xbe\x00"
    for record in records:
        first = True
        while first or record:
            room = 32_768 - len(data) % 32_768
            if room < 7:
                data += bytes(room)
                continue
            piece, record = record[: room - 7], record[room - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            data += bytes(4) + len(piece).to_bytes(2, "little") + bytes([kind]) + piece
            first = False
    return data


def test_records_of_wandb_s_log_survive_blocks_and_a_cut():
    records = [b"a" * 32_750, b"b" * 100_000, b"", b"c"]
    data = framed(records)
    assert [*wandb._records(data)] == records
    assert [*wandb._records(data[:-1])] == records[:-1]


@pytest.mark.slow
def test_wandb_s_log_of_an_offline_run_is_read(tmp_path: Path):
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    run, logged, told, ended = (pb.Record() for _ in range(4))
    run.run.config.update.add(key="model", value_json='{"n": 100}')
    logged.history.item.add(nested_key=["val/mae"], value_json="0.25")
    logged.history.item.add(nested_key=["_step"], value_json="9")
    told.summary.update.add(key="test/mae", value_json="0.5")
    ended.exit.exit_code = 1
    records = [one.SerializeToString() for one in (run, logged, told, ended)]
    for name, kept in (("run-a", records), ("run-b", records[:-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.wandb").write_bytes(framed(kept))
    rows = named(tmp_path)
    assert rows["run-a"]["config.model.n"] == 100
    assert [rows["run-a"][name] for name in ("val/mae", "test/mae", "step")] == [0.25, 0.5, 9]
    assert (rows["run-a"]["status"], rows["run-b"]["status"]) == ("failed", "stopped_early")
    curve, _ = read_curves(tmp_path, Columns({"val_loss": "val/mae"}))
    assert (curve.status, curve.seen.tolist(), curve.val_loss.tolist()) == ("failed", [9], [0.25])


@pytest.mark.slow
def test_event_files_of_tensorboard_are_read_with_hparams(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.plugins.scalar.metadata import create_summary_metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    told = HParamsPluginData()
    told.session_start_info.hparams["num_train"].number_value = 30
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=told.SerializeToString())
    start = Summary.Value(
        tag="_hparams_/session_start_info", metadata=SummaryMetadata(plugin_data=plugin)
    )
    of_tensorflow = Summary.Value(
        tag="epoch_loss",
        metadata=create_summary_metadata("", ""),
        tensor=make_tensor_proto(0.25, dtype="float32"),
    )
    made = tmp_path / "run" / "1714550000.25"  # by add_hparams, for the run that it is in
    for folder, told in ((tmp_path / "run", [of_tensorflow]), (made, [start])):
        writer = EventFileWriter(str(folder))
        for step, mae in ((1, 0.75), (9, 0.5)):
            value = Summary.Value(tag="val/mae", simple_value=mae)
            writer.add_event(Event(step=step, summary=Summary(value=[value])))
        writer.add_event(Event(step=10, summary=Summary(value=told)))
        writer.close()
    (row,) = read_rows(tmp_path)
    assert (row["val/mae"], row["epoch_loss"], row["step"]) == (0.5, 0.25, 10)
    assert (row["config.num_train"], row["phase"]) == (30, "unknown")
    (curve,) = read_curves(
        tmp_path, Columns({"val_loss": "val/mae", "num_train": "config.num_train"})
    )
    assert (curve.num_train, curve.seen.tolist(), curve.val_loss.tolist()) == (
        30,
        [1, 9],
        [0.75, 0.5],
    )


@pytest.mark.parametrize(
    ("package", "module", "name"),
    [
        ("tensorboard", "backend.event_processing.event_accumulator", "events.out.tfevents.1.host"),
        ("wandb", "proto.wandb_internal_pb2", "run-a.wandb"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, module: str, name: str
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.{module}", None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(MissingPackage, match=rf"needs {package}: pip install 'chemscale\[track\]'"):
        read_rows(tmp_path)
