"""Which units would make labels agree with each other and with chemistry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import isfinite, log

from chemscale.bench.data.conversion import ENERGIES, LENGTHS

ENERGY = ("eV", "hartree", "kcal/mol", "kJ/mol", "Ry", "meV")
LENGTH = ("Å", "bohr", "nm")
# What is looked for, and by which factor it may be off: bonds to hydrogen are 0.96 to 1.10 Å long,
# and 27 to 50 eV/Å² stiff.
BOND, BOND_FACTOR = 1.05, 1.3
STIFFNESS, STIFFNESS_FACTOR = 36.0, 2.2
TOTAL_FACTOR = 1.03
SLOPE_FACTOR, EXACT_FACTOR = 2.5, 1.25  # the latter where forces explain nearly all


@dataclass(frozen=True)
class Evidence:
    """What was found, as read; NaN where nothing was."""

    total: float = float("nan")  # energies by those of all electrons
    slope: float = float("nan")  # energy differences by the work of the forces
    exact: bool = False  # whether work and differences nearly agree but for the slope
    bond: float = float("nan")  # length of bonds to hydrogen
    stiffness: float = float("nan")  # of these bonds


def likely_units(declared: dict[str, str], found: Evidence) -> dict[str, str] | None:
    """The units that the evidence speaks for: None where those declared agree with it.

    An empty dictionary: none that is known agrees. Energies without most electrons, or relative
    ones, say nothing by themselves.

    Args:
        declared: `energy`, `length` and `forces` in which the data are taken to be.
        found: in these units.
    """
    energy, length = ENERGIES[declared["energy"]], LENGTHS[declared["length"]]
    totals = [energy / ENERGIES[name] for name in ENERGY]
    unknown = replace(found, total=float("nan"))
    if not any(_near(found.total / total, TOTAL_FACTOR) for total in totals):
        found = unknown
    # Energies without most electrons match no unit, or one by chance.
    sure = isfinite(found.slope) and isfinite(found.stiffness)
    if _agree((1.0, 1.0, 1.0), unknown if sure else found):
        return None
    by_energy, _, by_length = declared["forces"].rpartition("/")
    forces = ENERGIES[by_energy] / LENGTHS[by_length]
    names = [(e, x, f"{e}/{x}") for x in LENGTH for e in ENERGY]
    names += [(e, "Å", f"{e}/bohr") for e in ENERGY]
    names += [(e, x, f"{f}/{y}") for e, x, f, y in product(ENERGY, LENGTH, ENERGY, LENGTH)]
    for e, x, f in names:
        top, _, under = f.rpartition("/")
        true = ENERGIES[top] / LENGTHS[under]
        factors = (energy / ENERGIES[e], length / LENGTHS[x], forces / true)
        if _agree(factors, found):
            return {"energy": e, "length": x, "forces": f}
    return {}


def _agree(factors: tuple[float, float, float], found: Evidence) -> bool:
    """Whether labels that are too large by these factors would look as found."""
    energy, length, forces = factors
    return (
        _near(found.total / energy, TOTAL_FACTOR)
        and _near(found.bond / (BOND * length), BOND_FACTOR)
        and _near(found.stiffness * length / (STIFFNESS * forces), STIFFNESS_FACTOR)
        and _near(
            found.slope * forces * length / energy,
            EXACT_FACTOR if found.exact else SLOPE_FACTOR,
        )
    )


def _near(value: float, factor: float) -> bool:
    """Whether a number is one, up to a factor; what is not known is."""
    return not isfinite(value) or (value > 0 and abs(log(value)) < log(factor))
