"""Terms of the energy that are known: repulsion of nuclei, charges, dispersion. Å, eV, e.

Each gives an atom half of what its pairs have; pairs come in both directions.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ase import units
from torch import Tensor, nn

from chemscale.bench.nn.messages import scatter_sum
from chemscale.bench.nn.multilinear import Constant
from chemscale.bench.nn.radial import polynomial_cutoff

COULOMB = units.Hartree * units.Bohr  # e² / 4πε₀, eV Å


class Repulsion(nn.Module):
    """Screened repulsion of nuclei (Ziegler, Biersack, Littmark 1985); its numbers are learnt.

    They start at the universal ones, and stay positive.
    """

    def __init__(self, cutoff: float):
        super().__init__()
        self.cutoff = cutoff
        self.coefficients = _positive((0.18175, 0.50986, 0.28022, 0.02817))
        self.decays = _positive((3.1998, 0.94229, 0.4029, 0.20162))
        self.power = _positive((0.23,))
        self.length = _positive((0.8854 * units.Bohr,))  # Å

    def forward(
        self, atomic_numbers: Tensor, distances: Tensor, senders: Tensor, receivers: Tensor
    ) -> Tensor:
        """Of each atom, from edges up to the cutoff: (A,)."""
        charge = atomic_numbers.to(distances.dtype)  # (A,)
        reach = charge ** F.softplus(self.power) / F.softplus(self.length)
        scaled = distances * (reach[senders] + reach[receivers])  # (E,)
        coefficients = F.softplus(self.coefficients)
        screened = torch.exp(-scaled[:, None] * F.softplus(self.decays)) * coefficients
        energy = screened.sum(dim=1) / coefficients.sum() * charge[senders] * charge[receivers]
        energy = energy * COULOMB / distances * polynomial_cutoff(distances, self.cutoff)
        return 0.5 * scatter_sum(energy, receivers, len(charge))


def electrostatics(
    charges: Tensor, distances: Tensor, senders: Tensor, receivers: Tensor, cutoff: float
) -> Tensor:
    """Point charges, damped where electrons overlap (Unke et al. 2021): (A,).

    Between a quarter and three quarters of the cutoff, 1/√(r² + a₀²) turns into 1/r.
    """
    start, end = cutoff / 4, 3 * cutoff / 4
    near = smooth_step((end - distances) / (end - start))
    damped = (distances.square() + units.Bohr**2).rsqrt()
    factor = near * damped + (1 - near) / distances
    energy = COULOMB * charges[senders] * charges[receivers] * factor
    return 0.5 * scatter_sum(energy, receivers, len(charges))


class Dispersion(nn.Module):
    """Attraction -s₆ C₆ / (r⁶ + f⁶), with C₆ that follows the charges, in the manner of D4.

    Free-atom C₆ are those of Chu and Dalgarno (2004), combined as by Tkatchenko and Scheffler
    (2009) and scaled by the charge function of D4 (Caldeweyher et al. 2017); damping is that of
    Becke and Johnson, f = a₁ R + a₂, with radii of Grimme (2006). Simpler than D4: no coordination
    numbers, no r⁻⁸, no triples. s₆, a₁ and a₂ are learnt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strength = _positive((1.0,))
        self.damping = _positive((0.4, 2.0))  # of the sum of radii; Å
        self.table = Constant(np.array(free_atoms()))

    def forward(
        self,
        atomic_numbers: Tensor,
        charges: Tensor,
        distances: Tensor,
        senders: Tensor,
        receivers: Tensor,
    ) -> Tensor:
        """Of each atom, from all pairs: (A,)."""
        alpha, c6, radius = self.table(charges)[atomic_numbers].unbind(1)  # (A,) each
        numbers = atomic_numbers.to(charges.dtype)
        # D4's charge function, with the steepness 2 for all elements; 3 is its maximum's logarithm.
        screened = (numbers + charges).clamp(min=0.1)
        scale = torch.exp(3.0 * (1.0 - torch.exp(2.0 * (1.0 - numbers / screened))))
        scale = scale.clamp(max=20.0)
        c6 = c6 * scale.square()
        first, second = c6[senders], c6[receivers]
        ratio = alpha[senders] / alpha[receivers]
        pair = 2 * first * second / (second * ratio + first / ratio)  # eV Å⁶
        fraction, shift = F.softplus(self.damping)
        damping = fraction * (radius[senders] + radius[receivers]) + shift
        energy = -F.softplus(self.strength) * pair / (distances**6 + damping**6)
        return 0.5 * scatter_sum(energy, receivers, len(charges))


def smooth_step(x: Tensor) -> Tensor:
    """From 0 at 0 to 1 at 1, with all derivatives zero at both."""
    inside = x.clamp(1e-3, 1 - 1e-3)
    rise, fall = torch.exp(-1 / inside), torch.exp(-1 / (1 - inside))
    return torch.where(x <= 1e-3, 0.0, torch.where(x >= 1 - 1e-3, 1.0, rise / (rise + fall)))


@functools.cache
def free_atoms() -> list[tuple[float, float, float]]:
    """Polarisability (a₀³), C₆ (eV Å⁶) and radius (Å) by atomic number; NaN where not known."""
    from ase.calculators.vdwcorrection import vdWDB_Chu04jcp, vdWDB_Grimme06jcc
    from ase.data import chemical_symbols

    to_ev = units.Hartree * units.Bohr**6
    table = [(math.nan, math.nan, math.nan)] * 101
    known: Any = vdWDB_Chu04jcp
    radii: Any = vdWDB_Grimme06jcc
    for symbol, (alpha, c6) in known.items():
        if symbol in radii:
            place = chemical_symbols.index(symbol)
            table[place] = (float(alpha), float(c6) * to_ev, float(radii[symbol][1]))
    return table


def _positive(values: tuple[float, ...]) -> nn.Parameter:
    """Parameters whose softplus are these."""
    return nn.Parameter(torch.tensor([math.log(math.expm1(value)) for value in values]))
