"""Parts of a batch and several processes change how a run is trained, not what comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chemscale import verbs
from chemscale.bench.models.base import Seen, build, load_family
from chemscale.bench.training import tensors
from chemscale.bench.training.resources import Resources
from chemscale.bench.training.step import optimiser, shares, train_step
from chemscale.bench.training.workbench import Workbench
from chemscale.table.errors import UsageError
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder
from chemscale.testing.toys import toy_smiles, write_structures

MOLECULES = """\
name = "toy"
families = {{ chemgpt = ["w24"] }}
dataset = {{ format = "smi", path = "toy.smi", max_length = 32 }}
num_train = [40]
recipe = {{ name = "molecules", warmup = 200, batch_size = 32 {more} }}
budget = {{ items = {items}, patience = 1.0 }}
"""
STRUCTURES = """\
name = "toy"
families = {{ painn = ["w16"] }}
dataset = {{ format = "extxyz", path = "toy.xyz", test = 0.15, validation = 0.15 }}
num_train = [20]
recipe = {{ name = "energy-and-forces", warmup = 200, batch_size = 16 {more} }}
budget = {{ items = {items}, patience = 1.0 }}
"""
STUDIES = {"chemgpt": MOLECULES, "painn": STRUCTURES}


def make(place: Path, family: str, items: int = 1100, more: str = "") -> StudyFolder:
    place.mkdir()
    write_structures(place / "toy.xyz", 60)
    (place / "toy.smi").write_text("\n".join(toy_smiles()) + "\n")
    (place / "study.toml").write_text(STUDIES[family].format(items=items, more=more))
    return StudyFolder(place)


def losses(folder: StudyFolder) -> np.ndarray:
    """Training loss of each step, then the losses at the end."""
    (path,) = folder.run_folders().values()
    outcome = RunFolder(path).outcome()
    assert outcome is not None and outcome.status == "finished", outcome
    judged = [outcome.metrics[split]["loss"] for split in ("validation", "test")]
    return np.array([*RunFolder(path).curve().step_losses, *judged])


def trained(place: Path, family: str, more: str = "", **resources: Any) -> np.ndarray:
    folder = make(place, family, more=more)
    verbs.train(folder.path, workers=1, **resources)
    return losses(folder)


def test_a_batch_is_cut_in_order_and_no_item_is_lost():
    items, loads = np.arange(10, 20), np.array([3, 3, 3, 9, 1, 1, 1, 1, 1, 8])
    (parts,) = shares(items, loads, 6, 1)
    assert [part.tolist() for part in parts] == [[10, 11], [12], [13], [14, 15, 16, 17, 18], [19]]
    assert np.concatenate(parts).tolist() == items.tolist()
    (whole,) = shares(items, loads, None, 1)
    assert len(whole) == 1
    ranks = shares(items, loads, None, 3)
    assert [part.tolist() for (part,) in ranks] == [[10, 11, 12], [13, 14, 15], [16, 17, 18, 19]]


# Losses over tokens are taken in single precision whatever the model's.
@pytest.mark.parametrize(("family", "error"), [("chemgpt", 1e-6), ("painn", 1e-12)])
def test_the_gradients_of_parts_add_up_to_those_of_the_batch(
    tmp_path: Path, family: str, error: float
):
    folder = make(tmp_path / "study", family)
    bench = Workbench(folder.study(), folder.path)
    recipe = bench.study.recipe.resolve()
    kind = load_family(family)
    config = kind.fitted_config("w24" if family == "chemgpt" else "w16", bench.dataset)
    items = bench.dataset.indices("train")[:12]
    collate = bench.dataset.collate(config)
    found = []
    for cut in ([items], [items[:3], items[3:4], items[4:]]):
        model = build(kind, config, 1, torch.float64)
        model.calibrate(bench.dataset, items)
        parts = [collate(part).to(torch.device("cpu"), torch.float64) for part in cut]
        seen = [model.seen(part) for part in parts]
        whole = Seen(**{k: sum(getattr(one, k) for one in seen) for k in vars(seen[0])})
        step = optimiser(model, recipe)
        told = {} if len(parts) == 1 else {"whole": whole}
        loss = train_step(model, step, parts, recipe, 1e-3, **told)
        found.append((loss, [p.grad for p in model.parameters()]))
    (one, gradients), (other, summed) = found
    torch.testing.assert_close(one.double(), other.double(), rtol=1e-6, atol=0)
    for a, b in zip(gradients, summed, strict=True):
        assert (a - b).norm() <= error * a.norm()


@pytest.mark.usefixtures("here")
def test_a_limit_on_what_is_computed_at_a_time_is_part_of_a_run_but_changes_rounding_only(
    tmp_path: Path,
):
    whole = trained(tmp_path / "whole", "chemgpt")
    parts = trained(tmp_path / "parts", "chemgpt", ", max_tokens = 100")
    np.testing.assert_allclose(parts, whole, rtol=2e-4)
    assert (parts != whole).any()
    ids = [StudyFolder(tmp_path / name).run_folders().keys() for name in ("whole", "parts")]
    assert ids[0] != ids[1]


def test_a_layer_computed_again_gives_the_same_gradients(tmp_path: Path):
    folder = make(tmp_path / "study", "chemgpt")
    bench = Workbench(folder.study(), folder.path)
    kind = load_family("chemgpt")
    config = kind.fitted_config("w24", bench.dataset)
    batch = bench.dataset.collate(config)(bench.dataset.indices("train")[:12])
    model = build(kind, config, 1, torch.float32)
    found = []
    for again in (False, True):
        model.recompute = again
        model.zero_grad()
        model.loss(batch, bench.study.recipe.resolve()).backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_parts_and_ranks_need_less_memory_and_computing_again_no_more(tmp_path: Path):
    folder = make(tmp_path / "study", "chemgpt")
    bench = Workbench(folder.study(), folder.path)
    usual = bench.peaks.predict("chemgpt", "w64", 1024)
    again = bench.peaks.predict("chemgpt", "w64", 1024, Resources(recompute=True))
    parts = bench.peaks.predict("chemgpt", "w64", 1024, max_load=1000)
    spread = bench.peaks.predict("chemgpt", "w1024", 32, Resources(ranks=8, shard=True))
    assert again <= usual
    assert parts < 0.6 * usual
    assert spread < 0.4 * bench.peaks.predict("chemgpt", "w1024", 32)


@pytest.mark.parametrize("option", ["shard", "recompute", "compile"])
def test_what_works_by_layers_is_refused_for_a_potential(option: str):
    with pytest.raises(UsageError, match=f"--{option} works layer by layer"):
        Resources(ranks=2, **{option: True}).refuse_for(load_family("painn"), "painn")


def test_a_file_of_tensors_is_one_that_the_library_reads(tmp_path: Path):
    from safetensors.torch import load_file

    given = {
        "half": torch.arange(3).to(torch.bfloat16),
        "double": torch.randn(2, 3, dtype=torch.float64).T,
        "number": torch.tensor(7.0),
        "none": torch.empty(0, 4),
        "many": torch.arange(5),
    }
    with (tmp_path / "weights.safetensors").open("wb") as stream:
        for piece in tensors.file(given):
            stream.write(piece)
    read = load_file(tmp_path / "weights.safetensors")
    assert set(read) == set(given)
    assert all(torch.equal(read[name], given[name]) for name in given)
    ours = tensors.Files(tmp_path, "weights")
    assert all(torch.equal(ours[name], given[name]) for name in given)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "shard"), [("chemgpt", True), ("painn", False)])
def test_two_ranks_train_as_one_does(tmp_path: Path, family: str, shard: bool):
    alone = trained(tmp_path / "alone", family)
    together = trained(tmp_path / "together", family, ranks=2, **({"shard": True} if shard else {}))
    np.testing.assert_allclose(together[:8], alone[:8], rtol=1e-4)
    np.testing.assert_allclose(together, alone, rtol=2e-2)  # rounding grows along the way
    folder = StudyFolder(tmp_path / "together")
    (path,) = folder.run_folders().values()
    outcome = RunFolder(path).outcome()
    assert outcome is not None
    assert outcome.machine["ranks"] == "2"
    assert outcome.machine.get("shard") == ("True" if shard else None)
    files = {file.name for file in RunFolder(path).checkpoints().popitem()[1].glob("weights*")}
    assert len(files) == (2 if shard else 1)
    assert RunFolder(path).spent() == outcome.flops_spent


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns about itself
def test_compiled_layers_give_the_same_gradients(tmp_path: Path):
    folder = make(tmp_path / "study", "chemgpt")
    bench = Workbench(folder.study(), folder.path)
    kind = load_family("chemgpt")
    config = kind.fitted_config("w24", bench.dataset)
    collate = bench.dataset.collate(config)
    items = bench.dataset.indices("train")
    model = build(kind, config, 1, torch.float32)
    found: list[list[torch.Tensor]] = []
    for compiled in (False, True):
        Resources(compile=compiled).prepare(model)
        found.append([])
        for few in (items[:12], items[12:17]):
            model.zero_grad()
            model.loss(collate(few), bench.study.recipe.resolve()).backward()
            found[-1] += [p.grad.clone() for p in model.parameters()]
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


@pytest.mark.slow
def test_what_two_ranks_began_one_goes_on_with(tmp_path: Path):
    direct = make(tmp_path / "direct", "chemgpt", items=1200, more=", ema = 0.9")
    verbs.train(direct.path, workers=1)
    folder = make(tmp_path / "parts", "chemgpt", items=1030, more=", ema = 0.9")
    verbs.train(folder.path, workers=1, ranks=2, shard=True)
    study = (folder.path / "study.toml").read_text()
    (folder.path / "study.toml").write_text(study.replace("items = 1030", "items = 1200"))
    # The longer run adopts the checkpoint that two ranks wrote.
    verbs.train(folder.path, workers=1)
    (run,) = [one for one in folder.trained() if one.run.length.items == 1200]
    found = folder.open_run(run.run.id).curve().step_losses
    assert len(found) == len(losses(direct)) - 2
    np.testing.assert_allclose(found, losses(direct)[:-2], rtol=2e-2)
    assert run.outcome.metrics["test"]["loss"] == pytest.approx(losses(direct)[-1], rel=2e-2)
    assert "starts from the trunk of" in (folder.open_run(run.run.id).path / "log.txt").read_text()
