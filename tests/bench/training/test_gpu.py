"""On a GPU: a run like any other, half precision, memory; and which worker has which GPU."""

import itertools
import os
from pathlib import Path

import pytest
import torch

from chemscale.bench.executors.local import Local, gpus_of
from chemscale.bench.nn import native
from chemscale.bench.nn.attention import Packing, attend
from chemscale.bench.training.cuda_graphs import Stepper
from chemscale.bench.training.loop import train_run
from chemscale.bench.training.recipe import Batches
from chemscale.bench.training.step import optimiser, train_step
from chemscale.bench.training.workbench import Workbench, start_model
from chemscale.table.errors import UsageError
from chemscale.table.expand import sweep_runs
from chemscale.table.store import StudyFolder

GPU = torch.device("cuda")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

STUDY = """\
name = "on-a-gpu"
families = {{ {family} = ["{size}"] }}
dataset = "{data}"
num_train = [500]
recipe = {{ name = "{recipe}", batch_size = 64, precision = "{precision}", warmup = 500 }}
budget = {{ items = 4000 }}
"""
MOLECULES = {"family": "chemgpt", "data": "example-molecules", "recipe": "molecules"}
STRUCTURES = {"data": "example-structures", "recipe": "energy-and-forces"}
of_each_kind = pytest.mark.parametrize(
    "of",
    [
        MOLECULES | {"size": "w64"},
        MOLECULES | {"size": "w64", "precision": "bfloat16"},
        *(STRUCTURES | {"family": f, "size": "w16"} for f in ("schnet", "painn", "mace")),
    ],
)


def bench(folder: Path, **of: str) -> Workbench:
    (folder / "study.toml").write_text(STUDY.format(**{"precision": "float32", **of}))
    return Workbench(StudyFolder(folder).study(), folder)


@on_gpu
@of_each_kind
def test_a_run_that_stops_and_goes_on_ends_as_one_that_does_not(tmp_path: Path, of: dict[str, str]):
    """To rounding: sums on a GPU have no order."""
    outcomes = []
    steps = itertools.count()
    for name in ("whole", "stopped"):
        place = tmp_path / name
        place.mkdir()
        made, folder = bench(place, **of), StudyFolder(place)
        (run,) = sweep_runs(made.study, made, [])
        folder.ask({"sweep": [run]})
        if name == "stopped":
            assert train_run(folder, run.id, bench=made, stop=lambda: next(steps) > 20) is None
        outcomes.append(train_run(folder, run.id, bench=made))
    whole, stopped = outcomes
    assert whole.status == stopped.status == "finished"
    assert whole.machine["device"] not in ("", "cpu")
    assert whole.seconds > 0
    assert stopped.val_loss == pytest.approx(whole.val_loss, rel=0.02)
    assert stopped.val_loss < 0.8 * folder.open_run(run.id).curve()["val_loss"][0]


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 5])
def test_attention_without_padding_is_that_with_it(window: int | None, dtype: torch.dtype):
    torch.manual_seed(0)
    lengths = torch.tensor([3, 17, 1, 150])
    molecule = torch.arange(4).repeat_interleave(lengths).to(GPU)
    positions = torch.cat([torch.arange(n) for n in lengths]).to(GPU)
    packing = Packing.of(molecule, positions, lengths)
    packed = torch.randn(171, 3 * 48, device=GPU, dtype=dtype) / 3  # heads of 12 features
    weights = torch.randn(171, 48, device=GPU)

    def run(packed: torch.Tensor) -> list[torch.Tensor]:
        given = packed.clone().requires_grad_()
        out = attend(given, packing, 4, window)
        return [out, *torch.autograd.grad((out * weights).sum(), given)]

    assert native.serves_on_gpu(packed, half=True)
    found = run(packed)
    assert all(torch.equal(a, b) for a, b in zip(found, run(packed), strict=True))
    with native.plain():
        expected = run(packed.double())
    for ours, plain in zip(found, expected, strict=True):
        assert (ours - plain).norm() / plain.norm() < (1e-5 if dtype == torch.float32 else 1e-2)


@on_gpu
@of_each_kind
def test_a_recorded_step_is_that_which_is_not_recorded(tmp_path: Path, of: dict[str, str]):
    made = bench(tmp_path, **of)
    recipe, items = made.study.recipe.resolve(), made.dataset.indices("train")[:400]
    config = made.family(of["family"]).fitted_config(of["size"], made.dataset)
    batches, collate = Batches(items, 64, 0), made.dataset.collate(config)
    losses = []
    for recorded in (True, False):
        model = start_model(made, of["family"], config, recipe, items, 0).to(GPU)
        model.recordable = recorded
        step = Stepper(model, recipe)
        losses.append([float(step(collate(batches[k]), 1e-3 + 1e-4 * k)) for k in range(30)])
        assert (step._recorder is not None) == recorded
    found, usual = losses
    assert found == pytest.approx(usual, rel=1e-2 if "precision" in of else 2e-4)
    assert usual[-1] < 0.98 * usual[0]


@on_gpu
@pytest.mark.parametrize(
    ("of", "batch"),
    [
        (MOLECULES | {"size": "w256"}, 512),
        (STRUCTURES | {"family": "painn", "size": "w128"}, 64),
    ],
)
def test_memory_is_predicted(tmp_path: Path, of: dict[str, str], batch: int):
    torch.nn.Linear(64, 64).to(GPU)(torch.ones(64, 64, device=GPU)).sum().backward()
    before = torch.cuda.memory_allocated()  # cuBLAS keeps some for itself
    made = bench(tmp_path, **of)
    predicted = made.peaks.predict(of["family"], of["size"], batch)
    recipe = made.study.recipe.resolve()
    config = made.family(of["family"]).fitted_config(of["size"], made.dataset)
    items = made.peaks._largest[of["family"], batch][0]
    model = made.family(of["family"])(config).to(GPU)
    model.calibrate(made.dataset, items)
    step = optimiser(model, recipe)
    part = made.dataset.collate(config)(items).to(GPU, torch.float32)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        train_step(model, step, [part], recipe, 1e-4)
    measured = torch.cuda.max_memory_allocated() - before
    assert predicted == pytest.approx(measured, rel=0.2)


def test_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [gpus_of(n, 1)["CUDA_VISIBLE_DEVICES"] for n in range(4)] == ["4", "6", "7", "4"]
    assert gpus_of(1, 2) == {"CUDA_VISIBLE_DEVICES": "7,4"}
    assert Local().workers == 3
    assert Local(ranks=2).workers == 1
    assert Local(workers=6).workers == 6
    with pytest.raises(UsageError, match="has 3 GPUs"):
        Local(ranks=4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert gpus_of(0, 1) == {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert Local().workers == 2
