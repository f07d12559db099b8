"""The data card tells what labels are, and warns of what no potential can learn from them."""

from pathlib import Path

import numpy as np
import pytest
from ase import units

from chemscale.bench.data.base import open_dataset
from chemscale.bench.data.graphs import Structures
from chemscale.table.errors import DataError
from chemscale.table.records import DatasetSpec

KCAL, HARTREE, BOHR = units.kcal / units.mol, units.Hartree, units.Bohr
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
TOTAL = -1101.0  # eV, all electrons of methane


def methane(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, energies and forces of methane on springs of 31 eV/Å², about as in nature."""
    generator = np.random.default_rng(seed)
    moved = generator.normal(0, 0.04, (count, 4, 3))
    hydrogen = 1.09 * TETRAHEDRON + moved
    length = np.linalg.norm(hydrogen, axis=-1, keepdims=True)
    pull = -31.0 * (length - 1.09) * hydrogen / length
    forces = np.concatenate([-pull.sum(axis=1, keepdims=True), pull], axis=1)
    positions = np.concatenate([np.zeros((count, 1, 3)), hydrogen], axis=1)
    energy = TOTAL + 0.5 * 31.0 * ((length[..., 0] - 1.09) ** 2).sum(axis=1)
    return positions, energy, forces


def frame(positions, energy, forces, symbols="CHHHH", more="") -> str:
    lines = [str(len(symbols)), f"Properties=species:S:1:pos:R:3:forces:R:3 energy={energy} {more}"]
    for symbol, place, force in zip(symbols, positions, forces, strict=True):
        lines.append(" ".join([symbol, *(f"{value:.10f}" for value in (*place, *force))]))
    return "\n".join(lines) + "\n"


def read(folder: Path, frames, name="a.xyz", **options) -> Structures:
    (folder / name).write_text("".join(frames))
    given = {"path": name, "group": "content", "validation": 0.2, "test": 0.2, **options}
    made = open_dataset(DatasetSpec(format="extxyz", **given), folder)
    assert isinstance(made, Structures)
    return made


def frames(energy=1.0, length=1.0, forces=1.0, zero=TOTAL, **more) -> list[str]:
    """Methane with labels in units of so many eV, Å and eV/Å; energies from `zero` on."""
    x, e, f = methane(**more)
    rows = zip(x / length, (e - TOTAL + zero) / energy, f / forces, strict=True)
    return [frame(*row) for row in rows]


def test_a_sound_dataset_has_a_card_without_warnings(tmp_path):
    data = read(tmp_path, frames())
    card = data.card
    assert card.warnings == ()
    assert card.elements == {"H": 240, "C": 60} and card.labels["forces"] == 60
    assert card.slope == pytest.approx(1, abs=0.05) and card.correlation > 0.98
    assert card.stiffness == pytest.approx(31, rel=0.05)
    assert card.net_force < 1e-8 and card.duplicates == 0
    assert any("slope 1.0" in note for note in data.notes)


@pytest.mark.parametrize(
    ("wrong", "zero", "said"),
    [
        ((KCAL, 1, KCAL), TOTAL, 'energy = "kcal/mol", length = "Å", forces = "kcal/mol/Å"'),
        ((KCAL, 1, KCAL), 0.0, 'energy = "kcal/mol", length = "Å", forces = "kcal/mol/Å"'),
        ((KCAL, 1, 1), TOTAL, 'energy = "kcal/mol", length = "Å", forces = "eV/Å"'),
        ((HARTREE, BOHR, HARTREE / BOHR), TOTAL, 'length = "bohr", forces = "hartree/bohr"'),
        ((HARTREE, 1, HARTREE / BOHR), TOTAL, 'length = "Å", forces = "hartree/bohr"'),
        ((HARTREE, 1, 1), TOTAL, 'energy = "hartree", length = "Å", forces = "eV/Å"'),
        ((1, 1, KCAL), -224.0, 'energy = "eV", length = "Å", forces = "kcal/mol/Å"'),
    ],
)
def test_wrong_units_are_told_with_the_right_ones(tmp_path, wrong, zero, said):
    data = read(tmp_path, frames(*wrong, zero=zero))
    assert len(data.card.warnings) == 1 and said in data.card.warnings[0]
    assert any(note.startswith("WARNING: these look like other units") for note in data.notes)
    given = dict(
        part.split(" = ")
        for part in data.card.warnings[0].split("{ ")[1].split(" }")[0].split(", ")
    )
    mended = read(
        tmp_path, frames(*wrong, zero=zero), units={k: v.strip('"') for k, v in given.items()}
    )
    assert mended.card.warnings == ()


def test_md17_in_its_own_unit_is_noticed(tmp_path):
    positions, energy, forces = methane()
    np.savez(
        tmp_path / "md17.npz", R=positions, z=[6, 1, 1, 1, 1], E=energy / KCAL, F=forces / KCAL
    )
    spec = DatasetSpec(format="npz", path="md17.npz", group="content", validation=0.2, test=0.2)
    data = open_dataset(spec, tmp_path)
    assert 'units = { energy = "kcal/mol"' in data.card.warnings[0]


def test_energies_of_different_entries_are_noticed(tmp_path):
    other = [text.replace("energy=", "REF_energy=") for text in frames(seed=1)[:9]]
    (warning,) = read(tmp_path, [*frames(), *other]).card.warnings
    assert "energies come from 'REF_energy' in 9 and 'energy' in 60 frames" in warning


def test_gradients_given_for_forces_are_noticed(tmp_path):
    (warning,) = read(tmp_path, frames(forces=-1)).card.warnings
    assert "gradients" in warning


@pytest.mark.parametrize("half", [True, False])
def test_two_levels_of_theory_are_noticed_with_where_they_are(tmp_path, half):
    other = frames(zero=TOTAL - 3.0, seed=1)
    (tmp_path / "b.xyz").write_text("".join(other if half else other[:8]))
    warnings = read(tmp_path, frames(), path=("a.xyz", "b.xyz")).card.warnings
    assert any("two kinds, 0.54" in text for text in warnings)
    assert half or any("The 8 of the fewer: 8 of b.xyz" in text for text in warnings)
    assert any("pairs of close structures differ in energy by 3 eV" in text for text in warnings)


def test_isolated_atoms_of_another_level_are_noticed(tmp_path):
    atoms = [frame([[0, 0, 0]], e, [[0, 0, 0]], s) for s, e in (("C", -150.0), ("H", -13.6))]
    (warning,) = read(tmp_path, [*atoms, *frames()]).card.warnings
    assert "isolated atoms" in warning and "-179 eV/atom" in warning


def test_single_oddities_are_named_and_kept(tmp_path):
    x, e, f = methane()
    rows = frames()
    rows[7] = frame(x[7], e[7] + 5.0, f[7])
    rows[9] = frame(x[8], e[8] + 0.2, f[8])
    rows[11] = frame(x[11], e[11], f[11] * [[300.0], [1], [1], [1], [1]])
    close = x[13].copy()
    close[1] *= 0.4
    rows[13] = frame(close, e[13], f[13])
    data = read(tmp_path, rows)
    told = " | ".join(data.card.warnings)
    assert "energies lie more than 20" in told and "0.993 eV/atom): a.xyz 8" in told
    assert "more than once with energies that differ" in told and "a.xyz 10" in told
    assert "forces above 100 eV/Å" in told and "a.xyz 12" in told
    assert "closer than 0.5 Å: a.xyz 14" in told
    assert len(data.split) == len(rows) and not data.rejects
    assert "; 1 repeated, which num_train counts" in data.card.sentences()[0]


def test_forces_that_do_not_balance_are_noticed(tmp_path):
    x, e, f = methane()
    f[:, 0] = 0  # as if held fixed
    told = " ".join(
        read(tmp_path, [frame(*row) for row in zip(x, e, f, strict=True)]).card.warnings
    )
    assert "held fixed" in told


def test_stresses_beyond_what_solids_bear_are_taken_for_another_unit(tmp_path):
    more = 'Lattice="6 0 0 0 6 0 0 0 6" pbc="T T T" stress="30 0 0 0 20 0 0 0 10"'
    rows = [frame(*row, more=more) for row in zip(*methane(), strict=True)]
    (warning,) = read(tmp_path, rows).card.warnings
    assert "1.3e+03 eV for each atom" in warning and 'units = { stress = "GPa" }' in warning
    assert not read(tmp_path, rows, units={"stress": "GPa"}).card.warnings


BOX = 'Lattice="{} 0 0 0 4 0 0 0 {}" pbc="T T {}"'


@pytest.mark.parametrize(
    ("mend", "reason"),
    [
        (lambda x: x * [[1], [0.05], [1], [1], [1]], "atoms 1 and 2 are 0.0"),
        (lambda x: x * np.nan, "positions are not finite"),
        (BOX.format(0, 4, "T"), "the cell has no volume"),
        (BOX.format(4, 0, "T"), "the cell has no volume"),
        (BOX.format(0.05, 4, "T"), "atoms 1 and 1 are 0.05 Å apart"),
    ],
)
def test_what_cannot_be_trained_on_is_rejected_with_its_reason(tmp_path, mend, reason):
    x, e, f = methane()
    rows = frames()
    rows[3] = (
        frame(x[3], e[3], f[3], more=mend)
        if isinstance(mend, str)
        else frame(mend(x[3]), e[3], f[3])
    )
    data = read(tmp_path, rows, max_rejected=0.1)
    (reject,) = data.rejects
    assert reject.row == 4 and reason in reject.reason
    with pytest.raises(DataError, match="1 of 60 rows cannot be used.*max_rejected"):
        read(tmp_path, rows, "b.xyz")


def test_an_element_that_no_training_structure_has_is_refused(tmp_path):
    x, e, f = methane(count=3)
    silane = [frame(*row, symbols=["Si", *"HHHH"]) for row in zip(x, e, f, strict=True)]
    (tmp_path / "si.xyz").write_text("".join(silane))
    with pytest.raises(DataError, match="seed 0 has Si, which 3 of the shift structures have"):
        read(tmp_path, frames(), shift="si.xyz").subset(10, 0)
    alone = frame([[0, 0, 0]], -7860.0, [[0, 0, 0]], ["Si"])
    assert len(read(tmp_path, [alone, *frames()], shift="si.xyz").subset(10, 0)) == 10


def test_a_cell_smaller_than_the_cutoff_has_edges_to_all_images(tmp_path):
    from ase.io import read as read_ase
    from ase.neighborlist import neighbor_list

    x, e, f = methane()
    slab = 'Lattice="3.1 0 0 0.4 3 0 0 0 0" pbc="T T F"'
    solid = 'Lattice="3.1 0 0 0.4 3 0 0.2 0.1 2.9" pbc="T T T"'
    cells = [slab, solid] * 30
    data = read(tmp_path, [frame(*row, more=c) for *row, c in zip(x, e, f, cells, strict=True)])
    first = data._neighbours(7.0)[0]
    for item, atoms in enumerate(read_ase(tmp_path / "a.xyz", ":4")):
        assert first[item + 1] - first[item] == len(neighbor_list("i", atoms, 7.0))
