"""How much of a ChemGPT training step is matrix products, and how fast these run here.

What a faster rest of the step could still bring follows: with all else free, a step would take as
long as its products. `python benchmarks/ceiling.py --size w128`
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from chemscale.bench.models.base import load_family
from chemscale.bench.training.recipe import Batches
from chemscale.bench.training.step import optimiser, train_step
from chemscale.bench.training.workbench import Workbench, start_model
from chemscale.table.records import Study

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")


def main() -> None:
    """Print the share and the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="w128", help="of chemgpt's ladder")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(
        name="ceiling",
        families={"chemgpt": (arguments.size,)},
        dataset={"name": "example-molecules"},
        num_train=(1000,),
        recipe="molecules",
        budget={"items": 1000},
    )
    bench = Workbench(study, Path())
    recipe = study.recipe.resolve()
    config = load_family("chemgpt").fitted_config(arguments.size, bench.dataset)
    subset = bench.dataset.subset(1000, 0)
    model = start_model(bench, "chemgpt", config, recipe, subset, 0)
    step, collate = optimiser(model, recipe), bench.dataset.collate(config)
    order = Batches(subset, recipe.batch_size, 0)
    batches = [collate(order[k]) for k in range(arguments.steps)]
    pairs = [model.seen(batch) for batch in batches]
    flops = model.flops_formula(config, recipe)["tokens"]

    def run() -> list[float]:
        times = []
        for batch in batches:
            start = time.process_time()
            train_step(model, step, [batch], recipe, recipe.learning_rate)
            times.append(time.process_time() - start)
        return times

    run()
    seconds = median(run())
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        run()
    rows = recorded.key_averages()
    whole = sum(row.self_cpu_time_total for row in rows)
    share = sum(row.self_cpu_time_total for row in rows if row.key in PRODUCTS) / whole
    tokens = median(one.tokens for one in pairs)
    rate = tokens * flops / (share * seconds) / 1e9
    square = torch.randn(1024, 1024)
    start = time.process_time()
    for _ in range(10):
        square @ square
    best = 10 * 2 * 1024**3 / (time.process_time() - start) / 1e9
    what = f"chemgpt {arguments.size}, {recipe.precision}, one thread"
    print(f"{what}: {tokens / seconds:,.0f} tokens/s")
    print(f"matrix products: {100 * share:.0f} % of the step, at {rate:.0f} GFLOP/s")
    print(f"a product of 1024 x 1024 matrices: {best:.0f} GFLOP/s")
    print(f"with all else free: {tokens / seconds / share:,.0f} tokens/s, {1 / share:.2f} times")


if __name__ == "__main__":
    main()
