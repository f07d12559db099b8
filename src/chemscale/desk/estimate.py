"""Training performance estimation: which settings deserve to be finished, from their first part.

The settings are ranked by the last validation loss seen, which ranks at least as well as the
summed training losses of Ru et al. 2021 and far better than those in its better half; the sums
stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from chemscale.desk.sample import spread_out
from chemscale.desk.sentences import interval_words, number
from chemscale.desk.settings import Setting
from chemscale.table.errors import DataError
from chemscale.table.results import Array, Estimate, EstimateRow, FamilyEstimate, Interval

# --- sums of training losses (Ru et al. 2021) ----------------------------------------------------


def tse(train_loss: ArrayLike, steps_per_epoch: int) -> float:
    """Sum over epochs 0 … T-1 of the mean training loss of the epoch (Ru et al. 2021, TSE).

    T is the number of whole epochs seen; of less than one, the steps seen count as one epoch.
    Lower is better. A score to rank runs that saw the same number of epochs; not a loss.
    """
    return float(epoch_means(train_loss, steps_per_epoch).sum())


def tse_e(train_loss: ArrayLike, steps_per_epoch: int, num_last: int = 1) -> float:
    """The same sum over the last `num_last` of those T epochs (TSE-E).

    The code published with Frey et al. 2023 takes the epoch after them, T … T+E-1: ask for T + E
    epochs to get its figure.
    """
    return float(epoch_means(train_loss, steps_per_epoch)[-num_last:].sum())


def tse_ema(train_loss: ArrayLike, steps_per_epoch: int, gamma: float = 0.999) -> float:
    """The sum over all T epochs, epoch t weighted by gamma^(T-1-t) (TSE-EMA).

    At 0.999 a sum over ten epochs is almost the plain one. The code published with Frey et al.
    2023 sums T + 1 epochs.
    """
    means = epoch_means(train_loss, steps_per_epoch)
    return float((means * gamma ** np.arange(len(means))[::-1]).sum())


def epoch_means(train_loss: ArrayLike, steps_per_epoch: int) -> Array:
    """Mean training loss of each whole epoch; of less than one, the mean of the steps seen.

    Raises:
        DataError: no step was seen.
    """
    losses = np.asarray(train_loss, np.float64)
    if not losses.size:
        raise DataError("no training step was recorded, so there is nothing to sum")
    steps = min(steps_per_epoch, losses.size)
    num_epochs = losses.size // steps
    return np.asarray(losses[: num_epochs * steps].reshape(num_epochs, steps).mean(axis=1))


# --- ranking and forecast ------------------------------------------------------------------------


def estimate(
    settings: Sequence[Setting],
    said: Mapping[str, Sequence[str]] | None = None,
    now: str = "",
    level: float = 0.9,
) -> Estimate:
    """Rank the settings of each family and size, and forecast what they will end at.

    With four or more finished runs of a size, log final loss is taken as a straight line in log
    early loss, and each forecast carries the prediction interval of that line (Student t). With
    fewer the settings are ranked only. Where learning rates are planned the forecast is of
    `planned` instead.

    Args:
        settings: in any order.
        said: family → what else is to be said of its settings.
        now: when, for the record.
        level: of the intervals.
    """
    groups = _groups(settings)
    found = []
    for family in sorted({family for family, _ in groups}):
        mine = {size: group for (name, size), group in groups.items() if name == family}
        found.append(_family(family, mine, (said or {}).get(family, ()), level))
    return Estimate(families=tuple(found), made=now)


def finishers(settings: Sequence[Setting], count: int) -> list[Setting]:
    """Choose the searched settings to finish, so that a forecast can be calibrated.

    At the smallest searched size of each family: the best, the worst that did not diverge, and
    `count - 2` spread evenly between them by rank of early loss.
    """
    groups, chosen = _groups(settings), []
    for family in sorted({name for name, _ in groups}):
        smallest = next(group for (name, _), group in groups.items() if name == family)
        ranked = [one for one in _ranked(smallest) if one.early_loss is not None]
        chosen += spread_out(ranked, count)
    return chosen


def _groups(settings: Iterable[Setting]) -> dict[tuple[str, str], list[Setting]]:
    """Settings by family and size, smaller sizes and fewer training items first."""
    groups: dict[tuple[str, str], list[Setting]] = {}
    for one in settings:
        groups.setdefault(one.key, []).append(one)

    def order(key: tuple[str, str]) -> tuple[str, int, int, str]:
        amounts = [(one.num_params, one.num_train) for one in groups[key]]
        return key[0], *max(amounts), key[1]

    return {key: groups[key] for key in sorted(groups, key=order)}


def _ranked(settings: Sequence[Setting]) -> list[Setting]:
    """Best first; without an early loss last, lower learning rates before higher."""

    def place(one: Setting) -> tuple[float, float, str]:
        loss = math.inf if one.early_loss is None else one.early_loss
        return loss, one.learning_rate or 0.0, one.run

    return sorted(settings, key=place)


def _family(
    family: str, groups: Mapping[str, list[Setting]], more: Sequence[str], level: float
) -> FamilyEstimate:
    rows: list[EstimateRow] = []
    said: list[str] = []
    calibrated: dict[str, tuple[Array, Array]] = {}
    for size, settings in groups.items():
        pairs = [
            (one.early_loss, one.final_loss)
            for one in settings
            if one.early_loss is not None and one.final_loss is not None
        ]
        early, final = np.log(np.array(pairs, np.float64).reshape(-1, 2)).T
        # Runs whose learning rates are planned end elsewhere than others that are as good now.
        alike = not any(one.planned for one in settings)
        line = _Line.through(early, final, level) if len(pairs) >= 4 and alike else None
        ranked, best = _ranked(settings), float(final.min()) if len(final) else -math.inf
        rows += [_row(one, rank, line, best) for rank, one in enumerate(ranked, start=1)]
        calibrated[size] = early, final
        said.append(_size_words(size, ranked, rows[-len(settings) :]))
        said += _worth(size, ranked, rows[-len(settings) :], best)
    most = max(calibrated, key=lambda size: len(calibrated[size][0]))
    early, final = calibrated[most]
    finished = sum(len(pair[0]) for pair in calibrated.values())
    there = f" at {most}" * (finished > len(early))
    agreement = spearman(early, final) if len(early) >= 3 else None
    regret = float(final[early.argmin()] - final.min()) if len(early) >= 2 else None
    everything = [one for settings in groups.values() for one in settings]
    spent, all_finished = _flops(everything)
    if len(early) < 4 and not any(one.planned for one in everything):
        said.append(
            f"with fewer than four finished runs ({len(early)}) this ranks and does not forecast"
            + _to_finish(everything)
        )
    if agreement is not None and regret is not None:
        said.append(
            f"among the {len(early)} finished{there}, early and final loss agree in order by "
            f"Spearman {agreement:.2f}, and the early pick ends {100 * math.expm1(regret):.1f} % "
            "above the best"
        )
    said += more
    if all_finished:
        said.append(
            f"this took {100 * spent / all_finished:.0f} % of the FLOPs of finishing every setting"
        )
    return FamilyEstimate(
        family=family,
        rows=tuple(rows),
        estimator="rank: mean of the last four validation losses of the searched part; forecast: "
        "straight line in log final over log early loss, per size, from four finished runs on, or "
        "the multi-power law along planned learning rates",
        num_finished=finished,
        spearman=agreement,
        regret=regret,
        flops_spent=spent,
        flops_if_all_finished=all_finished,
        sentence=f"{family}: {'; '.join(said)}.",
    )


def _row(one: Setting, rank: int, line: _Line | None, best: float) -> EstimateRow:
    losses, early = one.step_losses, one.early_loss
    sums: list[float | None] = [None, None, None]
    if losses.size and np.isfinite(losses).all():
        sums = [score(losses, one.steps_per_epoch) for score in (tse, tse_e, tse_ema)]
    forecast = one.planned
    if forecast is None and line is not None and early is not None:
        forecast = line.at(early)
    tried = early is not None or one.status == "diverged"
    return EstimateRow(
        run=one.run,
        family=one.family,
        size=one.size,
        learning_rate=one.learning_rate,
        batch_size=one.batch_size,
        status=one.status,
        items_seen=one.items_seen,
        tse=sums[0],
        tse_e=sums[1],
        tse_ema=sums[2],
        early_loss=early,
        forecast=forecast[0] if forecast else None,
        interval=forecast[1] if forecast else None,
        final_loss=one.final_loss,
        chance=line.chance(early, best)
        if line is not None and early is not None and one.final_loss is None
        else None,
        rank=rank if tried else None,  # one that failed otherwise says nothing of its setting
    )


@dataclass(frozen=True)
class _Line:
    """Least squares of log final loss on log early loss, with its prediction interval."""

    slope: float
    mean_early: float
    mean_final: float
    spread: float  # sum of squares of log early loss about its mean
    sigma: float  # residual standard deviation
    count: int
    level: float

    @classmethod
    def through(cls, early: Array, final: Array, level: float) -> _Line | None:
        """Fit it; None where the early losses are all the same."""
        x, y = early - early.mean(), final - final.mean()
        spread = float(x @ x)
        if spread < 1e-12:
            return None
        slope = float(x @ y) / spread
        residual = y - slope * x
        sigma = math.sqrt(float(residual @ residual) / (len(x) - 2))
        centre = (float(early.mean()), float(final.mean()))
        return cls(slope, *centre, spread, sigma, len(x), level)

    def at(self, early_loss: float) -> tuple[float, Interval]:
        """Forecast of the final loss, with its interval for one run."""
        from scipy.special import stdtrit

        middle, error = self._log(early_loss)
        quantile = float(stdtrit(self.count - 2, (1 + self.level) / 2))
        # Beyond a factor of e^50 an interval says nothing; it must still be a number.
        low, high = (math.exp(middle + sign * min(quantile * error, 50.0)) for sign in (-1, 1))
        return math.exp(middle), Interval(low=low, high=high, level=self.level)

    def chance(self, early_loss: float, log_final: float) -> float:
        """Of one run to end below a log final loss."""
        from scipy.special import stdtr

        middle, error = self._log(early_loss)
        if error == 0:
            return float(middle < log_final)
        return float(stdtr(self.count - 2, (log_final - middle) / error))

    def _log(self, early_loss: float) -> tuple[float, float]:
        """Log forecast, and the standard error of one run about it."""
        away = math.log(early_loss) - self.mean_early
        error = self.sigma * math.sqrt(1 + 1 / self.count + away**2 / self.spread)
        return self.mean_final + self.slope * away, error


def _size_words(size: str, settings: Sequence[Setting], rows: Sequence[EstimateRow]) -> str:
    lost = sum(row.status not in ("finished", "stopped_early", None) for row in rows)
    count = f"{len(rows)} setting{'' if len(rows) == 1 else 's'}"
    best, where = rows[0], f"at {size} " * bool(size)
    if best.early_loss is None:
        return f"{where}none of {count} survived the search"
    told = f"{where}{settings[0].name} has "
    told += f"the lowest validation loss ({number(best.early_loss)}) of {count}"
    rates = sorted({row.learning_rate for row in rows if row.learning_rate is not None})
    if len(rates) > 1 and best.learning_rate in (rates[0], rates[-1]):
        end = "highest" if best.learning_rate == rates[-1] else "lowest"
        told += f", with the {end} learning rate that was tried: widen the grid"
    if lost:
        told += f", {lost} of which diverged or failed"
    if best.forecast is not None and best.interval is not None:
        told += f", and is forecast to end at {number(best.forecast)} "
        told += f"({interval_words(best.interval)})"
    return told


def _worth(
    size: str, settings: Sequence[Setting], rows: Sequence[EstimateRow], best: float
) -> list[str]:
    """How many unfinished settings are expected to end below the best finished, and which."""
    pairs = zip(settings, rows, strict=True)
    chances = [(row.chance, one.name) for one, row in pairs if row.chance is not None]
    if not chances:
        return []
    chances.sort(key=lambda pair: -pair[0])
    total = sum(chance for chance, _ in chances)
    count = f"about {total:.0f}" if total >= 0.5 else "less than one"
    told = f"at {size} " * bool(size) + f"{count} of {len(chances)} unfinished "
    told += f"setting{'' if len(chances) == 1 else 's'} can be expected to end below the best "
    told += f"finished ({number(math.exp(best))})"
    likely = [f"{name} ({100 * chance:.0f} %)" for chance, name in chances[:3] if chance >= 0.005]
    return [told + (f", most likely {', '.join(likely)}" if likely else "")]


def _to_finish(settings: Sequence[Setting]) -> str:
    """Which would make it forecast: the best, the worst and two between, of the smallest size."""
    missing = [one for one in finishers(settings, 4) if one.final_loss is None]
    if not missing:
        return ""
    where = f" at {missing[0].size}" * bool(missing[0].size)
    return f"; to forecast the others{where}, finish {', '.join(one.name for one in missing)}"


def spearman(first: Array, second: Array) -> float | None:
    """Rank correlation; equal values share their mean rank. None where all are equal."""
    ranks = []
    for values in (first, second):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    one, other = (rank - rank.mean() for rank in ranks)
    return float(one @ other / math.sqrt(float((one @ one) * (other @ other))))


def _flops(settings: Sequence[Setting]) -> tuple[float, float | None]:
    """What the search and its finished runs took, and what finishing every setting would take.

    Unfinished settings are charged the mean ratio of finished to searched; diverged ones only
    what they took.
    """
    spent = sum(one.flops_spent or 0.0 for one in settings)
    ends = [one for one in settings if one.final_loss is not None]
    started = sum(one.flops or 0.0 for one in ends)
    if not started or any(one.flops_spent is None for one in settings):
        return spent, None
    ratio = sum(one.flops_spent or 0.0 for one in ends) / started
    everything = 0.0
    for one in settings:
        grows = one.final_loss is None and one.early_loss is not None
        everything += max(ratio * (one.flops or 0.0) * grows, one.flops_spent or 0.0)
    return spent, everything
