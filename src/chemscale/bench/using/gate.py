"""Is this language model broken? Its loss on molecules that come along, and a few samples.

A broken checkpoint looks like any other file. But no model that learnt from molecules does worse on
drug-like ones than guessing symbols by how common they are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from chemscale.bench.data.examples import FOLDER
from chemscale.bench.data.molecule_files import read_smiles
from chemscale.bench.data.token_batch import UNK, TokenBatch
from chemscale.bench.using.generate import generate
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.adopted import Gate
from chemscale.table.errors import DataError

NUM_MOLECULES, ENOUGH = 300, 30
NUM_SAMPLES = 64
SHARE = 0.9  # of the loss of guessing by frequency, above which nothing was learnt
USABLE = 0.5  # share of samples


def pass_gate(trained: TrainedModel) -> Gate:
    """Judge a model; it is for the caller to refuse one with faults."""
    batch, number = known_molecules(trained)
    loss = _loss(trained, batch) if batch is not None and number >= ENOUGH else None
    unigram = 0.0
    if batch is not None:
        counts = np.bincount(batch.targets.numpy())
        chances = counts[counts > 0] / counts.sum()
        unigram = float(-(chances * np.log(chances)).sum())
    faults = []
    if loss is not None and not math.isfinite(loss):
        faults.append("its loss is not a number")
    elif loss is not None and loss > SHARE * unigram:
        faults.append(
            f"its loss on bundled molecules, {loss:.2f} nats per token, is not far below that of "
            f"guessing symbols by frequency, {unigram:.2f}"
        )
    ended = valid = 0.0
    if not faults:  # of logits that are no numbers nothing can be drawn
        samples = generate(trained, NUM_SAMPLES)
        ended = sum(one.finished for one in samples) / len(samples)
        valid = sum(bool(one.smiles) for one in samples) / len(samples)
        if ended < USABLE:
            faults.append(f"only {ended:.0%} of its samples end before the longest length")
        elif valid < USABLE:
            faults.append(f"only {valid:.0%} of its samples are molecules")
    return Gate(
        molecules=number,
        loss=loss if loss is not None and math.isfinite(loss) else None,
        unigram=unigram,
        uniform=math.log(len(trained.symbols)),
        samples=NUM_SAMPLES if not faults or ended else 0,
        ended=ended,
        valid=valid,
        faults=tuple(faults),
    )


def known_molecules(trained: TrainedModel) -> tuple[TokenBatch | None, int]:
    """Bundled molecules all of whose symbols a model knows, and how many; on the CPU."""
    found = []
    for smiles in read_smiles(FOLDER / "molecules.csv.gz")[:NUM_MOLECULES]:
        try:
            tokens = trained.tokenizer.encode(smiles)
        except DataError:
            continue
        if UNK not in tokens and len(tokens) <= trained.max_length:
            found.append(np.array(tokens[1:-1]))
    if not found:
        return None, 0
    sizes = np.array([len(tokens) for tokens in found])
    return TokenBatch.of(np.concatenate(found), sizes, sizes), len(found)


@torch.no_grad()
def _loss(trained: TrainedModel, batch: TokenBatch) -> float:
    model = trained.model
    logits = model.logits(batch.to(next(model.parameters()).device)).cpu()
    return float(F.cross_entropy(logits.float(), batch.targets))
