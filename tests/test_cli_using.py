"""Trained models on the command line: results on standard output, mistakes as sentences."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("rdkit")

from chemscale.bench.training.loop import train_run
from chemscale.bench.using import fcd
from chemscale.expansion import open_workbench
from chemscale.table.expand import sweep_runs
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import toy_smiles

Chemscale = Callable[..., tuple[int, str, str]]

STUDY = """\
name = "toy"
families = { chemgpt = ["w16"] }
dataset = { format = "smi", path = "toy.smi", max_length = 40, test = 0.2, validation = 0.1 }
num_train = [100]
recipe = { name = "molecules", learning_rate = 3e-2, warmup = 100 }
budget = { items = 1500 }
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "study"
    path.mkdir()
    (path / "study.toml").write_text(STUDY)
    (path / "toy.smi").write_text("\n".join(toy_smiles()) + "\n")
    folder = StudyFolder(path)
    bench = open_workbench(folder, lambda event: None)
    (run,) = sweep_runs(folder.study(), bench, [])
    folder.ask({"sweep": [run]})
    outcome = train_run(folder, run.id, bench=bench)
    assert outcome is not None and outcome.status == "finished"
    return path


@pytest.fixture(autouse=True)
def _without_fcd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcd, "is_there", lambda: False)


def test_generate_prints_smiles_and_says_how_many_keep_the_prompt(chemscale, study):
    code, out, err = chemscale("generate", study, "--count", 30, "--prompt", "C1CC(C)CO1")
    assert code == 0 and 0 < len(out.split()) <= 30
    assert (
        f"{len(out.split())} of 30 usable" in err and "% of the usable ones keep C1CC(C)CO1" in err
    )
    code, out, _ = chemscale("generate", study, "--count", 4, "--json")
    assert code == 0 and set(json.loads(out)[0]) == {
        "prompt",
        "text",
        "smiles",
        "finished",
        "keeps",
    }


def test_evaluate_prints_the_measures_and_says_that_fcd_is_missing(chemscale, study):
    code, out, err = chemscale("evaluate", study, "--samples", 20)
    assert code == 0 and "pip install 'chemscale[metrics]'" in err
    assert "training molecules" in out and "20 samples of each model, against 20 of test" in out
    code, out, _ = chemscale("evaluate", study, "--samples", 20, "--json")
    assert code == 0 and json.loads(out)["settings"]["num_samples"] == 20


def test_evaluate_compares_two_files(chemscale, study):
    file = study / "toy.smi"
    code, out, _ = chemscale("evaluate", file, "--against", file, "--samples", 10, "--json")
    assert code == 0 and json.loads(out)["snn"] == pytest.approx(1)
    assert json.loads(out)["molecules"] == 10
    code, _, err = chemscale("evaluate", file)
    assert code == 2 and "--against goes with a file of molecules" in err


def test_embed_writes_a_row_for_each_molecule_and_names_those_without(chemscale, study, tmp_path):
    rows = [*toy_smiles()[:5], "C[Se]C"]
    (tmp_path / "some.smi").write_text("\n".join(rows) + "\n")
    target = tmp_path / "vectors.npy"
    code, out, err = chemscale(
        "embed", study, tmp_path / "some.smi", "--output", target, "--max-rejected", 0.5,
        "--nearest", rows[2], "--count", 2,
    )  # fmt: skip
    assert code == 0 and "does not know [Se]" in err and "1 of 6 molecules left out" in err
    vectors = np.load(target)
    assert vectors.shape == (6, 16)
    assert np.isnan(vectors).any(axis=1).tolist() == [False] * 5 + [True]
    assert f"nearest to {rows[2]}:\n  1.0000  row 3  {rows[2]}" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["generate", "STUDY", "--prompt", "c1cc"], 3, "prompt 'c1cc' is no molecule"),
        (["generate", "STUDY", "--prompt", "C[Se]C"], 3, "does not know [Se]"),
        (["generate", "STUDY", "--temperature", "-1"], 2, "temperature -1: 0 or above"),
        (["embed", "STUDY", "STUDY/toy.smi"], 2, "give --output FILE.npy, --nearest SMILES"),
        (["embed", "STUDY", "none.smi", "--nearest", "C"], 3, "none.smi: no such file"),
        (
            ["embed", "STUDY", "STUDY/toy.smi", "--nearest", "c1cc"],
            3,
            "--nearest: 1 of 1 molecules",
        ),
        (["embed", "STUDY", "STUDY/study.toml", "--nearest", "C"], 3, "molecules come as .csv"),
        (["probe", "STUDY", "STUDY/toy.smi"], 2, "name at least one column"),
        (["evaluate", "STUDY", "--samples", "1"], 2, "num_samples 1: at least 2"),
    ],
)
def test_a_mistake_is_a_sentence_and_an_exit_code(chemscale, study, arguments, code, said):
    given = [argument.replace("STUDY", str(study)) for argument in arguments]
    found, out, err = chemscale(*given)
    assert (found, out) == (code, "") and said in err and "Traceback" not in err


def test_a_study_without_weights_says_where_they_went(chemscale, study, tmp_path):
    bare = shutil.copytree(study, tmp_path / "bare")
    for path in StudyFolder(bare).run_folders().values():
        shutil.rmtree(path / "checkpoints")
    code, _, err = chemscale("generate", bare)
    assert code == 1 and "Published studies come without weights" in err
    for path in StudyFolder(bare).run_folders().values():
        for verb in ("generate", "evaluate"):
            code, _, err = chemscale(verb, path)
            assert code == 1 and "no weights here: published studies come without" in err
