"""The mean of the weights over the steps, later ones counting more: what is judged.

At a constant rate the weights swing around what they approach, and the validation loss with them.
Their mean lies nearer (Polyak and Juditsky 1992); an exponential one forgets where they came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from chemscale.bench.training import tensors


class Average:
    """An exponential mean of a model's parameters; without a decay there is none.

    Args:
        model: on its device, sharded if it will be.
        decay: what a step leaves of the mean before it; 0: no mean is kept.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters = dict(model.named_parameters(remove_duplicate=False)) if decay else {}
        found = {id(p): p.detach().clone() for p in self.parameters.values()}
        self.means = {name: found[id(p)] for name, p in self.parameters.items()}
        # Each once, and what of it is here.
        once = {id(p): p for p in self.parameters.values()}
        self._pairs = [
            (tensors.local(p.detach()), tensors.local(found[key])) for key, p in once.items()
        ]

    def add(self, step: int, rate_left: float = 1.0) -> None:
        """Count in the weights after a step.

        The memory is shorter early on, and shrinks with the rate: as that falls the weights come to
        rest by themselves, and a mean would only lag behind.

        Args:
            step: counted from 1.
            rate_left: the learning rate, as a share of what it was before it fell.
        """
        if self._pairs:
            weights, means = zip(*self._pairs, strict=True)
            share = max(1 - self.decay, 9 / (10 + step))
            torch._foreach_lerp_(means, weights, share / min(1.0, max(rate_left, share)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The means stand where the weights do."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for weight, mean in self._pairs:
            kept: Tensor = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)
