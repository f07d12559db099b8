"""What μP multiplies at another width than the one at which all is right (Yang et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Scaling:
    """What a parameter's start and learning rate are multiplied by."""

    start: float
    rate: float


def decoder_scalings(model: nn.Module, last_norm: nn.Module, ratio: float) -> dict[str, Scaling]:
    """Of a decoder whose output layer is its embedding, by the name of each parameter that changes.

    The table for Adam in Yang et al. 2021: every `Linear` is a matrix between widths. The output
    layer cannot have a factor of its own; the norm before it takes it. All else stays.

    Args:
        model: the network.
        last_norm: what the output layer reads.
        ratio: of its width to the base width.
    """
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    last = {id(parameter) for parameter in last_norm.parameters()}
    found = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in matrices:
            found[name] = Scaling(start=ratio**-0.5, rate=1 / ratio)
        elif id(parameter) in last:
            found[name] = Scaling(start=1 / ratio, rate=1 / ratio)
    return found
