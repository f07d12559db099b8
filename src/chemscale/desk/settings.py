"""Settings that were tried: what is known of each early, and at its end where it was finished."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from chemscale.desk.planned import Ends, planned_ends
from chemscale.desk.sentences import number
from chemscale.table.curves import TabledCurve
from chemscale.table.results import Array, Interval, Status, Trained


@dataclass(frozen=True)
class Setting:
    """One setting of a family and size."""

    run: str
    name: str  # what tells it apart, in words
    family: str
    size: str
    num_params: int  # 0 where nobody says, and so is num_train
    num_train: int
    learning_rate: float | None
    batch_size: int | None
    status: Status | None  # None: nobody says
    items_seen: int | None
    early_loss: float | None  # on validation, of the part that is compared; None if it diverged
    final_loss: float | None  # on validation, where it was finished
    flops: float | None  # of that part
    flops_spent: float | None  # of all that it saw
    step_losses: Array  # (steps,) training loss of each
    steps_per_epoch: int = 0
    planned: tuple[float, Interval] | None = None  # where its planned learning rates lead

    @property
    def key(self) -> tuple[str, str]:
        """Family and size."""
        return self.family, self.size


def early(seen: Array, val_loss: Array) -> float | None:
    """Validation loss of the first part; None where there is none that has a logarithm.

    The geometric mean of the last four evaluations: at a constant rate single ones flicker.
    """
    last = val_loss[seen > 0][-4:]
    last = last[np.isfinite(last)]
    return float(np.exp(np.log(last).mean())) if last.size and (last > 0).all() else None


def searched(trained: Iterable[Trained]) -> list[Setting]:
    """The runs of a study's search, each with the finished run of its trunk if there is one."""
    finished = {one.run.trunk_id: one for one in trained if "finish" in one.roles}
    return [
        _searched(one, finished.get(one.run.trunk_id))
        for one in sorted(trained, key=lambda one: one.run.id)
        if "search" in one.roles
    ]


def _searched(one: Trained, finished: Trained | None) -> Setting:
    run, outcome, recipe = one.run, one.outcome, one.run.trunk.recipe
    alive = outcome.status in ("finished", "stopped_early")
    end = finished.outcome if finished is not None else None
    final = None
    if end is not None and end.status == "finished":  # on its cooled weights
        final = end.best_val_loss if end.val_loss is None else end.val_loss
    return Setting(
        run=run.id,
        name=f"learning rate {recipe.learning_rate:g} with batch size {recipe.batch_size}",
        family=run.trunk.family,
        size=run.size,
        num_params=outcome.num_params,
        num_train=run.trunk.num_train,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        status=outcome.status,
        items_seen=outcome.items_seen,
        early_loss=early(one.curve["items_seen"], one.curve["val_loss"]) if alive else None,
        final_loss=final,
        flops=outcome.flops,
        # A finished run goes on along its trunk, so the searched part counts once.
        flops_spent=max(outcome.flops, end.flops if end is not None else 0.0),
        step_losses=np.asarray(one.curve.step_losses, np.float64),
        steps_per_epoch=math.ceil(run.trunk.num_train / recipe.batch_size),
    )


def tabled(curves: Sequence[TabledCurve]) -> tuple[list[Setting], dict[str, list[str]]]:
    """The settings in a table of curves, and what is to be said of each family's.

    Settings of a family, size and `num_train` are compared where three quarters or more of those
    that did not diverge have come; the others are not ranked. Where all went equally far and the
    family has others that stopped before, it is where these are compared.
    Finished is what its `status` says, else what is at the end of its learning rates where some are
    not, else what has a cooldown where the table tells of one, else what comes within 1 % of the
    longest and farther than the shared part. Runs of learning rates alone come last.
    """
    planned, told_of_plans = planned_ends(curves)
    groups: dict[tuple[str, str, int | None], list[TabledCurve]] = {}
    for curve in curves:
        groups.setdefault((curve.family, curve.size, curve.num_train), []).append(curve)
    amounts = {curve.num_train for curve in curves}
    cooled = any(curve.cooled for curve in curves)
    found: list[Setting] = []
    places: dict[str, dict[str, list[str]]] = {}  # family → words → where they hold
    least: dict[str, float] = {}
    for (family, _, _), group in groups.items():
        least[family] = min(least.get(family, math.inf), _shared(group))
    for (family, size, amount), group in groups.items():
        label = f"{size} on {amount:,}".strip() if amount and len(amounts) > 1 else size
        settings, words = _group(group, cooled, least[family], planned)
        found += [replace(setting, size=label) for setting in settings]
        places.setdefault(family, {}).setdefault(words, []).append(label)
    said = {
        family: [
            words if len(told) == 1 else f"at {', '.join(labels)} {words}"
            for words, labels in told.items()
        ]
        + told_of_plans.get(family, [])
        for family, told in places.items()
    }
    return found, said


def _shared(curves: Sequence[TabledCurve]) -> float:
    """How far three quarters of those that did not diverge have come; infinite without any."""
    ends = sorted(float(one.seen[-1]) for one in curves if _alive(one))
    return ends[(len(ends) - 1) // 4] if ends else math.inf


def _group(
    curves: Sequence[TabledCurve], cooled: bool, least: float, planned: Ends
) -> tuple[list[Setting], str]:
    ends = {id(one): float(one.seen[-1]) for one in curves if _alive(one)}
    shared, longest = _shared(curves), max(ends.values(), default=0.0)
    if longest <= 1.01 * shared:
        shared = least
    short = sum(end < shared for end in ends.values())
    going = any(one.goes_on for one in curves)

    def finished(one: TabledCurve) -> bool:
        if one.status is not None:
            return one.status == "finished"
        if going:
            return one.schedule is not None and not one.goes_on
        if cooled:
            return one.cooled
        return ends[id(one)] >= 0.99 * longest and longest > 1.01 * shared

    settings, told = [], going or cooled or longest > 1.01 * shared
    for one in curves:
        part = one.seen <= shared
        alive = id(one) in ends and ends[id(one)] >= shared
        done = (alive or (going and id(one) in ends)) and finished(one)
        unsaid: Status | None = "finished" if done else "stopped_early" if told else None
        if id(one) not in ends:
            unsaid = "diverged" if one.seen.size else None
        elif one.goes_on:
            unsaid = None
        settings.append(
            Setting(
                run=one.run,
                name=f"run {one.run}" if one.named else one.run,
                family=one.family,
                size=one.size,
                num_params=one.num_params or 0,
                num_train=one.num_train or 0,
                learning_rate=one.learning_rate,
                batch_size=one.batch_size,
                status=one.status or unsaid,
                items_seen=round(float(one.seen.max(initial=0))) if one.by == "items" else None,
                early_loss=early(one.seen[part], one.val_loss[part]) if alive else None,
                final_loss=float(one.val_loss[-1]) if done else None,
                flops=float(one.flops[part][-1]) if one.flops is not None and part.any() else None,
                flops_spent=None if one.flops is None else float(one.flops[-1]),
                step_losses=np.zeros(0),
                planned=planned.get(id(one)),
            )
        )
    if not ends:
        return settings, "none has come to an end"
    words = f"all are compared at {number(shared)} {curves[0].by}"
    if short:
        words += f", which {short} did not reach and are not ranked"
    if not any(setting.final_loss is not None for setting in settings):
        words += ", as far as any went" * (longest <= 1.01 * shared)
    return settings, words


def _alive(one: TabledCurve) -> bool:
    """Begun, and its last validation loss is a number, and its status does not say otherwise."""
    ended = bool(one.seen.size) and bool(np.isfinite(one.val_loss[-1]))
    return ended and one.status in (None, "finished", "stopped_early")
