"""Radial bases, and the cutoff that makes them end smoothly."""

from __future__ import annotations

import math

import torch
from ase import units
from torch import Tensor, nn


def cosine_cutoff(distances: Tensor, cutoff: float) -> Tensor:
    """Fall from 1 at zero to 0 at the cutoff, with zero slope there (Behler 2011): (E,)."""
    return 0.5 * (torch.cos(distances * (math.pi / cutoff)) + 1.0) * (distances < cutoff)


class Gaussians(nn.Module):
    """Equally spaced Gaussians from 0 to the cutoff (SchNet: Schütt et al. 2017).

    The width of each is the spacing.
    """

    centres: Tensor

    def __init__(self, num_basis: int, cutoff: float):
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.0, cutoff, num_basis))
        self.sharpness = 0.5 * ((num_basis - 1) / cutoff) ** 2

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to basis values (E, num_basis)."""
        return torch.exp(-self.sharpness * (distances[:, None] - self.centres) ** 2)


class Sines(nn.Module):
    """sin(n π d / cutoff) / d, the zeroth spherical Bessel functions (Gasteiger et al. 2020)."""

    frequencies: Tensor

    def __init__(self, num_basis: int, cutoff: float):
        super().__init__()
        frequencies = torch.arange(1, num_basis + 1) * (math.pi / cutoff)
        self.register_buffer("frequencies", frequencies)

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to basis values (E, num_basis)."""
        column = distances[:, None]
        return torch.sin(column * self.frequencies) / column


def polynomial_cutoff(distances: Tensor, cutoff: float) -> Tensor:
    """1 - 21 x⁵ + 35 x⁶ - 15 x⁷ with x = d / cutoff: (E,).

    Two derivatives are zero at the cutoff (Gasteiger et al. 2020, p = 5).
    """
    x = distances / cutoff
    return (1.0 - x**5 * (21.0 - x * (35.0 - x * 15.0))) * (distances < cutoff)


def bump_cutoff(distances: Tensor, cutoff: float) -> Tensor:
    """exp(-d² / (cutoff² - d²)), with all derivatives zero at the cutoff (Unke 2021): (E,)."""
    left = (cutoff**2 - distances.square()).clamp(min=1e-3 * cutoff**2)
    value = torch.exp(-distances.square() / left)
    return torch.where(distances.square() < (1 - 1e-3) * cutoff**2, value, 0.0)


class Bernsteins(nn.Module):
    """Bernstein polynomials of exp(-d · 0.5 / a₀), exponentially placed (Unke et al. 2021)."""

    def __init__(self, num_basis: int):
        super().__init__()
        self.num_basis = num_basis
        self.decay = 0.5 / units.Bohr  # 1/Å

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to basis values (E, num_basis)."""
        last = self.num_basis - 1
        order = torch.arange(self.num_basis, dtype=distances.dtype, device=distances.device)
        full = torch.lgamma(order.new_full((), last + 1.0))
        binomial = full - torch.lgamma(order + 1) - torch.lgamma(last - order + 1)
        power = -self.decay * distances[:, None]  # log of the variable
        rest = torch.log(-torch.expm1(power))
        return torch.exp(binomial + order * power + (last - order) * rest)
