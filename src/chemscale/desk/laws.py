"""The forms a loss may follow, each with its formula and source.

Every law is a floor and terms whose coefficients are linear:

    y = E + A_1·S_1(x; θ) + … + A_J·S_J(x; θ)        E, A_j ≥ 0

so a law is the logarithm of its shapes S_j, and what remains to search are the shape parameters θ.
x is num_params, num_train, tokens, … along one axis (here), or several axes (`surfaces`). Where a
law has a position (a break, a shift), it is in log x, counted from the origin of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np

from chemscale.table.errors import UsageError
from chemscale.table.results import Array

MAX_EXPONENT = 2.0  # of a plain power; measured ones of chemical models lie between 0.1 and 1.5

# (…, n, K) log x and a tuple of parameters that broadcast against (…, n) → J logs of shapes (…, n)
Shapes = Callable[..., "tuple[Array, ...]"]


@dataclass(frozen=True)
class Law:
    """A form of the loss along one axis or several."""

    name: str
    formula: str
    source: str
    num_axes: int
    # name → smallest and largest value; "scale" marks positions in log x, which the span bounds
    parameters: Mapping[str, tuple[float, float]]
    positions: Mapping[str, int]  # parameter → axis along which it is a position
    shapes: Shapes
    slopes: Callable[..., Sequence[Sequence[Array | None]]] | None = (
        None  # [j][q] d log S_j / d θ_q
    )
    starts: Callable[[Array, Array], Array] | None = None  # (C, Q) uniforms, (K,) spans → (C, Q)
    tied: tuple[int, ...] = ()  # axes counted in one unit, whose ratio the law knows
    orders: tuple[
        tuple[int, ...], ...
    ] = ()  # of θ, that leave the law as it is: breaks change places

    def end(self, log_x: Array) -> Array:
        """The origin (K,) to count log x from: its largest, the same for tied axes."""
        return largest(log_x, self.tied)

    @property
    def num_shapes(self) -> int:
        """J, the number of linear terms besides the floor."""
        return len(self.shapes(np.zeros((1, self.num_axes)), *np.ones(len(self.parameters))))

    def log_shapes(self, log_x: Array, theta: Array) -> list[Array]:
        """Logs of the J shapes, (C, n) each, at log_x (n, K), for theta (C, Q)."""
        full = (len(theta), len(log_x))
        return [np.broadcast_to(one, full) for one in self.shapes(log_x, *theta.T[:, :, None])]

    def log_slopes(self, log_x: Array, theta: Array) -> Sequence[Sequence[Array | None]]:
        """Derivatives of the same, [j][q]; None where there is none.

        Central differences where the law does not give them.
        """
        if self.slopes is not None:
            return self.slopes(log_x, *theta.T[:, :, None])
        rows: list[list[Array | None]] = [[] for _ in range(self.num_shapes)]
        for which in range(theta.shape[1]):
            ends = [theta.copy(), theta.copy()]
            ends[0][:, which] += 1e-6
            ends[1][:, which] -= 1e-6
            high, low = (self.log_shapes(log_x, end) for end in ends)
            for row, one, other in zip(rows, high, low, strict=True):
                row.append((one - other) / 2e-6)
        return rows

    def bounds(self, log_x: Array) -> tuple[Array, Array]:
        """Lower and upper bounds (Q,) of θ; a position may lie one span outside the data."""
        low, high = np.array(list(self.parameters.values()), float).reshape(-1, 2).T
        for which, name in enumerate(self.parameters):
            if name in self.positions:
                column = log_x[:, self.positions[name]]
                span = max(float(np.ptp(column)), 1.0)
                low[which], high[which] = column.min() - span, column.max() + span
        return low, high

    def candidates(self, count: int, log_x: Array) -> Array:
        """Shape parameters (C, Q) spread over what is plausible; the same ones every time.

        Log x counts from `end`; a position lies within the data or up to 1.5 beyond their end.
        """
        uniform = _spread(count, len(self.parameters))
        if self.starts is not None:
            return self.starts(uniform, np.ptp(log_x, axis=0))
        low, high = self.bounds(log_x)
        for which, name in enumerate(self.parameters):
            if name in self.positions:
                column = log_x[:, self.positions[name]]
                low[which], high[which] = column.min(), column.max() + 1.5
        return low + uniform * (high - low)


def largest(log_x: Array, tied: tuple[int, ...] = ()) -> Array:
    """Largest log x of each axis (K,); tied axes share theirs."""
    ends = log_x.max(axis=0)
    if tied:
        ends[list(tied)] = ends[list(tied)].max()
    return np.asarray(ends)


@cache
def _spread(count: int, dimensions: int) -> Array:
    """`count` points in the unit cube, evenly (Roberts' additive recurrence)."""
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1.0, dimensions + 1)
    spread: Array = (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1.0
    return spread


def law(
    name: str,
    formula: str,
    source: str,
    parameters: Mapping[str, tuple[float, float]],
    *,
    num_axes: int = 1,
    positions: Mapping[str, int] | None = None,
    **more: Any,
) -> Callable[[Shapes], Law]:
    """Make a law from the function that computes the logs of its shapes.

    ```python
    @law("stretched", "E + A·exp(-x^s)", "ours", {"power": (0.01, 1.0)})
    def stretched(log_x, power):
        return (-np.exp(power * log_x[..., 0]),)
    ```

    Args:
        name: of the law.
        formula: for people.
        source: where it comes from.
        parameters: name → smallest and largest value.
        num_axes: how many columns log x has.
        positions: parameter → axis along which it is a position in log x, for those that are.
        **more: `slopes`, the derivatives; `starts`, plausible values; `tied`, axes in one unit;
            `orders` of the parameters in which the law is the same.

    Raises:
        UsageError: a position that is no parameter.
    """
    odd = set(positions or {}) - set(parameters)
    if odd:
        raise UsageError(f"law {name!r}: {sorted(odd)} is not among its parameters")

    def wrap(shapes: Shapes) -> Law:
        return Law(name, formula, source, num_axes, parameters, positions or {}, shapes, **more)

    return wrap


def log_uniform(uniform: Array, low: float, high: float) -> Array:
    """From uniform in [0, 1) to evenly spread in the logarithm from low to high."""
    return np.asarray(low * (high / low) ** uniform)


def soft(value: Array) -> Array:
    """Log of 1 + e^v."""
    return np.asarray(np.logaddexp(0.0, value))


def sigmoid(value: Array) -> Array:
    """1 / (1 + e^-v)."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -value)))


# --- along one axis ------------------------------------------------------------------------------


@law(
    "power",
    "E + A·x^-a",
    "Hestness et al. 2017; with a floor M2 of Alabdulmohsin et al. 2022",
    {"exponent": (0.0, MAX_EXPONENT)},
    slopes=lambda log_x, exponent: ((-log_x[..., 0],),),
    starts=lambda uniform, span: log_uniform(uniform, 0.02, 2.0),
)
def power(log_x: Array, exponent: Array) -> tuple[Array, ...]:
    """Straight on double-logarithmic paper, down to the floor."""
    return (-exponent * log_x[..., 0],)


def _shifted_slopes(
    log_x: Array, exponent: Array, position: Array
) -> tuple[tuple[Array, Array], ...]:
    away = log_x[..., 0] - position
    return ((-soft(away), exponent * sigmoid(away)),)


@law(
    "shifted",
    "E + A·(1 + x/x_0)^-a",
    "a power law that has not begun yet below x_0; M3 of Alabdulmohsin et al. 2022 in 1/x",
    {"exponent": (0.0, 4.0), "position": (-np.inf, np.inf)},
    positions={"position": 0},
    slopes=_shifted_slopes,
    starts=lambda uniform, span: np.stack(
        [
            log_uniform(uniform[:, 0], 0.05, 3.0),
            uniform[:, 1] * (1.2 * span[0] + 1.5) - 1.2 * span[0],
        ],
        axis=1,
    ),
)
def shifted(log_x: Array, exponent: Array, position: Array) -> tuple[Array, ...]:
    """Flat at first, then a power."""
    return (-exponent * soft(log_x[..., 0] - position),)


def _m4_logit(log_x: Array, exponent: Array, position: Array, stretch: Array) -> Array:
    """W with v = 1/(1 + e^-w) solving log v - stretch·log(1 - v) = -exponent·(log x - position)."""
    right = -exponent * (log_x[..., 0] - position)
    logit = np.where(right < 0, right, right / stretch)
    for _ in range(12):  # Newton; the left side is smooth and rises, from slope 1 to `stretch`
        left = -soft(-logit) + stretch * soft(logit)
        logit = logit - (left - right) / (sigmoid(-logit) + stretch * sigmoid(logit))
    return np.asarray(logit)


def _m4_slopes(
    log_x: Array, exponent: Array, position: Array, stretch: Array
) -> tuple[tuple[Array, Array, Array], ...]:
    logit = _m4_logit(log_x, exponent, position, stretch)
    rest = sigmoid(-logit)
    rate = rest / (rest + stretch * sigmoid(logit))
    return ((-(log_x[..., 0] - position) * rate, exponent * rate, -soft(logit) * rate),)


@law(
    "m4",
    "(y - E)/(y_0 - y)^s = b·x^-a",
    "M4 of Alabdulmohsin et al. 2022, with y = E + (y_0 - E)·v",
    {"exponent": (0.01, 4.0), "position": (-np.inf, np.inf), "stretch": (0.2, 5.0)},
    positions={"position": 0},
    slopes=_m4_slopes,
    starts=lambda uniform, span: np.stack(
        [
            log_uniform(uniform[:, 0], 0.05, 3.0),
            uniform[:, 1] * (1.2 * span[0] + 2.0) - 1.2 * span[0],
            log_uniform(uniform[:, 2], 0.4, 2.5),
        ],
        axis=1,
    ),
)
def m4(log_x: Array, exponent: Array, position: Array, stretch: Array) -> tuple[Array, ...]:
    """From a plateau at guessing down to the floor, an S on logarithmic paper."""
    return (-soft(-_m4_logit(log_x, exponent, position, stretch)),)


def bnsl(num_breaks: int) -> Law:
    """Smoothly broken power law with a floor (Caballero et al. 2023).

    y = E + A·x^-a_0·prod_i (1 + (x/d_i)^(1/f_i))^(-c_i·f_i); c_i is by how much the exponent grows.
    """
    names = {"exponent": (0.0, 4.0)}
    for number in range(1, num_breaks + 1):
        names |= {
            f"change_{number}": (-3.0, 3.0),
            f"position_{number}": (-np.inf, np.inf),
            f"width_{number}": (0.03, 3.0),
        }

    def shapes(log_x: Array, exponent: Array, *breaks: Array) -> tuple[Array, ...]:
        value = -exponent * log_x[..., 0]
        for change, position, width in zip(breaks[::3], breaks[1::3], breaks[2::3], strict=True):
            value = value - change * width * soft((log_x[..., 0] - position) / width)
        return (value,)

    def slopes(log_x: Array, exponent: Array, *breaks: Array) -> tuple[tuple[Array, ...], ...]:
        found = [-log_x[..., 0]]
        for change, position, width in zip(breaks[::3], breaks[1::3], breaks[2::3], strict=True):
            away = (log_x[..., 0] - position) / width
            found += [
                -width * soft(away),
                change * sigmoid(away),
                -change * (soft(away) - away * sigmoid(away)),
            ]
        return (tuple(found),)

    def starts(uniform: Array, span: Array) -> Array:
        last = log_uniform(uniform[:, 0], 0.05, 3.0)  # the exponent after all breaks
        columns = []
        for place in range(num_breaks):
            change, position, width = uniform[:, 1 + 3 * place : 4 + 3 * place].T
            columns += [
                last * (1 - 2.5 * change) / num_breaks,
                position * (span[0] + 1.0) - span[0],
                log_uniform(width, 0.05, 1.0),
            ]
        first = last - sum(columns[::3])
        return np.stack([first, *columns], axis=1)

    return Law(
        f"bnsl-{num_breaks}" if num_breaks > 1 else "broken",
        "E + A·x^-a·prod_i (1 + (x/d_i)^(1/f_i))^(-c_i·f_i)",
        "Caballero et al. 2023; with one break and no floor Grossmann et al. 2026",
        1,
        names,
        {f"position_{number}": 0 for number in range(1, num_breaks + 1)},
        shapes,
        slopes,
        starts,
        orders=tuple(
            (0, *(1 + 3 * one + part for one in order for part in range(3)))
            for order in list(permutations(range(num_breaks)))[1:]
        ),
    )


broken = bnsl(1)
ALONG = (power, shifted, m4, broken)


# --- values of the two laws whose parameters are recorded ----------------------------------------


def power_floor(
    x: float | Array,
    irreducible_loss: float | Array,
    coefficient: float | Array,
    exponent: float | Array,
) -> Array:
    """E + A·x^-a, from the parameters of a `LawFit`."""
    return np.asarray(
        irreducible_loss + np.asarray(coefficient) * np.asarray(x, float) ** -np.asarray(exponent)
    )


def additive_surface(
    num_params: float | Array,
    num_train: float | Array,
    irreducible_loss: float | Array,
    size_coefficient: float | Array,
    size_exponent: float | Array,
    data_coefficient: float | Array,
    data_exponent: float | Array,
) -> Array:
    """L(N, D) = E + A·N^-a + B·D^-b, from the parameters of a `SurfaceFit`."""
    size_term = power_floor(num_params, 0.0, size_coefficient, size_exponent)
    data_term = power_floor(num_train, 0.0, data_coefficient, data_exponent)
    return np.asarray(irreducible_loss + size_term + data_term)
