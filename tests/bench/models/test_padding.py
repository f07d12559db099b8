"""What pads a batch of structures, so that steps on it can be recorded."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from chemscale.bench.models.base import build, load_family
from chemscale.bench.nn import native
from chemscale.bench.training.workbench import Workbench
from chemscale.table.records import Study

SIZES = {"painn": "w16", "schnet": "w16", "mace": "w8", "allegro": "w8"}


@pytest.fixture(scope="module")
def bench() -> Workbench:
    study = Study(
        name="padded",
        families={name: [size] for name, size in SIZES.items()},
        dataset={"name": "example-structures"},
        num_train=[8],
        recipe="energy-and-forces",
        budget={"items": 8},
    )
    return Workbench(study, Path.cwd())


@pytest.mark.parametrize("name", SIZES)
def test_what_pads_a_batch_changes_neither_loss_nor_gradient(name: str, bench: Workbench):
    recipe = bench.study.recipe.resolve()
    config = bench.family(name).fitted_config(SIZES[name], bench.dataset)
    model = build(load_family(name), config, 0, torch.float64)
    items = bench.dataset.subset(7, 0)
    model.calibrate(bench.dataset, items)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    batch = bench.dataset.collate(config)(items)
    more = batch.padded(2 * model.cutoff)
    assert batch.num_atoms < more.num_atoms <= 1.2 * batch.num_atoms
    assert len(batch.senders) < len(more.senders) <= 1.2 * len(batch.senders)
    assert (more.receivers.diff() >= 0).all()
    assert len(more.find_pairs()) == len(more.senders) // 2
    found = []
    for way in (native.plain, nullcontext):
        for graph in (batch, more):
            with way():
                loss = model.loss(graph, recipe)
                found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    assert found[0][0] > 0
    for expected, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, expected, rtol=1e-10, atol=1e-12)
