"""Units of a file, declared once and turned into Å, eV, eV/Å and eV/Å³ as it is read."""

from __future__ import annotations

from dataclasses import dataclass

from ase import units

from chemscale.table.records import DatasetSpec
from chemscale.table.units import force_unit, stress_unit

ENERGIES = {
    "eV": 1.0,
    "meV": 1e-3,
    "hartree": units.Hartree,
    "Ha": units.Hartree,
    "Ry": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
}
PRESSURES = {"GPa": units.GPa, "kbar": units.bar * 1e3}
LENGTHS = {"Å": 1.0, "A": 1.0, "Ang": 1.0, "Angstrom": 1.0, "bohr": units.Bohr, "nm": units.nm}


@dataclass(frozen=True)
class Conversion:
    """Factors from the units of a file to Å, eV, eV/Å and eV/Å³."""

    energy: float
    length: float
    forces: float
    stress: float
    gradients: bool  # the labels of forces are gradients, of the other sign
    names: dict[str, str]  # energy, length and forces that the files are taken to be in
    told: str  # in words; empty where nothing is converted by the layout alone

    @classmethod
    def of(cls, spec: DatasetSpec, layout: dict[str, str] | None = None) -> Conversion:
        """What a dataset declares, else what its layout is known to be in, else eV and Å.

        Args:
            spec: `units`, or the older `energy_unit`.
            layout: units that this layout of files is published in.
        """
        declared = dict(spec.units or {})
        if not declared and spec.energy_unit != "eV":
            declared = {"energy": spec.energy_unit}
        usual = layout or {}
        energy = declared.get("energy", usual.get("energy", "eV"))
        length = declared.get("length", usual.get("length", "Å"))
        # Forces follow what is declared, unless the layout says more than nothing is.
        forces = declared.get("forces")
        if forces is None:
            forces = f"{energy}/{length}" if declared else usual.get("forces", f"{energy}/{length}")
        gradients = declared.get("forces", usual.get("forces", "")).startswith("-")
        forces = forces.removeprefix("-")
        by_energy, by_length = force_unit(forces)
        over, by = stress_unit(declared.get("stress", f"{energy}/{length}^3"))
        told = ""
        if usual and not declared:
            kind = "gradients, not forces," if gradients else "forces"
            told = (
                f"energies in {energy}, lengths in {length}, {kind} in {forces}, as such files "
                "have them; set units in [dataset] where yours differ"
            )
        return cls(
            energy=ENERGIES[energy],
            length=LENGTHS[length],
            forces=ENERGIES[by_energy] / LENGTHS[by_length],
            stress=ENERGIES[over] / LENGTHS[by] ** 3 if by else PRESSURES[over],
            gradients=gradients,
            names={"energy": energy, "length": length, "forces": forces},
            told=told,
        )
