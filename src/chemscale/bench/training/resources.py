"""What an executor gives a run: how fast and in how much memory it trains, never what comes out.

Beyond rounding, that is: all of it is written into the outcome.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from chemscale.bench.models.base import Family
from chemscale.table.errors import UsageError


@dataclass(frozen=True)
class Resources:
    """Of one run."""

    threads: int = 1  # of each process
    ranks: int = 1  # processes that train it together
    shard: bool = False  # weights, gradients and moments spread over the ranks
    recompute: bool = False  # each layer once more on the way back, instead of keeping its insides
    compile: bool = False  # layers by torch.compile

    def departures(self) -> dict[str, str]:
        """What is not as usual, for the record."""
        told = ("ranks", "shard", "recompute", "compile")
        given = {name: getattr(self, name) for name in told}
        return {name: str(it) for name, it in given.items() if it != getattr(ORDINARY, name)}

    def environment(self) -> dict[str, str]:
        """That of a process: ours, with so many threads, and small caches of oneDNN.

        It compiles the products of bfloat16 for each number of tokens there is, and keeps a
        thousand of each kind: a gigabyte after a hundred steps.
        """
        kinds = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        caches = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
        return {
            **dict.fromkeys(caches, "32"),
            **os.environ,
            **dict.fromkeys(kinds, str(self.threads)),
        }

    def refuse_for(self, family: type[Family], name: str) -> None:
        """Refuse what a family cannot do.

        Raises:
            UsageError: which option, and why.
        """
        if not family.layered:
            for option in ("shard", "recompute", "compile"):
                if getattr(self, option):
                    raise UsageError(
                        f"--{option} works layer by layer, which {name} does not allow: its forces "
                        "are derivatives of the whole network. Train it without; max_edges in "
                        "[recipe] saves memory"
                    )

    def prepare(self, model: Family) -> None:
        """Make the layers recompute or compile."""
        model.recompute = self.recompute
        if self.compile:
            for layer in model.stack():
                layer.compile(dynamic=True)


ORDINARY = Resources()
