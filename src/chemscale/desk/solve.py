"""Robust fits of any law to log losses, a whole batch of data sets or starts at a time.

    y = E + A_1·S_1(x; θ) + … + A_J·S_J(x; θ)        E, A_j ≥ 0,   θ within its bounds

Two steps, each over the whole batch at once, without a Python loop over starts or bootstraps.
*Variable projection* (Golub and Pereyra 1973): at fixed θ the law is linear in E and A, so only θ
is searched, over candidates, with non-negative least squares of the relative residual at each.
*Refinement*: a projected Levenberg-Marquardt on all parameters, with analytic derivatives, for the
Huber loss of the residual of log y. (Not of log(y - E): that one explodes near E = min y.)
Parameters lie in one row: E, A_1 … A_J, θ_1 … θ_Q.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from chemscale.desk.laws import Law
from chemscale.table.results import Array


@dataclass(frozen=True)
class Objective:
    """What is made small, for each data set of a batch: the Huber loss of the residuals of log y.

    One row of log_y and weights may stand for many rows of parameters.
    """

    law: Law
    log_x: Array  # (n, K), shared by the batch; near the middle of the data for good conditioning
    log_y: Array  # (S, n), one row a data set
    weights: Array  # (S, n), how often each point counts
    floor: bool  # whether E is fitted; else it is 0
    # Where the Huber loss turns from quadratic to linear, in log y: of all points, or of each (n,).
    delta: float | Array
    held: Array | None = None  # (S, P) values at which parameters are held; nan where they are free

    def residual(self, parameters: Array) -> Array:
        """Log of the law less log y (S, n)."""
        return log_law(self.law, self.log_x, parameters) - self.log_y

    def value(self, parameters: Array) -> Array:
        """What is made small (S,)."""
        return np.asarray((self.weights * huber(self.residual(parameters), self.delta)).sum(axis=1))

    def centred(self) -> tuple[Objective, float]:
        """The same about a mean log y of 0, and the factor that brings E and A back."""
        scale = float(self.log_y.mean())
        return replace(self, log_y=self.log_y - scale), float(np.exp(scale))

    def block(self, rows: slice) -> Objective:
        """Some of the data sets; all of one that stands for many."""
        if len(self.log_y) == 1:
            return self
        held = self.held[rows] if self.held is not None else None
        return replace(self, log_y=self.log_y[rows], weights=self.weights[rows], held=held)

    def repeated(self, times: int) -> Objective:
        """Each data set so many times."""
        held = np.repeat(self.held, times, axis=0) if self.held is not None else None
        log_y, weights = (np.repeat(one, times, axis=0) for one in (self.log_y, self.weights))
        return replace(self, log_y=log_y, weights=weights, held=held)

    def bounds(self, num_sets: int) -> tuple[Array, Array]:
        """Smallest and largest values (S, P) of the parameters."""
        low, high = self.law.bounds(self.log_x)
        linear = 1 + self.law.num_shapes
        lower = np.tile(np.concatenate([np.zeros(linear), low]), (num_sets, 1))
        upper = np.tile(np.concatenate([np.full(linear, np.inf), high]), (num_sets, 1))
        if not self.floor:
            upper[:, 0] = 0.0
        if self.held is not None:
            lower, upper = (np.where(np.isnan(self.held), one, self.held) for one in (lower, upper))
        return lower, upper


def solve(
    objective: Objective, candidates: Array, *, tolerance: float = 1e-10, starts: int = 1
) -> Array:
    """Fit every data set of the batch, from the best of the candidates each.

    Args:
        objective: law and data.
        candidates: (C, Q) values of θ tried before refinement.
        tolerance: refinement ends when a step lowers the objective by less than this share.
        starts: how many candidates are refined; more than one for laws with several optima.

    Returns:
        (S, 1 + J + Q) parameters.
    """
    near, scale = objective.centred()
    start = project(near, candidates, starts)
    each = near if len(near.log_y) == 1 else near.repeated(starts)
    found = _lowest(each, start, tolerance, starts)
    found[:, : 1 + objective.law.num_shapes] *= scale
    return found


def descend(
    objective: Objective, rows: Array, *, tolerance: float = 1e-10, starts: int = 1
) -> Array:
    """The same from rows of parameters (R, P) where other fits have ended; some may be held."""
    num_sets, num_rows = len(objective.log_y), len(rows)
    every = objective.repeated(num_rows)
    tried = np.clip(np.tile(rows, (num_sets, 1)), *every.bounds(num_sets * num_rows))
    value = every.value(tried).reshape(num_sets, num_rows)
    best = np.argsort(value, axis=1, kind="stable")[:, :starts]
    start = tried[(best + num_rows * np.arange(num_sets)[:, None]).ravel()]
    return _lowest(objective.repeated(best.shape[1]), start, tolerance, best.shape[1])


def _lowest(each: Objective, start: Array, tolerance: float, starts: int) -> Array:
    """Where the best of so many neighbouring starts ends."""
    found = refine(each, start, tolerance)
    if starts == 1:
        return found
    lowest = each.value(found).reshape(-1, starts).argmin(axis=1)
    return np.asarray(found[np.arange(len(lowest)) * starts + lowest])


def log_law(law: Law, log_x: Array, parameters: Array) -> Array:
    """Log of the law at (n, K) log x, for (S, 1 + J + Q) parameters: (S, n)."""
    logs = law.log_shapes(log_x, parameters[:, 1 + law.num_shapes :])
    return np.log(_total(parameters, logs)[0])


def _total(parameters: Array, logs: list[Array]) -> tuple[Array, list[Array]]:
    """The law (S, n), never below 1e-100 so that squares of its inverse are numbers; its shapes."""
    shapes = [np.exp(np.clip(one, -200.0, 200.0)) for one in logs]
    value = np.zeros(shapes[0].shape) + parameters[:, :1]
    for place, shape in enumerate(shapes):
        value += parameters[:, 1 + place, None] * shape
    return np.maximum(value, 1e-100), shapes


def huber(residual: Array, delta: float | Array) -> Array:
    """r²/2 up to |r| = delta, a straight line beyond: one odd seed must not bend the law."""
    size = np.minimum(np.abs(residual), delta)
    return np.asarray(size * (np.abs(residual) - 0.5 * size))


def influence(residual: Array, delta: float | Array) -> Array:
    """Weight with which a residual counts in the least squares that the Huber loss amounts to."""
    return np.asarray(np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300)))


def project(objective: Objective, candidates: Array, starts: int = 1) -> Array:
    """The best candidates of each data set, with E and A by non-negative least squares."""
    log_y, weights, floor = objective.log_y, objective.weights, objective.floor
    typical = log_y.mean(axis=0)
    logs = np.stack(objective.law.log_shapes(objective.log_x, candidates), axis=-1)  # (C, n, J)
    columns = np.exp(np.clip(logs, -100.0, 100.0))
    if floor:
        columns = np.concatenate([np.ones_like(columns[..., :1]), columns], axis=2)
    columns = columns / np.exp(typical)[:, None]  # relative: f/y - 1 stands in for log f - log y
    target = np.exp(np.clip(log_y - typical, -5.0, 5.0))  # (S, n)
    num_candidates, num_points, num_terms = columns.shape
    outer = (columns[..., :, None] * columns[..., None, :]).swapaxes(0, 1)  # (n, C, J, J)
    gram = (weights @ outer.reshape(num_points, -1)).reshape(
        -1, num_candidates, num_terms, num_terms
    )
    moment = (weights * target) @ columns.swapaxes(0, 1).reshape(num_points, -1)
    linear, gain = nonnegative(gram, moment.reshape(-1, num_candidates, num_terms))
    best = gain.argmax(axis=1)[:, None]
    if starts > 1:
        best = np.argsort(-gain, axis=1, kind="stable")[:, :starts]
    linear = np.take_along_axis(linear, best[..., None], axis=1).reshape(best.size, -1)
    if not floor:
        linear = np.concatenate([np.zeros_like(linear[:, :1]), linear], axis=1)
    return np.concatenate([linear, candidates[best.ravel()]], axis=1)


def nonnegative(gram: Array, moment: Array) -> tuple[Array, Array]:
    """Non-negative least squares from the normal equations, by trying every set of active terms.

    Returns the solutions (…, J) and by how much each lowers the sum of squares (…).
    """
    # Where terms cannot be told apart the fewer and the earlier win, and rounding does not decide.
    ridge = margin = 1e-9
    num_terms = moment.shape[-1]
    solution, gain = np.zeros_like(moment), np.zeros(moment.shape[:-1])
    for count in range(1, num_terms + 1):
        for active in combinations(range(num_terms), count):
            rows = list(active)
            matrix, right = gram[..., rows, :][..., rows], moment[..., rows]
            if count == 1:
                values = right / np.maximum(matrix[..., 0], 1e-300)
            elif count == 2:  # Cramer's rule: LAPACK, called for each 2×2, takes ten times as long
                a, b, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
                a, d = a * (1 + ridge), d * (1 + ridge)
                det = np.maximum(a * d - b * b, 1e-300)
                one, two = right[..., 0], right[..., 1]
                values = np.stack([(d * one - b * two) / det, (a * two - b * one) / det], axis=-1)
            else:
                trace = np.trace(matrix, axis1=-2, axis2=-1)[..., None, None]
                stiff = matrix + (ridge * trace + 1e-300) * np.eye(count)
                values = np.linalg.solve(stiff, right[..., None])[..., 0]
            lowered = (values * right).sum(axis=-1)
            better = (values >= 0).all(axis=-1) & (lowered > gain * (1 + margin))
            gain = np.where(better, lowered, gain)
            for place, row in enumerate(rows):
                solution[..., row] = np.where(better, values[..., place], solution[..., row])
            for row in set(range(num_terms)) - set(rows):
                solution[..., row] = np.where(better, 0.0, solution[..., row])
    return solution, gain


def refine(objective: Objective, start: Array, tolerance: float = 1e-10, steps: int = 100) -> Array:
    """Projected Levenberg-Marquardt from each start (S, 1 + J + Q), each with its own damping.

    Many starts on one data set go by way of least squares, which takes fewer steps from far away,
    and starts that have met there, to a thousandth of each parameter, go on as one.
    """
    if len(start) == 1 or len(objective.log_y) > 1 or np.all(np.isinf(objective.delta)):
        return _in_blocks(objective, start, tolerance, steps)
    near = _in_blocks(replace(objective, delta=np.inf), start, 1e-3, steps)
    mantissa, power_of_two = np.frexp(near)
    places = np.concatenate([np.round(mantissa, 3), power_of_two], axis=1)
    _, first, met = np.unique(places, axis=0, return_index=True, return_inverse=True)
    return _in_blocks(objective, near[first], tolerance, steps)[met.reshape(-1)]


def _in_blocks(objective: Objective, start: Array, tolerance: float, steps: int) -> Array:
    """The same in blocks that stay in the cache."""
    found = start.copy()
    for block in range(0, len(start), 256):
        rows = slice(block, block + 256)
        found[rows] = _refine(objective.block(rows), start[rows], tolerance, steps)
    return found


def _refine(objective: Objective, theta: Array, tolerance: float, steps: int) -> Array:
    law, log_x, log_y = objective.law, objective.log_x, objective.log_y
    weights, delta = objective.weights, objective.delta
    num_sets, num_free = theta.shape
    linear = 1 + law.num_shapes
    lower, upper = objective.bounds(num_sets)
    shared = len(log_y) == 1
    theta = np.clip(theta, lower, upper)
    # Where a shape is far from 1 in the data, its coefficient and exponent lie in a bent and narrow
    # valley: there the coefficient is counted from the middle of the shape, unless it is held.
    far = (lower < upper)[:, 1:linear]
    far &= np.abs(_middle(law, theta, log_x, far)[1]) > 1.0
    theta[:, 1:linear] *= np.exp(_middle(law, theta, log_x, far)[1])
    # With a Huber loss the curvature is that of the residuals below delta alone, far from the
    # optimum next to nothing: full damping to begin with.
    damping = np.full(num_sets, 1e-3 if np.all(np.isinf(delta)) else 1.0)
    going = np.arange(num_sets)
    diagonal = np.arange(num_free)
    residual, jacobian = _residual(law, theta, log_x, log_y, far)
    value = (weights * huber(residual, delta)).sum(axis=1)
    for _ in range(steps):
        now = theta[going]
        weight = weights if shared else weights[going]
        pull = influence(residual, delta)
        curvature = np.where(pull < 1.0, 0.0, 1.0) + damping[going, None] * pull
        normal = (jacobian * (weight * curvature)[:, None]) @ jacobian.swapaxes(1, 2)  # (S, P, P)
        slope = (jacobian @ (weight * pull * residual)[..., None])[..., 0]  # (S, P)
        low, high = lower[going], upper[going]
        held = ((now <= low) & (slope > 0)) | ((now >= high) & (slope < 0)) | (low == high)
        normal *= (~held[:, :, None]) & (~held[:, None, :])
        slope[held] = 0.0
        stiff = normal[:, diagonal, diagonal] * (1 + damping[going, None])
        normal[:, diagonal, diagonal] = stiff + 1e-14 * stiff.max(axis=1, keepdims=True) + 1e-300
        step = np.linalg.solve(normal, slope[..., None])[..., 0]
        step[:, linear:] = np.clip(step[:, linear:], -0.5, 0.5)
        trial = np.clip(now - step, low, high)
        seen = log_y if shared else log_y[going]
        new_residual, new_jacobian = _residual(law, trial, log_x, seen, far[going])
        new = (weight * huber(new_residual, delta)).sum(axis=1)
        better = new < value
        theta[going[better]] = trial[better]
        damping[going] = np.where(better, damping[going] / 3, damping[going] * 3)
        settled = better & (value - new < tolerance * value + 1e-20)
        residual[better], jacobian[better] = new_residual[better], new_jacobian[better]
        value = np.where(better, new, value)
        keep = ~settled & (damping[going] < 1e6) & (value > 1e-20)
        going, value = going[keep], value[keep]
        residual, jacobian = residual[keep], jacobian[keep]
        if not len(going):
            break
    theta[:, 1:linear] *= np.exp(-_middle(law, theta, log_x, far)[1])
    return theta


def _middle(
    law: Law, theta: Array, log_x: Array, far: NDArray[np.bool_]
) -> tuple[list[Array], Array, list[Array]]:
    """Logs of the shapes (S, n) about their middle; middles (S, J); shares (S, n) of points in it.

    The middle is the mean over points within e^20 of the largest, and 0 of a shape not `far`.
    """
    logs = law.log_shapes(log_x, theta[:, 1 + law.num_shapes :])
    means, shares = np.zeros(far.shape), [np.zeros(0)] * len(logs)
    for place in np.flatnonzero(far.any(axis=0)):
        one = logs[place]
        near = one > one.max(axis=1, keepdims=True) - 20.0
        shares[place] = near * (far[:, place, None] / near.sum(axis=1, keepdims=True))
        means[:, place] = np.clip((shares[place] * one).sum(axis=1), -200.0, 200.0)
        logs[place] = one - means[:, place, None]
    return logs, means, shares


def _residual(
    law: Law, theta: Array, log_x: Array, log_y: Array, far: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Residuals log f - log y (S, n) and their derivatives (S, P, n), with shapes as `_middle`."""
    count = law.num_shapes
    logs, _, shares = _middle(law, theta, log_x, far)
    value, shapes = _total(theta, logs)
    jacobian = np.zeros((len(theta), theta.shape[1], len(log_x)))
    jacobian[:, 0] = 1 / value
    slopes = law.log_slopes(log_x, theta[:, 1 + count :])
    for place, (shape, row) in enumerate(zip(shapes, slopes, strict=True)):
        jacobian[:, 1 + place] = shape / value
        part = theta[:, 1 + place, None] * jacobian[:, 1 + place]
        for which, slope in enumerate(row):
            if slope is not None:
                if shares[place].size:
                    slope = slope - (shares[place] * slope).sum(axis=1, keepdims=True)
                jacobian[:, 1 + count + which] += part * slope
    return np.log(value) - log_y, jacobian
