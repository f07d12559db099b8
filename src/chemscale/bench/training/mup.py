"""One learning rate for all widths: the maximal update parametrisation, μP (Yang et al. 2021).

As weights of a matrix add up over its inputs, a rate that is right at one width is too high at a
larger one. μP keeps what a step does to every feature the same at all widths. It is told here by
starts and rates alone, without factors in the network: a multiplier before a weight equals, under
Adam, a smaller start and a smaller rate. So a trained model is an ordinary one.

Only width is carried over. Depth, heads of another size, data and length of training are not.
"""

from __future__ import annotations

from typing import Any

import torch

from chemscale.bench.models.base import Family, Scaling
from chemscale.table.records import Recipe


def scalings(model: Family, recipe: Recipe) -> dict[str, Scaling]:
    """Of each parameter that the recipe treats otherwise at this width than at its base width.

    Raises:
        DataError: the family does not say how its widths go together.
    """
    if recipe.mup_base_width is None:
        return {}
    return model.width_scalings(recipe.mup_base_width)


@torch.no_grad()
def scale_start(model: Family, recipe: Recipe) -> None:
    """Bring a fresh model to the weights that μP starts from."""
    parameters = dict(model.named_parameters())
    for name, scaling in scalings(model, recipe).items():
        parameters[name].mul_(scaling.start)


def groups(decayed: set[int], model: Family, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups of AdamW; the last has the recipe's own rate.

    Args:
        decayed: ids of the parameters that decay.
        model: with its parameters.
        recipe: with rate and decay.
    """
    scaled = scalings(model, recipe)
    found: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = scaled[name].rate if name in scaled else 1.0
        found.setdefault((rate, id(parameter) in decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "rate": rate,
            # Each step takes rate · decay off a weight, at every width the same share.
            "weight_decay": recipe.weight_decay / rate if decays else 0.0,
        }
        for (rate, decays), parameters in sorted(found.items(), key=_own_rate_last)
    ]


def _own_rate_last(group: tuple[tuple[float, bool], object]) -> tuple[bool, bool]:
    (rate, decays), _ = group
    return not decays, rate == 1.0
