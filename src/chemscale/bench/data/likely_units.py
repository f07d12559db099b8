"""Which units would make labels agree with each other and with chemistry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import inf, isfinite, log

from chemscale.bench.data.conversion import ENERGIES, LENGTHS

# How unlikely each unit is, as a logarithm.
ENERGY = {"eV": 0.0, "hartree": 0.0, "kcal/mol": 0.0, "kJ/mol": 0.0, "Ry": 0.1, "meV": 1.0}
LENGTH = {"Å": 0.0, "bohr": 0.3, "nm": 1.0}
# What is looked for, and by which factor it may be off: bonds to hydrogen are 0.96 to 1.10 Å long,
# and 27 to 46 eV/Å² stiff.
BOND, BOND_FACTOR = 1.05, 1.3
STIFFNESS, STIFFNESS_FACTOR = 34.0, 1.7
TOTAL_FACTOR = 1.03
SLOPE_FACTOR, EXACT_FACTOR = 2.5, 1.25  # the latter where forces explain nearly all
UNLIKE = 1.0  # that forces are in another unit than energy by length
CHANGED = 0.03  # that energies are in another unit than declared


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
    if _off((1.0, 1.0, 1.0), unknown if sure else found) < inf:
        return None
    by_energy, _, by_length = declared["forces"].rpartition("/")
    forces = ENERGIES[by_energy] / LENGTHS[by_length]
    best, least = {}, inf
    for e, x, by_energy, by_length in product(ENERGY, LENGTH, ENERGY, LENGTH):
        true = ENERGIES[by_energy] / LENGTHS[by_length]
        off = _off((energy / ENERGIES[e], length / LENGTHS[x], forces / true), found)
        off += ENERGY[e] + ENERGY[by_energy] + LENGTH[x] + CHANGED * (e != declared["energy"])
        if by_energy != e:
            off += UNLIKE
        elif by_length != x:
            off += LENGTH[by_length]
        if off < least:
            best = {"energy": e, "length": x, "forces": f"{by_energy}/{by_length}"}
            least = off
    return best


def _off(factors: tuple[float, float, float], found: Evidence) -> float:
    """How far labels that are too large by these factors are from what was found.

    A sum of logarithms; infinite where one is beyond its limit.
    """
    energy, length, forces = factors
    checks = (
        (found.total / energy, TOTAL_FACTOR),
        (found.bond / (BOND * length), BOND_FACTOR),
        (found.stiffness * length / (STIFFNESS * forces), STIFFNESS_FACTOR),
        (found.slope * forces * length / energy, EXACT_FACTOR if found.exact else SLOPE_FACTOR),
    )
    if not all(_near(value, factor) for value, factor in checks):
        return inf
    return sum(abs(log(value)) for value, _ in checks if isfinite(value))


def _near(value: float, factor: float) -> bool:
    """Whether a number is one, up to a factor; what is not known is."""
    return not isfinite(value) or (value > 0 and abs(log(value)) < log(factor))
