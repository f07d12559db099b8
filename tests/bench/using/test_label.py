"""Labels for structures: the same bytes however they were come by."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import iread, read, write

from chemscale.bench.data.base import open_dataset
from chemscale.bench.using.single_point import labelled
from chemscale.labelling import label
from chemscale.table.errors import DataError, MissingPackage, UsageError
from chemscale.table.records import DatasetSpec

EMT = "ase.calculators.emt:EMT"
COUNT = 200  # structures: four chunks


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.extxyz"
    frames = [Atoms("CO", [[0, 0, 0], [0, 0, 1 + n / 1000]]) for n in range(COUNT)]
    frames[3] = Atoms("CXe", [[0, 0, 0], [0, 0, 1.1]])
    write(path, frames)
    return path


def test_a_structure_without_a_label_is_listed_with_its_reason(source, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    told = label(source, tmp_path / "out.extxyz", calculator=EMT, workers=1)
    assert (told.structures, told.rejects) == (COUNT - 1, 1)
    assert (tmp_path / "out.extxyz.rejects.csv").read_text().splitlines()[1].startswith("3,CXe,")
    first = read(tmp_path / "out.extxyz", index=0)
    assert first.get_forces().shape == (2, 3)
    assert json.loads((tmp_path / "out.extxyz.json").read_text())["elements"] == ["C", "O"]
    assert os.environ["OMP_NUM_THREADS"] == "3"  # that of workers is theirs


SLOW = """
import time
from ase.calculators.emt import EMT

class Slow(EMT):
    def calculate(self, *args, **kwargs):
        time.sleep(0.005)
        super().calculate(*args, **kwargs)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(source, tmp_path, monkeypatch):
    (tmp_path / "slow_labels.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    slow = "slow_labels:Slow"
    whole, cut = tmp_path / "whole.extxyz", tmp_path / "cut.extxyz"
    label(source, whole, calculator=slow, workers=1)
    command = ["-m", "chemscale.cli", "label", str(source), "--output", str(cut)]
    command += ["--calculator", slow, "--workers", "1"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    parts = tmp_path / "cut.extxyz.parts"
    while not (done := list(parts.glob("0*.json"))):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not cut.exists()
    kept = {path: path.stat().st_mtime_ns for path in done}
    (parts / "000000064.json.1.tmp").write_text("half a par")  # as a kill may leave
    with pytest.raises(UsageError, match="begun with calculator slow_labels:Slow .now"):
        label(source, cut, calculator=EMT, workers=1)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    label(source, cut, calculator=slow, workers=2)
    assert cut.read_bytes() == whole.read_bytes()
    lengths = [round(atoms.get_distance(0, 1), 3) for atoms in read(cut, index=":")]
    assert lengths == [round(1 + n / 1000, 3) for n in range(COUNT) if n != 3]
    assert not parts.exists()


def test_an_output_of_other_settings_is_refused(source, tmp_path):
    label(source, tmp_path / "out.extxyz", calculator=EMT, workers=1, count=5)
    assert len(read(tmp_path / "out.extxyz", index=":")) == 5
    with pytest.raises(UsageError, match=r"made with count 5 \(now None\)\. Name"):
        label(source, tmp_path / "out.extxyz", calculator=EMT, workers=1)


def test_mistakes_are_told_before_compute_is_spent(source, tmp_path):
    with pytest.raises(UsageError, match="gfn2-xtb"):
        label(source, tmp_path / "out.extxyz", calculator="xtb")
    with pytest.raises(DataError, match="no such file"):
        label(tmp_path / "none.xyz", tmp_path / "out.extxyz", calculator=EMT)


def test_a_molecule_met_before_is_labelled_once_and_counted(tmp_path):
    source, output = tmp_path / "in.smi", tmp_path / "out.extxyz"
    source.write_text("CCO\nC\nOCC\nC(\nC(\n" + "C\n" * 5)
    for workers in (1, 2):
        told = label(
            source, output, calculator=EMT, methods=["conformers"], per_molecule=1, workers=workers
        )
        assert (told.structures, told.rejects, told.duplicates) == (2, 8, 6)
        rejects = Path(f"{output}.rejects.csv").read_text().splitlines()[1:]
        assert rejects[0] == "2,OCC,the same molecule as row 0"
        assert [line.split(",")[0] for line in rejects] == [str(row) for row in range(2, 10)]
        output.unlink()


@pytest.mark.parametrize(
    "smiles",
    [
        "F",
        "T",
        "true",
        "1",
        "",
        "N",
        r"F/C=C\F",
        r"F\C=C\F",
        "[C-]#[O+]",
        "O=C=O",
        "[H][H]",
        'a "b" c',
    ],
)
def test_what_a_structure_is_called_is_read_back_as_it_was(smiles):
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], info={"smiles": smiles})
    text = labelled(atoms, EMT, {})
    for back in iread(StringIO(text * 2), format="extxyz"):
        assert type(back.info["smiles"]) is str
        assert back.info["smiles"] == smiles


def test_a_study_keeps_the_frames_of_a_molecule_together(tmp_path):
    source, output = tmp_path / "in.smi", tmp_path / "out.extxyz.gz"
    source.write_text("C\nCC\nO\nN\nCO\nC=C\nCN\nC#N\n")
    label(source, output, calculator=EMT, methods=["modes"], per_molecule=4, workers=1)
    given = {"format": "extxyz", "path": str(output), "test": 0.3, "validation": 0.3}
    data = open_dataset(DatasetSpec(**given, group="smiles"), tmp_path)
    names = [atoms.info["smiles"] for atoms in iread(output, index=":")]
    groups = dict(zip(names, data.arrays["group"], strict=True))
    assert len(names) == 32 and len(set(groups.values())) == 8
    assert [groups[name] for name in names] == data.arrays["group"].tolist()


def test_without_tblite_the_line_that_installs_it_is_told(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(MissingPackage, match=r"pip install 'chemscale\[label\]'"):
        label(source, tmp_path / "out.extxyz", workers=1)
    assert not (tmp_path / "out.extxyz.parts").exists()
