"""Robust fits of additive power laws to log losses, a whole batch of data sets at a time.

    y = E + A_1·x_1^-a_1 + … + A_K·x_K^-a_K        E, A_k ≥ 0,   0 ≤ a_k ≤ MAX_EXPONENT

Two steps, each over all data sets at once, without a Python loop over starts or bootstraps.
*Variable projection*: at fixed exponents the law is linear in E and A, so only the exponents are
searched, on a grid, with non-negative least squares of the relative residual at each grid point.
*Refinement*: a projected Levenberg-Marquardt on all parameters for the Huber loss of the residual
of log y. (Not of log(y - E): that one explodes near E = min y.)
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from chemscale.desk.laws import MAX_EXPONENT
from chemscale.table.results import Array


def solve(
    log_x: Array,
    log_y: Array,
    weights: Array,
    *,
    floor: bool,
    delta: float,
    grid: int,
    tolerance: float = 1e-10,
) -> Array:
    """Fit every data set of the batch.

    Args:
        log_x: (n, K), shared by the batch.
        log_y: (S, n), one row a data set.
        weights: (S, n), how often each point counts.
        floor: whether E is fitted; else it is 0.
        delta: where the Huber loss turns from quadratic to linear, in log y; may be infinite.
        grid: exponents tried per axis before refinement.
        tolerance: refinement ends when a step lowers the objective by less than this share.

    Returns:
        (S, 1 + 2K): E, then A_1, a_1, …, A_K, a_K.
    """
    centre, scale = log_x.mean(axis=0), float(log_y.mean())
    log_x, log_y = log_x - centre, log_y - scale  # x = 1 and y = 1 in the middle: well conditioned
    theta = _project(log_x, log_y, weights, floor, grid)
    theta = _refine(theta, log_x, log_y, weights, floor, delta, tolerance)
    num_axes = log_x.shape[1]
    exponents = theta[:, 1 + num_axes :]
    coefficients = theta[:, 1 : 1 + num_axes] * np.exp(exponents * centre + scale)
    terms = np.stack([coefficients, exponents], axis=2).reshape(len(theta), -1)
    return np.concatenate([theta[:, :1] * np.exp(scale), terms], axis=1)


def log_law(log_x: Array, parameters: Array) -> Array:
    """Log of the law at (n, K) log x, for (S, 1 + 2K) parameters as `solve` returns: (S, n)."""
    terms = parameters[:, None, 1::2] * np.exp(-parameters[:, None, 2::2] * log_x)
    return np.asarray(np.log(np.maximum(parameters[:, :1] + terms.sum(axis=2), 1e-300)))


def huber(residual: Array, delta: float) -> Array:
    """r²/2 up to |r| = delta, a straight line beyond: one odd seed must not bend the law."""
    size = np.minimum(np.abs(residual), delta)
    return np.asarray(size * (np.abs(residual) - 0.5 * size))


def _project(log_x: Array, log_y: Array, weights: Array, floor: bool, grid: int) -> Array:
    """Best exponents on a grid, with E and A by non-negative least squares: (S, 1 + 2K)."""
    num_axes = log_x.shape[1]
    ticks = np.linspace(0.0, MAX_EXPONENT, grid + 1)[1:]  # at 0 a term is a second floor
    exponents = np.stack(np.meshgrid(*[ticks] * num_axes, indexing="ij"), -1).reshape(-1, num_axes)
    typical = log_y.mean(axis=0)
    columns = np.exp(-exponents[:, None, :] * log_x)  # (G, n, K)
    if floor:
        columns = np.concatenate([np.ones_like(columns[..., :1]), columns], axis=2)
    columns = columns / np.exp(typical)[:, None]  # relative: f/y - 1 stands in for log f - log y
    target = np.exp(np.clip(log_y - typical, -5.0, 5.0))  # (S, n)
    num_grid, num_points, num_terms = columns.shape
    outer = (columns[..., :, None] * columns[..., None, :]).swapaxes(0, 1)  # (n, G, J, J)
    gram = (weights @ outer.reshape(num_points, -1)).reshape(-1, num_grid, num_terms, num_terms)
    moment = (weights * target) @ columns.swapaxes(0, 1).reshape(num_points, -1)
    linear, gain = _nonnegative(gram, moment.reshape(-1, num_grid, num_terms))
    best = gain.argmax(axis=1)
    linear = linear[np.arange(len(best)), best]
    if not floor:
        linear = np.concatenate([np.zeros_like(linear[:, :1]), linear], axis=1)
    return np.concatenate([linear, exponents[best]], axis=1)


def _nonnegative(gram: Array, moment: Array) -> tuple[Array, Array]:
    """Non-negative least squares from the normal equations, by trying every set of active terms.

    Returns the solutions (S, G, J) and by how much each lowers the sum of squares (S, G).
    """
    num_terms = moment.shape[-1]
    solution, gain = np.zeros_like(moment), np.zeros(moment.shape[:-1])
    for count in range(1, num_terms + 1):
        for active in combinations(range(num_terms), count):
            rows = list(active)
            matrix = gram[..., rows, :][..., rows]
            ridge = 1e-10 * np.trace(matrix, axis1=-2, axis2=-1)[..., None, None] * np.eye(count)
            values = np.linalg.solve(matrix + ridge, moment[..., rows][..., None])[..., 0]
            lowered = (values * moment[..., rows]).sum(axis=-1)
            better = (values >= 0).all(axis=-1) & (lowered > gain)
            gain = np.where(better, lowered, gain)
            full = np.zeros_like(moment)
            full[..., rows] = values
            solution = np.where(better[..., None], full, solution)
    return solution, gain


def _refine(
    theta: Array,
    log_x: Array,
    log_y: Array,
    weights: Array,
    floor: bool,
    delta: float,
    tolerance: float,
) -> Array:
    """Projected Levenberg-Marquardt on E, A_1 … A_K, a_1 … a_K, each data set with its damping."""
    num_sets, num_free = theta.shape
    num_axes = log_x.shape[1]
    upper = np.array([np.inf] * (1 + num_axes) + [MAX_EXPONENT] * num_axes)
    theta, damping = theta.copy(), np.full(num_sets, 1e-3)
    going = np.arange(num_sets)
    diagonal = np.arange(num_free)
    for _ in range(100):
        now, seen, weight = theta[going], log_y[going], weights[going]
        residual, jacobian = _residual(now, log_x, seen)
        value = (weight * huber(residual, delta)).sum(axis=1)
        weighted = jacobian * (weight * influence(residual, delta))[..., None]
        normal = weighted.swapaxes(1, 2) @ jacobian  # (S, P, P)
        slope = (weighted * residual[..., None]).sum(axis=1)  # (S, P)
        held = ((now <= 0) & (slope > 0)) | ((now >= upper) & (slope < 0))
        held[:, 0] |= not floor
        normal *= (~held[:, :, None]) & (~held[:, None, :])
        slope[held] = 0.0
        stiff = normal[:, diagonal, diagonal] * (1 + damping[going, None])
        normal[:, diagonal, diagonal] = stiff + 1e-14 * stiff.max(axis=1, keepdims=True) + 1e-300
        step = np.linalg.solve(normal, slope[..., None])[..., 0]
        step[:, 1 + num_axes :] = np.clip(step[:, 1 + num_axes :], -0.5, 0.5)
        trial = np.clip(now - step, 0.0, upper)
        new = (weight * huber(_residual(trial, log_x, seen)[0], delta)).sum(axis=1)
        better = new < value
        theta[going[better]] = trial[better]
        damping[going] = np.where(better, damping[going] / 5, damping[going] * 4)
        settled = better & (value - new < tolerance * value + 1e-20)
        going = going[~settled & (damping[going] < 1e6) & (value > 1e-20)]
        if not len(going):
            break
    return theta


def influence(residual: Array, delta: float) -> Array:
    """Weight with which a residual counts in the least squares that the Huber loss amounts to."""
    return np.asarray(np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300)))


def _residual(theta: Array, log_x: Array, log_y: Array) -> tuple[Array, Array]:
    """Residuals log f - log y (S, n) and their derivatives (S, n, P)."""
    num_axes = log_x.shape[1]
    linear, exponents = theta[:, None, 1 : 1 + num_axes], theta[:, None, 1 + num_axes :]
    shapes = np.exp(-exponents * log_x)  # (S, n, K)
    value = np.maximum(
        theta[:, :1] + (linear * shapes).sum(axis=2), 1e-100
    )  # squares of 1/f must not overflow
    parts = [np.ones_like(value)[..., None], shapes, -linear * log_x * shapes]
    return np.log(value) - log_y, np.concatenate(parts, axis=2) / value[..., None]
