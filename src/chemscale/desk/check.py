"""Whether the chosen learning rate was an interior optimum: half and double, never fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chemscale.table.results import Point


def check_words(
    checks: Sequence[Point],
    swept: Sequence[Point],
    metric: str,
    seed_scatter: float | None,
    names: dict[int, str],
) -> str | None:
    """Compare the `check` runs with the sweep's runs of the same size and `num_train`.

    The same seed is compared where it was swept, else the geometric mean over seeds. A check that
    is better by more than two standard deviations of a difference between seeds convicts the
    ladder; without replicates any better check does.

    Returns:
        A sentence, or None where no check was asked for.
    """
    verdicts: list[tuple[str, float]] = []
    spoiled: list[str] = []
    for check in sorted(checks, key=lambda p: (p.learning_rate or 0.0, p.run)):
        peers = [
            p for p in swept if (p.num_params, p.num_train) == (check.num_params, check.num_train)
        ]
        peers = [p for p in peers if p.seed == check.seed] or peers
        if not peers:
            spoiled.append("no run of the sweep at its size and num_train to compare with")
            continue
        rate = peers[0].learning_rate
        label = _label(check.learning_rate, rate)
        loss = check.losses.get(metric)
        if check.status == "diverged":
            verdicts.append((label, math.inf))
        elif check.status != "finished" or not check.cooled or loss is None or loss <= 0:
            spoiled.append(f"{label} gave no loss ({check.status.replace('_', ' ')})")
        else:
            usual = sum(math.log(p.losses[metric]) for p in peers) / len(peers)
            verdicts.append((label, math.log(loss) - usual))
    if not verdicts:
        return f"learning rate not checked: {'; '.join(spoiled)}" if spoiled else None
    size = names.get(checks[0].num_params, f"{checks[0].num_params:,} parameters")
    told = " and ".join(f"{label} is {_worse(change)}" for label, change in verdicts)
    scatter = 0.0 if seed_scatter is None else 2 * math.sqrt(2) * seed_scatter
    lowest = min(change for _, change in verdicts)
    if lowest < -scatter:
        end = "the exponent is that of an under-tuned ladder"
    elif lowest < 0:
        end = "within the scatter between seeds, so the optimum is interior or flat"
    elif len(verdicts) == 1:
        end = "the other side was not checked"
    else:
        end = "the optimum is interior"
    return "; ".join([f"at {size}, {told}: {end}", *spoiled])


def _label(rate: float | None, usual: float | None) -> str:
    if rate is None or usual is None or rate == usual:
        return "the checked rate"
    ratio = rate / usual
    names = {0.5: "half the learning rate", 2.0: "double the learning rate"}
    near = [name for value, name in names.items() if abs(ratio / value - 1) < 0.05]
    return near[0] if near else f"{ratio:.2g} times the learning rate"


def _worse(change: float) -> str:
    if math.isinf(change):
        return "worse (it diverged)"
    share = abs(math.expm1(change))
    return f"{100 * share:.1f} % {'worse' if change >= 0 else 'better'}"
