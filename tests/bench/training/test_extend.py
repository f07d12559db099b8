"""Real trunks of real data: one that is extended equals the direct one, and each of the endings."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_loop import columns, ends

from chemscale.bench.data.examples import FOLDER
from chemscale.bench.training.loop import train_run
from chemscale.bench.training.workbench import Workbench
from chemscale.table.expand import sweep_runs
from chemscale.table.records import Run
from chemscale.table.results import Outcome
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import toy_smiles

STUDY = """\
name = "extend"
families = {{ {family} = ["w16"] }}
dataset = {dataset}
num_train = [{num_train}]
recipe = {{ name = "{recipe}", batch_size = {batch_size}, learning_rate = {rate}, ema = {ema} }}
budget = {{ items = {items}, patience = {patience} }}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small molecules and structures of the package, to be quick; and toys."""
    folder = tmp_path_factory.mktemp("data")
    with gzip.open(FOLDER / "molecules.csv.gz", "rt") as file:
        head, *rows = file.read().splitlines()
    small = [row for row in rows if len(row.split(",")[0]) <= 22][:2000]
    (folder / "molecules.csv").write_text("\n".join([head, *small]) + "\n")
    frames: list[str] = []
    with gzip.open(FOLDER / "structures.xyz.gz", "rt") as file:
        while len(frames) < 600 and (count := file.readline()):
            frame = count + "".join(next(file) for _ in range(int(count) + 1))
            if int(count) <= 8:
                frames.append(frame)
    (folder / "structures.xyz").write_text("".join(frames))
    (folder / "toy.smi").write_text("\n".join(toy_smiles()) + "\n")
    return folder


@pytest.fixture
def make(tmp_path: Path, data: Path) -> Callable[..., tuple[StudyFolder, Run]]:
    """Make a study of one run, and say which."""

    def study(name: str, dataset: str, **values: Any) -> tuple[StudyFolder, Run]:
        place = tmp_path / name
        place.mkdir()
        dataset = dataset.replace("DATA", str(data))
        (place / "study.toml").write_text(STUDY.format(dataset=dataset, **{"ema": 0.0, **values}))
        folder = StudyFolder(place)
        (run,) = sweep_runs(folder.study(), Workbench(folder.study(), place), [])
        folder.ask({"sweep": [run]})
        return folder, run

    return study


MOLECULES = (
    '{ format = "csv", path = "DATA/molecules.csv", group = "content", max_evaluated = 100 }'
)
STRUCTURES = (
    '{ format = "extxyz", path = "DATA/structures.xyz", group = "content", max_evaluated = 32 }'
)


# --- a longer run --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "recipe", "dataset", "num_train", "ema"),
    [
        ("chemgpt", "molecules", MOLECULES, 1000, 0.0),
        ("schnet", "energy-and-forces", STRUCTURES, 300, 0.9),
    ],
    ids=["chemgpt", "schnet, averaged"],
)
def test_a_run_extended_from_10_000_to_40_000_items_equals_the_direct_one_bit_for_bit(
    make: Callable[..., Any], family: str, recipe: str, dataset: str, num_train: int, ema: float
):
    values = {"family": family, "recipe": recipe, "num_train": num_train, "rate": 3e-3, "ema": ema}
    values |= {"batch_size": 128, "patience": 1}
    direct, long = make("direct", dataset, items=40_000, **values)
    extended, short = make("extended", dataset, items=10_000, **values)
    assert short.trunk_id == long.trunk_id and short.id != long.id
    whole = train_run(direct, long.id)
    before = train_run(extended, short.id)
    extended.ask({"sweep": [long]})
    after = train_run(extended, long.id)
    assert whole is not None and before is not None and after is not None
    assert 9_000 < trunk_items(extended, short) <= 10_000 < trunk_items(extended, long) <= 40_000

    assert ends(after) == ends(whole)
    assert after.flops_spent < whole.flops_spent
    one, other = (place.open_run(long.id).curve() for place in (direct, extended))
    assert columns(direct, long) == columns(extended, long)
    assert one.step_losses.tobytes() == other.step_losses.tobytes()
    assert weights(extended, long) == weights(direct, long)
    assert weights(extended, short) != weights(direct, long)


def trunk_items(folder: StudyFolder, run: Run) -> int:
    curve = folder.open_run(run.id).curve()
    return int(curve["items_seen"][curve["phase"] != "cooldown"].max())


def weights(folder: StudyFolder, run: Run) -> bytes:
    """Of the cooled model, as they lie on disk."""
    found = folder.open_run(run.id).checkpoints()
    last = max(name for name in found if name.startswith("cooldown"))
    return (found[last] / "weights.safetensors").read_bytes()


# --- endings, met by training --------------------------------------------------------------------

TOY_MOLECULES = '{ format = "smi", path = "DATA/toy.smi", group = "content", max_length = 32 }'


def trained(make: Callable[..., Any], dataset: str, **values: Any) -> tuple[Outcome, Any]:
    given = {"family": "chemgpt", "recipe": "molecules", "batch_size": 8, "patience": 1}
    folder, run = make("one", dataset, **given | values)
    outcome = train_run(folder, run.id)
    assert outcome is not None and outcome.status == "finished"
    curve = folder.open_run(run.id).curve()
    trunk = (curve["phase"] != "cooldown") & (curve["step"] > 0)
    return outcome, np.asarray(curve["val_loss"][trunk], dtype=float)


def test_a_language_model_that_knows_eight_molecules_by_heart_is_overfitted(
    make: Callable[..., Any],
):
    outcome, losses = trained(make, TOY_MOLECULES, num_train=8, items=6000, rate=1e-2)
    assert outcome.ending == "overfitted"
    assert losses[-1] > 1.01 * losses.min()
    assert "above its best" in outcome.sentence
    # The result is that of the best point, not of the end.
    assert outcome.val_loss is not None and outcome.val_loss < losses[-1]


def test_a_trunk_that_its_ceiling_cuts_short_is_capped(make: Callable[..., Any]):
    outcome, losses = trained(make, TOY_MOLECULES, num_train=100, items=2500, rate=1e-3)
    assert outcome.ending == "capped"
    assert losses[-1] < 0.99 * losses[:-4].min()
    assert "still falling at the ceiling" in outcome.sentence


def test_a_trunk_that_has_learnt_what_there_is_to_learn_is_plateaued(
    make: Callable[..., Any], data: Path
):
    # Chains of C, N and O at random: once their share is known nothing is left but chance.
    chance = np.random.default_rng(0)
    chains = {"".join(chance.choice(["C", "N", "O"], 12)) for _ in range(2000)}
    (data / "chains.smi").write_text("\n".join(sorted(chains)) + "\n")
    dataset = TOY_MOLECULES.replace("toy.smi", "chains.smi")
    outcome, losses = trained(make, dataset, num_train=1500, items=6000, rate=3e-3)
    assert outcome.ending == "plateaued"
    assert losses[-1] == pytest.approx(12 / 13 * np.log(3), rel=0.05)
    assert "no longer falls" in outcome.sentence
