"""How a falling learning rate lowers the loss: the multi-power law, over the history of each run.

    L(t) = L_0 + A·S(t)^-a - B·sum_k (η_{k-1} - η_k)·G(C·η_k^-g·S_k(t))        G(x) = 1 - (1 + x)^-b

(Luo et al. 2025, after Tissue et al. 2024.) S sums the learning rate η from the first step to t,
warm-up included, S_k from the fall k on. Written about the rate that the loss still feels,

    L(t) = E + A·s^-a + B·m        m = 1 - sum_k d_k·G((s_k/s_0)·ρ_k^-g)

it is a floor and two terms with coefficients of at least 0, as any law of `laws`: E = L_0 - B·η_max
is where the loss would end at a rate of nearly 0. Rates ρ = η/η_max count from the peak,
falls d_k = ρ_{k-1} - ρ_k, and progress s in steps at the peak rate, so neither the unit of the
rate nor that of the steps matters. s_0 is how long a fall takes to be felt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chemscale.desk.laws import Law, log_uniform
from chemscale.table.errors import DataError
from chemscale.table.results import Array

MAX_FALLS = 64  # of one run; more of them are summed into so many of about equal depth
BRIEF = 0.02  # of the steps so far: what rows may be apart to see a jump
CACHED = 50_000  # numbers at a time
LEAST_FELT = 1e-12  # of the peak rate, so that it has a logarithm
LOWEST = 1e-3  # of the peak; below it a rate slows no further


@dataclass(frozen=True)
class Schedule:
    """What the learning rate of one run did, by its rows; positions count steps at the peak rate.

    Between two rows the rate is taken to fall evenly, from step 0 to the first row to rise evenly
    from 0. A fall alone between rows of constant rates is taken for a jump at the later of them
    where they are near each other; planned rows may lie far apart, where the rate bends.
    """

    progress: Array  # (m,) s
    rate: Array  # (m,) ρ
    peak: float  # η_max
    cooled: NDArray[np.bool_]  # (m,) whether the peak lies behind: the law does not hold before
    falls: Array  # (K,) d
    where: Array  # (K,) s at each fall
    level: Array  # (K,) ρ there

    @classmethod
    def of(cls, step: ArrayLike, learning_rate: ArrayLike, name: str = "a run") -> Schedule:
        """Read it from its rows.

        Raises:
            DataError: steps that do not grow, rates below 0 or none above it, or a rate that rises
                again after its peak, of which this law knows nothing.
        """
        steps, rates = (np.asarray(one, float).reshape(-1) for one in (step, learning_rate))
        if len(steps) != len(rates) or not len(steps):
            raise DataError(f"{name}: {len(steps)} steps and {len(rates)} learning rates")
        if not (np.isfinite(steps).all() and steps[0] >= 0 and (np.diff(steps) > 0).all()):
            raise DataError(f"{name}: steps must be 0 or more and grow from row to row")
        if not (np.isfinite(rates).all() and (rates >= 0).all() and rates.max() > 0):
            raise DataError(f"{name}: every row needs a learning rate of 0 or more, one above 0")
        peak = float(rates.max())
        near = rates >= peak * (1 - 1e-6)
        rho = np.where(near, 1.0, rates / peak)
        first = int(np.argmax(near))
        rises = np.flatnonzero(np.diff(rho[first:]) > 1e-6)
        if len(rises):
            raise DataError(
                f"{name}: the learning rate rises again at step {steps[first + 1 + rises[0]]:g}, "
                "after its peak; the law is of one rise and then falls only: give the rows before "
                "that"
            )
        times, height = np.concatenate([[0.0], steps]), np.concatenate([[0.0], rho])
        slope = np.diff(height)
        slope[1 : first + 1] = np.maximum(slope[1 : first + 1], 0.0)
        alone = np.concatenate([[False], slope[:-1] >= 0]) & np.append(slope[1:] >= 0, False)
        jump = (slope < 0) & alone & (np.diff(times) <= BRIEF * steps)
        mean = np.where(jump, height[:-1], (height[:-1] + height[1:]) / 2)
        progress = np.cumsum(np.diff(times) * mean)
        falling = np.flatnonzero(slope[first + 1 :] < 0) + first + 1
        # Planned rows may lie far apart: a long and even fall is one of many small ones.
        pieces = np.rint(slope[falling] / slope[falling].sum() * MAX_FALLS)
        pieces = np.where(jump[falling], 1, np.maximum(pieces, 1)).astype(np.intp)
        each, count = np.repeat(falling, pieces), np.repeat(pieces, pieces)
        place = np.arange(len(each)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        share = np.where(jump[each], 1.0, (place + 0.5) / count)
        bend = np.where(jump[each], 0.0, slope[each] * share / 2)
        where = (progress - np.diff(times) * mean)[each]
        where += np.diff(times)[each] * (height[each] + bend) * share
        falls = _summed(-slope[each] / count, where, height[each] + slope[each] * share)
        return cls(progress, rho, peak, np.arange(len(rho)) >= first, *falls)

    def felt(self, rows: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        """Progress since each fall (n, K) at some rows, falls (K,), and levels (K,)."""
        since = np.maximum(self.progress[rows, None] - self.where, 0.0)
        return since, self.falls, np.maximum(self.level, LOWEST)


def _summed(falls: Array, where: Array, level: Array) -> tuple[Array, Array, Array]:
    """At most `MAX_FALLS` falls; neighbours are summed, at their mean place and level."""
    if len(falls) <= MAX_FALLS:
        return falls, where, level
    depth = np.cumsum(falls)
    bins = np.minimum(((depth - falls / 2) / depth[-1] * MAX_FALLS).astype(int), MAX_FALLS - 1)
    total = np.bincount(bins, falls)
    kept = total > 0
    place, height = (np.bincount(bins, falls * one)[kept] / total[kept] for one in (where, level))
    return np.asarray(total[kept], float), place, height


def multi_power(histories: Sequence[tuple[Array, Array, Array]], end: float) -> Law:
    """The law at the rows of several runs, one run after the other, as `Schedule.felt` gives them.

    Log x is log(s/end); the position log(s_0/end) counts from there, too.
    """
    parts = [(since / end, falls, np.log(level)) for since, falls, level in histories]
    num_rows = sum(len(since) for since, _, _ in parts)

    def blocks(*theta: Array) -> Iterator[tuple[slice, slice, Array, Array, Array, Array]]:
        """Rows of theta, columns of data; (s_k/s_0)·ρ_k^-g there, b, the falls and their log ρ."""
        position, power, slowing = (np.reshape(each, (-1, 1)) for each in theta)
        last = 0
        for since, falls, level in parts:
            columns = slice(last, last := last + len(since))
            if not len(falls):
                continue
            speed = np.exp(-position - slowing * level)[:, None]  # (C, 1, K)
            some = max(CACHED // since.size, 1)
            for start in range(0, len(speed), some):
                rows = slice(start, start + some)
                yield rows, columns, since * speed[rows], power[rows, None], falls, level

    def shapes(log_x: Array, exponent: Array, *theta: Array) -> tuple[Array, ...]:
        felt = np.ones((np.size(exponent), num_rows))
        for rows, columns, past, power, falls, _ in blocks(*theta):
            felt[rows, columns] += ((1 + past) ** -power - 1) @ falls
        return -exponent * log_x[..., 0], np.log(np.maximum(felt, LEAST_FELT))

    def slopes(
        log_x: Array, exponent: Array, *theta: Array
    ) -> tuple[tuple[Array | None, ...], tuple[Array | None, ...]]:
        felt = np.ones((np.size(exponent), num_rows))
        by = np.zeros((3, *felt.shape))
        for rows, columns, past, power, falls, level in blocks(*theta):
            still = (1 + past) ** -power
            pull = power * past / (1 + past) * still
            felt[rows, columns] += (still - 1) @ falls
            by[0, rows, columns] = pull @ falls
            by[1, rows, columns] = -(np.log1p(past) * still) @ falls
            by[2, rows, columns] = pull @ (falls * level)
        by = np.where(felt > LEAST_FELT, by, 0.0) / np.maximum(felt, LEAST_FELT)
        return (-log_x[..., 0], None, None, None), (None, *by)

    def starts(uniform: Array, span: Array) -> Array:
        return np.stack(
            [
                log_uniform(uniform[:, 0], 0.1, 1.5),
                -8.0 * uniform[:, 1],
                log_uniform(uniform[:, 2], 0.1, 2.0),
                1.5 * uniform[:, 3],
            ],
            axis=1,
        )

    return Law(
        "multi-power",
        "E + A·s^-a + B·(1 - sum_k d_k·(1 - (1 + (s_k/s_0)·ρ_k^-g)^-b))",
        "Luo et al. 2025",
        1,
        {
            "exponent": (0.02, 2.0),
            "position": (-12.0, 2.0),
            "relaxation": (0.1, 5.0),
            "slowing": (0.0, 1.5),
        },
        {},
        shapes,
        slopes,
        starts,
    )
