"""Does one learning rate hold at every width? The optimum under μP and under the standard start.

Trains two-layer models of some widths, heads of 16 features, at a ladder of rates, for a few
hundred steps on the example molecules: same seed, same batches. The optimum of each width is the
vertex of a parabola through the best rate and its neighbours, in logarithms of the rate.

    python benchmarks/mup.py --widths 32 128 --exponents -11 -6
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np
import torch

from chemscale.bench.data.examples import molecules
from chemscale.bench.models.base import build, load_family
from chemscale.bench.training import mup
from chemscale.bench.training.recipe import Batches
from chemscale.bench.training.step import optimiser, train_step
from chemscale.table.records import RECIPES, Recipe


def main() -> None:
    """Train all, print a table and where the optima lie."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="chemgpt", choices=("chemgpt", "qwen3"))
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--exponents", type=int, nargs=2, default=[-11, -6], metavar="K")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = molecules()
    rates = [2.0**k for k in range(options.exponents[0], options.exponents[1] + 1)]
    print(
        "| parametrisation, width | " + " | ".join(f"2^{math.log2(r):.0f}" for r in rates), end=""
    )
    print(" | optimum, log2 |\n|" + " --- |" * (len(rates) + 2))
    base = min(options.widths)
    for name, base_width in (("standard", None), (f"μP from {base}", base)):
        optima = []
        for width in options.widths:
            losses = [
                train(data, options, width, recipe_at(rate, base_width, options.batch_size))
                for rate in rates
            ]
            optima.append(vertex(np.log2(rates), losses))
            cells = " | ".join(f"{loss:.3f}" for loss in losses)
            print(f"| {name}, {width} | {cells} | {optima[-1]:.1f} |", flush=True)
        slope = np.polyfit(np.log2(options.widths), optima, 1)[0]
        print(f"\n{name}: the optimum goes with width to the power {slope:.2f}\n", file=sys.stderr)


def recipe_at(rate: float, base_width: int | None, batch_size: int) -> Recipe:
    """The molecules' recipe at another rate."""
    return RECIPES["molecules"].model_copy(
        update={"learning_rate": rate, "mup_base_width": base_width, "batch_size": batch_size}
    )


def train(data: Any, options: argparse.Namespace, width: int, recipe: Recipe) -> float:
    """Mean loss of the last tenth of steps, nats per token; warmup of a tenth, then constant."""
    kind = load_family(options.family)
    shape = {"width": width, "num_layers": 2, "num_heads": width // 16}
    if options.family == "qwen3":
        shape["hidden"] = 16 * round(width / 6)
    config = kind.Config(**shape, vocab_size=len(data.vocabulary()))
    model = build(kind, config, 0, torch.float32)
    mup.scale_start(model, recipe)
    step, collate = optimiser(model, recipe), data.collate(config)
    order = Batches(data.subset(options.steps * recipe.batch_size, 0), recipe.batch_size, 0)
    losses = []
    for k in range(options.steps):
        rate = recipe.learning_rate * min(1.0, 10 * (k + 1) / options.steps)
        losses.append(float(train_step(model, step, [collate(order[k])], recipe, rate)))
    return float(np.mean(losses[-options.steps // 10 :]))


def vertex(places: np.ndarray, losses: list[float]) -> float:
    """Where a parabola through the lowest point and its neighbours is lowest."""
    best = int(np.argmin(losses))
    if best in (0, len(losses) - 1):
        return float(places[best])  # at the edge: the ladder of rates is too short
    near = slice(best - 1, best + 2)
    curve = np.polyfit(places[near], losses[near], 2)
    return float(-curve[1] / (2 * curve[0]))


if __name__ == "__main__":
    main()
