"""Structures made of SMILES."""

import numpy as np
import pytest

from chemscale.bench.using.conformers import Shape, structures

CHNO = ("C", "H", "N", "O")
ALL = Shape(("conformers", "modes", "md"), 6, 300.0, CHNO, 9, 0)


def test_structures_of_a_molecule_follow_from_what_it_is_and_not_from_its_spelling():
    kinds = [atoms.info["config_type"] for atoms in structures("CCO", ALL)]
    assert kinds == ["conformer"] * 2 + ["mode"] * 2 + ["md"] * 2
    assert {atoms.info["smiles"] for atoms in structures("OCC", ALL)} == {"CCO"}
    again = structures("CCO", ALL)
    for one, other in zip(structures("CCO", ALL), again, strict=True):
        assert np.array_equal(one.positions, other.positions)


def test_dynamics_and_modes_stay_near_the_molecule_they_began_from():
    for atoms in structures("CCO", ALL):
        assert 1.2 < atoms.get_distance(0, 1) < 1.8, atoms.info


@pytest.mark.parametrize(
    ("smiles", "why"),
    [("C(", "no SMILES"), ("C.C", "more than one"), ("CCl", "Cl"), ("C" * 10, "heavy atoms")],
)
def test_a_molecule_that_cannot_be_used_says_why(smiles, why):
    with pytest.raises(ValueError, match=why):
        structures(smiles, ALL)
