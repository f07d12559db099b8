"""What a fit says, in words for a chemist. An interval never comes without its level."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from chemscale.table.results import Interval


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


def axis_unit(axis: str, unit: str) -> str:
    """What an axis counts, in the plural: parameters, molecules, FLOPs."""
    return {"num_params": "parameters", "flops": "FLOPs"}.get(axis, plural(unit))


def interval_words(interval: Interval, spec: str = "") -> str:
    """Say "90 % interval 0.27 to 0.35"."""
    low, high = (
        format(end, spec) if spec else number(end) for end in (interval.low, interval.high)
    )
    return f"{100 * interval.level:g} % interval {low} to {high}"


def whole_tenths(decades: float) -> str:
    """Decades to one digit, never more than there are: 0.95 is no whole one."""
    return f"{math.floor(10 * decades + 1e-6) / 10:.1f}"


def excluded_words(excluded: Sequence[tuple[str, str]], asked: int) -> str:
    """Say how many runs of the sweep were left out and why; "" where none was."""
    reasons = Counter(
        reason for _, reason in excluded if not reason.startswith(("belongs to", "check of"))
    )
    if not reasons:
        return ""
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"{sum(reasons.values())} of {asked + sum(reasons.values())} runs left out: {listed}"
