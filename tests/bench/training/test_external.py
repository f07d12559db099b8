"""Somebody else's trainer: called, watched, killed, and read."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.stress import voigt_6_to_full_3x3_stress

import chemscale
from chemscale.bench.training import external
from chemscale.bench.training.loop import train_run
from chemscale.table.errors import DataError, StudyError
from chemscale.table.external import External, Rule
from chemscale.table.store import StudyFolder

# Loses as a power law of width and number of frames; one epoch an evaluation.
TRAINER = r"""
import csv, pathlib, sys, time
options = dict(word.split("=") for word in sys.argv[1:])
frames = pathlib.Path(options["train"]).read_text().count("REF_energy")
force = lambda share: 100 * int(options["width"]) ** -0.5 * frames ** -0.25 * (2 - share)
begun = pathlib.Path("begun").exists()
pathlib.Path("begun").touch()
if options.get("hang") == "1" and not begun:
    time.sleep(60)
if options.get("fail") == "1":
    sys.exit("no such irreps")
epochs, rate = int(options["epochs"]), float(options["rate"])
worse = 1 + abs(rate - 0.01) * 10
with open("metrics.csv", "w", newline="") as stream:
    rows = csv.writer(stream)
    rows.writerow(["kind", "epoch", "loss"])
    for epoch in range(epochs):
        rows.writerow(["train", epoch, force((epoch + 1) / epochs) * worse * 0.9])
        rows.writerow(["valid", epoch, force((epoch + 1) / epochs) * worse])
print("frames", frames, "resumed" if "again=1" in sys.argv else "fresh")
print(f"test force MAE {force(1) * worse:.6f} eV/A")
"""
STUDY = """
name = "theirs"
families = {{ toy = ["small", "large"] }}
dataset = {{ name = "example-structures", max_evaluated = 20 }}
num_train = [20, 40, 80]
recipe = {{ name = "energy-and-forces", batch_size = 4 }}
{search}

[budget]
items = 2_000

[external.toy]
command = ["{python}", "trainer.py", "train={{train}}", "width={{width}}", "epochs={{epochs}}",
           "rate={{learning_rate}}"{more}]
energy_key = "REF_energy"
forces_key = "REF_forces"
sizes.small = {{ width = 4, num_params = 1_000 }}
sizes.large = {{ width = 16, num_params = 16_000 }}
curve.file = "*.csv"
curve.columns = {{ epoch = "epoch", val_loss = "loss" }}
curve.where = {{ kind = "valid" }}
test = {{ pattern = 'test force MAE (?P<force_mae>[-+.e0-9]+)', scale = {{ force_mae = 1000 }} }}
{rest}
"""
SEARCH = "search = { learning_rate = [1e-3, 1e-2], fraction = 0.5, finish = 2 }"


def study(folder: Path, search: str = "", more: str = "", rest: str = "") -> StudyFolder:
    folder.mkdir(exist_ok=True)
    trainer = folder / "trainer.py"
    trainer.write_text(TRAINER)
    text = STUDY.format(python=sys.executable, search=search, more=more, rest=rest)
    text = text.replace('"trainer.py"', json.dumps(str(trainer)))
    (folder / "study.toml").write_text(text)
    return StudyFolder(folder)


def first(folder: StudyFolder) -> Any:
    expansion = chemscale.expand(folder.path)
    folder.ask(expansion.runs)
    return expansion.runs["sweep"][0]


@pytest.mark.slow
def test_a_study_of_it_goes_through_search_sweep_and_fit(tmp_path: Path):
    made = study(tmp_path / "s", SEARCH)
    chemscale.train(made.path, workers=1)
    assert {choice.learning_rate for choice in made.choices()} == {0.01}
    ended = made.trained()
    assert {one.outcome.status for one in ended} == {"finished"}
    (one,) = (
        one for one in ended
        if one.run.size == "large" and one.run.trunk.num_train == 80 and "sweep" in one.roles
    )  # fmt: skip
    assert one.outcome.metrics["test"]["force_mae"] == pytest.approx(1e5 * 16**-0.5 * 80**-0.25)
    assert one.outcome.items_seen == 25 * 80
    assert one.curve["val_loss"][-1] == pytest.approx(100 * 16**-0.5 * 80**-0.25)
    assert one.outcome.unique_items == 80
    (fitted,) = chemscale.fit(made.path).families
    laws = [law for law in fitted.laws if law.axis == "num_train"]
    assert laws and [law.exponent.value for law in laws] == pytest.approx(
        [0.25] * len(laws), abs=1e-3
    )


def test_it_gets_its_own_subset_with_labels_under_the_keys_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(external, "device_name", lambda _: "h100")
    made = study(tmp_path / "s")
    run = first(made)
    outcome = train_run(made, run.id)
    assert outcome is not None and outcome.status == "finished"
    assert outcome.machine["device"] == "h100"
    log = (made.open_run(run.id).path / "work/log.txt").read_text()
    assert log.startswith(f"frames {run.trunk.num_train} fresh")


def test_its_files_hold_the_stress_where_the_recipe_learns_it(tmp_path: Path):
    made = study(tmp_path / "s", rest='stress_key = "REF_stress"')
    frames = []
    for index in range(150):
        frame = bulk("Cu", a=3.5 + index / 300)
        frame.calc = SinglePointCalculator(
            frame, energy=index / 10, forces=np.zeros((1, 3)), stress=np.arange(6.0) + index
        )
        frames.append(frame)
    write(made.path / "copper.xyz", frames, format="extxyz")
    data = 'dataset = { format = "extxyz", path = "copper.xyz", max_evaluated = 9 }'
    text = made.study_file.read_text().replace("size = 4", "size = 4, stress_weight = 1")
    made.study_file.write_text(re.sub("dataset = .*", data, text))
    run = first(made)
    outcome = train_run(made, run.id)
    assert outcome is not None and outcome.status == "finished"
    (told,) = re.findall(r"train=(\S+)", (made.open_run(run.id).path / "log.txt").read_text())
    assert "JSON" not in Path(told).read_text()  # which only ASE reads
    for frame in read(told, ":"):
        index = round(10 * frame.info["REF_energy"])
        expected = voigt_6_to_full_3x3_stress(np.arange(6.0) + index)
        assert frame.info["REF_stress"] == pytest.approx(expected.ravel())


def test_one_that_fails_is_a_failed_run_with_its_last_words(tmp_path: Path):
    made = study(tmp_path / "s", more=', "fail=1"')
    run = first(made)
    outcome = train_run(made, run.id)
    assert outcome is not None and outcome.status == "failed"
    assert "exit code 1" in outcome.sentence
    assert "no such irreps" in (made.open_run(run.id).path / "log.txt").read_text()


def test_one_that_is_told_to_leave_starts_anew_or_goes_on(tmp_path: Path):
    for resume, word in (("", "fresh"), ('resume = ["again=1"]', "resumed")):
        made = study(tmp_path / word, more=', "hang=1"', rest=resume)
        run = first(made)
        begun = time.monotonic()
        place = made.open_run(run.id)
        assert train_run(made, run.id, stop=(place.path / "work/begun").exists) is None
        assert time.monotonic() - begun < 30
        assert not place.has_ended()
        if word == "resumed":
            outcome = train_run(made, run.id)
            assert outcome is not None and outcome.status == "finished"
            assert word in (place.path / "work/log.txt").read_text()


def test_a_rule_that_fits_nothing_is_a_failure_that_says_so(tmp_path: Path):
    made = study(tmp_path / "s")
    text = made.study_file.read_text().replace("test force MAE", "test energy MAE")
    made.study_file.write_text(text)
    outcome = train_run(made, first(made).id)
    assert outcome is not None and outcome.status == "failed"
    assert "told force_mae" in outcome.sentence


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("width={width}", "width={widht}", "Did you mean 'width'?"),
        ("num_params = 1_000", "size = 1_000", "sizes.small has no num_params"),
        ('val_loss = "loss"', 'loss = "loss"', "curve does not read val_loss"),
        ("(?P<force_mae>", "(", "no named group"),
        ("[external.toy]", "[external.schnet]", "a family of the package has this name"),
        ('"small", "large"', '"small", "lagre"', "Did you mean 'large'?"),
        ("width={width}", "width={width", "a brace that is meant as such is written twice"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, old: str, new: str, says: str):
    made = study(tmp_path / "s")
    made.study_file.write_text(made.study_file.read_text().replace(old, new))
    with pytest.raises((StudyError, DataError)) as caught:
        chemscale.expand(made.path)
    assert says in str(caught.value)


def test_a_program_that_is_not_there_is_named(tmp_path: Path):
    made = study(tmp_path / "s")
    text = made.study_file.read_text().replace(sys.executable, "/nowhere/mace_run_train")
    made.study_file.write_text(text)
    with pytest.raises(DataError, match="no program '/nowhere/mace_run_train'"):
        chemscale.expand(made.path)


def test_where_the_program_lies_is_not_part_of_a_run():
    common: dict[str, Any] = {
        "sizes": {"a": {"num_params": 1}},
        "curve": {"pattern": r"(?P<val_loss>\d+) (?P<step>\d+)"},
        "test": {"pattern": r"(?P<force_mae>\d+)"},
    }
    here = External(command=("/here/bin/train", "x"), environment={"A": "1"}, **common)
    there = External(command=("train", "x"), resume=("go",), **common)
    assert here.config("a") == there.config("a")
    assert "stress_key" not in here.config("a")  # as it was before there was one
    assert External(command=("train", "y"), **common).config("a") != here.config("a")


def test_json_lines_are_read_up_to_the_half_written_last(tmp_path: Path):
    (tmp_path / "a_train.txt").write_text(
        '{"mode": "opt", "epoch": 0, "loss": 9}\n{"mode": "eval", "epoch": null, "loss": 7}\n'
        '{"mode": "eval", "epoch": 1, "loss": 0.5}\n{"mode": "ev'
    )
    rule = Rule(
        file="*_train.txt",
        columns={"epoch": "epoch", "val_loss": "loss"},
        where={"mode": "eval"},
        scale={"val_loss": 1000.0},
    )
    assert rule.rows(tmp_path) == [{"val_loss": 7000.0}, {"epoch": 1.0, "val_loss": 500.0}]


def test_a_column_that_is_not_there_is_named(tmp_path: Path):
    (tmp_path / "log.txt").write_text("epoch,valid_loss\n0,1.0\n")
    rule = Rule(columns={"epoch": "epoch", "val_loss": "val_loss"})
    with pytest.raises(DataError, match="Did you mean 'valid_loss'"):
        rule.rows(tmp_path)
