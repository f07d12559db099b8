"""Numbers, units and endings as people read them. Missing stays missing: "–", never 0.0."""

from __future__ import annotations

import math

from chemscale.desk.sentences import metric_words
from chemscale.desk.sentences import plural as plural

MISSING = "–"
NO_AMOUNTS = "No law: num_params and num_train of the runs are not told."
NO_LAW = "No law has been fitted yet: chemscale fit does."

METRICS = {  # metric → label, unit
    "nats_per_molecule": ("loss per molecule", "nats"),
    "nats_per_token": ("loss per token", "nats"),
    "nats_per_heavy_atom": ("loss per heavy atom", "nats"),
    "force_mae": ("force error (MAE)", "meV/Å"),
    "stress_mae": ("stress error (MAE)", "meV/Å³"),
    "energy_mae": ("energy error (MAE)", "meV/atom"),
    "loss": ("loss", ""),
    "train_loss": ("training loss", ""),
    "val_loss": ("validation loss", ""),
    "test_loss": ("test loss", ""),
}

STATUSES = {  # a glyph with each word, so that nothing is said by colour alone
    "finished": "✓ finished",
    "plateaued": "✓ plateaued",
    "capped": "▲ capped",
    "overfitted": "◆ overfitted",
    "stopped_early": "■ stopped early",
    "diverged": "✕ diverged",
    "out_of_memory": "✕ out of memory",
    "failed": "✕ failed",
    "converged": "✓ converged",
    "at_bound": "▲ at a bound",
    "not_identified": "? not identified",
    "too_short": "? too short",
}

LIMITS = {
    "data": "data",
    "size": "size",
    "compute": "▲ compute (capped)",
    "resolution": "scatter of seeds",
    "not_identified": "? not identified",
}

SIZES = {  # where an IsoFLOP curve is lowest
    "seen": "between sizes",
    "at_smallest": "▲ at the smallest size",
    "at_largest": "▲ at the largest size",
    "too_few": "? too few sizes",
}

AXES = {"num_params": "parameters", "flops": "training FLOPs"}


def status(name: str | None) -> str:
    """A status or ending with its glyph."""
    return MISSING if name is None else STATUSES.get(name, name)


def metric_label(metric: str, split: str = "") -> str:
    """The metric's name and unit, e.g. "force error (MAE), meV/Å"."""
    label, unit = METRICS.get(metric, (metric_words(metric), ""))
    told = label.startswith(("test", "train", "val", "shift"))
    start = label if told or not split else f"{split} {label}"
    return f"{start}, {unit}" if unit else start


def with_unit(value: float | None, metric: str) -> str:
    """A value of a metric with its unit, e.g. "41.2 meV/Å"."""
    unit = METRICS.get(metric, ("", ""))[1]
    text = number(value)
    return f"{text} {unit}" if unit and text != MISSING else text


def axis_label(axis: str, unit: str) -> str:
    """What a law runs along, e.g. "training molecules"."""
    return AXES.get(axis, f"training {plural(unit)}")


def clauses(sentence: str, about: str = "") -> list[str]:
    """Take a sentence of several clauses apart, at semicolons outside brackets, into sentences.

    A leading "family: " is left to the heading above.
    """
    parts, depth = [""], 0
    for letter in sentence.strip().removeprefix(f"{about}: "):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == ";" and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    told = (one.strip().removesuffix(".") for one in parts)
    return [f"{one[0].upper()}{one[1:]}." for one in told if one]


def counted(amount: int, noun: str) -> str:
    """An amount with its noun: "1 run", "12 runs"."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {plural(noun)}"


def number(value: float | None, digits: int = 3) -> str:
    """Round to `digits` significant digits; powers of ten outside 0.001 … 100,000."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -4 < power < 5:
        return scientific(value, digits)
    return signed(f"{value:,.{max(0, digits - 1 - power)}f}")


def signed(text: str) -> str:
    """Use the true minus sign."""
    return text.replace("-", "−")


def scientific(value: float | None, digits: int = 2) -> str:
    """Powers of ten, e.g. 1.2×10¹⁵."""
    if value is None or not math.isfinite(value):
        return MISSING
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return signed(f"{mantissa}×10{raised}")


def whole(value: float | None) -> str:
    """A count in full, with thousands separated."""
    return MISSING if value is None or not math.isfinite(value) else signed(f"{round(value):,}")


def short(value: float | None) -> str:
    """A count in brief: 950, 12.3k, 1.2M, 7B."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return signed(f"{float(f'{value / size:.3g}'):g}{letter}")
    return signed(f"{float(f'{value:.3g}'):g}")


def plain(value: float | None) -> str:
    """A setting as it was written: 0.003, 0.0003."""
    return MISSING if value is None else signed(f"{value:g}")


def share(value: float | None) -> str:
    """A proportion in per cent."""
    return MISSING if value is None or not math.isfinite(value) else f"{number(100 * value, 2)} %"


def spread(value: float | None, low: float | None, high: float | None) -> str:
    """A value with its interval, to the digits that the interval leaves: "0.34 (0.30–0.38)"."""
    if value is None or low is None or high is None:
        return number(value)
    width = abs(high - low)
    if width == 0 or not 1e-3 < max(abs(value), abs(low), abs(high)) < 1e5:
        return f"{number(value)} ({number(low)} to {number(high)})"
    places = max(0, math.ceil(-math.log10(width / 7)))
    a, b, c = (signed(f"{number_:,.{min(places, 6)}f}") for number_ in (value, low, high))
    return f"{a} ({b} to {c})" if low < 0 else f"{a} ({b}–{c})"


def at_level(level: float | None) -> str:
    """The level of the intervals below a heading: " (90 % interval)"."""
    return "" if level is None else f" ({100 * level:g}\u00a0% interval)"


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    for size, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{number(seconds / size, 2)} {name}"
    return f"{number(seconds, 2)} s"


def energy(joules: float | None) -> str:
    """Electricity in J, kJ, or kWh."""
    if joules is None or not math.isfinite(joules):
        return MISSING
    if joules >= 3.6e5:
        return f"{number(joules / 3.6e6, 2)} kWh"
    return f"{number(joules / 1e3, 2)} kJ" if joules >= 1e3 else f"{number(joules, 2)} J"
