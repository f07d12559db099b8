"""The names of units in which data may be declared; their values are ASE's, in `bench`."""

from __future__ import annotations

ENERGY = ("eV", "meV", "hartree", "Ha", "Ry", "kcal/mol", "kJ/mol")
LENGTH = ("Å", "A", "Angstrom", "bohr", "nm")
QUANTITIES = ("energy", "length", "forces")


def force_unit(text: str) -> tuple[str, str]:
    """Energy and length of a unit of force, such as `kcal/mol/Å`.

    Raises:
        ValueError: it is none, and what is known.
    """
    energy, _, length = text.rpartition("/")
    if energy not in ENERGY or length not in LENGTH:
        raise ValueError(
            f"units.forces = {text!r} is no energy by length; energies: {', '.join(ENERGY)}; "
            f"lengths: {', '.join(LENGTH)}"
        )
    return energy, length


def check(declared: dict[str, str]) -> None:
    """Refuse what is no unit.

    Raises:
        ValueError: which, and what is known.
    """
    for quantity, known in (("energy", ENERGY), ("length", LENGTH)):
        unit = declared.get(quantity)
        if unit is not None and unit not in known:
            raise ValueError(f"units.{quantity} = {unit!r} is not known: {', '.join(known)}")
    if "forces" in declared:
        force_unit(declared["forces"])
