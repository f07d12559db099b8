"""Runs of somebody else's trainer: a command is started, watched, and what it wrote is read.

It works in the run's `work/` folder, on files that hold the run's own training subset and the
study's validation, test and shift sets. Its schedule is its own, so there is no trunk, no patience
and no verdict on whether it had converged; the loss at its end is the run's.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemscale.bench.data import cache
from chemscale.bench.data.base import SPLITS, Dataset
from chemscale.bench.data.writing import num_atoms, write_items
from chemscale.bench.training.devices import default_device, device_name
from chemscale.bench.training.ranks import Ranks
from chemscale.bench.training.resources import Resources
from chemscale.table.errors import DataError, Stopped, UnknownName
from chemscale.table.external import LOG, External, Value
from chemscale.table.records import Length, Recipe, Run
from chemscale.table.results import Outcome, Size
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder

if TYPE_CHECKING:
    from chemscale.bench.training.workbench import Workbench

SAMPLE = 256  # items that stand for the dataset's mean item
NO_STEPS = np.zeros(0, dtype=np.float32)  # the losses of its steps are its own affair
LOOK_SECONDS = 0.2  # between looks at the command
READ_SECONDS = 5.0  # between readings of what it wrote
LEAVE_SECONDS = 20.0  # that it has to leave when told
WORDS = 2_000  # characters of its last words, in the log


class Command:
    """One run of somebody else's trainer."""

    def __init__(
        self,
        bench: Workbench,
        folder: StudyFolder,
        place: RunFolder,
        run: Run,
        tell: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool],
        resources: Resources,
        ranks: Ranks,
    ):
        if resources.departures():
            told = ", ".join(f"--{name}" for name in resources.departures())
            raise DataError(f"{run.trunk.family} is a command line: {told} cannot reach into it")
        self.bench, self.place, self.run = bench, place, run
        self.tell, self.stop, self.resources = tell, stop, resources
        self.rules = External.of(run.trunk.config, run.size)
        self.asked = bench.external(run.trunk.family)  # where it lies, how it goes on
        self.size = bench.size(run.trunk.family, run.size)
        self.items = total_items(run.length, self.size.flops_per_item)
        self.work = place.path / "work"

    @staticmethod
    def trains(run: Run) -> bool:
        """Whether a run is one of somebody else's trainer."""
        return "command" in run.trunk.config

    def to_the_end(self) -> Outcome:
        """Start or restart it, wait, read what it wrote.

        Raises:
            Stopped: told to leave; the command was ended.
            DataError: what it wrote does not hold what the rules ask for.
        """
        trunk = self.run.trunk
        split = self.bench.dataset
        subset = split.subset(trunk.num_train, trunk.seed)
        keys = self.rules.keys(stress=trunk.recipe.stress_weight > 0)
        files = write_files(split, trunk.dataset, subset, keys)
        values = given(trunk.recipe, trunk.num_train, self.items) | self.rules.sizes[self.run.size]
        values |= {"seed": trunk.seed, **files}
        command = [self.asked.command[0], *self.rules.arguments(values)[1:]]
        if self.work.exists() and self.asked.resume is not None:
            command += [part.format_map(values) for part in self.asked.resume]
        else:
            shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True, exist_ok=True)
        since = time.perf_counter()
        code = self._wait(command)
        seconds = time.perf_counter() - since
        rows = self._rows()
        self.place.write_curve(rows, NO_STEPS)
        return self._outcome(code, rows, seconds)

    def _wait(self, command: Sequence[str]) -> int:
        """Run it to its end; returns its exit code."""
        self.place.log(" ".join(command))
        environment = self.resources.environment() | self.asked.environment
        environment.pop("PYTHONPATH", None)  # ours, not its
        with (self.work / LOG).open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.work, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip
        read_at = time.monotonic()
        try:
            while process.poll() is None:
                if self.stop():
                    raise Stopped(f"{command[0]} was told to leave")
                if time.monotonic() - read_at > READ_SECONDS:
                    read_at = time.monotonic()
                    with suppress(DataError):
                        self._show(self._rows())
                time.sleep(LOOK_SECONDS)
        finally:
            _end(process)
        return process.returncode

    def _show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self.place.write_curve(rows, NO_STEPS)
            self.place.note_spent(rows[-1]["flops"])
            last = rows[-1]
            share = min(1.0, last["items_seen"] / self.items)
            progress = {"run": self.run.id, "share": share, "val_loss": last["val_loss"]}
            self.tell({"event": "progress", **progress})

    def _rows(self) -> list[dict[str, Any]]:
        """The curve so far, ascending in items; of a point told twice, the later word."""
        trunk = self.run.trunk
        found = {}
        for row in self.rules.curve.rows(self.work):
            items = _items(row, trunk.num_train, trunk.recipe.batch_size)
            if items is None or "val_loss" not in row:
                continue
            found[items] = {
                "step": math.ceil(items / trunk.recipe.batch_size),
                "phase": "stable",
                "items_seen": items,
                "flops": items * self.size.flops_per_item,
                "learning_rate": row.get("learning_rate"),
                "train_loss": row.get("train_loss"),
                "val_loss": row["val_loss"],
            }
        return [found[items] for items in sorted(found)]

    def _outcome(self, code: int, rows: list[dict[str, Any]], seconds: float) -> Outcome:
        run, size = self.run, self.size
        last = rows[-1] if rows else {"step": 0, "items_seen": 0, "flops": 0.0}
        outcome = Outcome(
            run=run.id,
            status="finished",
            sentence="ended by itself; whether it had converged is not judged",
            step=last["step"],
            items_seen=last["items_seen"],
            num_params=size.num_params,
            num_params_total=size.num_params_total,
            unique_items=run.trunk.num_train,
            flops=last["flops"],
            flops_spent=max(last["flops"], self.place.spent() or 0.0),
            seconds=seconds,
            train_loss=last.get("train_loss"),
            # What is there for it; which of it the command used, it does not say.
            machine={
                "device": device_name(default_device()),
                "program": self.asked.command[0],
            },
        )
        if code != 0:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.place.log(f"{how}; its last words:\n{self._last_words()}")
            sentence = f"{run.trunk.family} ended with {how}; see log.txt, and work/{LOG}"
            return outcome.model_copy(update={"status": "failed", "sentence": sentence})
        losses = [row["val_loss"] for row in rows]
        if losses and not (math.isfinite(losses[-1]) and losses[-1] <= 2 * losses[0]):
            sentence = f"the validation loss ended at {losses[-1]:.3g}, from {losses[0]:.3g}"
            return outcome.model_copy(update={"status": "diverged", "sentence": sentence})
        if not rows:
            raise DataError(f"curve: no line of work/{self.rules.curve.file} told a val_loss")
        metrics = {"test": self._judged("test")}
        if self.rules.shift is not None:
            metrics["shift"] = self._judged("shift")
        return outcome.model_copy(
            update={
                "val_loss": losses[-1],
                "best_val_loss": min(losses),
                "metrics": metrics if run.length.cooldown else {},
            }
        )

    def _judged(self, split: str) -> dict[str, float]:
        rule = self.rules.test if split == "test" else self.rules.shift
        assert rule is not None
        found: dict[str, float] = {}
        for row in rule.rows(self.work):
            found |= row
        if missing := sorted(rule.names - set(found)):
            raise DataError(
                f"{split}: no line of work/{rule.file} told {', '.join(missing)}; it ended without "
                "an error, so the rule may not fit what this version writes"
            )
        return {name: found[name] for name in sorted(found)}

    def _last_words(self) -> str:
        with suppress(OSError):
            return (self.work / LOG).read_text(errors="replace")[-WORDS:]
        return ""


def declared(trainer: External, name: str, size: str, dataset: Dataset, recipe: Recipe) -> Size:
    """A size of it; its FLOPs are a rule of thumb where the study does not say them.

    That rule is six for each parameter and atom or token (Kaplan et al. 2020).

    Raises:
        UnknownName: no such size.
        DataError: no such program, a value that nobody gives, or labels are missing.
    """
    if size not in trainer.sizes:
        raise UnknownName.of(f"size of {name}", size, trainer.sizes)
    if shutil.which(trainer.command[0]) is None:
        raise DataError(
            f"external.{name}: no program {trainer.command[0]!r} on this machine; install it, or "
            "give its whole path in the command"
        )
    if dataset.unit == "structure":
        dataset.check(("energy", "forces", *(("stress",) if recipe.stress_weight > 0 else ())))
    values = trainer.sizes[size]
    files = dict.fromkeys((*SPLITS, "seed"), "")
    trainer.arguments({**given(recipe, 1, 1), **values, **files})
    num_params = int(values["num_params"])
    sample = dataset.indices("train")[:SAMPLE]
    parts = dataset.num_tokens(sample) or num_atoms(dataset, sample)
    return Size(
        family=name,
        size=size,
        revision=trainer.revision,
        config=trainer.config(size),
        num_params=num_params,
        num_params_total=int(values.get("num_params_total", num_params)),
        bytes_training=16 * num_params,  # weights, gradients and AdamW's two moments
        flops_per_item=float(values.get("flops_per_item", 6 * num_params * parts / len(sample))),
        flops_formula={},
    )


def total_items(length: Length, flops_per_item: float) -> int:
    """How many items a run of this length sees, repeats counted."""
    if length.items is not None:
        return length.items
    assert length.flops is not None
    return max(1, int(length.flops / flops_per_item))


def given(recipe: Recipe, num_train: int, items: int) -> dict[str, Value]:
    """What a command may ask for beside the values of its size, files and seed."""
    settings = {k: v for k, v in recipe if isinstance(v, str | int | float)}
    return {
        **settings,
        "num_train": num_train,
        "items": items,
        "epochs": max(1, round(items / num_train)),
        "steps": max(1, round(items / recipe.batch_size)),
    }


def write_files(
    dataset: Dataset, fingerprint: str, subset: Any, keys: Sequence[str]
) -> dict[str, str]:
    """The sets of a run as files: split → path. They lie in the cache; runs share them.

    Args:
        dataset: the data.
        fingerprint: of what is written, labels included.
        subset: the training items.
        keys: what labels of structures are called.
    """
    names = [name for name in SPLITS if name == "train" or len(dataset.indices(name))]
    ending = {"structure": "xyz", "molecule": "csv"}[dataset.unit]

    def write(part: Path) -> None:
        for name in names:
            items = subset if name == "train" else dataset.evaluated(name)
            write_items(dataset, items, part / f"{name}.{ending}", *keys)

    folder = cache.made("files", "-".join((fingerprint, *keys)), write)
    return {name: str(folder / f"{name}.{ending}") for name in names}


def _items(row: Mapping[str, float], num_train: int, batch_size: int) -> int | None:
    """Items seen at a row of the curve: steps or epochs done, or an epoch counted from 0."""
    if "items_seen" in row:
        return int(row["items_seen"])
    if "step" in row:
        return int(row["step"]) * batch_size
    if "epochs" in row:
        return int(row["epochs"] * num_train)
    return int((row["epoch"] + 1) * num_train) if "epoch" in row else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            if process.poll() is None:
                os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_SECONDS)
            return
