"""ChemGPT on a GPU: tokens a second and how much of the GPU's arithmetic the model makes use of.

    python benchmarks/mfu.py MOLECULES [--sizes w64 w256 …] [--tokens 20000] [--compile] [--peer]

MOLECULES is a CSV file or a token store of `chemscale prepare`. A step is that of training, batches
collated and moved within it, bfloat16 by autocast unless `--precision` says otherwise. A batch has
as many molecules as make about `--tokens` tokens. Model FLOPs are the closed form's, those of
attention included, of products computed again none; they are set against what a product of
8,192 × 8,192 matrices of random bfloat16 reaches here, and against 989 TFLOP/s, which the vendor
gives for an H100 or H200 (SXM). With `--peer` GPT-Neo of transformers, padded to the longest
molecule of each batch, takes the same steps in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from chemscale.bench.models.base import LanguageModel
from chemscale.bench.training.cuda_graphs import Stepper
from chemscale.bench.training.devices import device_name
from chemscale.bench.training.recipe import Batches
from chemscale.bench.training.resources import Resources
from chemscale.bench.training.workbench import Workbench, start_model
from chemscale.table.records import Recipe, Study

DATASHEET = 989e12
GPU = torch.device("cuda")
ROUNDS, WARM = 5, 3


def main() -> None:
    """Time each size and print its row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("molecules", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["w64", "w256", "w512", "w1024", "w2048"])
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="layers by torch.compile")
    parser.add_argument("--peer", action="store_true", help="GPT-Neo of transformers in turn")
    options = parser.parse_args()
    print(f"{device_name(GPU)}, torch {torch.__version__}, {options.precision}, large product:")
    reached = large_product()
    print(f"{reached / 1e12:,.0f} TFLOP/s")
    print(
        "| size | parameters | molecules | tokens/s | MFU | of a large product | peak GB | peer |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in options.sizes:
        print(row(size, options, reached), flush=True)
        torch.cuda.empty_cache()


def large_product() -> float:
    """FLOP/s of a product of two large matrices."""
    one, two = (torch.randn(8192, 8192, device=GPU, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / median(seconds(lambda: one @ two) for _ in range(10))


def row(size: str, options: argparse.Namespace, reached: float) -> str:
    """One size, timed."""
    bench = workbench(options)
    recipe, dataset = bench.study.recipe.resolve(), bench.dataset
    config = bench.family("chemgpt").fitted_config(size, dataset)
    items = dataset.indices("train")
    count = max(1, options.tokens // (dataset.num_tokens(items) // len(items)))
    model = start_model(bench, "chemgpt", config, recipe, items, 0)
    resources = Resources(compile=options.compile)
    resources.prepare(model)
    model.to(GPU)
    step, collate = Stepper(model, recipe, resources), dataset.collate(config)
    batches = Batches(items, count, 0)
    num_steps = (WARM + ROUNDS) * options.steps
    tokens, flops = [0] * num_steps, [0.0] * num_steps

    def ours(k: int) -> None:
        batch = collate(batches[k])
        tokens[k], flops[k] = len(batch.tokens), model.flops(model.seen(batch), recipe)
        step(batch, recipe.learning_rate)

    sides: dict[str, Callable[[int], None]] = {"ours": ours}
    if options.peer:
        sides["peer"] = peer(model, recipe, [collate(batches[k]) for k in range(num_steps)])
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(WARM + ROUNDS):
        steps = range(number * options.steps, (number + 1) * options.steps)
        for name, take in sides.items():
            times[name].append(seconds(lambda take=take, steps=steps: [take(k) for k in steps]))
        if number == 0:
            print(f"{size}: first round {times['ours'][0]:.1f} s", file=sys.stderr, flush=True)
    mine, timed = times["ours"][WARM:], slice(WARM * options.steps, None)
    rounds = sum(mine)
    ratio = "–"
    if options.peer:
        ratio = f"{median(b / a for a, b in zip(mine, times['peer'][WARM:], strict=True)):.2f}"
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return (
        f"| {size} | {model.num_params_total / 1e6:,.1f} M | {count} | "
        f"{sum(tokens[timed]) / rounds:,.0f} | {sum(flops[timed]) / rounds / DATASHEET:.1%} | "
        f"{sum(flops[timed]) / rounds / reached:.1%} | "
        f"{peak:.1f} | {ratio} |"
    )


def workbench(options: argparse.Namespace) -> Workbench:
    """Of a study of these molecules."""
    whole = options.molecules.resolve()
    recipe = {"name": "molecules", "precision": options.precision}
    study: dict[str, Any] = {
        "name": "mfu",
        "families": {"chemgpt": ["w64"]},
        "dataset": {"format": "tokens" if whole.is_dir() else "csv", "path": str(whole)},
        "num_train": [1000],
        "recipe": recipe,
        "budget": {"items": 1000},
    }
    return Workbench(Study.read(study, "here"), Path())


def peer(model: LanguageModel, recipe: Recipe, batches: list[Any]) -> Callable[[int], None]:
    """The same steps by transformers, on batches that lie ready on the GPU."""
    from worker_transformers import GPTNeo

    job = {
        "config": model.counterpart.to_config(model.config),
        "recipe": recipe.model_dump(),
        "autocast": recipe.precision == "bfloat16",
        "device": GPU.type,
    }
    return GPTNeo(job, [(one.tokens, one.targets, one.lengths) for one in batches]).step


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of some work, and of what the GPU does for it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
