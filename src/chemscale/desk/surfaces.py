"""The forms a loss may follow over several axes at once; see `laws`.

Each comes twice: data help as a power, or as a power that breaks, since more data can help
differently once there are enough of them to resolve the target (Grossmann et al. 2026, for the
additive surface). So a surface is made from the law of its data along one axis, `power` or
`broken`.
"""

from __future__ import annotations

import numpy as np

from chemscale.desk.laws import MAX_EXPONENT, Law, broken, law, log_uniform, power, sigmoid
from chemscale.table.results import Array

Slopes = tuple[tuple[Array | None, ...], ...]


# --- how data help -------------------------------------------------------------------------------


def _name(data: Law, surface: str) -> str:
    return surface if data is power else f"{surface}-broken-in-data".removeprefix("additive-")


def _fall(data: Law, x: str, exponent: str, share: str = "") -> str:
    """The term, for people; share is the exponent with which it is part of another."""
    change = f"·(1 + ({x}/D_c)^(1/f))^(-c·f{share})"
    return f"{x}^-{exponent}" + change * (data is not power)


def _parameters(
    data: Law, exponent: str = "data_exponent", least: float = 0.0
) -> dict[str, tuple[float, float]]:
    """Its own, without the number of the break."""
    (_, most), *others = data.parameters.values()
    names = [name.removesuffix("_1") for name in [*data.parameters][1:]]
    return {exponent: (least, most)} | dict(zip(names, others, strict=True))


def _positions(data: Law, axis: int) -> dict[str, int]:
    return {name.removesuffix("_1"): axis for name in data.positions}


def _starts(
    data: Law, uniform: Array, span: Array, low: float, high: float, least: float = -np.inf
) -> Array:
    """Plausible values of its parameters; as a power, an exponent from low to high.

    A broken one may rise at first, its exponent be negative, where the surface allows it.
    """
    if data is power:
        return log_uniform(uniform, low, high)
    assert data.starts is not None
    found = data.starts(uniform, span)
    found[:, 0] = np.maximum(found[:, 0], least)
    return found


def _log_fall(data: Law, log_data: Array, theta: tuple[Array, ...]) -> Array:
    return data.shapes(log_data[..., None], *theta)[0]


def _slopes(data: Law, log_data: Array, theta: tuple[Array, ...]) -> list[Array]:
    """Derivatives of the same along its parameters."""
    assert data.slopes is not None
    return [one for one in data.slopes(log_data[..., None], *theta)[0] if one is not None]


# --- shortages that add --------------------------------------------------------------------------


def _additive(data: Law, surface: str, source: str, formula: str, *sizes: str) -> Law:
    """One or several sizes, and data along the last axis."""
    count = len(sizes)

    def slopes(log_x: Array, *theta: Array) -> Slopes:
        rows: list[list[Array | None]] = [[None] * len(theta) for _ in range(count + 1)]
        for axis in range(count):
            rows[axis][axis] = -log_x[..., axis]
        rows[count][count:] = _slopes(data, log_x[..., count], theta[count:])
        return tuple(map(tuple, rows))

    @law(
        _name(data, surface),
        formula + _fall(data, "D", "b"),
        source,
        {f"{size}_exponent": (0.0, MAX_EXPONENT) for size in sizes} | _parameters(data),
        num_axes=count + 1,
        positions=_positions(data, count),
        slopes=slopes,
        starts=lambda uniform, span: np.concatenate(
            [
                log_uniform(uniform[:, :count], 0.04, 2.0),
                _starts(data, uniform[:, count:], span[count:], 0.04, 2.0),
            ],
            axis=1,
        ),
    )
    def added(log_x: Array, *theta: Array) -> tuple[Array, ...]:
        of_sizes = [-theta[axis] * log_x[..., axis] for axis in range(count)]
        return (*of_sizes, _log_fall(data, log_x[..., count], theta[count:]))

    return added


additive, broken_in_data = (
    _additive(data, "additive", "Hoffmann et al. 2022, approach 3", "E + A·N^-a + B·", "size")
    for data in (power, broken)
)
width_depth, width_depth_broken = (
    _additive(
        data, "width-depth", "McLeish et al. 2025", "E + A·W^-a + G·H^-g + B·", "width", "depth"
    )
    for data in (power, broken)
)


def _over_training(data: Law) -> Law:
    """The exponent of compute does not depend on tokens per parameter (before a break)."""

    def slopes(log_x: Array, *theta: Array) -> Slopes:
        others = (None,) * (len(theta) - 1)
        return ((-log_x[..., 0], *others), tuple(_slopes(data, log_x[..., 1], theta)))

    @law(
        _name(data, "over-training"),
        "E + (a·M^h + b·M^-h)·C^-h, M = D/N, C = N·D"
        if data is power
        else f"E + A·N^-h + B·{_fall(data, 'D', 'h')}",
        "Gadre et al. 2024; the additive surface with one exponent",
        _parameters(data, "exponent"),
        num_axes=2,
        positions=_positions(data, 1),
        slopes=slopes,
        starts=lambda uniform, span: _starts(data, uniform, span[1:], 0.04, 2.0, least=0.04),
    )
    def over_training(log_x: Array, *theta: Array) -> tuple[Array, ...]:
        return (-theta[0] * log_x[..., 0], _log_fall(data, log_x[..., 1], theta))

    return over_training


over_training, over_training_broken = map(_over_training, (power, broken))


# --- shortages that are coupled ------------------------------------------------------------------


def _kaplan(data: Law) -> Law:
    """The larger of two shortages hides the other; their balance is log N_c."""

    def parts(log_x: Array, theta: tuple[Array, ...]) -> tuple[Array, Array]:
        size, *own, balance = theta
        fall = _log_fall(data, log_x[..., 1], tuple(own))
        return size / own[0] * (balance - log_x[..., 0]), fall / own[0]

    def slopes(log_x: Array, *theta: Array) -> Slopes:
        size, *own, balance = theta
        left, right = parts(log_x, theta)
        share, total = sigmoid(left - right), np.logaddexp(left, right)
        first, *others = ((1 - share) * one for one in _slopes(data, log_x[..., 1], tuple(own)))
        first = first + total - share * left - (1 - share) * right
        return ((share * (balance - log_x[..., 0]), first, *others, share * size),)

    def starts(uniform: Array, span: Array) -> Array:
        """At the largest run either outweighs the other by up to e^4 within the brackets."""
        size = log_uniform(uniform[:, 0], 0.04, 1.5)
        own = _starts(data, uniform[:, 1:-1], span[1:], 0.04, 1.5, least=0.04)
        end = _log_fall(data, np.zeros(1), tuple(own.T))
        balance = ((8 * uniform[:, -1] - 4) * own[:, 0] + end) / size
        return np.column_stack([size, own, np.clip(balance, -30.0, 30.0)])

    @law(
        _name(data, "kaplan"),
        f"E + A·[(N_c/N)^(a_N/a_D) + {_fall(data, 'D', '1', '/a_D')}]^a_D",
        "Kaplan et al. 2020, with a floor",
        {"size_exponent": (0.01, MAX_EXPONENT)}
        | _parameters(data, least=0.01)
        | {"balance": (-30.0, 30.0)},
        num_axes=2,
        positions=_positions(data, 1),
        slopes=slopes,
        starts=starts,
    )
    def kaplan(log_x: Array, *theta: Array) -> tuple[Array, ...]:
        return (theta[1] * np.logaddexp(*parts(log_x, theta)),)

    return kaplan


kaplan, kaplan_broken = map(_kaplan, (power, broken))


# --- data that are repeated ----------------------------------------------------------------------


def _worth(total: Array, base: Array, log_half: Array) -> tuple[Array, Array, Array]:
    """Log of what repeats beyond the base are worth; its slopes along log half, and log base."""
    repeats, half = np.expm1(total - base), np.exp(log_half)
    fresh = np.exp(-repeats / half)
    gain = -half * np.expm1(-repeats / half)
    by_half = (gain - repeats * fresh) / (1 + gain)
    return base + np.log1p(gain), by_half, 1 - fresh * (1 + repeats) / (1 + gain)


def _constrained(
    log_x: Array, log_data_half: Array, log_size_half: Array, log_size_per_unique: Array
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array], Array]:
    """What parameters and data are worth, and by how much training them over-fits."""
    params, seen, unique = (log_x[..., axis] for axis in range(3))
    extra = np.log(np.maximum(np.expm1(np.maximum(seen - unique, 0.0)), 1e-30))
    return (
        _worth(params, np.minimum(params, unique + log_size_per_unique), log_size_half),
        _worth(seen, np.minimum(seen, unique), log_data_half),
        extra + params - unique,
    )


def _data_constrained(data: Law) -> Law:
    """Axes N, D seen, U unique: repeated data are worth less and less, and then they harm.

    A break is one in what the data are worth.
    """

    def slopes(log_x: Array, size: Array, *theta: Array) -> Slopes:
        *own, data_half, size_half, per_unique, _ = theta
        params, seen, excess = _constrained(log_x, data_half, size_half, per_unique)
        of_data = _slopes(data, seen[0], tuple(own))
        by_seen = -own[0] - (0.0 if data is power else of_data[2])  # of_data[2]: by position
        none = (None,) * len(own)
        return (
            (-params[0], *none, None, -size * params[1], -size * params[2], None),
            (None, *of_data, by_seen * seen[1], None, None, None),
            (None, *none, None, None, None, excess),
        )

    @law(
        _name(data, "data-constrained"),
        f"E + A·N'^-a + B·{_fall(data, 'D' + chr(39), 'b')} + K·((D/U - 1)·N/U)^k, "
        "D' = U + U·R_D·(1 - e^(-(D/U - 1)/R_D))",
        "Muennighoff et al. 2023, N' likewise with U_N = min(N, g·U); the last term, for a loss "
        "that rises with repetition, is ours",
        {"size_exponent": (0.0, MAX_EXPONENT)}
        | _parameters(data)
        | {
            "log_data_half": (-2.0, 6.0),
            "log_size_half": (-2.0, 6.0),
            "log_size_per_unique": (-12.0, 12.0),
            "overfit_exponent": (0.2, 4.0),
        },
        num_axes=3,
        positions=_positions(data, 1),
        tied=(1, 2),
        slopes=slopes,
        starts=lambda uniform, span: np.concatenate(
            [
                log_uniform(uniform[:, :1], 0.1, 1.0),
                _starts(data, uniform[:, 1:-4], span[1:], 0.1, 1.0, least=0.0),
                np.array([0.0, 0.0, -6.0, 0.3]) + uniform[:, -4:] * np.array([4.0, 4.0, 6.0, 2.0]),
            ],
            axis=1,
        ),
    )
    def data_constrained(log_x: Array, size: Array, *theta: Array) -> tuple[Array, ...]:
        *own, data_half, size_half, per_unique, overfit = theta
        params, seen, excess = _constrained(log_x, data_half, size_half, per_unique)
        return (-size * params[0], _log_fall(data, seen[0], tuple(own)), overfit * excess)

    return data_constrained


data_constrained, data_constrained_broken = map(_data_constrained, (power, broken))

SURFACES = (
    additive,
    over_training,
    kaplan,
    width_depth,
    data_constrained,
    broken_in_data,
    over_training_broken,
    kaplan_broken,
    width_depth_broken,
    data_constrained_broken,
)
