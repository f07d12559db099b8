"""The main job, whole, on the data that comes with the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chemscale.table.store import StudyFolder

STUDY = """
name = "whole"
families = {{ {family} = ["w16", "w24", "w32"] }}
dataset = {{ name = "{dataset}", max_evaluated = 40 }}
num_train = [20, 60, 200]
seeds = {{ default = 1, w16 = 2 }}
recipe = {{ name = "{recipe}", warmup = 200 }}
search = {{ learning_rate = [3e-3, 1e-2], fraction = 0.6, finish = 2 }}
budget = {{ items = 1_800 }}
"""


def chemscale(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chemscale.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "dataset", "recipe"),
    [
        ("chemgpt", "example-molecules", "molecules"),
        ("schnet", "example-structures", "energy-and-forces"),
    ],
)
def test_a_study_goes_from_its_file_to_a_checked_plan_and_a_report(
    tmp_path: Path, family: str, dataset: str, recipe: str
) -> None:
    (tmp_path / "study.toml").write_text(
        STUDY.format(family=family, dataset=dataset, recipe=recipe)
    )
    trained = chemscale("train", tmp_path)
    assert trained.returncode == 0, trained.stderr
    folder = StudyFolder(tmp_path)
    assert {"search", "finish", "sweep", "check"} <= set(folder.index())
    assert all(one.outcome.status == "finished" for one in folder.trained())
    assert len(folder.choices()) == 3

    fitted = chemscale("fit", tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    assert family in fitted.stdout

    planned = chemscale("plan", tmp_path, "--at", f"{family}:w32", "--num-train", "300")
    assert planned.returncode == 0, planned.stderr
    written = (tmp_path / "plans/001.toml").read_bytes()
    assert chemscale("train", tmp_path / "plans/001.toml").returncode == 0
    assert (tmp_path / "plans/001.toml").read_bytes() == written
    assert len(StudyFolder(tmp_path).index()["plans/001"]) == 1

    reported = chemscale("report", tmp_path)
    assert reported.returncode == 0, reported.stderr
    html = Path(reported.stdout.strip()).read_text()
    assert "Forecast" in html or "forecast" in html

    again = chemscale("train", tmp_path)
    assert again.returncode == 0
    assert "0 of 0" not in again.stderr
