"""Molecules as vectors: what a trained model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chemscale.bench.data.base import Reject, first_of
from chemscale.bench.data.token_batch import UNK, TokenBatch
from chemscale.bench.models.base import LanguageModel
from chemscale.bench.using.reading import Read, Unknown, read_molecules
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import DataError, UsageError

Pooling = Literal["mean", "max", "last"]
BATCH_TOKENS = 8_192


@dataclass(frozen=True)
class Embedded:
    """Vectors of molecules, and which molecules have none."""

    vectors: NDArray[np.float32]  # (M, F)
    rows: NDArray[np.int64]  # (M,) place of each among what was given
    group: NDArray[np.float64]  # (M,) hash in [0, 1) of the group key of each
    num_unknown: int  # molecules among them with a symbol that was taken for <unk>
    rejects: tuple[Reject, ...]  # the others, row counted from 1, and why


def embed(
    trained: TrainedModel,
    smiles: Sequence[str],
    *,
    layer: int | None = None,
    pooling: Pooling = "mean",
    unknown: Unknown = "reject",
    max_rejected: float = 0.01,
    group: str = "content",
    source: str = "molecules",
    progress: Callable[[int], None] = lambda done: None,
) -> Embedded:
    """Embed molecules.

    Args:
        trained: the model.
        smiles: the molecules.
        layer: after which layer, 0 being the embedding of the symbols; negative ones count from
            the last. Default: what the output layer sees, normalised.
        pooling: over the tokens of a molecule: their mean, their maximum, or the last symbol, which
            has seen all others.
        unknown: "keep" takes a symbol that the model does not know for <unk>, whose meaning was
            never trained; "reject" leaves such molecules out.
        max_rejected: share of molecules that may be left out.
        group: what the group key is made of: content, scaffold or formula.
        source: what the molecules are called in messages.
        progress: told how many more molecules are done.

    Returns:
        A vector for each molecule that can be read, and the others with reasons.

    Raises:
        UsageError: no such layer or pooling.
        DataError: more than `max_rejected` cannot be read; the first are named.
    """
    depth = trained.model.num_layers
    if layer is not None and not -depth - 1 <= layer <= depth:
        raise UsageError(f"layer {layer}: {trained.name} has layers 0 to {depth}")
    for name, value, known in (("pooling", pooling, Pooling), ("unknown", unknown, Unknown)):
        if value not in get_args(known):
            raise UsageError(f"{name} {value!r}: one of {', '.join(get_args(known))}")
    at = None if layer is None else layer % (depth + 1)
    rejects: list[Reject] = []
    kept: list[Read] = []
    vectors: list[NDArray[np.float32]] = []
    for portion in read_molecules(trained, smiles, group=group, unknown=unknown):
        rejects += [Reject(source, one.row + 1, one.text, one.why) for one in portion if one.why]
        usable = [one for one in portion if not one.why]
        vectors += _vectors(trained.model, [one.symbols for one in usable], at, pooling)
        kept += usable
        progress(len(portion))
    if len(rejects) > max_rejected * len(smiles):
        limit = f"more than max_rejected = {max_rejected:g} allows. Raise it to go on without them"
        raise DataError(
            f"{source}: {len(rejects):,} of {len(smiles):,} molecules cannot be embedded"
            f"{f', {limit}' if max_rejected else ''}\n{first_of(rejects, len(rejects))}"
        )
    if not kept:
        raise DataError(f"{source}: no molecules")
    return Embedded(
        np.concatenate(vectors),
        np.array([one.row for one in kept]),
        np.array([one.group for one in kept]),
        sum(bool((one.symbols == UNK).any()) for one in kept),
        tuple(rejects),
    )


@torch.no_grad()
def _vectors(
    model: LanguageModel,
    molecules: Sequence[NDArray[np.int64]],
    layer: int | None,
    pooling: Pooling,
) -> list[NDArray[np.float32]]:
    """Blocks of vectors (M, F), in order."""
    device = next(model.parameters()).device
    lengths = np.array([len(symbols) for symbols in molecules], dtype=np.int64) + 1
    block = np.cumsum(lengths) // BATCH_TOKENS
    found = []
    for number in np.unique(block):
        members = np.flatnonzero(block == number)
        sizes = lengths[members] - 1
        symbols = np.concatenate([molecules[int(m)] for m in members])
        batch = TokenBatch.of(symbols, sizes, np.zeros_like(sizes)).to(device)
        features = model.features(batch, layer)  # (T, F)
        found.append(_pooled(features, batch, pooling).float().cpu().numpy())
    return found


def _pooled(features: Tensor, batch: TokenBatch, pooling: Pooling) -> Tensor:
    """Features of tokens (T, F) to those of molecules (M, F)."""
    lengths = batch.lengths.to(features.device)
    if pooling == "last":
        return features[lengths.cumsum(0) - 1]
    return torch.segment_reduce(features, pooling, lengths=lengths, unsafe=True)


def nearest(
    queries: NDArray[np.float32], library: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest vectors of a library by cosine, nearest first.

    Args:
        queries: (Q, F).
        library: (M, F).
        count: how many, at most M.

    Returns:
        Places in the library (Q, count), and cosines (Q, count).
    """
    count = min(count, len(library))
    there = torch.nn.functional.normalize(torch.from_numpy(library), dim=1)
    here = torch.nn.functional.normalize(torch.from_numpy(queries), dim=1)
    found = [(block @ there.T).topk(count, dim=1) for block in here.split(1_000)]
    places = torch.cat([one.indices for one in found]).numpy()
    return places, torch.cat([one.values for one in found]).numpy()
