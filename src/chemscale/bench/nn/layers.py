"""Small building blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from chemscale.bench.nn.activations import silu


class MLP(nn.Module):
    """Linear layers with an activation between them; Xavier weights, zero biases.

    Args:
        widths: of the input, of what lies between, of the output.
        activation: between the layers.
        last_zero: start as the zero function, so that a readout of any width starts alike.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        *,
        last_zero: bool = False,
    ):
        super().__init__()
        layers = [linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        if last_zero:
            nn.init.zeros_(layers[-1].weight)
        self.layers = nn.ModuleList(layers)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """(…, widths[0]) to (…, widths[-1])."""
        *hidden, last = self.layers
        for layer in hidden:
            features = self.activation(layer(features))
        return last(features)


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Linear layer with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class NormalMLP(nn.Module):
    """Layers without biases that keep the variance of their input, as e3nn has them.

    Weights are drawn from a normal distribution and scaled by the root of how many inputs they sum,
    in the forward pass; SiLU is scaled to a mean square of 1 on normal input.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.weights = nn.ParameterList(
            torch.randn(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(…, widths[0]) to (…, widths[-1])."""
        scale = 1.0
        for number, weight in enumerate(self.weights):
            if number:
                features, scale = silu(features), SILU_SCALE
            features = features @ (weight * (scale * len(weight) ** -0.5))
        return features


SILU_SCALE = 1.6765324703310907  # 1 / √E[silu(x)²] of a standard normal x, by quadrature


def initialise_normal(module: nn.Module) -> None:
    """Normal weights of deviation 0.02, zero biases, whatever the depth (GPT-2); for `apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
