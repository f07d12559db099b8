"""A training step of each potential on an accelerator that is none: devices, and no content.

Its tensors refuse company on a CPU, and to tell a number that the processor would wait for.
Run by `test_step.py` in a process of its own, as a backend can be registered once.
"""

import dataclasses
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import backend_registration as registration

from chemscale.bench.models.base import build, load_family
from chemscale.bench.training.average import Average
from chemscale.bench.training.step import optimiser, train_step
from chemscale.bench.training.workbench import Workbench
from chemscale.table.records import Study

NAMED = {"painn": "w16", "schnet": "w16", "mace": "w8", "allegro": "w8", "spookynet": "w8"}


class Backend(registration._DummyBackendModule):
    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


def empty(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def main() -> None:
    registration._setup_privateuseone_for_python_backend("nowhere", Backend())
    device = torch.device("nowhere:0")
    study = Study(
        name="nowhere",
        families={name: [size] for name, size in NAMED.items()},
        dataset={"name": "example-structures"},
        num_train=[8],
        recipe={"name": "energy-and-forces", "batch_size": 8, "ema": 0.9},
        budget={"items": 8},
    )
    bench, recipe = Workbench(study, Path.cwd()), study.recipe.resolve()
    items = bench.dataset.subset(8, 0)
    for name, size in NAMED.items():
        config = bench.family(name).fitted_config(size, bench.dataset)
        model = build(load_family(name), config, 0, torch.float32)
        batch = bench.dataset.collate(config)(items)
        # Spookynet asks for pairs of atoms, of which it needs the number: a wait it has to take.
        shapes = ShapeEnv() if name == "spookynet" else None
        with FakeTensorMode(shape_env=shapes) as mode:
            for module in model.modules():
                for key, weight in module._parameters.items():
                    if weight is not None:
                        module._parameters[key] = torch.nn.Parameter(empty(weight, device))
                for key, held in module._buffers.items():
                    module._buffers[key] = empty(held, device)
            there = {k: mode.from_tensor(v) for k, v in vars(batch).items() if v is not None}
            graph = dataclasses.replace(batch, **there).to(device, torch.float32)
            average, step = Average(model, recipe.ema), optimiser(model, recipe)
            loss = train_step(model, step, [graph], recipe, 1e-3)
            average.add(1)
            assert loss.device == device
        print(name, flush=True)


if __name__ == "__main__":
    main()
