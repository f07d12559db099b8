"""What decoder-only transformers share: symbols embedded, layers, a norm, and back to symbols.

A family adds its layer, the same layer for one token at a time, and what it makes of positions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chemscale.bench.data.token_batch import TokenBatch
from chemscale.bench.models.base import LanguageModel, Scaling
from chemscale.bench.models.decoding import Decoder
from chemscale.bench.nn.attention import Packing
from chemscale.bench.nn.dense import Dense
from chemscale.bench.nn.kv_cache import Past
from chemscale.bench.nn.matrices import linear

# Features (R, F), past, positions (R,), slots (R,), and what `positional` gives, to (R, F).
Step = Callable[..., Tensor]


class Transformer(LanguageModel):
    """Decoder-only; its output layer is the embedding, transposed.

    A family sets these in its constructor. A layer takes features (T, F), how they are packed, and
    what `positional` gives.
    """

    symbols: nn.Embedding
    layers: nn.ModuleList
    norm: nn.Module  # after the last layer
    recordable = True

    def embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """What the first layer reads: (T, F)."""
        return self.symbols(tokens)

    def positional(self, positions: Tensor) -> tuple[Any, ...]:
        """What every layer is told of the positions (T,)."""
        return ()

    @abstractmethod
    def step(self, layer: nn.Module) -> Step:
        """A layer for the next token of R sequences, with the weights as they are now."""

    def logits(self, batch: TokenBatch) -> Tensor:
        return linear(self.features(batch), self.symbols.weight)  # (T, V)

    def features(self, batch: TokenBatch, layer: int | None = None) -> Tensor:
        """What the network makes of each token and those before it: (T, F).

        Args:
            batch: the molecules.
            layer: after how many layers to stop; 0: the embeddings. Default: after all of them,
                normalised, as the output layer sees it.
        """
        packing = Packing.of(batch.molecule, batch.positions, batch.lengths, batch.bounds)
        positional = self.positional(batch.positions)
        features = self.embedded(batch.tokens, batch.positions)  # (T, F)
        for each in self.layers[:layer]:
            features = self._through(each, features, packing, *positional)  # (T, F)
        return features if layer is not None else self.norm(features)  # (T, F)

    def _through(self, layer: nn.Module, *inputs: Any) -> Tensor:
        """What a layer makes of its inputs; with `recompute` its insides are not kept."""
        if self.recompute and torch.is_grad_enabled():
            found: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
            return found
        return layer(*inputs)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def decoder(self, num_slots: int) -> Decoder:
        """One that keeps keys and values, so that a step costs what one token costs."""
        return _Decoder(self, num_slots)

    def width_scalings(self, base_width: int) -> dict[str, Scaling]:
        """By the table for Adam in Yang et al. 2021: every `Linear` is a matrix between widths.

        The output layer cannot have a factor of its own; the norm before it takes it. All else
        stays.
        """
        config: Any = self.config
        ratio = config.width / base_width
        matrices = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)}
        last = {id(parameter) for parameter in self.norm.parameters()}
        found = {}
        for name, parameter in self.named_parameters():
            if id(parameter) in matrices:
                found[name] = Scaling(start=ratio**-0.5, rate=1 / ratio)
            elif id(parameter) in last:
                found[name] = Scaling(start=1 / ratio, rate=1 / ratio)
        return found


class _Decoder(Decoder):
    def __init__(self, model: Transformer, num_slots: int):
        config: Any = model.config
        self.model = model
        self.layers = [model.step(layer) for layer in model.layers]
        self.logits = Dense(model.symbols, model.norm)
        like: Any = model.norm.weight
        self.past = [Past.of(num_slots, config.width, config.num_heads, like) for _ in model.layers]

    def another(self) -> Decoder:
        other = copy(self)
        other.past = [past.another() for past in self.past]
        return other

    def step(self, tokens: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
        longest, positional = int(positions.max()) + 1, self.model.positional(positions)
        features = self.model.embedded(tokens, positions)  # (R, F)
        for layer, past in zip(self.layers, self.past, strict=True):
            past.make_room(longest)
            features = layer(features, past, positions, slots, *positional)  # (R, F)
        return self.logits(features)  # (R, V)
