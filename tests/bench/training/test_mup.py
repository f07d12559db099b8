"""μP: one learning rate for all widths, told by starts and rates alone."""

from typing import Any

import numpy as np
import pytest
import torch

from chemscale.bench.data.token_batch import TokenBatch
from chemscale.bench.models.base import build, load_family
from chemscale.bench.training import mup
from chemscale.bench.training.step import optimiser, train_step
from chemscale.table.errors import DataError
from chemscale.table.records import RECIPES, Recipe, Study, Trunk, digest
from chemscale.testing.toys import write_structures

STANDARD = RECIPES["molecules"].model_copy(update={"learning_rate": 1e-2})
WIDTHS = (32, 64, 128, 256)


def mup_at(width: int) -> Recipe:
    return STANDARD.model_copy(update={"mup_base_width": width})


def start(family: str, width: int, recipe: Recipe) -> Any:
    """A model of two layers with heads of 16 features."""
    kind = load_family(family)
    shape = {"width": width, "num_layers": 2, "num_heads": width // 16, "vocab_size": 20}
    if family == "qwen3":
        shape["hidden"] = 2 * width
    model = build(kind, kind.Config(**shape), 0, torch.float32)
    mup.scale_start(model, recipe)
    return model


def batches(count: int) -> list[TokenBatch]:
    generator = np.random.default_rng(0)
    sizes = np.full(8, 10)
    return [TokenBatch.of(generator.integers(4, 20, 80), sizes, sizes) for _ in range(count)]


def train(model: Any, recipe: Recipe, num_steps: int) -> list[float]:
    step = optimiser(model, recipe)
    return [
        float(train_step(model, step, [batch], recipe, recipe.learning_rate))
        for batch in batches(num_steps)
    ]


def growth(family: str, recipe: Recipe) -> dict[str, float]:
    """With which power of the width a few steps change features and logits."""
    moved: dict[str, list[float]] = {"features": [], "logits": []}
    probe = batches(1)[0]

    @torch.no_grad()
    def coordinates(model: Any) -> dict[str, torch.Tensor]:
        return {"features": model.features(probe, 2), "logits": model.logits(probe)}

    for width in WIDTHS:
        model = start(family, width, recipe)
        before = coordinates(model)
        train(model, recipe, 4)
        for name, after in coordinates(model).items():
            moved[name].append(float((after - before[name]).square().mean().sqrt()))
    return {
        name: float(np.polyfit(np.log(WIDTHS), np.log(sizes), 1)[0])
        for name, sizes in moved.items()
    }


@pytest.mark.parametrize("family", ["chemgpt", "qwen3"])
def test_coordinates_move_alike_at_every_width(family: str):
    """The coordinate check of Yang et al.; without μP logits and features move ever further."""
    carried, plain = growth(family, mup_at(64)), growth(family, STANDARD)
    assert abs(carried["features"]) < 0.4
    assert abs(carried["logits"]) < 0.2
    assert plain["features"] > 1.5
    assert plain["logits"] > 0.5


@pytest.mark.parametrize("family", ["chemgpt", "qwen3"])
def test_at_its_base_width_it_changes_nothing(family: str):
    losses = [train(start(family, 32, recipe), recipe, 5) for recipe in (STANDARD, mup_at(32))]
    assert losses[0] == losses[1]


def test_what_a_step_takes_off_a_weight_is_the_same_share_at_all_widths():
    for width in (32, 256):
        groups = optimiser(start("chemgpt", width, mup_at(64)), mup_at(64)).param_groups
        (share,) = {g["rate"] * g["weight_decay"] for g in groups if g["weight_decay"]}
        assert share == pytest.approx(STANDARD.weight_decay)
        assert groups[-1]["rate"] == 1


def test_a_run_without_it_keeps_its_id():
    def trunk(recipe: Recipe) -> Trunk:
        return Trunk(
            family="chemgpt", family_revision=1, config={}, dataset="", dataset_revision=1,
            num_train=1, recipe=recipe, seed=0,
        )  # fmt: skip

    assert digest(trunk(Recipe())) == "599f9d33d97171587799"
    assert digest(trunk(Recipe(mup_base_width=64))) != digest(trunk(Recipe()))


def test_a_family_that_does_not_say_how_its_widths_go_together_is_refused(tmp_path):
    from chemscale.bench.training.workbench import Workbench

    write_structures(tmp_path / "toy.xyz")
    study = Study.model_validate(
        {
            "name": "toy",
            "families": {"schnet": ["w16"]},
            "dataset": {"format": "extxyz", "path": "toy.xyz", "max_rejected": 0.5},
            "num_train": [10],
            "recipe": {"name": "energy-and-forces", "mup_base_width": 16},
            "budget": {"items": 1000},
        }
    )
    with pytest.raises(DataError, match="SchNet: mup_base_width is for chemgpt and qwen3"):
        Workbench(study, tmp_path).size("schnet", "w16")
