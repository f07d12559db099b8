"""What a fit says, in words for a chemist. An interval never comes without its level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chemscale.table.results import FitStatus, Interval, Quantity


def number(value: float) -> str:
    """Three digits, whole from a thousand on, with a power of ten where far from one."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def metric_words(metric: str) -> str:
    """Name a loss as one says it: force MAE, nats per molecule."""
    return metric.replace("_", " ").replace(" mae", " MAE")


def plural(unit: str) -> str:
    """The unit of `num_train` in the plural: molecules, structures."""
    return unit if not unit or unit.endswith("s") else f"{unit}s"


def interval_words(interval: Interval, spec: str = "") -> str:
    """Say "90 % interval 0.27 to 0.35"."""
    low, high = (
        format(end, spec) if spec else number(end) for end in (interval.low, interval.high)
    )
    return f"{100 * interval.level:g} % interval {low} to {high}"


def law_words(
    *,
    metric: str,
    axis: str,
    status: FitStatus,
    window: tuple[float, float],
    decades: float,
    counted: str,
    where: str,
    distinct: int,
    exponent: float | None,
    interval: Interval | None,
    irreducible: Quantity,
    caveat: str,
) -> str:
    """Say how a loss falls along one axis, or why that cannot be said.

    Args:
        metric: in words.
        axis: `num_train` or `num_params`.
        status: how the fit ended.
        window: the smallest and largest x.
        decades: between them.
        counted: what x counts, "structures" or "parameters".
        where: what is held fixed, "at w32".
        distinct: how many different x there are.
        exponent: as fitted, also where it is not identified.
        interval: of the exponent.
        irreducible: the floor, empty for a law without one.
        caveat: such as " at this training length (≤ 12,000 items)", or "".
    """
    if exponent is None or interval is None:
        have = f"{distinct} value{'' if distinct == 1 else 's'} of {axis}"
        return f"the exponent along {axis} is not identified {where}: {have}, three are needed"
    span = f"from {number(window[0])} to {number(window[1])} {counted}"
    span += f" ({decades:.1f} decades) {where}{caveat}"
    if status == "not_identified":
        wide = interval_words(interval, ".2f")
        return f"the exponent along {axis} is not identified {span}: {wide}"
    if status == "at_bound":
        verdict = "does not fall with" if exponent < 1 else "falls faster than any law allowed with"
        bound = f"exponent at its bound {exponent:.2g}, {interval_words(interval, '.2f')}"
        return f"{metric} {verdict} {axis} {span}: {bound}"
    falls = f"as {axis}^-{exponent:.2f} ({interval_words(interval, '.2f')})"
    if irreducible.value is not None and irreducible.interval is not None:
        floor = f"{number(irreducible.value)} ({interval_words(irreducible.interval)})"
        falls += f" towards a floor of {floor}"
    else:
        falls += ", no floor seen," if distinct >= 5 else ", assuming no floor,"
    if status == "too_short":
        return (
            f"{metric} fell {falls} {span}: less than a decade, "
            "a description of this window and no law to extrapolate"
        )
    return f"{metric} falls {falls} {span}"


def excluded_words(excluded: Sequence[tuple[str, str]], asked: int) -> str:
    """Say how many runs of the sweep were left out and why; "" where none was."""
    reasons = Counter(
        reason for _, reason in excluded if not reason.startswith(("belongs to", "check of"))
    )
    if not reasons:
        return ""
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"{sum(reasons.values())} of {asked + sum(reasons.values())} runs left out: {listed}"
