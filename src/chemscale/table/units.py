"""The names of units in which data may be declared; their values are ASE's, in `bench`."""

from __future__ import annotations

ENERGY = ("eV", "meV", "hartree", "Ha", "Ry", "kcal/mol", "kJ/mol")
LENGTH = ("Å", "A", "Ang", "Angstrom", "bohr", "nm")
PRESSURE = ("GPa", "kbar")


def force_unit(text: str) -> tuple[str, str]:
    """Energy and length of a unit of force, such as `kcal/mol/Å`.

    A minus before it says that gradients stand where forces should.

    Raises:
        ValueError: it is none, and what is known.
    """
    energy, _, length = text.removeprefix("-").rpartition("/")
    if energy not in ENERGY or length not in LENGTH:
        raise ValueError(
            f"units.forces = {text!r} is no energy by length; energies: {', '.join(ENERGY)}; "
            f"lengths: {', '.join(LENGTH)}"
        )
    return energy, length


def stress_unit(text: str) -> tuple[str, str]:
    """Energy and length of a unit of stress, such as `eV/Å^3`; of a pressure, it and no length.

    Raises:
        ValueError: it is neither, and what is known.
    """
    energy, _, length = text.removesuffix("^3").rpartition("/")
    if text in PRESSURE:
        return text, ""
    if not text.endswith("^3") or energy not in ENERGY or length not in LENGTH:
        raise ValueError(
            f"units.stress = {text!r} is neither a pressure ({', '.join(PRESSURE)}) nor an energy "
            f"by volume, as eV/Å^3; energies: {', '.join(ENERGY)}; lengths: {', '.join(LENGTH)}"
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
    if "stress" in declared:
        stress_unit(declared["stress"])
