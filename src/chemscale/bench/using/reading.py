"""Molecules as a trained model reads them, in its symbols.

The only place where the models at work know how a notation is spelt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chemscale.bench.data.encoding import Choices, encode_all, read
from chemscale.bench.data.molecule_files import CHUNK, Chunk, Row
from chemscale.bench.data.notation import spell, split, unspell
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import DataError
from chemscale.table.records import Notation

Unknown = Literal["reject", "keep"]


@dataclass(frozen=True)
class Read:
    """One row: its symbols, or why it has none."""

    row: int  # from 0
    text: str
    why: str  # it cannot be used; else empty
    symbols: NDArray[np.int64]  # (S,) ids, without <bos> and <eos>
    group: float  # hash of its group key, in [0, 1)


def read_molecules(
    trained: TrainedModel, smiles: Sequence[str], *, group: str, unknown: Unknown
) -> Iterator[list[Read]]:
    """Encode molecules for a model, over all cores where there are many; portions in order.

    Args:
        trained: the model.
        smiles: the molecules.
        group: what the group key is made of: content, scaffold or formula.
        unknown: whether a symbol that the model does not know makes a molecule unusable, or is
            read as <unk>.
    """
    choices = replace(trained.tokenizer.choices, group=group)
    starts = range(0, len(smiles), CHUNK)
    chunks = (Chunk(0, at, [Row(text, "") for text in smiles[at : at + CHUNK]]) for at in starts)
    nothing = np.zeros(0, dtype=np.int64)
    for chunk, part in encode_all(chunks, choices):
        at = chunk.start
        found = [Read(at + row, text, why, nothing, 0.0) for row, text, why in part.rejects]
        ids = np.array(trained.ids(part.alphabet), dtype=np.int64)
        odd = set(trained.unknown(part.alphabet)) if unknown == "reject" else set()
        strange = np.array([symbol in odd for symbol in part.alphabet], dtype=bool)
        ends = np.cumsum(part.lengths, dtype=np.int64)
        for place, (end, length) in enumerate(zip(ends, part.lengths, strict=True)):
            symbols = part.symbols[end - length : end]
            why = ""
            if length >= trained.max_length:
                why = f"{length + 1} tokens, more than the model's {trained.max_length}"
            elif strange[symbols].any():
                names = sorted({part.alphabet[s] for s in symbols[strange[symbols]]})
                why = f"{trained.name} does not know {' '.join(names)}"
            row = at + int(part.rows[place])
            found.append(Read(row, smiles[row], why, ids[symbols], float(part.group[place])))
        yield sorted(found, key=lambda one: one.row)


def read_fragment(text: str, notation: Notation) -> tuple[list[str], str]:
    """The symbols of the beginning of a molecule, and its SMILES if it has one.

    Args:
        text: SMILES, taken in the order in which they are written, or SELFIES symbols.
        notation: of the symbols.

    Raises:
        DataError: it is neither.
    """
    if re.fullmatch(r"(\[[^\[\]]+\])+", text):
        smiles = unspell(text, "selfies")
        return split(text if notation == "selfies" else smiles, notation), smiles
    try:
        read(text, Choices(notation=notation))
        (spelt,) = [text] if notation == "smiles" else spell([text], notation)
        if isinstance(spelt, ValueError):
            raise spelt
    except ValueError as error:
        raise DataError(
            f"prompt {text[:200]!r} is no molecule: {error}. Give SMILES, or SELFIES symbols in "
            "brackets"
        ) from None
    return split(spelt, notation), text
