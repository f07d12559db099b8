"""Labels for structures: the same bytes however they were come by."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from ase import Atoms
from ase.io import read, write

from chemscale.labelling import label
from chemscale.table.errors import DataError, UsageError

EMT = "ase.calculators.emt:EMT"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.extxyz"
    frames = [Atoms("CO", [[0, 0, 0], [0, 0, 1 + n / 1000]]) for n in range(600)]
    frames[3] = Atoms("CXe", [[0, 0, 0], [0, 0, 1.1]])
    write(path, frames)
    return path


def test_a_structure_without_a_label_is_listed_with_its_reason(source, tmp_path):
    told = label(source, tmp_path / "out.extxyz", calculator=EMT, workers=1)
    assert (told.structures, told.rejects) == (599, 1)
    assert (tmp_path / "out.extxyz.rejects.csv").read_text().splitlines()[1].startswith("3,CXe,")
    first = read(tmp_path / "out.extxyz", index=0)
    assert first.get_forces().shape == (2, 3)
    assert json.loads((tmp_path / "out.extxyz.json").read_text())["elements"] == ["C", "O"]


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(source, tmp_path):
    whole, cut = tmp_path / "whole.extxyz", tmp_path / "cut.extxyz"
    label(source, whole, calculator=EMT, workers=1)
    command = ["-m", "chemscale.cli", "label", str(source), "--output", str(cut)]
    command += ["--calculator", EMT, "--workers", "2"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    parts = tmp_path / "cut.extxyz.parts"
    while len(list(parts.glob("0*.json"))) < 2 and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    label(source, cut, calculator=EMT, workers=2)
    assert cut.read_bytes() == whole.read_bytes()
    assert not parts.exists()


def test_an_output_of_other_settings_is_refused(source, tmp_path):
    label(source, tmp_path / "out.extxyz", calculator=EMT, workers=1, count=5)
    with pytest.raises(UsageError, match="other settings"):
        label(source, tmp_path / "out.extxyz", calculator=EMT, workers=1)


def test_mistakes_are_told_before_compute_is_spent(source, tmp_path):
    with pytest.raises(UsageError, match="gfn2-xtb"):
        label(source, tmp_path / "out.extxyz", calculator="xtb")
    with pytest.raises(DataError, match="no such file"):
        label(tmp_path / "none.xyz", tmp_path / "out.extxyz", calculator=EMT)
