"""How wide an interval has to be so that it holds: factors learned on measured curves.

What a forecast says of its own error (`average.Outlook`) is combined to one scale in log y,

    s² = a·error²·(1 + beyond) + b·noise² + c,    error² = (n·rolling² + spread²)/(n + 1)

where the spread of the averaged forecasts counts as one more of n earlier origins: with few of
those a small error may be luck. Along one axis it is that between the forecasts; over a surface
also that of each over its shape parameters, which says how little a law is tied down there. An
interval of a level reaches as many s to either side as held that share of the extrapolated points
of the development curves, each kind of curve counting by the root of its number (split conformal;
Vovk et al. 2005). `calibration.json` holds a, b, c and those quantiles, with what they were learned
from; `benchmarks/calibrate.py` makes it and shows how it does on what is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from chemscale.desk.average import Outlook
from chemscale.table.results import Array


@dataclass(frozen=True)
class Calibration:
    """Factors for one kind of forecast."""

    kind: str  # "along" one axis or over a "surface"
    shares: tuple[float, ...]  # a, b
    least: float  # c
    quantiles: Mapping[float, float]  # level → multiple of the scale
    learned_from: str

    def scale(self, outlook: Outlook) -> Array:
        """Scale of the error of log y (T,)."""
        return np.asarray(np.sqrt(parts(outlook, self.kind) @ np.array(self.shares) + self.least))

    def quantile(self, level: float) -> float:
        """Multiple of the scale for a level; between those that were learned, on a normal scale."""
        from scipy.special import ndtri

        known = sorted(self.quantiles)
        places = [float(ndtri((1 + one) / 2)) for one in known]
        heights = [self.quantiles[one] for one in known]
        wanted = float(ndtri((1 + level) / 2))
        if wanted <= places[0]:
            return heights[0] * wanted / places[0]
        if wanted >= places[-1]:
            return heights[-1] * wanted / places[-1]
        return float(np.interp(wanted, places, heights))


def parts(outlook: Outlook, kind: str) -> Array:
    """Squares (T, 2) of what the error may come from."""
    n = outlook.origins
    rolling = outlook.rolling if n else 0.0
    spread = outlook.between**2 + (outlook.within**2 if kind == "surface" else 0.0)
    error = (n * rolling**2 + spread) / (n + 1)
    return np.stack(
        [error * (1 + outlook.beyond), np.full_like(outlook.between, outlook.noise**2)], axis=1
    )


@cache
def calibration(kind: str) -> Calibration:
    """The factors that come with the package, for "along" one axis or over a "surface"."""
    text = files("chemscale.desk").joinpath("calibration.json").read_text()
    found = json.loads(text)[kind]
    quantiles = {float(level): value for level, value in found["quantiles"].items()}
    shares = tuple(found["shares"])
    return Calibration(kind, shares, found["least"], quantiles, found["learned_from"])
