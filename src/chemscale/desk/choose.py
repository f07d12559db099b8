"""From the estimate to the settings of every size of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from chemscale.table.errors import NotIdentified
from chemscale.table.results import Choice, Estimate, EstimateRow


def choose(
    estimate: Estimate, num_params: Mapping[tuple[str, str], int], now: str = ""
) -> list[Choice]:
    """Choose a learning rate and a batch size for every size.

    The batch size is the one that won at the larger searched size. The learning rate is log-linear
    in `num_params` through the best of each searched size (at that batch size, where it was
    tried and survived), rounded to two significant digits. With one searched size it is constant.
    Where three or more runs of the smaller size were finished and a higher rate ended best than
    was best early, the rates of both sizes are raised by that factor, within what was tried.

    Args:
        estimate: of the search.
        num_params: (family, size) → parameters, for all sizes of the study and the searched ones.
        now: when, for the record.

    Raises:
        NotIdentified: every run of a searched size diverged or failed.
    """
    choices: list[Choice] = []
    for family in estimate.families:
        by_size: dict[str, list[EstimateRow]] = {}
        for row in family.rows:
            by_size.setdefault(row.size, []).append(row)
        searched = sorted(by_size, key=lambda size: num_params[family.family, size])
        batch_size = _best(by_size[searched[-1]]).batch_size
        assert batch_size is not None  # the search of a study tells it, and the rate
        early = {size: _tried(_best(by_size[size], batch_size)) for size in searched}
        tried = [_tried(row) for row in family.rows]
        shift = _shift(by_size[searched[0]], early[searched[0]], batch_size)
        known = {
            num_params[family.family, size]: min(max(shift * rate, min(tried)), max(tried))
            for size, rate in early.items()
        }
        ends = sorted(known)
        sizes = sorted((count, size) for (name, size), count in num_params.items()
                       if name == family.family)  # fmt: skip
        for count, size in sizes:
            inside = ends[0] <= count <= ends[-1]
            choices.append(
                Choice(
                    family=family.family,
                    size=size,
                    num_params=count,
                    learning_rate=float(f"{_rate(known, count):.1e}"),
                    batch_size=batch_size,
                    source="searched"
                    if size in by_size
                    else "interpolated"
                    if inside
                    else "extrapolated",
                    made=now,
                )  # fmt: skip
            )
    return choices


def _best(rows: Sequence[EstimateRow], batch_size: int | None = None) -> EstimateRow:
    """The row with the lowest early loss, at the batch size if one survived there."""
    alive = [row for row in rows if row.early_loss is not None]
    if not alive:
        row = rows[0]
        rates = sorted({_tried(one) for one in rows})
        raise NotIdentified(
            f"{row.family}: all {len(rows)} searched runs at {row.size} diverged or failed "
            f"(learning rates {rates[0]:g} to {rates[-1]:g}), so no setting can be chosen. Add "
            "smaller values to search.learning_rate and train again"
        )
    fitting = [row for row in alive if row.batch_size == batch_size]
    return min(fitting or alive, key=lambda row: (row.rank or math.inf, row.run))


def _shift(rows: Sequence[EstimateRow], early_rate: float, batch_size: int) -> float:
    """How far the best rate rose between the early and the final ranking of finished runs.

    Before the cooldown a high rate looks worse than it ends, so the early ranking leans to low
    rates. Where three or more runs were finished they say by how much. A fall is scatter between
    settings as good as each other, and moves nothing.
    """
    finished = [row for row in rows if row.final_loss is not None and row.batch_size == batch_size]
    if len(finished) < 3:
        return 1.0
    best = min(finished, key=lambda row: (row.final_loss or math.inf, row.run))
    return max(_tried(best) / early_rate, 1.0)


def _tried(row: EstimateRow) -> float:
    assert row.learning_rate is not None
    return row.learning_rate


def _rate(known: Mapping[int, float], num_params: int) -> float:
    """Log-linear through the smallest and the largest searched size."""
    low, high = min(known), max(known)
    if low == high:
        return known[low]
    share = math.log(num_params / low) / math.log(high / low)
    return math.exp((1 - share) * math.log(known[low]) + share * math.log(known[high]))
