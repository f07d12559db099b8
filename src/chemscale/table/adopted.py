"""What `model.json` says of a model that no run of ours trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from chemscale.table.errors import StoreError
from chemscale.table.files import read_record
from chemscale.table.record import Record

FILE = "model.json"


class Gate(Record):
    """What was seen of a model at the gate."""

    molecules: int  # of those that come along, without unknown symbols
    loss: float | None  # nats per token; None with too few molecules, or not a number
    unigram: float  # of guessing by how common symbols are in these very molecules
    uniform: float  # of guessing blindly
    samples: int
    ended: float  # share of samples with a stop token
    valid: float  # share of samples that RDKit accepts
    faults: tuple[str, ...]  # a sentence each; empty: it passed

    def __str__(self) -> str:
        """One or two sentences."""
        told = (
            f"{self.loss:.2f} nats per token on {self.molecules} bundled molecules (guessing by "
            f"frequency {self.unigram:.2f}, blindly {self.uniform:.2f})"
            if self.loss is not None
            else f"not judged by its loss: {self.molecules} bundled molecules have known symbols"
        )
        return (
            f"{told}; of {self.samples} samples {self.ended:.0%} end and {self.valid:.0%} are "
            "molecules"
        )


class Adopted(Record):
    """What a folder says of the model in it."""

    family: str
    family_revision: int
    config: dict[str, Any]
    notation: Literal["selfies", "smiles"]
    symbols: tuple[str, ...]  # by token id
    source: str  # where it came from
    repairs: tuple[str, ...]  # what was changed on the way, a sentence each
    limits: tuple[str, ...]  # what it cannot do, a sentence each
    gate: Gate


def read(folder: Path) -> Adopted:
    """What an adopted folder says of itself.

    Raises:
        StoreError: there is no such file.
    """
    found = read_record(folder / FILE, Adopted)
    if found is None:
        raise StoreError(f"{folder}: no {FILE} here")
    return found
