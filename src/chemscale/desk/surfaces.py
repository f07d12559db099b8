"""The forms a loss may follow over several axes at once; see `laws`."""

from __future__ import annotations

import numpy as np

from chemscale.desk.laws import MAX_EXPONENT, broken, law, log_uniform, sigmoid
from chemscale.table.results import Array


@law(
    "additive",
    "E + A·N^-a + B·D^-b",
    "Hoffmann et al. 2022, approach 3",
    {"size_exponent": (0.0, MAX_EXPONENT), "data_exponent": (0.0, MAX_EXPONENT)},
    num_axes=2,
    slopes=lambda log_x, a, b: ((-log_x[..., 0], None), (None, -log_x[..., 1])),
    starts=lambda uniform, span: log_uniform(uniform, 0.04, 2.0),
)
def additive(log_x: Array, size_exponent: Array, data_exponent: Array) -> tuple[Array, ...]:
    """The two shortages add; a break in D, which graph networks on materials show, is not in it."""
    return (-size_exponent * log_x[..., 0], -data_exponent * log_x[..., 1])


@law(
    "over-training",
    "E + (a·M^h + b·M^-h)·C^-h, M = D/N, C = N·D",
    "Gadre et al. 2024; the additive surface with one exponent",
    {"exponent": (0.0, MAX_EXPONENT)},
    num_axes=2,
    slopes=lambda log_x, h: ((-log_x[..., 0],), (-log_x[..., 1],)),
    starts=lambda uniform, span: log_uniform(uniform, 0.04, 2.0),
)
def over_training(log_x: Array, exponent: Array) -> tuple[Array, ...]:
    """The exponent of compute does not depend on tokens per parameter."""
    return (-exponent * log_x[..., 0], -exponent * log_x[..., 1])


def _kaplan_slopes(
    log_x: Array, size: Array, data: Array, position: Array
) -> tuple[tuple[Array, ...], ...]:
    left, right = size / data * (position - log_x[..., 0]), -log_x[..., 1]
    share, total = sigmoid(left - right), np.logaddexp(left, right)
    by_size = share * (position - log_x[..., 0])
    return ((by_size, total - share * left, share * size),)


def _kaplan_starts(uniform: Array, span: Array) -> Array:
    """At the largest run either shortage outweighs the other by up to e^4 within the brackets."""
    size, data = (log_uniform(uniform[:, axis], 0.04, 1.5) for axis in range(2))
    position = (8 * uniform[:, 2] - 4) * data / size
    return np.stack([size, data, np.clip(position, -30.0, 30.0)], axis=1)


@law(
    "kaplan",
    "E + A·[(N_c/N)^(a_N/a_D) + 1/D]^a_D",
    "Kaplan et al. 2020, with a floor",
    {
        "size_exponent": (0.01, MAX_EXPONENT),
        "data_exponent": (0.01, MAX_EXPONENT),
        "position": (-30.0, 30.0),
    },
    num_axes=2,
    slopes=_kaplan_slopes,
    starts=_kaplan_starts,
)
def kaplan(
    log_x: Array, size_exponent: Array, data_exponent: Array, position: Array
) -> tuple[Array, ...]:
    """The two shortages are coupled: the larger hides the other."""
    left = size_exponent / data_exponent * (position - log_x[..., 0])
    return (data_exponent * np.logaddexp(left, -log_x[..., 1]),)


def _broken_slopes(
    log_x: Array, size: Array, data: Array, change: Array, position: Array, width: Array
) -> tuple[tuple[Array | None, ...], ...]:
    ((_, *own),) = broken.slopes(log_x[..., 1:], data, change, position, width)  # type: ignore[misc]
    return ((-log_x[..., 0], None, None, None, None), (None, -log_x[..., 1], *own))


@law(
    "broken-in-data",
    "E + A·N^-a + B·D^-b·(1 + (D/D_c)^(1/f))^(-c·f)",
    "the additive surface with the break in D of Grossmann et al. 2026",
    {
        "size_exponent": (0.0, MAX_EXPONENT),
        "data_exponent": (0.0, 4.0),
        "change": (-3.0, 3.0),
        "position": (-np.inf, np.inf),
        "width": (0.03, 3.0),
    },
    num_axes=2,
    positions={"position": 1},
    slopes=_broken_slopes,
    starts=lambda uniform, span: np.concatenate(
        [log_uniform(uniform[:, :1], 0.04, 2.0), broken.starts(uniform[:, 1:], span[1:])],  # type: ignore[misc]
        axis=1,
    ),
)
def broken_in_data(
    log_x: Array, size: Array, data: Array, change: Array, position: Array, width: Array
) -> tuple[Array, ...]:
    """More data help differently once there are enough of them to resolve the target."""
    return (-size * log_x[..., 0], *broken.shapes(log_x[..., 1:], data, change, position, width))


SURFACES = (additive, over_training, kaplan, broken_in_data)


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


def _constrained_slopes(
    log_x: Array, size: Array, data: Array, *scales: Array
) -> tuple[tuple[Array | None, ...], ...]:
    (params, by_half, by_base), (seen, by_data_half, _), excess = _constrained(log_x, *scales[:-1])
    return (
        (-params, None, None, -size * by_half, -size * by_base, None),
        (None, -seen, -data * by_data_half, None, None, None),
        (None, None, None, None, None, excess),
    )


@law(
    "data-constrained",
    "E + A·N'^-a + B·D'^-b + K·((D/U - 1)·N/U)^k, D' = U + U·R_D·(1 - e^(-(D/U - 1)/R_D))",
    "Muennighoff et al. 2023, N' likewise with U_N = min(N, g·U); the last term, for a loss that "
    "rises with repetition, is ours",
    {
        "size_exponent": (0.0, MAX_EXPONENT),
        "data_exponent": (0.0, MAX_EXPONENT),
        "log_data_half": (-2.0, 6.0),
        "log_size_half": (-2.0, 6.0),
        "log_size_per_unique": (-12.0, 12.0),
        "overfit_exponent": (0.2, 4.0),
    },
    num_axes=3,
    tied=(1, 2),
    slopes=_constrained_slopes,
    starts=lambda uniform, span: np.concatenate(
        [
            log_uniform(uniform[:, :2], 0.1, 1.0),
            np.array([0.0, 0.0, -6.0, 0.3]) + uniform[:, 2:] * np.array([4.0, 4.0, 6.0, 2.0]),
        ],
        axis=1,
    ),
)
def data_constrained(
    log_x: Array,
    size: Array,
    data: Array,
    log_data_half: Array,
    log_size_half: Array,
    log_size_per_unique: Array,
    overfit: Array,
) -> tuple[Array, ...]:
    """Axes N, D seen, U unique: repeated data are worth less and less, and then they harm."""
    of_size, of_data, excess = _constrained(
        log_x, log_data_half, log_size_half, log_size_per_unique
    )
    return (-size * of_size[0], -data * of_data[0], overfit * excess)
