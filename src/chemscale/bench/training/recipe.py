"""What a recipe means at step k: rates, batches, evaluations, and how a trunk ends.

Everything here is a pure function of the trunk and the step, so there is no loader state to save.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.table.records import FIRST_EVALUATION, Length, Recipe
from chemscale.table.results import Ending

EVALUATIONS_PER_DOUBLING = 8
PATIENT_FROM = 16  # evaluations
SMOOTHED = 4  # evaluations
FALL = 0.01  # of the loss, from which on it counts


def stream(seed: int, purpose: str) -> int:
    """A 63-bit seed of its own for each purpose, so that a change in one moves no other."""
    digest = hashlib.blake2b(f"{seed}|{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Batches:
    """Batch k of a trunk: the items at places k·B to (k+1)·B of shuffled epochs laid end to end."""

    def __init__(self, subset: NDArray[np.int64], batch_size: int, seed: int):
        self.subset = subset
        self.batch_size = batch_size
        self.seed = seed
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, within = np.divmod(places, len(self.subset))
        return np.concatenate(
            [self._epoch(int(epoch))[within[epochs == epoch]] for epoch in np.unique(epochs)]
        )

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key >= epoch - 1}
            generator = np.random.Generator(
                np.random.Philox(stream(self.seed, f"order of epoch {epoch}"))
            )
            self._epochs[epoch] = self.subset[generator.permutation(len(self.subset))]
        return self._epochs[epoch]


def evaluation_steps(batch_size: int) -> Iterator[int]:
    """Steps after which a trunk is evaluated: 1000·2^(k/8) items, rounded up to whole steps."""
    last = 0
    k = 0
    while True:
        items = FIRST_EVALUATION * 2 ** (k / EVALUATIONS_PER_DOUBLING)
        step = math.ceil(items / batch_size - 1e-9)
        if step > last:
            yield step
            last = step
        k += 1


def warm_rate(recipe: Recipe, step: int) -> float:
    """Learning rate at a step, counted from 0, had it not fallen since the warmup."""
    items = (step + 1) * recipe.batch_size
    return recipe.learning_rate * min(1.0, items / recipe.warmup if recipe.warmup else 1.0)


def trunk_rate(recipe: Recipe, step: int, length: Length) -> float:
    """Learning rate of a trunk at a step, counted from 0: warmup, then constant.

    For comparison only, `schedule = "cosine"` falls to zero at the ceiling.
    """
    items = (step + 1) * recipe.batch_size
    rate = warm_rate(recipe, step)
    if recipe.schedule == "cosine" and length.items:
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, items / length.items)))
    return rate


def cooldown_rate(recipe: Recipe, step: int, num_steps: int) -> float:
    """Learning rate of a cooldown at a step, counted from 0: falls as 1 - √(share done)."""
    return recipe.learning_rate * (1 - math.sqrt((step + 1) / (num_steps + 1)))


def cooldown_steps(recipe: Recipe, items_at_branch: int) -> int:
    """How many steps a cooldown takes."""
    return max(1, round(recipe.cooldown * items_at_branch / recipe.batch_size))


def out_of_patience(rows: Sequence[dict[str, Any]], length: Length) -> bool:
    """Whether a trunk has gone on long enough since its best validation.

    A good start, a lucky value or a dip may be the best for long while the loss falls towards
    it; `unless_falling` goes on then.
    """
    rows = [row for row in rows if row["step"] > 0]
    if length.patience >= 1 or len(rows) < PATIENT_FROM:
        return False
    place = min(range(len(rows)), key=lambda index: rows[index]["val_loss"])
    if rows[-1]["items_seen"] < rows[place]["items_seen"] / (1 - length.patience):
        return False
    return not (length.unless_falling and _falls(rows[place + 1 :]))


def _falls(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a straight line through the loss over the items, both in logarithms, falls."""
    if len(rows) < SMOOTHED:
        return True  # too few to tell
    items = np.log([row["items_seen"] for row in rows])
    logs = np.log([row["val_loss"] for row in rows])
    slope = np.polyfit(items, logs, 1)[0]
    return bool(slope * (items[-1] - items[0]) < -FALL)


def ending(rows: Sequence[dict[str, Any]], at_ceiling: bool) -> tuple[Ending, str]:
    """How the validation loss of a trunk stood when it ended, and the sentence that says so.

    At a constant rate the loss flickers from one evaluation to the next, so means over four
    evaluations are compared, in logarithms, and a rise counts beyond 1 % and twice the flicker.
    """
    rows = [row for row in rows if row["step"] > 0]
    items = np.array([row["items_seen"] for row in rows])
    logs = np.log([row["val_loss"] for row in rows])
    if len(logs) < 2 * SMOOTHED:
        return "capped", "too short to tell whether the loss still falls"
    means = np.convolve(logs, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
    ends = items[SMOOTHED - 1 :]  # where each window ends
    flicker = np.median(np.abs(np.diff(logs[-2 * SMOOTHED :]))) / 0.954  # of one evaluation
    rise = means[-1] - means.min()
    if rise > max(FALL, 2 * flicker * math.sqrt(2 / SMOOTHED)):
        return "overfitted", f"the validation loss ended {_percent(rise)} above its best"
    late = ends > 0.8 * items[-1]
    fall = means[~late].min() - means[late].min() if late.any() and not late.all() else math.inf
    if at_ceiling and fall > FALL:
        return "capped", f"still falling at the ceiling, by {_percent(fall)} in the last fifth"
    return "plateaued", "the validation loss no longer falls"


def _percent(log_change: float) -> str:
    return f"{100 * math.expm1(log_change):.1f} %"
