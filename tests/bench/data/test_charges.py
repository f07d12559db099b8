"""Charge and spin of a structure, from files to batches."""

import re
from pathlib import Path

import numpy as np
import pytest

from chemscale.bench.data.base import open_dataset
from chemscale.bench.data.graphs import Structures
from chemscale.bench.models.mace import MACE
from chemscale.table.errors import DataError
from chemscale.table.records import DatasetSpec


def methyls(path: Path, *told: str, count: int = 24) -> Structures:
    """CH₃ in slightly different shapes, each with the entries in turn."""
    lines = []
    for number in range(count):
        entries = told[number % len(told)] if told else ""
        lines += ["4", f'Properties=species:S:1:pos:R:3 energy={number} pbc="F F F" {entries}']
        stretch = 1.08 + 0.01 * number
        lines += ["C 0 0 0", f"H {stretch} 0 0", "H -0.54 0.94 0", "H -0.54 -0.94 0"]
    path.write_text("\n".join(lines) + "\n")
    spec = DatasetSpec(
        format="extxyz", path=(path.name,), group="content", test=0.3, validation=0.3,
        max_rejected=0.6,
    )  # fmt: skip
    made = open_dataset(spec, path.parent)
    assert isinstance(made, Structures)
    return made


CONFIG = MACE.Config(width=4)


def test_a_batch_carries_charge_and_unpaired_electrons(tmp_path):
    data = methyls(tmp_path / "a.xyz", "charge=1 multiplicity=1", "charge=-1 spin=3", "spin=2")
    batch = data.collate(CONFIG)(np.arange(3))
    assert batch.charge.tolist() == [1, -1, 0]
    assert batch.unpaired.tolist() == [0, 2, 1]
    assert any("charged" in note for note in data.notes)


def test_data_without_charges_carry_none_and_keep_their_hashes(tmp_path):
    plain, told = methyls(tmp_path / "a.xyz"), methyls(tmp_path / "b.xyz", "charge=0 spin=0")
    assert plain.collate(CONFIG)(plain.indices("train")).charge is None
    assert (plain.content == told.content).all() and (plain.labelled == told.labelled).all()


def _set(data: Structures) -> set[bytes]:
    return {row.tobytes() for row in data.content}


def test_the_same_atoms_with_another_charge_are_another_structure(tmp_path):
    neutral, ion = methyls(tmp_path / "a.xyz"), methyls(tmp_path / "b.xyz", "charge=1")
    assert not _set(neutral) & _set(ion)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("multiplicity=1", "cannot be with 9 electrons"),
        ("charge=0.5", "charge = 0.5 is not a whole number"),
        ("spin=-1", "it is 2S . 1, at least 1"),
    ],
)
def test_what_cannot_be_is_rejected_with_its_reason(tmp_path, entry, reason):
    data = methyls(tmp_path / "a.xyz", entry, "", count=48)
    assert len(data.rejects) == 24
    assert all(re.search(reason, reject.reason) for reject in data.rejects)
    with pytest.raises(DataError):
        methyls(tmp_path / "b.xyz", entry)
