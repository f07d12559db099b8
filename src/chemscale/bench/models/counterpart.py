"""The same network in `transformers`: its class, its config and the names of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chemscale.table.errors import DataError
from chemscale.table.record import Record

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Counterpart:
    """What a family is called in `transformers`, as far as its networks are the same function.

    A weight of ours may be several of theirs, one below the other.
    """

    architecture: str  # a class of transformers
    model_type: str  # what its config is called
    outer: Mapping[str, str]  # ours → theirs
    layer: Mapping[str, tuple[str, ...]]  # within a layer, ours → theirs
    layers: str  # their prefix, where ours is "layers"
    output: str  # their output layer, which is the embedding
    ignored: tuple[str, ...]  # ends of the names of what is no weight
    to_config: Callable[[Any], dict[str, Any]]  # of ours, arguments of theirs
    from_config: Callable[[Mapping[str, Any]], Record]  # of theirs, ours; DataError where it cannot

    def _named(self, num_layers: int) -> dict[str, tuple[str, ...]]:
        named: dict[str, tuple[str, ...]] = {here: (there,) for here, there in self.outer.items()}
        for i in range(num_layers):
            for here, there in self.layer.items():
                named[f"layers.{i}.{here}"] = tuple(f"{self.layers}.{i}.{name}" for name in there)
        return named

    def theirs(self, ours: Mapping[str, Tensor], num_layers: int) -> Weights:
        """Weights of ours under their names."""
        found: Weights = {}
        for here, there in self._named(num_layers).items():
            parts = ours[here].chunk(len(there))
            found |= {name: part.contiguous() for name, part in zip(there, parts, strict=True)}
        return found | {self.output: ours["symbols.weight"]}

    def ours(self, theirs: Mapping[str, Tensor], num_layers: int) -> Weights:
        """Weights of theirs under our names.

        Raises:
            DataError: weights that are missing, that the network has no place for, or an output
                layer that is not the embedding.
        """
        named = self._named(num_layers)
        wanted = {name for names in named.values() for name in names}
        extra = {n for n in theirs if n not in wanted and not n.endswith(self.ignored)}
        if missing := sorted(wanted - theirs.keys()):
            raise DataError(f"{len(missing)} weights are missing, {missing[0]} the first")
        embedding = theirs[self.outer["symbols.weight"]]
        if not torch.equal(theirs.get(self.output, embedding), embedding):
            raise DataError(f"{self.output} is not the embedding: such a network is not ours")
        if extra := extra - {self.output}:
            raise DataError(f"{len(extra)} weights have no place, {min(extra)} the first")
        return {here: torch.cat([theirs[name] for name in there]) for here, there in named.items()}


def require(given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a config with other values than a family has.

    Args:
        given: their config.
        expected: key → the only value that ours has, also where the key is absent.

    Raises:
        DataError: each value that differs.
    """
    odd = [f"{k} = {given[k]!r}, not {v!r}" for k, v in expected.items() if given.get(k, v) != v]
    if odd:
        raise DataError(f"config.json: a network of another kind: {'; '.join(odd)}")
