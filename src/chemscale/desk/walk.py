"""Draws from where a law's shape parameters may lie, by walkers that learn from each other.

Affine-invariant ensemble sampling (Goodman and Weare 2010): a walker moves along the line to
another one, so long and narrow valleys need no tuning. The linear coefficients of each place are
drawn beside, from their normal distribution. The prior is even over the bounds, in the logarithm
of those parameters whose bounds lie above 0 and a factor of ten or more apart.
"""

from __future__ import annotations

import numpy as np

from chemscale.desk.solve import Objective, influence, nonnegative
from chemscale.table.results import Array

WALKERS, STEPS, BURN, EVERY = 64, 400, 150, 40


def walk(
    objective: Objective,
    best: Array,
    independent: float,
    trust: float,
    rng: np.random.Generator,
) -> Array:
    """Parameters (S, P) that explain one data set about as well as the best ones do.

    Args:
        objective: law, with a floor, and one data set.
        best: (P,) parameters of the best fit.
        independent: what the weights of all rows amount to if neighbours tell nearly the same;
            a residual is taken to be normal, its scale is integrated out.
        trust: how far the law itself may be off, of log y: residuals below say little.
        rng: of the walk.
    """
    target = _Target(objective, best, independent, trust)
    low, high = target.box
    linear = len(best) - len(low)
    scale = 10 ** rng.uniform(-3.0, 0.0, (WALKERS, 1))
    spread = 0.1 * scale * (high - low) * rng.standard_normal((WALKERS, len(low)))
    place = np.clip(target.placed(best[None, linear:]) + spread, low, high)
    height = target(place)
    half, kept = WALKERS // 2, []
    for step in range(STEPS):
        for mine in (slice(0, half), slice(half, None)):
            others = np.delete(place, np.r_[mine], axis=0)
            stretch = (1 + rng.random((half, 1))) ** 2 / 2
            partner = others[rng.integers(half, size=half)]
            tried = partner + stretch * (place[mine] - partner)
            new = target(tried)
            gain = (len(low) - 1) * np.log(stretch[:, 0]) + new - height[mine]
            taken = np.log(rng.random(half)) < gain
            place[mine] = np.where(taken[:, None], tried, place[mine])
            height[mine] = np.where(taken, new, height[mine])
        if step >= BURN and not (step - BURN) % EVERY:
            kept.append(place.copy())
    return target.drawn(np.concatenate(kept), rng)


class _Target:
    """Log density of shape parameters, the coefficients integrated out."""

    def __init__(self, objective: Objective, best: Array, independent: float, trust: float) -> None:
        bounds = np.array(objective.bounds(1))[:, 0, 1 + objective.law.num_shapes :]
        self.logs = (bounds[0] > 0) & (bounds[1] > 10 * bounds[0])
        self.objective, self.bounds = objective, bounds
        self.box = self.placed(bounds)
        residual = objective.residual(best[None])[0]
        self.weights = objective.weights[0] * influence(residual, objective.delta)
        self.independent = independent
        self.doubt = float(self.weights.sum()) * trust**2

    def placed(self, values: Array) -> Array:
        place = np.array(values, float)
        place[:, self.logs] = np.log(place[:, self.logs])
        return place

    def values(self, place: Array) -> Array:
        values = place.copy()
        values[:, self.logs] = np.exp(values[:, self.logs])
        return np.clip(values, *self.bounds)

    def __call__(self, place: Array) -> Array:
        """Log density (C,)."""
        outside = ((place < self.box[0]) | (place > self.box[1])).any(axis=1)
        height = -0.5 * self.independent * np.log(self._projected(place)[2])
        return np.where(outside, -np.inf, height)

    def drawn(self, place: Array, rng: np.random.Generator) -> Array:
        """Whole rows of parameters (C, P), with coefficients drawn for each place."""
        found, gram, squares = self._projected(place)
        inverse = np.linalg.pinv(gram * (self.independent / squares)[:, None, None], hermitian=True)
        values, vectors = np.linalg.eigh(inverse)
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None]
        noise = (root @ rng.standard_normal((*found.shape, 1)))[..., 0]
        coefficients = np.where(found > 0, np.abs(found + noise), 0.0)
        return np.concatenate([coefficients, self.values(place)], axis=1)

    def _projected(self, place: Array) -> tuple[Array, Array, Array]:
        """Best coefficients (C, 1 + J), their normal matrix, and the squares that are left (C,)."""
        logs = self.objective.law.log_shapes(self.objective.log_x, self.values(place))
        columns = np.stack([np.ones_like(logs[0]), *np.exp(logs)], axis=-1)
        columns /= np.exp(self.objective.log_y[0])[:, None]  # relative, as `project` has it
        heavy = columns.swapaxes(1, 2) * self.weights
        gram = heavy @ columns
        found, _ = nonnegative(gram, heavy.sum(axis=2))
        off = (columns @ found[..., None])[..., 0] - 1
        return found, gram, (off**2) @ self.weights + self.doubt
