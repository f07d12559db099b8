"""Time sampling from ChemGPT beside `transformers.generate`, in turn, with the same weights.

Both keep keys and values, and draw from the same distribution. Ours lets a sequence that ends make
room for the next and stops computing it; the peer goes on until the last of its batch has ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import transformers

from chemscale.bench.data.token_batch import BOS, EOS, PAD, TokenBatch
from chemscale.bench.models.chemgpt import ChemGPT
from chemscale.bench.nn import native
from chemscale.bench.training.recipe import Batches
from chemscale.bench.training.step import optimiser, train_step
from chemscale.bench.training.workbench import Workbench, start_model
from chemscale.bench.using.sample import NEVER, Sampling, sample
from chemscale.table.records import Study


def main() -> None:
    """Time the sizes asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["w32", "w64", "w128"])
    parser.add_argument("--steps", type=int, default=150, help="of training, on 32 molecules each")
    parser.add_argument("--count", type=int, default=256, help="molecules a round")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--max-length", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    results = [_time(size, options) for size in options.sizes]
    print(
        f"\ntorch {torch.__version__}, transformers {transformers.__version__}, "
        f"{options.threads} threads, {options.count} molecules in batches of {options.batch_size}, "
        f"at most {options.max_length} tokens; median of {options.rounds} rounds, in brackets "
        "the quartiles\n"
    )
    print("| width × layers | path | length, longest | ours, tokens/s | peer, tokens/s "
          "| ratio by CPU time | by wall time | logits differ |")  # fmt: skip
    print("| --- " * 8 + "|")
    for one in results:
        print("| " + " | ".join(one["row"]) + " |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _time(size: str, options: argparse.Namespace) -> dict[str, Any]:
    ours = _trained(size, options.steps)
    peer = transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(**ChemGPT.counterpart.to_config(ours.config))
    ).eval()
    peer.load_state_dict(
        ChemGPT.counterpart.theirs(ours.state_dict(), ours.num_layers), strict=False
    )
    difference = _difference(ours, peer)
    _ours(ours, options, -1), _peer(peer, options, -1)  # warm up
    rounds = []
    for number in range(options.rounds):
        sides = {
            "ours": lambda n: _ours(ours, options, n),
            "peer": lambda n: _peer(peer, options, n),
        }
        order = list(sides) if number % 2 else list(sides)[::-1]
        rounds.append({name: _timed(sides[name], number) for name in order})
        print(f"{size} round {number + 1}", rounds[-1], flush=True)

    def ratio(clock: str) -> str:
        values = [
            (r["peer"][clock] / r["peer"]["tokens"]) / (r["ours"][clock] / r["ours"]["tokens"])
            for r in rounds
        ]
        low, _, high = quantiles(values, n=4)
        return f"**{median(values):.2f}** ({low:.2f}–{high:.2f})"

    def rate(side: str) -> str:
        return f"{median(r[side]['tokens'] / r[side]['cpu'] for r in rounds):,.0f}"

    lengths = median(r["ours"]["tokens"] / options.count for r in rounds)
    longest = max(max(r["ours"]["longest"], r["peer"]["longest"]) for r in rounds)
    config = ours.config
    row = [
        f"{config.width} × {config.num_layers}", native.path(ours.norm.weight),
        f"{lengths:.1f}, {longest}", rate("ours"), rate("peer"), ratio("cpu"), ratio("wall"),
        f"{difference:.1e}",
    ]  # fmt: skip
    return {"size": size, "rounds": rounds, "row": row}


def _trained(size: str, steps: int) -> ChemGPT:
    """A model that has seen enough for molecules of a sensible length."""
    study = Study.read(
        {
            "name": "generate", "families": {"chemgpt": [size]}, "num_train": [20_000],
            "dataset": "example-molecules", "recipe": "molecules", "budget": {"items": 1000},
        },
        "benchmark",
    )  # fmt: skip
    bench = Workbench(study, Path())
    recipe = study.recipe.resolve().model_copy(update={"warmup": 0})
    config = ChemGPT.fitted_config(size, bench.dataset)
    subset = bench.dataset.subset(20_000, 0)
    model = start_model(bench, "chemgpt", config, recipe, subset, 0)
    assert isinstance(model, ChemGPT)
    optimizer, collate = optimiser(model, recipe), bench.dataset.collate(config)
    batches = Batches(subset, recipe.batch_size, 0)
    for step in range(steps):
        rate = recipe.learning_rate * min(1.0, (step + 1) / 20)
        train_step(model, optimizer, [collate(batches[step])], recipe, rate)
    return model.eval()


@torch.no_grad()
def _difference(ours: ChemGPT, peer: Any) -> float:
    """The largest difference of logits along a few samples."""
    worst = 0.0
    for row in sample(ours, [[]] * 5, Sampling(), seed=0, batch_size=5, max_length=60):
        symbols = row[row != EOS]
        batch = TokenBatch.of(symbols, *[symbols.shape[0] * torch.ones(1).long().numpy()] * 2)
        theirs = peer(input_ids=batch.tokens[None]).logits[0]
        worst = max(worst, float((ours.logits(batch) - theirs).abs().max()))
    return worst


def _ours(model: ChemGPT, options: argparse.Namespace, number: int) -> list[int]:
    rows = sample(
        model, [[]] * options.count, Sampling(), seed=number + 1,
        batch_size=options.batch_size, max_length=options.max_length,
    )  # fmt: skip
    return [len(row) for row in rows]


def _peer(model: Any, options: argparse.Namespace, number: int) -> list[int]:
    torch.manual_seed(number + 1)
    lengths: list[int] = []
    while len(lengths) < options.count:
        start = torch.full((min(options.batch_size, options.count - len(lengths)), 1), BOS)
        found = model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, top_k=0, top_p=1.0,
            max_length=options.max_length + 1, suppress_tokens=NEVER, use_cache=True,
        )  # fmt: skip
        lengths += (found[:, 1:] != PAD).sum(dim=1).tolist()
    return lengths


def _timed(side: Any, number: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    lengths = side(number)
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return took | {"tokens": sum(lengths), "longest": max(lengths)}


if __name__ == "__main__":
    main()
