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
    delta: float  # where the Huber loss turns from quadratic to linear, in log y; may be infinite

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
        return replace(self, log_y=self.log_y[rows], weights=self.weights[rows])


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
    seen, trust = (np.repeat(one, starts, axis=0) for one in (near.log_y, near.weights))
    each = replace(near, log_y=seen, weights=trust)
    found = refine(each, start, tolerance)
    if starts > 1:
        lowest = each.value(found).reshape(-1, starts).argmin(axis=1)
        found = found.reshape(-1, starts, found.shape[1])[np.arange(len(lowest)), lowest]
    found[:, : 1 + objective.law.num_shapes] *= scale
    return found


def log_law(law: Law, log_x: Array, parameters: Array) -> Array:
    """Log of the law at (n, K) log x, for (S, 1 + J + Q) parameters: (S, n)."""
    return np.log(_value(law, log_x, parameters)[0])


def _value(law: Law, log_x: Array, parameters: Array) -> tuple[Array, list[Array]]:
    """The law (S, n), never below 1e-100 so that squares of its inverse are numbers; its shapes."""
    count = law.num_shapes
    logs = law.log_shapes(log_x, parameters[:, 1 + count :])
    shapes = [np.exp(np.clip(one, -200.0, 200.0)) for one in logs]
    value = np.zeros((len(parameters), len(log_x))) + parameters[:, :1]
    for place, shape in enumerate(shapes):
        value += parameters[:, 1 + place, None] * shape
    return np.maximum(value, 1e-100), shapes


def huber(residual: Array, delta: float) -> Array:
    """r²/2 up to |r| = delta, a straight line beyond: one odd seed must not bend the law."""
    size = np.minimum(np.abs(residual), delta)
    return np.asarray(size * (np.abs(residual) - 0.5 * size))


def influence(residual: Array, delta: float) -> Array:
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
    if len(start) == 1 or len(objective.log_y) > 1 or np.isinf(objective.delta):
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
    low, high = law.bounds(log_x)
    lower = np.concatenate([np.zeros(linear), low])
    upper = np.concatenate([np.full(linear, np.inf), high])
    shared = len(log_y) == 1
    theta = np.clip(theta, lower, upper)
    # With a Huber loss the curvature is that of the residuals below delta alone, far from the
    # optimum next to nothing: full damping to begin with.
    damping = np.full(num_sets, 1e-3 if np.isinf(delta) else 1.0)
    going = np.arange(num_sets)
    diagonal = np.arange(num_free)
    residual, jacobian = _residual(law, theta, log_x, log_y)
    value = (weights * huber(residual, delta)).sum(axis=1)
    for _ in range(steps):
        now = theta[going]
        weight = weights if shared else weights[going]
        pull = influence(residual, delta)
        curvature = np.where(pull < 1.0, 0.0, 1.0) + damping[going, None] * pull
        normal = (jacobian * (weight * curvature)[:, None]) @ jacobian.swapaxes(1, 2)  # (S, P, P)
        slope = (jacobian @ (weight * pull * residual)[..., None])[..., 0]  # (S, P)
        held = ((now <= lower) & (slope > 0)) | ((now >= upper) & (slope < 0))
        held[:, 0] |= not objective.floor
        normal *= (~held[:, :, None]) & (~held[:, None, :])
        slope[held] = 0.0
        stiff = normal[:, diagonal, diagonal] * (1 + damping[going, None])
        normal[:, diagonal, diagonal] = stiff + 1e-14 * stiff.max(axis=1, keepdims=True) + 1e-300
        step = np.linalg.solve(normal, slope[..., None])[..., 0]
        step[:, linear:] = np.clip(step[:, linear:], -0.5, 0.5)
        trial = np.clip(now - step, lower, upper)
        seen = log_y if shared else log_y[going]
        new_residual, new_jacobian = _residual(law, trial, log_x, seen)
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
    return theta


def _residual(law: Law, theta: Array, log_x: Array, log_y: Array) -> tuple[Array, Array]:
    """Residuals log f - log y (S, n) and their derivatives (S, P, n)."""
    count = law.num_shapes
    value, shapes = _value(law, log_x, theta)
    jacobian = np.zeros((len(theta), theta.shape[1], len(log_x)))
    jacobian[:, 0] = 1 / value
    slopes = law.log_slopes(log_x, theta[:, 1 + count :])
    for place, (shape, row) in enumerate(zip(shapes, slopes, strict=True)):
        jacobian[:, 1 + place] = shape / value
        share = theta[:, 1 + place, None] * jacobian[:, 1 + place]
        for which, slope in enumerate(row):
            if slope is not None:
                jacobian[:, 1 + count + which] += share * slope
    return np.log(value) - log_y, jacobian
