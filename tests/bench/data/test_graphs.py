"""Structures: read, labelled, split, and turned into graphs."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write as write_atoms

from chemscale.bench.data import structure_readers, structure_store
from chemscale.bench.data.base import REMOVED, open_dataset
from chemscale.bench.data.graphs import Structures
from chemscale.bench.data.structure_store import BLOCK
from chemscale.bench.models.base import load_family
from chemscale.bench.nn import native
from chemscale.table.errors import DataError
from chemscale.table.records import RECIPES, DatasetSpec
from chemscale.testing.toys import Structure, graph_of, morse, toy_molecules

MANY = toy_molecules(150, seed=0)
KCAL = units.kcal / units.mol


def frame(structure: Structure, energy="REF_energy", forces="REF_forces", **info) -> str:
    """One frame of extended XYZ; a label named None is left out."""
    value, slopes = morse(structure)
    properties = "species:S:1:pos:R:3" + (f":{forces}:R:3" if forces else "")
    entries = {"Properties": properties, "pbc": '"F F F"'}
    entries |= ({energy: repr(value)} if energy else {}) | info
    lines = [str(len(slopes)), " ".join(f"{key}={entry}" for key, entry in entries.items())]
    symbols = Atoms(structure.numbers).get_chemical_symbols()
    for symbol, place, slope in zip(symbols, structure.positions, slopes, strict=True):
        numbers = (*place, *slope) if forces else tuple(place)
        lines.append(" ".join([symbol, *(f"{number:.8f}" for number in numbers)]))
    return "\n".join(lines) + "\n"


def write(path: Path, structures=MANY, **options) -> Path:
    path.write_text("".join(frame(structure, **options) for structure in structures))
    return path


def read(path: Path, form: str = "extxyz", **options) -> Structures:
    options = {"group": "content", **options}
    dataset = open_dataset(DatasetSpec(format=form, path=path.name, **options), path.parent)
    assert isinstance(dataset, Structures)
    return dataset


def contents(dataset: Structures, split: str) -> set[int]:
    return {int(value) for value in dataset.content[dataset.indices(split), 0]}


def lone(number: int) -> Structure:
    return Structure(np.array([number]), np.zeros((1, 3)))


# --- splits --------------------------------------------------------------------------------------


def test_splits_stay_when_a_file_grows(tmp_path):
    before = read(write(tmp_path / "a.xyz", MANY[:100]))
    after = read(write(tmp_path / "b.xyz", MANY))
    for split in ("train", "validation", "test"):
        assert contents(before, split) < contents(after, split)


def test_training_subsets_nest(tmp_path):
    dataset = read(write(tmp_path / "a.xyz"))
    few, more = dataset.subset(10, 3), dataset.subset(60, 3)
    assert few.tolist() == more[:10].tolist()
    assert len(set(more.tolist())) == 60
    assert few.tolist() != dataset.subset(10, 4).tolist()
    assert set(more) <= set(dataset.indices("train"))
    with pytest.raises(DataError, match="asks for more"):
        dataset.subset(200, 3)


def test_neighbours_in_a_trajectory_share_a_split(tmp_path):
    generator = np.random.default_rng(0)
    start = MANY[0]
    frames = [
        Structure(start.numbers, start.positions + generator.normal(0, 0.02, (5, 3)))
        for _ in range(12 * BLOCK + BLOCK // 2)
    ]
    dataset = read(write(tmp_path / "a.xyz", frames), group=None, validation=0.3, test=0.3)
    for first in range(0, 11 * BLOCK, BLOCK):
        assert len(set(dataset.split[first : first + BLOCK])) == 1
    assert len(set(dataset.split[11 * BLOCK :])) == 1, "a partial last block joins the one before"
    assert any("blocks of 100" in note for note in dataset.notes)
    with pytest.raises(DataError, match=r"in 2 groups.*blocks of 100.*\"content\" splits frame by"):
        read(write(tmp_path / "b.xyz", frames[: 2 * BLOCK]), group=None)


def test_frames_are_grouped_by_an_entry_of_theirs(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("".join(frame(s, molecule=f"m{n // 5}") for n, s in enumerate(MANY)))
    split = read(path, group="molecule", validation=0.2, test=0.2).split.reshape(-1, 5)
    assert (split == split[:, :1]).all()
    with pytest.raises(DataError, match="molecule"):
        read(path, group="compound")


def test_frames_are_grouped_by_formula(tmp_path):
    dataset = read(write(tmp_path / "a.xyz"), group="formula", validation=0.4, test=0.3)
    for first in range(8):
        assert len(set(dataset.split[first::8])) == 1


def test_a_crystal_of_one_atom_is_no_isolated_atom(tmp_path):
    frames = [bulk("Cu", a=3.5 + 0.01 * number) for number in range(40)]
    write_atoms(tmp_path / "a.xyz", frames)
    dataset = read(tmp_path / "a.xyz")
    assert sum(len(dataset.indices(split)) for split in ("train", "validation", "test")) == 40


def test_isolated_atoms_are_references_and_belong_to_no_split(tmp_path):
    atoms = [lone(number) for number in (1, 6, 7, 8)]
    dataset = read(write(tmp_path / "a.xyz", [*atoms, *MANY]))
    assert (dataset.split[:4] == -1).all()
    references, scale = dataset.references_and_scale(dataset.indices("train"))
    for atom in atoms:
        assert references[atom.numbers[0]] == pytest.approx(morse(atom)[0], abs=1e-9)
    assert np.isnan(references[9])
    forces = np.concatenate([morse(MANY[item - 4])[1] for item in dataset.indices("train")])
    assert scale == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-6)


def test_what_occurs_in_a_test_file_is_not_trained_on(tmp_path):
    write(tmp_path / "a.xyz")
    write(tmp_path / "test.xyz", MANY[:20], energy=None)
    dataset = read(tmp_path / "a.xyz", test="test.xyz")
    assert len(dataset.indices("test")) == 20
    assert not contents(dataset, "train") & contents(dataset, "test")
    assert (dataset.split == REMOVED).sum() > 0
    assert any("occur in an evaluation set" in note for note in dataset.notes)


def test_labels_change_the_fingerprint_and_not_the_content(tmp_path):
    one = read(write(tmp_path / "a.xyz"))
    other = read(write(tmp_path / "b.xyz"), energy_unit="Ha")
    assert (one.content == other.content).all()
    assert (one.split == other.split).all()
    assert one.fingerprint(50, 0) != other.fingerprint(50, 0)
    assert one.fingerprint(50, 0) == read(write(tmp_path / "c.xyz")).fingerprint(50, 0)


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("energy", "forces"), [("REF_energy", "REF_forces"), ("energy", "forces"), ("Energy", "force")]
)
def test_usual_names_of_labels_are_known(tmp_path, energy, forces):
    dataset = read(write(tmp_path / "a.xyz", energy=energy, forces=forces))
    dataset.check(("energy", "forces"))
    value, slopes = morse(MANY[0])
    assert dataset.arrays["energy"][0] == pytest.approx(value)
    assert np.allclose(dataset.arrays["forces"][: len(slopes)], slopes, atol=1e-7)
    assert repr(energy) in dataset.notes[0] and repr(forces) in dataset.notes[0]


def test_other_names_of_labels_are_told(tmp_path):
    path = write(tmp_path / "a.xyz", energy="dft", forces="dft_slope")
    read(path, energy_key="dft", forces_key="dft_slope").check(("energy", "forces"))
    with pytest.raises(DataError, match="energy_key"):
        read(path).check(("energy",))


def test_kilocalories_become_electronvolts(tmp_path):
    dataset = read(write(tmp_path / "a.xyz"), energy_unit="kcal/mol")
    value, slopes = morse(MANY[0])
    assert dataset.arrays["energy"][0] == pytest.approx(value * KCAL)
    assert np.allclose(dataset.arrays["forces"][: len(slopes)], slopes * KCAL, atol=1e-7)


def test_missing_forces_are_refused_when_the_loss_needs_them(tmp_path):
    dataset = read(write(tmp_path / "a.xyz", forces=None))
    family = load_family("schnet")
    dataset.check(family.needs(RECIPES["energy"]))
    with pytest.raises(DataError, match="have no forces .a.xyz 1, .*forces_key"):
        dataset.check(family.needs(RECIPES["energy-and-forces"]))


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_frame_with_a_broken_force_is_rejected_with_its_reason(tmp_path, bad):
    lines = frame(MANY[0]).splitlines()
    lines[2] = " ".join([*lines[2].split()[:4], bad, "0", "0"])
    path = tmp_path / "a.xyz"
    path.write_text("\n".join(lines) + "\n" + "".join(frame(s) for s in MANY[1:]))
    dataset = read(path)
    (reject,) = dataset.rejects
    assert reject.row == 1
    assert {"nan": "NaN", "inf": "infinite"}[bad] in reject.reason
    with pytest.raises(DataError, match="max_rejected"):
        read(path, max_rejected=0.0)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz.gz", "a.extxyz.gz", "a.dat", "a"])
def test_the_extension_does_not_matter(tmp_path, name):
    path = write(tmp_path / name)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    plain = read(write(tmp_path / "plain.xyz"))
    assert (read(path).labelled == plain.labelled).all()


def test_what_is_held_at_a_time_changes_nothing(tmp_path, monkeypatch):
    once = read(write(tmp_path / "a.xyz"))
    monkeypatch.setattr(structure_store, "HELD", 7)
    monkeypatch.setattr(structure_readers, "FRAMES", 3)
    path = tmp_path / "b.xyz"
    path.write_text("\n" + (tmp_path / "a.xyz").read_text().replace("\n5\n", "\n\n5\n"))
    parts = read(path)
    for name, values in once.arrays.items():
        np.testing.assert_array_equal(values, parts.arrays[name])  # NaN as NaN
    for one, other in zip(once._neighbours(4.0), parts._neighbours(4.0), strict=True):
        assert np.array_equal(one, other)


def test_a_file_that_breaks_off_is_told(tmp_path):
    path = write(tmp_path / "a.xyz")
    path.write_text(path.read_text()[:-20].rpartition("\n")[0])
    with pytest.raises(DataError, match=r"a\.xyz: .*it ends within frame 150"):
        read(path)


def test_an_md17_archive_is_read(tmp_path):
    start = MANY[0]
    frames = [
        Structure(start.numbers, start.positions + shift * np.eye(5, 3))
        for shift in np.linspace(0, 0.2, 60)
    ]
    labels = [morse(structure) for structure in frames]
    np.savez(
        tmp_path / "md17.npz",
        z=start.numbers,
        R=np.array([s.positions for s in frames]),
        E=np.array([[energy / KCAL] for energy, _ in labels]),
        F=np.array([forces / KCAL for _, forces in labels]),
    )
    dataset = read(tmp_path / "md17.npz", "npz", energy_unit="kcal/mol", validation=0.2, test=0.2)
    dataset.check(("energy", "forces"))
    assert np.allclose(dataset.arrays["energy"], [energy for energy, _ in labels])
    assert np.allclose(dataset.arrays["forces"], np.concatenate([f for _, f in labels]))


def test_an_ase_database_is_read(tmp_path):
    with connect(tmp_path / "a.db") as database:
        for number, structure in enumerate(MANY):
            atoms = Atoms(structure.numbers, structure.positions)
            energy, forces = morse(structure)
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
            database.write(atoms, molecule=f"m{number // 3}")
    dataset = read(tmp_path / "a.db", "db", group="molecule", validation=0.2, test=0.2)
    dataset.check(("energy", "forces"))
    assert np.allclose(dataset.arrays["energy"], [morse(s)[0] for s in MANY])
    split = dataset.split.reshape(-1, 3)
    assert (split == split[:, :1]).all()


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read as npz"):
        read(tmp_path / "a.npz", "npz")


# --- graphs --------------------------------------------------------------------------------------


def test_an_atom_without_neighbours_is_refused(tmp_path):
    far = Structure(
        np.append(MANY[0].numbers, 1), np.concatenate([MANY[0].positions, [[20.0, 0, 0]]])
    )
    dataset = read(write(tmp_path / "a.xyz", [*MANY, far]))
    family = load_family("schnet")
    with pytest.raises(DataError, match="without a neighbour within 4 Å.*number 151"):
        dataset.collate(family.fitted_config("w16", dataset))


def test_a_batch_holds_what_was_written(tmp_path):
    dataset = read(write(tmp_path / "a.xyz"))
    config = load_family("schnet").fitted_config("w16", dataset)
    items = np.array([7, 2, 4])
    batch = dataset.collate(config)(items)
    chosen = [MANY[item] for item in items]
    assert batch.atomic_numbers.tolist() == [z for s in chosen for z in s.numbers.tolist()]
    assert batch.energy.tolist() == pytest.approx([morse(s)[0] for s in chosen])
    places = np.concatenate([s.positions for s in chosen])
    assert np.allclose(batch.positions.numpy(), places, atol=1e-7)
    assert (batch.structure[batch.senders] == batch.structure[batch.receivers]).all()
    assert (batch.receivers.diff() >= 0).all()
    assert float(batch.vectors().norm(dim=1).max()) < config.cutoff


def test_links_are_the_edges_with_each_pair_once():
    structure = Structure(
        np.array([3, 9]), np.array([[0.0, 0, 0], [1.6, 1.6, 1.6]]), np.diag([3.2, 3.2, 3.6])
    )
    batch = graph_of([structure], 4.0)
    with native.plain():
        edges = batch.links()
    assert not edges.both_ways and len(edges.senders) == len(batch.senders)
    if native.library() is None:
        pytest.skip("no C++ compiler")
    pairs = batch.links()
    assert pairs.both_ways

    def told(senders, receivers, vectors):
        rows = zip(senders.tolist(), receivers.tolist(), vectors.round(decimals=6), strict=True)
        return sorted((s, r, tuple((v + 0.0).tolist())) for s, r, v in rows)

    there = told(pairs.senders, pairs.receivers, pairs.vectors)
    back = told(pairs.receivers, pairs.senders, -pairs.vectors)
    assert sorted(there + back) == told(edges.senders, edges.receivers, edges.vectors)
    assert not set(there) & set(back)
