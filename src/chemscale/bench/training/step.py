"""One training step: a batch in parts, their gradients summed, the update.

A step is always `batch_size` items. Where that is too much at a time, `max_tokens` or `max_edges`
of the recipe cut the batch, in order, into parts; where several processes train a run together
(`ranks`) each takes its share first. The parts' gradients add up to the batch's, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from chemscale.bench.data.base import Indices
from chemscale.bench.models.base import Family, Seen
from chemscale.bench.training import mup
from chemscale.bench.training.ranks import ALONE, Ranks
from chemscale.table.records import Recipe


def optimiser(model: Family, recipe: Recipe, *, recorded: bool = False) -> torch.optim.Optimizer:
    """AdamW; weights of matrices decay, biases, norms and embeddings do not.

    Args:
        model: on its device.
        recipe: rate, betas and decay.
        recorded: its steps can be part of a recording on a GPU, where rates are tensors.
    """
    matrices = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)
    }
    groups = mup.groups(matrices, model, recipe)
    if recorded:
        for group in groups:
            group["lr"] = torch.tensor(recipe.learning_rate, device="cuda")
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True, capturable=recorded
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of each group for the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate * group["rate"])
        else:
            group["lr"] = rate * group["rate"]


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed what dropout on this device draws from.

    `torch.manual_seed` would do that for all devices, and note a stack trace for each GPU that is
    not there yet: two milliseconds a step, and memory that grows.
    """
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def shares(items: Indices, loads: Indices, most: int | None, count: int) -> list[list[Indices]]:
    """Cut a batch among ranks, and each rank's share into parts.

    Args:
        items: of the batch, in order.
        loads: what each weighs: its tokens or edges.
        most: what a part may weigh together; a heavier item is a part of its own. None: no limit.
        count: how many ranks.

    Returns:
        For each rank its parts, in order.
    """
    bounds = np.arange(count + 1) * len(items) // count
    return [
        _parts(items[low:high], loads[low:high], most)
        for low, high in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def _parts(items: Indices, loads: Indices, most: int | None) -> list[Indices]:
    if most is None:
        return [items]
    starts, weight = [0], 0
    for place, load in enumerate(loads.tolist()):
        if place > starts[-1] and weight + load > most:
            starts.append(place)
            weight = 0
        weight += load
    return np.split(items, starts[1:])


def train_step(
    model: Family,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Any],
    recipe: Recipe,
    rate: float,
    **share: Any,
) -> torch.Tensor:
    """One step at a learning rate; arguments and result as of `update`."""
    set_rate(optimizer, rate)
    return update(model, optimizer, parts, recipe, **share)


def update(
    model: Family,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Any],
    recipe: Recipe,
    *,
    whole: Seen | None = None,
    ranks: Ranks = ALONE,
    rounds: int | None = None,
) -> torch.Tensor:
    """What a step computes, at the rates that are set; the loss before it, of this rank's share.

    Args:
        model: what is trained.
        optimizer: of its parameters.
        parts: the batch, or this rank's share of it, in parts.
        recipe: precision, weights of the loss, clipping.
        whole: what the whole batch holds; None where it is in one part.
        ranks: who trains together.
        rounds: parts of the rank that has most. Where weights are sharded, all compute as often.
    """
    device = next(model.parameters()).device
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    idle = 0 if not ranks.sharded or rounds is None else rounds - len(parts)
    for number, part in enumerate([*parts, *[parts[-1]] * idle]):
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = model.loss(part, recipe) if whole is None else model.loss(part, recipe, whole)
        ranks.backward(loss if number < len(parts) else 0 * loss, parameters)
        total = total + loss.detach() if number < len(parts) else total
    ranks.sum_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
    optimizer.step()
    return total
