"""What a batch holds, and how many products a training step on it takes: FLOPs in closed form."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seen:
    """What passed through the model in one batch."""

    items: int
    tokens: int = 0
    pairs: int = 0  # query-key pairs of attention, summed over layers
    atoms: int = 0
    edges: int = 0


@dataclass(frozen=True)
class Passes:
    """How often one training step multiplies by a weight matrix, by where the matrix stands.

    Training on forces differentiates twice. A product x·W inside the network then counts six:
    forward; gradient to x for the forces; gradients to x and W of the forward product, and to W
    and the incoming gradient of the force product. At the ends some are not needed.
    """

    forces: bool  # whether the loss holds slopes of the energy: of forces, or of stress

    @property
    def inner(self) -> int:
        """Its input depends on positions and on weights."""
        return 6 if self.forces else 3

    @property
    def geometry(self) -> int:
        """Its input depends on positions only, so no gradient goes to it from the loss."""
        return 5 if self.forces else 2

    @property
    def embedded(self) -> int:
        """Its input depends on weights only, so the forces do not pass through it."""
        return 3

    @property
    def last(self) -> int:
        """Its output is the energy, so the gradient that comes in is a constant."""
        return 5 if self.forces else 3
