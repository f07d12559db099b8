"""The door: every foreseen mistake is a sentence and an exit code, never a traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

Chemscale = Callable[..., tuple[int, str, str]]


MOLECULES = """\
name = "toy"
families = { chemgpt = ["w16"] }
dataset = { format = "csv", path = "toy.csv" }
num_train = [50]
recipe = "molecules"
budget = { items = 1500 }
"""

STRUCTURES = """\
name = "toy"
families = { schnet = ["w16"] }
dataset = { format = "extxyz", path = "toy.xyz", test = 0.2, validation = 0.2 }
num_train = [20]
recipe = "energy-and-forces"
budget = { items = 1500 }
"""


@pytest.fixture
def molecules(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(MOLECULES)
    alkanes = ["C" * n + end for n in range(1, 41) for end in ("O", "N", "Cl", "F", "Br")]
    (tmp_path / "toy.csv").write_text("smiles\n" + "\n".join(alkanes) + "\n")
    return tmp_path


def waters(folder: Path) -> Path:
    """A study of shaken waters, whose file has energies and no forces."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(60):
        atoms = ase.Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        atoms.positions += rng.normal(0, 0.05, (3, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal())
        made.append(atoms)
    (folder / "study.toml").write_text(STRUCTURES)
    write(folder / "toy.xyz", made)
    return folder


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "study.toml").read_text()
    assert old in text
    (folder / "study.toml").write_text(text.replace(old, new))


# --- what works ---


def test_list_names_what_there_is(chemscale: Chemscale):
    code, out, err = chemscale("list", "--json")
    kinds = json.loads(out)
    assert (code, err) == (0, "")
    assert set(kinds) == {"families", "datasets", "executors", "recipes"}
    assert {"chemgpt", "painn", "schnet"} <= set(kinds["families"])


def test_no_summary_is_cut_off_on_a_terminal_of_80_columns(
    chemscale: Chemscale, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    out = chemscale("--help")[1]
    told = out.partition("Commands:")[2]
    assert "quickstart" in told
    assert "..." not in told


def test_list_of_one_kind_names_that_kind(chemscale: Chemscale):
    assert chemscale("list", "executors")[1].startswith("executors: ")


def test_expand_prints_json_on_standard_output_alone(chemscale: Chemscale, molecules: Path):
    code, out, _ = chemscale("expand", molecules, "--json")
    assert code == 0
    assert json.loads(out)


# --- the study ---


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("num_train", "num_trian", 2, "unknown key 'num_trian'. Did you mean 'num_train'?"),
        ("chemgpt =", "chemgtp =", 2, "named 'chemgtp'. Did you mean 'chemgpt'?"),
        ("[50]", "[-50]", 2, "num_train.0: Input should be greater than 0 (got -50)"),
        ("[50]", "[5000]", 3, "num_train = 5,000 asks for more than the"),
        ('"toy.csv"', '"toy.csv", column = "smile"', 3, "no column named 'smile'"),
        ('"toy.csv"', '"other.csv"', 3, "other.csv: no such file"),
        ('"toy.csv"', '"."', 3, "a folder; name its files"),
        ('"molecules"', '"energy"', 2, "holds molecules: 'molecules' trains on them"),
        ('"toy.csv"', '"toy.csv", units = {}', 2, "units: means nothing for format 'csv'"),
        ("[50]", "50", 2, "num_train: Input should be a list: […] (got 50)"),
        ("[50]", "[50]\nseeds = 0", 2, "1 mistake\n  - seeds: Input should be greater than 0"),
        ('name = "toy"', 'format = 99\nname = "toy"', 1, "pip install -U chemscale"),
    ],
)
def test_a_mistake_in_the_study_is_a_sentence_and_an_exit_code(
    chemscale: Chemscale, molecules: Path, old: str, new: str, code: int, said: str
):
    change(molecules, old, new)
    found, out, err = chemscale("expand", molecules)
    assert (found, out) == (code, "")
    assert said in err


def test_a_warmup_that_never_ends_is_warned_of(chemscale: Chemscale, molecules: Path):
    assert "WARNING: the warmup of 2,000 items is no" in chemscale("expand", molecules)[1]
    change(molecules, '"molecules"', '{ name = "molecules", warmup = 500 }')
    assert "WARNING" not in chemscale("expand", molecules)[1]


@pytest.mark.parametrize("verb", ["expand", "train", "estimate", "fit", "plan", "report"])
def test_a_study_that_is_not_there_is_a_failure(chemscale: Chemscale, tmp_path: Path, verb: str):
    code, _, err = chemscale(verb, tmp_path / "nowhere")
    assert code == 1
    assert "nowhere" in err


def test_a_verb_that_does_not_exist_is_a_usage_error(chemscale: Chemscale):
    assert chemscale("trian", "x")[0] == 2


# --- the data ---


def test_molecules_that_cannot_be_read_are_listed_when_they_are_many(
    chemscale: Chemscale, molecules: Path
):
    with (molecules / "toy.csv").open("a") as stream:
        stream.write("C(C\nnot-a-molecule\nC1CC\n")
    code, _, err = chemscale("expand", molecules)
    assert code == 3
    assert "3 of 203 rows cannot be used" in err
    assert "row 202" in err
    assert "not-a-molecule" in err


def test_a_few_molecules_that_cannot_be_read_are_left_out_and_listed_when_asked(
    chemscale: Chemscale, molecules: Path
):
    with (molecules / "toy.csv").open("a") as stream:
        stream.write("not-a-molecule\n")
    code, out, _ = chemscale("expand", molecules, "--rejects")
    assert code == 0
    assert "not-a-molecule" in out


def test_a_file_without_forces_is_refused_with_what_to_do(chemscale: Chemscale, tmp_path: Path):
    code, _, err = chemscale("expand", waters(tmp_path))
    assert code == 3
    assert "structures have no forces (toy.xyz 1, " in err
    assert "forces_key" in err


# --- the desk ---

POWER = "family,num_params,num_train,seed,test_loss\n" + "".join(
    f"painn,1000,{size},{seed},{1 + 5 * size**-0.4 * (1 + 0.01 * seed):.6f}\n"
    for size in (10, 30, 100, 300, 1000, 3000)
    for seed in (0, 1)
)

NO_TORCH = """\
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ase", "rdkit", "selfies", "vesin", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from chemscale.cli import main
main()
"""


def without_torch(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_bare_table_is_fitted_without_torch(tmp_path: Path):
    (tmp_path / "curves.csv").write_text(POWER)
    done = without_torch("fit", tmp_path / "curves.csv", "--json")
    assert done.returncode == 0, done.stderr
    (family,) = json.loads(done.stdout)["families"]
    assert family["family"] == "painn"
    assert os.listdir(tmp_path) == ["curves.csv"]


def test_training_without_torch_names_the_pip_line(molecules: Path):
    done = without_torch("expand", molecules)
    assert done.returncode == 1
    assert "pip install 'chemscale[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_without_a_required_column_is_rejected_data(chemscale: Chemscale, tmp_path: Path):
    (tmp_path / "curves.csv").write_text("family,num_train,loss\npainn,1,1\n")
    code, _, err = chemscale("fit", tmp_path / "curves.csv")
    assert code == 3
    assert "no column num_params" in err


def test_a_study_that_was_not_trained_cannot_be_fitted(chemscale: Chemscale, molecules: Path):
    code, _, err = chemscale("fit", molecules)
    assert code == 3
    assert "run `chemscale train` first" in err


def test_a_plan_that_the_fit_does_not_determine_has_an_exit_code_of_its_own(
    chemscale: Chemscale, molecules: Path
):
    from chemscale import verbs
    from chemscale.table.store import StudyFolder

    (molecules / "curves.csv").write_text(
        "family,num_params,num_train,test_loss\nchemgpt,1000,10,0.5\nchemgpt,1000,30,0.4\n"
    )
    verbs.expand(molecules)  # for the ladder
    StudyFolder(molecules).write_fit(verbs.fit(molecules / "curves.csv"))
    arguments = ("plan", molecules, "--at", "chemgpt:w24", "--num-train", "100000")
    code, out, err = chemscale(*arguments)
    assert (code, out) == (4, "")
    assert err.startswith("chemscale: ")
    assert not (molecules / "plans").exists()


def test_the_door_leaves_by_its_exit_code_as_a_program(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "chemscale.cli", "expand", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("chemscale: ")
    assert "Traceback" not in done.stderr
